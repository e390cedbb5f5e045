"""The renderer: what hides what, where shadows fall, flat scenes, videos, and errors in one line."""

from pathlib import Path
from types import SimpleNamespace

import imageio_ffmpeg
import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from diffsim import coloring, rasterizer, video
from diffsim.camera import Camera
from diffsim.errors import DataError
from diffsim.picture2d import slice_mask
from diffsim.rasterizer import depths, splat_spheres, splat_triangles
from diffsim.render import render_frame
from diffsim.triangles import clip_near, corner_normals
from diffsim.video import render_trajectory, rotation, write_video

RED, BLUE = (0.9, 0.1, 0.1), (0.1, 0.2, 0.9)
FRONT = {"perspective": Camera((0, 0, 5), (0, 0, 0)), "orthographic": Camera((0, 0, 5), (0, 0, 0), height=3.0)}
SIZE = (96, 72)
HEIGHTS = {"y up": (0, 1, 0), "z up": (0, 0, 1)}


def darkness(image, other):
    """How much darker an image is than another, per pixel."""
    return other.astype(int).sum(axis=2) - image.astype(int).sum(axis=2)


def pixel(camera, point, size=SIZE):
    """Row and column where a point is seen."""
    view = camera.view(*size)
    column, row, _ = view.screen(view.coordinates(np.array([point], dtype=float)))
    return int(row[0]), int(column[0])


@pytest.mark.parametrize("camera", FRONT.values(), ids=FRONT)
@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_the_nearer_particle_hides_the_farther_one(camera, order):
    x, colors = np.array([[0, 0, 1.0], [0, 0, -1.0]])[order], np.array([RED, BLUE])[order]
    middle = render_frame(x, radius=0.3, colors=colors, camera=camera, size=SIZE)[36, 48].astype(int)
    assert middle[0] > 2 * middle[2]


def test_a_mesh_hides_the_particles_behind_it_and_not_those_before_it():
    wall = trimesh.creation.box((2, 2, 0.1))
    x = np.array([[-0.4, 0, 1.0], [0.4, 0, -1.0]])
    image = render_frame(x, radius=0.2, colors=RED, meshes=[(wall.vertices, wall.faces, BLUE)],
                         camera=FRONT["orthographic"], size=SIZE)  # fmt: skip
    before, behind = (image[pixel(FRONT["orthographic"], p)].astype(int) for p in x)
    assert before[0] > 2 * before[2] and behind[2] > 2 * behind[0]


@pytest.mark.parametrize("camera", FRONT.values(), ids=FRONT)
def test_depth_is_that_of_the_nearest_sphere_at_every_pixel(camera):
    generator = np.random.default_rng(1)
    view = camera.view(48, 36)
    centers = view.coordinates(generator.uniform(-1, 1, (30, 3)))
    radii = generator.uniform(0.1, 0.3, 30).astype(np.float32)
    keys = view.keys()
    splat_spheres(keys, view, centers, radii)
    column, row, scale = view.screen(centers)
    x, y = np.meshgrid(np.arange(48) + 0.5, np.arange(36) + 0.5)
    square = ((x[..., None] - column) ** 2 + (y[..., None] - row) ** 2) / (radii * scale) ** 2
    z = centers[:, 2] - radii * np.sqrt(np.maximum(1 - square, 0))
    expected = np.where(square < 1, z, np.inf).min(axis=2)
    clear = (np.abs(square - 1) > 1e-4).all(axis=2)  # not on the very edge of a disk, where rounding decides
    assert clear.mean() > 0.95 and np.isfinite(expected).mean() > 0.2
    np.testing.assert_allclose(depths(keys).reshape(36, 48)[clear], expected[clear], rtol=1e-4)


def test_leaving_out_hidden_spheres_changes_no_pixel(monkeypatch):
    generator = np.random.default_rng(2)
    view = Camera((0, 0, 4), (0, 0, 0)).view(160, 120)
    centers = view.coordinates(generator.uniform(-1, 1, (4000, 3)))
    radii = generator.uniform(0.02, 0.09, 4000).astype(np.float32)
    drawn = {}
    visible = rasterizer._maybe_visible
    for name in ("some", "all"):
        kept = []

        def choose(keys, view, column, row, size, front, kept=kept, name=name):
            seen = visible(keys, view, column, row, size, front) if name == "some" else np.ones(len(front), dtype=bool)
            kept.append(seen.sum())
            return seen

        monkeypatch.setattr(rasterizer, "_maybe_visible", choose)
        keys = view.keys()
        splat_spheres(keys, view, centers, radii)
        drawn[name] = keys, sum(kept)
    assert np.array_equal(drawn["some"][0], drawn["all"][0])
    assert drawn["some"][1] < 0.7 * drawn["all"][1]


