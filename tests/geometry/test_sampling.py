"""Filling bodies with particles."""

from pathlib import Path

import igl
import numpy as np
import pytest
import torch
import trimesh
from scipy.spatial import cKDTree

from diffsim.errors import MeshError, SceneError
from diffsim.geometry.mesh import load_mesh
from diffsim.geometry.sampling import METHODS, fill, fill_ball, fill_box, fill_polygon

DATA = Path(__file__).parents[2] / ".." / "shared" / "data" / "meshes"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the data folder ../shared/data is not on this machine")

L_SHAPE = [(0, 0), (2, 0), (2, 1), (1, 1), (1, 2), (0, 2)]  # area 3, not convex


def box(d):
    return lambda **options: fill_box((0.0, -1.0, 2.0)[:d], (1.0, 1.0, 2.5)[:d], **options)


def ball(d):
    return lambda **options: fill_ball((3.0, -2.0, 1.0)[:d], 0.7, **options)


BODIES = {
    "box-2": (box(2), 2.0),
    "box-3": (box(3), 1.0),
    "disk": (ball(2), np.pi * 0.7**2),
    "ball": (ball(3), 4 / 3 * np.pi * 0.7**3),
    "L": (lambda **options: fill_polygon(L_SHAPE, **options), 3.0),
    "blob": (lambda **options: fill(load_mesh("blob"), **options), load_mesh("blob").volume),
    "paddle": (lambda **options: fill(load_mesh("paddle"), **options), load_mesh("paddle").volume),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("body", BODIES)
def test_volumes_are_equal_and_sum_to_the_body_exactly(body, method):
    make, total = BODIES[body]
    x, volume = make(count=800, method=method)
    assert x.dtype == volume.dtype == torch.float64 and volume.shape == x.shape[:1]
    assert torch.all(volume == volume[0])
    assert volume.sum().item() == pytest.approx(total, rel=1e-12)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("body", BODIES)
def test_the_asked_count_is_met(body, method):
    n = len(BODIES[body][0](count=800, method=method)[0])
    assert n == 800 if method != "lattice" else abs(n - 800) <= 0.05 * 800


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("body", ["disk", "L", "ball", "blob"])
def test_spacing_and_count_agree(body, method):
    make, total = BODIES[body]
    x, _ = make(count=2000, method=method)
    spacing = (total / len(x)) ** (1 / x.shape[1])
    assert len(make(spacing=spacing, method=method)[0]) == pytest.approx(len(x), rel=0.05)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["blob", "paddle"])
def test_particles_are_inside_by_the_exact_winding_number(name, method):
    mesh = load_mesh(name, solid=True)
    x, _ = fill(mesh, count=1500, method=method)
    winding = igl.winding_number(np.array(mesh.vertices), np.array(mesh.faces, dtype=np.int64), x.numpy())
    assert winding == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_particles_of_plane_bodies_are_inside(method):
    x = fill_polygon(L_SHAPE, count=900, method=method)[0]
    assert torch.all((x > 0) & (x < 2)) and not torch.any((x > 1).all(dim=1))
    y = fill_ball((3.0, -2.0), 0.7, count=900, method=method)[0]
    assert torch.all((y - torch.tensor([3.0, -2.0])).norm(dim=1) < 0.7)


# without the paddle on a lattice: its blade holds four or five layers, a matter of a quarter of its mass
@pytest.mark.parametrize("method, body", sorted({(m, b) for m in METHODS for b in BODIES} - {("lattice", "paddle")}))
def test_the_mass_is_centered_where_the_body_is(body, method):
    make, total = BODIES[body]
    x, _ = make(count=2000, method=method)
    if body in ("blob", "paddle"):
        center = load_mesh(body).center_mass
    else:
        center = {"box": (0.5, 0.0, 2.25), "disk": (3, -2), "ball": (3, -2, 1), "L": (5 / 6, 5 / 6)}[body.split("-")[0]]
    error = (x.mean(dim=0) - torch.tensor(np.array(center))[: x.shape[1]]).abs()
    spacing = (total / len(x)) ** (1 / x.shape[1])
    # random: standard errors of the mean; lattice: the surface cuts through cells of this size
    standard_error = x.std(dim=0) / len(x) ** 0.5
    assert torch.all(
        error < {"random": 5 * standard_error, "blue": 2 * standard_error, "lattice": 0.5 * spacing}[method]
    )


