"""Signed distances: against closest points, derivatives against differences, and the smoothness of a sampled one."""

import math

import igl
import numpy as np
import pytest
import torch
import trimesh

from diffsim.errors import MeshError, SceneError
from diffsim.geometry.shapes import Box, Capsule, Cylinder, HalfSpace, MeshSDF, Sphere, Torus
from diffsim.kernels.arrays import IntegerRows, Matrices, Rows, Scalars, Vectors, context, launch
from diffsim.kernels.lang import ti
from diffsim.kernels.sdf import FAR, signed_distance
from diffsim.models.tools import Tool, pack

EXACT = context.dtype == torch.float64
TOLERANCE = 1e-12 if EXACT else 2e-6

SHAPES = {
    "sphere": Sphere(0.4),
    "box": Box((0.4, 0.3, 0.2)),
    "thin box": Box((0.5, 0.02, 0.3)),
    "capsule": Capsule(0.5, 0.2),
    "cylinder": Cylinder(0.2, 0.4),
    "disk": Cylinder(0.4, 0.05),
    "half space": HalfSpace(),
    "torus": Torus(0.4, 0.15),
}


@ti.kernel
def evaluate(
    x: Vectors, tool_params: Rows, tool_ints: IntegerRows, sdf: Scalars, phi: Scalars, g: Vectors, H: Matrices
):
    for i in x:
        phi[i], g[i], H[i] = signed_distance(x[i], 0, tool_params, tool_ints, sdf)


def distance(shape, x):
    """phi (n,), gradient (n, 3), Hessian (n, 3, 3) at points (n, 3)."""
    x = torch.as_tensor(x, dtype=context.dtype).contiguous()
    phi, g, H = x.new_zeros(len(x)), x.new_zeros(len(x), 3), x.new_zeros(len(x), 3, 3)
    launch(evaluate, x, *pack([Tool(shape)]), phi, g, H)
    return phi, g, H


def points(count=2000, extent=0.8, seed=0):
    return np.random.default_rng(seed).uniform(-extent, extent, (count, 3))


def reference(shape, x):
    """Signed distance from the nearest of all parts of the surface, by its own geometry."""
    if isinstance(shape, HalfSpace):
        return x[:, 1]
    if isinstance(shape, Sphere):
        return np.linalg.norm(x, axis=1) - shape.radius
    if isinstance(shape, Capsule):
        ends = np.array([[0, -shape.height / 2, 0], [0, shape.height / 2, 0]])
        along = np.clip((x - ends[0]) @ (ends[1] - ends[0]) / shape.height**2, 0, 1)
        return np.linalg.norm(x - ends[0] - along[:, None] * (ends[1] - ends[0]), axis=1) - shape.radius
    if isinstance(shape, Box):
        b = np.array(shape.half_extents)
        faces = []
        for axis in range(3):
            for sign in (-1, 1):
                nearest = np.clip(x, -b, b)
                nearest[:, axis] = sign * b[axis]
                faces.append(np.linalg.norm(x - nearest, axis=1))
        return np.where((np.abs(x) < b).all(axis=1), -1, 1) * np.min(faces, axis=0)
    rho, y = np.hypot(x[:, 0], x[:, 2]), x[:, 1]
    if isinstance(shape, Torus):
        return np.hypot(rho - shape.major_radius, y) - shape.minor_radius
    side = np.hypot(rho - shape.radius, y - np.clip(y, -shape.half_height, shape.half_height))
    caps = [np.hypot(rho - np.clip(rho, 0, shape.radius), y - h) for h in (-shape.half_height, shape.half_height)]
    inside = (rho < shape.radius) & (np.abs(y) < shape.half_height)
    return np.where(inside, -1, 1) * np.minimum(side, np.min(caps, axis=0))


