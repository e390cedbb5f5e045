"""Scene scripts: ``load`` builds a scene from a shipped name or a user's file, ``list_scenes`` names the shipped."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import math
import os
import pkgutil
import sys
import types
import typing
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path

from diffsim.errors import SceneError
from diffsim.scene import Scene, blame

_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


def list_scenes() -> dict[str, str]:
    """Shipped scenes: name -> first line of the docstring of its function ``scene``. Imports none of them."""
    import diffsim.scenes

    found = {}
    for module in pkgutil.iter_modules(diffsim.scenes.__path__):
        source = Path(module.module_finder.path, f"{module.name}.py")
        if not source.is_file():
            continue
        for node in ast.parse(source.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name == "scene":
                found[module.name] = (ast.get_docstring(node) or "").partition("\n")[0]
    return found


def load(scene: str | os.PathLike, /, **options) -> Scene:
    """Build a scene.

    The function runs with torch's random generator seeded, with its option ``seed`` when it has one and else with 0,
    so that the same options give the same scene; the generator is restored afterwards.

    Args:
        scene: a name from ``list_scenes()``, or "file.py" or "file.py:function"; the function is ``scene`` by default.
        options: arguments of the function. A string is converted to the type of the parameter's annotation or default.
            ``law``, unless the function has an option of that name: the file of a trained law, which all materials of
            the scene then have.

    Raises:
        SceneError: an unknown scene or option, a value of the wrong type, or a script that fails.
    """
    function, file, source = _find(os.fspath(scene))
    law = options.pop("law", None) if "law" not in _signature(function, source).parameters else None
    bound = _bind(function, source, options)
    with blame(file, f"{function.__name__}()"), _importable(Path(file).parent), _seeded(bound.get("seed", 0)):
        built = function(**bound)
    if not isinstance(built, Scene):
        line = function.__code__.co_firstlineno
        raise SceneError(
            f"{file}:{line}: {function.__name__}() returned {type(built).__name__}, not a diffsim.Scene; return one"
        )
    if law is not None:
        from diffsim.learning.law_file import take_law

        law = bound["law"] = os.path.abspath(law)
        take_law(built, law)
    built.options, built.source = bound, source
    built.loaded = built.parts()
    return built


def parameters_of(scene: str | os.PathLike) -> Mapping[str, inspect.Parameter]:
    """Parameters of a scene's function by name, without building the scene.

    Raises:
        SceneError: an unknown scene, or a script that fails.
    """
    function, _, source = _find(os.fspath(scene))
    return _signature(function, source).parameters


def description_of(scene: str | os.PathLike) -> str:
    """Docstring of a scene's function, without building the scene.

    Raises:
        SceneError: an unknown scene, or a script that fails.
    """
    function, _, source = _find(os.fspath(scene))
    return inspect.getdoc(function) or f"{source} has no description."


def convert(name: str, value, kinds: tuple[type, ...]):
    """``value`` as one of the types ``kinds``; a string is parsed. With no kinds it is returned as it is.

    Raises:
        SceneError: it cannot be one, named as option ``name``.
    """
    if not kinds or not isinstance(value, (str, bool, int, float, tuple, list, type(None))):
        return value  # a tensor, a mesh, a function: the scene's own business
    for kind in (type(None), bool, int, float, tuple, list, Path, str):
        if kind in kinds:
            try:
                return _PARSERS[kind](value)
            except (ValueError, TypeError, SyntaxError):
                continue
    wanted = " or ".join(kind.__name__ for kind in kinds)
    raise SceneError(f"option {name}={value!r} is not of type {wanted}; give one")


def suggestion(word: str, words) -> str:
    """`` (did you mean 'x'?)``, or the choices when none is close and they are few."""
    close = get_close_matches(word, list(words), n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"choose from {', '.join(sorted(words))}" if words else "it takes none"


def _find(scene: str) -> tuple[Callable, str, str]:
    """Function, its file, and the name under which it can be found again."""
    place, _, wanted = scene.partition(".py:")
    if scene.endswith(".py") or wanted:
        file = Path(place + ".py" if wanted else scene).absolute()
        module, wanted = _execute(file), wanted or "scene"
        source = f"{file}:{wanted}"
    else:
        names = list_scenes()
        if scene not in names:
            raise SceneError(f"scene {scene!r} is not known; {suggestion(scene, names)} A script is given as file.py")
        spec = importlib.util.find_spec(f"diffsim.scenes.{scene}")
        file, wanted, source = Path(spec.origin), "scene", scene
        with blame(str(file), "the script"):
            module = importlib.import_module(spec.name)
    function = getattr(module, wanted, None)
    if not inspect.isfunction(function):
        raise SceneError(f"{file}: there is no function {wanted}(**options); define it, returning a diffsim.Scene")
    return function, str(file), source


def _execute(file: Path) -> types.ModuleType:
    if not file.is_file():
        raise SceneError(f"scene script {file} does not exist; check the path")
    name = f"diffsim_script_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and inspect look the module up by name
    with blame(str(file), "the script"), _importable(file.parent):
        spec.loader.exec_module(module)
    return module


@contextmanager
def _importable(folder: Path):
    """Let a script import its neighbors, as it could if Python ran it."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


