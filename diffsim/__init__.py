"""diffsim: a differentiable physics engine with hand-written adjoints, exposed to PyTorch.

Names are imported on first use, so that ``diffsim --help`` and ``import diffsim`` do not wait for torch.
"""

import importlib
import sys
import types

_SOURCES = {
    "init": "diffsim.runtime",
    "Grid": "diffsim.models.domain",
    "Walls": "diffsim.models.domain",
    "Material": "diffsim.materials.material",
    "Tool": "diffsim.models.tools",
    "Sphere": "diffsim.geometry.shapes",
    "Box": "diffsim.geometry.shapes",
    "Capsule": "diffsim.geometry.shapes",
    "Cylinder": "diffsim.geometry.shapes",
    "HalfSpace": "diffsim.geometry.shapes",
    "MeshSDF": "diffsim.geometry.shapes",
    "Scene": "diffsim.scene",
    "load": "diffsim.scripts",
    "list_scenes": "diffsim.scripts",
    "rollout": "diffsim.rollout",
    "estimate": "diffsim.rollout",
    "Trajectory": "diffsim.rollout",
    "optimize": "diffsim.optimize",
    "resume_run": "diffsim.optimize",
}
_MODULES = ("errors", "materials", "models", "geometry", "objectives", "testing", "trajectory", "render", "solvers")

__all__ = [*_SOURCES, *_MODULES]


def __getattr__(name):
    if name in _SOURCES:
        value = getattr(importlib.import_module(_SOURCES[name]), name)
    elif name in _MODULES:
        value = importlib.import_module(f"diffsim.{name}")
    else:
        raise AttributeError(f"module 'diffsim' has no attribute {name!r}")
    globals()[name] = value
    return value


class _Package(types.ModuleType):
    """``diffsim.rollout`` and ``diffsim.optimize`` are functions, though modules of these names exist too."""

    def __setattr__(self, name, value):
        if not (isinstance(value, types.ModuleType) and name in _SOURCES):  # the import system binds submodules
            super().__setattr__(name, value)


def __dir__():
    return sorted({*globals(), *__all__})


sys.modules[__name__].__class__ = _Package
