"""Videos and pictures of trajectories: states in, an H.264 file out.

    render_trajectory(path, color="speed", out="video.mp4")

The encoder is the one that imageio-ffmpeg brings along; nothing of the system is needed.
"""

import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from PIL import Image

from diffsim.camera import Camera
from diffsim.coloring import COLORMAPS, LABELS, as_array, color_limits, palette, scalar_of
from diffsim.errors import DataError
from diffsim.render import TOOL_COLOR, render_frame
from diffsim.runs import atomic_write

FILL = {2: 2**0.5, 3: 1.0}  # disks reach to the corners of their squares, so that a filled body has no gaps


def write_png(path, image):
    """Write sRGB bytes [height, width, 3] as a PNG that is never half-written."""
    atomic_write(path, lambda temporary: Image.fromarray(image).save(temporary, format="PNG"))


def write_video(path, images, *, fps=30):
    """Write images as H.264 in an MP4 file (yuv420p, which browsers play) that is never half-written.

    Args:
        images: iterable of sRGB bytes [height, width, 3], all of one size; an odd size gets one more row or column.
        fps: frames per second of the video.

    Raises:
        DataError: no images, images of different sizes, or an encoder that fails. An earlier file stays as it was.
    """
    path = Path(path)
    if not fps > 0:
        raise DataError(f"{path}: fps = {fps}; give a positive number of frames per second")
    atomic_write(path, lambda temporary: _encode(path, temporary, iter(images), fps))


def _encode(path, temporary, images, fps):
    first = next(images, None)
    if first is None:
        raise DataError(f"{path}: no frames to write; render at least one state")
    height, width = (n + n % 2 for n in first.shape[:2])
    command = ["-y", "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24",
               "-s", f"{width}x{height}", "-r", str(fps), "-i", "-", "-an", "-c:v", "libx264", "-preset", "medium",
               "-crf", "18", "-pix_fmt", "yuv420p", "-movflags", "+faststart", "-f", "mp4", str(temporary)]  # fmt: skip
    with tempfile.TemporaryFile() as log:
        # its own session: Ctrl-C reaches this process first, which then ends the encoder in order
        try:
            encoder = subprocess.Popen([imageio_ffmpeg.get_ffmpeg_exe(), *command], stdin=subprocess.PIPE,
                                       stdout=subprocess.DEVNULL, stderr=log, start_new_session=True)  # fmt: skip
        except (OSError, RuntimeError) as error:
            raise DataError(f"{path}: ffmpeg does not start ({error}); install imageio-ffmpeg again") from error
        try:
            image = first
            while image is not None:
                if image.shape != first.shape:
                    raise DataError(f"{path}: a frame of {image.shape} after frames of {first.shape}; keep one size")
                rest = (height - image.shape[0], width - image.shape[1])
                encoder.stdin.write(np.pad(image, ((0, rest[0]), (0, rest[1]), (0, 0)), mode="edge").tobytes())
                image = next(images, None)
            encoder.stdin.flush()
        except BrokenPipeError:
            pass  # the encoder ended early; its own words are below
        except BaseException:
            encoder.kill()
            raise
        finally:
            with suppress(BrokenPipeError):
                encoder.stdin.close()
            code = encoder.wait()
        if code != 0:
            log.seek(0)
            words = log.read().decode(errors="replace").strip().splitlines() or [f"exit status {code}"]
            raise DataError(f"{path}: ffmpeg failed: {words[-1]}; check the disk and the size of the pictures")


