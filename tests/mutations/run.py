"""Mutation test of the adjoints: each is broken in one place, and a test must fail.

    python tests/mutations/run.py                    all that are not yet recorded as caught
    python tests/mutations/run.py contact 'Hencky'   those whose file, text or tests match one of the patterns
    python tests/mutations/run.py --list             what there is
    python tests/mutations/run.py --commit HEAD      the files of a commit instead of the working tree
    python tests/mutations/run.py --fresh            again, whatever is recorded

A mutation flips a sign, drops a factor or a transpose. It is applied to a copy in a temporary folder, one at a time,
and the tests that are named with it run there:

    caught     a test fails
    survived   all pass: a test is missing
    missing    the text is not in the file, or more than once: the list is out of date
    broken     the tests fail without the mutation too, or the mutated code does not compile: it says nothing

Results are added to runs/mutations.jsonl. One that was caught is not run again before its source, its tests or its
text change, so an interrupted run goes on where it stopped. The exit code is 1 unless all are caught.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from deformable_mutations import DEFORMABLES
from kernel_mutations import KERNELS
from law_mutations import LAWS

ROOT = Path(__file__).resolve().parents[2]
RECORD = ROOT / "runs" / "mutations.jsonl"
MAPPED = ("kernels", "scenes")  # folders that are sub-packages of diffsim
TIMEOUT = 600  # s for the tests of one mutation
NO_RESULT = re.compile(r"\b(Taichi\w*Error|SyntaxError|IndentationError|NameError|ImportError|ModuleNotFoundError)\b")


class Copy:
    """A copy of the repository in which the mutated package is the one that tests import."""

    def __init__(self, folder: Path, commit: str | None):
        self.folder = folder
        if commit:
            archive = subprocess.run(["git", "archive", commit], cwd=ROOT, check=True, capture_output=True).stdout
            subprocess.run(["tar", "-x", "-C", folder], input=archive, check=True)
        else:
            command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
            names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
            for name in filter(None, names.split("\0")):
                if (ROOT / name).is_file():
                    (folder / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(ROOT / name, folder / name)
        for name in MAPPED:  # as the wheel has them: an editable install would give the working tree's
            shutil.move(folder / name, folder / "diffsim" / name)
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(folder),
            "PYTHONDONTWRITEBYTECODE": "1",  # a mutation of the same length within a second would meet a stale file
            "TI_OFFLINE_CACHE_FILE_PATH": str(folder / "cache"),
        }
        self.healthy = {}
        seen = self.python("-c", "import diffsim.kernels; print(diffsim.__path__[0], diffsim.kernels.__path__[0])")
        if seen.stdout.split() != [str(folder / "diffsim"), str(folder / "diffsim" / "kernels")]:
            sys.exit(f"the copy is not what Python imports there: {seen.stdout}{seen.stderr}")

    def path(self, file: str) -> Path:
        return self.folder / "diffsim" / file if file.split("/")[0] in MAPPED else self.folder / file

    def python(self, *arguments):
        command = [sys.executable, *arguments]
        return subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=TIMEOUT
        )

    def test(self, tests):
        return self.python("-m", "pytest", "-x", "-q", "--tb=short", "-p", "no:cacheprovider", *tests)

    def passes(self, tests) -> bool:
        """Whether the tests pass without a mutation; found out once."""
        if tests not in self.healthy:
            self.healthy[tests] = self.test(tests).returncode == 0
        return self.healthy[tests]

    def key(self, mutation) -> str:
        """Changes with the mutation, its source and its tests."""
        files = [mutation.file, *(test.split("::")[0] for test in mutation.tests if test.startswith("tests/"))]
        contents = [self.path(file).read_text() if self.path(file).exists() else "" for file in files]
        return hashlib.sha256(repr((mutation, contents)).encode()).hexdigest()[:16]

    def outcome(self, mutation) -> tuple[str, str]:
        """The status of a mutation and, unless it survived, the line that explains it."""
        path = self.path(mutation.file)
        source = path.read_text() if path.exists() else ""
        count = source.count(mutation.text)
        if count != 1:
            return "missing", f"the text occurs {count} times"
        if not self.passes(mutation.tests):
            return "broken", "the tests fail without the mutation"
        path.write_text(source.replace(mutation.text, mutation.replacement))
        try:
            result = self.test(mutation.tests)
        except subprocess.TimeoutExpired:
            return "broken", f"no result in {TIMEOUT} s"
        finally:
            path.write_text(source)
        if result.returncode == 0:
            return "survived", ""
        lines = result.stdout.splitlines()
        if result.returncode != 1 or any(NO_RESULT.search(line) for line in lines if line.startswith("E ")):
            return "broken", "it does not compile, or no test ran: " + " ".join(lines[-3:])
        return "caught", next((line for line in lines if line.startswith("FAILED")), "")[:160]


def recorded() -> dict[str, str]:
    """Last status by key."""
    if not RECORD.exists():
        return {}
    return {row["key"]: row["status"] for row in map(json.loads, RECORD.read_text().splitlines())}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("patterns", nargs="*", help="regular expressions; all mutations when there is none")
    parser.add_argument("--commit", help="take the files from this commit")
    parser.add_argument("--fresh", action="store_true", help="run what is recorded as caught too")
    parser.add_argument("--list", action="store_true", help="print the mutations and stop")
    options = parser.parse_args()
    chosen = [
        mutation
        for mutation in KERNELS + LAWS + DEFORMABLES
        if not options.patterns or any(re.search(p, f"{mutation} {mutation.tests}") for p in options.patterns)
    ]
    if options.list:
        print(*chosen, f"{len(chosen)} mutations", sep="\n")
        return 0
    if not chosen:
        sys.exit("no mutation matches")
    RECORD.parent.mkdir(exist_ok=True)
    known, found, failures = recorded(), Counter(), []
    with tempfile.TemporaryDirectory(prefix="diffsim-mutations-") as name, RECORD.open("a") as record:
        copy = Copy(Path(name).resolve(), options.commit)
        for number, mutation in enumerate(chosen, 1):
            key, start = copy.key(mutation), time.perf_counter()
            if known.get(key) == "caught" and not options.fresh:
                found["caught before"] += 1
                continue
            status, reason = copy.outcome(mutation)
            seconds = time.perf_counter() - start
            found[status] += 1
            if status != "caught":
                failures.append((status, mutation, reason))
            print(f"{number}/{len(chosen)} {status:8} {seconds:5.0f} s  {mutation}", flush=True)
            row = {"key": key, "status": status, "mutation": str(mutation), "reason": reason}
            print(json.dumps(row), file=record, flush=True)
    print("\n" + ", ".join(f"{count} {status}" for status, count in found.items()))
    for status, mutation, reason in failures:
        print(f"{status}: {mutation}" + (f"\n    {reason}" if reason else ""))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
