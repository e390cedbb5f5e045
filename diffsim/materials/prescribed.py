"""A stress that is given from outside: the place where a law evaluated in torch enters a kernel."""

from functools import cache

from diffsim.kernels.lang import ti
from diffsim.materials.law import Elastic


@cache
def functions(d: int):
    """theta = the d x d entries of P, row by row. There is no energy."""

    class Functions:
        parameters = d * d

        @staticmethod
        @ti.func
        def stress(F, e, L, theta):
            P = ti.Matrix.zero(float, d, d)
            for i, j in ti.static(ti.ndrange(d, d)):
                P[i, j] = theta[d * i + j]
            return P

        @staticmethod
        @ti.func
        def stress_vjp(grad_P, F, e, L, theta):
            grad_theta = ti.Vector.zero(float, d * d)
            for i, j in ti.static(ti.ndrange(d, d)):
                grad_theta[d * i + j] = grad_P[i, j]
            zero = ti.Matrix.zero(float, d, d)
            return zero, e * 0, zero, grad_theta

    return Functions


class Prescribed(Elastic):
    """P is given per particle; its gradient is handed back unchanged.

    Args:
        P: first Piola-Kirchhoff stress [Pa], (n, d, d).
    """

    modulus = None  # unknown here

    def __init__(self, P):
        super().__init__()
        self.register_buffer("P", P)
        self.functions = functions(P.shape[-1])

    def theta(self):
        return list(self.P.reshape(len(self.P), -1).unbind(1))
