"""Plastic hinges of a shell: an edge that is bent beyond a curvature keeps a part of its angle.

A hinge with the angle theta stands for a strip as wide as the mean of its two triangles' heights, l = (A1 + A2)/|e|, of
curvature kappa = (theta - rest)/l. With the plastic curvature kappa_p and the bending rigidity D its moment per length
is D (kappa - kappa_p), and it yields where that exceeds D kappa_y + K alpha (linear isotropic hardening):

    s = sign(kappa - kappa_p),   f = D |kappa - kappa_p| - D kappa_y - K alpha
    f <= 0   nothing changes
    f > 0    g = f/(D + K),   kappa_p <- kappa_p + s g,   alpha <- alpha + g

The rest angle of the energy is rest + l kappa_p. With ``bending="hinge"`` the moment is that of the energy; "shape"
couples the edges of a triangle, and its moment at an edge may lie above the threshold. The map comes after the solve of
a step, in which kappa_p is that of the step's start. Torch differentiates it, on the branch taken; at f = 0 that is the
elastic one, and the derivative is one-sided: with K = 0 the one by kappa_p falls from 1 to 0 there.

Source: Simo and Hughes, Computational inelasticity (1998), section 1.4 (one-dimensional return map with isotropic
hardening), here for a curvature. With K = 0 and an angle l kappa_y it is the rule of Wang et al., Thin-shell object
manipulations with differentiable physics simulations (ICLR 2024), arXiv:2404.00451.
"""

import torch
from torch import Tensor, nn

from diffsim.errors import SceneError
from diffsim.materials.law import NOT_NEGATIVE, POSITIVE, hold


class Creases(nn.Module):
    """The plasticity of ``Shell(creases=...)``. Differentiable in all its parameters.

    Args:
        yield_curvature: kappa_y [1/m]; of a homogeneous sheet with the yield stress s it is 2 s (1 - nu^2)/(E h), where
            the outer fibers yield, and 3/2 of that where the whole section does. A number, a parameter, or a tensor
            with one per hinge.
        yield_angle: l kappa_y [rad] instead: depends on the mesh.
        hardening: K [N m].

    Raises:
        SceneError: both or none of the thresholds, or a number that is not positive.
    """

    def __init__(self, yield_curvature=None, *, yield_angle=None, hardening=0.0):
        super().__init__()
        if (yield_curvature is None) == (yield_angle is None):
            raise SceneError("Creases: give either yield_curvature [1/m] or yield_angle [rad]")
        self.by_angle = yield_angle is not None
        if self.by_angle:
            hold(self, "yield_angle", yield_angle, POSITIVE, " rad")
        else:
            hold(self, "yield_curvature", yield_curvature, POSITIVE, " 1/m")
        hold(self, "hardening", hardening, NOT_NEGATIVE, " N m")

    def threshold(self, width: Tensor) -> Tensor:
        """kappa_y (h,) [1/m] of hinges of these widths l (h,) [m]."""
        value = (self.yield_angle / width) if self.by_angle else self.yield_curvature.to(width)
        try:
            return value.expand_as(width)
        except RuntimeError:
            raise SceneError(
                f"Creases: a threshold has shape {tuple(value.shape)}; give one number, or one for each of the "
                f"{len(width)} hinges"
            ) from None

    def update(self, kappa: Tensor, crease: Tensor, width: Tensor, rigidity: Tensor) -> Tensor:
        """(kappa_p, alpha) (h, 2) [1/m] after a step.

        Args:
            kappa: (h,) [1/m]. crease: before the step (h, 2). width: l (h,) [m]. rigidity: D (h,) [N m].
        """
        plastic, alpha = crease.unbind(1)
        K = self.hardening.to(kappa)
        x = kappa - plastic
        f = rigidity * (x.abs() - self.threshold(width)) - K * alpha
        g = torch.where(f > 0, f, torch.zeros_like(f)) / (rigidity + K)
        return torch.stack([plastic + x.sign() * g, alpha + g], 1)

    def yields(self, kappa: Tensor, crease: Tensor, width: Tensor, rigidity: Tensor) -> Tensor:
        """Which hinges yield (h,), with the arguments of ``update``."""
        excess = rigidity * ((kappa - crease[:, 0]).abs() - self.threshold(width))
        return excess - self.hardening.to(kappa) * crease[:, 1] > 0
