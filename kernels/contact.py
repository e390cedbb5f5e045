"""Contact of grid nodes with tools and domain walls, and the adjoints.

Law, for a velocity v at distance phi from a surface with unit normal n that moves with v_c (Xian et al. 2023,
FluidLab, arXiv 2303.02346; with distances in meters):

    s     = min(exp(-k phi), 1)          it acts where phi <= 0, or, with k > 0, where s > 0.1
    v_rel = v - v_c,  v_n = v_rel . n,  tau = v_rel - min(v_n, 0) n
    v_n >= 0                             separating:  v' = v
    v_n < 0, mu > 0, |tau| <= -mu v_n    sticking:    u = 0
    v_n < 0 otherwise                    sliding:     u = (1 + mu v_n / |tau|) tau        (u = tau for mu = 0)
    v'    = v_c + s u + (1 - s) v_rel    and v' = v_c wherever a sticky tool acts

The adjoint is that of the branch taken. For mu = 0 and tau = 0 the derivative in mu exists from no side that the law
can reach along itself (u = 0 on both branches): it is 0. At phi = 0 the inner side counts.

Branch codes: OFF, SEPARATING, SLIDING, STICKING, plus SOFT where phi > 0.
"""

from diffsim.kernels.lang import ti
from diffsim.kernels.sdf import signed_distance

OFF, SEPARATING, SLIDING, STICKING, SOFT = 0, 1, 2, 3, 4
NO_WALL, SLIP, SEPARATE, STICKY, PERIODIC = 0, 1, 2, 3, 4  # kinds of walls; along a periodic axis there is none
LOG_10 = 2.302585092994046  # soft contact reaches to exp(-k phi) = 0.1
SHORTEST_NORMAL = 1e-3  # of the distance's gradient within the space of motion


@ti.func
def coulomb(v_n, speed, mu):
    """Coulomb friction of a surface pressed with v_n < 0 -> code, gain a in u = a tau, 1/|tau| (0 where unused)."""
    code = SLIDING
    gain = 1.0
    inverse = 0.0
    if mu > 0.0 and speed <= -mu * v_n:
        code = STICKING
        gain = 0.0
    elif speed > 0.0:
        inverse = 1.0 / speed
        gain += mu * v_n * inverse
    return code, gain, inverse


@ti.func
def coulomb_vjp(grad_u, v, n, v_n, tau, mu, gain, inverse):
    """Adjoint of u = a tau in v and n, through v_n and tau -> grad_v, grad_n, grad_mu."""
    along = inverse * grad_u.dot(tau)
    grad_tau = gain * grad_u - (mu * v_n * inverse * inverse * along) * tau
    grad_v_n = mu * along - grad_tau.dot(n)
    return grad_tau + grad_v_n * n, grad_v_n * v - v_n * grad_tau, along * v_n


@ti.func
def response(v_n, speed, phi, mu, k, sticky):
    """The branch of the contact law -> code, s (0 where v' = v), gain and 1/|tau| of ``coulomb``, soft 0 or 1."""
    code = OFF
    s = 0.0
    gain = 0.0
    inverse = 0.0
    soft = 0.0
    strength = ti.exp(-k * ti.max(phi, 0.0))
    if phi <= 0.0 or (k > 0.0 and strength > 0.1):
        code = SEPARATING
        if sticky == 1:
            code = STICKING
            s = 1.0
        elif v_n < 0.0:
            code, gain, inverse = coulomb(v_n, speed, mu)
            s = strength
            if phi > 0.0:
                soft = 1.0
        if phi > 0.0:
            code += SOFT
    return code, s, gain, inverse, soft


@ti.func
def contact(v, n, phi, v_c, mu, k, sticky):
    """Contact law -> v' [m/s], branch code.

    Args: v, n, v_c vectors of length d; phi [m]; mu; softness k [1/m], 0 is hard; sticky 0 or 1.
    """
    v_rel = v - v_c
    v_n = v_rel.dot(n)
    tau = v_rel - v_n * n
    code, s, gain, _, _ = response(v_n, tau.norm(), phi, mu, k, sticky)
    v_new = v
    if s > 0.0:
        v_new = v_c + s * gain * tau + (1.0 - s) * v_rel
    return v_new, code


