"""Array types of kernel arguments, and ``launch``, the one way from torch tensors into a kernel."""

from dataclasses import dataclass

import torch

from diffsim.kernels.direct import AVAILABLE, direct
from diffsim.kernels.lang import ti

Scalars = ti.types.ndarray(ndim=1)  # (n,) floats, precision from the tensor
Rows = ti.types.ndarray(ndim=2)  # (n, k) floats, read by scalar
Vectors = ti.types.ndarray(element_dim=1, ndim=1)  # (n, k) floats, read by row
VectorRows = ti.types.ndarray(element_dim=1, ndim=2)  # (n, j, k) floats, read by row
Matrices = ti.types.ndarray(element_dim=2, ndim=1)  # (n, d, d) floats
Integers = ti.types.ndarray(dtype=ti.i32, ndim=1)
IntegerRows = ti.types.ndarray(dtype=ti.i32, ndim=2)


@dataclass
class Context:
    """What ``diffsim.init`` has set: filled there, read by ``launch``."""

    ready: bool = False
    device: str = ""
    precision: str = ""
    threads: int = 0
    dtype: torch.dtype = torch.float64
    tensor_device: torch.device = torch.device("cpu")


context = Context()


def unchanged(tensors, versions):
    """Raise RuntimeError where one of the tensors was changed in place since its ``_version`` was taken.

    For tensors that an operator keeps outside of torch's saved ones, whose versions torch checks itself.
    """
    for number, (tensor, version) in enumerate(zip(tensors, versions, strict=True)):
        if tensor._version != version:
            raise RuntimeError(
                f"weight {number} of shape {tuple(tensor.shape)} was changed in place between forward and backward: "
                "call backward before the optimizer's step"
            )


FEW = 4096  # particles for which waking other threads costs more than they save, by measurement of the learned laws


def alone(values) -> bool:
    """Whether a loop over the rows of ``values`` stays on the calling thread: a template of kernels of laws."""
    return context.device == "cpu" and (context.threads == 1 or len(values) <= FEW)


def launch(kernel, *arguments):
    """Run ``kernel`` on torch tensors, templates and numbers.

    Every tensor is checked for what Taichi would accept silently and compute wrongly (another precision), or refuse
    obscurely (no initialization, not contiguous).

    Raises:
        RuntimeError: before ``diffsim.init``.
        TypeError: a tensor of another precision or device, or one that is not contiguous.
    """
    if not context.ready:
        raise RuntimeError("the engine is not initialized: call diffsim.init(device=..., precision=...) first")
    checked = list(arguments)
    wanted, place = context.dtype, context.tensor_device
    for position, argument in enumerate(arguments):
        if not isinstance(argument, torch.Tensor):
            continue
        dtype = argument.dtype
        if dtype is not wanted and dtype is not torch.int32:
            remedy = f"convert it with .to({wanted if dtype.is_floating_point else torch.int32})"
            raise TypeError(
                f"{kernel.__name__}: argument {position} is {dtype}, but diffsim.init set "
                f"precision={context.precision!r}; {remedy}"
            )
        if argument.device != place:
            raise TypeError(
                f"{kernel.__name__}: argument {position} is on {argument.device}, but diffsim.init set "
                f"device={context.device!r}; move it with .to('{place}')"
            )
        if not argument.is_contiguous():
            raise TypeError(f"{kernel.__name__}: argument {position} is not contiguous; pass .contiguous()")
        if argument.requires_grad:  # Taichi would give it a zero .grad
            checked[position] = argument.detach()
    if AVAILABLE and context.device == "cpu":
        direct(kernel)(checked)
    else:
        kernel(*checked)
