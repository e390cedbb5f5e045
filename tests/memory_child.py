"""Growth of this process's peak memory by a gradient, and what was estimated; test_rollout.py compares them."""

import json
import re
import resource
import sys
from pathlib import Path

import torch

import diffsim as ds

ds.init(device="cpu", precision="f32")

from bodies import block, model  # noqa: E402  they read the precision

from diffsim.rollout import estimate  # noqa: E402

COUNT, STEPS = 100_000, 60
simulation = model(dim=3, gravity=9.8)
state = block(simulation, COUNT, size=0.5, low=(0.2, 0.3, 0.2), strain=0.0, jitter=0.0)
state = state._replace(x=state.x.requires_grad_())


def gradient(steps, **options):
    x = ds.rollout(simulation, state, steps=steps, every=steps, **options)[-1].x
    torch.autograd.grad(x.sum(), state.x)


def peak():
    """Largest resident memory [bytes] since this program began: getrusage would count the process that started it."""
    status = Path("/proc/self/status")
    if status.exists():
        return 1024 * int(re.search(r"VmHWM:\s*(\d+) kB", status.read_text())[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


small = block(simulation, 100)
ds.rollout(simulation, small._replace(x=small.x.requires_grad_()), steps=1).x.sum().backward()
before = peak()
work = estimate(simulation, state, STEPS, every=STEPS, memory="8GiB").work_bytes
memory = {"all": "8GiB", "some": work + 12 * COUNT * 96}[sys.argv[1]]  # and 12 states
plan = estimate(simulation, state, STEPS, every=STEPS, memory=memory)
gradient(STEPS, memory=memory)
print(json.dumps({"growth": peak() - before, "estimate": plan.peak_bytes, "stored": plan.snapshots}))
