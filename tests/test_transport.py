"""Distances between clouds: known values, gradients, limits, bad input."""

import itertools
import os

import pytest
import torch

import diffsim as ds
from diffsim import objectives
from diffsim.errors import DataError, SceneError, SolverError
from diffsim.kernels.arrays import context
from diffsim.transport import chamfer, destinations, sinkhorn, transport

f64_only = pytest.mark.skipif(context.dtype != torch.float64, reason="gradients are compared in f64")
DISTANCES = {
    "chamfer": chamfer,
    "transport": transport,
    "sinkhorn": lambda x, y: sinkhorn(x, y, 0.3, tolerance=1e-12),
}
CLOSE = 1e-9 if context.dtype == torch.float64 else 1e-5


def cloud(count, dim, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, dim, generator=generator, dtype=torch.float64).to(context.dtype)


@f64_only
@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("name", DISTANCES)
def test_the_gradient_is_the_derivative_in_both_clouds(name, dim):
    x, y = cloud(5, dim).requires_grad_(), cloud(6, dim, 1).requires_grad_()
    assert torch.autograd.gradcheck(DISTANCES[name], (x, y), rtol=1e-6, atol=1e-9)


@f64_only
def test_the_gradient_of_weighted_transport_is_the_derivative():
    x, y = cloud(5, 3).requires_grad_(), cloud(4, 3, 1).requires_grad_()
    a, b = torch.linspace(1, 2, 5), torch.linspace(0.5, 3, 4)
    assert torch.autograd.gradcheck(lambda x, y: transport(x, y, a, b), (x, y), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", DISTANCES)
def test_equal_clouds_in_another_order_are_at_distance_zero_with_no_gradient(name):
    x = cloud(12, 3).requires_grad_()
    distance = DISTANCES[name](x, x.detach().flip(0))
    (gradient,) = torch.autograd.grad(distance, x)
    assert float(distance.detach()) == pytest.approx(0, abs=CLOSE)
    assert float(gradient.abs().max()) == pytest.approx(0, abs=10 * CLOSE)


@pytest.mark.parametrize("name", ["transport", "sinkhorn"])
def test_a_shift_costs_its_square_and_is_the_gradient(name):
    x, shift = cloud(10, 3), torch.tensor([0.3, -0.4, 0.5], dtype=context.dtype)
    moved = (x + shift).requires_grad_()
    distance = DISTANCES[name](moved, x)
    (gradient,) = torch.autograd.grad(distance, moved)
    assert float(distance.detach()) == pytest.approx(0.5, rel=10 * CLOSE)
    torch.testing.assert_close(gradient, (2 * shift / 10).expand(10, 3), rtol=0, atol=10 * CLOSE)


def test_chamfer_of_two_points_is_worked_out_by_hand():
    x = torch.tensor([[0.0, 0.0], [1.0, 0.0]], dtype=context.dtype)
    y = torch.tensor([[0.0, 0.5]], dtype=context.dtype)
    assert float(chamfer(x, y)) == pytest.approx((0.25 + 1.25) / 2 + 0.25)


def test_transport_is_the_cheapest_assignment():
    x, y = cloud(6, 2), cloud(6, 2, 1)
    cost = torch.cdist(x, y).square()
    best = min(sum(float(cost[i, j]) for i, j in enumerate(order)) for order in itertools.permutations(range(6)))
    assert float(transport(x, y)) == pytest.approx(best / 6, rel=1e-5)
    doubled = transport(torch.cat([x, x]), y)  # masses are shares, and may be split
    assert float(doubled) == pytest.approx(best / 6, rel=1e-5)


def test_sinkhorn_goes_from_the_distance_of_the_means_to_transport():
    x, y = cloud(20, 3), 0.5 * cloud(20, 3, 1)
    means = float((x.mean(0) - y.mean(0)).square().sum())
    exact = float(transport(x, y))
    values = [float(sinkhorn(x, y, blur, tolerance=1e-6)) for blur in (30.0, 0.5, 0.05)]
    assert means < exact
    assert values[0] == pytest.approx(means, rel=1e-3)
    assert values[2] == pytest.approx(exact, rel=2e-2)
    assert values[0] < values[1] < values[2]


@pytest.mark.parametrize("name", DISTANCES)
def test_threads_change_no_bit(name):
    x, y = cloud(300, 3).requires_grad_(), cloud(200, 3, 1)
    threads, results = torch.get_num_threads(), []
    distance = (lambda x, y: sinkhorn(x, y, 0.3, tolerance=1e-6)) if "sinkhorn" in name else DISTANCES[name]
    try:
        for number in (1, 2, 4):
            torch.set_num_threads(number)
            value = distance(x, y)
            results.append((value, *torch.autograd.grad(value, x)))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


def test_they_are_reached_from_the_objectives_too():
    assert objectives.chamfer is chamfer and ds.objectives.sinkhorn is sinkhorn
    with pytest.raises(AttributeError, match="chamfre"):
        _ = objectives.chamfre


@pytest.mark.parametrize("name", DISTANCES)
def test_clouds_that_do_not_fit_are_refused(name):
    distance = DISTANCES[name]
    with pytest.raises(DataError, match=r"target has shape \(4, 3\); give points \(m, 2\)"):
        distance(cloud(5, 2), cloud(4, 3))
    with pytest.raises(DataError, match=r"x has shape \(0, 2\)"):
        distance(cloud(0, 2), cloud(4, 2))
    bad = cloud(5, 2)
    bad[3, 1] = float("nan")
    with pytest.raises(DataError, match="x: point 3 is not finite"):
        distance(bad, cloud(4, 2))


def test_settings_out_of_range_are_refused():
    with pytest.raises(SceneError, match="blur=0"):
        sinkhorn(cloud(3, 2), cloud(3, 2), 0.0)
    with pytest.raises(SolverError, match=r"sinkhorn: marginals are off by .* raise blur"):
        sinkhorn(cloud(30, 2), cloud(17, 2, 1), 0.05, iterations=1)
    with pytest.raises(DataError, match="mass has shape"):
        transport(cloud(3, 2), cloud(3, 2), mass=torch.ones(2))
    with pytest.raises(DataError, match="none negative"):
        transport(cloud(3, 2), cloud(3, 2), target_mass=torch.tensor([1.0, -1.0, 1.0]))


def test_the_precision_is_that_of_the_cloud():
    assert sinkhorn(cloud(4, 2), cloud(4, 2, 1), 0.3).dtype == context.dtype
    assert os.environ.get("DIFFSIM_TEST_PRECISION", "f64") == context.precision


def test_destinations_are_where_the_plan_takes_each_point():
    x = cloud(12, 2)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    shift = torch.tensor([3.0, -1.0]).to(x)
    torch.testing.assert_close(destinations(x, (x + shift)[order]), x + shift)
    y = cloud(7, 2, 1)
    mass = torch.arange(12) + 0.0
    found = destinations(x, y, mass)
    assert torch.equal(found[0], x[0])  # without mass
    mean = (mass[:, None].to(x) * found).sum(0) / mass.sum()
    torch.testing.assert_close(mean, y.mean(0))
