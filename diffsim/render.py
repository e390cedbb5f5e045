"""Pictures of particles and tools, drawn in numpy: no display, no GPU, no system package.

    image = render_frame(state.x, radius=0.01, scalars=speed, colorbar="speed [m/s]", ground=0.0, domain=(low, high))

Particles are shaded spheres, tools are meshes; one key light with soft shadows, sky light with ambient occlusion, and a
ground from which depth can be read. Scenes with two coordinates are drawn flat, tools as filled slices.
"""

from functools import lru_cache

import numpy as np

from diffsim.camera import Camera
from diffsim.coloring import PALETTE, map_colors
from diffsim.errors import DataError
from diffsim.occlusion import ambient_occlusion
from diffsim.overlay import annotate, draw_segments
from diffsim.picture2d import render_flat
from diffsim.rasterizer import Primitives, along, turn
from diffsim.shading import GROUND_SHADE, KeyLight, backdrop, decode, encode, shade, unit
from diffsim.triangles import corner_normals

TOOL_COLOR = (0.80, 0.81, 0.84)
GHOST_COLOR = (0.85, 0.30, 0.55)
GHOST_OPACITY = 0.34  # half of it where a body is in the picture


@lru_cache(maxsize=2)
def _stage(camera, width, height, ground):
    """View and backdrop, which stay the same over a video."""
    view = camera.view(width, height)
    up = unit(np.asarray(camera.up))
    focus = float(np.linalg.norm(np.subtract(camera.target, camera.eye)))
    return view, backdrop(view, up, ground, focus)


def render_frame(x, *, radius=None, colors=None, scalars=None, limits=None, colormap="viridis", colorbar=None,
                 meshes=(), camera=None, size=(640, 480), ground=None, domain=None, caption=None, ghost=None,
                 up=(0.0, 1.0, 0.0), supersampling=2, frame=None):  # fmt: skip
    """One picture of particles and meshes.

    Args:
        x: positions [m], shape [n, 3] or [n, 2]; n may be 0 when there are meshes or ghosts.
        radius: of the particles [m], a number or shape [n]; from the spread of the positions when None.
        colors: sRGB in [0, 1], one color or shape [n, 3].
        scalars: shape [n], colored by `colormap` between `limits` = (low, high).
        colorbar: text beside the bar of the scalars' colors, with the unit; None for no bar.
        meshes: (vertices [m] [k, 3], faces [f, 3], color) each; a fourth number in the color is the opacity.
        camera: a `Camera`; framed on the domain, or on what is drawn, when None.
        size: width and height of the picture [pixels].
        ground: height of the ground along `up` [m]; None for no ground.
        domain: corners (low, high) of the box whose edges are drawn [m].
        caption: text at the lower left.
        ghost: points of a target, drawn as a faint body [m], shape [k, d].
        up: the world's upward direction in the automatic camera.
        supersampling: samples per pixel along each axis.
        frame: number named in errors.

    Returns:
        sRGB bytes, shape [height, width, 3].

    Raises:
        DataError: positions that are not finite or of the wrong shape, nothing to draw, or sizes that do not fit.
    """
    x, ghost = _points(x, "x", frame), None if ghost is None else _points(ghost, "ghost", frame)
    dim = x.shape[1]
    if len(x) == 0 and not len(meshes) and (ghost is None or len(ghost) == 0):
        raise DataError(f"{_where(frame)}: nothing to draw; give at least one particle, mesh or ghost point")
    width, height = (int(v) for v in size)
    if width < 16 or height < 16 or supersampling < 1:
        raise DataError(f"{_where(frame)}: size = {tuple(size)}; give at least 16 x 16 pixels and one sample per pixel")
    radii = _radii(radius, x, frame)
    bar = None
    if scalars is not None:
        colors, limits = map_colors(_per_particle(scalars, "scalars", x, frame), limits, colormap)
        bar = None if colorbar is None else (colorbar, *limits, colormap)
    colors = _per_particle(PALETTE[0] if colors is None else colors, "colors", x, frame)
    meshes = [_mesh(*mesh) for mesh in meshes]
    camera = camera or _automatic_camera(x, radii, meshes, ghost, domain, up, width / height)
    target = None if ghost is None else (ghost, _radii(np.median(radii) if len(radii) else None, ghost, frame))
    if dim == 2:
        linear = render_flat(camera.view(width * supersampling, height * supersampling), x, radii, decode(colors),
                             [(v, f, decode(c[:3])) for v, f, c in meshes], ground, domain, target)  # fmt: skip
    else:
        linear = _render_solid(_stage(camera, width * supersampling, height * supersampling, ground), x, radii,
                               decode(colors), meshes, domain, target)  # fmt: skip
    samples = linear.reshape(height, supersampling, width, supersampling, 3)
    cells = [samples[:, i, :, j] for i in range(supersampling) for j in range(supersampling)]
    return annotate(encode(sum(cells[1:], cells[0]) / np.float32(len(cells))), caption, bar)


