"""Quadratic B-splines on a regular grid (Steffen, Kirby and Berzins 2008), in grid coordinates.

A point at grid coordinate x has support base .. base + 2 per axis, base = floor(x - 1/2); its fraction f = x - base
lies in [1/2, 3/2). The weights of the three nodes are

    1/2 (3/2 - f)^2,   3/4 - (f - 1)^2,   1/2 (f - 1/2)^2.
"""

from diffsim.kernels.lang import ti


@ti.func
def support(x):
    """First node of the support and the fraction, per axis."""
    base = ti.floor(x - 0.5, ti.i32)
    return base, x - ti.cast(base, float)


@ti.func
def weights(f):
    """Weights w[a, axis] of nodes a = 0, 1, 2."""
    w = ti.Matrix.zero(float, 3, f.n)
    for axis in ti.static(range(f.n)):
        w[0, axis] = 0.5 * (1.5 - f[axis]) ** 2
        w[1, axis] = 0.75 - (f[axis] - 1.0) ** 2
        w[2, axis] = 0.5 * (f[axis] - 0.5) ** 2
    return w


@ti.func
def slopes(f):
    """Derivatives of the weights with respect to the grid coordinate."""
    s = ti.Matrix.zero(float, 3, f.n)
    for axis in ti.static(range(f.n)):
        s[0, axis] = f[axis] - 1.5
        s[1, axis] = 2.0 - 2.0 * f[axis]
        s[2, axis] = f[axis] - 0.5
    return s


@ti.func
def weight(a, f):
    """Weight of node a, known at run time only, along one axis."""
    outer = f - 1.5 + ti.cast(a, float) * 0.5  # f - 3/2 for a = 0, f - 1/2 for a = 2
    return ti.select(a == 1, 0.75 - (f - 1.0) ** 2, 0.5 * outer**2)


@ti.func
def slope(a, f):
    """Derivative of ``weight`` in f."""
    return ti.select(a == 1, 2.0 - 2.0 * f, f - 1.5 + ti.cast(a, float) * 0.5)
