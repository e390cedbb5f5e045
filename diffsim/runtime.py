"""``diffsim.init``: the device, precision and thread count of the process."""

import contextlib
import ctypes
import io
import os

import torch

from diffsim.errors import SceneError
from diffsim.kernels.arrays import context
from diffsim.kernels.lang import ti

DEVICES = ("auto", "cpu", "cuda", "vulkan", "metal")
PRECISIONS = {"f32": torch.float32, "f64": torch.float64}


def init(device: str = "cpu", precision: str = "f32", threads: int | None = None) -> None:
    """Start the kernel language, once per process; a second call with the same values does nothing.

    Args:
        device: "cpu", "cuda", "vulkan", "metal", or "auto" (CUDA when torch sees it, else CPU).
        precision: "f32" or "f64", of every floating-point tensor that the engine is given.
        threads: CPU threads of the kernels; None takes all cores. Results do not depend on it. Where there is one for
            each processor, each stays on its own (Linux; the environment's DIFFSIM_PIN_THREADS=0 leaves them free).

    Raises:
        SceneError: unknown values, a device that this machine lacks, or a second call with other values.
    """
    if device not in DEVICES:
        raise SceneError(f"device {device!r} is not known; use one of {', '.join(DEVICES)}")
    if precision not in PRECISIONS:
        raise SceneError(f"precision {precision!r} is not known; use 'f32' or 'f64'")
    if threads is not None and threads < 1:
        raise SceneError(f"threads is {threads}; it must be at least 1")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    threads = threads or (context.threads if context.ready else os.cpu_count())
    wanted = (device, precision, threads)
    if context.ready:
        current = (context.device, context.precision, context.threads)
        if wanted != current:
            raise SceneError(
                "diffsim is already initialized with device={!r}, precision={!r}, threads={}; one process has one of "
                "each: start another process for other values".format(*current)
            )
        return
    if device in ("vulkan", "metal") and precision == "f64":
        raise SceneError(f"device {device!r} computes in f32 only; use precision='f32' or device='cpu'")
    arch = getattr(ti, device)
    _return_freed_memory()
    before = _threads()
    with contextlib.redirect_stdout(io.StringIO()):  # the language announces itself on standard output
        ti.init(
            arch=arch,
            default_fp=getattr(ti, precision),
            cpu_max_num_threads=threads,
            fast_math=False,
            cfg_optimization=False,  # half of the compile time, and the compiler behind it finds the same
            offline_cache=os.environ.get("DIFFSIM_KERNEL_CACHE", "1") != "0",
            log_level=ti.ERROR,
        )
    if ti.lang.impl.current_cfg().arch != arch:
        ti.reset()
        raise SceneError(f"device {device!r} has no driver on this machine; use device='cpu'")
    if device == "cpu" and os.environ.get("DIFFSIM_PIN_THREADS", "1") != "0":
        _pin(sorted(_threads() - before), threads)
    context.device, context.precision, context.threads = wanted
    context.dtype = PRECISIONS[precision]
    context.tensor_device = torch.device("cuda" if device == "cuda" else "cpu")
    context.ready = True


def _return_freed_memory(threshold: int = 4 << 20) -> None:
    """Have glibc hand blocks of 4 MiB and more back when they are freed, as its documentation has it by default.

    It raises that threshold to the largest block seen; checkpointed rollouts, which take and free whole states, then
    keep twice the memory that they use. Of smaller blocks it keeps up to 128 MiB, where its own limit is 128 KiB: the
    layers of a network are freed and taken again in each substep, and the page faults took as long as the products.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library
        library = ctypes.CDLL("libc.so.6")
        library.mallopt(-3, threshold)  # M_MMAP_THRESHOLD
        library.mallopt(-1, 128 << 20)  # M_TRIM_THRESHOLD


def _threads() -> set[int]:
    """Threads of this process, on Linux."""
    with contextlib.suppress(OSError):
        return {int(name) for name in os.listdir("/proc/self/task")}
    return set()


def _pin(started: list[int], threads: int) -> None:
    """Give each thread of the kernels a processor of its own where there is one for each.

    They run in bursts of less than a millisecond; the scheduler of a virtual machine may put two such threads on one
    processor, one after the other. The kernel language starts its compiler's four threads first, then those of the
    kernels; where it has started others, none is pinned.
    """
    with contextlib.suppress(OSError, AttributeError):  # another system, or not allowed
        processors = sorted(os.sched_getaffinity(0))
        if len(started) == 4 + threads and threads == len(processors):
            for thread, processor in zip(started[-threads:], processors, strict=True):
                os.sched_setaffinity(thread, {processor})