def render_trajectory(frames, tools=None, *, model=None, color="body", camera=None, radius=None, limits=None,
                      colormap=None, bodies=None, size=(640, 480), fps=30, out="video.mp4", png_frames=False, every=1,
                      caption=None, ghost=None, ground="auto", domain="auto", up=None, tool_opacity=1.0,
                      supersampling=2, progress=None):  # fmt: skip
    """Render states to a video, and to PNG files when asked.

    Args:
        frames: a `Trajectory`, a sequence or an iterable of states (anything with `.x`; `.v`, `.pose`, `.material`,
            `.volume` and `.time` are used where present).
        tools: tools with `.shape.mesh()`, posed by the rows of `state.pose`; the model's when None.
        model: gives grid, walls, gravity and tools; `frames.model` when None.
        color: "body", "speed", "pressure", "plastic", the name of a field of the state, or a function
            state -> scalars (n,), all with one range of colors over the video.
        camera: a `Camera`; a dict of its arguments or of those of `Camera.framing`; "domain" for the whole box; None to
            frame what moves and a fixed ``ghost``.
        radius: of particles [m]; when None, half the edge of a particle's volume (in 2-D half the diagonal).
        limits: (low, high) of the colors; from all frames when None.
        bodies: number of each particle's body, shape [n]; its material when None.
        out: the video; None to write PNG files only.
        png_frames: also write `frames/frame_00000.png` beside the video; or the folder for them.
        every: take each `every`-th state.
        caption: a text, a function (index, state) -> text, or "" for none; the time when None.
        ghost: target points drawn as a faint body [m], shape [k, d], or a function state -> points.
        ground, domain: as in `render_frame`; "auto" takes them from the model's walls.
        up: upward direction; against gravity when None.
        tool_opacity: below 1 the bodies shine through the tools.
        progress: function (done, total) called after each frame.

    Returns:
        The path of the video, or the folder of pictures.

    Raises:
        DataError: no states, a state that cannot be drawn, a color that the states do not have, or a failing encoder.
    """
    model = getattr(frames, "model", None) if model is None else model
    frames = [frames] if hasattr(frames, "_fields") else frames  # a single state
    frames = frames if hasattr(frames, "__getitem__") else list(frames)
    if every < 1:
        raise DataError(f"{out}: every = {every}; give a whole number of frames, at least 1")
    picked = range(0, len(frames), every)
    if len(picked) == 0:
        raise DataError(f"{out}: no frames to render; give at least one state")
    tools = (getattr(model, "tools", None) or ()) if tools is None else tools
    first = frames[0]
    dim = first.x.shape[1]
    walls = _walls(model)
    domain = walls if isinstance(domain, str) else domain
    up = _up(model, dim) if up is None else tuple(up)
    if isinstance(ground, str):
        # in two dimensions the box itself shows the floor
        ground = None if domain is None or dim == 2 else float(np.dot(_lower(domain, up), up))
    radius = _radius(first) if radius is None else radius
    meshes = [_tool_mesh(tool, tool_opacity) for tool in tools]
    skin = getattr(model, "skin", None) if dim == 3 else None  # of a body of nodes: drawn instead of its nodes
    scalar = None if color == "body" else scalar_of(color, model)
    if scalar is not None and limits is None:
        limits = color_limits((scalar(frames[i]) for i in picked), symmetric=color == "pressure")
    still = None if ghost is None or callable(ghost) else as_array(ghost)
    camera = _camera(camera, (frames[i] for i in picked), dim, meshes, domain, up, size, radius, still)
    bodies = getattr(first, "material", None) if bodies is None else bodies
    colors = palette(np.zeros(len(first.x)) if bodies is None else as_array(bodies))
    label = LABELS.get(color, color if isinstance(color, str) else "") if scalar is not None else None
    colormap = colormap or COLORMAPS.get(color if isinstance(color, str) else "", "viridis")
    out = None if out is None else Path(out)
    folder = None
    if png_frames or out is None:
        folder = Path(png_frames) if not isinstance(png_frames, bool) else (out or Path(".")).parent / "frames"
        folder.mkdir(parents=True, exist_ok=True)

    def images():
        for done, index in enumerate(picked):
            state = frames[index]
            x, bare = as_array(state.x), skin is not None and scalar is None
            body = [] if skin is None else [(x, skin, tuple(palette([0])[0])), *_obstacles(model, state)]
            image = render_frame(
                x[:0] if bare else x, radius=None if bare else radius, colors=None if scalar or bare else colors,
                limits=limits, colormap=colormap, scalars=scalar(state) if scalar else None, colorbar=label,
                meshes=[*_posed(meshes, state), *body],
                camera=camera, size=size, ground=ground, domain=domain, caption=_caption(caption, index, state),
                ghost=ghost(state) if callable(ghost) else ghost, supersampling=supersampling, frame=index)  # fmt: skip
            if folder is not None:
                write_png(folder / f"frame_{done:05d}.png", image)
            yield image
            if progress is not None:
                progress(done + 1, len(picked))

    if out is None:
        for _ in images():
            pass
        return folder
    write_video(out, images(), fps=fps)
    return out


def _obstacles(model, state):
    """Meshes of what a body of nodes collides with, where they are."""
    contact = getattr(model, "contact", None)
    found = [] if contact is None else contact.obstacles
    return [(as_array(o.at(float(state.time)).detach()), np.asarray(o.faces), TOOL_COLOR) for o in found]


