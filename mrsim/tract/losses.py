"""Distances between tracks and between bundles, and the shape of tracks.

Tracks are padded points (vertex, 3) [mm] with their number of vertices; what lies
beyond takes no part, in values or derivatives (it may be NaN). All distances are blind
to the direction in which a track is run through, and have the derivative 0, not NaN,
where points coincide.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from mrsim.tract.padded import inside, norm

Distance = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def length(points: Tensor, count: Tensor) -> Tensor:
    """Return a track's length, Σ |pᵢ₊₁ − pᵢ|.

    Args:
        points: (vertex, 3) [mm].
        count: () number of vertices.

    Returns:
        () [mm].

    >>> import torch
    >>> length(torch.tensor([[0.0, 0.0, 0.0], [3.0, 4.0, 0.0]]), torch.tensor(2))
    tensor(5.)
    """
    kept, points = inside(points, count)
    return (norm(points.diff(dim=-2)) * kept[..., 1:]).sum(-1)


def curvature(points: Tensor, count: Tensor) -> Tensor:
    """Return the curvature at a track's inner vertices.

    κ = 2 sin θ / |pᵢ₊₁ − pᵢ₋₁|, θ the turn at pᵢ: one over the radius of the circle
    through three vertices (Menger).

    Args:
        points: (vertex, 3) [mm].
        count: () number of vertices.

    Returns:
        (vertex − 2,) [1/mm]; 0 beyond the track's end.

    >>> import torch
    >>> angles = torch.linspace(0, 1, 9)
    >>> arc = 5 * torch.stack([angles.cos(), angles.sin(), 0 * angles], -1)
    >>> curvature(arc, torch.tensor(9))[:2]
    tensor([0.2000, 0.2000])
    """
    kept, points = inside(points, count)
    step = points.diff(dim=-2)
    before, after = step[..., :-1, :], step[..., 1:, :]
    area = norm(torch.linalg.cross(before, after))
    sides = norm(before) * norm(after) * norm(before + after)
    fine = kept[..., 2:] & (sides > 0)
    return torch.where(fine, 2 * area / torch.where(fine, sides, 1.0), 0.0)


def resample(points: Tensor, count: Tensor, vertices: int) -> Tensor:
    """Place vertices at equal distances along a track.

    Args:
        points: (vertex, 3) [mm].
        count: () number of vertices, at least 1.
        vertices: how many are wanted, at least 2.

    Returns:
        (vertices, 3) [mm], the ends kept.

    Raises:
        ValueError: fewer than two vertices are asked for.

    >>> import torch
    >>> bent = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [1.0, 3.0, 0.0]])
    >>> resample(bent, torch.tensor(3), 3)[1]
    tensor([1., 1., 0.])
    """
    if vertices < 2:
        raise ValueError(f"resample: vertices must be at least 2, got {vertices}")
    kept, points = inside(points, count)
    step = points.diff(dim=-2)
    sizes = torch.where(kept[1:], norm(step), 0.0)
    run = torch.cat([0 * sizes[:1], sizes.cumsum(0)])
    share = torch.linspace(0, 1, vertices, dtype=run.dtype, device=run.device)
    wanted = share * run[-1]
    last = (count - 2).clamp_min(0)
    # the segment in which each lies: how many of its inner vertices are passed
    passed = (wanted.detach().unsqueeze(-1) >= run.detach()[1:-1]) & kept[2:]
    at = torch.minimum(passed.sum(-1), last)
    size = sizes[at]
    moving = size > 0
    part = torch.where(moving, (wanted - run[at]) / torch.where(moving, size, 1.0), 0.0)
    return points[at] + part.unsqueeze(-1) * step[at]


def mdf(a: Tensor, b: Tensor) -> Tensor:
    """Return the mean distance of two tracks, vertex by vertex.

    MDF = min(mean |aᵢ − bᵢ|, mean |aᵢ − bₙ₋ᵢ|): of tracks with equally many vertices,
    as `resample` makes them.

    Args:
        a: (vertex, 3) [mm].
        b: (vertex, 3) [mm].

    Returns:
        () [mm].

    Raises:
        ValueError: the tracks have different numbers of vertices.

    Reference:
        Garyfallidis 2012, Front Neurosci 6:175, Eq. 1.

    >>> import torch
    >>> line = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    >>> mdf(line, line.flip(0) + torch.tensor([0.0, 2.0, 0.0]))
    tensor(2.)
    """
    if a.shape != b.shape:
        raise ValueError(
            f"mdf: tracks must have equally many vertices, got {tuple(a.shape)} and"
            f" {tuple(b.shape)}; bring both to one number with resample"
        )
    straight = norm(a - b).mean(-1)
    return torch.minimum(straight, norm(a - b.flip(-2)).mean(-1))


def endpoint_distance(a: Tensor, count_a: Tensor, b: Tensor, count_b: Tensor) -> Tensor:
    """Return the mean distance of the ends of two tracks, in their better order.

    Args:
        a: (vertex, 3) [mm].
        count_a: () number of vertices.
        b: (vertex, 3) [mm].
        count_b: () number of vertices.

    Returns:
        () [mm].

    >>> import torch
    >>> line, two = torch.tensor([[0.0, 0.0, 0.0], [3.0, 4.0, 0.0]]), torch.tensor(2)
    >>> endpoint_distance(line, two, line.flip(0) + torch.tensor([0.0, 0.0, 2.0]), two)
    tensor(2.)
    """
    return mdf(ends(a, count_a), ends(b, count_b))


def ends(points: Tensor, count: Tensor) -> Tensor:
    """Return a track's first and last vertex.

    Args:
        points: (vertex, 3) [mm].
        count: () number of vertices.

    Returns:
        (2, 3) [mm].

    >>> import torch
    >>> ends(torch.tensor([[0.0, 0, 0], [3.0, 4, 0], [6.0, 8, 0]]), torch.tensor(2))
    tensor([[0., 0., 0.],
            [3., 4., 0.]])
    """
    last = (count - 1).clamp_min(0).reshape(1)
    return torch.cat([points[:1], points.index_select(0, last)])


def average_minimum(a: Tensor, count_a: Tensor, b: Tensor, count_b: Tensor) -> Tensor:
    """Return the mean distance from each track to the other's nearest vertex.

    ½ (meanᵢ minⱼ |aᵢ − bⱼ| + meanⱼ minᵢ |aᵢ − bⱼ|): the symmetric Chamfer distance, the
    mean average minimum distance of tracks.

    Args:
        a: (vertex, 3) [mm].
        count_a: () number of vertices.
        b: (vertex, 3) [mm].
        count_b: () number of vertices.

    Returns:
        () [mm].

    Reference:
        Corouge 2004, Med Image Comput Comput Assist Interv 3216:893.

    >>> import torch
    >>> line = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    >>> two = torch.tensor(2)
    >>> average_minimum(line, two, line + torch.tensor([0.0, 2.0, 0.0]), two)
    tensor(2.)
    """
    in_a, in_b, apart = _apart(a, count_a, b, count_b)
    # vertices beyond the end lie on the first: they add no new minimum
    there = torch.where(in_a, apart.amin(-1), 0.0).sum(-1) / count_a
    back = torch.where(in_b, apart.amin(-2), 0.0).sum(-1) / count_b
    return (there + back) / 2


def hausdorff(a: Tensor, count_a: Tensor, b: Tensor, count_b: Tensor) -> Tensor:
    """Return the largest distance from a track to the other's nearest vertex.

    Args:
        a: (vertex, 3) [mm].
        count_a: () number of vertices.
        b: (vertex, 3) [mm].
        count_b: () number of vertices.

    Returns:
        () [mm].

    >>> import torch
    >>> line, two = torch.tensor([[0.0, 0.0, 0.0], [3.0, 4.0, 0.0]]), torch.tensor(2)
    >>> hausdorff(line, two, line[:1], torch.tensor(1))
    tensor(5.)
    """
    _, _, apart = _apart(a, count_a, b, count_b)
    return torch.maximum(apart.amin(-1).amax(-1), apart.amin(-2).amax(-1))


def _apart(
    a: Tensor, count_a: Tensor, b: Tensor, count_b: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return which vertices exist, and the distance of every pair of vertices."""
    (in_a, a), (in_b, b) = inside(a, count_a), inside(b, count_b)
    return in_a, in_b, norm(a.unsqueeze(-2) - b.unsqueeze(-3))


