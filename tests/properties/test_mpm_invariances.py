"""What a motion must not depend on, bit for bit or to roundoff, and what it must keep, for starts of every kind.

Angular momentum on particles, with D = dx^2 / 4 (quadratic B-splines), counts the affine part:

    L_ab = sum_p m (x_a v_b - x_b v_a) + m D (C_ba - C_ab),

which is that of the nodes, sum_i x_a p_b - x_b p_a with p = w m (v + C d), since sum_i w d = 0 and sum_i w d d^T = D I.
That the transfers keep it: Jiang, Schroeder and Teran 2017, An angular momentum conserving affine-particle-in-cell
method, doi:10.1016/j.jcp.2017.02.050.
"""

import pytest
import torch
from bodies import DX, block, model, neo_hookean, parameter, tensor
from hypothesis import given
from hypothesis import strategies as st

import diffsim as ds
from diffsim.kernels.density import node_mass
from diffsim.kernels.tiles import CELLS

STEPS = 4
PARTICLE = ("x", "v", "C", "F", "q", "X", "volume", "material")
seeds = st.integers(0, 2**16)
speeds = st.floats(-1.0, 1.0)


def generator(seed):
    return torch.Generator().manual_seed(seed)


def rearranged(state, order):
    """Particle order[i] of a state as particle i."""
    return state._replace(**{name: getattr(state, name)[order] for name in PARTICLE})


def joined(one, other):
    """The particles of two states in one."""
    return one._replace(**{name: torch.cat([getattr(one, name), getattr(other, name)]) for name in PARTICLE})


def outcome(simulation, state, controls=None, parts=(STEPS,)):
    """x, v, C, F after rollouts of so many steps each, and the gradients of a function of them by those of the start.

    ``parts`` of one number is one rollout; more are rollouts one after the other.
    """
    start = {name: getattr(state, name).clone().requires_grad_() for name in ("x", "v", "C", "F")}
    last, first = state._replace(**start), 0
    for steps in parts:
        some = None if controls is None else controls[first : first + steps]
        last, first = ds.rollout(simulation, last, some, steps)[-1], first + steps
    # per particle, so that it is a sum over bodies
    loss = (last.v * last.x).sum() + (last.F * last.F).sum() + (last.C * last.C).sum() * DX**2
    results = {name: getattr(last, name).detach() for name in start}
    gradients = torch.autograd.grad(loss, list(start.values()))
    return results | {f"gradient by {name}": g for name, g in zip(start, gradients, strict=True)}


def assert_same_bits(one, other):
    different = [name for name in one if not torch.equal(one[name], other[name])]
    assert not different


def touched():
    """A body that falls on a floor with friction and on a turning sphere."""
    tool = ds.Tool(ds.Sphere(0.1), pose=((0.5, 0.32), (1, 0, 0, 0)), friction=parameter(0.3))
    simulation = model(gravity=9.8, tools=[tool], walls=ds.Walls("separating", friction=parameter(0.2)))
    return simulation, tensor([(0.1, 0.3, 0.0, 0.0, 0.0, 2.0)] * STEPS)[:, None]


@given(seed=seeds)
def test_the_order_of_the_particles_matters_to_roundoff_only(seed):
    """To roundoff: the particles of a tile are added to its nodes in the user's order, so another order rounds anew."""
    simulation, controls = touched()
    state = block(simulation, 60, v=(0.5, -1.0), seed=seed)
    order = torch.randperm(60, generator=generator(seed))
    one = outcome(simulation, state, controls)
    other = outcome(simulation, rearranged(state, order), controls)
    for name, value in one.items():
        scale = float(value.abs().max())
        torch.testing.assert_close(other[name], value[order], rtol=0, atol=1e-11 * scale, msg=name)


@given(seed=seeds, vx=speeds, vy=speeds)
def test_two_far_bodies_in_one_scene_are_two_scenes_bit_for_bit(seed, vx, vy):
    """Whatever the order in which the bodies' particles are mixed: each keeps its own.

    Bit for bit: bodies that share no tile share no sum. (What is summed over the whole scene, as the gradient of a
    common stiffness is, is another sum.)
    """
    walls = ds.Walls("separating", friction=parameter(0.2))
    simulation = model([neo_hookean(), neo_hookean(E=500.0)], gravity=9.8, walls=walls)
    left = block(simulation, 30, low=(0.14, 0.12), v=(vx, vy), seed=seed)
    right = block(simulation, 30, low=(0.7, 0.5), v=(vy, vx), material=1, seed=seed + 7)
    mixed = torch.randperm(60, generator=generator(seed))
    for body in (range(30), range(30, 60)):  # the order within each is that of its own scene
        places = torch.isin(mixed, torch.tensor(body)).nonzero()[:, 0]
        mixed[places] = torch.tensor(body)
    both = outcome(simulation, rearranged(joined(left, right), mixed))
    place = mixed.argsort()
    for alone, rows in ((left, place[:30]), (right, place[30:])):
        assert_same_bits(outcome(simulation, alone), {name: value[rows] for name, value in both.items()})


@given(seed=seeds, cut=st.integers(1, STEPS - 1))
def test_a_run_in_two_parts_is_the_whole_run_bit_for_bit(seed, cut):
    """Nothing but the state goes from one step to the next; sorting starts anew from the user's order."""
    simulation, controls = touched()
    state = block(simulation, 40, v=(0.5, -1.0), seed=seed)
    whole = outcome(simulation, state, controls)
    assert_same_bits(outcome(simulation, state, controls, parts=(cut, STEPS - cut)), whole)


