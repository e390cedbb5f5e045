"""The table of docs/verification.md, from what the tests of tests/verification recorded in runs/verification.json.

    make verify && python docs/verification_table.py

Numbers stand between the markers of the page; the text around them is written by hand.
"""

import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "verification.md"
RECORD = ROOT / "runs" / "verification.json"
START, END = "<!-- findings -->", "<!-- end of the findings -->"
TITLES = ("problem", "measure", "reference", "result", "deviation", "order", "Accept", "met", "how")


def number(value):
    return f"{value:.6g}"


def small(share):
    """A relative deviation in percent, or as a power of ten where that reads better."""
    return "0" if share == 0 else f"{share:+.1%}" if abs(share) >= 1e-3 else f"{share:+.0e}"


def bound(accept, relative):
    if isinstance(accept, str):
        return accept
    if isinstance(accept, list):
        return f"{number(accept[0])} to {number(accept[1])}"
    return f"{accept:.3g}" if not relative or accept < 1e-3 else f"{100 * accept:.3g} %"


def row(finding):
    relative = finding["reference"] != 0
    deviation = finding["deviation"]
    cells = (
        finding["problem"],
        finding["measure"],
        number(finding["reference"]),
        number(finding["result"]),
        small(deviation).replace("%", " %") if relative else f"{deviation:+.1e}",
        "" if finding["order"] is None else f"{finding['order']:.2f}",
        bound(finding["accept"], relative),
        "yes" if finding["met"] else "**no**",
        finding["how"],
    )
    return "| " + " | ".join(cells) + " |"


def table(findings):
    rule = "| " + " | ".join(["---"] * len(TITLES)) + " |"
    return "\n".join(["| " + " | ".join(TITLES) + " |", rule, *(row(f) for _, f in sorted(findings.items()))])


def main():
    findings = json.loads(RECORD.read_text())
    head, rest = PAGE.read_text().split(START)
    tail = rest.split(END)[1]
    PAGE.write_text(f"{head}{START}\n{table(findings)}\n{END}{tail}")
    missed = [key for key, finding in findings.items() if not finding["met"]]
    print(f"{len(findings)} findings, {len(missed)} outside of their bound:", *missed, sep="\n  ")


if __name__ == "__main__":
    main()