def _render_solid(stage, x, radii, colors, meshes, domain, target):
    view, scene = stage
    reach = max((float(np.ptp(v, axis=0).max()) for v, _, _ in meshes), default=1.0)
    softness = 1.6 * float(np.median(radii)) if len(radii) else 0.01 * reach
    opaque = _primitives(view, x, radii, colors, [m for m in meshes if m[2][3] >= 1])
    casters = _primitives(view, x, radii, colors, meshes)
    direction = unit(scene.up * 1.0 + np.array([-0.55, 0.15, -0.45])).astype(np.float32)
    image, depth = scene.colors.copy(), scene.depth.copy()

    seen = opaque.clipped(view.near)
    body = seen.surface(view, seen.draw(view))
    body_in_front = body.points[:, 2] < depth[body.pixels]
    body = type(body)(*(part[body_in_front] for part in body))
    depth[body.pixels] = body.points[:, 2]
    extent = np.ptp(body.points, axis=0).max() if len(body.pixels) else 1.0
    occlusion = ambient_occlusion(view, depth, body.pixels, body.normals, scene.up, max(3 * softness, 0.05 * extent))
    light = None
    if len(casters.radii) or len(casters.corners):
        light = KeyLight(casters, direction, softness)
        if len(scene.pixels):
            inside, shadow = light.on_ground(scene.points)
            image[scene.pixels[inside]] *= (1 - GROUND_SHADE * shadow)[:, None]
    near = np.flatnonzero(occlusion < 1)
    image[near] *= (0.25 + 0.75 * occlusion[near])[:, None]
    image[body.pixels] = _lit(view, body, light, direction, scene.up, occlusion)
    if domain is not None:
        _draw_box(view, image, depth, domain)

    glass = [m for m in meshes if m[2][3] < 1]
    if glass:
        layer = _primitives(view, x[:0], radii[:0], colors[:0], glass).clipped(view.near)
        pane = layer.surface(view, layer.draw(view))
        alpha = pane.alpha * (pane.points[:, 2] < depth[pane.pixels])
        _blend(image, pane.pixels, _lit(view, pane, light, direction, scene.up, np.ones_like(occlusion)), alpha)
    if target is not None:
        points, sizes = target
        tint = np.broadcast_to(decode(GHOST_COLOR), (len(points), 3))
        layer = _primitives(view, points, sizes, tint, [])
        haze = layer.surface(view, layer.draw(view))
        alpha = np.where(scene.depth[haze.pixels] == depth[haze.pixels], GHOST_OPACITY, 0.5 * GHOST_OPACITY)
        _blend(image, haze.pixels, _lit(view, haze, None, direction, scene.up, np.ones_like(occlusion)), alpha)
    return image


def _lit(view, surface, light, direction, up, occlusion):
    lit = np.ones(len(surface.pixels), dtype=np.float32)
    if light is not None:
        facing = np.flatnonzero(along(surface.normals, direction) > 0)
        lit[facing] = light.on_bodies(surface.points[facing], surface.normals[facing], surface.pixels[facing])
    return shade(surface, view, direction, up, lit, occlusion[surface.pixels])


def _blend(image, pixels, colors, alpha):
    image[pixels] += alpha[:, None] * (colors - image[pixels])


