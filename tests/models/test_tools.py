"""Tools: motion over a control step, its derivatives, and what a tool refuses."""

import math

import pytest
import torch
import trimesh

from diffsim.errors import SceneError
from diffsim.geometry.shapes import Box, HalfSpace, MeshSDF, Sphere
from diffsim.kernels.arrays import context
from diffsim.models.tools import (
    Tool,
    exponential,
    initial_pose,
    logarithm,
    pack,
    quaternion_product,
    rotation_matrix,
    substep_motions,
)

DT, SUBSTEPS = 0.01, 10


def random(seed, *shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def poses(seed, count):
    q = random(seed, count, 4)
    return torch.cat([random(seed + 100, count, 3), q / q.norm(dim=1, keepdim=True)], dim=1)


def cross_matrix(w):
    return torch.linalg.cross(w[..., None, :], torch.eye(3, dtype=w.dtype).expand(*w.shape, 3), dim=-1).mT


ROTATIONS = [0.0, 1e-200, 1e-9, 1e-4, 0.0999, 0.1001, 1.0, 3.1]


@pytest.mark.parametrize("angle", ROTATIONS)
def test_exponential_is_the_matrix_exponential(angle):
    axis = random(1, 5, 3)
    w = angle * axis / axis.norm(dim=1, keepdim=True)
    torch.testing.assert_close(
        rotation_matrix(exponential(w)), torch.linalg.matrix_exp(cross_matrix(w)), rtol=0, atol=2e-15 * (1 + angle)
    )


@pytest.mark.parametrize("angle", [*ROTATIONS, 0.0632, 0.0633])
def test_logarithm_inverts_the_exponential(angle):
    axis = random(2, 5, 3)
    w = angle * axis / axis.norm(dim=1, keepdim=True)
    torch.testing.assert_close(logarithm(exponential(w)), w, rtol=1e-14, atol=1e-300)
    torch.testing.assert_close(logarithm(-exponential(w)), w, rtol=1e-14, atol=1e-300)


@pytest.mark.parametrize("angle", [0.0, 1e-9, 0.5, 3.0])
def test_derivatives_of_rotations_equal_central_differences_to_second_order(angle):
    w = (angle * torch.tensor([[0.6, 0.0, 0.8]], dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(lambda w: rotation_matrix(exponential(w)), w)
    assert torch.autograd.gradcheck(lambda w: logarithm(exponential(w)), w)
    assert torch.autograd.gradgradcheck(exponential, w)


CASES = {
    "at rest": (["velocity", "velocity"], torch.zeros(2, 6, dtype=torch.float64)),
    "moving": (["velocity", "velocity"], 3 * random(3, 2, 6)),
    "to poses": (["pose", "pose"], poses(4, 2)),
    "to the same pose": (["pose", "pose"], poses(5, 2)),
    "mixed": (["velocity", "pose"], poses(6, 2)),
}


@pytest.mark.parametrize("case", CASES)
def test_motion_is_differentiable_in_pose_and_control(case):
    modes, control = CASES[case]
    pose = poses(5, 2).requires_grad_()
    control = control.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda p, c: substep_motions(modes, p, c, DT, 3), (pose, control))


def test_motion_turns_about_world_axes_and_moves_along_lines():
    pose, control = poses(7, 2), 3 * random(8, 2, 6)
    motion, last = substep_motions(["velocity"] * 2, pose, control, DT, SUBSTEPS)
    assert motion.shape == (SUBSTEPS, 2, 18) and motion.is_contiguous()
    for s in range(SUBSTEPS):
        p, R, v, omega = motion[s].split([3, 9, 3, 3], dim=1)
        torch.testing.assert_close(p, pose[:, :3] + s * DT * control[:, :3])
        turned = torch.linalg.matrix_exp(cross_matrix(s * DT * control[:, 3:])) @ rotation_matrix(pose[:, 3:])
        torch.testing.assert_close(R.unflatten(1, (3, 3)), turned)
        assert torch.equal(torch.cat([v, omega], dim=1), control)
    following, _ = substep_motions(["velocity"] * 2, last, control, DT, 1)
    torch.testing.assert_close(following[0, :, :3], pose[:, :3] + SUBSTEPS * DT * control[:, :3])
    torch.testing.assert_close(last[:, 3:].norm(dim=1), torch.ones(2, dtype=torch.float64))


def test_pose_mode_arrives_at_its_target_the_shorter_way():
    start, target = poses(9, 50), poses(10, 50)
    lengthened = target * torch.tensor([1, 1, 1, 3, 3, 3, 3])
    motion, last = substep_motions(["pose"] * 50, start, lengthened, DT, SUBSTEPS)
    torch.testing.assert_close(last[:, :3], target[:, :3])
    torch.testing.assert_close(rotation_matrix(last[:, 3:]), rotation_matrix(target[:, 3:]))
    assert (motion[0, :, 15:].norm(dim=1) * DT * SUBSTEPS <= math.pi + 1e-12).all()


def test_a_pose_control_equals_the_velocity_control_that_it_stands_for():
    pose, control = poses(11, 3), 3 * random(12, 3, 6)
    motion, last = substep_motions(["velocity"] * 3, pose, control, DT, SUBSTEPS)
    again, _ = substep_motions(["pose"] * 3, pose, last, DT, SUBSTEPS)
    torch.testing.assert_close(again, motion, rtol=1e-12, atol=1e-12)


def test_no_control_holds_tools_at_rest():
    pose = poses(13, 2)
    tools = [Tool(Sphere(0.1)), Tool(Sphere(0.1), mode="pose")]
    motion, last = substep_motions(tools, pose, None, DT, SUBSTEPS)
    torch.testing.assert_close(last, pose)
    assert motion[..., 12:].abs().max() == 0
    assert substep_motions([], pose[:0], None, DT, SUBSTEPS)[0].shape == (SUBSTEPS, 0, 18)


@pytest.mark.parametrize(
    "modes, control, message",
    [
        (["velocity"], torch.zeros(1, 7), r"shape \(1, 7\); 1 tools need \(1, 6\)"),
        (["velocity", "pose"], torch.zeros(2, 6), r"need \(2, 7\): poses"),
        (["velocity"], torch.full((1, 6), math.nan), "control of tool 0 is not finite"),
        (["pose"], torch.zeros(1, 7), "quaternion of tool 0 has length 0"),
    ],
)
def test_a_control_that_moves_nothing_sensible_is_refused(modes, control, message):
    with pytest.raises(SceneError, match=message):
        substep_motions(modes, poses(14, len(modes)), control.double(), DT, SUBSTEPS)


def test_tables_are_differentiable_in_friction_and_softness():
    friction, softness = torch.nn.Parameter(torch.tensor(0.3)), torch.nn.Parameter(torch.tensor(20.0))
    tools = [Tool(Sphere(0.1), friction=friction), Tool(Box((0.1, 0.2, 0.3)), softness=softness, friction=math.inf)]
    params, ints, sdf = pack(tools)
    assert params.shape == (2, 16) and ints.shape == (2, 8) and params.dtype == context.dtype and len(sdf) == 1
    assert ints[:, 1].tolist() == [0, 1] and torch.isfinite(params[1, 0])
    params[:, :2].sum().backward()
    assert friction.grad == 1 and softness.grad == 1
    assert {name for name, _ in tools[0].named_parameters()} == {"friction"}
    assert [len(table) for table in pack([])] == [0, 0, 1]


def test_initial_poses_are_of_unit_length_and_differentiable():
    position = torch.nn.Parameter(torch.tensor([0.1, 0.2]))
    pose = initial_pose([Tool(Sphere(0.1), pose=(position, (2, 0, 0, 0))), Tool(HalfSpace())])
    expected = torch.tensor([[0.1, 0.2, 0, 1, 0, 0, 0], [0, 0, 0, 1, 0, 0, 0]], dtype=context.dtype)
    torch.testing.assert_close(pose, expected)
    pose.sum().backward()
    assert position.grad.tolist() == [1, 1]


def test_a_mesh_tool_samples_as_far_as_its_contact_reaches():
    surface = trimesh.creation.box(extents=(0.2, 0.2, 0.2))
    tool = Tool(surface, softness=80.0)
    assert tool.shape.padding >= tool.reach() == pytest.approx(math.log(10) / 80)
    with pytest.raises(SceneError, match="pass MeshSDF"):
        Tool(MeshSDF(surface, resolution=8), softness=10.0)
    with pytest.raises(SceneError, match="samples are too many"):
        Tool(surface, softness=1.0)


def test_a_box_too_thin_for_the_plane_is_refused_in_2d_only():
    tool = Tool(Box((0.3, 0.2, 0.1)))
    pack([tool])
    with pytest.raises(SceneError, match="give two"):
        pack([tool], dim=2)
    pack([Tool(Box((0.3, 0.2)))], dim=2)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"mode": "force"}, "mode 'force' is not known"),
        ({"softness": -1.0}, "softness is -1.0"),
        ({"softness": math.inf}, "softness is inf"),
        ({"friction": -0.1}, "friction is -0.1"),
        ({"friction": "high"}, "friction is 'high'"),
        ({"friction": math.nan}, "friction is nan"),
        ({"pose": ((0, 0, 0), (0, 0, 0, 0))}, "quaternion has length 0"),
        ({"pose": ((0, 0, math.nan), (1, 0, 0, 0))}, "not finite"),
        ({"pose": (0, 0, 0)}, "must be a pair"),
        ({"pose": ((0, 0, 0), (1, 0, 0))}, r"shapes \(3,\) and \(3,\)"),
    ],
)
def test_a_tool_that_makes_no_sense_is_refused_by_name(options, message):
    with pytest.raises(SceneError, match=message):
        Tool(Sphere(0.1), **options)


def test_a_shape_that_is_none_is_refused():
    with pytest.raises(SceneError, match="shape is a float"):
        Tool(0.1)


def test_quaternion_product_is_the_product_of_rotations():
    a, b = poses(15, 5)[:, 3:], poses(16, 5)[:, 3:]
    torch.testing.assert_close(rotation_matrix(quaternion_product(a, b)), rotation_matrix(a) @ rotation_matrix(b))
