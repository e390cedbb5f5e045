"""Sparse linear solves, projected Newton, and differentiable roots. Modules load on first use."""

import importlib

_SOURCES = {
    "factorize": "linear",
    "METHODS": "linear",
    "minimize": "newton",
    "Settings": "newton",
    "root": "implicit",
}

__all__ = list(_SOURCES)


def __getattr__(name):
    if name not in _SOURCES:
        raise AttributeError(f"module 'diffsim.solvers' has no attribute {name!r}")
    return getattr(importlib.import_module(f"diffsim.solvers.{_SOURCES[name]}"), name)


def __dir__():
    return sorted({*globals(), *__all__})
