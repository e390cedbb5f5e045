"""Constraints: their values and gradients, and that the augmented Lagrangian ends at the constrained minimum."""

import math
from pathlib import Path

import pytest
import torch

import diffsim as ds
from diffsim import constraints, objectives
from diffsim.checks import check_variables
from diffsim.constraints import AugmentedLagrangian, force_limits, no_collision, no_spill
from diffsim.errors import DataError, SceneError
from diffsim.kernels.arrays import context
from diffsim.models.tools import initial_pose
from diffsim.optimize import optimize
from diffsim.scripts import load

PROJECTILE = Path(__file__).with_name("projectile.py")
f64_only = pytest.mark.skipif(context.dtype != torch.float64, reason="gradients are compared in f64")


class Frame:
    def __init__(self, x, pose):
        self.x, self.pose = x, pose


def numbers(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(*shape, generator=generator, dtype=torch.float64) - 0.5).to(context.dtype)


# --- objectives of motion and forces


def test_the_jerk_of_a_cubic_is_constant_and_that_of_a_parabola_zero():
    t = 0.1 * torch.arange(8, dtype=context.dtype)[:, None, None]
    assert float(objectives.mean_squared_jerk(2 * t**3, 0.1)) == pytest.approx(144, rel=1e-3)
    assert float(objectives.mean_squared_jerk(t**2, 0.1)) == pytest.approx(0, abs=1e-3)
    assert float(objectives.mean_squared_jerk(3 * t**2, 0.1, order=2)) == pytest.approx(36, rel=1e-3)  # of velocities
    assert float(objectives.mean_squared_jerk(t[:3], 0.1)) == 0
    with pytest.raises(SceneError, match="order=0"):
        objectives.mean_squared_jerk(t, 0.1, order=0)


def test_only_what_exceeds_a_limit_counts():
    wrench = torch.zeros(2, 1, 6, dtype=context.dtype)
    wrench[0, 0, :3] = torch.tensor([3.0, 0.0, 4.0])
    wrench[1, 0, 3:] = torch.tensor([0.0, 0.3, 0.0])
    assert float(objectives.wrench_excess(wrench, force=5.0, torque=0.3)) == pytest.approx(0, abs=1e-9)
    assert float(objectives.wrench_excess(wrench, force=2.5)) == pytest.approx(1 / 2)
    assert float(objectives.wrench_excess(wrench, torque=0.1)) == pytest.approx(4 / 2, rel=1e-5)
    assert float(objectives.mean_squared_velocity(wrench[..., :3], 1.0)) == pytest.approx((4 + 1 + 9 + 3) / 2)
    with pytest.raises(SceneError, match="force=-1"):
        objectives.wrench_excess(wrench, force=-1.0)


@f64_only
@pytest.mark.parametrize("name", ["jerk", "wrench", "velocity"])
def test_gradients_of_the_objectives_are_derivatives(name):
    functions = {
        "jerk": lambda v: objectives.mean_squared_jerk(v, 0.5),
        "wrench": lambda v: objectives.wrench_excess(v, 0.4, 0.3),  # exceeded by some, not by others
        "velocity": lambda v: objectives.mean_squared_velocity(v, 0.2),
    }
    values = numbers(6, 3, 6).requires_grad_()
    assert torch.autograd.gradcheck(functions[name], values, rtol=1e-6, atol=1e-9)
    share = (values[..., :3].norm(dim=-1) > 0.4).double().mean()
    assert 0.1 < share < 0.9


# --- constraints


def test_particles_outside_the_box_violate_by_how_far_they_are():
    x = torch.tensor([[0.5, 0.5], [1.2, 0.5]], dtype=context.dtype)
    g = no_spill(x, (0.0, 0.0), (1.0, 2.0))
    assert g.shape == (2, 4)
    assert (g[0] < 0).all() and g[1].max().item() == pytest.approx(0.1)  # 0.2 m of a box of 2 m
    with pytest.raises(SceneError, match="make no box"):
        no_spill(x, (0.0, 0.0), (1.0, 0.0))


def spheres(gap):
    far = 0.2 + gap
    tools = [ds.Tool(ds.Sphere(0.1)), ds.Tool(ds.Sphere(0.1), pose=((far, 0.0, 0.0), (0.9, 0.1, 0.3, 0.2)))]
    return tools, [torch.tensor(tool.shape.mesh().vertices).to(context.dtype) for tool in tools]


