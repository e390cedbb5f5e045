"""Files of trained laws: weights as safetensors, and in its metadata what builds the law around them."""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from diffsim import materials
from diffsim.errors import DataError
from diffsim.kernels.arrays import context
from diffsim.materials.material import Material
from diffsim.runs import atomic_write

SCHEMA = 1
LEARNED = (
    "HyperelasticNetwork",
    "NeuralElasticity",
    "NeuralPlasticity",
    "PlasticityNetwork",
    "SplineElasticity",
    "UnconstrainedElasticity",
    "UnconstrainedPlasticity",
)
# analytic laws: constructor and, in its order, the parameters that it takes; the first that the law has all of
ANALYTIC = {
    "FixedCorotated": [(materials.FixedCorotated, ("E", "nu"))],
    "Hencky": [(materials.Hencky, ("E", "nu"))],
    "NeoHookean": [(materials.NeoHookean, ("E", "nu"))],
    "Liquid": [(materials.Liquid, ("E", "nu"))],
    "VonMises": [
        (materials.VonMises.from_deviatoric, ("E", "nu", "yield_norm")),
        (materials.VonMises, ("E", "nu", "yield_stress")),
    ],
    "DruckerPrager": [
        (materials.DruckerPrager.from_apex_strain, ("E", "nu", "friction_angle", "apex_strain")),
        (materials.DruckerPrager, ("E", "nu", "friction_angle", "cohesion")),
    ],
}


def refuse_viscosity(material: Material) -> None:
    """Raise DataError for a material with a viscous part, which a file of a law does not hold."""
    if material.viscous is not None:
        raise DataError(
            f"the material has the viscous part {type(material.viscous).__name__}, which files of laws do not hold; "
            "leave it out"
        )


def describe(law) -> dict:
    """What builds the law again, without its weights.

    Raises:
        DataError: a law that files do not know, or an option of one.
    """
    kind = type(law).__name__.removeprefix("Parametrized")
    if torch.as_tensor(getattr(law, "hardening", 0.0)).detach().any():
        raise DataError(f"{kind} with hardening cannot be written to a file of a law; set hardening=0")
    corrected = not isinstance(law, materials.DruckerPrager) or law.functions.internals or hasattr(law, "apex_strain")
    if not corrected:  # that of NCLaw, by its apex_strain, never is
        raise DataError(f"{kind} without volume_correction cannot be written to a file of a law")
    if kind in LEARNED:
        return {"class": kind, "arguments": law.configuration()}
    for _, names in ANALYTIC.get(kind, ()):
        if all(hasattr(law, name) for name in names):
            return {"class": kind, "arguments": {name: float(getattr(law, name).detach()) for name in names}}
    raise DataError(f"a law of class {kind} cannot be written; known are {', '.join((*LEARNED, *ANALYTIC))}")


def build(description: dict):
    """The law of a description; learned ones with fresh weights."""
    kind, arguments = description["class"], description["arguments"]
    if kind in LEARNED:
        return getattr(materials, kind)(**arguments)
    for constructor, names in ANALYTIC.get(kind, ()):
        if set(names) == set(arguments):
            return constructor(*[arguments[name] for name in names])
    raise DataError(f"the law {kind} with {', '.join(arguments)} is not known here; use the version that wrote it")


def save_law(path, material: Material, **about) -> Path:
    """Write the elastic and the plastic law of a material.

    Args:
        about: numbers and texts to keep with it, such as what it was trained on.

    Raises:
        DataError: a law that files do not know, or a folder that cannot be written.
    """
    refuse_viscosity(material)
    parts = {"elastic": material.elastic, "plastic": material.plastic}
    tensors, metadata = {}, {"schema": str(SCHEMA), "about": json.dumps(about)}
    for name, law in parts.items():
        if law is None:
            continue
        metadata[name] = json.dumps(describe(law))
        if type(law).__name__ in LEARNED:
            tensors |= {f"{name}.{key}": value.detach().cpu().contiguous() for key, value in law.state_dict().items()}
    if not tensors:
        tensors["none"] = torch.zeros(1)  # a file needs one
    atomic_write(path, lambda temporary: save_file(tensors, temporary, metadata=metadata))
    return Path(path)


def take_law(scene, path) -> None:
    """Give every material of a scene the trained law of a file; densities stay.

    Raises:
        DataError: as ``load_law``, or a material with viscosity.
    """
    old, begin = scene.model, scene.setup
    for material in old.materials:
        refuse_viscosity(material)
    model = old.with_materials([load_law(path, density=material.density) for material in old.materials])

    def setup():
        state, controls = begin()
        blank = model.initial_state(state.x, volume=state.volume, material=state.material)
        return state._replace(q=blank.q), controls

    scene.model, scene.setup = model, setup


def opened(path) -> tuple[dict, dict]:
    """Metadata and tensors of a file of a law.

    Raises:
        DataError: a missing, damaged or foreign file.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path} does not exist; give the law.safetensors of a fit")
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - it is no mapping
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path} is damaged or no file of a law ({' '.join(str(error).split())})") from error
    if metadata.get("schema") != str(SCHEMA) or "elastic" not in metadata:
        raise DataError(f"{path} holds no law of schema {SCHEMA}; give the law.safetensors of a fit")
    return metadata, tensors


def about_law(path) -> dict:
    """What ``save_law`` was told about a law, such as its kind and the material that it was learned of."""
    return json.loads(opened(path)[0].get("about", "{}"))


def load_law(path, *, density: float = 1e3) -> Material:
    """The material of a file of a trained law, without gradients, in the precision of the process.

    Args:
        density: of the material [kg/m^3].

    Raises:
        DataError: a missing, damaged or foreign file.
    """
    metadata, tensors = opened(path)
    laws = {"elastic": None, "plastic": None}
    for name in laws:
        if name in metadata:
            law = laws[name] = build(json.loads(metadata[name]))
            own = {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}
            if own:
                law.load_state_dict({key: value.to(law.state_dict()[key].dtype) for key, value in own.items()})
            law.to(context.tensor_device).requires_grad_(False)
    return Material(laws["elastic"], laws["plastic"], density=density)
