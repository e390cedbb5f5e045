"""Tiles: the particles of 4^d cells, and a private copy of the 8^d nodes that they can touch.

A particle touches the nodes base .. base + 2. Tile K holds, in the user's order, the particles with base in
4K .. 4K + 3 when they were sorted. Its nodes are 4K - 1 .. 4K + 6, so a base may change by one on either side before
the tile must be sorted anew. Each tile is summed by one thread in a fixed order into its own nodes; a node then adds up
the at most 2^d tiles that hold it, again in a fixed order. Nothing depends on the number of threads, no atomic is
needed, and only tiles with particles exist: apart from three integers per block of the box in ``sort``, memory and time
follow the occupied volume.

With k = floor((i + 1) / 4), node i of the grid is held by exactly the tiles k (at local index 0 .. 3) and k - 1
(4 .. 7) of each axis. So the nodes are updated in blocks of 4^d that share the same 2^d tiles, the *owners*. Along a
periodic axis of n cells, node n is node 0 and tile n / 4 is tile 0; node n - 1 belongs to block 0 as its node -1.

The kernels here, ``count_particles`` and ``place_particles``, have no adjoint and need none: they compute integers that
choose the order of summation, which is piecewise constant in the positions and touches results by rounding only.
"""

import itertools
import math
from dataclasses import dataclass

import torch

from diffsim.kernels.arrays import Integers, Rows, Scalars, context, launch
from diffsim.kernels.lang import ti

CELLS = 4  # cells of a tile per axis
NODES = 8  # nodes of a tile per axis
SHARES = 8  # of the work for each thread, so that they balance
CHUNK = 512  # Taichi gives a CPU thread at least this many iterations of a parallel loop


def workers():
    """Number of shares of the work on a CPU."""
    return SHARES * context.threads


class Outside(Exception):  # noqa: N818 - caught by the caller, who knows the step
    """A particle that no tile can hold.

    Attributes:
        particle: its index in the order of the sort's argument.
    """

    def __init__(self, particle):
        super().__init__(particle)
        self.particle = particle


@dataclass
class Tiles:
    """A sorting of the particles.

    order: (n,) user's index of each sorted particle. tile: (n,) its tile.
    tile_info: (tiles + 1, 1 + d) first particle, then the first node per axis; the last row closes the list.
    owners: (owners, d + 2^d) first node per axis, then the tiles that hold the block's nodes, -1 where there is none.
    shares: (workers + 1, 2) first tile and first owner of each worker.
    """

    order: torch.Tensor
    tile: torch.Tensor
    tile_info: torch.Tensor
    owners: torch.Tensor
    shares: torch.Tensor

    @property
    def tile_count(self):
        return self.tile_info.shape[0] - 1

    @property
    def owner_count(self):
        return self.owners.shape[0]


@ti.kernel
def count_particles(
    x: Rows, origin: Scalars, cells: Integers, periodic: Integers, dx: float, key: Integers, count: Integers,
    bad: Integers,
):  # fmt: skip
    ti.loop_config(serialize=True)
    for p in range(x.shape[0]):
        k = 0
        inside = 1
        for a in range(x.shape[1]):
            u = (x[p, a] - origin[a]) * (1.0 / dx)
            low, high, blocks = 0.5, cells[a] - 0.5, cells[a] // CELLS + 1
            if periodic[a] == 1:  # wrapped to 0.5 .. cells + 0.5, but for rounding
                low, high, blocks = -0.5, cells[a] + 1.5, cells[a] // CELLS
            if not (u >= low and u < high):  # a NaN too
                inside = 0
                u = 0.5
            base = ti.floor(u - 0.5, ti.i32)
            if periodic[a] == 1:
                base = ti.min(ti.max(base, 0), cells[a] - 1)
            k = k * blocks + base // CELLS
        if inside == 0 and bad[0] < 0:
            bad[0] = p
        key[p] = k
        count[k] = count[k] + 1


@ti.kernel
def place_particles(key: Integers, position: Integers, compact: Integers, order: Integers, tile: Integers):
    ti.loop_config(serialize=True)
    for p in range(key.shape[0]):
        k = key[p]
        i = position[k]
        position[k] = i + 1
        order[i] = p
        tile[i] = compact[k]


