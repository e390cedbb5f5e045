"""Trajectory files: round trips, interrupted runs, damaged files, exports."""

import signal
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from typing import NamedTuple

import h5py
import meshio
import numpy as np
import pytest
import torch
import trimesh

from diffsim.errors import DataError
from diffsim.export import export_ply, export_vtu
from diffsim.trajectory import Frame, TrajectoryWriter, read_trajectory, restart, write_trajectory
from diffsim.trajectory_writer import CONSTANT, MOVING, UNITS


class State(NamedTuple):
    """The names of a model's state, in another order than the file's."""

    time: torch.Tensor
    X: torch.Tensor
    volume: torch.Tensor
    material: torch.Tensor
    x: torch.Tensor
    v: torch.Tensor
    C: torch.Tensor
    F: torch.Tensor
    q: torch.Tensor
    pose: torch.Tensor
    wrench: torch.Tensor


def states(count=4, n=7, d=3, internals=2, tools=1, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    X, volume, material = random(n, d), random(n).abs(), torch.arange(n) % 2
    return [
        State(
            time=torch.tensor(0.1 * i, dtype=dtype),
            X=X,
            volume=volume,
            material=material,
            x=random(n, d).requires_grad_(),
            v=random(n, d),
            C=random(n, d, d),
            F=random(n, d, d),
            q=random(n, internals),
            pose=random(tools, 7),
            wrench=random(tools, 6),
        )
        for i in range(count)
    ]


def same(a, b):
    return all(
        torch.equal(getattr(a, name), getattr(b, name)) and getattr(a, name).dtype == getattr(b, name).dtype
        for name in (*MOVING, *CONSTANT)
    )


VARIANTS = [
    {"d": 3},
    {"d": 2, "dtype": torch.float32},
    {"d": 2, "internals": 0},
    {"d": 3, "tools": 0},
    {"d": 3, "internals": 0, "tools": 0, "dtype": torch.float32},
    {"count": 1, "n": 1},
]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_every_tensor_reads_back_bit_for_bit(tmp_path, variant):
    path = states(**variant)
    write_trajectory(tmp_path / "t.h5", path)
    recording = read_trajectory(tmp_path / "t.h5")
    assert len(recording) == len(path) and recording.complete
    assert all(same(recording[i], state) for i, state in enumerate(path))
    assert torch.equal(recording.times, torch.stack([state.time for state in path]).double())
    assert recording.x.shape == (len(path), *path[0].x.shape)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize("frame", [0, -1])
def test_a_run_restarts_from_the_full_state_of_a_frame(tmp_path, variant, frame):
    path = states(**variant)
    write_trajectory(tmp_path / "t.h5", iter(path))
    state = restart(tmp_path / "t.h5", frame)
    assert (
        isinstance(state, Frame) and same(state, path[frame]) and state.time.item() == pytest.approx(path[frame].time)
    )
    again = restart(tmp_path / "t.h5", frame, dtype=torch.float32)
    assert again.F.dtype == torch.float32 and again.material.dtype == torch.int64


@pytest.mark.parametrize("chosen", [slice(1, 3), slice(None, None, 2), slice(-1, None), slice(None, None, -1)], ids=str)
def test_a_slice_of_frames_is_that_slice(tmp_path, chosen):
    path = states(count=5)
    write_trajectory(tmp_path / "t.h5", path)
    recording = read_trajectory(tmp_path / "t.h5", frames=chosen)
    assert len(recording) == len(path[chosen])
    assert all(same(recording[i], state) for i, state in enumerate(path[chosen]))


def test_the_file_says_its_units_to_a_program_that_knows_only_hdf5(tmp_path):
    path, stress = states(), torch.ones(4, 7, 3, 3)
    write_trajectory(tmp_path / "t.h5", path, fields={"stress": stress}, attributes={"scene": "jelly_drop", "dt": 1e-4})
    with h5py.File(tmp_path / "t.h5") as file:
        assert {name: file[name].attrs["units"] for name in UNITS} == UNITS
        assert file["fields/stress"].attrs["units"] == "Pa" and file["fields/stress"].shape == (4, 7, 3, 3)
        assert file.attrs["schema"] == 1 and file.attrs["scene"] == "jelly_drop" and file.attrs["dim"] == 3
        assert np.array_equal(file["x"][2], path[2].x.detach()) and np.allclose(file["time"], [0, 0.1, 0.2, 0.3])


def test_the_volume_of_a_plane_body_is_an_area(tmp_path):
    write_trajectory(tmp_path / "t.h5", states(d=2))
    assert read_trajectory(tmp_path / "t.h5").units["volume"] == "m^2"


def test_optional_fields_read_back_with_their_units(tmp_path):
    heat = torch.rand(4, 7)
    write_trajectory(tmp_path / "t.h5", states(), fields={"heat": heat, "energy": heat}, units={"heat": "K"})
    recording = read_trajectory(tmp_path / "t.h5")
    assert torch.equal(recording.fields["heat"], heat) and recording.units["heat"] == "K"
    with pytest.raises(DataError, match="'heat' has no unit"):
        write_trajectory(tmp_path / "u.h5", states(), fields={"heat": heat})


def test_a_recording_can_be_written_again(tmp_path):
    write_trajectory(tmp_path / "t.h5", states())
    write_trajectory(tmp_path / "u.h5", read_trajectory(tmp_path / "t.h5"))
    write_trajectory(tmp_path / "w.h5", tmp_path / "u.h5")
    first, again = read_trajectory(tmp_path / "t.h5"), read_trajectory(tmp_path / "w.h5")
    assert all(same(first[i], again[i]) for i in range(4)) and torch.equal(first.times, again.times)


def test_a_file_of_observations_reads_but_does_not_restart(tmp_path):
    path = states()
    write_trajectory(tmp_path / "t.h5", path, full=False)
    recording = read_trajectory(tmp_path / "t.h5")
    assert torch.equal(recording.x[1], path[1].x) and recording[1].F is None
    with pytest.raises(AttributeError, match="holds no F"):
        recording.F  # noqa: B018
    with pytest.raises(DataError, match="full=True"):
        restart(tmp_path / "t.h5")


def test_the_file_appears_whole_and_replaces_the_old_one(tmp_path):
    (tmp_path / "t.h5").write_text("old")
    with TrajectoryWriter(tmp_path / "t.h5") as writer:
        for state in states():
            writer.append(state)
            assert (tmp_path / "t.h5").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["t.h5"] and len(read_trajectory(tmp_path / "t.h5")) == 4


def test_a_part_can_be_read_while_it_is_written(tmp_path):
    path = states()
    with TrajectoryWriter(tmp_path / "t.h5") as writer:
        writer.append(path[0])
        writer.append(path[1])
        script = f"from diffsim.trajectory import *; print(len(read_trajectory({str(writer.partial)!r})))"
        assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout.strip() == "2"
        writer.append(path[2])


def test_an_exception_keeps_the_part_and_the_error_names_it(tmp_path):
    path = states()
    with pytest.raises(ValueError, match="diverged"), TrajectoryWriter(tmp_path / "t.h5") as writer:
        writer.append(path[0])
        writer.append(path[1])
        raise ValueError("diverged")
    assert [p.name for p in tmp_path.iterdir()] == ["t.h5.part"]
    recording = read_trajectory(tmp_path / "t.h5.part")
    assert len(recording) == 2 and not recording.complete and same(recording[1], path[1])
    with pytest.raises(DataError, match=r"t\.h5 does not exist; .*left .*t\.h5\.part"):
        read_trajectory(tmp_path / "t.h5")


def test_a_killed_process_leaves_a_readable_part_to_restart_from(tmp_path):
    write_trajectory(tmp_path / "source.h5", states())
    script = f"""
import os, signal
from diffsim.trajectory import TrajectoryWriter, frames_of
writer = TrajectoryWriter({str(tmp_path / "t.h5")!r})
for i, state in enumerate(frames_of({str(tmp_path / "source.h5")!r})):
    if i == 3:  # in the middle of a frame: some of its tensors are there, its time is not
        writer._put("x", state.x.numpy())
        writer._put("v", state.v.numpy())
        os.kill(os.getpid(), signal.SIGKILL)
    writer.append(state)
"""
    assert subprocess.run([sys.executable, "-c", script]).returncode == -signal.SIGKILL
    recording = read_trajectory(tmp_path / "t.h5.part")
    assert len(recording) == 3 and len(recording.x) == 3
    assert same(restart(tmp_path / "t.h5.part"), read_trajectory(tmp_path / "source.h5")[2])


def test_a_writer_without_frames_leaves_nothing(tmp_path):
    with pytest.raises(DataError, match="no frame"):
        write_trajectory(tmp_path / "t.h5", [])
    assert list(tmp_path.iterdir()) == []


def test_frames_that_differ_in_particles_or_fields_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"frame 1: x has the shape \(8, 3\), frame 0 has \(7, 3\)"):
        write_trajectory(tmp_path / "t.h5", [states(n=7)[0], states(n=8)[0]])
    with TrajectoryWriter(tmp_path / "u.h5") as writer:
        writer.append(states()[0], energy=torch.ones(7))
        with pytest.raises(DataError, match="frame 1: fields/energy not in every frame"):
            writer.append(states()[1])
    with pytest.raises(DataError, match="frame 0: .*has no attribute"):
        write_trajectory(tmp_path / "w.h5", [torch.ones(3)])


