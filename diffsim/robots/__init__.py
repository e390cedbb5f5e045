"""Robots: arms and hands from URDF files that carry tools, their limits, and trajectories of their joints in files."""

from diffsim.robots.carrier import Carrier
from diffsim.robots.robot import Robot
from diffsim.robots.trajectory import JointTrajectory, read_joint_trajectory

__all__ = ["Carrier", "JointTrajectory", "Robot", "read_joint_trajectory"]
