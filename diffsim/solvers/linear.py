"""Sparse linear systems through one interface: ``factorize(A).solve(b)``.

    superlu   direct, SciPy: always there
    pardiso   direct, MKL through pypardiso (the extra ``fast``), taken by "auto" where it is installed
    cg        conjugate gradients with a Jacobi or a given preconditioner: positive definite matrices, also as a product
    minres    minimal residuals: symmetric, also indefinite, matrices, also as a product

The Hessian of an incremental potential is symmetric, but indefinite where a structure buckles: the direct methods and
``minres`` solve with it as it is.
"""

import importlib
import importlib.util
import warnings
from collections.abc import Callable

import numpy as np
import scipy.sparse as sp
from scipy.sparse import linalg as sla

from diffsim.errors import SceneError, SolverError

METHODS = ("auto", "superlu", "pardiso", "cg", "minres")
# of a symmetric pattern: minimum degree on A + A^T, and pivots on the diagonal unless they are this small
SUPERLU = {"permc_spec": "MMD_AT_PLUS_A", "diag_pivot_thresh": 0.001, "options": {"SymmetricMode": True}}
SINGULAR = 1e-13  # a backward error above this many times the scale of A and x, and a residual of the size of b


def factorize(A, method: str = "auto", *, tolerance: float = 1e-12, preconditioner: Callable | None = None):
    """Prepare the solution of A x = b.

    Args:
        A: sparse matrix (n, n); "cg" and "minres" also take a ``scipy.sparse.linalg.LinearOperator``.
        method: one of ``METHODS``; "auto" is PARDISO where pypardiso is installed, else SuperLU.
        tolerance: of "cg" and "minres": |b - A x| <= tolerance |b|.
        preconditioner: of these two: callable r -> approximation of A^-1 r; the inverse diagonal when None.

    Returns:
        an object with ``solve(b)`` and ``solve_transposed(b)``, for b (n,) or (n, k).

    Raises:
        SceneError: a method that is not known or not installed.
        SolverError: a singular matrix; entries that are not finite; iterations that do not converge.
    """
    if method not in METHODS:
        raise SceneError(f"linear solver {method!r} is not known; use one of {', '.join(METHODS)}")
    if method == "auto":
        method = "pardiso" if importlib.util.find_spec("pypardiso") else "superlu"
    if sp.issparse(A):
        A = sp.csc_matrix(A)
        if not np.isfinite(A.data).all():
            column = int(np.searchsorted(A.indptr, np.flatnonzero(~np.isfinite(A.data))[0], side="right")) - 1
            raise SolverError(f"the matrix has an entry that is not finite in column {column}; check the state")
    if method == "superlu":
        return SuperLU(A)
    if method == "pardiso":
        return Pardiso(A)
    return Iterative(A, method, tolerance, preconditioner)


class SuperLU:
    """LU factors by SciPy's SuperLU."""

    def __init__(self, A):
        self.A = A
        try:
            self.factors = sla.splu(A, **SUPERLU)
        except RuntimeError as error:
            raise SolverError(_singular(A, str(error))) from None

    def solve(self, b):
        return self._checked(self.factors.solve(np.ascontiguousarray(b)), b, self.A)

    def solve_transposed(self, b):
        return self._checked(self.factors.solve(np.ascontiguousarray(b), "T"), b, self.A.T)

    def positive(self) -> bool | None:
        """Whether a symmetric A is positive definite; None: not known, since rows were exchanged off the diagonal.

        A = L U with pivots on the diagonal is L D L^T, and by Sylvester's law D = diag(U) has the signs of A.
        """
        if not np.array_equal(self.factors.perm_r, self.factors.perm_c):
            return None
        return bool((self.factors.U.diagonal() > 0).all())

    def _checked(self, x, b, A):
        """One step of refinement where pivots on the diagonal have cost accuracy; a refusal where it does not help."""
        for again in (True, False):
            with np.errstate(all="ignore"):
                error = b - A @ x
                size = np.abs(A.data).max(initial=0.0) * np.abs(x).max(initial=0.0)
            if not np.isfinite(x).all():
                raise SolverError(_singular(A, "the solution is not finite"))
            if np.abs(error).max(initial=0.0) <= SINGULAR * max(size, np.abs(b).max(initial=0.0)):
                break
            if again:
                x = x + self.factors.solve(error, "N" if A is self.A else "T")
            else:
                raise SolverError(_singular(A, "the solution does not satisfy the system"))
        scale = np.abs(b).max(initial=0.0)
        if scale and np.abs(x).max() * np.abs(A.diagonal()).max() > 1e15 * scale:
            raise SolverError(_singular(A, "the matrix is singular to rounding"))
        return x


