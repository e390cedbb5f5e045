"""Loading and checking triangle meshes."""

from pathlib import Path

import numpy as np
import pytest
import trimesh

from diffsim.errors import MeshError
from diffsim.geometry.mesh import load_mesh, require_solid, resolve_mesh, shipped_meshes
from diffsim.scenes.make_meshes import MESHES, obj_text

DATA = Path(__file__).parents[2] / ".." / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the data folder ../shared/data is not on this machine")


def surfaces(*folders):
    files = [p for folder in folders for p in sorted((DATA / folder).glob("*")) if p.suffix in (".obj", ".stl", ".ply")]
    return files or [None]  # one test that is skipped with its reason, rather than none


def name_of(path):
    return path.stem if path else "absent"


SQUARE = "v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\n"
CUBE = trimesh.creation.box((1, 2, 3))


@needs_data
@pytest.mark.parametrize("path", surfaces("meshes", "tools", "sensors"), ids=name_of)
def test_closed_meshes_load_as_bodies_with_positive_volume(path):
    mesh = load_mesh(path, solid=True)
    assert mesh.is_watertight and mesh.volume > 0
    assert mesh.faces.shape[1] == 3 and len(np.unique(mesh.vertices, axis=0)) == len(mesh.vertices)


@needs_data
@pytest.mark.parametrize("path", surfaces("garments"), ids=name_of)
def test_open_garments_load_but_are_refused_as_bodies(path):
    mesh = load_mesh(path)
    _, uses = np.unique(mesh.edges_sorted, axis=0, return_counts=True)
    with pytest.raises(MeshError, match=rf"{path.name} has {(uses == 1).sum()} open edges.*close"):
        load_mesh(path, solid=True)


# volume / largest extent cubed of the bodies of NCLaw, from its files
NCLAW = {"armadillo": 0.0685, "bunny_785v": 0.1986, "blub": 0.0461, "spot": 0.1409, "bob": 0.1075}
NCLAW |= {"icecream_scoop": 0.1845, "chocolate_syrup": 0.0254}


@needs_data
@pytest.mark.parametrize("name", NCLAW)
def test_placement_gives_the_published_volume_fraction_at_the_asked_size_and_center(name):
    mesh = load_mesh(DATA / "meshes" / f"{name}.obj", solid=True, size=0.4, center=(0.25, 0.4, 0.75))
    assert mesh.volume == pytest.approx(NCLAW[name] * 0.4**3, rel=0.01)
    assert mesh.extents.max() == pytest.approx(0.4, rel=1e-12)
    assert mesh.bounds.mean(axis=0) == pytest.approx([0.25, 0.4, 0.75], abs=1e-12)


@needs_data
@pytest.mark.parametrize("name, corners", [("duck_quads", 15938), ("worm_quads", 690)])
def test_quads_are_split_and_corners_merged(name, corners):
    mesh = load_mesh(DATA / "meshes" / f"{name}.obj")
    assert len(mesh.vertices) == corners and len(mesh.faces) == 2 * corners - 4  # Euler, genus 0


@pytest.mark.parametrize("suffix", ["obj", "stl", "ply", "off"])
def test_every_format_gives_the_same_body(tmp_path, suffix):
    path = tmp_path / f"cube.{suffix}"
    CUBE.export(path)
    mesh = load_mesh(path, solid=True)
    assert len(mesh.vertices) == 8 and len(mesh.faces) == 12
    assert mesh.volume == pytest.approx(6, rel=1e-6)


@pytest.mark.parametrize("scale", [1e-9, 1e-3, 1e6])
def test_corners_are_merged_at_any_scale(tmp_path, scale):
    path = tmp_path / "cube.stl"  # STL repeats the corners of every triangle
    CUBE.copy().apply_scale(scale).export(path)
    assert len(load_mesh(path, solid=True).vertices) == 8


def test_an_inside_out_body_is_turned_over(tmp_path):
    cube = CUBE.copy()
    cube.invert()
    cube.export(tmp_path / "cube.obj")
    assert load_mesh(tmp_path / "cube.obj", solid=True).volume == pytest.approx(6)


def test_a_body_with_one_flipped_triangle_is_repaired(tmp_path):
    faces = CUBE.faces.copy()
    faces[3] = faces[3][::-1]
    trimesh.Trimesh(CUBE.vertices, faces, process=False).export(tmp_path / "cube.obj")
    assert load_mesh(tmp_path / "cube.obj", solid=True).volume == pytest.approx(6)


def test_rotation_turns_about_the_center_of_the_box():
    half = np.sqrt(0.5)
    straight = load_mesh("paddle", size=2.0, center=(1, 2, 3))
    turned = load_mesh("paddle", size=2.0, center=(1, 2, 3), rotation=(half, 0, 0, half))  # 90 degrees about z: x -> y
    expected = (straight.vertices - [1, 2, 3]) @ np.array([[0, 1, 0], [-1, 0, 0], [0, 0, 1]]) + [1, 2, 3]
    assert np.allclose(turned.vertices, expected, atol=1e-12)


