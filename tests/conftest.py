"""One process has one device and precision: f64 on the CPU unless the environment asks for another."""

import os

import diffsim


def pytest_configure(config):
    diffsim.init(
        device=os.environ.get("DIFFSIM_TEST_DEVICE", "cpu"),
        precision=os.environ.get("DIFFSIM_TEST_PRECISION", "f64"),
    )
