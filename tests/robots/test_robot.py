"""Robots: kinematics against another implementation, gradients, limits, the inverse problem, files, bad URDFs."""

import json
import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from diffsim.errors import DataError, SceneError
from diffsim.robots import Carrier, JointTrajectory, Robot, read_joint_trajectory
from diffsim.robots.description import SHIPPED

yourdfpy = pytest.importorskip("yourdfpy")

# every kind of joint, with oblique axes and turned origins, branches, and a mimic of a mimic
ODD = """<robot name="odd">
  <link name="root"/><link name="a"/><link name="b"/><link name="c"/><link name="d"/><link name="e"/><link name="f"/>
  <joint name="j1" type="revolute"><parent link="root"/><child link="a"/><origin xyz="0.1 -0.2 0.3" rpy="0.3 0.2 -0.5"/>
    <axis xyz="1 2 -1"/><limit lower="-1" upper="2" velocity="3" effort="1"/></joint>
  <joint name="j2" type="prismatic"><parent link="a"/><child link="b"/><origin xyz="0 0.4 0" rpy="1 0 0.7"/>
    <axis xyz="0 0.6 0.8"/><limit lower="-0.5" upper="0.5" velocity="1" effort="1"/></joint>
  <joint name="j3" type="continuous"><parent link="a"/><child link="c"/><origin xyz="0.2 0 0"/>
    <axis xyz="0 1 0"/></joint>
  <joint name="j4" type="fixed"><parent link="c"/><child link="d"/><origin rpy="0 0.5 0"/></joint>
  <joint name="j5" type="revolute"><parent link="d"/><child link="e"/><origin xyz="0 0 0.2"/><axis xyz="1 0 0"/>
    <limit lower="-2" upper="2" velocity="2" effort="1"/><mimic joint="j1" multiplier="-0.5" offset="0.2"/></joint>
  <joint name="j6" type="revolute"><parent link="e"/><child link="f"/><origin xyz="0.1 0 0"/><axis xyz="0 0 1"/>
    <limit lower="-9" upper="9" velocity="9" effort="1"/><mimic joint="j5" multiplier="2" offset="-0.1"/></joint>
</robot>"""


@pytest.fixture
def odd(tmp_path):
    (tmp_path / "odd.urdf").write_text(ODD)
    return tmp_path / "odd.urdf"


