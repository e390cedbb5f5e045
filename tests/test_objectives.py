"""Objectives: values that are known, gradients, sums that no thread count changes."""

import math

import pytest
import torch
import trimesh

import diffsim as ds
from diffsim import objectives
from diffsim.errors import DataError, SceneError
from diffsim.kernels.arrays import context
from diffsim.models.tools import initial_pose
from diffsim.objectives import DensityTarget, total

GRID = {2: ds.Grid((16, 16), 1 / 16), 3: ds.Grid((12, 12, 12), 1 / 12)}
ROUNDING = 1e-12 if context.dtype == torch.float64 else 1e-4
f64_only = pytest.mark.skipif(context.dtype != torch.float64, reason="gradients are compared in f64")


class Frame:
    """What objectives read of a state."""

    def __init__(self, x, v=None, pose=None, volume=None):
        self.x, self.v, self.pose = x, v, pose
        self.volume = x.new_ones(len(x)) if volume is None else volume


def cloud(count, dim, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (0.3 + 0.4 * torch.rand(count, dim, generator=generator, dtype=torch.float64)).to(context.dtype)


def tools(dim=3):
    """A tool of every kind of distance, in a pose without symmetry."""
    turn = (0.9, 0.1, -0.2, 0.3) if dim == 3 else (0.9, 0.0, 0.0, 0.3)
    ball = trimesh.creation.icosphere(subdivisions=2, radius=0.1).apply_scale((1.0, 0.7, 1.3))
    shapes = [ds.Sphere(0.1), ds.Box((0.1, 0.05, 0.2)), ds.Cylinder(0.1, 0.15), ds.MeshSDF(ball, resolution=12)]
    return [ds.Tool(shape, pose=((0.2 * i, 0.3, 0.5), turn)) for i, shape in enumerate(shapes)]


@pytest.mark.parametrize("count", [1, 2, 7, 100_001])
def test_a_total_is_the_sum_and_its_bits_do_not_depend_on_torch_threads(count):
    values = cloud(count, 3) - 0.5
    threads = torch.get_num_threads()
    results = []
    try:
        for number in (1, 2, 4):
            torch.set_num_threads(number)
            results.append((total(values), *total(values, 0), *total(values, 1)[:3]))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(torch.stack(results[0]), torch.stack(other)) for other in results[1:])
    assert float(total(values)) == pytest.approx(math.fsum(values.flatten().tolist()), abs=1e-9 * count + ROUNDING)
    torch.testing.assert_close(objectives.mean(values, 0), values.mean(0), rtol=1e-3, atol=ROUNDING)


def test_the_mean_squared_distance_of_a_shift_is_its_square():
    x = cloud(5, 3)
    shift = torch.tensor([0.3, -0.4, 1.2], dtype=context.dtype)
    for values in (x, x.expand(4, 5, 3)):  # a frame, and a trajectory
        assert float(objectives.mean_squared_distance(values + shift, x)) == pytest.approx(1.69, rel=1e-5)
    with pytest.raises(DataError, match="target has shape"):
        objectives.mean_squared_distance(x, cloud(6, 3))


def test_center_of_mass_and_mean_velocity_weigh_by_mass():
    x = torch.tensor([[0.0, 0.0], [1.0, 2.0]], dtype=context.dtype)
    frame = Frame(x, 10 * x, volume=x.new_tensor([1.0, 1.0]))
    assert objectives.center_of_mass(frame).tolist() == [0.5, 1.0]
    assert objectives.mean_velocity(frame, x.new_tensor([1.0, 3.0])).tolist() == [7.5, 15.0]


def test_energy_and_smoothness_of_controls():
    controls = torch.tensor([0.0, 2.0, 4.0], dtype=context.dtype).reshape(3, 1, 1).expand(3, 2, 6)
    assert float(objectives.control_energy(controls)) == pytest.approx(20 / 3)
    assert float(objectives.control_smoothness(controls)) == pytest.approx(4.0)
    assert float(objectives.control_smoothness(controls[:1])) == 0.0


@pytest.mark.parametrize("scale", [1.0, 40.0])
def test_the_distance_to_a_mesh_is_that_of_its_shape_near_and_far(scale):
    """Far outside its samples too, where it must stay an upper bound within the size of the sampled box."""
    sphere = trimesh.creation.icosphere(subdivisions=4, radius=0.1)
    x = scale * (cloud(50, 3) - 0.5)
    pair = [ds.Tool(ds.Sphere(0.1)), ds.Tool(ds.MeshSDF(sphere, resolution=24))]
    exact, sampled = objectives.tool_gaps(Frame(x, pose=initial_pose(pair)), pair).unbind(1)
    near = exact < 0.015
    torch.testing.assert_close(sampled[near], exact[near], rtol=0, atol=1e-3)
    assert (sampled > exact - 1e-3).all() and (sampled < exact + 0.05 + 0.02 * exact).all()