def wrap(block, blocks, periodic):
    """Indices of blocks (..., d) with those of periodic axes brought to 0 .. blocks - 1, in place."""
    for a in range(len(blocks)):
        if periodic[a]:
            block[..., a] %= blocks[a]
    return block


def sort(x, origin, cells, dx, periodic=()):
    """Sort particles into tiles by a stable counting sort.

    Args:
        x: (n, d) positions in the user's order, those along a periodic axis wrapped to 1/2 .. cells + 1/2 cells.
        origin: (d,) position of node 0 [m].
        cells: d ints.
        dx: cell size [m].
        periodic: whether each axis is; none unless given. Such an axis has a multiple of 4 cells.

    Returns:
        Tiles; its order is a function of the positions and their order alone.

    Raises:
        Outside: a particle whose support is not inside the grid, or a position that is not finite.
    """
    dim, count = x.shape[1], x.shape[0]
    periodic = tuple(periodic) or (False,) * dim
    blocks = tuple(c // CELLS + (0 if p else 1) for c, p in zip(cells, periodic, strict=True))
    integers = {"dtype": torch.int32, "device": context.tensor_device}
    key = torch.empty(count, **integers)
    particles = torch.zeros(torch.Size(blocks).numel(), **integers)
    bad = torch.full((1,), -1, **integers)
    box = torch.tensor([cells, periodic], **integers)
    launch(count_particles, x, origin, box[0], box[1], dx, key, particles, bad)
    if bad.item() >= 0:
        raise Outside(bad.item())
    used = torch.nonzero(particles).flatten()
    tile_particles = particles[used]
    first = torch.zeros(len(used) + 1, **integers)
    torch.cumsum(tile_particles, 0, out=first[1:])
    compact = torch.full_like(particles, -1)
    compact[used] = torch.arange(len(used), **integers)
    position = torch.zeros_like(particles)
    position[used] = first[:-1]
    order, tile = torch.empty(count, **integers), torch.empty(count, **integers)
    launch(place_particles, key, position, compact, order, tile)

    strides = [math.prod(blocks[a + 1 :]) for a in range(dim)]
    coordinates = torch.stack([used // strides[a] % blocks[a] for a in range(dim)], 1).to(torch.int32)
    tile_info = torch.zeros(len(used) + 1, 1 + dim, **integers)
    tile_info[:, 0] = first
    tile_info[:-1, 1:] = coordinates * CELLS - 1

    # owners lie at a tile's own block and one further on each axis: pad by one block on both sides
    padded = tuple(b + 2 for b in blocks)
    corners = torch.tensor(list(itertools.product((0, 1), repeat=dim)), **integers)
    lookup = torch.full(padded, -1, **integers)
    lookup[tuple((coordinates + 1).T.long())] = torch.arange(len(used), **integers)
    touched = wrap(coordinates[:, None] + corners, blocks, periodic).reshape(-1, dim) + 1
    mask = torch.zeros(padded, dtype=torch.bool, device=context.tensor_device)
    mask[tuple(touched.T.long())] = True
    owner = torch.nonzero(mask).to(torch.int32)
    held = wrap(owner[:, None] - 1 - corners, blocks, periodic) + 1
    owners = torch.empty(len(owner), dim + len(corners), **integers)
    owners[:, :dim] = (owner - 1) * CELLS - 1
    owners[:, dim:] = lookup[tuple(held.reshape(-1, dim).T.long())].reshape(len(owner), -1)

    if context.device == "cpu":
        parts = torch.arange(workers() + 1)
        shares = torch.empty(workers() + 1, 2, **integers)
        shares[:, 0] = torch.searchsorted(first, parts * count // workers())
        shares[-1, 0] = len(used)
        shares[:, 1] = parts * len(owner) // workers()
    else:  # a thread for each
        parts = torch.arange(len(owner) + 1, device=context.tensor_device)
        shares = torch.stack([parts.clamp(max=len(used)), parts], 1).to(torch.int32)
    return Tiles(order, tile, tile_info, owners, shares)