def bundle_distance(
    a: Tensor,
    count_a: Tensor,
    b: Tensor,
    count_b: Tensor,
    distance: Distance | None = None,
    vertices: int = 20,
) -> Tensor:
    """Return how far two bundles are apart.

    ½ (meanᵢ minⱼ d(aᵢ, bⱼ) + meanⱼ minᵢ d(aᵢ, bⱼ)), d by default the `mdf` of resampled
    tracks. Tracks without vertices take no part.

    Args:
        a: (track, vertex, 3) [mm].
        count_a: (track,) numbers of vertices.
        b: (track, vertex, 3) [mm].
        count_b: (track,) numbers of vertices.
        distance: of two tracks, ``(a, count_a, b, count_b)`` → (), such as
            `average_minimum` or `endpoint_distance`.
        vertices: of resampled tracks.

    Returns:
        () [mm]; NaN where a bundle has no track.

    Reference:
        Garyfallidis 2015, NeuroImage 117:124 (bundle-based minimum distance).

    >>> import torch
    >>> line = torch.tensor([[[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]])
    >>> two = torch.tensor([2])
    >>> bundle_distance(line, two, line + torch.tensor([0.0, 2.0, 0.0]), two)
    tensor(2.)
    """
    if not (len(a) and len(b)):  # torch.func cannot map over nothing
        return a.new_tensor(torch.nan)
    in_a, in_b = count_a > 0, count_b > 0
    # a track without vertices becomes one at the origin, which is left out below
    a = torch.where(in_a.reshape(-1, 1, 1), a, 0.0)
    b = torch.where(in_b.reshape(-1, 1, 1), b, 0.0)
    some_a, some_b = count_a.clamp_min(1), count_b.clamp_min(1)
    if distance is None:
        place = torch.func.vmap(lambda p, n: resample(p, n, vertices))
        apart = _pairs(mdf, (place(a, some_a),), (place(b, some_b),))
    else:
        apart = _pairs(distance, (a, some_a), (b, some_b))
    far = torch.where(in_a.unsqueeze(-1) & in_b, apart, torch.inf)
    there = torch.where(in_a, far.amin(1), 0.0).sum() / in_a.sum()
    back = torch.where(in_b, far.amin(0), 0.0).sum() / in_b.sum()
    return (there + back) / 2


def _pairs(
    f: Callable[..., Tensor], a: tuple[Tensor, ...], b: tuple[Tensor, ...]
) -> Tensor:
    """Return f of every pair: (tracks of a, tracks of b)."""
    n, m = len(a), len(b)
    one = torch.func.vmap(f, in_dims=(None,) * n + (0,) * m)
    return torch.func.vmap(one, in_dims=(0,) * n + (None,) * m)(*a, *b)