def positions(robot, count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    low, high = robot.lower.clamp_min(-2), robot.upper.clamp_max(2)
    return low + (high - low) * torch.rand(count, len(robot.joints), generator=generator, dtype=torch.float64)


def by_yourdfpy(file, robot, values):
    """Homogeneous matrices of all links."""
    other = yourdfpy.URDF.load(str(file), load_meshes=False)
    other.update_cfg(dict(zip(robot.joints, values.tolist(), strict=True)))
    return np.stack([other.get_transform(link, robot.links[0]) for link in robot.links])


@pytest.mark.parametrize("name", ["odd", "six_axis_arm"])
def test_forward_kinematics_are_those_of_another_library(name, odd):
    file = odd if name == "odd" else SHIPPED / "six_axis_arm.urdf"
    robot = Robot(file)
    for values in positions(robot, 3):
        poses = robot(values).numpy()
        expected = by_yourdfpy(file, robot, values)
        if (
            name == "odd"
        ):  # the other library takes a mimic of a mimic at its old value: that link is held by hand below
            poses, expected = poses[:-1], expected[:-1]
        np.testing.assert_allclose(poses[:, :3], expected[:, :3, 3], atol=1e-12)
        matrices = Rotation.from_quat(poses[:, [4, 5, 6, 3]]).as_matrix()
        np.testing.assert_allclose(matrices, expected[:, :3, :3], atol=1e-12)


def test_a_mimic_of_a_mimic_follows_the_joint_at_the_end(odd):
    robot = Robot(odd)
    assert robot.joints == ["j1", "j2", "j3"]
    last = robot.description.joints[robot.index("f") - 1]
    assert (last.source, last.multiplier, last.offset) == (0, -1.0, pytest.approx(2 * 0.2 - 0.1))
    # j1 in -1 .. 2; j5 = 0.2 - j1/2 in -2 .. 2 asks for -3.6 .. 4.4; its velocity 2 allows 4
    assert (robot.lower[0], robot.upper[0], robot.velocity[0]) == (-1, 2, 3)
    assert robot.lower[2] == -math.inf and robot.velocity[2] == math.inf


@pytest.mark.parametrize("at", ["drawn", "zero"])  # at zero the exponential takes its series
@pytest.mark.parametrize("name", ["odd", "six_axis_arm"])
def test_the_gradient_of_forward_kinematics_is_the_derivative(name, odd, at):
    robot = Robot(odd if name == "odd" else name, base=((0.1, 0.2, 0.3), (0.5, 0.5, -0.5, 0.5)))
    values = (0 if at == "zero" else 1) * positions(robot, 2)
    assert torch.autograd.gradcheck(lambda q: robot(q), values.requires_grad_(), rtol=1e-6, atol=1e-9)


def test_the_base_moves_every_link():
    turn = (math.sqrt(0.5), math.sqrt(0.5), 0.0, 0.0)  # z to -y
    robot, moved = Robot("six_axis_arm"), Robot("six_axis_arm", base=((1.0, 2.0, 3.0), turn))
    values = positions(robot, 1)[0]
    x, y, z = robot(values)[:, :3].T
    torch.testing.assert_close(moved(values)[:, :3], torch.stack([1 + x, 2 - z, 3 + y], 1))


def test_the_shipped_arm_is_as_long_as_it_says_and_its_fingers_mirror():
    robot = Robot("six_axis_arm")
    assert len(robot.joints) == 7
    straight = robot(torch.zeros(7, dtype=torch.float64), ["hand"])[0]
    assert straight.tolist() == pytest.approx([0, 0, 1.13, 1, 0, 0, 0])
    opened = torch.tensor([0, 0, 0, 0, 0, 0, 0.1], dtype=torch.float64)
    left, right = robot(opened, ["left_finger", "right_finger"])[:, 1]
    assert float(left) == pytest.approx(0.1) and float(right) == pytest.approx(-0.1)


# --- the inverse problem


@pytest.mark.parametrize("seed", range(4))
def test_a_pose_that_the_arm_has_is_found_again(seed):
    robot = Robot("six_axis_arm", base=((0.5, 1.4, 0.5), (0.7, 0.7, 0.1, 0.0)))
    pose = robot(0.7 * positions(robot, 1, seed)[0], ["hand"])[0]
    found = robot(robot.reach(pose, "hand").double(), ["hand"])[0]
    assert float((found[:3] - pose[:3]).norm()) < 1e-5
    assert abs(float(found[3:] @ pose[3:])) == pytest.approx(1, abs=1e-9)


def test_a_pose_out_of_reach_says_by_how_much():
    with pytest.raises(SceneError, match=r"link 'hand' .* cannot reach .* is 1\.\d+ m and .* move the base") as caught:
        Robot("six_axis_arm").reach(torch.tensor([2.0, 0.0, 0.2, 1, 0, 0, 0]), "hand")
    assert "\n" not in str(caught.value)


# --- limits


def motion(robot, dt=0.01):
    t = dt * torch.arange(20, dtype=torch.float64)[:, None]
    return 0.1 + 0.5 * torch.sin(3 * t + torch.arange(len(robot.joints)))


def test_what_keeps_the_limits_passes_and_each_violation_is_named():
    robot = Robot("six_axis_arm", acceleration=50.0)
    path = 0.2 * motion(robot)
    path[:, 6] += 0.1
    robot.check_limits(path, 0.01)
    assert float(robot.excess(path, 0.01).max()) < 0
    for change, text in (
        (lambda q: q[7, 2].fill_(2.8), "joint 'elbow' has the position 2.8 in step 7, beyond its limits -2.7 .. 2.7"),
        (lambda q: q[9:, 4].add_(0.2), "joint 'bend' has the velocity .* in step 8"),
        (lambda q: q[9:, 4].add_(0.05), "joint 'bend' has the acceleration .* in step 8"),
    ):
        bad = path.clone()
        change(bad)
        with pytest.raises(DataError, match=text):
            robot.check_limits(bad, 0.01)
        assert float(robot.excess(bad, 0.01).max()) > 0


def test_setting_out_and_stopping_within_a_step_are_accelerations_too():
    robot = Robot("six_axis_arm", acceleration=50.0)
    even = 0.1 + 0.01 * torch.arange(5, dtype=torch.float64)[:, None].expand(5, len(robot.joints))  # 1 rad/s
    assert float(robot.excess(even, 0.01, rest=False).max()) < 0
    robot.check_limits(even, 0.01, rest=False)
    assert float(robot.excess(even, 0.01).max()) == pytest.approx(1.0)  # 100 rad/s^2, in the first and the last step
    for path, step in ((even, 0), (torch.cat([even[:1].expand(3, -1), even[1:]]), 2)):
        with pytest.raises(DataError, match=f"has the acceleration 100 in step {step}"):
            robot.check_limits(path, 0.01)
    with pytest.raises(DataError, match="has the acceleration 100 in step 2"):
        robot.check_limits(torch.cat([even[:1].expand(3, -1), even[1:]]), 0.01, rest=False)
    eased = torch.cat([even[:1], even[:1] + 0.005, even[1:4] + 0.005, even[3:4] + 0.01])
    robot.check_limits(eased, 0.01)
    assert float(robot.excess(eased, 0.01).max()) <= 1e-9


def test_the_margin_and_the_size_of_a_violation():
    robot = Robot("six_axis_arm")
    still = torch.zeros(3, 7, dtype=torch.float64)
    still[:, 0] = 3.1
    assert float(robot.excess(still[:, :], 0.01).max()) == pytest.approx(0, abs=1e-12)
    still[:, 6] = 0.1  # the middle of its range
    assert float(robot.excess(still, 0.01, margin=0.1).max()) == pytest.approx(0.1)


def test_limits_far_from_zero_locked_and_one_sided_ones_are_kept(tmp_path):
    joint = '<joint name="{}" type="prismatic"><parent link="{}"/><child link="{}"/><axis xyz="1 0 0"/>{}</joint>'
    rail = joint.format("rail", "root", "a", '<limit lower="0" upper="6" velocity="3" effort="1"/>')
    lock = joint.format("lock", "a", "b", '<limit lower="0" upper="0" velocity="3" effort="1"/>')
    links = "".join(f'<link name="{name}"/>' for name in ("root", "a", "b"))
    (tmp_path / "rail.urdf").write_text(f'<robot name="rail">{links}{rail}{lock}</robot>')
    robot = Robot(str(tmp_path / "rail.urdf"))
    found = robot.reach(torch.tensor([5.0, 0, 0, 1, 0, 0, 0]), "b")
    assert found.tolist() == pytest.approx([5.0, 0.0], abs=1e-5)
    moved = torch.tensor([[5.0, 0.0], [5.0, 0.004]], dtype=torch.float64)
    assert robot.excess(moved, 0.1).max() > 0 and robot.excess(moved[:1], 0.1, margin=0.05).max() <= 0
    (tmp_path / "open.urdf").write_text((tmp_path / "rail.urdf").read_text().replace('upper="6"', 'upper="inf"'))
    assert Robot(str(tmp_path / "open.urdf")).reach(torch.tensor([5.0, 0, 0, 1, 0, 0, 0]), "b")[0] == pytest.approx(5)


def test_the_gradient_of_the_limits_is_the_derivative():
    robot = Robot("six_axis_arm", acceleration=20.0)
    path = motion(robot)[:6].requires_grad_()
    assert torch.autograd.gradcheck(lambda q: robot.excess(q, 0.05).clamp_min(0).square(), path, rtol=1e-6, atol=1e-9)
    assert float(robot.excess(path.detach(), 0.05).max()) > 0


# --- tools


def carrier():
    robot = Robot("six_axis_arm")
    start = 0.3 * torch.ones(7, dtype=torch.float64)
    start[6] = 0.1
    poses = torch.tensor([[0.3, 0.2, 0.5, 0.9, 0.1, 0.3, 0.2], [0.4, 0.2, 0.6, 1.0, 0.0, 0.0, 0.0]]).double()
    poses[:, 3:] /= poses[:, 3:].norm(dim=1, keepdim=True)
    return Carrier(robot, ["left_finger", "right_finger"], start, poses, 0.01), poses


def test_tools_begin_where_they_were_and_move_rigidly_with_their_links():
    held, poses = carrier()
    begin = held.poses(held.start)
    torch.testing.assert_close(begin, poses)
    speeds = 0.3 * torch.ones(4, 7, dtype=torch.float64)
    path = held.positions(speeds)
    torch.testing.assert_close(path.diff(dim=0) / 0.01, 0.3 * held.robot.velocity.expand(4, 7))
    controls = held.controls(path)
    assert controls.shape == (4, 2, 7)
    links = held.robot(path[1:], held.links)
    gap = (controls[..., :3] - links[..., :3]).norm(dim=-1)
    torch.testing.assert_close(gap, gap[:1].expand_as(gap))
    only_grip = held.positions(torch.tensor([[0.0] * 6 + [1.0]]).double())
    first, second = held.poses(only_grip)[1, :, :3] - begin[:, :3]
    torch.testing.assert_close(first, -second)  # the fingers go apart


@pytest.mark.parametrize("bad", [50.0, float("nan")])
def test_a_speed_out_of_range_is_named(bad):
    speeds = torch.zeros(4, 7, dtype=torch.float64)
    speeds[2, 1] = bad
    with pytest.raises(DataError, match="of joint 'lift' in step 2 is out of its range"):
        carrier()[0].positions(speeds)


def test_the_gradient_through_speeds_to_tool_poses_is_the_derivative():
    held, _ = carrier()
    speeds = (0.5 * torch.sin(torch.arange(21.0).double())).reshape(3, 7).requires_grad_()
    assert torch.autograd.gradcheck(lambda u: held.controls(held.positions(u)), speeds, rtol=1e-6, atol=1e-9)


# --- files


@pytest.mark.parametrize("suffix", [".csv", ".yaml", ".json"])
def test_a_trajectory_is_read_back_to_the_last_bit(tmp_path, suffix):
    generator = np.random.default_rng(0)
    values = generator.standard_normal((5, 3)) * 10.0 ** generator.integers(-9, 3, (5, 3))
    written = JointTrajectory(["a", "b", "c"], 0.002 * np.arange(5) + 3.0, values)
    found = read_joint_trajectory(written.write(tmp_path / f"t{suffix}"))
    assert found.joints == ["a", "b", "c"]
    assert np.array_equal(found.positions, values)
    np.testing.assert_allclose(found.times, written.times, rtol=0, atol=0.5e-9)


def test_the_message_is_a_ros_joint_trajectory(tmp_path):
    path = JointTrajectory(["a"], [0.0, 0.002, 1.5], [[0.0], [1.0], [2.5]]).write(tmp_path / "t.json", frame="world")
    message = json.loads(path.read_text())
    assert message["header"] == {"stamp": {"sec": 0, "nanosec": 0}, "frame_id": "world"}
    assert message["joint_names"] == ["a"]
    assert set(message["points"][0]) == {"positions", "velocities", "accelerations", "effort", "time_from_start"}
    assert [point["time_from_start"] for point in message["points"]] == [
        {"sec": 0, "nanosec": 0},
        {"sec": 0, "nanosec": 2_000_000},
        {"sec": 1, "nanosec": 500_000_000},
    ]
    assert [point["velocities"] for point in message["points"]] == [[0.0], [pytest.approx(2.5 / 1.5)], [0.0]]


@pytest.mark.parametrize(
    "name, content, text",
    [
        ("t.txt", "", "is a .csv, .yaml or .json file"),
        ("t.json", "{", "is no joint trajectory"),
        ("t.yaml", "a: [", "is no joint trajectory"),
        ("t.json", '{"joint_names": ["a"]}', "is no joint trajectory"),
        ("t.csv", "time,a\n0,x\n", "is no joint trajectory"),
        ("t.csv", "time,a\n0,1\n0,2\n", "must increase"),
        ("t.csv", "time,a\n0,1\n1,nan\n", "point 1 of the joint trajectory is not finite"),
    ],
)
def test_a_broken_trajectory_is_named(tmp_path, name, content, text):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=text) as caught:
        read_joint_trajectory(tmp_path / name)
    assert "\n" not in str(caught.value) and name in str(caught.value)


