"""Bodies and their shapes: triangle meshes, exact primitives, particles that fill them. Modules load on first use."""

import importlib

_MODULES = ("bodies", "mesh", "sampling", "shapes", "solid", "surface")


def __getattr__(name):
    if name not in _MODULES:
        raise AttributeError(f"module 'diffsim.geometry' has no attribute {name!r}")
    return importlib.import_module(f"diffsim.geometry.{name}")


def __dir__():
    return sorted({*globals(), *_MODULES})
