"""Motion data: what is broken is named with file, frame and particle; what is whole comes back as it was."""

import h5py
import numpy as np
import pytest
import torch
from bodies import model

from diffsim.errors import DataError
from diffsim.kernels.arrays import context
from diffsim.learning import Motion, read_motion, write_motion


def arrays(frames=4, count=3, dim=2, full=True):
    generator = torch.Generator().manual_seed(0)
    values = {
        "times": torch.arange(frames) * 0.01,
        "x": 0.4 + 0.2 * torch.rand(frames, count, dim, generator=generator),
    }
    if full:
        values["v"] = torch.randn(frames, count, dim, generator=generator)
        values["C"] = torch.randn(frames, count, dim, dim, generator=generator)
        values["F"] = torch.eye(dim).repeat(frames, count, 1, 1)
    return values


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("dim", [2, 3])
def test_a_motion_comes_back_from_its_file(tmp_path, full, dim):
    motion = Motion(**arrays(dim=dim, full=full), volume=torch.full((3,), 1e-3))
    write_motion(tmp_path / "motion.h5", motion)
    found = read_motion(tmp_path / "motion.h5")
    assert found.full == full and found.source.endswith("motion.h5")
    for name in ("times", "x", "v", "C", "F", "volume"):
        value = getattr(motion, name)
        assert getattr(found, name) is None if value is None else torch.equal(getattr(found, name), value)
    with h5py.File(tmp_path / "motion.h5") as file:
        assert file["volume"].attrs["units"] == f"m^{dim}"
    assert found.interval == pytest.approx(0.01) and found.stride(0.005) == 2


def test_millimeters_and_milliseconds_become_si(tmp_path):
    with h5py.File(tmp_path / "motion.h5", "w") as file:
        for name, value, unit in (("time", [0.0, 5.0], "ms"), ("x", [[[100.0, 200.0]], [[101.0, 200.0]]], "mm")):
            file.create_dataset(name, data=np.array(value)).attrs["units"] = unit
    motion = read_motion(tmp_path / "motion.h5")
    assert motion.interval == pytest.approx(5e-3)
    torch.testing.assert_close(motion.x[0, 0], torch.tensor([0.1, 0.2], dtype=torch.float64))


def spoiled(**changes):
    values = arrays()
    for name, change in changes.items():
        values[name] = change(values[name].clone())
    return values


def with_nan(x):
    x[2, 1, 0] = torch.nan
    return x


def late(times):
    times[2] += 0.001
    return times


@pytest.mark.parametrize(
    "values, message",
    [
        (spoiled(x=with_nan), "file.h5, frame 2, particle 1: x is not finite"),
        (spoiled(F=lambda F: F * float("inf")), "file.h5, frame 0, particle 0: F is not finite"),
        (spoiled(times=late), "file.h5, frame 2: 0.011 s after the one before, others 0.01 s"),
        (spoiled(times=lambda t: -t), "file.h5, frame 1: .* constant frame time"),
        (spoiled(v=lambda v: v[:, :2]), "file.h5: v has 2 particles, x has 3"),
        (spoiled(F=lambda F: F[:3]), "file.h5: F has 3 frames, time has 4"),
        (spoiled(times=lambda t: t[:1]), "x has 4 frames and time shape"),
        (spoiled(x=lambda x: x[0]), "x has shape .*; give"),
    ],
)
def test_broken_data_is_named(values, message):
    with pytest.raises(DataError, match=message) as error:
        Motion(**values, source="file.h5")
    assert "\n" not in str(error.value)


def test_data_that_do_not_fit_the_scene_are_named():
    simulation = model()
    values = arrays()
    values["x"][1, 2] = torch.tensor([0.5, 1.7])
    motion = Motion(**values, source="file.h5")
    with pytest.raises(DataError, match=r"file.h5, frame 1, particle 2 at \(0.5, 1.7\) m is outside the grid"):
        motion.check(simulation)
    with pytest.raises(DataError, match="file.h5, frame 0: 3 particles, the scene has 5"):
        motion.check(simulation, 5)
    with pytest.raises(DataError, match="positions have 2 axes, the grid 3"):
        motion.check(model(dim=3))
    with pytest.raises(DataError, match="no whole number of steps"):
        motion.stride(0.003)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda file: file["x"].attrs.pop("units"), "dataset 'x' has no attribute 'units'; add one of m, cm, mm"),
        (lambda file: file["x"].attrs.modify("units", "furlong"), "'x' has the units 'furlong'"),
        (lambda file: file.__delitem__("time"), "no dataset 'time'"),
    ],
)
def test_a_file_that_lacks_what_it_needs_is_refused(tmp_path, change, message):
    path = tmp_path / "motion.h5"
    write_motion(path, Motion(**arrays()))
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(DataError, match=message):
        read_motion(path)


def test_no_file_or_another_one_is_refused(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        read_motion(tmp_path / "none.h5")
    (tmp_path / "text.h5").write_text("no data")
    with pytest.raises(DataError, match="damaged or no HDF5 file"):
        read_motion(tmp_path / "text.h5")


def test_positions_stay_in_their_precision():
    assert Motion(**arrays()).x.dtype == torch.float32 and context.ready
