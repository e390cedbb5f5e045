"""The laws of a scene as one static object for kernels: ``compose(materials, d)``.

A kernel takes the composed class as ``ti.template()`` and runs, for a particle of item m,

    laws.items[m].stress(F, q, L, theta)    with the particle's full theta and full q.

Classes are cached: Taichi compiles a kernel per template object, so the same combination must be the same object.
"""

from functools import cache

from diffsim.kernels.lang import ti


class Identity:
    """Return map of a material without one: F and q stay."""

    parameters = 0
    internals = 0

    @staticmethod
    @ti.func
    def update(F_trial, q, theta):
        return F_trial, q

    @staticmethod
    @ti.func
    def update_vjp(grad_F_new, grad_q_new, F_trial, q, theta):
        return grad_F_new, grad_q_new, ti.Vector.zero(float, theta.n)

    @staticmethod
    @ti.func
    def branch(F_trial, q, theta):
        return 0


def compose(materials, d: int):
    """The laws of ``materials`` for kernels in dimension ``d``.

    Returns:
        a class ``Laws`` with ``count``, ``parameters`` and ``internals`` (the largest of the items), ``energetic``
        (every item has an energy), ``items``, and ``kinds``: the item index of each material. Materials with the same
        law classes share an item. The theta of an item is the elastic law's parameters, the map's, the viscous law's.
        A part that is a torch module without ti.funcs appears as a prescribed stress or as an identity map: the model
        evaluates it in torch.
    """
    return combine(tuple(material.functions(d) for material in materials))


def combine(parts: tuple):
    """The same from one (elastic functions, return map or None, viscous functions or None) per material.

    Parts at the end may be left out.
    """
    return combined(tuple(part + (None,) * (3 - len(part)) for part in parts))


@cache
def combined(parts: tuple):
    distinct = tuple(dict.fromkeys(parts))

    class Laws:
        count = len(distinct)
        items = tuple(item(*part) for part in distinct)
        kinds = tuple(distinct.index(part) for part in parts)
        parameters = max(it.parameters for it in items)
        internals = max(it.internals for it in items)
        energetic = all(it.energetic for it in items)

    return Laws


@cache
def item(elastic, plastic, viscous):
    """An elastic law, a return map and a viscous law, reading and returning theta and q of the full length.

    An elastic law sees of q only e = F33, unless it is ``stateful``: then it sees q[0] = F33 and the internal variables
    of the return map behind it, and returns the gradient of them all.
    """
    plastic = plastic or Identity
    first = elastic.parameters
    last = first + plastic.parameters
    end = last + (viscous.parameters if viscous is not None else 0)
    width = 1 + plastic.internals
    stateful = getattr(elastic, "stateful", False)
    flows = viscous is not None

    class Item:
        """theta: first .. last is the map's part, last .. end the viscous law's. A part is one number at least."""

        parameters = max(1, end)
        internals = plastic.internals
        energetic = hasattr(elastic, "energy")

        @staticmethod
        @ti.func
        def energy(F, q, theta):
            return elastic.energy(F, Item.seen(q), Item.elastic_part(theta))

        @staticmethod
        @ti.func
        def energy_vjp(grad_psi, F, q, theta):
            grad_F, grad_seen, part = elastic.energy_vjp(grad_psi, F, Item.seen(q), Item.elastic_part(theta))
            grad_theta = ti.Vector.zero(float, theta.n)
            for i in ti.static(range(first)):
                grad_theta[i] = part[i]
            return grad_F, Item.unseen(grad_seen, q), grad_theta

        @staticmethod
        @ti.func
        def stress(F, q, L, theta):
            P = elastic.stress(F, Item.seen(q), L, Item.elastic_part(theta))
            if ti.static(flows):
                P += viscous.stress(F, q[0], L, Item.viscous_part(theta))
            return P

        @staticmethod
        @ti.func
        def stress_vjp(grad_P, F, q, L, theta):
            grad_F, grad_seen, grad_L, part = elastic.stress_vjp(grad_P, F, Item.seen(q), L, Item.elastic_part(theta))
            grad_q = Item.unseen(grad_seen, q)
            grad_theta = ti.Vector.zero(float, theta.n)
            for i in ti.static(range(first)):
                grad_theta[i] = part[i]
            if ti.static(flows):
                more_F, more_e, more_L, own = viscous.stress_vjp(grad_P, F, q[0], L, Item.viscous_part(theta))
                grad_F += more_F
                grad_q[0] += more_e
                grad_L += more_L
                for i in ti.static(range(end - last)):
                    grad_theta[last + i] = own[i]
            return grad_F, grad_q, grad_L, grad_theta

        @staticmethod
        @ti.func
        def update(F_trial, q, theta):
            F, part = plastic.update(F_trial, Item.own(q), Item.plastic_part(theta))
            q_new = q
            for i in ti.static(range(width)):
                q_new[i] = part[i]
            return F, q_new

        @staticmethod
        @ti.func
        def update_vjp(grad_F_new, grad_q_new, F_trial, q, theta):
            grad_F, own, part = plastic.update_vjp(
                grad_F_new, Item.own(grad_q_new), F_trial, Item.own(q), Item.plastic_part(theta)
            )
            grad_q = grad_q_new  # internal variables of other materials' maps pass through
            for i in ti.static(range(width)):
                grad_q[i] = own[i]
            grad_theta = ti.Vector.zero(float, theta.n)
            for i in ti.static(range(last - first)):
                grad_theta[first + i] = part[i]
            return grad_F, grad_q, grad_theta

        @staticmethod
        @ti.func
        def branch(F_trial, q, theta):
            return plastic.branch(F_trial, Item.own(q), Item.plastic_part(theta))

        @staticmethod
        @ti.func
        def elastic_part(theta):
            return ti.Vector([theta[i] for i in ti.static(range(max(1, first)))])

        @staticmethod
        @ti.func
        def plastic_part(theta):
            return ti.Vector([theta[i] for i in ti.static(range(first, last) if last > first else range(1))])

        @staticmethod
        @ti.func
        def viscous_part(theta):
            return ti.Vector([theta[i] for i in ti.static(range(last, end) if end > last else range(1))])

        @staticmethod
        @ti.func
        def own(q):
            return ti.Vector([q[i] for i in ti.static(range(width))])

        @staticmethod
        @ti.func
        def seen(q):
            if ti.static(stateful):
                return Item.own(q)
            else:
                return q[0]

        @staticmethod
        @ti.func
        def unseen(grad_seen, q):
            """Transpose of ``seen``: the gradient in q of the full length."""
            grad_q = ti.Vector.zero(float, q.n)
            if ti.static(stateful):
                for i in ti.static(range(width)):
                    grad_q[i] = grad_seen[i]
            else:
                grad_q[0] = grad_seen
            return grad_q

    return Item
