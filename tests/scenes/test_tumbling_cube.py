"""The tumbling cube against the published implementation's trajectories, and its laws."""

import pytest
import torch

import diffsim as ds
from diffsim.errors import SceneError
from diffsim.objectives import center_of_mass

# center of mass [m] after 100 steps (measured with the implementation of the study, in f32), kinetic energy [J]
PUBLISHED = {
    "jelly": (0.54976, 0.41389, 0.40211, 596.8),
    "plasticine": (0.54977, 0.41397, 0.40228, 604.7),
    "sand": (0.54959, 0.41483, 0.40352, 562.6),
    "water": (0.54981, 0.41353, 0.40145, 645.9),
}


@pytest.mark.parametrize("material", PUBLISHED)
def test_the_cube_moves_as_published(material):
    scene = ds.load("tumbling_cube", material=material, steps=100, every=100)
    with torch.no_grad():
        path = scene.rollout()
    *center, energy = PUBLISHED[material]
    assert len(path[0].x) == 1000 and path[0].volume[0].item() == pytest.approx(1.25e-4)
    assert center_of_mass(path[-1]).tolist() == pytest.approx(center, abs=3e-5)
    assert scene.measure(path)["kinetic energy"] == pytest.approx(energy, rel=1e-3)


def test_another_material_is_refused():
    with pytest.raises(SceneError, match="material is 'steel'"):
        ds.load("tumbling_cube", material="steel")