def moved_by(cells, seed, axis):
    """Results and gradients of a body, and of the same body so many cells further, with the shift taken out of x.

    The body stays where a position has the same unit in the last place, and starts from multiples of 2^-20 m, so that
    the shift itself rounds nothing.
    """
    dx = 1 / 32
    material = [ds.Material(ds.materials.NeoHookean(1e3, 0.3), density=10.0)]
    simulation = ds.models.MPM(ds.Grid((32, 32), dx), material, dt=1e-3, substeps=5, walls=ds.Walls("none"))
    state = block(simulation, 40, low=(0.53, 0.53), size=0.15, seed=seed)
    x = (state.x * 2**20).round() / 2**20
    shift = torch.zeros(2, dtype=x.dtype)
    shift[axis] = cells * dx
    here, there = outcome(simulation, state._replace(x=x)), outcome(simulation, state._replace(x=x + shift))
    there["x"] = there["x"] - shift
    return here, there


@given(seed=seeds, tiles=st.integers(1, 2), axis=st.integers(0, 1))
def test_a_shift_by_whole_tiles_changes_no_bit(seed, tiles, axis):
    """The cells of a shifted body look alike, and so do its tiles: the same sums in the same order.

    Gradients by x differ, since the function of the test depends on where the body is; the others but for v do not.
    """
    here, there = moved_by(CELLS * tiles, seed, axis)
    for name in ("x", "v", "C", "F"):
        assert torch.equal(here[name], there[name]), name


@given(seed=seeds, cells=st.integers(1, 2 * CELLS), axis=st.integers(0, 1))
def test_a_shift_by_whole_cells_changes_nothing_but_roundoff(seed, cells, axis):
    """To roundoff: a node between tiles is the sum of their parts, and another part of the body lies in each."""
    here, there = moved_by(cells, seed, axis)
    for name in ("x", "v", "C", "F"):
        torch.testing.assert_close(there[name], here[name], rtol=0, atol=1e-12 * float(here[name].abs().max()))


def totals(simulation, state):
    """Mass (), momentum (d,) and angular momentum (d, d) of a state, and mass on the nodes."""
    density = torch.stack([m.density.detach().to(state.x) for m in simulation.materials])[state.material]
    mass = density * state.volume
    moment = torch.einsum("p,pa,pb->ab", mass, state.x, state.v)
    affine = DX**2 / 4 * torch.einsum("p,pab->ba", mass, state.C)
    total = moment + affine
    on_nodes = node_mass(state.x, mass, simulation.grid.cells, DX).sum()
    return {
        "mass": mass.sum(),
        "mass on nodes": on_nodes,
        "momentum": (mass[:, None] * state.v).sum(0),
        "angular momentum": total - total.T,
    }


def assert_kept(simulation, path):
    """Every total is that of the start, to roundoff of the sizes that are added."""
    first = totals(simulation, path[0])
    assert first["mass"].item() == pytest.approx(first["mass on nodes"].item(), rel=1e-13)
    mass = float(first["mass"])
    fastest = float(path.v.norm(dim=2).max()) + DX * float(path.C.abs().max())
    for state in list(path)[1:]:
        for name, value in totals(simulation, state).items():
            scale = mass * (1.0 if name.startswith("mass") else fastest)
            torch.testing.assert_close(value, first[name], rtol=0, atol=1e-12 * scale, msg=name)


@pytest.mark.parametrize("dim", [2, 3])
@given(seed=seeds, strain=st.floats(0.0, 0.15), spin=st.floats(-10.0, 10.0), v=st.tuples(speeds, speeds, speeds))
@torch.no_grad()
def test_free_flight_keeps_mass_momentum_and_angular_momentum(dim, seed, strain, spin, v):
    simulation = model(dim=dim, walls=ds.Walls("none"))
    state = block(simulation, 40, v=v[:dim], strain=strain, seed=seed)
    turn = torch.zeros(dim, dim, dtype=state.x.dtype)
    turn[1, 0], turn[0, 1] = spin, -spin
    state = state._replace(v=state.v + (state.x - 0.5) @ turn.T, C=state.C + turn)
    assert_kept(simulation, ds.rollout(simulation, state, steps=STEPS))


@given(seed=seeds, speed=st.floats(2.0, 4.0), offset=st.floats(-0.1, 0.1))
@torch.no_grad()
def test_a_collision_of_elastic_bodies_keeps_mass_momentum_and_angular_momentum(seed, speed, offset):
    """Off center too, so that the bodies begin to turn."""
    simulation = model([neo_hookean(), neo_hookean(E=500.0, density=20.0)], walls=ds.Walls("none"))
    left = block(simulation, 40, low=(0.22, 0.4), v=(speed, 0.0), seed=seed)
    right = block(simulation, 40, low=(0.47, 0.4 + offset), v=(-speed, 0.0), material=1, seed=seed + 7)
    path = ds.rollout(simulation, joined(left, right), steps=10)
    assert_kept(simulation, path)
    lost = [float(path[0].v[part, 0].mean() - path[-1].v[part, 0].mean()) for part in (slice(40), slice(40, 80))]
    assert lost[0] > 0.1 * speed and lost[1] < -0.1 * speed  # each was slowed down by the other
