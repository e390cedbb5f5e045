"""A video of two motions: the true one, the learned one, and the learned one colored by its error."""

import numpy as np

from diffsim.camera import Camera
from diffsim.render import render_frame
from diffsim.video import _camera, _lower, _radius, _up, _walls, write_video

FRAMES = 120  # of a video, at most
SIZE = (320, 320)  # of each of the three pictures


def draw(scene, true: np.ndarray, other: np.ndarray, path, caption: str) -> None:
    """Write the video. true, other: positions (frames, n, d) [m]; it ends where ``other`` does."""
    model, state = scene.model, scene.start()[0]
    dim = true.shape[2]
    domain, up = _walls(model), _up(model, dim)
    ground = float(np.dot(_lower(domain, up), up)) if domain is not None and dim == 3 else None
    camera = scene.camera if isinstance(scene.camera, Camera) else "domain" if domain is not None else None
    every = -(-len(other) // FRAMES)
    picked = range(0, len(other), every)
    states = (state._replace(x=state.x.new_tensor(true[i])) for i in picked)
    radius = _radius(state)
    camera = _camera(camera, states, dim, [], domain, up, SIZE, radius)
    errors = {i: 1e3 * np.linalg.norm(other[i] - true[i], axis=1) for i in picked}
    largest = max(float(np.quantile(error, 0.99)) for error in errors.values())
    shared = {"radius": radius, "camera": camera, "size": SIZE, "ground": ground, "domain": domain}
    interval = model.dt * model.substeps

    def images():
        for i in picked:
            pictures = [
                render_frame(true[i], caption=f"true, t = {i * interval:.3f} s", frame=i, **shared),
                render_frame(other[i], caption=caption, frame=i, **shared),
                render_frame(other[i], scalars=errors[i], limits=(0.0, max(largest, 1e-9)), colorbar="error [mm]",
                             frame=i, **shared),
            ]  # fmt: skip
            yield np.concatenate(pictures, axis=1)

    write_video(path, images(), fps=30)