@ti.func
def contact_vjp(grad_v_new, v, n, phi, v_c, mu, k, sticky):
    """Adjoint of ``contact`` -> grad_v, grad_n, grad_phi, grad_v_c, grad_mu, grad_k."""
    v_rel = v - v_c
    v_n = v_rel.dot(n)
    tau = v_rel - v_n * n
    _, s, gain, inverse, soft = response(v_n, tau.norm(), phi, mu, k, sticky)
    through, grad_n, grad_mu = coulomb_vjp(s * grad_v_new, v_rel, n, v_n, tau, mu, gain, inverse)
    grad_v = through + (1.0 - s) * grad_v_new
    slope = soft * s * grad_v_new.dot(v_rel - gain * tau)  # s_bar = -slope / s, and ds = -s (k dphi + phi dk)
    return grad_v, grad_n, k * slope, grad_v_new - grad_v, grad_mu, phi * slope


@ti.func
def padded(x):
    """A vector of length d with zeros up to length 3."""
    y = ti.Vector.zero(float, 3)
    for i in ti.static(range(x.n)):
        y[i] = x[i]
    return y


@ti.func
def tool_offset(row, x, motion: ti.template()):
    """x - p, a 3-vector [m]."""
    return padded(x) - ti.Vector([motion[row, 0], motion[row, 1], motion[row, 2]])


@ti.func
def in_reach(t, offset, tool_params: ti.template()):
    """Whether a point at ``offset`` from the tool's origin can touch it: the bounding sphere and the soft band."""
    radius = tool_params[t, 2]
    if tool_params[t, 1] > 0.0:
        radius += LOG_10 / tool_params[t, 1]
    return offset.norm_sqr() <= radius * radius


@ti.func
def tool_surface(
    t, row, offset, v, motion: ti.template(), tool_params: ti.template(), tool_ints: ti.template(), sdf: ti.template()
):
    """The surface of tool t as a node sees it -> phi, n, v_c, and for the adjoint R, g, H, 1/|m|.

    m is the part of R g in the space of motion and n = m / |m|. In 2-D, where the surface is parallel to the plane
    (and for a mesh where the distance is stationary) there is no normal: n = 0, 1/|m| is taken as 0,
    and the contact separates.
    """
    R = ti.Matrix.zero(float, 3, 3)
    for i, j in ti.static(ti.ndrange(3, 3)):
        R[i, j] = motion[row, 3 + 3 * i + j]
    local = R.transpose() @ offset
    phi, g, H = signed_distance(local, t, tool_params, tool_ints, sdf)
    m = R @ g
    linear = ti.Vector([motion[row, 12], motion[row, 13], motion[row, 14]])
    omega = ti.Vector([motion[row, 15], motion[row, 16], motion[row, 17]])
    velocity = linear + omega.cross(offset)
    n = ti.Vector.zero(float, v.n)
    v_c = ti.Vector.zero(float, v.n)
    for i in ti.static(range(v.n)):
        n[i] = m[i]
        v_c[i] = velocity[i]
    length = n.norm()
    inverse = 0.0
    if length > SHORTEST_NORMAL:
        inverse = 1.0 / length
    return phi, inverse * n, v_c, R, g, H, inverse


@ti.func
def apply_tool(
    t, row, x, v, motion: ti.template(), tool_params: ti.template(), tool_ints: ti.template(), sdf: ti.template()
):
    """Contact of the node at x [m] with tool t -> v' [m/s], branch code.

    Args: x, v vectors of length d; motion (rows, 18), ``row`` that of this tool and substep; the tables of
        ``diffsim.kernels.sdf``.
    """
    v_new = v
    code = OFF
    offset = tool_offset(row, x, motion)
    if in_reach(t, offset, tool_params):
        phi, n, v_c, R, g, H, inverse = tool_surface(t, row, offset, v, motion, tool_params, tool_ints, sdf)
        v_new, code = contact(v, n, phi, v_c, tool_params[t, 0], tool_params[t, 1], tool_ints[t, 1])
    return v_new, code


