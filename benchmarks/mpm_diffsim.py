"""The block of ``benchmarks/mpm_block.py`` in diffsim, by its public functions, with the methods of ``mpm_warp``."""

import numpy as np
import torch
from mpm_block import TARGET, Block

import diffsim as ds

NAME = "diffsim"
SUBSTEPS = 16  # of a control step


class Engine:
    """The block for a number of substeps (a multiple of 16), forward or with its gradient.

    Args:
        block: the scene.
        substeps: length of a run.
        gradient: kept for symmetry; nothing is allocated ahead.
        memory: bound on a rollout's memory, for example "256MiB"; None takes the default of ``ds.rollout``.
    """

    def __init__(self, block: Block, substeps: int, gradient: bool, memory: str | None = None):
        if substeps % SUBSTEPS:
            raise ValueError(f"{substeps} substeps are no multiple of {SUBSTEPS}")
        self.block, self.steps = block, substeps // SUBSTEPS
        self.options = {} if memory is None else {"memory": memory}
        solid = ds.Material(ds.materials.NeoHookean(E=block.E, nu=block.nu), density=block.density)
        self.model = ds.models.MPM(
            ds.Grid(cells=3 * (block.cells,), dx=block.dx),
            [solid],
            dt=block.dt,
            substeps=SUBSTEPS,
            gravity=block.gravity,
            walls=ds.Walls("slip", margin=block.margin),
        )
        self.x = torch.from_numpy(block.x)

    def final(self, v: torch.Tensor) -> torch.Tensor:
        """Final positions (n, 3) [m] from initial velocities v (n, 3) [m/s]."""
        state = self.model.initial_state(self.x, v=v, volume=self.block.volume)
        return ds.rollout(self.model, state, steps=self.steps, every=self.steps, **self.options)[-1].x

    def forward(self, v: np.ndarray | None = None) -> np.ndarray:
        """Final positions (n, 3) [m] from initial velocities v (n, 3) [m/s], the block's own unless given."""
        with torch.no_grad():
            return self.final(torch.from_numpy(self.block.v if v is None else v)).numpy()

    def gradient(self) -> np.ndarray:
        """Gradient (n, 3) [m s] of the mean square distance from the target with respect to initial velocities."""
        v = torch.from_numpy(self.block.v).clone().requires_grad_()
        loss = ((self.final(v) - torch.tensor(TARGET)) ** 2).sum(dim=1).mean()
        loss.backward()
        return v.grad.numpy()


def initialize(threads: int) -> None:
    """Start diffsim and torch with a number of threads."""
    torch.set_num_threads(threads)
    ds.init(device="cpu", precision="f32", threads=threads)
