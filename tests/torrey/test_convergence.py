"""P1 meshes converge at second order to slabs, cylinders and spheres."""

from typing import Any

import pytest
import torch

from mrsim import torrey

X = torrey.PGSE(q=1.2e5, direction=[1.0, 0, 0], delta=5e-3, Delta=15e-3)
ONE = torrey.Water(D=torch.tensor([2e-3]), T2=torch.tensor([0.05]))
TWO = torrey.Water(
    D=torch.tensor([2e-3, 1e-3]),
    T2=torch.tensor([0.04, 0.08]),
    kappa=torch.tensor([0.05]),
)


def meshed(kind: str, size: float) -> tuple[Any, Any, torrey.Water]:
    """Return a geometry, its mesh and its water."""
    if kind == "slab":
        edges = [-4e-3, 0.0, 3e-3]
        return torrey.Slab(edges=edges), torrey.mesh_slab(edges, size=size), TWO
    if kind == "cylinder":
        mesh = torrey.mesh_cylinder(4e-3, length=size, size=size)
        return torrey.Cylinder(radius=4e-3), mesh, ONE
    if kind == "sphere":
        return torrey.Sphere(radius=4e-3), torrey.mesh_sphere(4e-3, size=size), ONE
    radii = [2.5e-3, 4e-3]
    return torrey.Sphere(radius=radii), torrey.mesh_sphere(radii, size=size), TWO


@pytest.mark.parametrize(
    ("kind", "sizes", "order"),
    [
        ("slab", (0.5e-3, 0.25e-3), 1.8),
        ("cylinder", (1e-3, 0.5e-3), 1.6),
        ("sphere", (2e-3, 1e-3), 1.5),
        ("two-layer sphere", (2e-3, 1e-3), 1.5),
    ],
)
def test_second_order(kind: str, sizes: tuple[float, ...], order: float) -> None:
    errors = []
    for size in sizes:
        shape, (nodes, topology), water = meshed(kind, size)
        exact = torrey.analytic(shape, water, X)
        errors.append(abs(torrey.simulate(nodes, topology, water, X) - exact))
    rate = (errors[0] / errors[1]).log() / torch.tensor(sizes[0] / sizes[1]).log()
    assert rate >= order, errors
    assert errors[1] <= 0.02
