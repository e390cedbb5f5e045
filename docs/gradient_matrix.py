"""The gradient matrix of docs/gradients.md: every law in every kind of contact, by every input, against differences.

    python docs/gradient_matrix.py                  the whole matrix
    python docs/gradient_matrix.py VonMises '3-D'   the cells whose name matches one of the patterns
    python docs/gradient_matrix.py --missing        those without a result yet, as after an interrupted run

A cell is a body of one law (tests/properties/laws.py) in 2-D or 3-D over 10 substeps: in free flight, sliding on a wall
with friction, sticking to a hard sphere that turns, or sliding in the soft contact of one. ``ds.testing.gradcheck``
compares its gradient by every input. At least a tenth of the particles must be in the state that the cell is named
after, and beyond yield where the law has one.

Results are kept in runs/gradient_matrix.json, and the table is written between the markers of docs/gradients.md. The
exit code is 1 if a cell is not good.
"""

import argparse
import json
import math
import re
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "gradients.md"
RESULTS = ROOT / "runs" / "gradient_matrix.json"
START, END = "<!-- gradient matrix -->", "<!-- end of the gradient matrix -->"
TOLERANCE, LEAST = 1e-6, 0.1
STATES = {"yielding": "yield", "on a tool": "tool", "on a wall": "wall", "sliding": "slide", "sticking": "stick"}

sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "properties")]

import diffsim as ds  # noqa: E402
from diffsim.testing import gradcheck  # noqa: E402

ds.init(device="cpu", precision="f64")

from bodies import DX, block, model, parameter, tensor  # noqa: E402  they read the precision
from laws import MATERIALS  # noqa: E402

WALL = 2 * DX  # where the low walls stand
TURNED = (0.9950041652780258, 0.0, 0.0, 0.09983341664682815)  # 0.2 rad about z


def free(material, dim, strain):
    simulation = model([material], dim, walls=ds.Walls("none"))
    return simulation, block(simulation, 60, strain=strain), None


def wall(material, dim, strain):
    walls = ds.Walls({"y-": "slip"}, friction={"y-": parameter(0.3)})
    simulation = model([material], dim, gravity=9.8, walls=walls)
    low, v = (0.4, WALL - 0.3 * DX, 0.4)[:dim], (2.0, -0.5, 0.3)[:dim]
    return simulation, block(simulation, 60, low=low, v=v, strain=strain), None


def sphere(material, dim, strain, **contact):
    """A body that falls on a sphere that moves up and turns."""
    tool = ds.Tool(ds.Sphere(0.1), pose=(tensor((0.5, 0.32, 0.503)[:dim]), TURNED), **contact)
    simulation = model([material], dim, gravity=9.8, tools=[tool])
    state = block(simulation, 60, v=(0.0, -1.0, 0.0)[:dim], jitter=0.05, strain=strain)
    twist = (0.1, -0.2, 0.8) if dim == 3 else (0.0, 0.0, 0.8)
    return simulation, state, tensor([(0.3, 0.5, 0.1 * (dim == 3), *twist), (0.1, 0.4, 0.0, *twist)])[:, None]


def hard(material, dim, strain):
    return sphere(material, dim, strain, friction=parameter(1.0))


def soft(material, dim, strain):
    return sphere(material, dim, strain, friction=parameter(0.3), softness=parameter(40.0))


# contact -> its scene, and the states in which a tenth of the particles must be
CONTACTS = {
    "free flight": (free, ()),
    "wall": (wall, ("on a wall", "sliding")),
    "tool": (hard, ("on a tool", "sticking")),
    "soft contact": (soft, ("on a tool", "sliding")),
}
CELLS = [(law, dim, contact) for law in MATERIALS for dim in (2, 3) for contact in CONTACTS]


def name(cell) -> str:
    law, dim, contact = cell
    return f"{law}, {dim}-D, {contact}"


