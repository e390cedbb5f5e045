"""``Robot``: differentiable forward kinematics of a URDF, its limits, and the inverse problem."""

import math

import numpy as np
import torch
from torch import Tensor, nn

from diffsim.errors import DataError, SceneError
from diffsim.kernels.arrays import context
from diffsim.models.tools import exponential, logarithm, quaternion_product, rotation_matrix
from diffsim.robots.description import read_urdf
from diffsim.scripts import suggestion

TRIES = 6  # starts of the inverse problem


class Robot(nn.Module):
    """A tree of links that its joints move.

    In the world a link has position p and rotation q (quaternion w, x, y, z). A joint with value s at (p_0, q_0) in its
    parent, about or along the unit vector a, gives

        revolute, continuous:  q = q_parent q_0 exp(s a),    p = p_parent + R(q_parent) p_0
        prismatic:             q = q_parent q_0,             p = p_parent + R(q_parent) (p_0 + R(q_0) s a)

    Gradients are torch's, exact also at s = 0.

    Args:
        urdf: a URDF file, or the name of a shipped one: "six_axis_arm".
        base: position [m] and quaternion w, x, y, z of the root link in the world.
        acceleration: limit of the joints [rad/s^2, m/s^2], which URDF does not know: a number, or one per joint; None
            for no limit.

    Attributes:
        joints: names of the joints that are moved, which the columns of joint positions belong to.
        links: names of all links, the root first.
        lower, upper, velocity, acceleration: limits of these joints (joints,), infinite where there are none.

    Raises:
        DataError: a URDF that is not understood, see ``read_urdf``.
        SceneError: a base or acceleration that makes no sense.
    """

    def __init__(self, urdf, base=((0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0)), acceleration=None):
        super().__init__()
        self.description = read_urdf(urdf)
        chain = self.description
        self.name, self.links = chain.name, chain.links
        self.joints = [chain.joints[k].name for k in chain.independent]
        place, turn = (torch.as_tensor(part, dtype=torch.float64) for part in base)
        if place.shape != (3,) or turn.shape != (4,) or not turn.norm() > 0 or not place.isfinite().all():
            raise SceneError(f"Robot: base={base}; give a position of 3 numbers and a quaternion w, x, y, z")
        self.register_buffer("base", torch.cat([place, turn / turn.norm()]))
        offsets = [[*joint.position, *joint.quaternion] for joint in chain.joints]
        self.register_buffer("offsets", torch.tensor(offsets, dtype=torch.float64).reshape(-1, 7))
        axes = [joint.axis for joint in chain.joints]
        self.register_buffer("axes", torch.tensor(axes, dtype=torch.float64).reshape(-1, 3))
        low, high, fast = self._limits()
        for name, values in {"lower": low, "upper": high, "velocity": fast}.items():
            self.register_buffer(name, torch.tensor(values, dtype=torch.float64))
        limit = torch.as_tensor(math.inf if acceleration is None else acceleration, dtype=torch.float64)
        if limit.shape not in ((), (len(self.joints),)) or not (limit > 0).all():
            raise SceneError(
                f"Robot: acceleration={acceleration}; give a positive number, or {len(self.joints)}, one per joint"
            )
        self.register_buffer("acceleration", limit.expand(len(self.joints)).clone())

    def _limits(self):
        """Limits of the independent joints, those that mimic them included."""
        count = len(self.joints)
        low, high, fast = [-math.inf] * count, [math.inf] * count, [math.inf] * count
        for joint in self.description.joints:
            if joint.source < 0 or joint.multiplier == 0:
                continue
            ends = sorted((end - joint.offset) / joint.multiplier for end in (joint.lower, joint.upper))
            k = joint.source
            low[k], high[k] = max(low[k], ends[0]), min(high[k], ends[1])
            fast[k] = min(fast[k], joint.velocity / abs(joint.multiplier))
        for name, least, most in zip(self.joints, low, high, strict=True):
            if least > most:
                raise DataError(f"{self.name}: joint {name!r} and those that mimic it have no common range; widen them")
        return low, high, fast

    def forward(self, positions: Tensor, links=None) -> Tensor:
        """Poses of links (..., links, 7): position [m] and quaternion w, x, y, z in the world.

        Args:
            positions: of the joints, (..., joints) [rad, m].
            links: their names; all when None.

        Raises:
            DataError: positions of another shape, or not finite.
            SceneError: an unknown link.
        """
        self._check(positions)
        wanted = [self.index(link) for link in (self.links if links is None else links)]
        base = self.base.to(positions)
        batch = positions.shape[:-1]
        places, turns = [base[:3].expand(*batch, 3)], [base[3:].expand(*batch, 4)]
        for k, joint in enumerate(self.description.joints):
            offset, axis = self.offsets[k].to(positions), self.axes[k].to(positions)
            turn = quaternion_product(turns[joint.parent], offset[3:].expand(*batch, 4))
            arm = offset[:3]
            if joint.source >= 0:
                value = joint.multiplier * positions[..., joint.source, None] + joint.offset
                if joint.type == "prismatic":
                    arm = arm + value * (rotation_matrix(offset[3:]) @ axis)
                else:
                    turn = quaternion_product(turn, exponential(value * axis))
            places.append(places[joint.parent] + _rotated(turns[joint.parent], arm))
            turns.append(turn)
        return torch.stack([torch.cat([places[k], turns[k]], -1) for k in wanted], -2)

    def index(self, link: str) -> int:
        """Place of a link in ``links``.

        Raises:
            SceneError: there is none of this name.
        """
        if link not in self.links:
            raise SceneError(f"robot {self.name!r} has no link {link!r}; {suggestion(link, self.links)}")
        return self.links.index(link)

    def _check(self, positions: Tensor) -> None:
        if positions.shape[-1:] != (len(self.joints),):
            raise DataError(
                f"joint positions have shape {tuple(positions.shape)}; robot {self.name!r} needs (..., "
                f"{len(self.joints)}): {', '.join(self.joints)}"
            )
        bad = ~positions.detach().isfinite()
        if bad.any():
            where = bad.nonzero()[0].tolist()
            step = f" in step {where[0]}" if len(where) > 1 else ""
            raise DataError(f"joint {self.joints[where[-1]]!r} has no finite position{step}; check what computes it")

    def excess(self, positions: Tensor, dt: float, margin: float = 0.0, rest: bool = True) -> Tensor:
        """Constraints g <= 0: by how much joint positions (steps, joints), dt [s] apart, go beyond the limits.

        Positions relative to half their range (to 1 rad or m where there is none), velocities (q_k+1 - q_k)/dt and
        accelerations (q_k+1 - 2 q_k + q_k-1)/dt^2 relative to their limits. One vector, for ``Scene(constraints=...)``.

        Args:
            margin: share of every limit to stay away from.
            rest: whether the robot stands still before the first position and after the last one, so that setting out
                and stopping within a step are accelerations too.
        """
        self._check(positions)
        found = [positions.new_full((1,), -1.0)]
        low, high = self.lower.to(positions), self.upper.to(positions)
        ranged = (high - low).isfinite() & (high > low)  # a locked joint, or one with one end, has no share to keep
        half = torch.where(ranged, (high - low) / 2, torch.ones_like(low))
        room = torch.where(ranged, torch.full_like(low, margin), torch.zeros_like(low))
        for side, limit in ((-1, low), (1, high)):
            bounded = limit.isfinite().nonzero().flatten()
            beyond = side * (positions[:, bounded] - limit[bounded]) / half[bounded]
            found.append((beyond + room[bounded]).flatten())
        for order, limit in ((1, self.velocity), (2, self.acceleration)):
            limit = limit.to(positions)
            bounded = limit.isfinite().nonzero().flatten()
            change = self._rates(positions[:, bounded], dt, order, rest)
            found.append((change.abs() / limit[bounded] - (1 - margin)).flatten())
        return torch.cat(found)

    @staticmethod
    def _rates(positions: Tensor, dt: float, order: int, rest: bool) -> Tensor:
        """Velocities, or the accelerations at the times of the positions, those at both ends only from and to rest."""
        if order == 2 and rest and len(positions):
            positions = torch.cat([positions[:1], positions, positions[-1:]])
        return positions.diff(n=order, dim=0) / dt**order

    def check_limits(self, positions: Tensor, dt: float, tolerance: float = 1e-6, rest: bool = True) -> None:
        """Raise ``DataError`` naming the step and the joint where positions (steps, joints) go beyond a limit.

        Args:
            tolerance: what a limit may be exceeded by, as a share of it.
            rest: as for ``excess``.
        """
        self._check(positions)
        kinds = (
            ("position", positions, self.lower, self.upper),
            ("velocity", self._rates(positions, dt, 1, rest), -self.velocity, self.velocity),
            ("acceleration", self._rates(positions, dt, 2, rest), -self.acceleration, self.acceleration),
        )
        for kind, values, low, high in kinds:
            low, high = low.to(values), high.to(values)
            size = torch.maximum(low.abs(), high.abs())
            slack = torch.where(size.isfinite(), tolerance * size, 0.0)  # none where a side has no limit
            beyond = (values < low - slack) | (values > high + slack)
            if beyond.any():
                step, joint = beyond.nonzero()[0].tolist()
                value, least, most = (float(each) for each in (values[step, joint], low[joint], high[joint]))
                step += kind == "acceleration" and not rest  # that of the position at which the velocity changes
                raise DataError(
                    f"joint {self.joints[joint]!r} has the {kind} {value:.4g} in step {step}, beyond its limits "
                    f"{least:.4g} .. {most:.4g}; slow down, or move the target"
                )

    def reach(self, pose: Tensor, link: str, start: Tensor | None = None, tolerance: float = 1e-6) -> Tensor:
        """Joint positions (joints,) at which a link has a pose, within the limits.

        Least squares of the distance [m] and the turn [rad] by SciPy's trust region, with the exact Jacobian, from
        ``start`` and then from drawn positions.

        Args:
            pose: (7,) position and quaternion w, x, y, z in the world.
            link: its name.
            start: positions to begin with; the middle of the limits when None.
            tolerance: largest distance and turn that remain.

        Raises:
            SceneError: a pose out of reach.
        """
        from scipy.optimize import least_squares

        pose = torch.as_tensor(pose, dtype=torch.float64)
        if pose.shape != (7,) or not pose.isfinite().all() or not pose[3:].norm() > 0:
            raise SceneError(f"reach: pose is {pose.tolist()}; give 3 numbers and a quaternion w, x, y, z")
        turn = pose[3:] / pose[3:].norm()
        # a joint without end is searched over a turn, or over as much from the end that it has
        least, most = self.lower.isfinite(), self.upper.isfinite()
        low = torch.where(least, self.lower, torch.where(most, self.upper - 2 * math.pi, -math.pi)).numpy()
        high = torch.where(most, self.upper, torch.where(least, self.lower + 2 * math.pi, math.pi)).numpy()
        high = np.maximum(high, low + 1e-9)

        def miss(values):
            found = self(values, [link])[..., 0, :]
            back = (turn * turn.new_tensor([1, -1, -1, -1])).expand_as(found[..., 3:])
            away = logarithm(quaternion_product(found[..., 3:], back))
            return torch.cat([found[..., :3] - pose[:3], away], -1)

        def numbers(values):
            return miss(torch.from_numpy(values)).numpy()

        def slopes(values):
            rows = torch.from_numpy(values).expand(6, -1).clone().requires_grad_()  # one for each number of the miss
            return torch.autograd.grad(miss(rows).diagonal().sum(), rows)[0].numpy()

        random = np.random.Generator(np.random.PCG64(0))
        begin = (low + high) / 2 if start is None else torch.as_tensor(start, dtype=torch.float64).numpy()
        best, least = None, math.inf
        for _ in range(TRIES):
            result = least_squares(
                numbers, np.clip(begin, low, high), slopes, bounds=(low, high), xtol=1e-12, ftol=1e-15, max_nfev=60
            )
            if np.abs(result.fun).max() < least:
                best, least = result, float(np.abs(result.fun).max())
            if least <= tolerance:
                return torch.from_numpy(best.x).to(context.dtype if context.ready else torch.float64)
            begin = random.uniform(low, high)
        away, angle = (float(np.linalg.norm(part)) for part in (best.fun[:3], best.fun[3:]))
        raise SceneError(
            f"link {link!r} of robot {self.name!r} cannot reach {[round(c, 4) for c in pose.tolist()]}: the nearest "
            f"pose found is {away:.3g} m and {angle:.3g} rad away; move the base or the target"
        )


def _rotated(quaternion: Tensor, vector: Tensor) -> Tensor:
    return (rotation_matrix(quaternion) @ vector[..., None])[..., 0]
