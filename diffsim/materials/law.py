"""What a constitutive law is: ``Elastic`` and ``Viscous`` (a stress), ``Plastic`` (a return map), as torch modules.

The parameters of a law are floats (kept as buffers), ``nn.Parameter`` (learned) or tensors (n,), one value per
particle. Its ti.funcs stand beside it in the same file as a class ``functions``, which kernels inline; the methods
here evaluate the same functions on tensors.
"""

import torch
from torch import nn

from diffsim.errors import DataError, SceneError
from diffsim.kernels import constitutive
from diffsim.kernels.arrays import context
from diffsim.kernels.lang import ti
from diffsim.kernels.reduction import repeat
from diffsim.materials.composite import combine

POSITIVE = (lambda value: value > 0, "must be greater than 0")
NOT_NEGATIVE = (lambda value: value >= 0, "must be 0 or greater")
POISSON = (lambda value: (value > -1) & (value < 0.5), "must lie between -1 and 0.5, both excluded")


def hold(module: nn.Module, name: str, value, limit, unit: str = "") -> None:
    """Set a physical parameter of a module: an ``nn.Parameter`` stays one, anything else becomes a buffer.

    Raises:
        SceneError: a value that is not a number, not finite or outside ``limit``, or a tensor of two or more axes.
    """
    where = f"{type(module).__name__}: {name}"
    if not isinstance(value, torch.Tensor):
        try:
            value = torch.tensor(float(value), dtype=torch.float64)
        except (TypeError, ValueError):
            raise SceneError(f"{where} is {value!r}; pass a number, an nn.Parameter or a tensor (n,)") from None
    if value.ndim > 1:
        raise SceneError(f"{where} has shape {tuple(value.shape)}; pass a number or one value per particle, (n,)")
    inside, rule = limit
    bad = ~(torch.isfinite(value) & inside(value)).detach().reshape(-1)
    if bad.any():
        index = int(bad.nonzero()[0])
        place = f" of particle {index}" if value.ndim else ""
        raise SceneError(f"{where}{place} is {value.detach().reshape(-1)[index].item():g}{unit}; it {rule}")
    if isinstance(value, nn.Parameter):
        module.register_parameter(name, value)
    else:
        module.register_buffer(name, value)