def measure(cell) -> dict:
    """One cell: numbers for the table, and what is wrong with it, if anything."""
    law, dim, contact = cell
    row, (scene, states) = MATERIALS[law], CONTACTS[contact]
    simulation, state, controls = scene(row.make(parameter), dim, 0.05 if row.yields else 0.02)
    report = gradcheck(simulation, state, controls, steps=2, tolerance=TOLERANCE, entries=2, directions=1)
    states = (*states, "yielding") if row.yields else states
    wrong = [f"{r.input} is {r.status(TOLERANCE)}" for r in report.rows if r.status(TOLERANCE) != "ok"]
    wrong += [f"only {report.shares[s]:.0%} {s}" for s in states if report.shares[s] < LEAST]
    worst = max(report.rows, key=lambda r: math.inf if math.isnan(r.difference) else r.difference)
    slopes = [r.slope for r in report.rows if math.isfinite(r.slope)]
    return {
        "inputs": len(report.rows),
        "difference": worst.difference,
        "by": worst.input,
        "slopes": [min(slopes), max(slopes)] if slopes else [],
        "curved": len(slopes),
        "shares": {s: report.shares[s] for s in STATES},
        "switches": sum(r.switches for r in report.rows),
        "evaluations": sum(r.evaluations for r in report.rows),
        "wrong": wrong,
    }


def line(cell, found) -> str:
    law, dim, contact = cell
    shares = ", ".join(f"{short} {found['shares'][s]:.0%}" for s, short in STATES.items() if found["shares"][s])
    slopes = "{:.3f} .. {:.3f}".format(*found["slopes"]) if found["slopes"] else "-"
    cells = [law, f"{dim}-D", contact, found["inputs"], f"{found['difference']:.0e}", f"`{found['by']}`", slopes]
    cells += [shares or "-", f"{found['switches']} of {found['evaluations']}"]
    return "| " + " | ".join(str(c) for c in cells) + " |"


def write(results) -> None:
    """Put the table between the markers of the page."""
    known = [(cell, results[name(cell)]) for cell in CELLS if name(cell) in results]
    worst = max(known, key=lambda pair: pair[1]["difference"])
    slopes = [slope for _, found in known for slope in found["slopes"]]
    bad = [f"- {name(cell)}: {'; '.join(found['wrong'])}" for cell, found in known if found["wrong"]]
    summary = (
        f"{len({law for (law, _, _), _ in known})} materials, {len(known)} cells, "
        f"{sum(found['inputs'] for _, found in known)} gradients by an input; the largest relative difference is "
        f"{worst[1]['difference']:.1e} ({name(worst[0])}, by `{worst[1]['by']}`), the Taylor slopes lie between "
        f"{min(slopes):.3f} and {max(slopes):.3f}."
    )
    titles = ["law", "", "contact", "inputs", "largest difference", "by", "Taylor slopes", "particles", "switches"]
    table = ["| " + " | ".join(titles) + " |", "| " + " | ".join(["---"] * len(titles)) + " |"]
    lines = [START, "", summary, "", *(["Not good:", "", *bad, ""] if bad else []), *table]
    lines += [line(cell, found) for cell, found in known] + ["", END]
    page = PAGE.read_text()
    head, _, rest = page.partition(START)
    tail = rest.partition(END)[2]
    PAGE.write_text(head + "\n".join(lines) + tail)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("patterns", nargs="*", help="regular expressions; all cells when there is none")
    parser.add_argument("--missing", action="store_true", help="only cells without a result")
    options = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    chosen = [cell for cell in CELLS if not options.patterns or any(re.search(p, name(cell)) for p in options.patterns)]
    if options.missing:
        chosen = [cell for cell in chosen if name(cell) not in results]
    for number, cell in enumerate(chosen, 1):
        start = time.perf_counter()
        found = results[name(cell)] = measure(cell)
        verdict = "; ".join(found["wrong"]) or "good"
        seconds = time.perf_counter() - start
        print(f"{number}/{len(chosen)} {name(cell)}: {found['difference']:.1e}, {verdict}, {seconds:.0f} s", flush=True)
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(results, indent=1))
    write(results)
    return int(any(results[name(cell)]["wrong"] for cell in chosen))


if __name__ == "__main__":
    sys.exit(main())
