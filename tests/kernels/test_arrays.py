"""Launches: what Taichi would compute wrongly is refused, and repeated launches see each call's own arguments."""

import pytest
import torch

from diffsim.kernels import direct
from diffsim.kernels.arrays import Integers, Rows, Scalars, Vectors, context, launch
from diffsim.kernels.lang import ti


class Add:
    sign = 1


class Subtract:
    sign = -1


@ti.kernel
def combine(x: Rows, rows: Vectors, index: Integers, factor: float, shift: int, spec: ti.template(), out: Scalars):
    for p in range(x.shape[0]):
        out[p] = factor * x[p, 0] + spec.sign * rows[index[p]].sum() + shift


def arguments(count, width, spec=Add, factor=2.0, shift=0):
    x = torch.arange(2.0 * count, dtype=context.dtype).reshape(count, 2)
    rows = torch.arange(float(width), dtype=context.dtype).repeat(3, 1)
    index = torch.arange(count, dtype=torch.int32) % 3
    return [x, rows, index, factor, shift, spec, torch.zeros(count, dtype=context.dtype)]


@pytest.mark.parametrize(
    "count, width, spec, factor, shift", [(4, 2, Add, 2.0, 0), (7, 3, Add, 0.5, 3), (5, 2, Subtract, 2, -1)] * 2
)
def test_a_launch_takes_the_sizes_numbers_and_templates_of_its_call(count, width, spec, factor, shift):
    given = arguments(count, width, spec, factor, shift)
    launch(combine, *given)
    expected = factor * given[0][:, 0] + spec.sign * width * (width - 1) / 2 + shift
    assert torch.equal(given[-1], expected)


def test_a_direct_launch_equals_an_ordinary_one(monkeypatch):
    results = []
    for available in (direct.AVAILABLE, False):
        monkeypatch.setattr("diffsim.kernels.arrays.AVAILABLE", available)
        given = arguments(6, 2)
        launch(combine, *given)
        results.append(given[-1])
    assert torch.equal(*results)


@pytest.mark.parametrize(
    "position, wrong, message",
    [
        (0, lambda t: t.to(torch.float16), "float16"),
        (0, lambda t: t.T, "not contiguous"),
        (2, lambda t: t.long(), "int64"),
        pytest.param(
            6,
            lambda t: t.to(torch.int32),
            "takes floats",
            marks=pytest.mark.skipif(not direct.AVAILABLE, reason="the language compiles a kernel of integers instead"),
        ),
        (6, lambda t: t.reshape(-1, 1), "argument 6|indices of dim"),
    ],
)
def test_a_wrong_argument_is_refused_before_and_after_the_kernel_has_run(position, wrong, message):
    if wrong(torch.zeros(1, 1)).dtype == torch.int32 and context.device != "cpu":
        pytest.skip("the language compiles a kernel of integers instead")
    for warm in (False, True):
        given = arguments(6, 4 + position)
        if warm:
            launch(combine, *given)
        given[position] = wrong(given[position])
        with pytest.raises(Exception, match=message):  # the language's own where it refuses first
            launch(combine, *given)


def test_a_tensor_that_requires_a_gradient_gets_none_from_a_launch():
    given = arguments(4, 2)
    given[0].requires_grad_()
    launch(combine, *given)
    assert given[0].grad is None
