"""Digests of results and gradients for a precision and a number of threads, as JSON; test_rollout.py compares them."""

import hashlib
import json
import sys

import torch

import diffsim as ds

precision, threads = sys.argv[1], int(sys.argv[2])
ds.init(device="cpu", precision=precision, threads=threads)
torch.set_num_threads(threads)

from bodies import CELLS, block, model, parameter, tensor  # noqa: E402  they read the precision

from diffsim.kernels import control_step, crew  # noqa: E402

COUNT = 3000
sorts = []
sort = control_step.sort


def counting_sort(*arguments):
    sorts.append(1)
    return sort(*arguments)


control_step.sort = counting_sort
crew.FEW, crew.BUSY = 0, float("inf")  # all threads take part, also in a scene as small as this, and on a busy machine
digests, steps = {}, 3
for dim in (2, 3):
    tool = ds.Tool(ds.Sphere(0.1), pose=(tensor((0.5, 0.32, 0.5)[:dim]), (1, 0, 0, 0)), friction=parameter(0.3))
    walls = ds.Walls("separating", friction=parameter(0.2))
    simulation = model(dim=dim, gravity=9.8, substeps=10, tools=[tool], walls=walls)
    # more than a cell of 1/16 m within the 10 ms of a control step
    state = block(simulation, COUNT, v=(8.0, -2.0, 0.5)[:dim], low=(0.25, 0.3, 0.4)[:dim])
    inputs = {name: getattr(state, name).requires_grad_() for name in ("x", "v", "C", "F", "volume")}
    controls = tensor([(0.1, 0.3, 0.0, 0.0, 0.0, 0.5)] * steps)[:, None].requires_grad_()
    path = ds.rollout(simulation, state._replace(**inputs), controls)
    loss = (path.x[-1] ** 2).sum() + path.F[-1].sum() + (path.v[-1] * path.x[-1]).sum() + path.wrench.sum()
    gradients = torch.autograd.grad(loss, [*inputs.values(), controls, *simulation.parameters()])
    for name, tensors in (("results", [t for t in path[-1][:7]]), ("gradients", gradients)):
        data = b"".join(t.detach().contiguous().numpy().tobytes() for t in tensors)
        digests[f"{dim}-D {name}"] = hashlib.sha256(data).hexdigest()
print(json.dumps({**digests, "sorts per step": len(sorts) / (2 * steps), "cells": CELLS}))
