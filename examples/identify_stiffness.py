"""Can stiffness be read off a film?

Problem: the motion of a soft body that hits the floor is recorded; find its Young's modulus and Poisson's ratio.
Equation: min over (E, nu) of mean |x(t; E, nu) - x_recorded(t)|^2, by L-BFGS on gradients through the simulation.
Expected: from E = 40 kPa and nu = 0.15, E = 100 kPa and nu = 0.3 within 1 % in tens of iterations.
"""

import diffsim as ds

EXPECTED, TOLERANCE = 1e5, 1e3  # [Pa]


def main() -> float:
    """Young's modulus that was found [Pa]."""
    ds.init(device="cpu", precision="f64")
    scene = ds.load("identify_stiffness", dim=2, E=1e5, nu=0.3, particles=150, resolution=16, substeps=8)
    result = ds.optimize(scene)
    found = result.history[-1]
    print(f"after {found['iteration']} iterations: E = {found['E']:.1f} Pa, nu = {found['nu']:.5f}")
    return found["E"]


if __name__ == "__main__":
    main()
