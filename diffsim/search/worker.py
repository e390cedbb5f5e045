"""A process that evaluates candidates of a scene for another one.

It is started as ``python -c``, reads one JSON line with the scene, then one per candidate, and answers each with one.
Nothing is pickled, and no script of the user is imported but the scene's own.
"""

import json
import os
import sys
import time

import numpy as np

# numbers up to 2**63 that differ for every evaluation of every seed
_STRIDE = 1_000_003


def seed_of(seed: int, evaluation: int) -> int:
    """Seed of torch's generator for one candidate, whoever evaluates it."""
    return (seed * _STRIDE + evaluation) % 2**63


def evaluate_candidate(scene, job: dict) -> dict:
    """Loss, figures and gradient of one candidate; the scene's variables become it.

    Args:
        scene: the scene.
        job: variables (flat), evaluation, seed, gradient, memory, steps, truncate.

    Returns:
        loss (infinite where the simulation failed, with the reason as ``failed``), figures, norm, gradient, steps,
        seconds.
    """
    import torch

    from diffsim.errors import GradientError, SimulationError, SolverError
    from diffsim.evaluation import evaluate_scene, flat_gradient, set_flat

    began = time.perf_counter()
    parameters = list(scene.parameters().values())
    set_flat(parameters, np.array(job["variables"]))
    answer = {"loss": float("inf"), "figures": {}, "norm": None, "gradient": None, "failed": None}
    options = {name: job[name] for name in ("gradient", "memory", "steps", "truncate")}
    answer["steps"] = scene.steps if job["steps"] is None else job["steps"]
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(job["seed"], job["evaluation"]))
            found = evaluate_scene(scene, **options)
        answer |= {"loss": found.loss, "figures": found.figures, "norm": found.norm}
        if job["gradient"]:
            answer["gradient"] = flat_gradient(parameters).tolist()
    except (SimulationError, SolverError, GradientError) as error:
        answer["failed"] = str(error)
        answer["steps"] = min(answer["steps"], getattr(error, "step", None) or 0)
    return answer | {"seconds": time.perf_counter() - began}


class Worker:
    """A scene built anew, to evaluate candidates of it.

    Args:
        setup: scene, options, device, precision, threads, torch_threads.
    """

    def __init__(self, setup: dict):
        import torch

        from diffsim.runtime import init
        from diffsim.scripts import load

        init(device=setup["device"], precision=setup["precision"], threads=setup["threads"])
        torch.set_num_threads(setup["torch_threads"])  # sums of the objective may depend on their number
        self.scene = load(setup["scene"], **setup["options"])

    def answer(self, job: dict) -> dict:
        """``evaluate_candidate``, or the class and text of an error of the scene as ``error``."""
        from diffsim.errors import DiffsimError

        try:
            return evaluate_candidate(self.scene, job)
        except DiffsimError as error:
            return {"error": [type(error).__name__, str(error)]}


def main() -> None:
    """Answer on what was standard output; whatever is printed goes to standard error."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(message: dict) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    try:
        worker = Worker(json.loads(sys.stdin.readline()))
        say({"ready": True})
        for line in sys.stdin:
            say(worker.answer(json.loads(line)))
    except (KeyboardInterrupt, BrokenPipeError):
        return  # the process that asked is gone, or about to go
    except Exception as error:
        say({"error": [type(error).__name__, str(error).partition("\n")[0]]})
