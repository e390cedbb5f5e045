"""``evaluate_batch``: the candidates of one iteration, evaluated anywhere, logged in order."""

from collections import deque

import numpy as np

from diffsim.errors import SimulationError
from diffsim.evaluation import Evaluation


def evaluate_batch(
    problem, evaluator, iteration: int, vectors, *, gradient: bool = False, logged: deque | None = None
) -> list[tuple[float, np.ndarray | None]]:
    """Loss, and gradient if wanted, of each vector of variables; infinite for one whose simulation failed.

    Args:
        problem: the ``Problem``; its best is kept up to date, the variables are left at some candidate.
        evaluator: of ``diffsim.search.evaluators``.
        vectors: flat variables, each in their bounds.
        logged: records of an earlier run, taken instead of an evaluation while there are any.

    Raises:
        SimulationError: every one of several candidates failed, or the only one.
    """
    found: list[tuple[float, np.ndarray | None]] = []
    failures: list[str] = []
    while logged and len(found) < len(vectors):
        record = logged.popleft()
        problem.set_flat(vectors[len(found)])
        problem.note(iteration, record["loss"])
        problem.replay(record)
        failures += [record["failed"]] if record.get("failed") else []
        found.append((record["loss"], None))
    first, evaluation = len(found), len(problem.history)
    jobs = [
        {
            "variables": vector.tolist(),
            "evaluation": evaluation + k,
            "seed": problem.seed,
            "gradient": gradient,
            "memory": problem.memory,
            "steps": problem.steps,
            "truncate": problem.truncate,
        }
        for k, vector in enumerate(vectors[first:])
    ]
    answers = evaluator.map(jobs) if jobs else ()
    for k, answer in enumerate(answers, start=first):
        problem.set_flat(vectors[k])
        problem.simulated_steps += answer["steps"]
        # the best is on the disk before its record is: a replayed record is never evaluated again
        if problem.note(iteration, answer["loss"]) and problem.folder is not None:
            problem.write_best(problem.scene.start()[1])
        more = {"candidate": k} if len(vectors) > 1 else {}
        if answer["failed"]:
            more["failed"] = answer["failed"]
            failures.append(answer["failed"])
        seen = Evaluation(answer["loss"], answer["figures"], answer["norm"], None, answer["steps"])
        problem.record(iteration, seen, answer["seconds"], **more)
        problem.report(problem.history[-1])
        found.append((answer["loss"], None if answer["gradient"] is None else np.array(answer["gradient"])))
    if len(failures) == len(vectors):
        count = f"all {len(vectors)} candidates failed, the first with: " if len(vectors) > 1 else ""
        raise SimulationError(f"iteration {iteration}: {count}{failures[0]}")
    return found
