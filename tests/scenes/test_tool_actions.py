"""Maps from actions to the motion of tools: bounds, rolling, the grip of chopsticks, and their derivatives."""

import math

import pytest
import torch

from diffsim.errors import SceneError
from diffsim.kernels.arrays import context
from diffsim.models.tools import rotation_matrix, substep_motions
from diffsim.scenes.tool_actions import CONTROL_STEP, EPISODE, Chopsticks, Rolling, Translations

TOLERANCE = 1e-12 if context.dtype == torch.float64 else 1e-5
MOTIONS = {
    "translations": Translations([(0.3, 0.5, 0.5), (0.7, 0.5, 0.4)], 0.02),
    "translations in a plane": Translations([(0.5, 0.06, 0.5)], 0.03, axes=(0, 2)),
    "translations against a bound": Translations([(0.5, 0.12, 0.5)], 0.04, lower=(0.0, 0.1, 0.0), upper=0.55),
    "rolling": Rolling((0.5, 0.1, 0.5), 0.03, (0.6, 0.3, 0.01)),
    "chopsticks": Chopsticks((0.5, 0.3, 0.5), 0.2, 0.06, (0.02, 0.3, 0.02)),
}


def random_actions(motion, steps=6, seed=0):
    actions = torch.rand(steps, *motion.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (2 * actions - 1).to(context.dtype)


def poses(motion, controls):
    """Poses (steps + 1, T, 7) of the tools moved by controls."""
    rows = [torch.tensor([[*position, *turn] for position, turn in motion.poses], dtype=context.dtype)]
    for control in controls:
        rows.append(substep_motions(["velocity"] * len(rows[0]), rows[-1], control, CONTROL_STEP / 4, 4)[1])
    return torch.stack(rows)


@pytest.mark.skipif(context.dtype != torch.float64, reason="central differences need f64")
@pytest.mark.parametrize("name", MOTIONS)
def test_velocities_have_the_derivative_of_their_central_differences(name):
    motion = MOTIONS[name]
    actions = random_actions(motion).requires_grad_()
    if name == "chopsticks":
        with torch.no_grad():
            actions[0, 6] = -0.9  # opened first: closed, they stand at a bound
    assert torch.autograd.gradcheck(motion, actions, eps=1e-6, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", MOTIONS)
def test_without_actions_the_tools_rest(name):
    motion = MOTIONS[name]
    assert not motion(torch.zeros(3, *motion.shape, dtype=context.dtype)).any()


def test_a_translated_tool_moves_by_the_scaled_action_and_stops_at_the_bound():
    motion = MOTIONS["translations against a bound"]
    actions = torch.tensor([[[0.25, -0.25, -1.0]]] * 5, dtype=context.dtype)
    actions[3:] *= -1
    path = poses(motion, motion(actions))[:, 0, :3]
    expected = [
        (0.5, 0.12, 0.5),
        *((0.51, 0.11, 0.46), (0.52, 0.1, 0.42), (0.53, 0.1, 0.38)),
        *((0.52, 0.11, 0.42), (0.51, 0.12, 0.46)),
    ]
    torch.testing.assert_close(path, path.new_tensor(expected), rtol=0, atol=TOLERANCE)


def test_an_action_at_a_bound_has_the_derivative_of_the_inside_and_beyond_it_none():
    motion = Translations([(0.5, 0.1, 0.5)], 0.01, lower=0.1)
    slopes = []
    for height in (0.5, 0.0, -0.5):  # away from the bound, along it, into it
        actions = torch.tensor([[[0.0, height, 0.0]]], dtype=context.dtype, requires_grad=True)
        motion(actions)[..., 1].sum().backward()
        slopes.append(actions.grad[0, 0, 1].item() * CONTROL_STEP)
    assert slopes == pytest.approx([0.01, 0.01, 0.0])


def test_a_script_visits_its_waypoints_then_rests():
    motion = Translations([(0.5, 0.35, 0.5)], 0.02)
    actions = motion.towards((0.5, 0.25, 0.5), (0.43, 0.25, 0.5))
    assert actions.shape == (EPISODE, 1, 3) and actions.abs().max() <= 1
    path = poses(motion, motion(actions))[:, 0, :3]
    for step, place in ((5, (0.5, 0.25, 0.5)), (9, (0.43, 0.25, 0.5)), (EPISODE, (0.43, 0.25, 0.5))):
        torch.testing.assert_close(path[step], path.new_tensor(place), rtol=0, atol=TOLERANCE)
    with pytest.raises(SceneError, match="longer than the 50"):
        motion.towards((0.5, 0.9, 0.5), (0.5, 0.1, 0.5))


@pytest.mark.parametrize("yaw", [0.0, 0.7])
def test_the_lowest_line_of_a_rolling_pin_stands_still(yaw):
    motion = Rolling((0.5, 0.1, 0.5), 0.03, (0.5, 1.0, 0.01))
    actions = torch.tensor([[0.0, yaw, 0.0], [1.0, 0.0, 0.0]], dtype=context.dtype)
    controls = motion(actions)
    axis = rotation_matrix(poses(motion, controls)[1, 0, 3:])[:, 1]  # of the shape, at the start of the second step
    v, omega = controls[1, 0, :3], controls[1, 0, 3:]
    torch.testing.assert_close(omega * CONTROL_STEP, 0.5 * axis, rtol=0, atol=TOLERANCE)
    arm = v.new_tensor([0.0, -0.03, 0.0])
    torch.testing.assert_close(v + torch.linalg.cross(omega, arm), torch.zeros_like(v), rtol=0, atol=2e3 * TOLERANCE)
    assert v.norm().item() * CONTROL_STEP == pytest.approx(0.015, rel=1e-5)


def test_chopsticks_stay_parallel_at_their_opening_and_hang_from_the_hand():
    motion = MOTIONS["chopsticks"]
    actions = random_actions(motion, seed=1)
    actions[:, 6] = actions.new_tensor([-0.5, -1.0, 0.3, 1.0, 1.0, 0.2])
    path = poses(motion, motion(actions))
    opening = (path[:, 0, :3] - path[:, 1, :3]).norm(dim=1)
    expected = path.new_tensor([0.06, 0.07, 0.09, 0.084, 0.064, 0.06, 0.06])
    torch.testing.assert_close(opening, expected, rtol=0, atol=10 * TOLERANCE)
    torch.testing.assert_close(path[:, 0, 3:], path[:, 1, 3:], rtol=0, atol=TOLERANCE)
    R = rotation_matrix(path[:, 0, 3:])
    hand = path[:, :, :3].mean(1) + 0.1 * R[:, :, 1]
    shifts = torch.cat([torch.zeros(1, 3, dtype=context.dtype), 0.02 * actions[:, :3].cumsum(0)])
    torch.testing.assert_close(hand, hand.new_tensor([0.5, 0.3, 0.5]) + shifts, rtol=0, atol=10 * TOLERANCE)
    across = (path[:, 1, :3] - path[:, 0, :3]) / opening[:, None]
    torch.testing.assert_close(R[:, :, 0], across, rtol=0, atol=100 * TOLERANCE)


def test_a_turn_about_the_hand_s_own_axis_follows_the_turns_before():
    motion = Chopsticks((0.5, 0.3, 0.5), 0.2, 0.06, (0.02, math.pi / 2, 0.02))
    actions = torch.zeros(2, 7, dtype=context.dtype)
    actions[0, 3], actions[1, 4] = 1.0, 1.0  # about x, then about the hand's y, which then is the world's z
    omega = motion(actions)[1, 0, 3:] * CONTROL_STEP
    torch.testing.assert_close(omega, omega.new_tensor([0.0, 0.0, math.pi / 2]), rtol=0, atol=TOLERANCE)
