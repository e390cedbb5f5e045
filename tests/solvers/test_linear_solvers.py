"""Sparse solves: every method solves, says when it cannot, and knows definite from indefinite."""

import numpy as np
import pytest
import scipy.sparse as sp

from diffsim.errors import SceneError, SolverError
from diffsim.solvers import factorize


def stiffness(n=60, shift=0.0):
    """A chain of springs held at one end, positive definite; a shift makes it indefinite."""
    k = 1.0 + np.arange(n) % 3
    A = sp.diags([k + np.roll(k, -1), -k[1:], -k[1:]], [0, 1, -1], format="csc")
    return (A - shift * sp.identity(n)).tocsc()


@pytest.mark.parametrize("method", ["superlu", "cg", "minres"])
@pytest.mark.parametrize("columns", [None, 2])
def test_a_positive_definite_system_is_solved(method, columns):
    A = stiffness()
    b = np.random.default_rng(0).normal(size=(60,) if columns is None else (60, columns))
    x = factorize(A, method).solve(b)
    assert np.linalg.norm(A @ x - b) <= 1e-11 * np.linalg.norm(b)


@pytest.mark.parametrize("method", ["superlu", "minres"])
def test_an_indefinite_system_is_solved(method):
    A = stiffness(shift=1.0)
    assert np.linalg.eigvalsh(A.toarray()).min() < -0.1
    b = np.random.default_rng(0).normal(size=60)
    x = factorize(A, method).solve(b)
    assert np.linalg.norm(A @ x - b) <= 1e-9 * np.linalg.norm(b)


def test_the_transposed_system_is_solved():
    A = stiffness() + sp.random(60, 60, 0.02, "csc", rng=np.random.default_rng(1))
    b = np.random.default_rng(0).normal(size=60)
    np.testing.assert_allclose(A.T @ factorize(A, "superlu").solve_transposed(b), b, atol=1e-12)


def test_products_alone_are_enough_for_the_iterative_methods():
    A = stiffness()
    b = np.ones(60)
    x = factorize(sp.linalg.aslinearoperator(A), "cg").solve(b)
    np.testing.assert_allclose(A @ x, b, atol=1e-10)


def test_definite_and_indefinite_matrices_are_told_apart():
    assert factorize(stiffness(), "superlu").positive() is True
    assert factorize(stiffness(shift=1.0), "superlu").positive() is not True


@pytest.mark.parametrize("method", ["superlu", "cg", "minres"])
def test_a_free_chain_is_refused_as_singular(method):
    n = 30
    A = sp.diags([[1.0] + [2.0] * (n - 2) + [1.0], [-1.0] * (n - 1), [-1.0] * (n - 1)], [0, 1, -1], format="csc")
    with pytest.raises(SolverError, match="singular") as refusal:
        factorize(A, method).solve(np.linspace(1, 2, n))
    assert "\n" not in str(refusal.value)


def test_an_unknown_without_equation_is_named():
    A = stiffness().tolil()
    A[7, :] = 0
    A[:, 7] = 0
    with pytest.raises(SolverError, match="unknown 7"):
        factorize(A.tocsc(), "superlu").solve(np.ones(60))


def test_other_nonsense_is_refused():
    with pytest.raises(SceneError, match="superlu"):
        factorize(stiffness(), "gauss")
    A = stiffness()
    A.data[10] = np.nan
    with pytest.raises(SolverError, match="not finite in column 3"):
        factorize(A)
    with pytest.raises(SolverError, match="positive definite"):
        factorize(stiffness(shift=5.0), "cg")
