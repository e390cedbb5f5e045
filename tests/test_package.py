"""What users install and call: the declared requirements, the wheel, the public names, the command."""

import ast
import configparser
import inspect
import os
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import diffsim

ROOT = Path(__file__).parent.parent
FOLDERS = ("diffsim", "kernels", "scenes")  # of the product; as packages: diffsim, diffsim.kernels, diffsim.scenes
OPTIONAL = {
    "quadrants",
    "pytorch-optimizer",
    "yourdfpy",
    "pyyaml",
    "gymnasium",
    "ray",
}  # extras that the product imports

# name -> arguments that programs outside this repository pass, by keyword or position
PUBLIC = {
    "init": ("device", "precision", "threads"),
    "Grid": ("cells", "dx", "origin"),
    "Material": ("elastic", "plastic", "viscous", "density"),
    "materials.FixedCorotated": ("E", "nu"),
    "materials.NeoHookean": ("E", "nu"),
    "materials.Hencky": ("E", "nu"),
    "materials.Liquid": ("E", "nu"),
    "materials.VonMises": (),
    "materials.NeuralElasticity": ("scale", "width", "dim", "seed"),
    "materials.NeuralPlasticity": ("scale", "width", "dim", "seed"),
    "materials.HyperelasticNetwork": ("E", "nu", "width", "polyconvex", "seed"),
    "materials.PlasticityNetwork": ("strain", "time", "width", "seed"),
    "learning.fit": ("scene", "motion", "law", "epochs", "out", "resume"),
    "learning.read_motion": ("path",),
    "learning.load_law": ("path", "density"),
    "models.MPM": ("grid", "materials", "dt", "substeps", "gravity", "walls", "tools", "body_force"),
    "models.MPM.initial_state": ("x", "v", "volume", "material"),
    "models.MPM.forward": ("state", "control"),
    "models.FEM": ("mesh", "material"),
    "models.FEM.initial_state": ("x", "v", "X"),
    "models.FEM.forward": ("state", "control"),
    "models.FEM.solve_static": ("state", "control"),
    "models.FEM.reactions": ("state",),
    "models.Shell": ("mesh", "E", "nu", "thickness", "density"),
    "models.Contact": ("distance", "stiffness", "friction", "obstacles"),
    "models.Prescribed": ("nodes", "motion", "axes"),
    "solvers.root": ("residual", "x0", "inputs"),
    "Walls": ("friction", "margin"),
    "Tool": ("pose", "mode", "softness", "friction"),
    "Sphere": (),
    "Box": (),
    "Capsule": (),
    "Cylinder": (),
    "HalfSpace": (),
    "Torus": (),
    "MeshSDF": (),
    "Scene": ("model", "steps", "setup", "variables", "objective", "metrics", "bounds", "policy", "every"),
    "Trajectory": (),
    "rollout": ("model", "state", "controls", "steps", "every", "memory"),
    "load": (),
    "optimize": ("scene", "method", "iterations", "out"),
    "testing.gradcheck": ("model", "state", "controls", "wrt"),
}
ERRORS = ("SceneError", "MeshError", "DataError", "SimulationError", "SolverError", "GradientError")


def settings():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def lines(text):
    return [line for line in text.split("\n") if line.strip()]


def requirements(extra=None):
    """Declared requirements of the core, or of one extra."""
    config = settings()
    text = config["options.extras_require"][extra] if extra else config["options"]["install_requires"]
    return [Requirement(line) for line in lines(text)]


def pins():
    """Version by canonical name."""
    found = {}
    for line in lines((ROOT / "constraints.txt").read_text()):
        if not line.startswith("#"):
            name, _, version = line.partition("==")
            found[canonicalize_name(name)] = version
    return found


def modules(folder):
    return [path for path in (ROOT / folder).rglob("*.py") if "__pycache__" not in path.parts]


