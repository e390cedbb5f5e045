"""Singular values, polar rotation and the derivatives of isotropic functions of F, in 2-D and 3-D.

Only ti.funcs: kernels inline them. U and V themselves are never differentiated (they jump where singular values meet);
``isotropic_vjp`` and ``polar_vjp`` differentiate functions of F instead, which stay smooth there.
"""

from diffsim.kernels.arrays import context
from diffsim.kernels.lang import ti

SWEEPS = 10  # a bound that is never reached: the iterations below converge quadratically


def epsilon() -> float:
    """Rounding unit of the process's precision, read while a kernel is compiled."""
    return 2.0**-52 if context.precision == "f64" else 2.0**-23


@ti.func
def givens(x, y):
    """Cosine and sine of the smaller rotation that diagonalizes [[p, y/2], [y/2, p + x]].

    The identity where x and y are too small to be squared: their part of F^T F is then below rounding.
    """
    h = ti.abs(x) + ti.sqrt(x * x + y * y)
    n = h * h + y * y
    r = 1 / ti.sqrt(n)
    turn = n > ti.static(1e-280 if context.precision == "f64" else 1e-30)
    c = ti.select(turn, h * r, x * 0 + 1)
    s = ti.select(turn, ti.select(x < 0, -y, y) * r, x * 0)
    return c, s


@ti.func
def row(F, i: ti.template()):
    return ti.Vector([F[i, 0], F[i, 1], F[i, 2]])


@ti.func
def column(F, i: ti.template()):
    return ti.Vector([F[0, i], F[1, i], F[2, i]])


@ti.func
def svd2(F):
    """One exact Jacobi rotation of the columns; then U is built from the first column."""
    a = ti.Vector([F[0, 0], F[1, 0]])
    b = ti.Vector([F[0, 1], F[1, 1]])
    c, s = givens(b.dot(b) - a.dot(a), 2 * a.dot(b))
    v = ti.Vector([c, -s])  # first column of V; the second is its perpendicular
    first = c * a - s * b
    second = s * a + c * b
    if second.dot(second) > first.dot(first):
        first, second = second, -first
        v = ti.Vector([s, c])
    s1 = first.norm()
    u = (1 / s1) * first
    s2 = u[0] * second[1] - u[1] * second[0]
    U = ti.Matrix([[u[0], -u[1]], [u[1], u[0]]])
    V = ti.Matrix([[v[0], -v[1]], [v[1], v[0]]])
    return U, ti.Vector([s1, s2]), V


@ti.func
def descending(a, b, u, v):
    """Order two columns by length; one sign changes, so that V stays a rotation."""
    if b.dot(b) > a.dot(a):
        a, b = b, -a
        u, v = v, -u
    return a, b, u, v


@ti.func
def eigenvectors3(F):
    """Eigenvectors of S = F^T F to rounding, as the columns of a rotation; no iteration over matrices.

    With K = (S - m I)/p, m = tr S/3, p^2 = |S - m I|^2/6, the eigenvalue of K farthest from the others is
    sign(r) 2 c, where r = det K/2 and 4 c^3 - 3 c = |r|, c between 0.866 and 1. Its gap to the others is at least
    sqrt(3), so its eigenvector, the largest cross product of two rows of K -+ 2 c I, is accurate whatever the other two
    do; they are those of a 2 x 2 problem in its normal plane.

    Source: Smith 1961, doi:10.1145/355578.366316 (eigenvalues; here without trigonometry, c by Newton's method);
    Duff et al., Building an orthonormal basis, revisited, JCGT 6 (2017) (the normal plane).
    """
    a, b, c = column(F, 0), column(F, 1), column(F, 2)
    p, q, r = a.dot(a), b.dot(b), c.dot(c)
    x, y, z = b.dot(c), c.dot(a), a.dot(b)
    trace = p + q + r
    m = trace / 3
    square = ((p - m) * (p - m) + (q - m) * (q - m) + (r - m) * (r - m) + 2 * (x * x + y * y + z * z)) / 6
    u, v, w = ti.Vector.unit(3, 0, float), ti.Vector.unit(3, 1, float), ti.Vector.unit(3, 2, float)
    if square > ti.static(epsilon() ** 2) * trace * trace:  # else S is a multiple of I to rounding
        scale = 1 / ti.sqrt(square)
        K = scale * ti.Matrix([[p - m, z, y], [z, q - m, x], [y, x, r - m]])
        half = 0.5 * K.determinant()
        size = ti.abs(half)
        root = 0.8660254 + size * (0.1666667 - 0.0326921 * size)
        for _ in ti.static(range(2 if context.precision == "f32" else 3)):
            root -= ((4 * root * root - 3) * root - size) / (12 * root * root - 3)
        shift = ti.select(half < 0, -2 * root, 2 * root)
        first = ti.Vector([K[0, 0] - shift, K[0, 1], K[0, 2]])
        second = ti.Vector([K[1, 0], K[1, 1] - shift, K[1, 2]])
        third = ti.Vector([K[2, 0], K[2, 1], K[2, 2] - shift])
        w = first.cross(second)
        other = second.cross(third)
        if other.dot(other) > w.dot(w):
            w = other
        other = third.cross(first)
        if other.dot(other) > w.dot(w):
            w = other
        w *= 1 / w.norm()
        sign = ti.select(w[2] < 0, w[2] * 0 - 1, w[2] * 0 + 1)
        n = -1 / (sign + w[2])
        u = ti.Vector([1 + sign * w[0] * w[0] * n, sign * w[0] * w[1] * n, -sign * w[0]])
        v = ti.Vector([w[0] * w[1] * n, sign + w[1] * w[1] * n, -w[1]])
        f, g = F @ u, F @ v
        co, si = givens(g.dot(g) - f.dot(f), 2 * f.dot(g))
        u, v = co * u - si * v, si * u + co * v
    return u, v, w


