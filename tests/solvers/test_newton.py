"""Newton's method on potentials with known minima, and what it says when it fails."""

import numpy as np
import pytest
import scipy.sparse as sp

from diffsim.errors import SolverError
from diffsim.solvers import Settings, minimize


class Springs:
    """E = sum (x_i^2 - 1)^2 / 4 - f.x: a double well per unknown, indefinite between the wells."""

    def __init__(self, force, wall=np.inf):
        self.force, self.wall, self.exact = force, wall, 0

    def energy(self, x):
        terms = (x * x - 1) ** 2 / 4 - self.force * x
        return (np.inf if (x > self.wall).any() else terms.sum()), 1e-15 * np.abs(terms).sum()

    def gradient(self, x):
        return x**3 - x - self.force

    def hessian(self, x, project):
        curvature = 3 * x * x - 1
        self.exact += not project
        return sp.diags(np.maximum(curvature, 0.1) if project else curvature, format="csc")

    def limit(self, x, p):
        return 1.0


START = np.array([0.1, 0.2, -0.05, 2.0])


def test_it_finds_minima_from_where_the_hessian_is_indefinite():
    force = np.array([0.1, 0.0, -0.1, 0.3])
    x, record = minimize(Springs(force), START, Settings(1e-7, linear="superlu"))
    assert np.abs(Springs(force).gradient(x)).max() < 1e-14
    assert (3 * x * x - 1 > 0).all() and (np.sign(x) == [1, 1, -1, 1]).all()
    assert any(record.projected) and not record.projected[-1]
    assert record.iterations < 15
    assert record.steps[-1] < 1e-7 and record.steps[-2] < 1e-4  # quadratic at the end
    assert (np.diff(record.energies) <= 1e-15).all()


def test_a_state_that_is_not_allowed_is_never_accepted():
    x, record = minimize(Springs(np.full(4, 0.1), wall=2.1), np.full(4, 0.3), Settings(1e-9))
    assert (x < 2.1).all() and record.iterations > 1


def test_no_convergence_raises_with_the_history():
    with pytest.raises(SolverError, match="not converged after 2 iterations") as failure:
        minimize(Springs(np.zeros(4)), START, Settings(1e-12, iterations=2), "step")
    assert len(failure.value.history.steps) == 2
    assert "\n" not in str(failure.value)


def test_a_start_that_is_not_allowed_raises():
    with pytest.raises(SolverError, match="not finite at the start"):
        minimize(Springs(np.zeros(4), wall=1.0), START, Settings(1e-9))


def test_a_wrong_gradient_is_noticed_instead_of_a_rising_energy():
    class Wrong(Springs):
        def gradient(self, x):
            return -super().gradient(x)

        def hessian(self, x, project):
            return sp.identity(len(x), format="csc")

    with pytest.raises(SolverError, match="no decrease"):
        minimize(Wrong(np.zeros(4)), START, Settings(1e-9))


def test_a_refused_exact_hessian_is_left_out_for_two_iterations():
    class Refused(Springs):
        """Its exact Hessian is never positive definite, so that every try is refused."""

        def __init__(self):
            super().__init__(np.full(4, 0.1))
            self.kinds = []

        def hessian(self, x, project):
            self.kinds.append(project)
            return super().hessian(x, True) * (1.0 if project else -1.0)

    potential = Refused()
    minimize(potential, np.array([0.2, 0.3, 0.1, 5.0]), Settings(1e-9, linear="superlu"))
    assert len(potential.kinds) > 8
    assert potential.kinds == ([False, True, True, True] * 10)[: len(potential.kinds)]


def test_the_pause_counts_from_the_refusal():
    class Late(Springs):
        """Refused for the first time in the second iteration."""

        def __init__(self):
            super().__init__(np.full(4, 0.1))
            self.kinds = []

        def hessian(self, x, project):
            self.kinds.append(project)
            good = project or self.kinds.count(False) == 1
            return super().hessian(x, True) * (1.0 if good else -1.0)

    potential = Late()
    minimize(potential, np.array([0.2, 0.3, 0.1, 5.0]), Settings(1e-9, linear="superlu"))
    assert potential.kinds[:6] == [False, False, True, True, True, False]


def test_it_gets_away_from_a_saddle_where_the_projected_hessian_is_stiff():
    """E = sum x^4/4 - x^2/2 near 0, projected to a curvature of 50: with steps of 1 it takes 340 iterations."""

    class Saddle(Springs):
        def hessian(self, x, project):
            curvature = 3 * x * x - 1
            return sp.diags(np.where(curvature < 0, 50.0, curvature) if project else curvature, format="csc")

    x, record = minimize(Saddle(np.zeros(3)), np.array([1e-3, -2e-3, 5e-4]), Settings(1e-9, linear="superlu"))
    np.testing.assert_allclose(x, [1, -1, 1], atol=1e-12)
    assert record.iterations < 40 and max(record.lengths) > 2
    assert (np.diff(record.energies) <= 1e-15).all()


def test_longer_steps_stop_where_they_are_not_allowed():
    class Walled(Springs):
        """A wall at 1/2 that continuous collision detection finds."""

        def hessian(self, x, project):
            return sp.diags(np.full(len(x), 50.0) if project else 3 * x * x - 1, format="csc")

        def limit(self, x, p):
            ahead = np.abs(p) > 0
            return min(1.0, float(np.min(((0.5 - np.abs(x)) / np.abs(p))[ahead], initial=1.0)))

    with pytest.raises(SolverError) as failure:  # it creeps up to the wall, and never through
        minimize(Walled(np.zeros(1)), np.array([1e-3]), Settings(1e-9, linear="superlu", iterations=60))
    history = failure.value.history
    assert max(history.lengths) > 1 and min(history.energies) >= (0.5**2 - 1) ** 2 / 4
