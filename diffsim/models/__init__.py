"""Models: each maps (state, control) to the next state. They load on first use, each with the libraries it needs."""

import importlib

_SOURCES = {
    "FEM": "fem",
    "MPM": "mpm",
    "Contact": "contact",
    "CreasedState": "shell",
    "Creases": "creases",
    "NodalState": "nodal_state",
    "Obstacle": "obstacle",
    "Prescribed": "boundary",
    "SHEETS": "sheet_materials",
    "Shell": "shell",
    "State": "mpm",
    "sheet_material": "sheet_materials",
}

__all__ = list(_SOURCES)


def __getattr__(name):
    if name not in _SOURCES:
        raise AttributeError(f"module 'diffsim.models' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f"diffsim.models.{_SOURCES[name]}"), name)
    return value


def __dir__():
    return sorted({*globals(), *_SOURCES})