@pytest.mark.parametrize("suffix", [".yaml", ".json"])
def test_points_less_than_a_nanosecond_apart_have_no_message(tmp_path, suffix):
    path = JointTrajectory(["a"], [0.0, 1e-9, 1.4e-9], [[0.0], [1.0], [2.0]])
    with pytest.raises(DataError, match="points 1 and 2 of the joint trajectory, 4e-10 s apart") as caught:
        path.write(tmp_path / f"t{suffix}")
    assert "\n" not in str(caught.value) and not (tmp_path / f"t{suffix}").exists()
    assert np.array_equal(read_joint_trajectory(path.write(tmp_path / "t.csv")).times, path.times)


def test_a_missing_trajectory_is_named(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        read_joint_trajectory(tmp_path / "t.csv")


# --- bad input


@pytest.mark.parametrize(
    "old, new, text",
    [
        ('<link name="c"/>', "", "joint 'j3' names link 'c', which is missing"),
        ('<child link="c"/>', '<child link="b"/>', "link 'b' is the child of joints 'j2' and 'j3', a loop"),
        ('<link name="root"/>', "", "joint 'j1' names link 'root', which is missing"),
        ('<parent link="root"/><child link="a"/>', '<parent link="f"/><child link="a"/>', "loop"),
        ('<limit lower="-1" upper="2" velocity="3" effort="1"/>', "", r"joint 'j1' \(revolute\) has no limit; add"),
        ('velocity="3"', "", r"joint 'j1' \(revolute\) has no velocity"),
        ('lower="-0.5"', 'lower="0.7"', "joint 'j2' has the limits 0.7 .. 0.5"),
        ('type="continuous"', 'type="planar"', "joint 'j3' is 'planar'; known are fixed"),
        ('<axis xyz="1 2 -1"/>', '<axis xyz="0 0 0"/>', "joint 'j1' has the axis"),
        ('<mimic joint="j1" m', '<mimic joint="j9" m', "joint 'j5' mimics 'j9', which is no joint that moves"),
        ('<link name="root"/>', '<link name="root"/><link name="alone"/>', "has several root links: root, alone"),
        (ODD, "hello", "is no URDF that can be read"),
    ],
)
def test_a_bad_urdf_is_refused_in_one_line(tmp_path, old, new, text):
    (tmp_path / "bad.urdf").write_text(ODD.replace(old, new, 1))
    with pytest.raises(DataError, match=text) as caught:
        Robot(tmp_path / "bad.urdf")
    assert "\n" not in str(caught.value) and "bad.urdf" in str(caught.value)


def test_other_mistakes_are_named(tmp_path, odd):
    with pytest.raises(DataError, match="does not exist; check the path, or name a shipped one: six_axis_arm"):
        Robot(tmp_path / "none.urdf")
    robot = Robot(odd)
    with pytest.raises(SceneError, match=r"no link 'aa'; did you mean 'a'\?"):
        robot(torch.zeros(3), ["aa"])
    with pytest.raises(DataError, match=r"shape \(4,\); robot 'odd' needs \(..., 3\): j1, j2, j3"):
        robot(torch.zeros(4))
    bad = torch.zeros(5, 3)
    bad[3, 1] = float("nan")
    with pytest.raises(DataError, match="joint 'j2' has no finite position in step 3"):
        robot(bad)
    with pytest.raises(SceneError, match="acceleration="):
        Robot(odd, acceleration=-1.0)
    with pytest.raises(SceneError, match="base="):
        Robot(odd, base=((0, 0), (1, 0, 0, 0)))
    with pytest.raises(SceneError, match="joint 'j3' has no velocity limit"):
        Carrier(robot, ["a"], torch.zeros(3), robot(torch.zeros(3).double(), ["a"]), 0.01).positions(torch.zeros(2, 3))
    with pytest.raises(SceneError, match="1 links for 2 tools"):
        Carrier(robot, ["a"], torch.zeros(3), torch.zeros(2, 7), 0.01)


def test_a_missing_extra_is_named(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "yourdfpy", None)
    with pytest.raises(SceneError, match=r"pip install 'diffsim\[robots\]'"):
        Robot("six_axis_arm")
