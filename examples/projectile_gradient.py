"""How exact is the gradient of a flight?

Problem: a body flies freely for N substeps of dt. How does its final height depend on its velocity and on gravity?
Equation: semi-implicit Euler gives y_N = y_0 + N dt v_y - g dt^2 N (N + 1) / 2, so that
    dy_N / dv_y = N dt,    dy_N / dg = -dt^2 N (N + 1) / 2.
Expected: both derivatives agree with the closed form to 1e-12 (relative, f64).
"""

import torch

import diffsim as ds
from diffsim.objectives import center_of_mass

N, SUBSTEPS, DT = 200, 20, 1e-3
EXPECTED, TOLERANCE = 0.0, 1e-12


def main() -> float:
    """Largest relative error of the two derivatives."""
    ds.init(device="cpu", precision="f64")
    x, volume = ds.geometry.sampling.fill_ball((0.5, 0.5), 0.1, spacing=0.02)
    gravity = torch.nn.Parameter(torch.tensor([0.0, -9.81], dtype=torch.float64))
    velocity = torch.tensor([0.5, 1.0], dtype=torch.float64, requires_grad=True)
    jelly = ds.Material(ds.materials.FixedCorotated(E=1e4, nu=0.3), density=1000.0)
    model = ds.models.MPM(ds.Grid((32, 32), 1 / 32), [jelly], dt=DT, substeps=SUBSTEPS, gravity=gravity)
    path = ds.rollout(model, model.initial_state(x, v=0.0, volume=volume)._replace(v=velocity.expand(len(x), 2)),
                      steps=N // SUBSTEPS)  # fmt: skip
    height = center_of_mass(path[-1])[1]
    by_velocity, by_gravity = torch.autograd.grad(height, [velocity, gravity])
    exact_v, exact_g = N * DT, DT**2 * N * (N + 1) / 2  # gravity's component is -g, hence the sign
    errors = [abs(by_velocity[1].item() / exact_v - 1), abs(by_gravity[1].item() / exact_g - 1)]
    print(f"dy/dv = {by_velocity[1]:.15f} s, exactly {exact_v}; dy/dg = {-by_gravity[1]:.15f} s^2, exactly {-exact_g}")
    return max(errors)


if __name__ == "__main__":
    print(f"largest relative error: {main():.1e}")
