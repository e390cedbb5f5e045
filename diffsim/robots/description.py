"""A URDF file as a list of joints from the root to the leaves, checked."""

import logging
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from diffsim.errors import DataError, SceneError

TYPES = ("fixed", "revolute", "continuous", "prismatic")
SHIPPED = Path(__file__).parent


@dataclass(frozen=True)
class Joint:
    """One joint; in the frame of its parent link it is at ``position`` with ``quaternion``, then moves along ``axis``.

    Attributes:
        source: index of the independent joint that moves it, -1 for a fixed one.
        multiplier, offset: its own value is multiplier * value of the source + offset; a mimic joint has others than 1
            and 0.
        lower, upper: limits of its own value [rad, m], infinite for a continuous joint.
        velocity: limit [rad/s, m/s].
    """

    name: str
    type: str
    parent: int
    position: tuple[float, float, float]
    quaternion: tuple[float, float, float, float]
    axis: tuple[float, float, float]
    lower: float
    upper: float
    velocity: float
    source: int = -1
    multiplier: float = 1.0
    offset: float = 0.0


@dataclass(frozen=True)
class Description:
    """Links, the root first; joint k leads to link k + 1. ``independent`` are the joints that are moved."""

    name: str
    links: list[str]
    joints: list[Joint]
    independent: list[int]


def read_urdf(urdf: str | Path) -> Description:
    """Read a URDF file; links of any shape, joints that are fixed, revolute, continuous, prismatic, or mimic others.

    Args:
        urdf: a file, or the name of a shipped one.

    Raises:
        DataError: a file that is missing or no URDF, a joint with a missing link, a loop, an unknown type, no limits.
        SceneError: the extra is not installed.
    """
    path = Path(urdf)
    if not path.is_file() and (SHIPPED / f"{urdf}.urdf").is_file():
        path = SHIPPED / f"{urdf}.urdf"
    if not path.is_file():
        shipped = ", ".join(sorted(file.stem for file in SHIPPED.glob("*.urdf")))
        raise DataError(f"URDF {urdf} does not exist; check the path, or name a shipped one: {shipped}")
    found = _parsed(path)
    children = _tree(path, found)
    numbers = {name: k for k, name in enumerate(children)}
    own = [_joint(path, joint, numbers[joint.parent]) for joint in children.values() if joint is not None]
    places = {joint.name: k for k, joint in enumerate(own)}
    raw = {joint.name: joint for joint in found.joints}
    independent = [k for k, joint in enumerate(own) if joint.type != "fixed" and raw[joint.name].mimic is None]
    joints = [_moved(path, joint, raw, places, independent) for joint in own]
    return Description(found.name, list(children), joints, independent)


def _parsed(path: Path):
    try:
        import yourdfpy
    except ImportError as error:
        raise SceneError("robots need an extra; run: pip install 'diffsim[robots]'") from error
    logger = logging.getLogger("yourdfpy")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # what it reports is raised below
    try:
        return yourdfpy.URDF.load(str(path), load_meshes=False, build_scene_graph=False).robot
    except Exception as error:  # it documents none of what a broken file makes it raise
        text = str(error).strip().partition("\n")[0]
        raise DataError(f"{path} is no URDF that can be read ({type(error).__name__}: {text}); correct it") from error
    finally:
        logger.setLevel(level)


def _tree(path: Path, found) -> dict:
    """Links in the order of a walk from the root, each with the joint that leads to it."""
    links = [link.name for link in found.links]
    if not links:
        raise DataError(f"{path} has no link; give a URDF with at least one")
    leading = {}
    for joint in found.joints:
        for link in (joint.parent, joint.child):
            if link not in links:
                raise DataError(f"{path}: joint {joint.name!r} names link {link!r}, which is missing; add it")
        if joint.child in leading:
            other = leading[joint.child].name
            raise DataError(
                f"{path}: link {joint.child!r} is the child of joints {other!r} and {joint.name!r}, a loop; a URDF "
                "describes a tree, so remove one"
            )
        leading[joint.child] = joint
    roots = [link for link in links if link not in leading]
    if len(roots) != 1:
        what = "no root link: its joints form a loop" if not roots else f"several root links: {', '.join(roots)}"
        raise DataError(f"{path} has {what}; connect all links in one tree")
    order, waiting = {}, [roots[0]]
    while waiting:
        link = waiting.pop(0)
        order[link] = leading.get(link)
        waiting += [joint.child for joint in found.joints if joint.parent == link]
    if len(order) < len(links):
        beside = next(link for link in links if link not in order)
        raise DataError(f"{path}: link {beside!r} is part of a loop beside the tree of {roots[0]!r}; connect it")
    return order


def _joint(path: Path, joint, parent: int) -> Joint:
    if joint.type not in TYPES:
        raise DataError(f"{path}: joint {joint.name!r} is {joint.type!r}; known are {', '.join(TYPES)}")
    origin = np.eye(4) if joint.origin is None else joint.origin
    axis = np.asarray(joint.axis, dtype=float)
    length = np.linalg.norm(axis)
    if joint.type != "fixed" and not (math.isfinite(length) and length > 0):
        raise DataError(f"{path}: joint {joint.name!r} has the axis {axis.tolist()}; give a direction")
    lower, upper, velocity = -math.inf, math.inf, math.inf
    if joint.type in ("revolute", "prismatic"):
        limit = joint.limit
        missing = (
            ["limit"] if limit is None else [n for n in ("lower", "upper", "velocity") if getattr(limit, n) is None]
        )
        if missing:
            raise DataError(
                f"{path}: joint {joint.name!r} ({joint.type}) has no {', '.join(missing)}; add <limit lower= upper= "
                "velocity=>, or make it continuous"
            )
        lower, upper, velocity = limit.lower, limit.upper, limit.velocity
    elif joint.type == "continuous" and joint.limit is not None and joint.limit.velocity:
        velocity = joint.limit.velocity
    if not (lower <= upper and velocity > 0):
        raise DataError(
            f"{path}: joint {joint.name!r} has the limits {lower} .. {upper} and velocity {velocity}; correct them"
        )
    x, y, z, w = Rotation.from_matrix(origin[:3, :3]).as_quat()
    place = tuple(map(float, origin[:3, 3]))
    direction = tuple((axis / length).tolist()) if length > 0 else (1.0, 0.0, 0.0)
    return Joint(joint.name, joint.type, parent, place, (w, x, y, z), direction, lower, upper, velocity)


def _moved(path: Path, joint: Joint, raw: dict, places: dict, independent: list[int]) -> Joint:
    """The joint with what moves it: itself, or through any number of mimic joints another one."""
    if joint.type == "fixed":
        return joint
    multiplier, offset, name, seen = 1.0, 0.0, joint.name, []
    while raw[name].mimic is not None:
        mimic = raw[name].mimic
        seen.append(name)
        if mimic.joint not in places or mimic.joint in seen or raw[mimic.joint].type == "fixed":
            raise DataError(f"{path}: joint {name!r} mimics {mimic.joint!r}, which is no joint that moves; correct it")
        factor = 1.0 if mimic.multiplier is None else mimic.multiplier
        offset += multiplier * (mimic.offset or 0.0)
        multiplier, name = multiplier * factor, mimic.joint
    source = independent.index(places[name])
    return Joint(**{**joint.__dict__, "source": source, "multiplier": multiplier, "offset": offset})
