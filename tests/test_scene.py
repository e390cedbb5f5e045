"""Scenes and scene scripts: what loads, what is refused, and what the refusal says."""

import re
from pathlib import Path

import pytest
import torch

from diffsim.errors import MeshError, SceneError
from diffsim.scene import Scene
from diffsim.scripts import list_scenes, load

PROJECTILE = Path(__file__).with_name("projectile.py")
HEADER = (
    "from pathlib import Path\nimport torch\nfrom diffsim.errors import MeshError\nfrom diffsim.scene import Scene\n"
)


def script(folder, body, header=HEADER):
    """A scene script with this content."""
    file = folder / "made.py"
    file.write_text(header + body)
    return file


OPTIONS_SCRIPT = """
def scene(a=1, b=2.0, c=False, d="text", e=(1, 2), f: float | None = None, g: Path = Path("."), h=None):
    return Scene(name="made", model=None, steps=1, setup=lambda: (None, None))
"""


@pytest.mark.parametrize(
    "text, value",
    [
        ("a=7", 7),
        ("a=1e5", 100_000),
        ("b=3", 3.0),
        ("b=1e-3", 1e-3),
        ("b=inf", float("inf")),
        ("c=true", True),
        ("c=Off", False),
        ("d=word", "word"),
        ("e=3,4.5", (3, 4.5)),
        ("e=(3, 4)", (3, 4)),
        ("e=3", (3,)),
        ("f=none", None),
        ("f=2", 2.0),
        ("g=/tmp", Path("/tmp")),
        ("h=anything", "anything"),
    ],
)
def test_an_option_text_takes_the_type_of_its_default_or_annotation(tmp_path, text, value):
    name, _, given = text.partition("=")
    got = load(script(tmp_path, OPTIONS_SCRIPT), **{name: given}).options[name]
    assert got == value and type(got) is type(value)


@pytest.mark.parametrize("text", ["a=2.5", "a=many", "a=inf", "b=nan", "b=true or so", "c=2", "e=x,y", "f=much"])
def test_an_option_text_of_the_wrong_type_is_refused_by_name(tmp_path, text):
    name, _, given = text.partition("=")
    with pytest.raises(SceneError, match=f"option {name}={re.escape(repr(given))} is not of type"):
        load(script(tmp_path, OPTIONS_SCRIPT), **{name: given})


def test_options_that_are_objects_pass_unchanged(tmp_path):
    stiffness = torch.nn.Parameter(torch.ones(()))
    assert load(script(tmp_path, OPTIONS_SCRIPT), b=stiffness).options["b"] is stiffness


def test_an_option_that_names_a_file_becomes_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "body.obj").write_text("")
    assert load(script(tmp_path, OPTIONS_SCRIPT), d="body.obj").options["d"] == str(tmp_path / "body.obj")


def test_an_unknown_option_is_refused_with_the_nearest_name():
    with pytest.raises(SceneError, match=r"no option 'stesp'; did you mean 'steps'\?"):
        load(PROJECTILE, stesp=3)


def test_a_required_option_is_asked_for(tmp_path):
    with pytest.raises(SceneError, match="needs the option 'mesh'"):
        load(script(tmp_path, "\ndef scene(mesh):\n    pass\n"))


def test_an_unknown_scene_is_refused_and_a_script_suggested():
    with pytest.raises(SceneError, match=r"scene 'projectil' is not known; .*file\.py"):
        load("projectil")


def test_every_listed_scene_has_a_one_line_description():
    assert all(text and "\n" not in text for text in list_scenes().values())


