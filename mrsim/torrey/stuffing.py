"""Isosurface stuffing: good tetrahedra inside any smooth surface.

A body-centred cubic lattice is cut by the surface {d = 0}: lattice points that lie
close to it are moved onto it, and the tetrahedra left crossing are cut by stencils
(Labelle & Shewchuk 2007, ACM Trans Graph 26:57). Quadrilaterals are halved from their
point of lowest number, the same from both sides.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from mrsim.torrey.quality import orient

_SHORT, _LONG = 0.41189, 0.24999  # safe distances to cuts (table 1 there, safe)
_BISECTIONS = 6  # before a last secant
_SHIFT = 2**20  # lattice coordinates are within ± this

Distance = Callable[[Tensor], Tensor]


def stuff(distance: Distance, cells: Tensor, size: float) -> tuple[Tensor, Tensor]:
    """Fill the inside of a surface with tetrahedra.

    Args:
        distance: about the signed distance [mm] of points (n, 3), negative inside.
        cells: whole-number cubes (n, 3) of the lattice that cover the inside and one
            cube around it; cube c spans size·c … size·(c + 1).
        size: side of the cubes [mm].

    Returns:
        Points (point, 3) [mm] and positively oriented elements (element, 4), the
        largest connected piece.

    Raises:
        ValueError: nothing lies inside.
    """
    lattice, tetra = bcc(cells)
    points = lattice.double() * (size / 2)
    depth = -distance(points)
    tetra = tetra[(depth[tetra] > 0).any(-1)]
    if not len(tetra):
        raise ValueError("there is no lattice point inside; make size smaller")
    edges = _edges(tetra)
    crossing = edges[(depth[edges[:, 0]] > 0) != (depth[edges[:, 1]] > 0)]
    share = _cuts(distance, points[crossing])
    cuts = torch.lerp(points[crossing[:, 0]], points[crossing[:, 1]], share[:, None])
    points, sign = _warp(points, depth.sign(), crossing, share, cuts)
    made = _stencils(tetra, sign, crossing, len(points))
    return _largest(torch.cat([points, cuts]), made)


def bcc(cells: Tensor) -> tuple[Tensor, Tensor]:
    """Return the lattice of cubes: points in half sides, and its tetrahedra.

    Two centres of neighbouring cubes and an edge of the face between them make one.

    Args:
        cells: (n, 3) whole numbers, without repeats.

    Returns:
        Points (point, 3), whole numbers of half sides, and tetrahedra (element, 4).
    """
    eye = torch.eye(3, dtype=torch.long)
    known = _key(cells).sort().values
    blocks = []
    for axis in range(3):
        there = _key(cells + eye[axis])
        place = torch.searchsorted(known, there).clamp_max(len(known) - 1)
        low = cells[known[place] == there]
        u, v = eye[(axis + 1) % 3], eye[(axis + 2) % 3]
        ring = [0 * u, u, u + v, v]
        first, second = 2 * low + 1, 2 * (low + eye[axis]) + 1
        for k in range(4):
            a, b = (2 * (low + eye[axis] + ring[(k + j) % 4]) for j in (0, 1))
            blocks.append(torch.stack([first, second, a, b], 1))
    corners = torch.cat(blocks).reshape(-1, 3)
    keys, number = _key(corners).unique(return_inverse=True)
    return _unkey(keys), number.reshape(-1, 4)


def _key(x: Tensor) -> Tensor:
    y = x + _SHIFT
    return (y[:, 0] * 2 * _SHIFT + y[:, 1]) * 2 * _SHIFT + y[:, 2]


def _unkey(key: Tensor) -> Tensor:
    x, y, z = key // (2 * _SHIFT) ** 2, key // (2 * _SHIFT), key
    rows = [x, y % (2 * _SHIFT), z % (2 * _SHIFT)]
    return torch.stack(rows, -1) - _SHIFT


def _edges(tetra: Tensor) -> Tensor:
    pairs = torch.combinations(torch.arange(4), 2)
    both = tetra[:, pairs].reshape(-1, 2).sort(-1).values
    count = int(tetra.amax()) + 1
    keys = (both[:, 0] * count + both[:, 1]).unique()
    return torch.stack([keys // count, keys % count], -1)


def _cuts(distance: Distance, ends: Tensor) -> Tensor:
    """Return where the surface cuts edges (edge, 2, 3), from 0 to 1."""
    low = torch.zeros_like(ends[:, 0, 0])
    high = torch.ones_like(low)
    below, above = distance(ends[:, 0]), distance(ends[:, 1])
    inside = below < 0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        at = distance(torch.lerp(ends[:, 0], ends[:, 1], middle[:, None]))
        before = (at < 0) == inside
        low, high = torch.where(before, middle, low), torch.where(before, high, middle)
        below, above = torch.where(before, at, below), torch.where(before, above, at)
    return low + (high - low) * below / (below - above)


def _warp(
    points: Tensor, sign: Tensor, edges: Tensor, share: Tensor, cuts: Tensor
) -> tuple[Tensor, Tensor]:
    """Move every point that lies too close to a cut onto its nearest cut."""
    length = (points[edges[:, 0]] - points[edges[:, 1]]).norm(dim=-1)
    alpha = torch.where(length > 0.93 * length.amax(), _LONG, _SHORT)
    end = torch.cat([edges[:, 0], edges[:, 1]])
    near = torch.cat([share, 1 - share]) < alpha.repeat(2)
    away = (torch.cat([share, 1 - share]) * length.repeat(2))[near]
    end, cut = end[near], cuts.repeat(2, 1)[near]
    order = away.argsort(descending=True)  # the nearest is written last
    nearest = away.new_full((len(points),), torch.inf)
    nearest = nearest.scatter_reduce(0, end, away, "amin")
    wins = (away == nearest[end])[order]
    chosen = end[order][wins]
    moved = points.index_copy(0, chosen, cut[order][wins])
    return moved, sign.index_fill(0, chosen, 0.0)


def _stencils(tetra: Tensor, sign: Tensor, edges: Tensor, count: int) -> Tensor:
    """Cut the tetrahedra that cross; cuts are numbered from ``count`` on."""
    keys = edges[:, 0] * count + edges[:, 1]  # ascending, as edges are unique rows
    order = (-sign[tetra] * count + tetra).argsort(-1)
    tetra = tetra.gather(-1, order)
    kinds = sign[tetra]
    plus, minus = (kinds > 0).sum(-1), (kinds < 0).sum(-1)

    def cut(t: Tensor, i: int, j: int) -> Tensor:
        low, high = torch.minimum(t[:, i], t[:, j]), torch.maximum(t[:, i], t[:, j])
        return count + torch.searchsorted(keys, low * count + high)

    out = [tetra[(plus > 0) & (minus == 0)]]
    for m in (1, 2, 3):
        t = tetra[(plus == 1) & (minus == m)]
        kept = [t[:, k] for k in range(4 - m)]
        out.append(torch.stack(kept + [cut(t, 0, k) for k in range(4 - m, 4)], -1))
    t = tetra[(plus == 2) & (minus == 1)]
    p, q, z, c, d = t[:, 0], t[:, 1], t[:, 2], cut(t, 0, 3), cut(t, 1, 3)
    out += [torch.stack(x, -1) for x in ((p, q, d, z), (p, d, c, z))]
    t = tetra[(plus == 2) & (minus == 2)]
    c, d, e, f = cut(t, 0, 2), cut(t, 0, 3), cut(t, 1, 2), cut(t, 1, 3)
    out += _prism((t[:, 0], c, d), (t[:, 1], e, f))
    t = tetra[(plus == 3) & (minus == 1)]
    out += _prism(
        (t[:, 0], t[:, 1], t[:, 2]), (cut(t, 0, 3), cut(t, 1, 3), cut(t, 2, 3))
    )
    return torch.cat(out)


def _prism(
    bottom: tuple[Tensor, Tensor, Tensor], top: tuple[Tensor, Tensor, Tensor]
) -> list[Tensor]:
    (a, b, c), (d, e, f) = bottom, top
    return [torch.stack(x, -1) for x in ((a, b, c, f), (a, b, e, f), (a, d, e, f))]


def _largest(points: Tensor, elements: Tensor) -> tuple[Tensor, Tensor]:
    """Keep the elements of the largest connected piece, and the points they use."""
    label = torch.arange(len(points))
    while True:
        lowest = label[elements].amin(-1, keepdim=True).expand(-1, 4)
        new = label.scatter_reduce(0, elements.flatten(), lowest.flatten(), "amin")
        new = new[new]  # halves the way to the lowest number of the piece
        if torch.equal(new, label):
            break
        label = new
    piece, times = label[elements[:, 0]].unique(return_counts=True)
    kept = elements[label[elements[:, 0]] == piece[times.argmax()]]
    used, number = kept.unique(return_inverse=True)
    return points[used], orient(points[used], number.reshape(-1, 4))
