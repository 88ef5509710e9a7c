"""Geometries whose diffusion signals need no mesh: slabs, cylinders and spheres."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from mrsim._check import check_floats
from mrsim.torrey._plausible import check_edges
from mrsim.torrey.water import Water
from mrsim.tree import record, static


@record
class Slab:
    """Parallel layers between planes; diffusion along the planes is free."""

    edges: Tensor  # (layer + 1,) ascending positions of the planes [mm]
    normal: Tensor | None = None  # (3,) unit vector; None: x
    degree: int = static(14)  # of the polynomials in each layer


@record
class Cylinder:
    """Coaxial layers of an endless cylinder; diffusion along the axis is free."""

    radius: Tensor  # () or (layer,) ascending outer radii [mm]
    axis: Tensor | None = None  # (3,) unit vector; None: z
    degree: int = static(14)  # of the polynomials in each layer


@record
class Sphere:
    """Concentric layers of a sphere."""

    radius: Tensor  # () or (layer,) ascending outer radii [mm]
    degree: int = static(14)  # of the polynomials in each layer


Shape = Slab | Cylinder | Sphere


class Layers(NamedTuple):
    """A geometry and its water in double precision, with every axis in full."""

    edges: Tensor  # (layer + 1,) [mm]; from 0 in a cylinder and a sphere
    D: Tensor  # (layer,) [mm²/s]
    R2: Tensor  # (layer,) [1/s]
    rho: Tensor  # (layer,)
    kappa: Tensor  # (layer - 1,) [mm/s]
    relaxivity: Tensor  # (2,) at the first and the last edge [mm/s]


def dimension(shape: Shape) -> int:
    """Return how many dimensions restrict: 1 in a slab, 2 in a cylinder, 3."""
    return {Slab: 1, Cylinder: 2, Sphere: 3}[type(shape)]


def layers(where: str, shape: Shape, water: Water) -> Layers:
    """Check a geometry with its water and give every field its full axis.

    Args:
        where: the function that asks, for messages.
        shape: the geometry.
        water: of its layers, from the first edge or the centre on.

    Returns:
        Both in double precision.

    Raises:
        TypeError: ``shape`` is no geometry.
        ValueError: a field's shape does not fit.
    """
    if not isinstance(shape, Shape):
        raise TypeError(
            f"{where}: the geometry must be Slab, Cylinder or Sphere, got"
            f" {type(shape).__name__}; the order is geometry, water, encoding"
        )
    given = {n: v for n, v in vars(shape).items() if isinstance(v, Tensor)}
    check_floats(where, **given, **vars(water))
    edges = _edges(where, shape)
    check_edges(where, edges)
    count = len(edges) - 1
    one = torch.ones(count, dtype=edges.dtype, device=edges.device)

    def full(name: str, size: int, absent: float) -> Tensor:
        value = getattr(water, name)
        if value is None:
            return torch.full_like(one[:1], absent).expand(size)
        if value.ndim > 1 or (value.ndim and len(value) != size):
            raise ValueError(
                f"{where}: Water.{name} of {count} layers must have shape ({size},) or"
                f" be scalar, got {tuple(value.shape)}; map over a batch with vmap, and"
                f" use a mesh for diffusion tensors"
            )
        return value.to(edges.dtype).expand(size)

    absorbing = water.relaxivity is not None
    sides = full("relaxivity", 2 if isinstance(shape, Slab) else 1, 0.0)
    if not isinstance(shape, Slab):
        sides = torch.cat([0 * sides, sides])
    return Layers(
        edges=edges,
        D=full("D", count, 0.0),
        R2=1 / full("T2", count, torch.inf),
        rho=full("rho", count, 1.0),
        kappa=full("kappa", count - 1, 0.0),
        relaxivity=sides if absorbing else 0 * one[:1].expand(2),
    )


def _edges(where: str, shape: Any) -> Tensor:
    """Return the planes or radii, from 0 on, in double precision."""
    if isinstance(shape, Slab):
        if shape.edges.ndim != 1 or len(shape.edges) < 2:
            raise ValueError(
                f"{where}: Slab.edges must have shape (layer + 1,), got"
                f" {tuple(shape.edges.shape)}; map over slabs with vmap"
            )
        return shape.edges.double()
    radius = shape.radius.double()
    if radius.ndim > 1:
        raise ValueError(
            f"{where}: radius must have shape (layer,) or be scalar, got"
            f" {tuple(radius.shape)}; map over geometries with vmap"
        )
    radius = radius.reshape(-1)
    return torch.cat([torch.zeros_like(radius[:1]), radius])


def axis(shape: Shape) -> Tensor:
    """Return the unit vector of a slab's normal or a cylinder's axis (3,)."""
    vector = shape.normal if isinstance(shape, Slab) else getattr(shape, "axis", None)
    if vector is not None:
        return vector.double()
    like = shape.edges if isinstance(shape, Slab) else shape.radius
    one = 0 if isinstance(shape, Slab) else 2
    return torch.eye(3, dtype=torch.float64, device=like.device)[one]
