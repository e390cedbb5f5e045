"""Derivatives of exponentials in a form that keeps every digit near zero."""

from diffsim.kernels.lang import ti


@ti.func
def expm1_ratio_slope(y):
    """d/dy of (exp(y) - 1)/y, with its limit 1/2 at y = 0, accurate to rounding.

    Near 0, with h = y/2 and S = sinh(h)/h: exp(h) (S + S')/2, S and S' by their series.
    """
    r = y * 0
    if ti.abs(y) < 1:
        h = 0.5 * y
        w = h * h
        S = 1 + w / 6 * (1 + w / 20 * (1 + w / 42 * (1 + w / 72 * (1 + w / 110 * (1 + w / 156)))))
        slope = 1 + w / 10 * (1 + w / 28 * (1 + w / 54 * (1 + w / 88 * (1 + w / 130 * (1 + w / 180)))))
        r = 0.5 * ti.exp(h) * (S + h / 3 * slope)
    else:
        r = (ti.exp(y) * (y - 1) + 1) / (y * y)
    return r