class Pardiso:
    """LDL^T-like factors by MKL's PARDISO, whose analysis is kept for a pattern that comes again."""

    def __init__(self, A):
        try:
            package = importlib.import_module("pypardiso")
        except ImportError:
            raise SceneError("linear solver 'pardiso' needs: pip install 'diffsim[fast]'") from None
        self.A = sp.csr_matrix(A)
        self.A.sort_indices()
        self.solver = package.PyPardisoSolver(mtype=11)
        self.solver.factorize(self.A)

    def solve(self, b):
        return self._run(self.A, b, False)

    def solve_transposed(self, b):
        return self._run(self.A, b, True)

    def positive(self):
        """Not known: the factors are unsymmetric."""

    def _run(self, A, b, transposed):
        self.solver.set_iparm(12, 2 if transposed else 0)
        x = self.solver.solve(A, np.asarray(b))
        if not np.isfinite(x).all() or np.abs(x).max(initial=0.0) * np.abs(A.diagonal()).max() > 1e15 * max(
            np.abs(b).max(initial=0.0), 1e-300
        ):
            raise SolverError(_singular(A, "PARDISO found no finite solution"))
        return x


class Iterative:
    """Preconditioned conjugate gradients or minimal residuals for a symmetric matrix, assembled or as a product."""

    def __init__(self, A, method, tolerance, preconditioner):
        self.A, self.method, self.tolerance = sla.aslinearoperator(A), method, tolerance
        if preconditioner is None and sp.issparse(A):
            diagonal = A.diagonal()
            if method == "cg" and not (diagonal > 0).all():
                i = int(np.argmin(diagonal))
                raise SolverError(
                    f"cg: the diagonal of row {i} is {diagonal[i]:.3g}, so the matrix is not positive definite; "
                    "use 'minres' or a direct method"
                )
            diagonal = np.where(diagonal == 0, 1.0, np.abs(diagonal))
            preconditioner = lambda r: r / diagonal  # noqa: E731
        self.M = None
        if preconditioner is not None:
            self.M = sla.LinearOperator(self.A.shape, matvec=preconditioner, dtype=float)

    def solve(self, b):
        b = np.asarray(b, dtype=float)
        if b.ndim == 2:
            return np.stack([self.solve(column) for column in b.T], axis=1)
        size, n = np.linalg.norm(b), len(b)
        if size == 0:
            return np.zeros(n)
        x, reached = np.zeros(n), np.inf
        for _ in range(4):  # minres measures its residual in another norm, and both drift: start again from x
            r = b - self.A @ x
            reached = np.linalg.norm(r) / size
            if reached <= self.tolerance:
                return x
            run, goal = (sla.cg if self.method == "cg" else sla.minres), 0.3 * self.tolerance / reached
            x = x + run(self.A, r, rtol=goal, maxiter=20 * n, M=self.M)[0]
        r = np.linalg.norm(b - self.A @ x) / size
        if not r <= self.tolerance:
            raise SolverError(
                f"{self.method} left a residual of {r:.1e} |b|, asked for {self.tolerance:.1e}: the matrix is singular "
                "or needs a better preconditioner or a direct method"
            )
        return x

    solve_transposed = solve

    def positive(self):
        """Not known: there are no factors."""


def _singular(A, why):
    """A message that names a row without entries where there is one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        empty = np.flatnonzero(np.asarray(abs(sp.csc_matrix(A)).sum(axis=0)).ravel() == 0)
    where = f"; unknown {empty[0]} is in no equation" if len(empty) else ""
    return f"the matrix ({A.shape[0]} unknowns) is singular ({why}){where}: hold the body so that it cannot move freely"
