"""The plastic network of NCLaw."""

from diffsim.materials.neural_elasticity import InvariantLaw


class NeuralPlasticity(InvariantLaw):
    """F = F_trial + scale R sym(X),   X = W3 gelu(W2 gelu(W1 z)),   z = (s - 1, F^T F - I, J - 1) of F_trial.

    It is objective and leaves an undeformed state as it is. It is not isotropic, may gain energy and invert F, and its
    correction belongs to one step of the dt that it was trained with. For a map without these faults see
    ``PlasticityNetwork``. In 2-D it acts in the plane.

    Source: Ma et al., Learning neural constitutive laws (ICML 2023), arXiv:2304.14369. Adjoint and corners as for
    ``NeuralElasticity``.

    Args:
        scale: of the correction; the source has 1e-3.
        width, dim, seed: as for ``NeuralElasticity``.
    """

    base = 1.0

    def __init__(self, *, scale=1e-3, width: int = 64, dim: int = 3, seed: int | None = None):
        super().__init__(scale=scale, width=width, dim=dim, seed=seed)

    def update(self, F_trial, q, L=None, dt=0.0):
        """(F, q) after the map; q is not used."""
        return self.evaluate(F_trial), q