def lame(E: torch.Tensor, nu: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Lame's mu and lam [Pa] from Young's modulus E [Pa] and Poisson's ratio nu."""
    if E.numel() != nu.numel():  # one of them is given per particle
        E, nu = (value if value.ndim else repeat(value, max(E.numel(), nu.numel())) for value in (E, nu))
    return E / (2 * (1 + nu)), E * nu / ((1 + nu) * (1 - 2 * nu))


def pack(theta: list[torch.Tensor], count: int) -> torch.Tensor:
    """A law's list of scalars and (n,) tensors as (n, parameters), in the precision and on the device in use."""
    columns = [value.to(context.tensor_device, context.dtype) for value in theta]
    whole = [c.reshape(-1) if c.numel() == count else repeat(c.reshape(()), count) for c in columns]
    return torch.stack(whole, dim=1)


def stretch(F: torch.Tensor, q: torch.Tensor | None, internals: int) -> torch.Tensor:
    """q as kernels take it, (n, 1 + internals), F33 first: prepended as 1 in 3-D, and in 2-D when q is empty.

    Raises:
        DataError: q lacks a column.
    """
    one = F.new_ones(len(F), 1)
    if q is None:
        q = F.new_empty(len(F), 0)
    if F.shape[-1] == 3 or q.shape[1] == 0:
        q = torch.cat([one, q], dim=1)
    if q.shape[1] < 1 + internals:
        needed = internals + (F.shape[-1] == 2)
        raise DataError(
            f"q has {q.shape[1] - 1} internal variables besides F33, but the law keeps {internals}; "
            f"pass q of shape ({len(F)}, {needed}), as law.initial(n, d) gives it"
        )
    return q[:, : 1 + internals]


def undeformed(functions, n: int, d: int) -> torch.Tensor:
    """q (n, k) that a return map starts from: in 2-D F33 = 1 first, then its ``start`` values, zero unless given."""
    start = getattr(functions, "start", (0.0,) * functions.internals)
    row = torch.tensor([1.0] * (d == 2) + list(start), dtype=context.dtype, device=context.tensor_device)
    return row.repeat(n, 1)


class Law(nn.Module):
    """Base of analytic laws.

    Attributes:
        functions: class of static ti.funcs (an elastic law's energy and stress, a plastic law's return map, or a
            viscous law's stress). A return map says how many ``internals`` it keeps and may give their ``start``
            values. Elastic functions that are ``stateful`` take q (F33, then the internals of their own map) where
            others take F33.
    """

    functions = None

    def theta(self) -> list[torch.Tensor]:
        """The numbers that ``functions`` takes, scalars or (n,) tensors, differentiable in the parameters."""
        return []

    def initial(self, n: int, d: int) -> torch.Tensor:
        """Internal variables q of n undeformed particles: none, (n, 0)."""
        return torch.empty(n, 0, dtype=context.dtype, device=context.tensor_device)

    def _call(self, F, laws, q):
        if q is None:
            q = self.initial(len(F), F.shape[-1])
        kind = torch.zeros(len(F), dtype=torch.int32, device=F.device)
        return stretch(F, q, laws.internals), pack(self.theta(), len(F)), kind


class Elastic(Law):
    """A law with a stress; ``own_map`` is the return map that belongs to it (a liquid forgets shear), or None."""

    own_map = None

    def modulus(self) -> torch.Tensor:
        """P-wave modulus at rest [Pa], lam + 2 mu: with the density it gives the speed of sound."""
        mu, lam = lame(self.E, self.nu)
        return lam + 2 * mu

    def initial(self, n, d):
        """q (n, k): none, or, where the law's own map keeps internal variables, in 2-D F33 = 1 and then these."""
        if self.own_map is None or not self.own_map.internals:
            return super().initial(n, d)
        return undeformed(self.own_map, n, d)

    def energy(self, F, q=None):
        """Energy density psi (n,) [J/m^3]. F: (n, d, d); q: (n, k), in 2-D F33 first when not empty."""
        laws = combine(((self.functions, self.own_map),))
        q, theta, kind = self._call(F, laws, q)
        return constitutive.energy(laws, F, q, theta, kind)

    def stress(self, F, q=None, L=None):
        """First Piola-Kirchhoff stress P = d psi/dF, (n, d, d) [Pa]. L: velocity gradient (n, d, d) [1/s]."""
        laws = combine(((self.functions, self.own_map),))
        q, theta, kind = self._call(F, laws, q)
        L = torch.zeros_like(F) if L is None else L
        return constitutive.stress(laws, F, q, L, theta, kind)

    def update(self, F_trial, q=None, L=None, dt=0.0):
        """Return map: the identity, or the law's own map; a map without internal variables leaves q as it is."""
        if q is None:
            q = self.initial(len(F_trial), F_trial.shape[-1])
        if self.own_map is None:
            return F_trial, q
        laws = combine(((self.functions, self.own_map),))
        own, theta, kind = self._call(F_trial, laws, q)
        F, own = constitutive.update(laws, F_trial, own, theta, kind)
        if not self.own_map.internals:
            return F, q
        return F, own if F_trial.shape[-1] == 2 else own[:, 1:]


class Isotropic(Elastic):
    """An elastic law with theta = (mu, lam), from Young's modulus E [Pa] > 0 and Poisson's ratio -1 < nu < 0.5."""

    def __init__(self, E, nu):
        super().__init__()
        hold(self, "E", E, POSITIVE, " Pa")
        hold(self, "nu", nu, POISSON)

    def theta(self):
        return list(lame(self.E, self.nu))


class NoStress:
    """Elastic part of a return map or of a viscous law that is evaluated alone."""

    parameters = 0

    @staticmethod
    @ti.func
    def stress(F, e, L, theta):
        return ti.Matrix.zero(float, F.n, F.n)

    @staticmethod
    @ti.func
    def stress_vjp(grad_P, F, e, L, theta):
        zero = ti.Matrix.zero(float, F.n, F.n)
        return zero, e * 0, zero, theta * 0


class Viscous(Law):
    """A law with a stress that depends on the velocity gradient L; a material adds it to the elastic one.

    Its functions are ``stress(F, e, L, theta)`` and ``stress_vjp(grad_P, F, e, L, theta)``, P being the first
    Piola-Kirchhoff stress. In 2-D (plane strain) nothing flows along the third axis: L33 = 0. Each law tells its
    ``viscosity()`` of uniaxial straining [Pa s], 4/3 of that of shear plus the bulk one, which limits dt.
    """

    def stress(self, F, q=None, L=None):
        """First Piola-Kirchhoff stress P (n, d, d) [Pa]. F, L: (n, d, d), L [1/s]; q: (n, k), in 2-D F33 first."""
        laws = combine(((NoStress, None, self.functions),))
        q, theta, kind = self._call(F, laws, q)
        L = torch.zeros_like(F) if L is None else L
        return constitutive.stress(laws, F, q, L, theta, kind)


class Plastic(Law):
    """A law with a return map; its elasticity is another law's. In 2-D q[:, 0] is F33 (plane strain)."""

    def initial(self, n, d):
        """q (n, k): in 2-D F33 = 1 first, then the law's own internal variables, zero unless it says otherwise."""
        return undeformed(self.functions, n, d)

    def update(self, F_trial, q=None, L=None, dt=0.0):
        """Return map: (F, q) of the shapes of F_trial (n, d, d) and q (n, k)."""
        d = F_trial.shape[-1]
        if q is None:
            q = self.initial(len(F_trial), d)
        laws = combine(((NoStress, self.functions),))
        own, theta, kind = self._call(F_trial, laws, q)
        F, own = constitutive.update(laws, F_trial, own, theta, kind)
        return F, own if d == 2 else own[:, 1:]

    def branch(self, F_trial, q=None):
        """0 where the particle stays elastic, 1 where it yields, (n,) int32."""
        if q is None:
            q = self.initial(len(F_trial), F_trial.shape[-1])
        laws = combine(((NoStress, self.functions),))
        own, theta, kind = self._call(F_trial, laws, q)
        return constitutive.branch(laws, F_trial, own, theta, kind)
