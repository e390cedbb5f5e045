"""What holds and loads a body: prescribed nodes, forces on faces and nodes."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from diffsim.errors import SceneError
from diffsim.kernels.arrays import context


@dataclass(frozen=True, eq=False)
class Prescribed:
    """Nodes whose motion is given.

    Args:
        nodes: indices (k,).
        motion: callable (X, t) -> positions (k, d) [m] at time t [s], X (k, d) the rest positions; differentiable in
            what it closes over. None: the nodes stay where they are, or move with the velocities of the controls.
        axes: which coordinates are held, such as (1,) for rollers on a floor; all when None.
    """

    nodes: np.ndarray
    motion: Callable | None = None
    axes: tuple[int, ...] | None = None


class Support:
    """The prescribed parts of a body with ``count`` nodes in ``dim`` dimensions.

    Attributes:
        held: (count, dim) bool. driven: nodes that controls move, in the order of the controls' rows.
    """

    def __init__(self, parts, count: int, dim: int):
        self.held, self.parts = torch.zeros(count, dim, dtype=torch.bool), []
        for number, part in enumerate(_as_parts(parts)):
            nodes = np.asarray(part.nodes)
            whole = np.issubdtype(nodes.dtype, np.integer)
            nodes = torch.from_numpy(nodes.astype(np.int64).reshape(-1)) if whole else torch.empty(0)
            if not len(nodes) or nodes.min() < 0 or nodes.max() >= count or len(nodes.unique()) < len(nodes):
                raise SceneError(
                    f"prescribed, part {number}: give distinct nodes between 0 and {count - 1}, at least one, as whole "
                    "numbers"
                )
            axes = range(dim) if part.axes is None else part.axes
            if not len(axes) or any(axis not in range(dim) for axis in axes):
                raise SceneError(f"prescribed, part {number}: axes={part.axes}; give some of {tuple(range(dim))}")
            mask = torch.zeros(dim, dtype=torch.bool)
            mask[list(axes)] = True
            if self.held[nodes][:, mask].any():
                raise SceneError(f"prescribed, part {number}: a node is held twice along the same axis")
            self.held[nodes] |= mask
            self.parts.append((nodes, part.motion, mask))
        driven = [nodes for nodes, motion, _ in self.parts if motion is None]
        self.driven = torch.cat(driven) if driven else torch.empty(0, dtype=torch.int64)

    def positions(self, x: Tensor, X: Tensor, time: float, control: Tensor | None, dt: float) -> Tensor:
        """x (n, d) with the held coordinates at time ``time``; control (k, d) [m/s], or None.

        Raises:
            SceneError: a control of another shape, or a motion that returns something else.
        """
        if control is not None and control.shape != (len(self.driven), x.shape[1]):
            raise SceneError(
                f"control has shape {tuple(control.shape)}; expected {(len(self.driven), x.shape[1])}, a velocity for "
                "each prescribed node without a motion of its own"
            )
        row = 0
        for number, (nodes, motion, mask) in enumerate(self.parts):
            if motion is not None:
                values = torch.as_tensor(motion(X[nodes], time)).to(x)
                if values.shape != (len(nodes), x.shape[1]):
                    raise SceneError(
                        f"prescribed, part {number}: the motion returned {tuple(values.shape)} for {len(nodes)} nodes; "
                        f"return positions of shape {(len(nodes), x.shape[1])}"
                    )
            else:
                values = x[nodes]
                if control is not None:
                    values = values + dt * control[row : row + len(nodes)].to(x)
                row += len(nodes)
            x = x.index_copy(0, nodes, torch.where(mask, values, x[nodes]))
        return x


def _as_parts(given) -> list[Prescribed]:
    """The option ``prescribed`` as a list of parts."""
    if given is None:
        return []
    if isinstance(given, Prescribed):
        return [given]
    if isinstance(given, list | tuple):
        if all(isinstance(part, Prescribed) for part in given):
            return list(given)
        if isinstance(given, tuple) and len(given) == 2 and callable(given[1]):  # (indices, callable)
            return [Prescribed(*given)]
        for number, part in enumerate(given):
            if isinstance(part, Prescribed | tuple | list) or callable(part) or np.ndim(part):
                raise SceneError(
                    f"prescribed: entry {number} of the list is a {type(part).__name__}; give indices of nodes, a pair "
                    "(nodes, motion), or several parts as [ds.models.Prescribed(nodes, motion), ...]"
                )
    return [Prescribed(given)]


def face_weights(count: int, dim: int) -> list[float]:
    """Shares of a uniform load on a straight face that go to its nodes: linear or quadratic edges and triangles."""
    known = {(2, 2): [1 / 2] * 2, (2, 3): [1 / 6, 1 / 6, 2 / 3], (3, 3): [1 / 3] * 3, (3, 6): [0.0] * 3 + [1 / 3] * 3}
    if (dim, count) not in known:
        raise SceneError(f"a face has {count} nodes in {dim} dimensions; give rows of mesh.surface()")
    return known[dim, count]


def face_areas(X: Tensor, faces: Tensor) -> Tensor:
    """Lengths or areas (f,) of faces by their corners."""
    corners = X[faces[:, : X.shape[1]]]
    first = corners[:, 1] - corners[:, 0]
    if X.shape[1] == 2:
        return first.norm(dim=1)
    return torch.linalg.cross(first, corners[:, 2] - corners[:, 0]).norm(dim=1) / 2


def traction_load(X: Tensor, faces, traction: Tensor) -> Tensor:
    """Nodal forces (n, d) [N] of a dead traction (d,) or (f, d) [Pa] on rest faces (f, k), differentiable."""
    faces = torch.as_tensor(np.asarray(faces))
    weights = torch.tensor(face_weights(faces.shape[1], X.shape[1]), dtype=context.dtype)
    total = face_areas(X, faces)[:, None] * torch.as_tensor(traction).to(X)
    shares = (total[:, None] * weights[:, None]).reshape(-1, X.shape[1])
    return torch.zeros_like(X).index_add(0, faces.reshape(-1), shares)


def nodal_load(X: Tensor, time: float, weight: Tensor, gravity: Tensor, body_force, tractions, forces) -> Tensor:
    """All loads on the nodes (n, d) [N] at a time.

    Args:
        weight: of a load per unit mass (n,) [kg]. gravity: (n, d) [m/s^2].
        body_force, tractions, forces: options of ``Deformable``.
    """
    acceleration = gravity
    if body_force is not None:
        acceleration = acceleration + torch.as_tensor(body_force(X, time)).to(X)
    load = weight[:, None] * acceleration
    for faces, traction in tractions:
        load = load + traction_load(X, faces, traction(time) if callable(traction) else traction)
    if forces is not None:
        load = load + torch.as_tensor(forces(X, time) if callable(forces) else forces).to(X)
    return load