@pytest.mark.parametrize("method", METHODS)
def test_the_same_seed_gives_the_same_particles_and_another_one_others(method):
    mesh = load_mesh("blob")
    first, again = (fill(mesh, count=500, method=method, seed=3)[0] for _ in range(2))
    other = fill(mesh, count=500, method=method, seed=4)[0]
    assert torch.equal(first, again) and torch.equal(first, other) == (method == "lattice")


def test_blue_keeps_particles_apart_and_random_does_not():
    nearest = {}
    for method in ("random", "blue"):
        x = fill(load_mesh("blob"), count=3000, method=method)[0].numpy()
        spacing = (load_mesh("blob").volume / 3000) ** (1 / 3)
        nearest[method] = cKDTree(x).query(x, k=2)[0][:, 1] / spacing
    # independent points: mean distance 0.554 of the spacing (Gamma(4/3) (3 / 4 pi)^(1/3)), least distance near 0
    assert nearest["random"].mean() == pytest.approx(0.554, abs=0.03) and nearest["random"].min() < 0.1
    assert nearest["blue"].mean() > 0.75 and nearest["blue"].min() > 0.25


@pytest.mark.parametrize("d", [2, 3])
def test_a_box_lattice_tiles_the_box(d):
    x, volume = fill_box((0.0,) * d, (1.0, 0.5, 0.25)[:d], spacing=0.05)
    assert len(x) == np.prod((20, 10, 5)[:d])
    assert volume[0].item() == pytest.approx(0.05**d, rel=1e-12)
    assert x.min(dim=0).values.numpy() == pytest.approx([0.025] * d) and x[:, 0].max() == pytest.approx(0.975)


def test_a_box_lattice_with_faces_is_the_cube_of_nclaw():
    x, volume = fill_box((0.25,) * 3, (0.75,) * 3, count=1000, faces=True)
    axis = torch.linspace(0.25, 0.75, 10, dtype=torch.float64)
    assert torch.allclose(x, torch.cartesian_prod(axis, axis, axis), atol=1e-15)
    assert volume[0].item() == pytest.approx(0.5**3 / 1000)


@pytest.mark.parametrize("d", [2, 3])
def test_lattice_spacing_is_as_asked_and_sites_mirror(d):
    x, _ = fill_ball((0.0,) * d, 1.0, spacing=0.1)
    distance, _ = cKDTree(x.numpy()).query(x.numpy(), k=2)
    assert distance[:, 1] == pytest.approx(0.1)
    mirrored, _ = cKDTree(x.numpy()).query(-x.numpy())
    assert mirrored.max() < 1e-12


@pytest.mark.parametrize("d", [2, 3])
def test_a_ball_lattice_converges_to_the_volume(d):
    exact = np.pi if d == 2 else 4 / 3 * np.pi
    # lattice point problem: the error of the counted volume falls at least as the surface layer, O(spacing)
    for spacing in (0.2, 0.1, 0.05):
        n = len(fill_ball((0.0,) * d, 1.0, spacing=spacing)[0])
        assert n * spacing**d == pytest.approx(exact, rel=0.3 * spacing)


def test_a_mesh_that_is_inside_out_is_filled_all_the_same():
    mesh = trimesh.creation.box((1, 1, 1))
    expected = fill(mesh, spacing=0.1)[0]
    mesh.invert()
    assert len(expected) == 1000 and torch.equal(fill(mesh, spacing=0.1)[0], expected) and mesh.volume < 0


