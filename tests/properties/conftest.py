"""Hypothesis: the same examples on every machine, no time limit for the first one, which compiles kernels."""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "diffsim",
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=10,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("diffsim")