def imported(path):
    """First part of the name of every module that a file imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.partition(".")[0])
    return names


def resolve(name):
    value = diffsim
    for part in name.split("."):
        value = getattr(value, part)
    return value


@pytest.mark.parametrize("name", PUBLIC)
def test_public_name_exists_and_takes_its_arguments(name):
    value = resolve(name)
    missing = set(PUBLIC[name]) - set(inspect.signature(value).parameters)
    assert not missing
    if "." not in name:
        assert name in diffsim.__all__


@pytest.mark.parametrize("name", ERRORS)
def test_every_error_is_one_of_the_package(name):
    assert issubclass(getattr(diffsim.errors, name), diffsim.errors.DiffsimError)


@pytest.mark.parametrize("name", sorted(diffsim.__all__))
def test_every_listed_name_can_be_imported(name):
    assert getattr(diffsim, name) is not None


def test_modules_are_reached_by_their_names_without_further_imports():
    """What examples write; other imports in the same process would hide that one is missing."""
    code = "import diffsim as ds; ds.geometry.sampling.fill_ball, ds.geometry.mesh.load_mesh, ds.models.MPM"
    subprocess.run([sys.executable, "-c", code], check=True)


def example(name):
    """The first Python block of a document."""
    return re.search(r"```python\n(.*?)```", (ROOT / name).read_text(), re.DOTALL).group(1)


def test_the_scene_script_of_the_documentation_has_a_gradient(tmp_path):
    (tmp_path / "throw.py").write_text(example("docs/scenes.md"))
    scene = diffsim.load(tmp_path / "throw.py", target="0.6,0.5")
    scene.loss(scene.rollout(steps=2)).backward()
    miss = torch.tensor([0.6, 0.5]) - 0.275  # from the start, of which two steps change little
    grad = scene.variables["velocity"].grad
    assert grad @ miss < -0.99 * grad.norm() * miss.norm()


def test_the_example_of_the_readme_runs_and_is_short():
    assert len(lines(example("README.md"))) <= 15
    result = subprocess.run([sys.executable, "-c", example("README.md")], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() in (ROOT / "README.md").read_text()  # what the document says it prints


def test_importing_the_package_does_not_wait_for_torch():
    code = "import sys, diffsim, diffsim.scene; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_product_imports_exactly_what_is_declared():
    used = set().union(*(imported(path) for folder in FOLDERS for path in modules(folder)))
    used -= set(sys.stdlib_module_names) | {"diffsim"}
    distributions = metadata.packages_distributions()
    used = {canonicalize_name(name) for module in used for name in distributions.get(module, [module])}
    declared = {canonicalize_name(requirement.name) for requirement in requirements()}
    assert used - OPTIONAL == declared


def test_constraints_pin_every_requirement_and_all_that_they_bring():
    pinned, seen, looked_up, absent = pins(), set(), set(), set()
    pending = requirements()
    for extra in settings()["options.extras_require"]:
        pending += requirements(extra)
    while pending:
        requirement = pending.pop()
        name = canonicalize_name(requirement.name)
        if name.startswith(("nvidia", "cuda", "triton")):
            continue  # torch's own builds pin these exactly
        assert name in pinned, f"{name} is not in constraints.txt"
        assert requirement.specifier.contains(pinned[name]), f"{requirement} against {pinned[name]}"
        seen.add(name)
        for extra in {"", *requirement.extras} - {extra for known, extra in looked_up if known == name}:
            looked_up.add((name, extra))
            try:
                brought = [Requirement(line) for line in metadata.requires(name) or []]
            except metadata.PackageNotFoundError:
                absent.add(name)  # of an extra that is not installed here: what it brings is not known
                continue
            pending += [r for r in brought if r.marker is None or r.marker.evaluate({"extra": extra})]
    unused = set(pinned) - seen
    assert not unused or absent, unused


@pytest.mark.parametrize(
    "line", ["import kernels.svd", "from kernels import svd", "import scenes", "from scenes import x"]
)
def test_lint_rejects_a_second_copy_of_a_mapped_folder(line, tmp_path):
    command = [sys.executable, "-m", "ruff", "check", "--config", ROOT / "pyproject.toml", "--select", "TID251", "-"]
    result = subprocess.run(command, input=line + "\n", capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 1
    assert "TID251" in result.stdout


def test_setup_lists_every_package():
    config = settings()
    folder_of = dict(re.split(r"\s*=\s*", line.strip()) for line in lines(config["options"]["package_dir"]))
    found = {
        ".".join((name, *path.parent.relative_to(ROOT / folder).parts))
        for name, folder in folder_of.items()
        for path in modules(folder)
    }
    assert found == {line.strip() for line in lines(config["options"]["packages"])}


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    """The wheel, built from a copy: a build folder left in the tree would bring deleted files back."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", out, source)
    (built,) = out.glob("diffsim-*.whl")
    return built


def pip(*arguments):
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_wheel_holds_every_module_and_mesh(wheel):
    names = subprocess.run([sys.executable, "-m", "zipfile", "--list", wheel], capture_output=True, text=True).stdout
    held = {line.split()[0] for line in names.splitlines()}
    files = [path for folder in FOLDERS for path in modules(folder)] + list((ROOT / "scenes").glob("*.obj"))
    files += (ROOT / "diffsim").rglob("*.urdf")
    expected = {path.relative_to(ROOT).as_posix() for path in files}
    expected = {name if name.startswith("diffsim/") else f"diffsim/{name}" for name in expected}
    assert expected <= held
    assert {name for name in held if name.startswith("diffsim/")} == expected
    assert any(name.endswith("/LICENSE") for name in held)


@pytest.fixture(scope="session")
def environment(wheel, tmp_path_factory):
    """A fresh environment with the wheel; the requirements are those of this process, the editable diffsim is not."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    pip("--python", python, "install", "--no-deps", "--no-index", wheel)
    query = "import sysconfig; print(sysconfig.get_path('purelib'))"
    fresh, ours = (
        Path(subprocess.run([each, "-c", query], capture_output=True, text=True, check=True).stdout.strip())
        for each in (python, sys.executable)
    )
    # a folder named in a .pth file is searched, but its own .pth files (the editable install) are not read
    (fresh / "requirements.pth").write_text(f"{ours}\n")
    return python


def command(environment, *arguments, cwd):
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    program = environment.parent / "diffsim"
    return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, cwd=cwd, env=variables)


@pytest.mark.slow
def test_installed_wheel_lists_and_runs_a_scene_from_another_folder(environment, tmp_path):
    where = subprocess.run(
        [environment, "-c", "import diffsim.kernels, diffsim.scenes as s; print(diffsim.__file__, s.__file__)"],
        capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert all(Path(name).is_relative_to(environment.parent.parent) for name in where.stdout.split()), where

    listing = command(environment, "list", cwd=tmp_path)
    assert listing.returncode == 0, listing.stderr
    assert {"jelly_drop", "move", "throw_to_target", "identify_stiffness"} <= set(re.findall(r"\w+", listing.stdout))

    run = command(environment, "run", "jelly_drop", "--steps", 2, "--no-render", "--out", "jelly", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "jelly" / "trajectory.h5").is_file()
