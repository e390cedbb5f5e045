"""Signed distance of a tool's shape: value, gradient and Hessian in the tool's frame.

phi < 0 inside, |grad phi| = 1 for the exact primitives. Each has kinks, where the nearest surface point is not unique:
the gradient is there one of its limits and the Hessian the one of that side (0 at a center or on an axis).

    rounded box  phi = |max(q, 0)| + min(max_i q_i, 0) - r,  q = |x| - c      (sphere c = 0; capsule c = (0, h/2, 0))
                 kinks: planes q_i = q_j inside the core box; the core itself where it is a point or a segment
    cylinder     the same in the plane (|(x, z)| - R, |y| - h);  kinks: the axis, and equal distances to side and cap
    half space   phi = y
    torus        phi = |(rho - R, y)| - r,  rho = |(x, z)|;  kinks: the axis, and the circle rho = R, y = 0
    mesh         phi = sum_i w(x - x_i) phi_i with quadratic B-splines: C1, so that normals have no jumps at voxel
                 faces as trilinear ones have. The coefficients interpolate the samples (diffsim/geometry/shapes.py).
                 Outside the sampled box phi = FAR with gradient and Hessian 0.

Tables of T tools (``diffsim.models.tools.pack``): tool_params (T, 16) with the shape from column 3, tool_ints (T, 8)
with the kind in column 0 and the grid of a mesh from column 2, sdf (N,) the spline coefficients of all meshes.
"""

from diffsim.kernels.lang import ti

ROUNDED_BOX, CYLINDER, HALF_SPACE, MESH, TORUS = 0, 1, 2, 3, 4  # tool_ints[:, 0]
FAR = 1e9  # [m] distance outside the sampled box of a mesh


@ti.func
def rounded_box(x, core, radius):
    """Distance to the box of half extents ``core`` [m], grown by ``radius`` [m]."""
    q = ti.abs(x) - core
    largest = q.max()
    outside = largest > 0.0
    w = ti.Vector.zero(float, 3)  # outside, x minus the nearest point of the core; inside, towards the nearest face
    free = ti.Vector.zero(float, 3)  # 1 on axes along which the nearest point of the core does not follow x
    found = False
    for i in ti.static(range(3)):
        if outside:
            if q[i] >= 0.0:
                w[i] = q[i]
                free[i] = 1.0
        elif not found and q[i] == largest:
            w[i] = 1.0
            found = True
        if x[i] < 0.0:
            w[i] = -w[i]
    length = w.norm()
    g = w / length
    phi = largest - radius
    curvature = 0.0
    if outside:
        phi = length - radius
        curvature = 1.0 / length
    H = -curvature * g.outer_product(g)
    for i in ti.static(range(3)):
        H[i, i] += curvature * free[i]
    return phi, g, H


@ti.func
def cylinder(x, radius, half_height):
    """Distance to the solid cylinder about local y."""
    rho = ti.sqrt(x[0] * x[0] + x[2] * x[2])
    cosine, sine, curvature = 1.0, 0.0, 0.0
    if rho > 0.0:
        curvature = 1.0 / rho
        cosine, sine = x[0] * curvature, x[2] * curvature
    a = rho - radius
    b = ti.abs(x[1]) - half_height
    phi = ti.max(a, b)
    g_a, g_b, rim = 0.0, 1.0, 0.0  # d phi / d a, d phi / d b; 1 / phi where the rim is nearest
    if a > 0.0 and b > 0.0:
        phi = ti.sqrt(a * a + b * b)
        rim = 1.0 / phi
        g_a, g_b = a * rim, b * rim
    elif a >= b:
        g_a, g_b = 1.0, 0.0
    up = 1.0
    if x[1] < 0.0:
        up = -1.0
    g = ti.Vector([g_a * cosine, g_b * up, g_a * sine])
    across = ti.Vector([g_b * cosine, -g_a * up, g_b * sine])  # perpendicular to g in the plane of the axis
    around = ti.Vector([-sine, 0.0, cosine])
    H = rim * across.outer_product(across) + g_a * curvature * around.outer_product(around)
    return phi, g, H


