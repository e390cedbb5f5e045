"""Plane strain for laws that are written in 3-D: the spatial F of a planar one, and back."""

import torch


def spatial(F, q=None):
    """F (n, 3, 3) of a planar F (n, 2, 2): F33 is q[:, 0], or 1 where q has no column. A spatial F is returned."""
    if F.shape[-1] == 3:
        return F
    out_of_plane = F.new_ones(len(F)) if q is None or q.shape[1] == 0 else q[:, 0]
    zero = F.new_zeros(len(F), 2, 1)
    last = torch.cat([F.new_zeros(len(F), 2), out_of_plane[:, None]], 1)
    return torch.cat([torch.cat([F, zero], 2), last[:, None]], 1)


def in_plane(A, d: int):
    """The first d x d entries of A (n, 3, 3)."""
    return A if d == 3 else A[:, :2, :2]