def _walls(model):
    """Corners of the box between the walls, which stand margin - 1 nodes inside the grid."""
    grid = getattr(model, "grid", None)
    if grid is None:
        return None
    inset = (getattr(getattr(model, "walls", None), "margin", 1) - 1) * grid.dx
    origin = np.asarray(grid.origin, dtype=float)
    return origin + inset, origin + np.asarray(grid.cells) * grid.dx - inset


def _up(model, dim):
    """The axis against gravity; y where there is none."""
    gravity = getattr(model, "gravity", None)
    if dim == 3 and gravity is not None:
        g = as_array(gravity).astype(float).ravel()
        axis = int(np.argmax(np.abs(g))) if len(g) == 3 else 1
        if len(g) == 3 and g[axis] != 0:
            return tuple(float(-np.sign(g[axis])) if k == axis else 0.0 for k in range(3))
    return (0.0, 1.0, 0.0)


def _lower(domain, up):
    """The corner of the box that lies lowest along `up`."""
    low, high = domain
    return np.where(np.asarray(up) >= 0, low, high)


def _radius(state):
    volume = getattr(state, "volume", None)
    if volume is None:
        return None
    dim = state.x.shape[1]
    return FILL[dim] * as_array(volume).astype(float) ** (1 / dim) / 2


def _tool_mesh(tool, opacity):
    mesh = tool.shape.mesh()
    return np.asarray(mesh.vertices, dtype=float), np.asarray(mesh.faces), (*TOOL_COLOR, opacity)


def rotation(quaternion):
    """Rotation matrix of a quaternion (w, x, y, z), shape [3, 3]."""
    w, x, y, z = np.asarray(quaternion, dtype=float) / np.linalg.norm(quaternion)
    return np.array([
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ])  # fmt: skip


def _posed(meshes, state):
    if not meshes:
        return []
    poses = getattr(state, "pose", None)
    if poses is None:
        raise DataError("the states hold no pose, so the tools cannot be placed; give tools=() to leave them out")
    poses = as_array(poses)
    if poses.shape != (len(meshes), 7):
        raise DataError(
            f"pose has shape {poses.shape} for {len(meshes)} tools; give position and quaternion wxyz of each"
        )
    return [(v @ rotation(pose[3:]).T + pose[:3], f, c) for (v, f, c), pose in zip(meshes, poses, strict=True)]


def _caption(caption, index, state):
    if callable(caption):
        return caption(index, state)
    if caption is None:
        time = getattr(state, "time", None)
        return None if time is None else f"t = {float(time):.3f} s"
    return caption


def _camera(camera, states, dim, meshes, domain, up, size, radius, ghost=None):
    if isinstance(camera, Camera):
        return camera
    options = dict(camera) if isinstance(camera, dict) else {}
    allowed = ("eye", "target", "up", "fov", "height") if "eye" in options else ("up", "direction", "fov", "margin")
    for name in options:
        if name not in allowed:
            raise DataError(f"camera: {name!r} is not known; use {', '.join(allowed)}")
    if "eye" in options:
        return Camera(**{"up": up, **options})
    options = {"up": up, "aspect": size[0] / size[1], **options}
    if domain is not None and (camera == "domain" or dim == 2):
        low, high = domain
    else:
        low, high = np.full(dim, np.inf), np.full(dim, -np.inf)
        if ghost is not None:
            low, high = ghost.min(axis=0, initial=np.inf), ghost.max(axis=0, initial=-np.inf)
        for state in states:
            x = as_array(state.x)
            x = x[np.isfinite(x).all(axis=1)]  # a broken frame is named when it is drawn
            for points in (x, *(v[:, :dim] for v, _, _ in _posed(meshes, state))):
                low = np.minimum(low, points.min(axis=0, initial=np.inf))
                high = np.maximum(high, points.max(axis=0, initial=-np.inf))
        if not np.isfinite(high - low).all():
            low, high = np.zeros(dim), np.ones(dim)
        if domain is not None:  # a tool may reach far out of the box
            low, high = np.maximum(low, domain[0]), np.minimum(high, domain[1])
        spare = max(0.08 * (high - low).max(), 0.0 if radius is None else 3 * float(np.max(radius)), 1e-6)
        low, high = low - spare, high + spare
    return Camera.framing(low, high, **options)
