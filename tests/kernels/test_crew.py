"""How many threads a launch takes, on a machine that other programs use too and on a quiet one."""

import pytest

from diffsim.kernels import crew as module
from diffsim.kernels.arrays import context

MANY = 10 * module.FEW


@pytest.fixture
def crew(monkeypatch):
    monkeypatch.setattr(context, "threads", 4)
    monkeypatch.setattr(context, "device", "cpu")
    monkeypatch.setattr(module, "cores", lambda: 3)
    return module.Crew()


def test_few_particles_are_not_worth_a_second_thread(crew):
    assert crew.threads(module.FEW) == 1
    assert crew.threads(module.FEW + 1) == 3


def test_no_more_threads_than_asked_for(crew, monkeypatch):
    monkeypatch.setattr(context, "threads", 2)
    assert crew.threads(MANY) == 2


def test_threads_that_were_put_aside_stay_away_for_a_while(crew):
    crew.observed(3, times=30, seconds=0.1)
    assert [crew.threads(MANY) for _ in range(module.ALONE + 1)] == [1] * module.ALONE + [3]


@pytest.mark.parametrize(("times", "seconds"), [(0, 0.01), (3, 0.008), (8, 0.069)])
def test_a_quiet_machine_keeps_all_threads(crew, times, seconds):
    crew.observed(3, times=times, seconds=seconds)
    assert crew.threads(MANY) == 3


def test_short_launches_are_judged_together(crew):
    for _ in range(6):
        assert crew.threads(MANY) == 3
        crew.observed(3, times=2, seconds=0.009)  # 222 per second, in 54 ms
    assert crew.threads(MANY) == 1


def test_what_was_judged_is_not_counted_again(crew):
    crew.observed(3, times=8, seconds=0.06)
    crew.observed(3, times=8, seconds=0.001)
    assert crew.threads(MANY) == 3


def test_one_thread_waits_for_nobody(crew):
    crew.observed(1, times=1000, seconds=0.1)
    assert crew.threads(MANY) == 3