@pytest.mark.parametrize("camera", FRONT.values(), ids=FRONT)
def test_depth_of_a_triangle_is_that_of_its_plane(camera):
    view = camera.view(48, 36)
    corners = view.coordinates(np.array([[-1, -0.6, -1], [1, -0.7, 1], [0, 0.8, 0.3]]))[None]
    keys = view.keys()
    splat_triangles(keys, view, corners)
    covered = np.flatnonzero(keys != rasterizer.EMPTY)
    assert len(covered) > 100
    row, column = np.divmod(covered, 48)
    points = view.unproject(column + 0.5, row + 0.5, depths(keys)[covered]).astype(float)
    a, b, c = corners[0].astype(float)
    normal = np.cross(b - a, c - a)
    np.testing.assert_allclose((points - a) @ normal / np.linalg.norm(normal), 0, atol=2e-5)


@pytest.mark.parametrize("inside", [0, 1, 2, 3])
def test_clipping_keeps_the_part_of_a_triangle_beyond_the_near_plane(inside):
    z = np.where(np.arange(3) < inside, 2.0, -1.0)
    corners = np.array([[[0.0, 0, z[0]], [1.0, 0, z[1]], [0.0, 1, z[2]]]])
    pieces, source = clip_near(corners, 0.5)
    assert (pieces[..., 2] > 0.49).all() and (source == 0).all()
    a, b = pieces[:, 1] - pieces[:, 0], pieces[:, 2] - pieces[:, 0]
    area = 0.5 * np.abs(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum()
    # the cut leaves half of each edge that crosses, so a quarter or three quarters of the triangle
    assert area == pytest.approx([0, 0.125, 0.375, 0.5][inside], abs=1e-4)


def test_normals_are_smooth_on_a_ball_and_flat_on_a_box():
    ball = trimesh.creation.icosphere(3)
    smooth = corner_normals(ball.vertices, ball.faces)
    assert (np.einsum("fkc,fkc->fk", smooth, ball.vertices[ball.faces]) > 0.999).all()
    box = trimesh.creation.box()
    flat = corner_normals(box.vertices, box.faces)
    np.testing.assert_allclose(flat, np.repeat(box.face_normals[:, None], 3, axis=1), atol=1e-12)


@pytest.mark.parametrize("up", HEIGHTS.values(), ids=HEIGHTS)
def test_a_body_darkens_the_ground_on_the_side_away_from_the_light(up):
    up = np.array(up, dtype=float)
    front = np.array([0, 0, 1.0]) if up[1] else np.array([0, -1.0, 0])
    right = np.cross(up, front)
    camera = Camera(6 * front + 4 * up, 0 * up, up)
    cloud = np.random.default_rng(3).uniform(-0.25, 0.25, (400, 3)) + 0.8 * up
    picture = {"camera": camera, "ground": 0.0, "size": SIZE, "radius": 0.06}
    shaded = render_frame(cloud, **picture)
    bare = render_frame(cloud[:1] + 50 * front, **picture)  # behind the camera
    change = darkness(shaded, bare)
    # the light stands at the left, so that the shadow falls to the right
    shadow = pixel(camera, 0.45 * right)
    assert change[shadow] > 60
    assert abs(change[pixel(camera, -1.2 * right)]) <= 3
    assert change[shadow] > 20 + abs(change[pixel(camera, -0.45 * right - 0.6 * front)])


def test_a_body_casts_a_shadow_on_another_body():
    camera = Camera((0, 5, 5), (0, 0, 0))
    plate = np.stack(np.meshgrid(np.linspace(-1, 1, 40), [0.0], np.linspace(-1, 1, 40)), axis=-1).reshape(-1, 3)
    block = trimesh.creation.box((0.5, 0.1, 0.5))
    block.apply_translation((-0.4, 1.0, 0.0))
    picture = {"camera": camera, "size": SIZE, "radius": 0.04, "colors": (0.8, 0.8, 0.8)}
    bare = render_frame(plate, **picture)
    shaded = render_frame(plate, meshes=[(block.vertices, block.faces, BLUE)], **picture)
    change = darkness(shaded, bare)
    assert (change[20:, 48:] > 60).sum() > 20  # right of the block, which itself is drawn at the left


@pytest.mark.parametrize("aspect", [0.7, 4 / 3, 3.0])
@pytest.mark.parametrize("up", HEIGHTS.values(), ids=HEIGHTS)
def test_the_automatic_camera_sees_the_whole_box(up, aspect):
    low, high = np.array([-1, 0, 2.0]), np.array([3, 0.5, 4.0])
    view = Camera.framing(low, high, up=up, aspect=aspect).view(round(100 * aspect), 100)
    corners = np.stack(np.meshgrid(*zip(low, high, strict=True)), axis=-1).reshape(-1, 3)
    column, row, _ = view.screen(view.coordinates(corners))
    assert column.min() > 0 and column.max() < view.width and row.min() > 0 and row.max() < view.height
    assert np.ptp(column) > 0.6 * view.width or np.ptp(row) > 0.6 * view.height


def test_a_flat_scene_shows_disks_tools_and_walls_where_they_are():
    ball = trimesh.creation.icosphere(3, 0.2)
    ball.apply_translation((0.7, 0.7, 0))
    image = render_frame(np.array([[0.3, 0.3]]), radius=0.1, colors=RED, domain=((0, 0), (1, 1)), size=(200, 200),
                         meshes=[(ball.vertices, ball.faces, BLUE)]).astype(int)  # fmt: skip
    camera = Camera.framing((0, 0), (1, 1), aspect=1)
    disk, tool, empty, corner = (image[pixel(camera, (*p, 0), (200, 200))] for p in
                                 [(0.3, 0.3), (0.7, 0.7), (0.3, 0.7), (-0.02, -0.02)])  # fmt: skip
    assert disk[0] > 2 * disk[2] and tool[2] > 2 * tool[0]
    assert empty.min() > 240 and corner.max() < 240  # paper inside the box, a darker margin around it


SLICES = {
    "ball": (trimesh.creation.icosphere(4, 0.3), np.pi * 0.09),
    "box": (trimesh.creation.box((0.6, 0.2, 1.0)), 0.12),
    "ring": (trimesh.creation.annulus(0.15, 0.35, 0.5), np.pi * (0.35**2 - 0.15**2)),
}


@pytest.mark.parametrize("mesh, area", SLICES.values(), ids=SLICES)
def test_a_slice_of_a_tool_has_the_area_of_its_section(mesh, area):
    turned = mesh.copy()
    turned.apply_transform(trimesh.transformations.rotation_matrix(0.4, (0, 0, 1)))
    view = Camera((0, 0, 1), (0, 0, 0), height=1.0).view(400, 400)
    assert slice_mask(view, turned.vertices, turned.faces).sum() / 400**2 == pytest.approx(area, rel=0.01)


def test_a_ghost_and_a_tool_of_glass_let_the_body_shine_through():
    camera, x = FRONT["perspective"], np.zeros((1, 3))
    pane = trimesh.creation.box((1, 1, 0.1))
    pane.apply_translation((0, 0, 1))
    plain, veiled, covered, ghost = (
        render_frame(x, radius=0.5, colors=RED, camera=camera, size=SIZE, **more)[36, 48].astype(int)
        for more in ({}, {"meshes": [(pane.vertices, pane.faces, (*BLUE, 0.4))]},
                     {"meshes": [(pane.vertices, pane.faces, BLUE)]}, {"ghost": np.array([[0, 0, 1.0]])})
    )  # fmt: skip
    assert plain[2] < veiled[2] < covered[2] and covered[0] < veiled[0]
    assert 0 < np.abs(ghost - plain).max() < np.abs(covered - plain).max()


def test_colors_of_scalars_have_the_same_range_whatever_is_drawn():
    colors, limits = coloring.map_colors([0.0, 1.0, 2.0, np.nan], (0.0, 2.0))
    alone, _ = coloring.map_colors([1.0], (0.0, 2.0))
    assert limits == (0.0, 2.0) and np.array_equal(colors[1], alone[0])
    assert np.array_equal(colors[3], [0.5] * 3)


def test_pressure_is_minus_the_derivative_of_energy_by_volume():
    # psi = k (J - 1)^2 / 2: P = k (J - 1) J F^-T, p = -k (J - 1)
    def stress(F, q):
        J = torch.linalg.det(F)[:, None, None]
        return 3.0 * (J - 1) * J * torch.linalg.inv(F).mT

    F = torch.eye(3) + 0.1 * torch.randn(5, 3, 3, generator=torch.Generator().manual_seed(0))
    state = SimpleNamespace(x=torch.zeros(5, 3), F=F, q=torch.zeros(5, 0), material=torch.zeros(5, dtype=torch.int64))
    model = SimpleNamespace(materials=[SimpleNamespace(elastic=SimpleNamespace(stress=stress), plastic=None)])
    torch.testing.assert_close(coloring.pressure(model, state), -3.0 * (torch.linalg.det(F) - 1))


def test_rotation_turns_as_the_quaternion_says():
    quaternion = np.array([0.3, -0.5, 0.7, 0.2])
    expected = trimesh.transformations.quaternion_matrix(quaternion / np.linalg.norm(quaternion))[:3, :3]
    np.testing.assert_allclose(rotation(quaternion), expected, atol=1e-12)


def states(count, dim=3, n=20):
    """A cloud that drifts and speeds up, under a tool."""
    x = torch.as_tensor(np.random.default_rng(4).uniform(0.3, 0.7, (n, dim)))
    pose = torch.tensor([[0.5, 0.8, 0.5 if dim == 3 else 0.0, 1.0, 0.0, 0.0, 0.0]])
    volume = torch.full((n,), 0.05**dim)
    return [
        SimpleNamespace(x=x + 0.02 * k, v=torch.full((n, dim), 0.1 * k), volume=volume, time=0.1 * k, pose=pose)
        for k in range(count)
    ]


BALL = SimpleNamespace(shape=SimpleNamespace(mesh=lambda: trimesh.creation.icosphere(2, 0.1)))
VIDEOS = {"3-D": (3, (64, 48), (64, 48)), "2-D, odd size": (2, (65, 49), (66, 50))}


@pytest.mark.parametrize("dim, size, decoded", VIDEOS.values(), ids=VIDEOS)
def test_a_video_decodes_to_its_frames_and_size(tmp_path, dim, size, decoded):
    seen = []
    out = render_trajectory(states(5, dim), [BALL], color="speed", size=size, fps=10, out=tmp_path / "video.mp4",
                            png_frames=True, progress=lambda done, total: seen.append((done, total)))  # fmt: skip
    reader = imageio_ffmpeg.read_frames(str(out))
    about = next(reader)
    frames = [np.frombuffer(frame, dtype=np.uint8) for frame in reader]
    assert about["size"] == decoded and len(frames) == 5 and about["fps"] == pytest.approx(10)
    assert about["pix_fmt"].startswith("yuv420p")
    assert seen == [(k + 1, 5) for k in range(5)]
    pictures = sorted((tmp_path / "frames").iterdir())
    assert [p.name for p in pictures] == [f"frame_{k:05d}.png" for k in range(5)]
    assert Image.open(pictures[0]).size == size
    assert sorted(p.name for p in tmp_path.iterdir()) == ["frames", "video.mp4"]  # and no temporary file
    still = np.asarray(Image.open(pictures[4])).astype(int)
    moved = frames[4].reshape(decoded[1], decoded[0], 3)[: size[1], : size[0]].astype(int)
    assert np.abs(still - moved).mean() < 12


def test_a_tool_is_drawn_where_its_pose_says(tmp_path):
    camera = FRONT["orthographic"]
    rod = trimesh.creation.box((1.0, 0.1, 0.1))
    tool = SimpleNamespace(shape=SimpleNamespace(mesh=lambda: rod))
    half = np.sqrt(0.5)
    state = SimpleNamespace(x=np.full((1, 3), 9.0), pose=np.array([[0.5, 0.2, 0, half, 0, 0, half]]))  # upright, moved
    folder = render_trajectory([state], [tool], camera=camera, radius=0.1, size=SIZE, out=None, png_frames=tmp_path)
    image = np.asarray(Image.open(next(Path(folder).iterdir()))).astype(int)
    empty = render_frame(state.x, radius=0.1, camera=camera, size=SIZE).astype(int)
    row, column = np.nonzero(np.abs(image - empty).sum(axis=2) > 30)
    middle = pixel(camera, (0.5, 0.2, 0))
    assert abs(row.mean() - middle[0]) < 2 and abs(column.mean() - middle[1]) < 2
    assert np.ptp(row) > 4 * np.ptp(column)


def test_a_failing_encoder_is_one_line_and_leaves_the_earlier_video(tmp_path, monkeypatch):
    path = tmp_path / "video.mp4"
    path.write_bytes(b"earlier")
    broken = tmp_path / "encoder"
    broken.write_text("#!/bin/sh\necho 'no such codec' >&2\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setattr(video.imageio_ffmpeg, "get_ffmpeg_exe", lambda: str(broken))
    with pytest.raises(DataError, match="ffmpeg failed: no such codec"):
        write_video(path, [np.zeros((64, 64, 3), dtype=np.uint8)] * 40)
    assert path.read_bytes() == b"earlier" and len(list(tmp_path.iterdir())) == 2


def test_an_encoder_that_does_not_start_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(video.imageio_ffmpeg, "get_ffmpeg_exe", lambda: str(tmp_path / "missing"))
    with pytest.raises(DataError, match="ffmpeg does not start") as caught:
        write_video(tmp_path / "video.mp4", [np.zeros((32, 32, 3), dtype=np.uint8)])
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


def broken_states():
    frames = states(4)
    frames[2].x = frames[2].x.clone()
    frames[2].x[7, 1] = float("nan")
    return frames


POINTS = np.zeros((3, 3))
STILL = SimpleNamespace(x=torch.zeros(3, 3), F=None, q=None, pose=None)  # a frame of a file that holds little
BAD = {
    "nan": (lambda out: render_trajectory(broken_states(), out=out), r"frame 2: x of particle 7 .*not finite"),
    "no states": (lambda out: render_trajectory([], out=out), "no frames"),
    "nothing to draw": (lambda out: render_frame(POINTS[:0]), "nothing to draw"),
    "four coordinates": (lambda out: render_frame(np.zeros((3, 4))), r"shape \(3, 4\)"),
    "scalars of another length": (lambda out: render_frame(POINTS, scalars=np.zeros(2)), "scalars has shape"),
    "radius of zero": (lambda out: render_frame(POINTS, radius=0.0), "radius"),
    "unknown colormap": (lambda out: render_frame(POINTS, radius=1, scalars=np.zeros(3), colormap="x"), "colormap 'x'"),
    "every of zero": (lambda out: render_trajectory(states(2), every=0, out=out), "every = 0"),
    "unknown color": (lambda out: render_trajectory(states(1), color="heat", out=out), "'heat'"),
    "unknown camera option": (lambda out: render_trajectory(states(1), camera={"tilt": 1}, out=out), "'tilt'"),
    "tools that no state places": (lambda out: render_trajectory([STILL], [BALL], out=out), "no pose"),
    "pressure without F": (
        lambda out: render_trajectory([STILL], color="pressure", model=SimpleNamespace(materials=[]), out=out), "'F'"),
    "camera on its target": (lambda out: Camera((1, 1, 1), (1, 1, 1)), "must differ"),
    "tools without poses": (lambda out: render_trajectory(states(1), [BALL, BALL], out=out), "2 tools"),
    "no such folder": (lambda out: write_video(out / "a" / "b.mp4", []), "b.mp4|folder"),
    "faces without vertices": (lambda out: render_frame(POINTS, meshes=[(POINTS, [[0, 1, 5]])]), "faces"),
    "images of two sizes": (
        lambda out: write_video(out, [np.zeros((32, s, 3), dtype=np.uint8) for s in (32, 34)]), "keep one size"),
}  # fmt: skip


@pytest.mark.parametrize("call, words", BAD.values(), ids=BAD)
def test_bad_input_is_an_error_of_one_line(tmp_path, call, words):
    with pytest.raises(DataError, match=words) as caught:
        call(tmp_path / "video.mp4")
    assert "\n" not in str(caught.value)
    assert not any(path.is_file() for path in tmp_path.rglob("*"))