@pytest.mark.parametrize("frame", [4, -5, 100])
def test_a_frame_that_is_not_there_is_refused_with_the_range(tmp_path, frame):
    write_trajectory(tmp_path / "t.h5", states())
    with pytest.raises(DataError, match=f"4 frames, so there is no frame {frame}; use 0 to 3"):
        restart(tmp_path / "t.h5", frame)


def torn(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def other_schema(path):
    with h5py.File(path, "a") as file:
        file.attrs["schema"] = 99


def without_x(path):
    with h5py.File(path, "a") as file:
        del file["volume"]


def foreign(path):
    with h5py.File(path, "w") as file:
        file["x"] = np.ones(3)


DAMAGE = {
    torn: "damaged",
    other_schema: "schema 99, this diffsim reads 1",
    without_x: "damaged",
    foreign: "schema None",
    lambda path: path.write_text("not HDF5"): "damaged or not a trajectory",
    lambda path: path.write_bytes(b""): "damaged or not a trajectory",
    lambda path: path.unlink(): "does not exist; check the path",
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("read", [read_trajectory, restart])
def test_a_damaged_file_is_named_with_the_remedy(tmp_path, damage, read):
    write_trajectory(tmp_path / "t.h5", states())
    damage(tmp_path / "t.h5")
    with pytest.raises(DataError, match=DAMAGE[damage]) as error:
        read(tmp_path / "t.h5")
    assert str(tmp_path / "t.h5") in str(error.value) and "\n" not in str(error.value)


def test_a_folder_that_is_missing_is_named(tmp_path):
    with pytest.raises(DataError, match=r"nowhere/t\.h5\.part cannot be written"):
        write_trajectory(tmp_path / "nowhere" / "t.h5", states())


@pytest.mark.parametrize("d", [2, 3])
@pytest.mark.parametrize("kind", ["states", "file", "recording"])
def test_vtu_frames_hold_the_points_and_their_data(tmp_path, d, kind):
    path, energy = states(d=d), torch.rand(4, 7)
    write_trajectory(tmp_path / "t.h5", path, fields={"energy": energy})
    source = {"states": path, "file": tmp_path / "t.h5", "recording": read_trajectory(tmp_path / "t.h5")}[kind]
    collection = export_vtu(source, tmp_path / "out")
    entries = ElementTree.parse(collection).getroot().findall("Collection/DataSet")
    assert [float(entry.get("timestep")) for entry in entries] == pytest.approx([0, 0.1, 0.2, 0.3])
    for i, (entry, state) in enumerate(zip(entries, path, strict=True)):
        cloud = meshio.read(collection.parent / entry.get("file"))
        assert np.array_equal(cloud.points[:, :d], state.x.detach()) and not cloud.points[:, d:].any()
        assert np.array_equal(cloud.point_data["v"][:, :d], state.v)
        assert cloud.point_data["speed"] == pytest.approx(state.v.norm(dim=1).numpy())
        J = torch.linalg.det(state.F) * (state.q[:, 0] if d == 2 else 1)
        assert cloud.point_data["J"] == pytest.approx(J.numpy())
        assert np.array_equal(cloud.point_data["material"].ravel(), state.material)
        assert ("energy" in cloud.point_data) == (kind != "states")
        if kind != "states":
            assert cloud.point_data["energy"] == pytest.approx(energy[i].numpy())


def test_ply_files_hold_points_and_meshes(tmp_path):
    points = torch.rand(9, 2, dtype=torch.float64)
    read = trimesh.load(export_ply(tmp_path / "points.ply", points))
    assert read.vertices[:, :2] == pytest.approx(points.numpy(), abs=1e-7) and not read.vertices[:, 2].any()
    box = trimesh.creation.box((1, 2, 3))
    export_ply(tmp_path / "box.ply", torch.tensor(np.array(box.vertices)), torch.tensor(np.array(box.faces)))
    read = trimesh.load(tmp_path / "box.ply")
    assert read.is_watertight and read.volume == pytest.approx(6)


def test_ply_input_that_does_not_fit_is_refused(tmp_path):
    with pytest.raises(DataError, match="points have the shape"):
        export_ply(tmp_path / "a.ply", torch.ones(5))
    with pytest.raises(DataError, match="indices below 3"):
        export_ply(tmp_path / "a.ply", torch.ones(3, 3), torch.tensor([[0, 1, 3]]))
    assert list(tmp_path.iterdir()) == []
