"""The kernel language, imported from one place: ``from diffsim.kernels.lang import ti``.

Taichi is the default; ``DIFFSIM_KERNEL_LANGUAGE=quadrants`` takes its maintained, API-compatible fork instead.
"""

import os

LANGUAGE = os.environ.get("DIFFSIM_KERNEL_LANGUAGE", "taichi")
os.environ.setdefault("ENABLE_TAICHI_HEADER_PRINT", "0")  # the banner would end up in every program's output
os.environ.setdefault("ENABLE_QUADRANTS_HEADER_PRINT", "0")

if LANGUAGE == "taichi":
    import taichi as ti
elif LANGUAGE == "quadrants":
    try:
        import quadrants as ti
    except ImportError as error:
        raise ImportError("DIFFSIM_KERNEL_LANGUAGE=quadrants needs: pip install 'diffsim[quadrants]'") from error
else:
    raise ImportError(f"DIFFSIM_KERNEL_LANGUAGE={LANGUAGE!r} is not known; use 'taichi' or 'quadrants'")

__all__ = ["LANGUAGE", "ti"]
