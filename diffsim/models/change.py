"""Change of material: melting, freezing, ageing."""

import torch

from diffsim.errors import DataError, SceneError
from diffsim.kernels.arrays import context


def changed(model, state, material, mask):
    """``MPM.switch``, for the materials and densities of ``model``."""
    count, device = len(state.x), state.x.device
    material = torch.as_tensor(material, device=device)
    if material.is_floating_point() or material.shape not in ((), (count,)):
        raise DataError(
            f"switch: material is {tuple(material.shape)} of {material.dtype}; pass an index or ({count},) of them"
        )
    if mask is not None:
        mask = torch.as_tensor(mask, device=device)
        if mask.dtype != torch.bool or mask.shape not in ((), (count,)):
            raise DataError(
                f"switch: mask is {tuple(mask.shape)} of {mask.dtype}; pass a boolean or ({count},) of them"
            )
    if state.q.shape[1] != model.internals:
        raise SceneError(
            f"switch: the state has {state.q.shape[1]} internal variables, the model {model.internals}; "
            "make it with this model's initial_state"
        )
    target = material.expand(count).to(state.material)
    if mask is not None:
        target = torch.where(mask, target, state.material)
    if target.min() < 0 or target.max() >= len(model.materials):
        bad = int(((target < 0) | (target >= len(model.materials))).nonzero()[0])
        raise DataError(
            f"switch: material of particle {bad} is {int(target[bad])}; the model's go from 0 to "
            f"{len(model.materials) - 1}"
        )
    fresh = target != state.material
    new = state._replace(material=target.contiguous())
    # mass and current volume stay; both factors are 1 where the density is the same
    grown = model._density(state) / model._density(new)
    F = state.F / grown[:, None, None] ** (1 / state.F.shape[-1])
    first = int(model.stretch)  # F33 in 2-D: what is strained stays so
    own = torch.where(fresh[:, None], start(model, target), state.q)
    q = torch.cat([state.q[:, :first], own[:, first:]], 1)
    return new._replace(volume=state.volume * grown, F=F, q=q)


def start(model, material):
    """Internal variables of undeformed particles of these materials, (n, k)."""
    dim = model.grid.dim
    q = torch.zeros(len(material), model.internals, dtype=context.dtype, device=material.device)
    for index, part in enumerate(model.materials):
        own = part.initial(1, dim).to(q)
        q[:, : own.shape[1]] = torch.where((material == index)[:, None], own, q[:, : own.shape[1]])
    return q