def test_without_placement_the_coordinates_are_those_of_the_file(tmp_path):
    (tmp_path / "square.obj").write_text("mtllib missing.mtl\nusemtl red\nvt 0 0\n" + SQUARE + "f 1/1 2/1 3/1 4/1\n")
    mesh = load_mesh(tmp_path / "square.obj")
    assert sorted(map(tuple, mesh.vertices)) == [(0, 0, 0), (0, 1, 0), (1, 0, 0), (1, 1, 0)]
    assert len(mesh.faces) == 2


def test_a_comment_in_another_encoding_does_no_harm(tmp_path):
    (tmp_path / "square.obj").write_bytes("# Körper\n".encode("latin-1") + (SQUARE + "f 1 2 3 4\n").encode())
    assert len(load_mesh(tmp_path / "square.obj").faces) == 2


BROKEN = {
    "empty.obj": (b"", "no triangles"),
    "text.obj": (b"hello\xff\x00 world", "no triangles"),
    "points.obj": (SQUARE.encode(), "no triangles"),
    "nan.obj": (b"v nan 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", "vertex 0 is not finite"),
    "index.obj": (SQUARE.encode() + b"f 1 2 9\n", "not a readable OBJ"),
    "line.obj": (SQUARE.encode() + b"f 1 2 2\n", "no triangle with three corners"),
    "torn.stl": (b"solid x\n facet", "no triangles|not a readable STL"),
    "noise.stl": (b"\x01" * 200, "no triangles|not a readable STL"),
    "torn.ply": (b"ply\nformat", "not a readable PLY"),
    "torn.off": (b"OFF\n3 1", "not a readable OFF"),
    "text.xyz": (b"0 0 0", "format '.xyz'.*\\.obj"),
    "plain": (b"0 0 0", "no suffix"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_named_with_its_fault(tmp_path, name):
    content, fault = BROKEN[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(MeshError, match=fault) as error:
        load_mesh(tmp_path / name)
    assert str(tmp_path / name) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "name, hint", [("missing.obj", "does not exist"), ("bolb", "did you mean 'blob'"), (".", "is a folder")]
)
def test_a_missing_mesh_is_named_with_what_there_is(name, hint):
    with pytest.raises(MeshError, match=hint) as error:
        load_mesh(name)
    assert name in str(error.value)


@pytest.mark.parametrize(
    "option", [{"size": 0.0}, {"size": float("nan")}, {"center": (0, 0)}, {"rotation": (0, 0, 0, 0)}], ids=str
)
def test_a_placement_that_makes_no_sense_is_refused(option):
    with pytest.raises(MeshError, match=next(iter(option))):
        load_mesh("blob", **option)


def klein_bottle(n=12):
    """Closed, every edge of two triangles, and one side only: a grid glued with a flip along one direction."""
    faces = []
    for i in range(n):
        for j in range(n):
            a, b = (i, j), (i, (j + 1) % n)
            c, d = ((i + 1) % n, j), ((i + 1) % n, (j + 1) % n)
            if i == n - 1:
                c, d = (0, -j % n), (0, (-j - 1) % n)
            a, b, c, d = (p * n + q for p, q in (a, b, c, d))
            faces += [(a, b, d), (a, d, c)]
    return trimesh.Trimesh(np.random.default_rng(0).normal(size=(n * n, 3)), faces, process=False)


def flat_closed():
    return trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[0, 1, 2], [0, 2, 1]], process=False)


def doubled_wall():
    faces = np.concatenate([CUBE.faces, CUBE.faces[:1], CUBE.faces[:1][:, ::-1]])
    return trimesh.Trimesh(CUBE.vertices, faces, process=False)


@pytest.mark.parametrize(
    "make, fault",
    [(klein_bottle, "one side only"), (flat_closed, "no volume"), (doubled_wall, "more than two triangles")],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_closed_surface_without_an_inside_is_refused(make, fault):
    with pytest.raises(MeshError, match=fault):
        require_solid(make())


@pytest.mark.parametrize("name", MESHES)
def test_shipped_meshes_are_closed_and_what_their_script_makes(name):
    mesh = load_mesh(name, solid=True)
    made = MESHES[name]()
    assert mesh.is_watertight and mesh.is_winding_consistent and made.volume > 0
    assert mesh.extents.max() == pytest.approx(1, abs=2e-6) and len(mesh.faces) == len(made.faces)
    # compared as numbers: the last decimal may differ between versions of libm
    lines = zip(resolve_mesh(name).read_text().split(), obj_text(made).split(), strict=True)
    assert all(a == b or abs(float(a) - float(b)) < 2e-6 for a, b in lines)


def test_every_shipped_mesh_has_a_script_and_a_file_wins_over_its_name(tmp_path, monkeypatch):
    assert set(shipped_meshes()) == set(MESHES)
    monkeypatch.chdir(tmp_path)
    CUBE.export("blob.obj")
    assert len(load_mesh("blob.obj").faces) == 12 and len(load_mesh("blob").faces) == 1280
