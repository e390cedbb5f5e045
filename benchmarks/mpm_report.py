"""Table and figure of ``benchmarks/mpm.py``."""

import json
from pathlib import Path
from statistics import median

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402  the backend must be chosen first

TASKS = {"forward": "forward", "gradient": "forward + backward"}
COLORS = {"diffsim": "tab:blue", "warp": "tab:green", "jax": "tab:orange"}


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


def rate(run: dict, substeps: int, seconds: float) -> float:
    """Million particle-steps per second."""
    return run["count"] * substeps / seconds / 1e6


def speed_rows(results: dict) -> list[list[str]]:
    """A row per case, task and engine; the ratio is warp's median wall time over the engine's own."""
    rows = []
    for case in results["cases"]:
        for task, title in TASKS.items():
            peer = results["runs"].get(f"{case} {task} warp", {})
            for engine in results["engines"]:
                run = results["runs"][f"{case} {task} {engine}"]
                if "failure" in run:
                    rows.append([case, title, engine, run["failure"], *6 * ["-"]])
                    continue
                wall, cpu = run["wall"], run["cpu"]
                per_second = [rate(run, results["substeps"], s) for s in (min(wall), median(wall), median(cpu))]
                ratio = f"{median(peer['wall']) / median(wall):.2f}" if "wall" in peer else "-"
                cells = [f"{per_second[0]:.2f}", f"{per_second[1]:.2f}", f"{per_second[2]:.2f}"]
                cells += [f"{median(wall):.3f}", f"{median(cpu):.3f}", f"{run['peak'] / 1e6:,.0f}"]
                rows.append([case, title, engine, *cells[:3], ratio, *cells[3:]])
    return rows


def curve_rows(results: dict) -> list[list[str]]:
    """A row per engine, memory option and number of substeps."""
    rows = []
    for name, points in results["curve"].items():
        for substeps, point in points.items():
            if "failure" in point:
                rows.append([name, str(substeps), point["failure"], "-"])
            else:
                rows.append([name, str(substeps), f"{point['peak'] / 1e6:,.0f}", f"{point['seconds']:.1f}"])
    return rows


def markdown(results: dict) -> str:
    """The whole report."""
    host = results["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in host["versions"].items())
    parts = [
        "# MLS-MPM elastic block: diffsim against warp-lang and JAX",
        f"{host['date']}, {host['cpu']}, {host['cores']} cores, load average {host['load']:.2f} at the start. "
        f"{versions}. diffsim: {host['threads']} threads, kernels by {host['language']}; warp: its CPU backend's one "
        f"thread. f32, {results['substeps']} substeps.",
        "Million particle-steps per second; ratio: warp's median wall time over the engine's, above 1 is faster than "
        "warp; peak memory above that after imports.",
        table(
            [
                "case",
                "task",
                "engine",
                "best, wall",
                "median, wall",
                "median, CPU",
                "ratio",
                "wall s",
                "CPU s",
                "peak MB",
            ],
            speed_rows(results),
        ),
    ]
    if results["differences"]:
        rows = [
            [*key.split(), f"{value:.1e}", "cells" if " forward " in key else "of the largest component"]
            for key, value in results["differences"].items()
        ]
        parts += [
            "Largest difference from the first engine (final positions, then gradients):",
            table(["case", "task", "engine", "difference", "in"], rows),
        ]
    rows = [[*key.split(), f"{seconds:.1f}"] for key, seconds in results["compile"].items()]
    parts += ["Compile time before the first gradient (8k):", table(["engine", "kernel cache", "s"], rows)]
    if results["jelly_drop"]:
        rows = [[key, f"{s:.1f}" if isinstance(s, float) else s] for key, s in results["jelly_drop"].items()]
        parts += [
            "From starting Python to the first gradient of jelly_drop:",
            table(["kernel cache", "s"], rows),
        ]
    parts += [
        f"Memory of the gradient against its length ({results['curve_case']}); the seconds include loading kernels:",
        table(["engine, memory option", "substeps", "peak MB", "s"], curve_rows(results)),
    ]
    return "\n\n".join(parts) + "\n"


def figure(results: dict, path: Path) -> None:
    """Bars of the median speeds, and the memory curve."""
    _, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    labels = [f"{case}\n{title}" for case in results["cases"] for title in TASKS.values()]
    width = 0.8 / len(results["engines"])
    for number, engine in enumerate(results["engines"]):
        runs = [results["runs"][f"{case} {task} {engine}"] for case in results["cases"] for task in TASKS]
        heights = [rate(run, results["substeps"], median(run["wall"])) if "wall" in run else 0.0 for run in runs]
        places = [place + number * width for place in range(len(runs))]
        left.bar_label(left.bar(places, heights, width, label=engine, color=COLORS[engine]), fmt="%.1f", fontsize=8)
    left.set_xticks(
        [place + width * (len(results["engines"]) - 1) / 2 for place in range(len(labels))], labels, fontsize=8
    )
    left.set_ylabel("million particle-steps per wall second")
    left.legend()
    for name, points in results["curve"].items():
        measured = {int(n): point["peak"] / 1e6 for n, point in points.items() if "peak" in point}
        dashed = "--" if name.endswith("2GiB") else "-"
        right.loglog(measured.keys(), measured.values(), "o" + dashed, label=name, color=COLORS[name.split()[0]])
    right.set_xlabel("substeps")
    right.set_ylabel(f"peak memory of the gradient, {results['curve_case']} [MB]")
    right.legend()
    plt.savefig(path, dpi=120)
    plt.close()


def write(results: dict, folder: Path) -> str:
    """Write mpm.json, mpm.md and mpm.png to ``folder``; returns the text of mpm.md."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "mpm.json").write_text(json.dumps(results, indent=1))
    text = markdown(results)
    (folder / "mpm.md").write_text(text)
    figure(results, folder / "mpm.png")
    return text
