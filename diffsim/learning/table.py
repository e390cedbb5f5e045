"""Tables and figures of evaluations: a row for each test and material, a column for each law."""

import csv
import io
import json

import numpy as np

from diffsim.errors import DataError
from diffsim.plots import _figure, _save
from diffsim.runs import atomic_write

SCHEMA = 1
NAME = "evaluation"
MARKS = "osD^vPX*<>"


def read_cells(out) -> dict[str, dict]:
    """Cells of an earlier evaluation in a folder, by their keys.

    Raises:
        DataError: a file that is none.
    """
    path = None if out is None else out / f"{NAME}.json"
    if path is None or not path.exists():
        return {}
    try:
        content = json.loads(path.read_text())
        if content["schema"] != SCHEMA:
            raise ValueError(f"schema {content['schema']}, not {SCHEMA}")
        return {cell["key"]: cell for cell in content["cells"]}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} holds no evaluation ({error}); remove it or choose another folder") from error


def grid(cells) -> tuple[list[str], list[tuple], dict]:
    """Laws, rows (test, material), and cells by (test, material, law), in their order."""
    laws = list(dict.fromkeys(cell.law for cell in cells))
    rows = list(dict.fromkeys((cell.test, cell.material) for cell in cells))
    return laws, rows, {(cell.test, cell.material, cell.law): cell for cell in cells}


def markdown(cells) -> str:
    """The errors [m^2], the least of each row in bold."""
    laws, rows, by = grid(cells)
    lines = [f"| test | material | {' | '.join(laws)} |", "|" + " --- |" * (len(laws) + 2)]
    for test, material in rows:
        line = [by.get((test, material, law)) for law in laws]
        whole = [cell.error for cell in line if cell is not None and cell.error is not None and cell.broken is None]
        texts = []
        for cell in line:
            text = "" if cell is None else str(cell)
            best = whole and cell is not None and cell.broken is None and cell.error == min(whole)
            texts.append(f"**{text}**" if best else text)
        lines.append(f"| {test} | {material} | {' | '.join(texts)} |")
    return "\n".join(lines) + "\n"


def write_tables(out, records: list[dict], cells) -> None:
    """evaluation.json, .csv, .md and .png."""
    content = {"schema": SCHEMA, "error": "mean squared coordinate error [m^2]", "cells": records}
    atomic_write(out / f"{NAME}.json", json.dumps(content, indent=1) + "\n")
    atomic_write(out / f"{NAME}.md", markdown(cells))
    text = io.StringIO()
    writer = csv.DictWriter(text, list(records[0]))
    writer.writeheader()
    writer.writerows(records)
    atomic_write(out / f"{NAME}.csv", text.getvalue())
    plot(cells, out / f"{NAME}.png")


def plot(cells, path):
    """The error of each law in each row; laws that broke down are hollow."""
    laws, rows, by = grid(cells)
    figure, axes = _figure(1, width=max(5.0, 2.0 + 0.5 * len(rows)), height=3.2)
    ax = axes[0]
    for number, law in enumerate(laws):
        found = [(row, by.get((*key, law))) for row, key in enumerate(rows)]
        found = [(row, cell) for row, cell in found if cell is not None and cell.error]
        place = np.array([row for row, _ in found]) + 0.6 * (number / max(1, len(laws) - 1) - 0.5)
        whole = np.array([cell.broken is None for _, cell in found], dtype=bool)
        size = np.array([cell.cells for _, cell in found])
        style = {"marker": MARKS[number % len(MARKS)], "color": f"C{number % 10}", "linestyle": "none"}
        ax.plot(place[whole], size[whole], label=law, **style)
        if len(found):
            ax.plot(place[~whole], size[~whole], fillstyle="none", **style)
    if any(cell.error for cell in cells):
        ax.set_yscale("log")
    ax.set_xticks(range(len(rows)), [f"{test}, {material}" for test, material in rows], rotation=60, ha="right")
    ax.set_ylabel("root mean square error [cells]")
    ax.legend(frameon=False, fontsize="small")
    return _save(figure, path)