def test_a_cavity_stays_empty():
    inner = trimesh.creation.icosphere(radius=0.5)
    inner.invert()
    shell = trimesh.util.concatenate([trimesh.creation.icosphere(radius=1.0), inner])
    x, volume = fill(shell, spacing=0.08)
    assert x.norm(dim=1).min() > 0.48 and volume.sum().item() == pytest.approx(shell.volume)


def test_blue_particles_stay_in_a_shell_so_thin_that_the_means_leave_it():
    inner = trimesh.creation.icosphere(radius=0.9)
    inner.invert()
    shell = trimesh.util.concatenate([trimesh.creation.icosphere(radius=1.0), inner])
    x, _ = fill(shell, count=12, method="blue")  # a twelfth of a sphere has its mean near radius 0.8
    winding = igl.winding_number(np.array(shell.vertices), np.array(shell.faces, dtype=np.int64), x.numpy())
    assert winding == pytest.approx(1, abs=1e-6)


@needs_data
@pytest.mark.parametrize(
    "name, fraction, resolution",
    [
        ("armadillo", 0.0685, 72),
        ("bunny_785v", 0.1986, 50),
        ("blub", 0.0461, 80),
        ("spot", 0.1409, 55),
        ("bob", 0.1075, 64),
    ],
)
def test_bodies_of_nclaw_fill_with_the_published_volume_fraction(name, fraction, resolution):
    mesh = load_mesh(DATA / f"{name}.obj", solid=True, size=1.0, center=(0, 0, 0))
    x, volume = fill(mesh, spacing=1 / resolution)
    assert volume.sum().item() == pytest.approx(fraction, rel=0.01)
    # the count itself is a quadrature of the volume, by another way than the triangles' sum
    assert len(x) / resolution**3 == pytest.approx(fraction, rel=0.01)


BAD = {
    "spacing of zero": ({"spacing": 0.0}, "positive length"),
    "negative spacing": ({"spacing": -0.1}, "positive length"),
    "spacing that is not a number": ({"spacing": float("nan")}, "positive length"),
    "count of zero": ({"count": 0}, "at least 1"),
    "count of a half": ({"count": 1.5}, "whole number"),
    "both": ({"count": 10, "spacing": 0.1}, "either"),
    "neither": ({}, "either"),
    "tiny spacing": ({"spacing": 1e-5}, "larger spacing"),
    "unknown method": ({"count": 10, "method": "poisson"}, "lattice, random, blue"),
}


@pytest.mark.parametrize("body", ["box-3", "ball", "blob"])
@pytest.mark.parametrize("case", BAD)
def test_options_out_of_range_are_refused_with_the_reason(body, case):
    options, reason = BAD[case]
    with pytest.raises(SceneError, match=reason):
        BODIES[body][0](**options)


def test_a_spacing_too_coarse_for_any_particle_is_refused():
    ring = trimesh.creation.torus(major_radius=1.0, minor_radius=0.1)
    with pytest.raises(SceneError, match="use a smaller spacing"):
        fill(ring, spacing=2.5)  # its one lattice site is the hole's center


def test_an_open_mesh_is_refused_with_its_open_edges():
    mesh = trimesh.creation.box((1, 1, 1))
    mesh.update_faces(np.arange(12) > 0)
    with pytest.raises(MeshError, match="3 open edges"):
        fill(mesh, spacing=0.1)


@pytest.mark.parametrize(
    "make",
    [
        lambda: fill_box((0, 0), (1, 0), spacing=0.1),
        lambda: fill_box((0,), (1,), spacing=0.1),
        lambda: fill_ball((0, 0, 0), -1.0, spacing=0.1),
        lambda: fill_ball((0, float("nan")), 1.0, spacing=0.1),
        lambda: fill_polygon([(0, 0), (1, 1)], spacing=0.1),
        lambda: fill_polygon([(0, 0), (1, 1), (2, 2)], spacing=0.1),
    ],
    ids=["flat box", "box on a line", "negative radius", "center nan", "two corners", "no area"],
)
def test_bodies_without_an_inside_are_refused(make):
    with pytest.raises(SceneError):
        make()