@contextmanager
def _seeded(seed: int):
    import torch

    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed if isinstance(seed, int) else 0)
        yield


def _signature(function: Callable, source: str) -> inspect.Signature:
    with blame(inspect.getsourcefile(function), f"an annotation of {source}"):
        return inspect.signature(function, eval_str=True)


def _bind(function: Callable, source: str, options: dict) -> dict:
    """All options of ``function``: the given ones checked and converted, the others at their defaults."""
    parameters = _signature(function, source).parameters
    extra = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    named = {name: p for name, p in parameters.items() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
    bound = {name: p.default for name, p in named.items() if p.default is not p.empty}
    for name, value in options.items():
        if name in named:
            bound[name] = convert(name, value, kinds_of(named[name]))
        elif extra:
            bound[name] = value
        else:
            raise SceneError(f"scene {source} has no option {name!r}; {suggestion(name, named)}")
    missing = [name for name in named if name not in bound]
    if missing:
        raise SceneError(f"scene {source} needs the option {missing[0]!r}; set {missing[0]}=value")
    return bound


def kinds_of(parameter: inspect.Parameter) -> tuple[type, ...]:
    """Types that ``convert`` knows of a parameter: of its annotation, else of its default; empty when neither tells."""
    annotation, default = parameter.annotation, parameter.default
    if annotation is parameter.empty:
        known = default is not parameter.empty and default is not None
        return (type(default),) if known and type(default) in _PARSERS else ()
    union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    kinds = tuple(typing.get_origin(kind) or kind for kind in (typing.get_args(annotation) if union else [annotation]))
    return tuple(kind for kind in kinds if kind in _PARSERS)


def _none(value):
    if value is None or (isinstance(value, str) and value.lower() == "none"):
        return None
    raise ValueError


def _bool(value) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in _TRUE + _FALSE:
        return value.lower() in _TRUE
    raise ValueError


def _int(value) -> int:
    if isinstance(value, bool):
        raise ValueError
    if isinstance(value, str):
        value = int(value) if value.lstrip("+-").isdigit() else float(value)
    if not math.isfinite(value) or value != int(value):
        raise ValueError  # 2.5 is no whole number; 1e5 is one
    return int(value)


def _float(value) -> float:
    if isinstance(value, bool) or math.isnan(float(value)):
        raise ValueError
    return float(value)


def _tuple(value) -> tuple:
    if isinstance(value, str):
        value = ast.literal_eval(f"({value.strip('()[] ')},)" if value.strip("()[] ") else "()")
    return tuple(value)


def _list(value) -> list:
    return list(_tuple(value))


def _str(value) -> str:
    if not isinstance(value, str):
        raise ValueError
    looks_like_a_path = bool(Path(value).suffix) or os.sep in value
    # absolute, so that a run can be resumed from any folder
    return os.path.abspath(value) if looks_like_a_path and os.path.isfile(value) else value


def _path(value) -> Path:
    return Path(value).absolute()


_PARSERS = {
    type(None): _none,
    bool: _bool,
    int: _int,
    float: _float,
    tuple: _tuple,
    list: _list,
    Path: _path,
    str: _str,
}
