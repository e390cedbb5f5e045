"""Meshes of solids: blocks, faces, quadratic elements, files, and what is refused."""

import meshio
import numpy as np
import pytest

from diffsim.errors import MeshError
from diffsim.geometry.solid import EDGES, SolidMesh, as_solid, block


def volumes(mesh):
    corners = mesh.nodes[mesh.elements[:, : mesh.dim + 1]]
    return np.linalg.det(corners[:, 1:] - corners[:, :1]) / (2 if mesh.dim == 2 else 6)


@pytest.mark.parametrize("cells", [(3, 2), (2, 3, 2)])
@pytest.mark.parametrize("quadratic", [False, True])
def test_a_block_is_filled_and_its_surface_closed(cells, quadratic):
    size = (1.0, 0.5, 2.0)[: len(cells)]
    mesh = block(cells, size, origin=(1.0,) * len(cells), quadratic=quadratic)
    assert (volumes(mesh) > 0).all() and volumes(mesh).sum() == pytest.approx(np.prod(size))
    assert mesh.nodes.min() == 1.0 and mesh.extent == max(size)
    faces, d = mesh.surface(), mesh.dim
    a, b, *rest = (mesh.nodes[faces[:, k]] for k in range(d))
    normals = np.stack([b - a]) if d == 2 else None
    outward = np.stack([normals[0][:, 1], -normals[0][:, 0]], 1) if d == 2 else np.cross(b - a, rest[0] - a) / 2
    assert np.abs(outward.sum(0)).max() < 1e-14
    middle = mesh.nodes[faces[:, :d]].mean(1) - 1.0 - np.array(size) / 2
    assert ((middle * outward).sum(1) > 0).all()
    assert np.linalg.norm(outward, axis=1).sum() == pytest.approx(3.0 if d == 2 else 2 * (0.5 + 2.0 + 1.0))


@pytest.mark.parametrize("cells", [(3, 2), (2, 1, 2)])
def test_midpoints_lie_in_the_middle_of_edges_also_of_faces_and_turned_elements(cells):
    mesh = block(cells, (1.0, 2.0, 0.5)[: len(cells)], quadratic=True)
    d, order = mesh.dim, [1, 0, 2, 3][: mesh.dim + 1]
    turned = mesh.elements[:, order + [order[-1]] * 0]
    turned = np.concatenate([turned, SolidMesh(mesh.nodes, mesh.elements).elements[:, d + 1 :]], 1)
    for elements in (mesh.elements, turned):
        again = SolidMesh(mesh.nodes, elements) if elements is mesh.elements else None
        if again is None:  # a mesh given inside out, with its midpoints where its own corners want them
            pairs = [frozenset(edge) for edge in EDGES[d]]
            own = [pairs.index(frozenset(order[c] for c in edge)) + d + 1 for edge in EDGES[d]]
            again = SolidMesh(mesh.nodes, np.concatenate([turned[:, : d + 1], mesh.elements[:, own]], 1))
        assert (volumes(again) > 0).all()
        for k, (a, b) in enumerate(EDGES[d]):
            ends = again.nodes[again.elements[:, [a, b]]].mean(1)
            np.testing.assert_allclose(again.nodes[again.elements[:, d + 1 + k]], ends, atol=1e-14)
    faces = mesh.surface()
    local = [(0, 1)] if d == 2 else [(0, 1), (1, 2), (2, 0)]
    for k, (a, b) in enumerate(local):
        np.testing.assert_allclose(mesh.nodes[faces[:, d + k]], mesh.nodes[faces[:, [a, b]]].mean(1), atol=1e-14)


def test_a_file_of_tetrahedra_is_read_and_loose_nodes_are_left_out(tmp_path):
    mesh = block((2, 1, 1), (1.0, 1.0, 1.0))
    points = np.concatenate([[[9.0, 9.0, 9.0]], mesh.nodes])
    meshio.Mesh(points, [("tetra", mesh.elements + 1)]).write(tmp_path / "a.vtk")
    found = as_solid(str(tmp_path / "a.vtk"))
    np.testing.assert_allclose(found.nodes, mesh.nodes)
    assert (found.elements == mesh.elements).all()


