"""Memory for states: in large pages, and scratch that the next control step finds again.

The first touch of fresh memory costs a page fault for every 4 KiB, which for a state of 64k particles takes as long as
half a substep. Large pages need 512 times fewer, and scratch that is kept needs none.
"""

import mmap
import threading

import torch

from diffsim.kernels.arrays import context

LARGE_PAGE = 2 << 20
_kept = threading.local()  # each thread that runs a model has scratch of its own


def block(shape, dtype=None) -> torch.Tensor:
    """An uninitialized tensor on the engine's device, in large pages where the system has them."""
    dtype = dtype or context.dtype
    size = torch.Size(shape).numel() * dtype.itemsize
    if context.tensor_device.type != "cpu" or size < LARGE_PAGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.empty(shape, dtype=dtype, device=context.tensor_device)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=dtype).view(shape)


def scratch(name: str, shape, dtype=None) -> torch.Tensor:
    """An uninitialized tensor that the next request for ``name`` takes over: never return it, never keep it."""
    dtype = dtype or context.dtype
    count = torch.Size(shape).numel()
    tensors = _kept.__dict__.setdefault("tensors", {})
    whole = tensors.get(name)
    # a control step takes three states or one for each substep: not a new piece of memory whenever these alternate
    if whole is None or whole.dtype != dtype or not count <= len(whole) <= 1000 * count + 1024:
        tensors[name] = None  # before the new one is taken
        whole = tensors[name] = block((max(1, count),), dtype)
    return whole[:count].view(shape)