@f64_only
@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("sharpness", [None, 1e2], ids=["exact minimum", "soft minimum"])
def test_the_gradient_of_the_tool_distance_is_its_derivative(dim, sharpness):
    some = tools(dim)
    x, pose = cloud(9, dim).requires_grad_(), initial_pose(some).requires_grad_()

    def distance(x, pose):
        return objectives.tool_distance(Frame(x, pose=pose), some, sharpness)

    assert distance(x, pose) > 0
    assert torch.autograd.gradcheck(distance, (x, pose), rtol=1e-6, atol=1e-9)


def test_the_tool_distance_is_zero_where_every_tool_touches():
    some = [ds.Tool(ds.Sphere(0.1), pose=((0.5, 0.5, 0.5), (1, 0, 0, 0)))]
    pose = initial_pose(some)
    touching, apart = torch.full((2, 3), 0.5, dtype=context.dtype), torch.full((2, 3), 0.9, dtype=context.dtype)
    assert float(objectives.tool_distance(Frame(touching, pose=pose), some)) == 0
    gap = 0.4 * math.sqrt(3) - 0.1
    for sharpness in (None, 1e4):
        assert float(objectives.tool_distance(Frame(apart, pose=pose), some, sharpness)) == pytest.approx(
            gap**2, rel=1e-5
        )
    with pytest.raises(SceneError, match="sharpness"):
        objectives.tool_distance(Frame(apart, pose=pose), some, -1.0)


@pytest.mark.parametrize("dim", [2, 3])
def test_the_score_is_zero_at_the_start_and_one_on_the_target(dim):
    x = cloud(300, dim)
    target = DensityTarget(GRID[dim], x + 0.1, 2.0)
    start, there = target.density(x, 2.0), target.density(x + 0.1, 2.0)
    half = target.density(x + 0.05, 2.0)
    assert float(target.score(start, start)) == 0
    assert float(target.score(there, start)) == 1
    assert 0 < float(target.score(half, start)) < 1
    assert float(target.mismatch(there)) == 0
    assert float(target.distance(there)) == 0
    assert float(target.distance(start)) > float(target.distance(half)) > 0


def test_the_score_does_not_depend_on_the_unit_of_mass():
    x = cloud(200, 2)
    scores = []
    for mass in (1.0, 1e-4):
        target = DensityTarget(GRID[2], x + 0.1, mass)
        scores.append(float(target.score(target.density(x + 0.05, mass), target.density(x, mass))))
    assert scores[0] == pytest.approx(scores[1], rel=1e-4)


def test_equal_densities_of_zeros_and_ones_overlap_fully_and_disjoint_ones_not_at_all():
    a = torch.zeros(8, dtype=context.dtype)
    a[:3] = 5.0
    assert float(objectives.soft_iou(a, a)) == pytest.approx(1.0)
    assert float(objectives.soft_iou(a, a.flip(0))) == 0.0
    assert float(objectives.soft_iou(a, torch.ones_like(a))) == pytest.approx(3 / 8)


def test_the_distance_field_is_euclidean_and_counts_from_the_nearest_node_inside():
    point = torch.full((1, 2), 0.5, dtype=context.dtype)
    target = DensityTarget(GRID[2], point, 1.0, threshold=0.2)  # 0.5 is a node: it alone holds 9/16
    assert float(target.field[8, 8]) == 0
    assert float(target.field[8 + 3, 8 - 4]) == pytest.approx(5 / 16)


@f64_only
@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("name", ["mismatch", "distance", "overlap"])
def test_gradients_of_the_density_terms_are_derivatives(dim, name):
    x = cloud(20, dim)
    target = DensityTarget(GRID[dim], cloud(20, dim, seed=1), 1.0, threshold=1e-3)
    mass = torch.linspace(0.5, 1.5, 20, dtype=context.dtype).requires_grad_()

    def term(x, mass):
        return getattr(target, name)(target.density(x, mass))

    assert torch.autograd.gradcheck(term, (x.requires_grad_(), mass), rtol=1e-6, atol=1e-9)


def test_a_target_that_cannot_be_scored_is_refused():
    x = cloud(20, 2)
    with pytest.raises(DataError, match="threshold"):
        DensityTarget(GRID[2], x, 1.0, threshold=100.0)
    target = DensityTarget(GRID[2], x, 1.0)
    with pytest.raises(DataError, match="move one of them"):
        target.score(target.mass, target.mass)
