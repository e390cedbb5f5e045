"""The examples print what their headers promise."""

import importlib.util
from pathlib import Path

import pytest

from diffsim.kernels.arrays import context

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))
SLOW = {"silicone_beam"}


@pytest.mark.skipif((context.device, context.precision) != ("cpu", "f64"), reason="the examples run in f64 on the CPU")
@pytest.mark.parametrize(
    "file", [pytest.param(f, id=f.stem, marks=[pytest.mark.slow] if f.stem in SLOW else []) for f in EXAMPLES]
)
def test_an_example_gives_its_expected_number(file, capsys):
    spec = importlib.util.spec_from_file_location(f"example_{file.stem}", file)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    data = getattr(example, "DATA", None)
    if data is not None and not data.exists():
        pytest.skip(f"{data} is not there")
    value = example.main()
    assert value == pytest.approx(example.EXPECTED, rel=0, abs=example.TOLERANCE)
    assert capsys.readouterr().out
