"""Tiles: every particle lies in its own, the order is stable, and each node is owned by all tiles that hold it."""

import itertools

import pytest
import torch

from diffsim.kernels.arrays import context
from diffsim.kernels.reduction import ordered_sum, reduce_rows, repeat
from diffsim.kernels.tiles import CELLS, NODES, sort, workers

GRIDS = [  # cells, dx, origin, periodic
    ((16, 16), 1 / 16, (0.0, 0.0), (False, False)),
    ((9, 21), 0.3, (-1.0, 2.0), (False, False)),
    ((8, 12, 10), 0.1, (0.0, -0.5, 3.0), (False, False, False)),
    ((16, 9), 0.3, (-1.0, 2.0), (True, False)),
    ((4, 12, 8), 0.1, (0.0, -0.5, 3.0), (True, False, True)),
]


def sorted_particles(cells, dx, origin, periodic, count=500):
    """Positions at random among the middle of the grid and its edges, and their tiles."""
    generator = torch.Generator().manual_seed(0)
    u = torch.rand(count, len(cells), generator=generator, dtype=torch.float64)
    u[: count // 2] = (u[: count // 2] * 3 - 1).clamp(0, 1)  # two thirds of these at an edge, per axis
    size, low = torch.tensor(cells, dtype=torch.float64), torch.tensor(origin, dtype=torch.float64)
    size = torch.where(torch.tensor(periodic), size + 1.0, size)  # a period more of room
    x = (low + dx * (0.51 + u * (size - 1.02))).to(context.dtype)
    base = torch.floor((x - low.to(x)) * (1.0 / dx) - 0.5).long()
    return base, sort(x, low.to(x), cells, dx, periodic)


@pytest.mark.parametrize("cells, dx, origin, periodic", GRIDS)
def test_every_particle_lies_in_its_tile_in_the_users_order(cells, dx, origin, periodic):
    base, tiles = sorted_particles(cells, dx, origin, periodic)
    assert sorted(tiles.order.tolist()) == list(range(len(base)))
    for tile in range(tiles.tile_count):
        first, last = int(tiles.tile_info[tile, 0]), int(tiles.tile_info[tile + 1, 0])
        members = tiles.order[first:last].long()
        assert last > first and members.tolist() == sorted(members.tolist())
        assert (tiles.tile[first:last] == tile).all()
        local = base[members] - tiles.tile_info[tile, 1:].long()
        assert local.min() >= 1 and local.max() <= CELLS  # one cell of drift to either side stays within the nodes
    assert int(tiles.tile_info[-1, 0]) == len(base)


@pytest.mark.parametrize("cells, dx, origin, periodic", GRIDS)
def test_owners_name_every_tile_of_a_node_once_and_at_its_place(cells, dx, origin, periodic):
    _, tiles = sorted_particles(cells, dx, origin, periodic)
    dim, corners = len(cells), list(itertools.product((0, CELLS), repeat=len(cells)))
    periods = [cell if p else 10**6 for cell, p in zip(cells, periodic, strict=True)]
    held = {}  # node -> (tile, local index) as the tiles see it
    for tile in range(tiles.tile_count):
        first = tiles.tile_info[tile, 1:].tolist()
        for local in itertools.product(range(NODES), repeat=dim):
            node = tuple((a + b) % n for a, b, n in zip(first, local, periods, strict=True))
            held.setdefault(node, set()).add((tile, local))
    owned = {}
    for row in tiles.owners.tolist():
        for local in itertools.product(range(CELLS), repeat=dim):
            node = tuple((a + b) % n for a, b, n in zip(row[:dim], local, periods, strict=True))
            assert node not in owned
            places = [
                (t, tuple(a + b for a, b in zip(local, c, strict=True)))
                for t, c in zip(row[dim:], corners, strict=True)
            ]
            owned[node] = {place for place in places if place[0] >= 0}
    assert owned == held


@pytest.mark.parametrize("cells, dx, origin, periodic", GRIDS)
def test_the_workers_share_all_tiles_and_owners(cells, dx, origin, periodic):
    _, tiles = sorted_particles(cells, dx, origin, periodic)
    shares = tiles.shares
    count = workers() if context.device == "cpu" else tiles.owner_count  # on a GPU a thread for each owner
    assert shares.shape == (count + 1, 2) and (shares[1:] >= shares[:-1]).all()
    assert shares[0].tolist() == [0, 0] and shares[-1].tolist() == [tiles.tile_count, tiles.owner_count]


def test_one_particle_has_one_tile():
    base, tiles = sorted_particles((16, 16), 1 / 16, (0.0, 0.0), (False, False), count=1)
    assert tiles.tile_count == 1 and tiles.owner_count == 4


def test_rows_are_reduced_to_their_target():
    values = torch.randn(1000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(context.dtype)
    target = torch.randint(0, 7, (1000,), generator=torch.Generator().manual_seed(1), dtype=torch.int32)
    expected = torch.zeros(7, 3, dtype=torch.float64).index_add(0, target.long(), values.double())
    tolerance = 1e-13 if context.dtype == torch.float64 else 1e-5
    assert torch.allclose(reduce_rows(values, target, 7).double(), expected, rtol=0, atol=tolerance * 100)
    assert torch.allclose(ordered_sum(values).double(), values.double().sum(0), rtol=0, atol=tolerance * 100)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 64])
def test_ordered_sums_take_every_row_once(count):
    values = 2.0 ** torch.arange(count, dtype=torch.float64)[:, None] if count < 53 else torch.ones(count, 1)
    assert ordered_sum(values).item() == values.sum().item()


@pytest.mark.parametrize("count", [1, 3, 8])
def test_a_repeated_value_gets_the_sum_of_what_its_copies_get(count):
    value = torch.tensor([1.0, -2.0], dtype=torch.float64, requires_grad=True)
    copies = repeat(value, count)
    assert torch.equal(copies, value.expand(count, 2))
    weight = torch.arange(2.0 * count, dtype=torch.float64).reshape(count, 2)
    assert torch.equal(torch.autograd.grad((weight * copies).sum(), value)[0], weight.sum(0))