def _primitives(view, x, radii, colors, meshes):
    corners, tints = [np.empty((0, 3, 6), dtype=np.float32)], [np.empty((0, 4), dtype=np.float32)]
    for vertices, faces, color in meshes:
        normals = turn(corner_normals(vertices, faces), view.axes)
        corners.append(np.concatenate([view.coordinates(vertices)[faces], normals], axis=2).astype(np.float32))
        tints.append(np.tile(np.append(decode(color[:3]), np.float32(color[3])), (len(faces), 1)))
    opacity = np.ones((len(x), 1), dtype=np.float32)
    return Primitives(view.coordinates(x), radii, np.concatenate([colors, opacity], axis=1).astype(np.float32),
                      np.concatenate(corners), np.concatenate(tints))  # fmt: skip


def _draw_box(view, image, depth, domain):
    low, high = (np.asarray(c, dtype=float) for c in domain)
    corners = np.stack(np.meshgrid(*zip(low, high, strict=True), indexing="ij"), axis=-1).reshape(-1, 3)
    edges = [(i, i | bit) for bit in (1, 2, 4) for i in range(8) if not i & bit]
    ends = view.coordinates(corners)[np.array(edges)]
    draw_segments(view, image, depth, ends, decode((0.25, 0.28, 0.33)), 0.45)


def _where(frame):
    return "render_frame" if frame is None else f"frame {frame}"


def _points(x, name, frame):
    x = np.asarray(x.detach().cpu() if hasattr(x, "detach") else x, dtype=float)
    if x.ndim != 2 or x.shape[1] not in (2, 3):
        raise DataError(f"{_where(frame)}: {name} has shape {x.shape}; give positions of shape (n, 2) or (n, 3)")
    bad = np.flatnonzero(~np.isfinite(x).all(axis=1))
    if len(bad):
        raise DataError(f"{_where(frame)}: {name} of particle {bad[0]} is {x[bad[0]].tolist()}, not finite "
                        f"({len(bad)} of {len(x)} particles); draw the frames before it")  # fmt: skip
    return x


def _per_particle(values, name, x, frame):
    values = np.asarray(values.detach().cpu() if hasattr(values, "detach") else values, dtype=float)
    shape = (len(x),) if name == "scalars" else (len(x), 3)
    if values.shape != shape and not (name == "colors" and values.shape == (3,)):
        raise DataError(f"{_where(frame)}: {name} has shape {values.shape} for {len(x)} particles; give {shape}")
    return np.broadcast_to(values, shape)


def _radii(radius, x, frame):
    if radius is None:
        # the share of one particle in the box around all: right for a filled body, small for a thin one
        span = np.ptp(x, axis=0) if len(x) else np.ones(3)
        radius = 0.5 * float(np.prod(np.maximum(span, 1e-3 * span.max() + 1e-9)) / max(len(x), 1)) ** (1 / x.shape[1])
    radius = np.asarray(radius, dtype=np.float32)
    if radius.shape not in ((), (len(x),)) or not (np.isfinite(radius) & (radius > 0)).all():
        raise DataError(f"{_where(frame)}: radius needs one positive number, or one for each of the {len(x)} particles")
    return np.broadcast_to(radius, len(x)).astype(np.float32)


def _mesh(vertices, faces, color=TOOL_COLOR):
    vertices, faces = np.asarray(vertices, dtype=float), np.asarray(faces, dtype=int)
    if vertices.ndim != 2 or vertices.shape[1] != 3 or faces.ndim != 2 or faces.shape[1] != 3 or not len(faces):
        raise DataError(f"mesh: vertices {vertices.shape} and faces {faces.shape}; give shapes (k, 3) and (f, 3)")
    if not np.isfinite(vertices).all() or faces.min() < 0 or faces.max() >= len(vertices):
        raise DataError("mesh: vertices that are not finite, or faces that name vertices that do not exist")
    color = np.asarray(color, dtype=float)
    return vertices, faces, color if len(color) == 4 else np.append(color, 1.0)


def _automatic_camera(x, radii, meshes, ghost, domain, up, aspect):
    if domain is None:
        dim = x.shape[1]
        parts = [x - radii[:, None], x + radii[:, None], *(v[:, :dim] for v, _, _ in meshes)]
        parts = np.concatenate(parts if ghost is None else [*parts, ghost])
        domain = parts.min(axis=0), parts.max(axis=0)
    return Camera.framing(*domain, up=up, aspect=aspect)
