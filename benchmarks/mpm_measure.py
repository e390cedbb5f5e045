"""One measurement of ``benchmarks/mpm.py``, in a process of its own: ``mpm_measure.py SPECIFICATION RESULT``.

SPECIFICATION is JSON: engine, task ("forward", "gradient" or "check"), side, cells, substeps, threads, and optionally
repetitions, memory, arrays (where to save positions or gradient). The result is written to the file RESULT as JSON.
"""

import importlib
import json
import resource
import sys
import time

import numpy as np
from mpm_block import Block, loss

SECONDS = 2.0  # repeat for at least this long


def peak_bytes() -> int:
    """Largest resident memory of this process so far [bytes]."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def timed(function):
    """Wall seconds, CPU seconds of all threads, and the result of a call."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = function()
    return time.perf_counter() - wall, time.process_time() - cpu, result


def measure(engine, specification: dict) -> dict:
    """Time forward runs or gradients: the first call apart (it compiles), then repetitions."""
    block = Block(specification["side"], specification["cells"])
    options = {"memory": specification["memory"]} if specification.get("memory") else {}
    gradient = specification["task"] == "gradient"
    baseline = peak_bytes()
    started = time.perf_counter()
    runner = engine.Engine(block, specification["substeps"], gradient, **options)
    call = runner.gradient if gradient else runner.forward
    _, _, values = timed(call)
    result = {"first": time.perf_counter() - started, "wall": [], "cpu": []}
    if specification.get("arrays"):
        np.save(specification["arrays"], values)
    if not np.isfinite(values).all():
        raise SystemExit(f"{engine.NAME}: the result is not finite")
    while len(result["wall"]) < specification.get("repetitions", 3) or (
        specification.get("repetitions") is None and sum(result["wall"]) < SECONDS
    ):
        wall, cpu, _ = timed(call)
        result["wall"].append(wall)
        result["cpu"].append(cpu)
    return result | {"peak": peak_bytes() - baseline, "baseline": baseline, "count": block.count}


def check(engine, specification: dict) -> dict:
    """Relative error of the gradient along three directions, against central differences of forward runs.

    The loss is summed in double precision; a step of 0.1 m/s leaves a rounding error of about 1e-4 in single precision.
    """
    block = Block(specification["side"], specification["cells"])
    gradient = engine.Engine(block, specification["substeps"], True).gradient().astype(np.float64)
    runner = engine.Engine(block, specification["substeps"], False)
    half_edge = block.side * block.dx / 4
    directions = {
        "stretch": (block.x - block.x.mean(axis=0)) / half_edge,
        "random": np.random.default_rng(0).standard_normal(block.x.shape),
        "gradient": gradient / np.abs(gradient).max(),
    }
    errors, step = {}, 0.1
    for name, direction in directions.items():
        ends = [loss(runner.forward((block.v + sign * step * direction).astype(np.float32))) for sign in (1, -1)]
        expected = (ends[0] - ends[1]) / (2 * step)
        errors[name] = abs(float((gradient * direction).sum()) / expected - 1)
    return {"errors": errors}


def main() -> None:
    """Run the measurement that the command line names."""
    specification = json.loads(sys.argv[1])
    engine = importlib.import_module("mpm_" + specification["engine"])
    engine.initialize(specification["threads"])
    task = check if specification["task"] == "check" else measure
    with open(sys.argv[2], "w") as file:
        json.dump(task(engine, specification), file)


if __name__ == "__main__":
    main()
