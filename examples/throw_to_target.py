"""With which velocity does a bouncing body end at a target?

Problem: an elastic body starts at (0.3, 0.5) m, bounces once, and shall be at (1.4, 0.35) m after half a second.
Equation: min over v_0 of |c(0.5 s; v_0) - c*|^2, c the center of mass; the gradient passes through the impact.
Expected: a miss of less than 1 mm, and v_x = (1.4 - 0.3) / 0.5 = 2.2 m/s within 1 %, the floor having no friction.
"""

import diffsim as ds

EXPECTED, TOLERANCE = 2.2, 0.022  # [m/s]


def main() -> float:
    """Horizontal velocity that was found [m/s]."""
    ds.init(device="cpu", precision="f64")
    scene = ds.load(
        "throw_to_target", dim=2, target=(1.4, 0.35), start=(0.3, 0.5), particles=100, resolution=24, steps=50
    )
    result = ds.optimize(scene, iterations=15)
    miss = min(record["miss"] for record in result.history)
    velocity = result.variables["v0"]
    print(f"v_0 = ({velocity[0]:.3f}, {velocity[1]:.3f}) m/s misses by {1e3 * miss:.3f} mm")
    return velocity[0].item()


if __name__ == "__main__":
    main()
