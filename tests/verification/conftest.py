"""What every verification problem shares: the published tables, and the record of what was measured."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COLLECTION = ROOT.parent / "shared" / "verification" / "reference.json"
RECORD = ROOT / "runs" / "verification.json"


@dataclass(frozen=True)
class Finding:
    """One measured number of a problem.

    accept: largest deviation, relative unless the reference is zero; or the interval in which the result must lie; or
    a condition in words, which the test asserts.
    order: observed order of convergence, where several resolutions were run. how: what a reader must know to read the
    number (scheme, cells, treatment of the boundary).
    """

    problem: str
    measure: str
    result: float
    reference: float
    accept: float | tuple[float, float] | str
    order: float | None = None
    how: str = ""

    @property
    def deviation(self) -> float:
        return self.result - self.reference if self.reference == 0 else self.result / self.reference - 1

    @property
    def met(self) -> bool:
        if isinstance(self.accept, str):
            return True
        if isinstance(self.accept, tuple):
            return self.accept[0] <= self.result <= self.accept[1]
        return abs(self.deviation) <= self.accept


@pytest.fixture
def record():
    """Keep a finding in runs/verification.json, from which docs/verification_table.py writes its table."""

    def keep(problem, measure, result, reference, *, accept, order=None, how=""):
        finding = Finding(problem, measure, float(result), float(reference), accept, order, how)
        assert math.isfinite(finding.result), finding
        known = json.loads(RECORD.read_text()) if RECORD.exists() else {}
        known[f"{problem}: {measure}"] = asdict(finding) | {"deviation": finding.deviation, "met": finding.met}
        RECORD.parent.mkdir(exist_ok=True)
        partial = RECORD.with_suffix(".part")
        partial.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
        partial.replace(RECORD)
        print(f"{problem}: {measure}: {finding.result:.6g} for {finding.reference:.6g}, {finding.deviation:+.2e}")
        return finding

    return keep


@pytest.fixture(scope="session")
def tables():
    """Tables of the collection by name; skips where it does not lie beside the repository."""
    if not COLLECTION.exists():
        pytest.skip(f"the verification collection is not at {COLLECTION}")
    return json.loads(COLLECTION.read_text())["tables"]
