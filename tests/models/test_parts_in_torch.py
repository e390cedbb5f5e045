"""Materials of several parts in the model: beside laws that torch evaluates, and with states that do not fit."""

import pytest
import torch
from bodies import uniform

import diffsim as ds
from diffsim.kernels.arrays import context

M = ds.materials
TOLERANCE = 1e-12 if context.dtype == torch.float64 else 1e-4


class Torch(torch.nn.Module):
    """A law without kernels: it makes the model evaluate every material in torch."""

    def __init__(self, law):
        super().__init__()
        self.law = law

    def stress(self, F, q, L):
        return self.law.stress(F, q, L)


def moved(*materials):
    """Velocities of a deformed, stirred block of material 0 after a control step."""
    model = ds.models.MPM(ds.Grid((16, 16), 1 / 16), list(materials), dt=1e-3, substeps=4)
    x = 0.3 + 0.3 * torch.stack([uniform(50), uniform(50, seed=1)], 1)
    v = torch.stack([uniform(50, seed=2), uniform(50, seed=3)], 1)
    C = 10 * torch.stack([uniform(50, seed=k) for k in range(4, 8)], 1).reshape(-1, 2, 2)
    return model(model.initial_state(x, v=v, volume=1e-3, C=C)).v


def test_a_viscous_part_acts_beside_a_law_that_torch_evaluates():
    viscous = ds.Material(M.NeoHookean(1e3, 0.3), viscous=M.Newtonian(1.0), density=10.0)
    fused = moved(viscous)
    torch.testing.assert_close(
        moved(viscous, ds.Material(Torch(M.NeoHookean(1e3, 0.3)), density=10.0)), fused, rtol=TOLERANCE, atol=TOLERANCE
    )
    assert (fused - moved(ds.Material(M.NeoHookean(1e3, 0.3), density=10.0))).abs().max() > 1e-3


def test_a_viscous_part_may_be_a_torch_module_in_the_model():
    by_torch = ds.Material(M.NeoHookean(1e3, 0.3), viscous=Torch(M.Newtonian(1.0)), density=10.0)
    fused = moved(ds.Material(M.NeoHookean(1e3, 0.3), viscous=M.Newtonian(1.0), density=10.0))
    torch.testing.assert_close(moved(by_torch), fused, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("names", [("F",), ("x", "v", "C", "F", "volume")])
def test_a_state_of_the_other_precision_is_refused(names):
    model = ds.models.MPM(ds.Grid((16, 16), 1 / 16), [ds.Material(M.NeoHookean(1e3, 0.3), density=10.0)], dt=1e-3)
    state = model.initial_state(torch.full((3, 2), 0.5), volume=1e-3)
    other = torch.float32 if context.dtype == torch.float64 else torch.float64
    with pytest.raises(TypeError, match=f"{names[0]} is {other}.*precision"):
        model(state._replace(**{name: getattr(state, name).to(other) for name in names}))


def test_the_memory_plan_counts_the_nodes_of_scattered_particles():
    model = ds.models.MPM(ds.Grid((200, 200), 1 / 200), [ds.Material(M.NeoHookean(1e3, 0.3), density=10.0)], dt=1e-5)
    dense = 0.4 + 0.05 * torch.stack([uniform(400), uniform(400, seed=1)], 1)
    spread = 0.05 + 0.9 * torch.stack([uniform(400), uniform(400, seed=1)], 1)
    plans = [ds.estimate(model, model.initial_state(x, volume=1e-6), 10) for x in (dense, spread)]
    # an isolated particle has 4 blocks of 16 nodes of 3 numbers for each substep
    assert plans[1].peak_bytes - plans[0].peak_bytes > 300 * 10 * model.substeps * 4 * 16 * 3 * context.dtype.itemsize


def test_a_state_of_a_model_with_other_internal_variables_is_refused():
    def model(plastic):
        return ds.models.MPM(
            ds.Grid((16, 16), 1 / 16), [ds.Material(M.Hencky(1e3, 0.3), plastic, density=10.0)], dt=1e-3
        )

    elastic = model(None)
    state = elastic.initial_state(torch.full((3, 2), 0.5), volume=1e-3)
    with pytest.raises(ds.errors.SceneError, match="0 internal variables.*need 1"):
        model(M.VonMises(1e3, 0.3, 10.0))(state)


def test_a_frictionless_slip_wall_has_one_branch():
    """Its record must not change with the sign of a velocity that is zero but for rounding."""
    simulation = ds.models.MPM(ds.Grid((16, 16), 1 / 16), [ds.Material(M.NeoHookean(1e3, 0.3), density=10.0)], dt=1e-3)
    x = torch.tensor([[0.5, 0.13], [0.6, 0.13]], dtype=context.dtype)
    records = []
    for side in (1.0, -1.0):
        simulation.trace = []
        simulation(simulation.initial_state(x, v=(0.1, side * 1e-3), volume=1e-3))
        records.append([record[0] for record in simulation.trace])
    assert records[0] == records[1] != [0] * len(records[0])
