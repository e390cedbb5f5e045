"""MLS-MPM in JAX (XLA's CPU backend): the second peer of ``benchmarks/mpm.py``, with the methods of ``mpm_warp``.

The same step, written as array operations: 27 scattered additions and 27 gathers on whole arrays of particles, in one
``lax.scan`` over the substeps. The gradient is ``jax.grad``'s with every substep rematerialized (``jax.checkpoint``):
the scan keeps the particle states alone, as diffsim does with stored substeps; without it, it keeps every intermediate.
"""

import os
from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
from mpm_block import TARGET, Block

NAME = "jax"


def weights(f):
    """Quadratic B-spline at the three nodes of each axis, (3, n, 3); f in [0.5, 1.5)."""
    return jnp.stack([0.5 * (1.5 - f) ** 2, 0.75 - (f - 1.0) ** 2, 0.5 * (f - 0.5) ** 2])


def substep(block: Block, state):
    """x, v, C, F after dt."""
    x, v, C, F = state
    nodes, dx, dt = block.cells + 1, block.dx, block.dt
    mass, volume = block.density * block.volume, block.volume
    mu = block.E / (2 * (1 + block.nu))
    lam = block.E * block.nu / ((1 + block.nu) * (1 - 2 * block.nu))
    identity = jnp.eye(3, dtype=x.dtype)
    pressure = lam * jnp.log(jnp.linalg.det(F)) - mu
    tau = mu * F @ jnp.swapaxes(F, 1, 2) + pressure[:, None, None] * identity
    affine = mass * C - (dt * volume * 4.0 / dx**2) * tau
    cell = x / dx
    base = (cell - 0.5).astype(jnp.int32)
    f = cell - base
    w = weights(f)
    first = (base[:, 0] * nodes + base[:, 1]) * nodes + base[:, 2]
    grid = jnp.zeros((nodes**3, 4), x.dtype)
    stencil = []
    for i, j, k in product(range(3), repeat=3):
        d = (jnp.array([i, j, k], x.dtype) - f) * dx
        weight = w[i, :, 0] * w[j, :, 1] * w[k, :, 2]
        index = first + (i * nodes + j) * nodes + k
        momentum = mass * v + jnp.einsum("nab,nb->na", affine, d)
        grid = grid.at[index].add(
            weight[:, None] * jnp.concatenate([momentum, jnp.full_like(weight, mass)[:, None]], 1)
        )
        stencil.append((index, weight, d))
    occupied = grid[:, 3:] > 0
    u = jnp.where(occupied, grid[:, :3] / jnp.where(occupied, grid[:, 3:], 1.0) + dt * jnp.array(block.gravity), 0.0)
    number = jnp.arange(nodes)
    free = ((number >= block.margin) & (number <= nodes - 1 - block.margin)).astype(x.dtype)
    u = u.reshape(nodes, nodes, nodes, 3)
    u = u * jnp.stack(jnp.meshgrid(free, free, free, indexing="ij"), -1)
    u = u.reshape(-1, 3)
    v, C = jnp.zeros_like(v), jnp.zeros_like(C)
    for index, weight, d in stencil:
        part = weight[:, None] * u[index]
        v += part
        C += (4.0 / dx**2) * part[:, :, None] * d[:, None, :]
    return x + dt * v, v, C, F + dt * C @ F


class Engine:
    """The block for a number of substeps, forward or with its gradient."""

    def __init__(self, block: Block, substeps: int, gradient: bool):
        self.block = block
        step = jax.checkpoint(partial(substep, block)) if gradient else partial(substep, block)
        identity = np.tile(np.eye(3, dtype=np.float32), (block.count, 1, 1))

        def final(v):
            state = jnp.asarray(block.x), v, jnp.zeros_like(identity), jnp.asarray(identity)
            return jax.lax.scan(lambda s, _: (step(s), None), state, length=substeps)[0][0]

        def loss(v):
            return ((final(v) - jnp.array(TARGET)) ** 2).sum(1).mean()

        self.run, self.slope = jax.jit(final), jax.jit(jax.grad(loss))

    def forward(self, v: np.ndarray | None = None) -> np.ndarray:
        """Final positions (n, 3) [m] from initial velocities v (n, 3) [m/s], the block's own unless given."""
        return np.asarray(self.run(jnp.asarray(self.block.v if v is None else v)))

    def gradient(self) -> np.ndarray:
        """Gradient (n, 3) [m s] of the mean square distance from the target with respect to initial velocities."""
        return np.asarray(self.slope(jnp.asarray(self.block.v)))


def initialize(threads: int) -> None:
    """XLA's CPU backend takes all cores of the process."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
