"""Screen-space ambient occlusion: what creases and contacts look like under an open sky."""

import numpy as np
from scipy import ndimage


def ambient_occlusion(view, depth, pixels, normals, ground_up, radius, step=2):
    """Share of the sky that the surroundings leave open, from the depth image, shape [height * width].

    Of the samples on two rings about a pixel, those that stand above its tangent plane close a part of the sky, the
    near ones more. The rings have one radius over the image, so that a sample is a shifted image.

    Args:
        depth: of bodies and ground [m], shape [height * width].
        pixels, normals: of the bodies' surface.
        ground_up: normal of the ground in view coordinates.
        radius: of the surroundings [m].
    """
    shape = (view.height, view.width)
    open_sky = np.ones(shape, dtype=np.float32)
    if len(pixels) == 0:
        return open_sky.ravel()
    rows, columns = pixels // view.width, pixels % view.width
    middle = np.median(depth[pixels])
    reach = radius * view.focal * (1 if view.orthographic else 1 / middle) / step
    reach = min(reach, 0.08 * view.height)  # close to the eye, samples too far apart would band
    pad = int(np.ceil(reach)) + 1
    top, bottom = max(rows.min() - step * pad, 0) // step * step, min(rows.max() + step * pad + 1, view.height)
    left, right = max(columns.min() - step * pad, 0) // step * step, min(columns.max() + step * pad + 1, view.width)
    window = np.s_[top:bottom:step, left:right:step]
    z = depth.reshape(shape)[window]
    sky = np.isinf(z)
    z = np.where(sky, np.float32(20) * middle, z)
    field = np.broadcast_to(ground_up.astype(np.float32), (*shape, 3)).copy().reshape(-1, 3)
    field[pixels] = normals
    n = np.moveaxis(field.reshape(*shape, 3)[window], 2, 0)
    y, x = np.mgrid[top:bottom:step, left:right:step].astype(np.float32) + np.float32(0.5)
    position = np.moveaxis(view.unproject(x, y, z), 2, 0)
    padded = np.pad(position, ((0, 0), (pad, pad), (pad, pad)), mode="edge")
    height, width = z.shape
    blocked, taps = np.zeros_like(z), 0
    for ring, count in ((0.35, 6), (1.0, 8)):
        for k in range(count):
            angle = 2 * np.pi * (k + ring) / count
            dx, dy = round(ring * reach * np.cos(angle)), round(ring * reach * np.sin(angle))
            d = padded[:, pad + dy : pad + dy + height, pad + dx : pad + dx + width] - position
            square = (d * d).sum(axis=0) + np.float32(1e-12)  # a sample may fall on its own pixel
            rise = (d * n).sum(axis=0) / np.sqrt(square) - np.float32(0.12)
            blocked += np.maximum(rise, 0) / (1 + square * np.float32(0.6 / radius**2))
            taps += 1
    result = np.where(sky, 1, np.clip(1 - 2.4 * blocked / taps, 0.15, 1))
    result = ndimage.uniform_filter(result, 3)
    full = result.repeat(step, axis=0).repeat(step, axis=1)[: bottom - top, : right - left]
    open_sky[top:bottom, left:right] = full
    return open_sky.ravel()
