"""Subdivision of surfaces: conforming, down to a length, and linear in the vertices."""

import numpy as np
import pytest
import trimesh

from diffsim.geometry.refine import refined
from diffsim.geometry.surface import as_sheet, sheet


@pytest.mark.parametrize("length", [0.9, 0.4, 0.21, 0.05])
def test_a_refined_surface_is_conforming_and_the_same_surface(length):
    V, F = sheet((3, 2), (1.0, 3.0))
    W, faces, fine = refined(V, F, length, 100_000)
    x = W @ V
    assert fine and (x[: len(V)] == V).all() and np.abs(W.sum(1) - 1).max() < 1e-15
    vertices, faces = as_sheet((x, faces))  # refuses cracks that overlap, flat faces, and normals that disagree
    normals = np.cross(x[faces[:, 1]] - x[faces[:, 0]], x[faces[:, 2]] - x[faces[:, 0]])
    assert (normals[:, 2] > 0).all() and normals[:, 2].sum() / 2 == pytest.approx(3.0)
    edges = x[faces] - x[np.roll(faces, 1, axis=1)]
    assert np.linalg.norm(edges, axis=2).max() <= length
    assert len(vertices) - len(np.unique(np.sort(np.stack([faces, np.roll(faces, -1, 1)], -1).reshape(-1, 2), 1),
                                         axis=0)) + len(faces) == 1  # Euler: a disk without cracks  # fmt: skip


def test_a_closed_surface_stays_closed():
    box = trimesh.creation.box((1.0, 2.0, 0.3))
    W, faces, _ = refined(box.vertices, box.faces, 0.25, 100_000)
    found = trimesh.Trimesh(W @ box.vertices, faces, process=False)
    assert found.is_watertight and found.is_winding_consistent and found.volume == pytest.approx(0.6)


def test_lines_are_halved_and_too_many_cells_are_left_out():
    W, edges, fine = refined(np.array([[0.0, 0.0], [1.0, 2.0]]), np.array([[0, 1]]), 0.6, 100)
    x = W @ np.array([[0.0, 0.0], [1.0, 2.0]])
    assert fine and len(edges) == 4 and np.allclose(np.linalg.norm(x[edges[:, 1]] - x[edges[:, 0]], axis=1), 5**0.5 / 4)
    W, faces, fine = refined(*sheet((1, 1), (100.0, 100.0)), 0.1, 1000)
    assert not fine and 250 < len(faces) <= 1000