@ti.func
def svd3(F):
    """V from F^T F, then one-sided (Hestenes) Jacobi on F V, which restores what forming F^T F has lost."""
    u, v, w = eigenvectors3(F)
    a, b, c = F @ u, F @ v, F @ w
    for _ in range(3 * SWEEPS):
        aa, bb, cc = a.dot(a), b.dot(b), c.dot(c)
        ab, bc, ca = a.dot(b), b.dot(c), c.dot(a)
        bound = ti.static((8 * epsilon()) ** 2)
        if ab * ab <= bound * aa * bb and bc * bc <= bound * bb * cc and ca * ca <= bound * cc * aa:
            break
        # turns the first two columns, then shifts all three cyclically: one body serves the three pairs
        co, si = givens(bb - aa, 2 * ab)
        a, b, c = si * a + co * b, c, co * a - si * b
        u, v, w = si * u + co * v, w, co * u - si * v
    a, b, u, v = descending(a, b, u, v)
    b, c, v, w = descending(b, c, v, w)
    a, b, u, v = descending(a, b, u, v)
    s1 = a.norm()
    f = (1 / s1) * a
    g = b - f.dot(b) * f  # f.b is rounding: this keeps U orthogonal to the last digit
    s2 = g.norm()
    g = (1 / s2) * g
    h = f.cross(g)
    return ti.Matrix.cols([f, g, h]), ti.Vector([s1, s2, h.dot(c)]), ti.Matrix.cols([u, v, w])


@ti.func
def svd(F):
    """F = U diag(s) V^T with rotations U and V.

    |s| descends; for det F < 0 the last value is negative. F needs rank d - 1 at least, else the result is NaN.
    Repeated values need no special case: any basis of their space is accurate. In f32 the largest value must lie
    between 1e-4 and 1e8, since squares are formed.

    Source: Hestenes 1958 (one-sided Jacobi); Demmel and Veselic 1992 on its relative accuracy.

    Returns:
        U (d x d), s (d), V (d x d).
    """
    if ti.static(F.n == 2):
        return svd2(F)
    else:
        return svd3(F)


@ti.func
def cofactor(F):
    """cof F = d det F / dF = det(F) F^-T, without a division."""
    if ti.static(F.n == 2):
        return ti.Matrix([[F[1, 1], -F[1, 0]], [-F[0, 1], F[0, 0]]])
    else:
        a, b, c = row(F, 0), row(F, 1), row(F, 2)
        return ti.Matrix.rows([b.cross(c), c.cross(a), a.cross(b)])


@ti.func
def cofactor_vjp(grad, F):
    """Gradient with respect to F of <grad, cof F>. The derivative of cof is self-adjoint.

    2-D: cof is linear, so the result is cof(grad). 3-D: cof is quadratic; its polarization is rows of cross products.
    """
    if ti.static(F.n == 2):
        return cofactor(grad)
    else:
        a, b, c = row(F, 0), row(F, 1), row(F, 2)
        x, y, z = row(grad, 0), row(grad, 1), row(grad, 2)
        return ti.Matrix.rows([b.cross(z) + y.cross(c), c.cross(x) + z.cross(a), a.cross(y) + x.cross(b)])


@ti.func
def inner(A, B):
    """Frobenius product <A, B>."""
    total = A[0, 0] * B[0, 0]
    for i, j in ti.static(ti.ndrange(A.n, A.m)):
        if ti.static(i + j > 0):
            total += A[i, j] * B[i, j]
    return total


