"""Mutations of the operators: transfers, nodes, contact, the substep, distances, sums."""

from mutation import mutations

TRANSFER = ("tests/kernels/test_transfer.py",)
CONTACT = ("tests/kernels/test_contact.py",)
SVD = ("tests/kernels/test_svd.py",)
SDF = ("tests/kernels/test_sdf.py",)
DENSITY = ("tests/kernels/test_density.py",)
TILES = ("tests/kernels/test_tiles.py",)
ELASTIC = ("tests/materials/test_elastic_laws.py",)


def rollouts(*cases):
    """Cases of the gradient check of whole rollouts."""
    test = "tests/models/test_mpm_gradients.py::test_the_gradient_by_every_input_equals_differences"
    return tuple(f"{test}[{case}]" for case in cases)


MOTION = ("tests/properties/test_mpm_invariances.py",)
SPHERE, SOFT = rollouts("hard sphere"), rollouts("soft sphere")
SLIDING, YIELDING, FLIGHT = rollouts("slip wall, sliding"), rollouts("yielding"), rollouts("free flight")
PARTS = ("tests/materials/test_parts.py", "-k", "rollout")
CORNERS = ("tests/models/test_mpm_corners.py",)

PERIODIC = ("tests/models/test_mpm_periodic.py",)

KERNELS = [
    *mutations(
        "kernels/packing.py",
        FLIGHT,
        ("v[i, a] = packed[p, dim + a]", "v[i, a] = packed[p, a]"),
        ("C[i, a] = packed[p, 2 * dim + a]", "C[p, a] = packed[p, 2 * dim + a]"),
        ("packed[p, 2 * dim + dim * dim + a] = F[i, a]", "packed[p, 2 * dim + dim * dim + a] = C[i, a]"),
        ("particles[p, 1] = volume[i]", "particles[p, 1] = volume[p]"),
    ),
    *mutations(
        "kernels/packing.py",
        YIELDING,
        ("q[i, j] = packed[p, 2 * dim + 2 * dim * dim + j]", "q[p, j] = packed[p, 2 * dim + 2 * dim * dim + j]"),
    ),
    *mutations(
        "kernels/control_step.py",
        PERIODIC,
        ("images[tiles.order] + shift", "images + shift"),
        ("final[:, : images.shape[1]] += images", "final[:, : images.shape[1]] -= images"),
    ),
    *mutations("kernels/tiles.py", PERIODIC, ("block[..., a] %= blocks[a]", "block[..., a] %= blocks[a] + 1")),
    *mutations(
        "kernels/bspline.py",
        TRANSFER,
        ("s[1, axis] = 2.0 - 2.0 * f[axis]", "s[1, axis] = 2.0 - f[axis]"),
        ("ti.select(a == 1, 2.0 - 2.0 * f, f - 1.5", "ti.select(a == 1, 2.0 * f - 2.0, f - 1.5"),
    ),
    *mutations(
        "kernels/transfer.py",
        TRANSFER,
        # the sums that gather and both adjoints are built from
        ("(column[i] - f[a] * total[i]) * dx", "(column[i] + f[a] * total[i]) * dx"),
        ("matrix[i, a] = (column[i]", "matrix[a, i] = (column[i]"),
        ("for a in range(dim)]) / dx", "for a in range(dim)])"),
        ("return w[0] * g_0 + outer, outer + g_2w", "return w[0] * g_0 + outer, outer"),
        ("line_1 += (number_1 * w_1) * along", "line_1 += w_1 * along"),
        ("line_1 += (number_1 * w_1) * nodes[line_start]", "line_1 += w_1 * nodes[line_start]"),
        ("value_i = corner + number * rows[0]", "value_i = corner - number * rows[0]"),
        ("product = nodes[line_start] * value_j", "product = nodes[line_start] * value_i"),
        (
            "work += w_1 * product\n                work_1 += s_1 * product\n            else",
            "work += w_1 * product\n                work_1 += w_1 * product\n            else",
        ),
        ("work_2 += w_1 * (s_2[0]", "work_2 += s_1 * (s_2[0]"),
        ("y_2 = nodes[line_start + 2] * (value_1 + rows[2])", "y_2 = nodes[line_start + 2] * value_1"),
        ("put(sums, base + 4, keep, slope(i, f[0]) * work)", "put(sums, base + 4, keep, w_i * work)"),
        ("put(sums, base + 6, keep, w_i * work_2)", "put(sums, base + 6, keep, -w_i * work_2)"),
        # scatter
        (
            "corner = with_mass(momentum - step @ f, mass)\n    rows = affine_rows(step, mass * 0.0)\n    base",
            "corner = with_mass(momentum + step @ f, mass)\n    rows = affine_rows(step, mass * 0.0)\n    base",
        ),
        ("base, f.n, dx) - affine.transpose() @ grad_momentum", "base, f.n, dx) + affine.transpose() @ grad_momentum"),
        ("base, f.n, dx) - affine.transpose() @ grad_momentum", "base, f.n, dx) - affine @ grad_momentum"),
        (
            "return grad_momentum, grad_affine, total[f.n], grad_x",
            "return grad_momentum, grad_affine, total[0], grad_x",
        ),
        # gather
        ("affine = grad_c * (4.0 / (dx * dx))", "affine = grad_c * (4.0 / dx)"),
        ("with_mass(grad_v - step @ f, nothing)", "with_mass(grad_v, nothing)"),
        ("f, grad_v, affine, nothing, dx, atomic)", "f, grad_v, affine.transpose(), nothing, dx, atomic)"),
        ("base, f.n, dx) - affine.transpose() @ v", "base, f.n, dx)"),
        ("base, f.n, dx) - affine.transpose() @ v", "base, f.n, dx) - affine @ v"),
    ),
    *mutations(
        "kernels/grid.py",
        SPHERE,
        ("grad_mass += rate * (before - after)", "grad_mass -= rate * (before - after)"),
        ("grad_after = grad - (mass * rate) * grad_force", "grad_after = grad + (mass * rate) * grad_force"),
        ("grad = grad_before + (mass * rate) * grad_force", "grad = grad_before"),
        ("grad_wrench[t, a] + from_torque[a]", "grad_wrench[t, a] - from_torque[a]"),
        ("grad_torque.cross(arm)", "arm.cross(grad_torque)"),
        ("spatial.cross(grad_torque)", "grad_torque.cross(spatial)"),
        ("grad_motion[a] -= grad_arm[a]", "grad_motion[a] += grad_arm[a]"),
        ("TOOL_GRADIENTS * t + 18] + grad_mu", "TOOL_GRADIENTS * t + 18] - grad_mu"),
        ("TOOL_GRADIENTS * t + 19] + grad_k", "TOOL_GRADIENTS * t + 19] - grad_k", SOFT),
        ("parts[o, column] + grad_mu", "parts[o, column] - grad_mu", SLIDING),
        ("column = TOOL_GRADIENTS * tools + side", "column = TOOL_GRADIENTS * tools", SLIDING),
        ("            grad = grad_facing\n", "", SLIDING),
        # the order of tools and walls on one node
        ("a = ti.static(v.n) - 1 - reverse", "a = reverse", CORNERS),
        ("for b in range(a):", "for b in range(0):", CORNERS),
        ("t = tools - 1 - reverse", "t = reverse", CORNERS),
        ("            after = before\n    return grad, grad_mass", "    return grad, grad_mass", CORNERS),
    ),
    *mutations(
        "kernels/contact.py",
        CONTACT,
        ("along = inverse * grad_u.dot(tau)", "along = -inverse * grad_u.dot(tau)"),
        ("gain * grad_u - (mu * v_n * inverse * inverse * along) * tau", "gain * grad_u"),
        ("(mu * v_n * inverse * inverse * along)", "(mu * v_n * inverse * along)"),
        ("grad_v_n = mu * along - grad_tau.dot(n)", "grad_v_n = mu * along + grad_tau.dot(n)"),
        ("return grad_tau + grad_v_n * n, grad_v_n", "return grad_tau - grad_v_n * n, grad_v_n"),
        ("grad_v_n * v - v_n * grad_tau, along * v_n", "grad_v_n * v + v_n * grad_tau, along * v_n"),
        ("grad_v_n * v - v_n * grad_tau, along * v_n", "grad_v_n * v - v_n * grad_tau, along"),
        ("coulomb_vjp(s * grad_v_new, v_rel", "coulomb_vjp(grad_v_new, v_rel"),
        ("grad_v = through + (1.0 - s) * grad_v_new", "grad_v = through"),
        ("grad_v_new.dot(v_rel - gain * tau)", "grad_v_new.dot(v_rel + gain * tau)"),
        ("grad_n, k * slope, grad_v_new - grad_v, grad_mu", "grad_n, -k * slope, grad_v_new - grad_v, grad_mu"),
        ("k * slope, grad_v_new - grad_v, grad_mu", "k * slope, grad_v - grad_v_new, grad_mu"),
        ("grad_mu, phi * slope", "grad_mu, slope"),
        ("(grad_n - n.dot(grad_n) * n)", "grad_n"),
        ("H @ (R.transpose() @ N) + grad_phi * g", "H @ (R.transpose() @ N)"),
        ("H @ (R.transpose() @ N) + grad_phi * g", "H @ (R @ N) + grad_phi * g"),
        ("grad_offset = R @ grad_local + V.cross(omega)", "grad_offset = R @ grad_local + omega.cross(V)"),
        ("grad_omega = offset.cross(V)", "grad_omega = V.cross(offset)"),
        ("grad_motion[i] = -grad_offset[i]", "grad_motion[i] = grad_offset[i]"),
        ("= N[i] * g[j] + offset[i] * grad_local[j]", "= N[j] * g[i] + offset[i] * grad_local[j]"),
        ("= N[i] * g[j] + offset[i] * grad_local[j]", "= N[i] * g[j]"),
        (
            "grad_v, _, grad_mu = coulomb_vjp(grad_v_new, v, n, v_n,",
            "grad_v, _, grad_mu = coulomb_vjp(grad_v_new, v, n, -v_n,",
        ),
        (
            "        grad_v = ti.Vector.zero(float, v.n)\n    elif kind != NO_WALL",
            "        pass\n    elif kind != NO_WALL",
        ),
    ),
    *mutations(
        "kernels/particle_step.py",
        FLIGHT,
        (
            "grad_v = read_vector(grads, grad_after, spec.dim, spec.dim) + dt * grad_x",
            "grad_v = read_vector(grads, grad_after, spec.dim, spec.dim)",
        ),
        ("dt * (grad_trial @ F.transpose())", "dt * (grad_trial @ F)"),
        ("grad_trial + dt * (C_new.transpose() @ grad_trial)", "grad_trial + dt * (C_new @ grad_trial)"),
        ("grad_trial, grad_q = grad_F_m, grad_q_m", "grad_trial = grad_F_m", YIELDING),
        ("grad_trial, grad_q = grad_F_m, grad_q_m", "grad_q = grad_q_m", YIELDING),
        ("grad_mass += grad_momentum.dot(momentum) / mass", "grad_mass -= grad_momentum.dot(momentum) / mass"),
        (" + (grad_affine * C).sum()", ""),
        ("grad_tau = (-volume_rate * particles[p, 1])", "grad_tau = (volume_rate * particles[p, 1])"),
        ("grad_volume = -volume_rate *", "grad_volume = -"),
        ("grad_tau.transpose() @ P", "grad_tau @ P"),
        ("grad_C = mass * grad_affine", "grad_C = grad_affine"),
        ("stress_vjp(grad_tau @ F,", "stress_vjp(grad_tau.transpose() @ F,"),
        ("            grad_F += grad_F_m\n", ""),
        ("            grad_C += grad_L\n", "", PARTS),
        ("            grad_q += grad_q_m\n", "", YIELDING),
        ("grads[grad_row, a] = grads[grad_row, a] + grad_x[a]", "grads[grad_row, a] = grad_x[a]"),
        ("grad_particles[p, 2 + a] + dt * mass * grad_momentum[a]", "grad_particles[p, 2 + a] + dt * grad_momentum[a]"),
        (
            "write_vector(grads, grad_row, spec.dim, mass * grad_momentum)",
            "write_vector(grads, grad_row, spec.dim, grad_momentum)",
        ),
        # not an adjoint: the torque of a stress that is not symmetric turns a free body
        (
            "* (P @ F.transpose())\n    return mass * (v + dt * b), affine",
            "* (P @ F)\n    return mass * (v + dt * b), affine",
            MOTION,
        ),
        ("affine = mass * C - (", "affine = mass * C.transpose() - (", MOTION),
    ),
    *mutations(
        "kernels/grid.py",
        FLIGHT,
        ("grad_momentum = grad_v / mass", "grad_momentum = grad_v"),
        ("grad_mass -= grad_momentum.dot(v)", "grad_mass += grad_momentum.dot(v)"),
    ),
    *mutations(
        "kernels/substep.py",
        SPHERE,
        ("total += parts[o, c]", "total = parts[o, c]"),
        ("grad_then = ((half + k) % 2) * labels.shape[0]", "grad_then = half * labels.shape[0]"),
        ("tool = (substep + s) * tool_params.shape[0]", "tool = (substep + k) * tool_params.shape[0]"),
    ),
    *mutations(
        "kernels/svd.py",
        SVD,
        ("return cofactor(grad)", "return grad"),
        ("[b.cross(z) + y.cross(c),", "[b.cross(z) - y.cross(c),"),
        ("z = (M[1, 0] - M[0, 1]) /", "z = (M[1, 0] + M[0, 1]) /"),
        ("z = (M[1, 0] - M[0, 1]) / (S[0, 0] + S[1, 1])", "z = (M[1, 0] - M[0, 1]) / S[0, 0]"),
        ("(C @ axial)", "axial"),
        ("[-S[0, 1], trace - S[1, 1], -S[1, 2]]", "[-S[0, 1], trace, -S[1, 2]]"),
        ("M[0, 2] - M[2, 0]", "M[2, 0] - M[0, 2]"),
        ("w * (1 / 5 +", "w * (1 / 6 +"),
        ("r = ti.exp(0.5 * y) * r", "r = ti.exp(y) * r"),
        ("(a[i, j] - b[i, j]) * M[j, i]", "(a[i, j] + b[i, j]) * M[j, i]", ELASTIC),
        ("(a[i, j] + b[i, j]) * M[i, j] +", "(a[i, j] + b[i, j]) * M[i, j] -", ELASTIC),
        ("jacobian[k, i] * M[k, k]", "jacobian[i, k] * M[k, k]", ("tests/materials/test_von_mises.py",)),
    ),
    *mutations(
        "kernels/sdf.py",
        SDF,
        ("H = -curvature * g.outer_product(g)", "H = curvature * g.outer_product(g)"),
        ("H[i, i] += curvature * free[i]", "H[i, i] += curvature"),
        ("H = rim * across.outer_product(across) +", "H = -rim * across.outer_product(across) +"),
        ("bend * across.outer_product(across) + g_a * curvature", "bend * across.outer_product(across) + curvature"),
        ("rim * across.outer_product(across) + g_a * curvature", "rim * across.outer_product(across) + curvature"),
        ("dw = -2.0 * u", "dw = 2.0 * u"),
        ("ddw = -2.0", "ddw = 2.0"),
        ("xy, xz, yz = dx * dy * s,", "xy, xz, yz = dx * wy * s,"),
        ("g *= scale", "g *= scale * scale"),
        ("H *= scale * scale", "H *= scale"),
    ),
    *mutations(
        "kernels/density.py",
        DENSITY,
        ("grad_x[p] = (mass[p] * inv_dx) * slope", "grad_x[p] = inv_dx * slope"),
        ("grad_x[p] = (mass[p] * inv_dx) * slope", "grad_x[p] = mass[p] * slope"),
        ("grad_mass[p] = total", "grad_mass[p] = total * mass[p]"),
        ("slope[a] += along", "slope[a] -= along"),
    ),
    *mutations(
        "kernels/tool_distance.py",
        ("tests/test_objectives.py", "-k", "tool_distance"),
        ("return grad_x, -ordered_sum(world), grad_rotation", "return grad_x, ordered_sum(world), grad_rotation"),
        ("world = sum(rotation[:, :, a] * local", "world = sum(rotation[:, a, :] * local"),
        ("offset[:, :, :, None] * local[:, :, None, :]", "offset[:, :, None, :] * local[:, :, :, None]"),
    ),
    *mutations(
        "kernels/reduction.py",
        TILES,
        ("paired = values[:half] + values[half : 2 * half]", "paired = values[:half]"),
        ("torch.cat([paired, values[2 * half :]]) if values.shape[0] % 2 else paired", "paired"),
        ("                chunk = 0.0\n", ""),
        ("return ordered_sum(grad.contiguous()), None", "return grad[0], None"),
    ),
    *mutations(
        "kernels/control_step.py",
        FLIGHT,
        ("grad_theta[:, -1] = grad_mass * volume", "grad_theta[:, -1] = grad_mass"),
        (" + grad_mass * theta[:, -1][setting.rows]", ""),
    ),
]
