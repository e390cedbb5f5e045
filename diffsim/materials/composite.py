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
        law classes share an item. The theta of an item is the elastic law's parameters followed by the map's.
        A part that is a torch module without ti.funcs appears as a prescribed stress or as an identity map: the model
        evaluates it in torch.
    """
    return combine(tuple(material.functions(d) for material in materials))


@cache
def combine(pairs: tuple):
    """The same from one (elastic functions, return map or None) per material."""
    distinct = tuple(dict.fromkeys(pairs))

    class Laws:
        count = len(distinct)
        items = tuple(item(elastic, plastic) for elastic, plastic in distinct)
        kinds = tuple(distinct.index(pair) for pair in pairs)
        parameters = max(it.parameters for it in items)
        internals = max(it.internals for it in items)
        energetic = all(it.energetic for it in items)

    return Laws


@cache
def item(elastic, plastic):
    """One elastic law and one return map, reading and returning theta and q of the full length."""
    plastic = plastic or Identity
    first = elastic.parameters
    last = first + plastic.parameters
    width = 1 + plastic.internals

    class Item:
        """theta: first .. last is the map's part. A part without parameters is handed one unused number."""

        parameters = max(1, last)
        internals = plastic.internals
        energetic = hasattr(elastic, "energy")

        @staticmethod
        @ti.func
        def energy(F, q, theta):
            return elastic.energy(F, q[0], Item.elastic_part(theta))

        @staticmethod
        @ti.func
        def energy_vjp(grad_psi, F, q, theta):
            grad_F, grad_e, part = elastic.energy_vjp(grad_psi, F, q[0], Item.elastic_part(theta))
            grad_q = ti.Vector.zero(float, q.n)
            grad_q[0] = grad_e
            grad_theta = ti.Vector.zero(float, theta.n)
            for i in ti.static(range(first)):
                grad_theta[i] = part[i]
            return grad_F, grad_q, grad_theta

        @staticmethod
        @ti.func
        def stress(F, q, L, theta):
            return elastic.stress(F, q[0], L, Item.elastic_part(theta))

        @staticmethod
        @ti.func
        def stress_vjp(grad_P, F, q, L, theta):
            grad_F, grad_e, grad_L, part = elastic.stress_vjp(grad_P, F, q[0], L, Item.elastic_part(theta))
            grad_q = ti.Vector.zero(float, q.n)
            grad_q[0] = grad_e
            grad_theta = ti.Vector.zero(float, theta.n)
            for i in ti.static(range(first)):
                grad_theta[i] = part[i]
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
        def own(q):
            return ti.Vector([q[i] for i in ti.static(range(width))])

    return Item