@ti.func
def apply_tool_vjp(
    grad_v_new,
    t,
    row,
    x,
    v,
    motion: ti.template(),
    tool_params: ti.template(),
    tool_ints: ti.template(),
    sdf: ti.template(),
):
    """Adjoint of ``apply_tool`` -> grad_v (d), grad_motion (18), grad_mu, grad_k. Nodes x are fixed.

    With N, V the padded gradients in n and v_c, and N' = (I - n n^T) N / |m|:
        local_bar = H R^T N' + phi_bar g,   R_bar = N' g^T + offset local_bar^T
        offset_bar = R local_bar + V x omega,   p_bar = -offset_bar,   v_bar = V,   omega_bar = offset x V
    """
    grad_v = grad_v_new
    grad_motion = ti.Vector.zero(float, 18)
    grad_mu = 0.0
    grad_k = 0.0
    offset = tool_offset(row, x, motion)
    if in_reach(t, offset, tool_params):
        mu, k, sticky = tool_params[t, 0], tool_params[t, 1], tool_ints[t, 1]
        phi, n, v_c, R, g, H, inverse = tool_surface(t, row, offset, v, motion, tool_params, tool_ints, sdf)
        through, grad_n, grad_phi, grad_v_c, along_mu, along_k = contact_vjp(grad_v_new, v, n, phi, v_c, mu, k, sticky)
        grad_v = through
        grad_mu = along_mu
        grad_k = along_k
        V = padded(grad_v_c)
        N = padded(inverse * (grad_n - n.dot(grad_n) * n))
        grad_local = H @ (R.transpose() @ N) + grad_phi * g
        omega = ti.Vector([motion[row, 15], motion[row, 16], motion[row, 17]])
        grad_offset = R @ grad_local + V.cross(omega)
        grad_omega = offset.cross(V)
        for i in ti.static(range(3)):
            grad_motion[i] = -grad_offset[i]
            grad_motion[12 + i] = V[i]
            grad_motion[15 + i] = grad_omega[i]
            for j in ti.static(range(3)):
                grad_motion[3 + 3 * i + j] = N[i] * g[j] + offset[i] * grad_local[j]
    return grad_v, grad_motion, grad_mu, grad_k


@ti.func
def wall_normal(axis, side, v):
    """The inward normal: +axis on the low side (-1), -axis on the high side (+1)."""
    n = ti.Vector.zero(float, v.n)
    for i in ti.static(range(v.n)):
        if i == axis:
            n[i] = -side
    return n


@ti.func
def apply_wall(axis, side, kind, mu, v):
    """A domain wall on a node velocity v [m/s] -> v', branch code (SEPARATING: not pressed on the wall).

    kind SLIP: no normal velocity at all; SEPARATE: none into the wall; both with Coulomb friction mu under pressure.
    STICKY: v' = 0. NO_WALL: v' = v. ``axis``, ``side`` and ``kind`` may be known only at run time. A SLIP wall without
    friction has one branch, SLIDING, whichever way the node moves.
    """
    v_new = v
    code = OFF
    if kind == STICKY:
        code = STICKING
        v_new = ti.Vector.zero(float, v.n)
    elif kind != NO_WALL:
        n = wall_normal(axis, side, v)
        v_n = v.dot(n)
        code = SEPARATING
        if v_n < 0.0 or kind == SLIP:
            tau = v - v_n * n
            gain = 1.0
            if v_n < 0.0:
                code, gain, _ = coulomb(v_n, tau.norm(), mu)
            elif mu == 0.0:
                code = SLIDING
            v_new = gain * tau
    return v_new, code


@ti.func
def apply_wall_vjp(grad_v_new, axis, side, kind, mu, v):
    """Adjoint of ``apply_wall`` -> grad_v, grad_mu."""
    grad_v = grad_v_new
    grad_mu = 0.0
    if kind == STICKY:
        grad_v = ti.Vector.zero(float, v.n)
    elif kind != NO_WALL:
        n = wall_normal(axis, side, v)
        v_n = v.dot(n)
        if v_n < 0.0 or kind == SLIP:
            tau = v - v_n * n
            gain = 1.0
            inverse = 0.0
            if v_n < 0.0:
                _, gain, inverse = coulomb(v_n, tau.norm(), mu)
            grad_v, _, grad_mu = coulomb_vjp(grad_v_new, v, n, v_n, tau, mu, gain, inverse)
    return grad_v, grad_mu