@pytest.mark.parametrize("gap", [0.03, -0.03])
def test_the_gap_between_two_spheres_is_found_from_their_surface_points(gap):
    tools, points = spheres(gap)
    frame = Frame(numbers(1, 3), initial_pose(tools, context.dtype))
    g = no_collision(frame, tools, points)
    assert len(g) == 2 * len(points[0])
    assert float(g.max()) * 0.1 == pytest.approx(-gap, abs=2e-3)
    closer = no_collision(frame, tools, points, clearance=0.05)
    torch.testing.assert_close(closer, g + 0.5)
    with pytest.raises(SceneError, match="1 sets of points for 2 tools"):
        no_collision(frame, tools, points[:1])
    with pytest.raises(SceneError, match="no pair of tools"):
        no_collision(frame, tools, [None, None])


@f64_only
@pytest.mark.parametrize("name", ["spill", "collision", "force"])
def test_gradients_of_the_constraints_are_derivatives(name):
    tools, points = spheres(0.01)
    points = [part[::20] for part in points]
    functions = {
        "spill": (lambda x: no_spill(x, (-0.2, -0.2, -0.2), (0.2, 0.3, 0.2)), numbers(6, 3)),
        "collision": (
            lambda pose: no_collision(Frame(numbers(1, 3), pose), tools, points),
            initial_pose(tools) + 0.01 * numbers(2, 7),
        ),
        "force": (lambda wrench: force_limits(wrench, 0.4, 0.3), numbers(4, 2, 6)),
    }
    function, at = functions[name]

    def loss(value):
        lagrangian = AugmentedLagrangian(7.0)
        lagrangian.multipliers = {"g": numbers(*function(at).shape, seed=1).abs()}
        return lagrangian.term({"g": function(value)})

    assert torch.autograd.gradcheck(loss, at.clone().requires_grad_(), rtol=1e-6, atol=1e-9)


def test_forces_are_held_against_their_limits():
    wrench = torch.tensor([[3.0, 0.0, 4.0, 0.0, 0.3, 0.0]], dtype=context.dtype)
    assert force_limits(wrench, force=5.0).item() == pytest.approx(0, abs=1e-6)
    assert force_limits(wrench, 2.5, 0.1).tolist() == [pytest.approx([3.0, 8.0], rel=1e-5)]
    with pytest.raises(SceneError, match="at least one positive limit"):
        force_limits(wrench)


# --- the method


def test_the_multiplier_of_a_bound_is_the_slope_of_the_objective_there():
    """min (a - 3)^2 subject to a <= 1: a = 1 and lambda = -f'(1) = 4."""
    a = torch.tensor(0.0, dtype=torch.float64, requires_grad=True)
    lagrangian = AugmentedLagrangian(rho=5.0)
    for _ in range(40):
        for _ in range(60):
            loss = (a - 3) ** 2 + lagrangian.term({"bound": a[None] - 1})
            (slope,) = torch.autograd.grad(loss, a)
            with torch.no_grad():
                a -= 0.1 * slope
        lagrangian.update({"bound": a.detach()[None] - 1})
    assert a.item() == pytest.approx(1, abs=1e-6)
    assert lagrangian.multipliers["bound"].item() == pytest.approx(4, abs=1e-5)


def test_an_optimized_motion_keeps_to_its_constraint():
    free = optimize(load(PROJECTILE), iterations=60)
    settings = {"iterations": 120, "lr": 1.0, "every": 20}
    held = optimize(load(PROJECTILE, ceiling=1.5), method="augmented_lagrangian", **settings)
    worst = [record["violation"] for record in held.history]
    scene = load(PROJECTILE, ceiling=1.5)
    scene.variables["push"].data.copy_(free.variables["push"])
    with torch.no_grad():
        unheld = scene.measure(scene.rollout())["violation"]
    best = min(held.history, key=lambda record: (record["loss"] != held.loss, record["evaluation"]))
    assert unheld > 0.4  # the target is half a meter above the ceiling
    assert best["violation"] < 0.01 < max(worst)
    penalty = optimize(load(PROJECTILE, ceiling=1.5), method="adam", iterations=120, lr=1.0)
    loosest = next(record for record in penalty.history if record["loss"] == penalty.loss)
    assert loosest["violation"] > 2 * best["violation"]


