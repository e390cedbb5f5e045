"""Which branches a contact term takes: the pairs in contact, and which of them slide.

The barrier is smooth as long as the same pairs are in contact with the same nearest parts (``testing`` compares only
evaluations with equal hashes).
"""

import zlib

import numpy as np


def contact_record(mesh, V, pairs, friction, slip_length: float, own: int) -> tuple[int, int, int, int]:
    """Hash of the active pairs, and numbers of the body's vertices in contact, sliding, and sticking.

    Args:
        mesh: collision mesh. V: its vertices. pairs: normal collisions.
        friction: (potential, tangential collisions, displacements, V at the step's start) or None.
        slip_length: a pair slides whose relative displacement is longer [m]. own: vertices below are the body's.
    """
    edges, faces = mesh.edges, mesh.faces
    touching, sliding, sticking, keys = set(), set(), set(), []
    for kind, items in _groups(pairs):
        for item in items:
            ids = _corners(item, edges, faces)
            key = (kind, *ids)
            if kind == "ee":  # nearly parallel edges are mollified, and their nearest parts change without a new pair
                key += (str(item.dtype), bool(item.mollifier(_stacked(V, ids)) < 1))
            keys.append(key)
            touching.update(ids)
    if friction is not None:
        _, tangential, slip, _ = friction
        for kind, items in _groups(tangential):
            for item in items:
                ids = _corners(item, edges, faces)
                relative = np.asarray(item.relative_velocity(_stacked(slip, ids)))
                slides = bool(np.linalg.norm(item.tangent_basis.T @ relative) >= slip_length)
                keys.append((kind, "friction", *ids, slides))
                (sliding if slides else sticking).update(ids)
    count = lambda nodes: sum(1 for node in nodes if node < own)  # noqa: E731
    return fingerprint(keys), count(touching), count(sliding), count(sticking - sliding)


def fingerprint(keys) -> int:
    """A number of a set of tuples, the same in every process."""
    return zlib.crc32(repr(sorted(map(repr, keys))).encode())


def _groups(collisions):
    groups = [("vv", collisions.vv_collisions), ("ev", collisions.ev_collisions)]
    return [*groups, ("ee", collisions.ee_collisions), ("fv", collisions.fv_collisions)]


def _corners(item, edges, faces):
    return [int(v) for v in item.vertex_ids(edges, faces)[: item.num_vertices()]]


def _stacked(values, ids):
    return np.ascontiguousarray(values[ids]).reshape(-1)
