"""MLS-MPM of an elastic block: speed, gradient, memory and compile time of diffsim against warp-lang and JAX.

    python benchmarks/mpm.py [--quick] [--check] [--threads N] [--rounds N] [--engines diffsim warp jax] [--out DIR]

Every measurement runs in a child process (``mpm_measure.py``), the engines by turns, so that noise hits both alike.
Writes mpm.md, mpm.png and mpm.json to benchmarks/results and prints the table; README.md says how to read it.
"""

import argparse
import datetime
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

import numpy as np
from mpm_block import CASES, Block

HERE = Path(__file__).parent
PACKAGES = {"diffsim": ("diffsim", "taichi", "quadrants", "torch"), "warp": ("warp-lang",), "jax": ("jax", "jaxlib")}
SUBSTEPS = 64
CURVE = (64, 128, 256, 512, 1024, 2048)
BUDGETS = {"8k": ("64MiB", "2GiB"), "64k": ("512MiB", "2GiB")}
JELLY = """
import diffsim as ds
ds.init(device="cpu", precision="f32", threads={threads})
scene = ds.load("jelly_drop")
path = scene.rollout()
scene.objective(path).backward()
"""


class Failure(Exception):
    """A child that gave no result; the text is the last line of its error output."""


class Lab:
    """Runs child processes with kernel caches in one folder.

    Args:
        folder: for the caches and results of children.
        threads: of diffsim.
    """

    def __init__(self, folder: Path, threads: int):
        self.folder, self.threads = folder, threads

    def run(self, command: list[str], cache: str) -> float:
        """Run ``command`` with the kernel caches in the folder ``cache``; wall seconds from start to exit."""
        caches = ("WARP_CACHE_PATH", "TI_OFFLINE_CACHE_FILE_PATH", "QD_OFFLINE_CACHE_FILE_PATH")
        environment = os.environ | {name: str(self.folder / cache / name) for name in caches}
        environment["DIFFSIM_KERNEL_CACHE"] = "1"
        (self.folder / cache).mkdir(exist_ok=True)
        started = time.perf_counter()
        child = subprocess.run(
            [sys.executable, *command], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        seconds = time.perf_counter() - started
        if child.returncode:
            lines = child.stderr.strip().splitlines()
            raise Failure(lines[-1] if lines else f"exit status {child.returncode}, perhaps out of memory")
        return seconds

    def measure(self, engine: str, task: str, block: tuple[int, int], *, cache: str = "warm", **options) -> dict:
        """One run of mpm_measure.py.

        Args:
            block: particles and cells along an edge.
            options: substeps, repetitions, memory, arrays.
        """
        side, cells = block
        specification = {"engine": engine, "task": task, "side": side, "cells": cells, "threads": self.threads}
        specification |= {"substeps": SUBSTEPS} | options
        answer = self.folder / "result.json"
        self.run([str(HERE / "mpm_measure.py"), json.dumps(specification), str(answer)], cache)
        return json.loads(answer.read_text())


def machine(threads: int, engines: list[str]) -> dict:
    """What a reader needs to judge the figures."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    versions = {}
    for package in [p for engine in engines for p in PACKAGES[engine]]:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "date": datetime.date.today().isoformat(),
        "cpu": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "threads": threads,
        "language": os.environ.get("DIFFSIM_KERNEL_LANGUAGE", "taichi"),
        "versions": {"python": platform.python_version()} | versions,
    }


def available_bytes() -> int:
    """Memory that a child may take; a machine without /proc is taken to have enough."""
    meminfo = Path("/proc/meminfo")
    if not meminfo.exists():
        return sys.maxsize
    lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) * 1024


def refuse_too_large(engine: str, block: tuple[int, int], substeps: int) -> None:
    """Raise Failure for a tape that this machine cannot hold: 24 floats a particle, 7 a node, and their gradients."""
    side, cells = block
    need = 2 * 4 * substeps * (24 * side**3 + 7 * (cells + 1) ** 3)
    if engine == "warp" and need > 0.8 * available_bytes():
        raise Failure(f"needs {need / 1e9:.0f} GB for its tape, {available_bytes() / 1e9:.0f} GB are free")


def say(*words) -> None:
    """A line of progress on the error output, so that the table alone goes to the output."""
    print(*words, file=sys.stderr, flush=True)


def usable(lab: Lab, engines: list[str]) -> list[str]:
    """The engines that run a tiny block; a line for each that does not."""
    works = []
    for engine in engines:
        try:
            lab.measure(engine, "forward", (4, 16), substeps=16, repetitions=0, cache="probe")
            works.append(engine)
        except Failure as failure:
            hint = " (pip install 'diffsim[bench]')" if engine != "diffsim" else ""
            print(f"{engine} is left out{hint}: {failure}", flush=True)
    return works


def compile_times(lab: Lab, engines: list[str]) -> dict:
    """Seconds that the first gradient takes more than a later one, with empty and with filled caches."""
    results = {}
    for engine in engines:
        for state in ("cold", "warm"):  # the cold run starts from an empty folder and fills it
            say(engine, "compile", state)
            run = lab.measure(engine, "gradient", CASES["8k"], repetitions=3)
            results[f"{engine} {state}"] = run["first"] - statistics.median(run["wall"])
        lab.measure(engine, "forward", CASES["8k"], repetitions=0)  # its kernels may differ: fill the cache
    return results


def speeds(lab: Lab, engines: list[str], cases: list[str], rounds: int) -> tuple[dict, dict]:
    """Runs of every case, task and engine, by turns; and how far the engines' results differ."""
    runs, differences = {}, {}
    for case in cases:
        few = {"repetitions": 1} if case == "512k" else {}
        for task in ("forward", "gradient"):
            arrays = {engine: lab.folder / f"{engine}.npy" for engine in engines}
            for number in range(rounds):
                for engine in engines:
                    key = f"{case} {task} {engine}"
                    if "failure" in runs.get(key, {}):
                        continue
                    say(key, f"round {number + 1} of {rounds}")
                    try:
                        if task == "gradient":
                            refuse_too_large(engine, CASES[case], SUBSTEPS)
                        run = lab.measure(engine, task, CASES[case], arrays=str(arrays[engine]), **few)
                    except Failure as failure:
                        runs[key] = {"failure": str(failure)}
                        continue
                    total = runs.setdefault(key, {"wall": [], "cpu": [], "peak": 0, "count": run["count"]})
                    total["wall"] += run["wall"]
                    total["cpu"] += run["cpu"]
                    total["peak"] = max(total["peak"], run["peak"])
            ran = [engine for engine in engines if "wall" in runs[f"{case} {task} {engine}"]]
            for peer in ran[1:]:
                first, second = (np.load(arrays[engine]).astype(float) for engine in (ran[0], peer))
                scale = Block(*CASES[case]).dx if task == "forward" else np.abs(second).max()
                differences[f"{case} {task} {peer}"] = float(np.abs(first - second).max() / scale)
    return runs, differences


def jelly_times(lab: Lab) -> dict:
    """Seconds from starting Python to the end of the first gradient of jelly_drop, or the reason for none."""
    results = {}
    for state in ("cold", "warm"):
        say("jelly_drop", state)
        try:
            results[state] = lab.run(["-c", JELLY.format(threads=lab.threads)], cache="jelly")
        except Failure as failure:
            results[state] = str(failure)
    return results


def memory_curve(lab: Lab, engines: list[str], case: str, lengths: tuple[int, ...]) -> dict:
    """Peak memory [bytes] and seconds of the gradient against the number of substeps, per engine and memory option."""
    curve = {}
    variants = [
        (engine, budget) for engine in engines for budget in (BUDGETS[case] if engine == "diffsim" else (None,))
    ]
    for engine, budget in variants:
        points = curve.setdefault(f"{engine} {budget or 'tape'}", {})
        for substeps in lengths:
            say("memory", engine, budget or "", substeps)
            try:
                refuse_too_large(engine, CASES[case], substeps)
                run = lab.measure(engine, "gradient", CASES[case], substeps=substeps, repetitions=0, memory=budget)
            except Failure as failure:
                points[substeps] = {"failure": str(failure)}
                break
            points[substeps] = {"peak": run["peak"], "seconds": run["first"]}
    return curve


def check(lab: Lab, engines: list[str]) -> None:
    """Print how each engine's gradient compares with finite differences on a block of 16^3 particles."""
    for engine in engines:
        errors = lab.measure(engine, "check", (16, 64))["errors"]
        words = ", ".join(f"{name} {error:.1e}" for name, error in errors.items())
        print(f"{engine}: relative error of the gradient against finite differences along {words}", flush=True)


def main() -> None:
    """Parse the command line, measure, report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="8k and 64k only, a short memory curve of 8k")
    parser.add_argument("--check", action="store_true", help="only compare the gradients with finite differences")
    parser.add_argument(
        "--threads", type=int, default=os.cpu_count(), help="of diffsim and JAX; warp's CPU backend has one"
    )
    parser.add_argument("--rounds", type=int, default=3, help="child processes per engine, case and task")
    parser.add_argument("--cases", nargs="+", choices=CASES, help="instead of all")
    parser.add_argument("--engines", nargs="+", choices=PACKAGES, default=list(PACKAGES))
    parser.add_argument("--out", type=Path, default=HERE / "results")
    options = parser.parse_args()
    cases = options.cases or list(CASES)[: 2 if options.quick else None]
    folder = Path(tempfile.mkdtemp(prefix="diffsim-benchmark-"))
    try:
        lab = Lab(folder, options.threads)
        engines = usable(lab, options.engines)
        if not engines:
            sys.exit("no engine to measure")
        if options.check:
            return check(lab, engines)
        results = {"machine": machine(options.threads, engines), "engines": engines, "cases": cases}
        results["substeps"] = SUBSTEPS
        results["compile"] = compile_times(lab, engines)
        results["runs"], results["differences"] = speeds(lab, engines, cases, options.rounds)
        results["jelly_drop"] = jelly_times(lab) if "diffsim" in engines else {}
        results["curve_case"] = "8k" if options.quick else "64k"
        lengths = CURVE[::2][:2] if options.quick else CURVE
        results["curve"] = memory_curve(lab, engines, results["curve_case"], lengths)
    finally:
        shutil.rmtree(folder)
    from mpm_report import (
        write,
    )  # last: matplotlib's memory would count as a child's, which inherits the peak of its parent

    print(write(results, options.out))


if __name__ == "__main__":
    main()
