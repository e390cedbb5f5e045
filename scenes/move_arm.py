"""Move by a robot: a six-axis arm with a two-finger hand carries the tools of Move."""

import torch
from torch import nn

import diffsim as ds
from diffsim.errors import SceneError
from diffsim.kernels.arrays import context
from diffsim.robots import Carrier, Robot, read_joint_trajectory
from diffsim.scenes import move

BASE = ((0.5, 1.5, 0.5), (0.5**0.5, 0.5**0.5, 0.0, 0.0))  # hangs from above: the z axis of the URDF points down
HAND = (0.5, 0.5, -0.5, 0.5)  # its z axis points down, its y axis against the world's x
ACCELERATION = 2000.0  # [rad/s^2, m/s^2] of every joint


def scene(
    robot: str = "six_axis_arm",
    hand: str = "hand",
    fingers: tuple = ("left_finger", "right_finger"),
    mesh: str = "blob",
    tool: str = "sphere",
    variant: int = 1,
    trajectory: str = "",
    resolution: int = 32,
    particles: int = 1500,
    steps: int = 50,
    margin: float = 0.05,
    seed: int = 0,
) -> ds.Scene:
    """Carry a lump of plasticine to its target with an arm whose joints are what is controlled.

    Material, target, objective and score are those of ``move``, in its units. The variable ``speeds`` (steps, joints)
    in [-1, 1] holds the joint velocities as shares of their limits, which so hold at any time; the limits of position
    and acceleration are the constraint ``joints``. Each finger holds one tool. ``diffsim optimize`` writes the joint
    positions of the best iterate as joints.csv, joints.yaml and joints.json; with ``trajectory``, one of these is
    replayed instead, and gives the same score.

    Args:
        robot: a URDF file or the name of a shipped one, with two fingers.
        hand: its link that is brought to the lump; its z axis points down and its y axis against the world's x.
        fingers: its links that hold the tools, the first one at the smaller x.
        mesh, tool, variant, resolution, particles, steps: as in ``move``.
        trajectory: a file of joint positions, one per control step and the start.
        margin: share of the limits to stay away from, room for what the constraint lets through.
        seed: of the first speeds, uniform within 1e-4.
    """
    built = move.scene(mesh, tool, variant, resolution=resolution, particles=particles, steps=steps)
    model, state = built.model, built.start()[0]
    for part in model.tools:
        part.mode = "pose"
    dt = model.dt * model.substeps
    if len(fingers) != len(model.tools):
        raise SceneError(f"fingers are {fingers}; name the {len(model.tools)} links that hold the tools")
    arm = Robot(robot, base=BASE, acceleration=ACCELERATION)
    start = _grasp(arm, hand, fingers, state.pose)
    carrier = Carrier(arm, list(fingers), start, state.pose, dt)
    generator = torch.Generator().manual_seed(seed)
    first = torch.rand(steps, len(arm.joints), generator=generator, dtype=torch.float64)
    speeds = nn.Parameter((1e-4 * (2 * first - 1)).to(context.dtype))
    replayed = _replayed(trajectory, arm, steps, dt) if trajectory else None

    def positions():
        return carrier.positions(speeds) if replayed is None else replayed

    def setup():
        return state, carrier.controls(positions())

    return ds.Scene(
        name="move_arm",
        model=model,
        steps=steps,
        setup=setup,
        variables={"speeds": speeds} if replayed is None else {},
        objective=built.objective,
        metrics=built.metrics,
        bounds={"speeds": (margin - 1.0, 1.0 - margin)} if replayed is None else {},
        constraints={"joints": lambda path: arm.excess(positions(), dt, margin)},
        joints=lambda: carrier.trajectory(positions()),
        defaults={"method": "augmented_lagrangian", "optimizer": "adam", "lr": 0.06, "iterations": 40},
        camera=built.camera,
        ghost=built.ghost,
    )


def _grasp(arm, hand, fingers, poses):
    """Joint positions at which the hand is between the tools, its fingers at them along x."""
    middle, apart = poses[:, :3].double().mean(0), poses[1, 0].double() - poses[0, 0].double()
    start = arm.reach(torch.cat([middle, middle.new_tensor(HAND)]), hand).double()
    left, right = arm(start, list(fingers))[:, 0]
    opened = start.clone()
    for k, name in enumerate(arm.joints):  # the joints of the fingers do not move the hand
        moved = start.clone()
        moved[k] += 0.01
        if torch.equal(arm(moved, [hand]), arm(start, [hand])):
            ends = arm(moved, list(fingers))[:, 0]
            rate = float((ends[1] - ends[0]) - (right - left)) / 0.01
            if rate == 0:
                continue
            opened[k] += float(apart - (right - left)) / rate
            if not arm.lower[k] <= opened[k] <= arm.upper[k]:
                raise SceneError(f"joint {name!r} cannot open to {float(apart):.3g} m; take a smaller lump or tool")
            return opened
    return start


def _replayed(file: str, arm, steps: int, dt: float):
    found = read_joint_trajectory(file)
    if found.joints != arm.joints:
        raise SceneError(f"{file} is of joints {', '.join(found.joints)}; the robot has {', '.join(arm.joints)}")
    if len(found) <= steps or any(abs(time - k * dt) > 1e-9 for k, time in enumerate(found.times[: steps + 1])):
        raise SceneError(f"{file} has no point every {dt:g} s for {steps} steps; give fewer steps, or resample it")
    values = torch.tensor(found.positions[: steps + 1])
    arm.check_limits(values, dt, tolerance=1e-3)
    return values.to(context.dtype)