@pytest.mark.parametrize("name", SHAPES)
def test_distance_is_that_to_the_nearest_point_of_the_surface(name):
    x = points()
    phi, _, _ = distance(SHAPES[name], x)
    expected = reference(SHAPES[name], x)
    assert (expected < 0).mean() >= 0.003
    np.testing.assert_allclose(phi, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", ["sphere", "box", "capsule", "cylinder", "disk", "torus"])
def test_distance_agrees_with_the_mesh_that_is_drawn(name):
    x = points(200)
    phi, _, _ = distance(SHAPES[name], x)
    surface = SHAPES[name].mesh()
    of_mesh, *_ = igl.signed_distance(x, np.array(surface.vertices), np.array(surface.faces, dtype=np.int64))
    np.testing.assert_allclose(phi, of_mesh, rtol=0, atol=0.01)


@pytest.mark.parametrize("name", SHAPES)
def test_moving_along_the_gradient_by_the_distance_reaches_the_surface(name):
    x = torch.as_tensor(points(), dtype=context.dtype)
    phi, g, _ = distance(SHAPES[name], x)
    torch.testing.assert_close(g.norm(dim=1), torch.ones_like(phi), rtol=0, atol=TOLERANCE)
    on_surface, _, _ = distance(SHAPES[name], x - phi[:, None] * g)
    assert on_surface.abs().max() <= TOLERANCE


@pytest.mark.skipif(not EXACT, reason="central differences need f64")
@pytest.mark.parametrize("name", [*SHAPES, "mesh"])
def test_gradient_and_hessian_equal_central_differences(name):
    shape = ball(resolution=12) if name == "mesh" else SHAPES[name]
    x, step = torch.as_tensor(points(extent=0.45)), 1e-6
    phi, g, H = distance(shape, x)
    slopes, curvatures = torch.zeros_like(g), torch.zeros_like(H)
    for axis in range(3):
        shift = step * torch.eye(3)[axis].double()
        (high, g_high, _), (low, g_low, _) = distance(shape, x + shift), distance(shape, x - shift)
        slopes[:, axis] = (high - low) / (2 * step)
        curvatures[:, :, axis] = (g_high - g_low) / (2 * step)
    error = (slopes - g).abs().amax(1), (curvatures - H).abs().amax((1, 2))
    # kinks have measure zero: at most a few of 2000 points have one within a step
    assert (error[0] > 1e-7).sum() <= 2
    assert (error[1] > 1e-6 * H.abs().amax((1, 2)).clamp(min=1)).sum() <= 2
    torch.testing.assert_close(H, H.mT)


@pytest.mark.parametrize("name", SHAPES)
def test_derivatives_are_finite_and_of_unit_length_on_the_kinks(name):
    x = np.array(
        [[0, 0, 0], [0, 0.1, 0], [0, -0.3, 0], [0.1, 0, 0], [0, 0, 0.1], [0.1, 0.1, 0.1], [0.4, 0.3, 0.2], [0.4, 0, 0]]
    )
    phi, g, H = distance(SHAPES[name], x)
    np.testing.assert_allclose(phi, reference(SHAPES[name], x), rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(g.norm(dim=1), torch.ones_like(phi), rtol=0, atol=TOLERANCE)
    assert torch.isfinite(H).all()


def ball(radius=0.4, **options):
    return MeshSDF(trimesh.creation.icosphere(subdivisions=5, radius=radius), padding=0.2, **options)


@pytest.mark.parametrize("resolution", [6, 12, 24])
def test_sampled_distance_of_a_sphere_errs_by_a_third_order_term_and_the_facets(resolution):
    x = points()
    r = np.linalg.norm(x, axis=1)
    near = np.abs(r - 0.4) < 0.15
    shape = ball(resolution=resolution)
    phi, _, _ = distance(shape, x[near])
    surface = shape.mesh()
    sag = 0.4 - (surface.face_normals * surface.triangles_center).sum(1).min()
    error = np.abs(phi.numpy() - (r[near] - 0.4)).max()
    assert error <= sag + 0.2 * shape.spacing**3 / 0.25**2


def test_sampled_normal_is_continuous_across_voxel_faces():
    shape = ball(resolution=12)
    first, spacing = np.array(shape.parameters()[:3]), shape.spacing
    rng = np.random.default_rng(1)
    face = first + spacing * (rng.integers(3, 14, (500, 3)) + 0.5 * rng.integers(0, 2, (500, 3)))
    step = 1e-9 if EXACT else 1e-4
    along = rng.normal(size=(500, 3))
    _, g_before, _ = distance(shape, face - step * along)
    _, g_after, _ = distance(shape, face + step * along)
    # the normal turns by at most about 4 / spacing per meter, even on kinks of the distance: it does not jump
    assert (g_after - g_before).abs().max() <= 2 * step * np.linalg.norm(along, axis=1).max() * 4 / spacing + TOLERANCE


def test_far_from_a_mesh_nothing_is_known():
    phi, g, H = distance(ball(resolution=8), [[3.0, 0, 0], [0, -1e6, 0], [1e12, 1e12, 1e12]])
    assert (phi >= 0.999 * FAR).all() and g.abs().max() == 0 and H.abs().max() == 0


def test_meshes_of_several_tools_do_not_mix():
    small, large = ball(0.2, resolution=8), ball(0.4, resolution=8)
    params, ints, sdf = pack([Tool(small), Tool(Sphere(0.1)), Tool(large)])
    x = torch.as_tensor(points(50, 0.4), dtype=context.dtype)
    for row, shape in ((0, small), (2, large)):
        phi, g, H = x.new_zeros(50), x.new_zeros(50, 3), x.new_zeros(50, 3, 3)
        launch(evaluate, x, params[[row]].contiguous(), ints[[row]].contiguous(), sdf, phi, g, H)
        assert torch.equal(phi, distance(shape, x)[0])


def test_a_mesh_is_scaled_then_centered():
    surface = trimesh.creation.box(extents=(2, 2, 2)).apply_translation([5, 0, 0])
    shape = MeshSDF(surface, scale=0.1, center=True, resolution=8)
    np.testing.assert_allclose(shape.mesh().bounds, [[-0.1] * 3, [0.1] * 3], atol=1e-12)
    assert shape.bounding_radius == pytest.approx(0.1 * math.sqrt(3))
    assert surface.bounds[0, 0] == 4  # the caller's mesh is left alone


def test_a_box_of_two_extents_is_endless_along_z():
    phi, _, _ = distance(Box((0.4, 0.3)), [[0.5, 0, 9.0], [0.1, 0.0, -9.0]])
    np.testing.assert_allclose(phi, [0.1, -0.3], atol=TOLERANCE)


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: Sphere(0.0), "radius is 0.0"),
        (lambda: Box((0.1, -0.1, 0.1)), "half_extents is -0.1"),
        (lambda: Box((0.1,)), "half_extents has 1"),
        (lambda: Capsule(height=math.nan, radius=0.1), "height is nan"),
        (lambda: Cylinder(radius=0.1, half_height=math.inf), "half_height is inf"),
        (lambda: Torus(major_radius=0.1, minor_radius=0.1), "minor_radius 0.1 leaves no hole"),
        (lambda: ball(resolution=2), "resolution is 2"),
    ],
)
def test_a_size_that_makes_no_shape_is_refused_by_name(build, message):
    with pytest.raises(SceneError, match=message):
        build()


def test_a_mesh_file_that_is_missing_empty_or_open_is_refused_with_its_name(tmp_path):
    with pytest.raises(MeshError, match=r"nowhere\.obj: there is no such file"):
        MeshSDF(tmp_path / "nowhere.obj")
    (tmp_path / "empty.obj").write_text("v 0 0 0\n")
    with pytest.raises(MeshError, match=r"empty\.obj: "):
        MeshSDF(tmp_path / "empty.obj")
    surface = trimesh.creation.box()
    surface.update_faces(np.arange(len(surface.faces)) > 1)
    surface.export(tmp_path / "open.obj")
    with pytest.raises(MeshError, match=r"open\.obj: the mesh is not watertight"):
        MeshSDF(tmp_path / "open.obj")
    MeshSDF(tmp_path / "open.obj", watertight=False, resolution=8)