@f64_only
def test_the_gradient_of_a_scene_with_constraints_passes_its_check():
    scene = load(PROJECTILE, ceiling=-1.0)
    scene.lagrangian.multipliers = {"ceiling": torch.linspace(0, 2, 4, dtype=torch.float64)}
    (row,) = check_variables(scene, 3)
    assert row.difference < 1e-6


def test_what_makes_no_sense_is_refused():
    with pytest.raises(SceneError, match="has no constraints"):
        optimize(load(PROJECTILE), method="augmented_lagrangian")
    with pytest.raises(SceneError, match="growth=0.5"):
        optimize(load(PROJECTILE, ceiling=1.0), method="augmented_lagrangian", growth=0.5)
    scene = load(PROJECTILE)
    scene.constraints = {"height": lambda path: 3.0}
    with pytest.raises(SceneError, match="constraint 'height' must return a tensor, not float"):
        optimize(scene)
    scene.constraints = {"height": lambda path: path.y}
    with pytest.raises(SceneError, match=r"test_constraints\.py:\d+: constraint 'height' raised AttributeError"):
        optimize(scene)
    lagrangian = AugmentedLagrangian()
    lagrangian.update({"g": torch.zeros(3)})
    with pytest.raises(DataError, match=r"'g' has shape \(2,\), and had \(3,\)"):
        lagrangian.term({"g": torch.zeros(2)})


def test_no_violation_of_nothing():
    assert constraints.violation({}) == 0 and math.isfinite(constraints.violation({"g": -torch.ones(2)}))


def test_multipliers_are_forgotten_by_the_next_optimization():
    scene = load(PROJECTILE, ceiling=1.5)
    start = {name: value.detach().clone() for name, value in scene.parameters().items()}
    fresh = optimize(scene, method="adam", iterations=1).history[0]["loss"]
    with torch.no_grad():
        for name, value in scene.parameters().items():
            value.copy_(start[name])
    scene.lagrangian.multipliers = {"ceiling": torch.full_like(scene.constraint_values["ceiling"], 100.0)}  # of a run
    with torch.no_grad():
        for name, value in scene.parameters().items():
            value.copy_(start[name])
    assert optimize(scene, method="adam", iterations=1).history[0]["loss"] == fresh


def first_loss(scene, **options):
    with torch.no_grad():
        scene.variables["push"].zero_()
    return optimize(scene, iterations=2, **options).history[0]["loss"]


def test_a_penalty_that_was_set_holds_for_every_optimization_and_one_that_grew_does_not():
    plain = first_loss(load(PROJECTILE, ceiling=-1.0), method="adam")
    scene = load(PROJECTILE, ceiling=-1.0)
    scene.lagrangian.rho = 50.0
    stiff = first_loss(scene, method="adam")
    free = first_loss(load(PROJECTILE), method="adam")
    assert stiff - free == pytest.approx(5 * (plain - free), rel=1e-3)  # of a default of 10
    growing = {"method": "augmented_lagrangian", "every": 1, "reduction": 0.0, "growth": 7.0}
    assert first_loss(scene, **growing) == stiff
    assert scene.lagrangian.rho > 50
    assert first_loss(scene, method="adam") == stiff
    assert first_loss(scene, rho=10.0, **growing) == plain
    with pytest.raises(SceneError, match="rho is -1"):
        scene.lagrangian.rho = -1.0


def test_multipliers_follow_from_the_iterate_not_from_a_probe_of_its_hessian():
    pytest.importorskip("pytorch_optimizer")
    scene = load(PROJECTILE, ceiling=-1.0)
    with torch.no_grad():
        scene.loss(scene.rollout())
    wanted = 10.0 * scene.constraint_values["ceiling"].clamp_min(0)
    settings = {"every": 1, "optimizer": "sophia", "hessian_period": 1, "probe": 0.5, "lr": 1e-9, "weight_decay": 0.0}
    optimize(scene, "augmented_lagrangian", iterations=1, **settings)
    assert torch.allclose(scene.lagrangian.multipliers["ceiling"], wanted, rtol=1e-6)
