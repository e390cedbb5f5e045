"""The methods of ``optimize`` by name: what they are called, which options they take, how they are built."""

import inspect

import torch

from diffsim.errors import SceneError
from diffsim.scripts import convert, kinds_of, suggestion
from diffsim.search.combined import Hybrid, MultiStart
from diffsim.search.descent import Descent, Sophia, options_of
from diffsim.search.horizon import Horizon
from diffsim.search.lbfgs import DEFAULTS, Lbfgs
from diffsim.search.multipliers import Multipliers
from diffsim.search.population import Cma, Consensus

# Of the package pytorch_optimizer, those that are free for commercial use (Fromage and Nero are not), step from a
# gradient alone, and continue from their saved state with the same bits; torch's own go before those of the same name.
_NAMES = """
    a2grad accsgd adabelief adabound adagc adai adalite adamc adamg adamod adamp adams adamwsn adan adanorm adapnm
    adasmooth adatam ademamix adopt aggmo aida alice amos ano apollo apollodqn avagrad bcos came conda dadaptadagrad
    dadaptadam dadaptadan dadaptlion dadaptsgd dash diffgrad dualadam emofact emolynx emonavi exadam fira flashadamw
    focus ftrl galore grams gravity grokfastadamw kate lamb laprop lars lion madgrad magma mars msvag novograd padam pid
    pnm prodigy qhm racs rose sara schedulefreeadamw schedulefreeradam schedulefreesgd sgdp sgdsai sgdw shampoo signsgd
    simplifiedademamix sm3 soap spam splus srmm stableadamw stablespam swats tam tiger vsgd yogi
"""
EXTRA = tuple(_NAMES.split())
POPULATIONS = {"cma": Cma, "consensus": Consensus}
COMBINED = {"hybrid": Hybrid, "multi_start": MultiStart, "expanding": Horizon, "augmented_lagrangian": Multipliers}


def _torch_methods() -> dict[str, type]:
    classes = (value for value in vars(torch.optim).values() if inspect.isclass(value))
    known = {cls.__name__.lower(): cls for cls in classes if issubclass(cls, torch.optim.Optimizer)}
    # Optimizer is abstract, torch's LBFGS has no bounds, and SparseAdam needs sparse gradients
    return {name: cls for name, cls in known.items() if name not in ("optimizer", "lbfgs", "sparseadam")}


def methods() -> list[str]:
    """Names of the methods that ``optimize`` knows."""
    return sorted({*_torch_methods(), *EXTRA, *POPULATIONS, *COMBINED, "lbfgs", "sophia"})


def method_named(name: str, options: dict):
    """The method called ``name``, with these options; an option given as a text is converted.

    Raises:
        SceneError: an unknown method or option, a value that the method refuses, or a method of an extra that is not
            installed.
    """
    key = name.lower().replace("-", "_")
    if key == "lbfgs":
        kinds = {option: (type(default),) for option, default in DEFAULTS.items()}
        return Lbfgs(**_converted(key, options, kinds))
    if key in POPULATIONS:
        return POPULATIONS[key](**_converted(key, options, _kinds(POPULATIONS[key])))
    if key in COMBINED:
        return _combined(key, options)
    return _descent(key, options)


def _descent(key: str, options: dict, schedule=None, among=None) -> Descent:
    """Descent by the torch optimizer ``key``."""
    if key not in {*_torch_methods(), *EXTRA, "sophia"}:
        raise SceneError(f"method {key!r} is not known; {suggestion(key, methods() if among is None else among)}")
    cls = _torch_methods().get(key) or _extra("sophiah" if key == "sophia" else key)
    kinds = {option: kinds_of(parameter) for option, parameter in options_of(cls).items()}
    kinds["clip_norm"] = (float, type(None))
    own = Descent
    if key == "sophia":
        own = Sophia
        for option in ("update_period", "num_samples", "hessian_distribution"):
            del kinds[option]  # of an estimate that hand-written adjoints do not allow; hessian_* stand for them
        kinds |= {option: found for option, found in _kinds(Sophia).items() if option != "optimizer"}
    return own(cls, schedule=schedule, **_converted(key, options, kinds))


def _extra(name: str) -> type:
    """An optimizer of the package pytorch_optimizer, which takes a second to import."""
    try:
        from pytorch_optimizer import load_optimizer
    except ImportError as error:
        raise SceneError(f"method {name!r} needs an extra; run: pip install 'diffsim[optimizers]'") from error
    return load_optimizer(name)


def _combined(key: str, options: dict):
    """A method made of others: its own options, those named ``optimizer``, and the rest for these."""
    own = {option: kinds for option, kinds in _kinds(COMBINED[key]).items() if option not in ("descent", "refine")}
    own.pop("explore", None)
    mine = {option: value for option, value in options.items() if option in own}
    rest = {option: value for option, value in options.items() if option not in own}
    inner = str(rest.pop("optimizer", "adam")).lower()
    mine = _converted(key, mine, own)
    if key in ("expanding", "augmented_lagrangian"):
        return _descent(inner, rest, COMBINED[key](**mine), among=_gradient_methods())
    if key == "multi_start":
        return MultiStart(_descent(inner, rest, among=_gradient_methods()), **mine)
    search = str(rest.pop("search", "cma")).lower()
    if search not in POPULATIONS:
        raise SceneError(f"option search={search!r} of 'hybrid' is not known; {suggestion(search, POPULATIONS)}")
    if inner in (*POPULATIONS, "hybrid", "multi_start"):
        raise SceneError(f"option optimizer={inner!r} of 'hybrid' has no gradients; choose a method that has")
    theirs = {option: value for option, value in rest.items() if option in _kinds(POPULATIONS[search])}
    explore = POPULATIONS[search](**_converted(search, theirs, _kinds(POPULATIONS[search])))
    refine = method_named(inner, {option: value for option, value in rest.items() if option not in theirs})
    return Hybrid(explore, refine, **mine)


def _gradient_methods() -> list[str]:
    return sorted({*_torch_methods(), *EXTRA, "sophia"})


def _kinds(cls: type) -> dict[str, tuple]:
    """Types of the options of a class of this package."""
    return {option: kinds_of(parameter) for option, parameter in options_of(cls).items()}


def _converted(key: str, options: dict, kinds: dict) -> dict:
    for option in options:
        if option not in kinds:
            raise SceneError(f"method {key!r} has no option {option!r}; {suggestion(option, kinds)}")
    return {option: convert(option, value, kinds[option]) for option, value in options.items()}