@ti.func
def polar(F):
    """The rotation R of F = R S, for det F > 0.

    2-D: closed form. 3-D: scaled Newton iteration X <- (g X + X^-T / g) / 2, g^2 = |X^-1| / |X|, about five steps.

    Source: Higham, Computing the polar decomposition, SIAM J. Sci. Stat. Comput. 7 (1986), doi:10.1137/0907079.
    """
    if ti.static(F.n == 2):
        c, s = F[0, 0] + F[1, 1], F[1, 0] - F[0, 1]
        n = ti.sqrt(c * c + s * s)
        return (1 / n) * ti.Matrix([[c, -s], [s, c]])
    else:
        X = F
        for _ in range(SWEEPS):
            C = cofactor(X)
            Y = (1 / row(X, 0).dot(row(C, 0))) * C
            g = ti.sqrt(ti.sqrt(inner(Y, Y) / inner(X, X)))
            new = (0.5 * g) * X + (0.5 / g) * Y
            D = new - X
            X = new
            # quadratic convergence: the error left is of the order of the last change squared
            if inner(D, D) <= ti.static(epsilon()):
                break
        return X


@ti.func
def polar_vjp(grad, F, R):
    """Gradient with respect to F of <grad, R(F)>: R [z]x with (tr(S) I - S) z = axial(R^T grad), S = R^T F.

    dR = R [w]x with (tr(S) I - S) w = axial(R^T dF): the same map, since dR/dF is self-adjoint. The matrix has the
    eigenvalues s_i + s_j, so nothing is singular where singular values are equal.
    """
    M = R.transpose() @ grad
    S = R.transpose() @ F
    if ti.static(F.n == 2):
        z = (M[1, 0] - M[0, 1]) / (S[0, 0] + S[1, 1])
        return z * ti.Matrix([[R[0, 1], -R[0, 0]], [R[1, 1], -R[1, 0]]])
    else:
        axial = ti.Vector([M[2, 1] - M[1, 2], M[0, 2] - M[2, 0], M[1, 0] - M[0, 1]])
        trace = S[0, 0] + S[1, 1] + S[2, 2]
        K = ti.Matrix(
            [
                [trace - S[0, 0], -S[0, 1], -S[0, 2]],
                [-S[0, 1], trace - S[1, 1], -S[1, 2]],
                [-S[0, 2], -S[1, 2], trace - S[2, 2]],
            ]
        )
        C = cofactor(K)
        z = (1 / row(K, 0).dot(row(C, 0))) * (C @ axial)
        return R @ ti.Matrix([[z[0] * 0, -z[2], z[1]], [z[2], z[0] * 0, -z[0]], [-z[1], z[0], z[0] * 0]])


@ti.func
def log1p_ratio(u):
    """log(u) / (u - 1) for u > 0, with its limit 1 at u = 1, accurate to rounding.

    Near 1: log u = 2 artanh z, z = (u - 1)/(u + 1), by its series. (A GPU's log may be
    accurate only absolutely there.)
    """
    r = u * 0
    if ti.abs(u - 1) < 0.1:
        z = (u - 1) / (u + 1)
        w = z * z
        r = 1 + w * (1 / 3 + w * (1 / 5 + w * (1 / 7 + w * (1 / 9 + w * (1 / 11 + w * (1 / 13))))))
        r = 2 * r / (u + 1)
    else:
        r = ti.log(u) / (u - 1)
    return r


@ti.func
def expm1_ratio(y):
    """(exp(y) - 1) / y, with its limit 1 at y = 0, accurate to rounding.

    Near 0: exp(y/2) sinh(h)/h with h = y/2, by its series.
    """
    r = y * 0
    if ti.abs(y) < 1:
        w = 0.25 * y * y
        r = 1 + w / 110 * (1 + w / 156 * (1 + w / 210))
        r = 1 + w / 6 * (1 + w / 20 * (1 + w / 42 * (1 + w / 72 * r)))
        r = ti.exp(0.5 * y) * r
    else:
        r = (ti.exp(y) - 1) / y
    return r


@ti.func
def isotropic_vjp(grad, U, V, jacobian, a, b):
    """Gradient with respect to F = U diag(s) V^T of <grad, P(F)>, P = U diag(p(s)) V^T.

    With M = U^T grad V the result is U N V^T,
        N_ii = sum_j (dp_j/ds_i) M_jj,   N_ij = (a_ij + b_ij)/2 M_ij + (a_ij - b_ij)/2 M_ji,
        a_ij = (p_i - p_j)/(s_i - s_j),  b_ij = (p_i + p_j)/(s_i + s_j).

    Args:
        jacobian: dp_i/ds_j (d x d).
        a, b: the divided differences (d x d, symmetric, diagonal unused), a in a form that holds for s_i = s_j.
    """
    M = U.transpose() @ grad @ V
    N = ti.Matrix.zero(float, U.n, U.n)
    for i, j in ti.static(ti.ndrange(U.n, U.n)):
        if ti.static(i == j):
            for k in ti.static(range(U.n)):
                N[i, i] += jacobian[k, i] * M[k, k]
        else:
            N[i, j] = 0.5 * ((a[i, j] + b[i, j]) * M[i, j] + (a[i, j] - b[i, j]) * M[j, i])
    return U @ N @ V.transpose()
