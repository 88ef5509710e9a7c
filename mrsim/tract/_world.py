"""The driver's view: a flat batch of streamlines, each with its row of every input."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mrsim.tract.field import inside, nearest, sample, trilinear, voxels
from mrsim.tract.rules import Rule


class Plan(NamedTuple):
    """What is static: the rule, tckgen's criteria, and how to run."""

    rule: Rule
    order: int  # 1 or 4
    both: bool
    stop: bool
    least: int
    most: int
    regions: tuple[tuple[str, tuple[int, int, int]], ...]  # name, image grid
    lanes: int
    compiled: bool
    rank: int = 0  # batch axes in front of every leaf

    @property
    def capacity(self) -> int:
        """Return the most vertices that a track can have."""
        return self.most + self.both


class Leaf(NamedTuple):
    """The distinct values of an input and which of them each streamline has."""

    values: Tensor  # (n, ...)
    index: Tensor | None  # (S,) ; None: one for all


class World(NamedTuple):
    """All inputs of a flat batch of S streamlines; lanes take columns of them."""

    seed: Tensor  # (3, S)
    direction: Tensor  # (3, S)
    values: Tensor  # (n V, N) image rows of all fields
    support: Tensor  # (n V,) whether a voxel holds anything
    first: Tensor | None  # (S,) row at which the streamline's image starts
    inverse: Tensor  # (3, 4, S or 1)
    step: Tensor  # (S or 1,)
    model: Tensor  # (7, N, S or 1)
    regions: dict[str, "Zone"]


class Zone(NamedTuple):
    """Regions of one purpose."""

    shape: tuple[int, int, int]
    images: Tensor  # (regions, n V) bool
    first: Tensor | None
    inverse: Tensor  # (3, 4, S or 1)
    spheres: Tensor  # (4, spheres, S or 1): centre and radius


def spread(leaf: Tensor, rank: int, batch: Sequence[int]) -> Leaf:
    """Split a leaf with leading batch axes into distinct values and an index."""
    lead = leaf.shape[:rank]
    values = leaf.reshape(math.prod(lead), *leaf.shape[rank:])
    if len(values) == 1:
        return Leaf(values, None)
    index = torch.arange(len(values), device=leaf.device).reshape(lead)
    return Leaf(values, index.expand(batch).reshape(-1))


def column(leaf: Leaf) -> Tensor:
    """Return a small leaf with one column for each streamline, or for all."""
    values = leaf.values if leaf.index is None else leaf.values[leaf.index]
    return values.movedim(0, -1)


def batch_of(leaves: Sequence[Tensor], rank: int) -> tuple[int, ...]:
    """Return the batch axes that leaves share."""
    return tuple(torch.broadcast_shapes(*(x.shape[:rank] for x in leaves)))


def world(plan: Plan, leaves: Sequence[Tensor]) -> World:
    """Arrange seed, direction, values, inverse, step, model and regions."""
    batch = batch_of(leaves, plan.rank)
    split = [spread(x, plan.rank, batch) for x in leaves]
    seed, direction, values, inverse, step, model = split[:6]
    count = math.prod(batch)
    wide = [column(x).expand(3, count).contiguous() for x in (seed, direction)]
    rows = values.values.flatten(0, 1)
    zones = {}
    for k, (name, shape) in enumerate(plan.regions):
        images, turn, spheres = split[6 + 3 * k : 9 + 3 * k]
        flat = images.values.transpose(0, 1).flatten(1) > 0.5
        first = starts(images, images.values.shape[-1])
        zones[name] = Zone(shape, flat, first, column(turn), column(spheres))
    return World(
        wide[0],
        wide[1],
        rows,
        (rows != 0).any(1),
        starts(values, values.values.shape[1]),
        column(inverse),
        column(step),
        column(model),
        zones,
    )


def starts(leaf: Leaf, size: int) -> Tensor | None:
    """Return for each streamline the row at which its image of so many rows starts."""
    return None if leaf.index is None else leaf.index * size


def chosen(w: World, ids: Tensor) -> World:
    """Return what some streamlines have; images stay shared."""
    zones = {
        name: z._replace(
            first=None if z.first is None else z.first[ids],
            inverse=columns(z.inverse, ids),
            spheres=columns(z.spheres, ids),
        )
        for name, z in w.regions.items()
    }
    return World(
        w.seed[:, ids],
        w.direction[:, ids],
        w.values,
        w.support,
        None if w.first is None else w.first[ids],
        columns(w.inverse, ids),
        columns(w.step, ids),
        columns(w.model, ids),
        zones,
    )


def columns(x: Tensor, ids: Tensor) -> Tensor:
    """Return the columns of some streamlines, or the one that all share."""
    return x if x.shape[-1] == 1 else x[..., ids]


def numbers(rule: Rule, w: World, p: Tensor) -> tuple[Tensor, Tensor]:
    """Return the image's numbers (N, B) at points, and where there are none."""
    v = voxels(w.inverse, p)
    near = nearest(v, rule.shape)
    start = 0 if w.first is None else w.first
    if rule.kind == "vectors":
        c = w.values[near + start].t()
    else:
        corners = trilinear(v, rule.shape, slopes=False)
        corners = corners._replace(rows=corners.rows + start)
        c = sample(w.values, corners, corners.weights).contiguous()
    empty = ~inside(v, rule.shape) | ~w.support[near + start] | c[0].isnan()
    return c, empty


def visits(z: Zone, p: Tensor) -> Tensor:
    """Tell which regions (R, B) hold points."""
    v = voxels(z.inverse, p)
    row = nearest(v, z.shape) + (0 if z.first is None else z.first)
    images = z.images[:, row] & inside(v, z.shape)
    away = p[:, None] - z.spheres[:3]
    return torch.cat([images, (away * away).sum(0) <= z.spheres[3] ** 2])


def folded(leaves: Sequence[Tensor], dims: Sequence[int | None]) -> list[Tensor]:
    """Put a vmap's axis in front of every leaf, of length one where not mapped."""
    pairs = zip(leaves, dims, strict=True)
    return [x.unsqueeze(0) if d is None else x.movedim(d, 0) for x, d in pairs]
