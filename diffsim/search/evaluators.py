"""Where candidates are evaluated: in this process, in others on this machine, or on a Ray cluster.

Each candidate is simulated from a seed of its own, and results of the engine do not depend on threads, so all three
give the same bits.
"""

import json
import queue
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from diffsim import errors
from diffsim.errors import DataError, SceneError
from diffsim.kernels.arrays import context
from diffsim.search.worker import Worker, evaluate_candidate

_START = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from diffsim.search.worker import main; main()"


def evaluator_of(problem):
    """The evaluator that a problem's ``workers`` and ``cluster`` ask for; a context manager.

    Raises:
        SceneError: a scene that other processes cannot build, or a cluster without Ray.
    """
    if problem.workers == 1 and problem.cluster is None:
        return Serial(problem.scene)
    if problem.scene.source is None or problem.scene.loaded is None:
        raise SceneError(
            f"scene {problem.scene.name!r} was built in Python, so other processes cannot build it: use workers=1, or "
            "put it into a script and diffsim.load it"
        )
    changed = problem.scene.changed_since_load()
    if changed:
        raise SceneError(
            f"scene {problem.scene.name!r}: {', '.join(changed)} was changed after diffsim.load, and other processes "
            "would not know it: use workers=1, or put it into a script"
        )
    if problem.cluster is not None:
        return Ray(problem.scene, problem.workers, problem.cluster)
    return Processes(problem.scene, problem.workers)


class Serial:
    """One candidate after the other, in this process."""

    def __init__(self, scene):
        self.scene = scene

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def map(self, jobs: list[dict]) -> Iterator[dict]:
        """Answers of ``evaluate_candidate`` in the order of the jobs."""
        return (evaluate_candidate(self.scene, job) for job in jobs)


def _setup(scene) -> dict:
    import torch

    from diffsim.runs import plain

    return {
        "scene": scene.source,
        "options": plain(scene.options, "options"),
        "device": context.device,
        "precision": context.precision,
        "torch_threads": torch.get_num_threads(),
    }


def _checked(answer: dict) -> dict:
    if "error" in answer:
        name, text = answer["error"]
        raise getattr(errors, name, DataError)(text if hasattr(errors, name) else f"a worker failed: {name}: {text}")
    return answer


class Processes:
    """Candidates shared among processes of this machine, each with its part of the threads.

    Args:
        scene: one that ``diffsim.load`` can build again.
        count: processes.
    """

    def __init__(self, scene, count: int):
        self.scene, self.count = scene, count
        self._processes: list[subprocess.Popen] = []
        self._idle: queue.SimpleQueue = queue.SimpleQueue()

    def __enter__(self):
        return self

    def _start(self) -> None:
        setup = _setup(self.scene) | {"threads": max(1, context.threads // self.count)}
        paths = json.dumps([path or "." for path in sys.path])
        for _ in range(self.count):
            process = subprocess.Popen(
                [sys.executable, "-c", _START, paths],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                encoding="utf-8",
            )
            self._processes.append(process)
            process.stdin.write(json.dumps(setup) + "\n")
            process.stdin.flush()
        for process in self._processes:
            _checked(self._read(process))
            self._idle.put(process)

    @staticmethod
    def _read(process) -> dict:
        line = process.stdout.readline()
        if not line:
            raise DataError(
                f"a worker process ended (code {process.wait()}); what it wrote stands above: use fewer workers if "
                "memory ran out"
            )
        return json.loads(line)

    def _ask(self, job: dict) -> dict:
        process = self._idle.get()
        try:
            process.stdin.write(json.dumps(job) + "\n")
            process.stdin.flush()
            return self._read(process)
        except BrokenPipeError:
            return self._read(process)  # says how it ended
        finally:
            self._idle.put(process)

    def map(self, jobs: list[dict]) -> Iterator[dict]:
        """Answers in the order of the jobs; the processes start with the first ones."""
        if not self._processes:
            self._start()
        with ThreadPoolExecutor(self.count) as pool:
            for answer in pool.map(self._ask, jobs):
                yield _checked(answer)

    def __exit__(self, *_):
        for process in self._processes:
            process.kill()
            process.wait()
            with suppress(BrokenPipeError):  # of a job that was never read
                process.stdin.close()
            process.stdout.close()
        self._processes.clear()


class Ray:
    """Candidates shared among the actors of a Ray cluster.

    Args:
        scene: one that ``diffsim.load`` can build again, on every machine of the cluster.
        count: actors, of one processor each.
        address: of the cluster, "auto" for the one that this machine belongs to, "local" to start one here.

    Raises:
        SceneError: Ray is not installed, or does not answer at the address.
    """

    def __init__(self, scene, count: int, address: str):
        try:
            import ray
        except ImportError as error:
            raise SceneError("cluster= needs Ray; install the extra: pip install 'diffsim[cluster]'") from error
        self.ray, self.scene, self.count, self.address = ray, scene, count, address
        self._actors, self._mine = [], False

    def __enter__(self):
        return self

    def _start(self) -> None:
        if not self.ray.is_initialized():
            try:
                more = {"num_cpus": self.count, "include_dashboard": False} if self.address == "local" else {}
                self.ray.init(address=self.address, log_to_driver=False, logging_level="ERROR", **more)
            except (ConnectionError, RuntimeError, ValueError) as error:
                text = str(error).strip().partition("\n")[0]
                raise SceneError(f"Ray does not answer at {self.address!r} ({text}); check cluster=") from error
            self._mine = True
        actor = self.ray.remote(num_cpus=1)(Worker)
        setup = _setup(self.scene) | {"threads": 1}
        self._actors = [actor.remote(setup) for _ in range(self.count)]

    def map(self, jobs: list[dict]) -> Iterator[dict]:
        """Answers in the order of the jobs."""
        if not self._actors:
            self._start()
        pool = self.ray.util.ActorPool(self._actors)
        try:
            for answer in pool.map(lambda actor, job: actor.answer.remote(job), jobs):
                yield _checked(answer)
        except self.ray.exceptions.RayError as error:
            text = str(error).strip().splitlines()[-1]
            raise DataError(f"a Ray actor failed: {text}") from error

    def __exit__(self, *_):
        for actor in self._actors:
            self.ray.kill(actor)
        self._actors = []
        if self._mine:
            self.ray.shutdown()