@pytest.mark.parametrize(
    "body, line, text",
    [
        ("\ndef scene(:\n    pass\n", 6, "invalid syntax"),
        ("\nimport not_a_module\n", 6, "No module named 'not_a_module'"),
        ("\nx = 1 / 0\n", 6, "ZeroDivisionError"),
        ("\ndef scene():\n    return torch.zeros(2) @ torch.zeros(3)\n", 7, r"scene\(\) raised RuntimeError"),
        ("\ndef scene():\n    return 3\n", 6, "returned int, not a diffsim.Scene"),
        ("\ndef scene(a: Meter = 1):\n    pass\n", None, "name 'Meter' is not defined"),
        ("\nscene = 3\n", None, r"there is no function scene\("),
    ],
)
def test_a_broken_script_is_one_line_naming_file_and_line(tmp_path, body, line, text):
    file = script(tmp_path, body)
    with pytest.raises(SceneError, match=text) as caught:
        load(file)
    assert "\n" not in str(caught.value)
    if line:
        assert str(caught.value).startswith(f"{file}:{line}: ")


def test_a_missing_script_is_named(tmp_path):
    with pytest.raises(SceneError, match=r"no\.py does not exist"):
        load(tmp_path / "no.py")


def test_an_error_of_the_package_passes_a_script_unchanged(tmp_path):
    with pytest.raises(MeshError, match="^no mesh$"):
        load(script(tmp_path, '\ndef scene():\n    raise MeshError("no mesh")\n'))


def test_a_function_of_a_script_is_chosen_by_name(tmp_path):
    file = script(tmp_path, OPTIONS_SCRIPT.replace("scene(", "other(").replace("a=1", "a=5"))
    built = load(f"{file}:other")
    assert built.options["a"] == 5 and load(built.source).name == built.name


def test_a_script_can_import_its_neighbor_and_leaves_the_path_alone(tmp_path):
    import sys

    before = list(sys.path)
    (tmp_path / "neighbor_of_made.py").write_text("from diffsim.scene import Scene\n")
    file = script(tmp_path, "\nfrom neighbor_of_made import Scene\n" + OPTIONS_SCRIPT, "from pathlib import Path\n")
    assert load(file).name == "made" and sys.path == before


def test_the_same_options_build_the_same_random_scene_and_leave_the_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    first = load(PROJECTILE, policy=True).parameters()
    assert torch.equal(torch.rand(2), expected)
    second = load(PROJECTILE, policy=True).parameters()
    assert list(first) == list(second)
    assert all(torch.equal(first[name], second[name]) for name in first)


def parts(**changed):
    return {"name": "s", "model": None, "steps": 2, "setup": lambda: (None, None), **changed}


WEIGHT = torch.nn.Parameter(torch.zeros(3))


@pytest.mark.parametrize(
    "changed, text",
    [
        ({"steps": 0}, "steps=0"),
        ({"every": 0}, "every=0"),
        ({"color": "mood"}, "color 'mood' is not known"),
        ({"variables": {"w": torch.zeros(3)}}, "variable 'w' is not trainable"),
        ({"bounds": {"w": (0, 1)}}, "bounds of 'w', which is no variable"),
        ({"variables": {"w": WEIGHT}, "bounds": {"w": (0, 1, 2)}}, "must be a pair"),
    ],
)
def test_an_inconsistent_scene_is_refused(changed, text):
    with pytest.raises(SceneError, match=text):
        Scene(**parts(**changed))


@pytest.mark.parametrize(
    "setup, text",
    [
        (lambda: None, r"setup must return \(state, controls\)"),
        (lambda: 1 / 0, r"test_scene\.py:\d+: setup raised ZeroDivisionError"),
        (lambda: (None, torch.tensor([[0.0], [float("nan")]])), "controls of step 1 are not finite"),
    ],
)
def test_a_start_that_cannot_be_used_is_refused(setup, text):
    with pytest.raises(SceneError, match=text):
        Scene(**parts(setup=setup)).start()


@pytest.mark.parametrize(
    "objective, text",
    [
        (None, "has no objective"),
        (lambda path: 3.0, "must return a scalar tensor, not float"),
        (lambda path: torch.zeros(3), r"not a tensor of shape \(3,\)"),
        (lambda path: path.speed, r"test_scene\.py:\d+: objective raised AttributeError"),
    ],
)
def test_an_objective_that_is_no_scalar_is_refused(objective, text):
    with pytest.raises(SceneError, match=text):
        Scene(**parts(objective=objective)).loss(object())
