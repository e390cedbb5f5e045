"""Gradient of a long rollout within a given memory: 100,000 particles, 10,000 substeps, 2 GiB by default.

The block of ``mpm_block.py``, made of about so many particles, bounces in its box; the gradient of its mean final
height by every initial velocity is taken with ``ds.rollout(..., memory=...)``, which stores some of the step states and
runs the others again. Prints the plan, the time, and the peak memory above what the imports and a first short gradient
(kernels and compiler) take.

    python benchmarks/long_gradient.py --side 46 --substeps 10000 --memory 2GiB
"""

import argparse
import time

import mpm_diffsim
import torch
from mpm_block import Block
from mpm_measure import peak_bytes

import diffsim as ds


def gradient(engine, memory):
    """Gradient of the mean final height, (n, 3)."""
    v = torch.from_numpy(engine.block.v).clone().requires_grad_()
    state = engine.model.initial_state(engine.x, v=v, volume=engine.block.volume)
    if memory:
        print(ds.estimate(engine.model, state, engine.steps, every=engine.steps, memory=memory), flush=True)
    path = ds.rollout(engine.model, state, steps=engine.steps, every=engine.steps, memory=memory or "2GiB")
    path[-1].x[:, 2].mean().backward()
    return v.grad


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=46, help="particles along an edge; 46 gives 97,336")
    parser.add_argument("--substeps", type=int, default=10_000)
    parser.add_argument("--memory", default="2GiB")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    mpm_diffsim.initialize(arguments.threads)
    gradient(mpm_diffsim.Engine(Block(8, 64), 16, True), None)
    block, baseline, started = Block(arguments.side, 64), peak_bytes(), time.perf_counter()
    grad = gradient(mpm_diffsim.Engine(block, arguments.substeps, True), arguments.memory)
    print(
        f"{block.count:,} particles, {arguments.substeps:,} substeps: {time.perf_counter() - started:,.0f} s, "
        f"peak {(peak_bytes() - baseline) / 2**20:,.0f} MiB above {baseline / 2**20:,.0f} MiB; "
        f"gradient finite: {bool(torch.isfinite(grad).all())}, norm {grad.norm():.4g}"
    )


if __name__ == "__main__":
    main()