@ti.func
def torus(x, major, minor):
    """Distance to the tube of radius ``minor`` [m] about the circle of radius ``major`` [m] around local y."""
    rho = ti.sqrt(x[0] * x[0] + x[2] * x[2])
    cosine, sine, curvature = 1.0, 0.0, 0.0
    if rho > 0.0:
        curvature = 1.0 / rho
        cosine, sine = x[0] * curvature, x[2] * curvature
    a = rho - major
    length = ti.sqrt(a * a + x[1] * x[1])
    g_a, g_y, bend = 0.0, 1.0, 0.0  # d phi / d rho, d phi / d y; 1 / distance from the circle
    if length > 0.0:
        bend = 1.0 / length
        g_a, g_y = a * bend, x[1] * bend
    g = ti.Vector([g_a * cosine, g_y, g_a * sine])
    across = ti.Vector([-g_y * cosine, g_a, -g_y * sine])  # perpendicular to g in the plane of the axis
    around = ti.Vector([-sine, 0.0, cosine])
    H = bend * across.outer_product(across) + g_a * curvature * around.outer_product(around)
    return length - minor, g, H


@ti.func
def basis(u):
    """The centered quadratic B-spline at |u| < 3/2 and its first two derivatives."""
    w = 0.75 - u * u
    dw = -2.0 * u
    ddw = -2.0
    if u >= 0.5:
        w, dw, ddw = 0.5 * (1.5 - u) ** 2, u - 1.5, 1.0
    elif u < -0.5:  # the support starts at -1/2: there the middle piece holds, at 1/2 the outer one
        w, dw, ddw = 0.5 * (1.5 + u) ** 2, u + 1.5, 1.0
    return w, dw, ddw


@ti.func
def mesh(x, t, tool_params: ti.template(), tool_ints: ti.template(), sdf: ti.template()):
    """Spline of the sampled distance; columns: params 3..5 first node, 6 1/spacing; ints 2..4 nodes, 5 offset."""
    phi = FAR
    g = ti.Vector.zero(float, 3)
    H = ti.Matrix.zero(float, 3, 3)
    scale = tool_params[t, 6]
    nx, ny, nz = tool_ints[t, 2], tool_ints[t, 3], tool_ints[t, 4]
    u = ti.Vector([(x[i] - tool_params[t, 3 + i]) * scale for i in range(3)])
    # compared as floats: a point far away has no index in 32 bits
    if u.min() >= 0.5 and u[0] < nx - 1.5 and u[1] < ny - 1.5 and u[2] < nz - 1.5:
        base = ti.cast(u - 0.5, ti.i32)
        value = 0.0
        # run-time loops: 27 unrolled nodes cost more to compile than to run
        for i in range(3):
            wx, dx, ddx = basis(u[0] - (base[0] + i))
            for j in range(3):
                wy, dy, ddy = basis(u[1] - (base[1] + j))
                row = tool_ints[t, 5] + ((base[0] + i) * ny + base[1] + j) * nz + base[2]
                s, ds, dds = 0.0, 0.0, 0.0  # the sum along z and its derivatives
                for k in range(3):
                    wz, dz, ddz = basis(u[2] - (base[2] + k))
                    s += wz * sdf[row + k]
                    ds += dz * sdf[row + k]
                    dds += ddz * sdf[row + k]
                value += wx * wy * s
                g += ti.Vector([dx * wy * s, wx * dy * s, wx * wy * ds])
                xy, xz, yz = dx * dy * s, dx * wy * ds, wx * dy * ds
                H += ti.Matrix([[ddx * wy * s, xy, xz], [xy, wx * ddy * s, yz], [xz, yz, wx * wy * dds]])
        phi = value
        g *= scale
        H *= scale * scale
    return phi, g, H


@ti.func
def signed_distance(x, t, tool_params: ti.template(), tool_ints: ti.template(), sdf: ti.template()):
    """Signed distance of tool t at x [m] (3-vector, tool frame) -> phi [m], gradient (3), Hessian (3, 3) [1/m]."""
    phi = FAR
    g = ti.Vector.zero(float, 3)
    H = ti.Matrix.zero(float, 3, 3)
    kind = tool_ints[t, 0]
    if kind == ROUNDED_BOX:
        core = ti.Vector([tool_params[t, 3], tool_params[t, 4], tool_params[t, 5]])
        phi, g, H = rounded_box(x, core, tool_params[t, 6])
    elif kind == CYLINDER:
        phi, g, H = cylinder(x, tool_params[t, 3], tool_params[t, 4])
    elif kind == HALF_SPACE:
        phi = x[1]
        g[1] = 1.0
    elif kind == TORUS:
        phi, g, H = torus(x, tool_params[t, 3], tool_params[t, 4])
    elif kind == MESH:
        phi, g, H = mesh(x, t, tool_params, tool_ints, sdf)
    return phi, g, H
