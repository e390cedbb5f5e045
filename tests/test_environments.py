"""Gymnasium environments: the checker of the library, rewards against the objective, gradients, bad actions."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from diffsim.errors import DataError, SceneError
from diffsim.kernels.arrays import context
from diffsim.scripts import load

gymnasium = pytest.importorskip("gymnasium")
from gymnasium.utils.env_checker import check_env  # noqa: E402

from diffsim.environments import DiffEnv, name_of  # noqa: E402

PROJECTILE = str(Path(__file__).with_name("projectile.py"))
SMALL = {"particles": 150, "resolution": 16, "steps": 3, "tool": "sphere"}
f64_only = pytest.mark.skipif(context.dtype != torch.float64, reason="gradients are compared in f64")


def actions(env, seed=0):
    env.action_space.seed(seed)
    return np.stack([env.action_space.sample() for _ in range(env.unwrapped.scene.steps)])


def test_a_task_passes_the_checker_of_the_library():
    env = gymnasium.make("diffsim/Move-v0", **SMALL)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*(infinity|unwrapped|Box).*")
        check_env(env.unwrapped, skip_render_check=True)


def test_names_are_those_of_the_scenes():
    assert name_of("triple_move") == "diffsim/TripleMove-v0"
    with pytest.raises(SceneError, match="has 0 variables with bounds and a row for each"):
        gymnasium.make(name_of("throw_to_target"), dim=2, particles=100, resolution=24)
    scene = load(PROJECTILE)
    scene.objective = None
    with pytest.raises(SceneError, match="has no objective"):
        DiffEnv(scene)


def test_the_rewards_add_up_to_the_objective_and_the_last_info_has_the_metrics():
    env = gymnasium.make("diffsim/Move-v0", **SMALL)
    table = actions(env)
    env.reset(seed=0)
    rewards, ends = [], []
    for action in table:
        _, reward, terminated, truncated, info = env.step(action)
        rewards.append(reward)
        ends.append((terminated, truncated))
    assert ends == [(False, False)] * 2 + [(False, True)]
    scene = load("move", **SMALL)
    with torch.no_grad():
        scene.variables["actions"].copy_(torch.from_numpy(table).reshape(3, 2, 3))
        path = scene.rollout()
        assert -sum(rewards) == pytest.approx(float(scene.loss(path)), rel=1e-6)
        assert info["score"] == scene.measure(path)["score"]


def test_episodes_are_the_same_in_a_vector_of_environments():
    many = gymnasium.make_vec("diffsim/Move-v0", num_envs=2, vectorization_mode="sync", **SMALL)
    one = gymnasium.make("diffsim/Move-v0", **SMALL)
    table = actions(one)
    first, _ = many.reset(seed=0)
    alone, _ = one.reset(seed=0)
    assert np.array_equal(first[1], alone)
    for row in table[:2]:
        seen, rewards, *_ = many.step(np.stack([0 * row, row]))
        alone, reward, *_ = one.step(row)
        assert np.array_equal(seen[1], alone) and rewards[1] == reward
        assert not np.array_equal(seen[0], seen[1])


@f64_only
def test_a_rollout_carries_the_gradient_to_the_actions():
    env = DiffEnv(PROJECTILE, steps=4, limit=2.0, ceiling=-0.5)
    push, scene = env.scene.variables["push"], env.scene
    # a part of the loss that reads the table beside the controls
    objective = scene.objective
    scene.objective = lambda path: objective(path) + push.pow(3).sum()
    table = torch.from_numpy(actions(env)).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda a: env.rollout(a)[1], table, rtol=1e-6, atol=1e-8)
    path, loss = env.rollout(table)
    (through_x,) = torch.autograd.grad(path.x[-1].sum(), table)
    assert (through_x[:, :2] != 0).all() and (through_x[:, 2:] == 0).all()
    with torch.no_grad():
        push.copy_(table.reshape(push.shape))
    assert float(loss.detach()) == float(scene.loss(scene.rollout()).detach())


def test_descent_through_the_environment_lowers_the_loss():
    env = DiffEnv("move", **SMALL)
    table = torch.zeros(3, 6, dtype=context.dtype, requires_grad=True)
    path, loss = env.rollout(table)
    (gradient,) = torch.autograd.grad(loss, table)
    better = env.rollout((-1e-3 * gradient / gradient.abs().max()).clamp(-1, 1))[1]
    assert float(better.detach()) < float(loss.detach())


@pytest.mark.parametrize(
    "change, error, text",
    [
        (lambda a: a[:5], DataError, r"step 0 has shape \(5,\); environment 'projectile' needs \(6,\)"),
        (lambda a: np.append(a[:5], np.nan), DataError, "entry 5 of the action of step 0 is not finite"),
        (
            lambda a: np.append(a[:5], 2.5),
            SceneError,
            r"entry 5 of the action of step 0 is 2.5, out of its range -2 .. 2",
        ),
    ],
)
def test_a_bad_action_is_refused_in_one_line(change, error, text):
    env = DiffEnv(PROJECTILE, limit=2.0)
    env.reset()
    bad = change(np.zeros(6, dtype=np.float32))
    with pytest.raises(error, match=text) as caught:
        env.step(bad)
    assert "\n" not in str(caught.value)
    table = torch.zeros(10, 6)
    with pytest.raises(DataError, match=r"actions have shape \(9, 6\)"):
        env.rollout(table[:9])
    table[4, 1] = 9.0
    with pytest.raises(SceneError, match="entry 1 of the action of step 4 is 9"):
        env.rollout(table)


def test_a_step_outside_an_episode_is_refused_and_a_failure_ends_it():
    env = DiffEnv(PROJECTILE, limit=1e6, steps=2)
    with pytest.raises(SceneError, match=r"call reset\(\)"):
        env.step(np.zeros(6, dtype=np.float32))
    env.reset()
    observation, reward, terminated, truncated, info = env.step(np.full(6, 1e6, dtype=np.float32))
    assert (reward, terminated, truncated) == (-1000.0, True, False) and "left the domain" in info["failed"]
    assert np.isfinite(observation).all()


def test_a_picture_of_the_present_state():
    env = gymnasium.make("diffsim/Move-v0", render_mode="rgb_array", **SMALL)
    env.reset()
    picture = env.render()
    assert picture.shape == (480, 640, 3) and picture.std() > 1
