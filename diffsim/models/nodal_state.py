"""The state of a body of nodes, and what it starts from."""

from typing import NamedTuple

import torch
from torch import Tensor

from diffsim.errors import DataError


class NodalState(NamedTuple):
    """Everything that a step reads and writes.

    x: position [m], (n, d). v: velocity [m/s], (n, d). a: acceleration [m/s^2] of the last step, (n, d). past: where
    the last step began, of BDF2 the velocity there too, (n, 1 or 2, d). X: rest position [m], (n, d). time: [s].
    interval: length of the last step [s], scalar; 0 where none led here, but a start or a static solve. q: internal
    variables of a plastic body (``plastic_flow``), a row per quadrature point; (0, 0) of others.
    """

    x: Tensor
    v: Tensor
    a: Tensor
    past: Tensor
    X: Tensor
    time: Tensor
    interval: Tensor
    q: Tensor


def at_start(rest: Tensor, x, v, X) -> list[Tensor]:
    """x, v, X as (n, d) tensors from what a user gives; None: the rest positions.

    Raises:
        DataError: shapes that do not fit, or values that are not finite.
    """
    X, values = rest if X is None else X, []
    for key, value in (("x", X if x is None else x), ("v", v), ("X", X)):
        value = torch.as_tensor(value).to(rest.dtype)
        try:
            value = value.expand(rest.shape) if value.shape != rest.shape else value
        except RuntimeError:
            raise DataError(f"initial_state: {key} has shape {tuple(value.shape)}; expected {rest.shape}") from None
        if not torch.isfinite(value).all():
            raise DataError(f"initial_state: {key} is not finite at node {first_bad(value)}")
        values.append(value.contiguous())
    return values


def first_bad(value: Tensor) -> int:
    """Index of the first row that is not finite."""
    return int((~torch.isfinite(value)).nonzero()[0][0])
