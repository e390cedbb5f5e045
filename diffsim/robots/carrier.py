"""``Carrier``: a robot that holds tools by its links, so that joint positions become the controls of a model."""

import torch
from torch import Tensor

from diffsim.errors import DataError, SceneError
from diffsim.models.tools import quaternion_product, rotation_matrix
from diffsim.robots.robot import Robot
from diffsim.robots.trajectory import JointTrajectory


class Carrier:
    """Tools fixed to links.

    Args:
        robot: the robot.
        links: the link that holds each tool.
        start: joint positions (joints,) at the beginning [rad, m].
        poses: of the tools at the beginning (T, 7), which fix how each is held.
        dt: duration of a control step [s].

    Raises:
        SceneError: numbers of links and poses that differ, or an unknown link.
    """

    def __init__(self, robot: Robot, links: list[str], start: Tensor, poses: Tensor, dt: float):
        if len(links) != len(poses):
            raise SceneError(f"Carrier: {len(links)} links for {len(poses)} tools; give one each")
        if not dt > 0:
            raise SceneError(f"Carrier: dt={dt}; give the duration of a control step in seconds")
        self.robot, self.links, self.start, self.dt = robot, list(links), start.detach(), dt
        held = robot(self.start.double(), links)
        back = held[:, 3:] * held.new_tensor([1, -1, -1, -1])
        poses = poses.detach().double()
        place = (rotation_matrix(back) @ (poses[:, :3] - held[:, :3])[..., None])[..., 0]
        self.grip = torch.cat([place, quaternion_product(back, poses[:, 3:])], -1)

    def poses(self, positions: Tensor) -> Tensor:
        """Poses of the tools (..., T, 7) at joint positions (..., joints)."""
        held, grip = self.robot(positions, self.links), self.grip.to(positions)
        place = held[..., :3] + (rotation_matrix(held[..., 3:]) @ grip[:, :3, None])[..., 0]
        return torch.cat([place, quaternion_product(held[..., 3:], grip[:, 3:].expand_as(held[..., 3:]))], -1)

    def positions(self, speeds: Tensor) -> Tensor:
        """Joint positions (steps + 1, joints) of speeds (steps, joints) in [-1, 1], as shares of the velocity limits.

        Raises:
            SceneError: a joint without a velocity limit.
            DataError: a speed out of range or not finite, naming the step and the joint.
        """
        beyond = ~(speeds.detach().abs() <= 1 + 1e-6)  # a NaN too
        if beyond.any():
            step, joint = beyond.nonzero()[0].tolist()
            raise DataError(
                f"speed {float(speeds[step, joint].detach()):.4g} of joint {self.robot.joints[joint]!r} in step {step} "
                "is out of its range -1 .. 1"
            )
        fastest = self.robot.velocity.to(speeds)
        if not fastest.isfinite().all():
            joint = self.robot.joints[int((~fastest.isfinite()).nonzero()[0])]
            raise SceneError(f"joint {joint!r} has no velocity limit, so no share of it; add one to its URDF")
        start = self.start.to(speeds)[None]
        return torch.cat([start, start + self.dt * fastest * torch.cumsum(speeds, 0)])

    def controls(self, positions: Tensor) -> Tensor:
        """Controls (steps, T, 7) of tools in pose mode, from joint positions (steps + 1, joints)."""
        return self.poses(positions[1:])

    def trajectory(self, positions: Tensor) -> JointTrajectory:
        """The joint positions with their times, to be written."""
        values = positions.detach().double().cpu().numpy()
        return JointTrajectory(self.robot.joints, [k * self.dt for k in range(len(values))], values)