TRIANGLE = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
BAD = {
    "shapes": (TRIANGLE, [[0, 1]], "give"),
    "missing node": (TRIANGLE, [[0, 1, 3]], "element 0 names a node"),
    "flat": (np.array([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0], [0.0, 1.0]]), [[0, 1, 3], [0, 1, 2]], "element 1 has no"),
    "loose": (np.concatenate([TRIANGLE, [[5.0, 5.0]]]), [[0, 1, 2]], "node 3 is in no element"),
    "twice": (TRIANGLE, [[0, 1, 2], [2, 0, 1]], "element 0 is given twice"),
    "midpoints in another order": (
        np.concatenate([TRIANGLE, [[0.5, 0.5], [0.5, 0.0], [0.0, 0.5]]]),
        [[0, 1, 2, 3, 4, 5]],
        "element 0: node 3 is not near the middle of the edge between nodes 0 and 1",
    ),
    "not finite": (np.array([[0.0, np.nan], [1.0, 0.0], [0.0, 1.0]]), [[0, 1, 2]], "node 0"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_broken_mesh_is_refused_in_one_line_that_names_the_place(name):
    nodes, elements, word = BAD[name]
    with pytest.raises(MeshError, match=word) as refusal:
        SolidMesh(nodes, np.array(elements))
    assert "\n" not in str(refusal.value)


def test_files_that_are_no_solids_are_refused(tmp_path):
    with pytest.raises(MeshError, match="does not exist"):
        as_solid("nowhere.msh")
    (tmp_path / "b.vtk").write_text("nonsense")
    with pytest.raises(MeshError, match="cannot be read"):
        as_solid(str(tmp_path / "b.vtk"))
    points = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.3]])
    with pytest.raises(MeshError, match="not a solid"):
        as_solid(meshio.Mesh(points, [("triangle", np.array([[0, 1, 2]]))]))


def test_tetrahedra_with_midpoints_in_another_order_are_refused():
    mesh = block((1, 1, 1), (1.0, 1.0, 1.0), quadratic=True)
    swapped = mesh.elements[:, [0, 1, 2, 3, 4, 5, 6, 7, 9, 8]]  # as Gmsh numbers them
    with pytest.raises(MeshError, match="element 0: node .* is not near the middle"):
        SolidMesh(mesh.nodes, swapped)


def test_a_file_with_several_kinds_of_solid_cells_is_refused(tmp_path):
    mesh = block((1, 1, 1), (1.0, 1.0, 1.0))
    points = np.concatenate([mesh.nodes, mesh.nodes + [1.0, 0.0, 0.0]])
    hexahedron = np.array([[8, 12, 14, 10, 9, 13, 15, 11]])
    surface = ("triangle", mesh.surface())  # boundary faces beside tetrahedra are usual
    meshio.Mesh(points, [("tetra", mesh.elements), surface, ("hexahedron", hexahedron)]).write(tmp_path / "a.vtk")
    with pytest.raises(MeshError, match="holds tetra and hexahedron cells") as refusal:
        as_solid(str(tmp_path / "a.vtk"))
    assert "\n" not in str(refusal.value)
    meshio.Mesh(mesh.nodes, [("tetra", mesh.elements), surface]).write(tmp_path / "b.vtk")
    assert len(as_solid(str(tmp_path / "b.vtk")).elements) == 6


@pytest.mark.parametrize("size", [30.0 * 25.4, 2e-5])
def test_sizes_that_suggest_other_units_are_warned_of(size):
    with pytest.warns(UserWarning, match="lengths are in meters"):
        block((1, 1), (size, size))


def test_a_block_with_sizes_that_do_not_fit_is_refused():
    with pytest.raises(MeshError, match="two or three of each"):
        block((1, 1), (1.0, 1.0), (0.0, 0.0, 0.0))
