"""What hard criteria hide: how well a peak is defined, and weights in their place."""

import math

import torch
from torch import Tensor

from mrsim.tract._direction import Image, Spot, spot
from mrsim.tract._options import Options
from mrsim.tract._stream import Kind, Track, prepared
from mrsim.tract.field import Regions, inverse, trilinear, voxels
from mrsim.tract.peak import dot, unit
from mrsim.tract.polynomial import degree
from mrsim.tract.rules import frame


def conditioning(track: Track, field: Kind, options: Options) -> Tensor:
    """Tell for every step how well the direction there is defined.

    The implicit function theorem solves a 2×2 system at every point. This is its
    smallest eigenvalue over that of a lobe (L F for an FOD of degree L, the first
    eigenvalue for a tensor): 0 where the followed peak vanishes. Below some 0.02 the
    derivative of the track is that of a peak about to disappear, and differs from what
    finite changes do.

    Args:
        track: one track.
        field: the image it was followed in.
        options: the criteria it was followed with.

    Returns:
        (T,) for the edge from a vertex to the next, +inf where there is none.

    >>> import torch
    >>> from mrsim import tract
    >>> one = torch.tensor([1.0, 0, 0, 1.0, 0, 0]).expand(5, 5, 5, 6)  # along z
    >>> fod = tract.Field(coefficients=one, affine=torch.eye(4))
    >>> opts = tract.options(fod, step=0.5)
    >>> track = tract.stream(torch.tensor([2.0, 2, 2]), fod, opts)
    >>> bool((conditioning(track, fod, opts) > 0.02).all())
    True
    """
    at, edge = _edges(track, field, options)
    e, f = frame(at.u)
    size = dot(at.q, at.u)
    Se, Sf = (at.slope * e).sum(1), (at.slope * f).sum(1)
    ee, ef, ff = size - dot(Se, e), -dot(Se, f), size - dot(Sf, f)
    least = (ee + ff) / 2 - (((ee - ff) / 2) ** 2 + ef * ef).sqrt()
    return torch.where(edge, least / size, math.inf)


def soft_weights(
    track: Track,
    field: Kind,
    options: Options,
    amplitude: float = 0.02,
    angle: float = 0.05,
) -> Tensor:
    """Weigh every vertex by how surely its streamline gets there.

    Product, from the seed outwards, of σ((A − cutoff)/amplitude),
    σ((cos − cos θ)/angle) and the mask interpolated linearly, at every step: smooth
    where `stream` has yes or no, and differentiable in all that moves the track.

    Args:
        track: one track.
        field: the image, a `tract.Field`.
        options: the criteria.
        amplitude: width of the cutoff [units of the FOD].
        angle: width of the angle's, in its cosine.

    Returns:
        (T,) between 0 and 1, 0 after the last vertex.

    >>> import torch
    >>> from mrsim import tract
    >>> one = torch.tensor([1.0, 0, 0, 1.0, 0, 0]).expand(5, 5, 5, 6)  # along z
    >>> fod = tract.Field(coefficients=one, affine=torch.eye(4))
    >>> opts = tract.options(fod, step=0.5)
    >>> track = tract.stream(torch.tensor([2.0, 2, 2]), fod, opts)
    >>> soft_weights(track, fod, opts).shape
    torch.Size([204])
    """
    at, edge = _edges(track, field, options)
    T = len(track.points)
    slot = torch.arange(T, device=edge.device)
    size = dot(at.q, at.u) / degree(at.c.shape[0])
    grow = torch.nn.functional.logsigmoid((size - options.cutoff) / amplitude)
    u = at.u * torch.where(slot < track.seed_index, -1.0, 1.0).to(at.u)  # one way
    before = torch.roll(u, 1, 1)
    bend = (dot(u, before) - math.cos(options.angle)) / angle
    joint = edge & torch.roll(edge, 1) & (slot > 0)
    turn = torch.where(joint, torch.nn.functional.logsigmoid(bend), 0.0)
    # of a step: what makes it possible; the angle counts with the later of two edges
    first = slot < track.seed_index
    later = torch.where(first, torch.roll(turn, -1), turn)
    at_seed = slot == torch.where(first, track.seed_index - 1, track.seed_index)
    later = torch.where(at_seed, 0.0, later)
    step = torch.where(edge, grow + later, 0.0)
    if options.mask is not None:
        held = torch.where(slot < track.length, _held(options.mask, track.points), 1.0)
        tip = torch.where(first, held, torch.roll(held, -1))
        step = step + torch.where(edge, tip.clamp(min=1e-30).log(), 0.0)
    total = torch.cat([step.new_zeros(1), step.cumsum(0)])  # up to an edge's start
    base = total.gather(0, track.seed_index.reshape(1))
    way = torch.where(first, base - total[:T], total[:T] - base)
    return torch.where(slot < track.length, way.exp(), 0.0)


def _edges(track: Track, field: Kind, options: Options) -> tuple[Spot, Tensor]:
    """Return what is at the start of every edge (T on the last axis), and which are."""
    plan, leaves = prepared("tract.stream", track.points[0], field, options)
    _, _, values, turn, _, model = leaves[:6]
    T = len(track.points)
    slot = torch.arange(T, device=track.points.device)
    edge = slot < track.length - 1
    first = slot < track.seed_index
    nearer = torch.where(edge & first, slot + 1, slot)
    p = track.points.gather(0, nearer[:, None].expand(T, 3))
    z = torch.tensor([0.0, 0.0, 1.0]).to(p)
    way = torch.where(edge[:, None], track.directions, z)
    middle = track.points.gather(0, track.seed_index.reshape(1, 1).expand(1, 3))
    p = torch.where(edge[:, None], p, middle)
    image = Image(values, None, turn[..., None], model[..., None])
    return spot(plan.rule, image, p.t(), unit(way.t()), seek=False), edge


def _held(mask: Regions, points: Tensor) -> Tensor:
    """Return how far points (T, 3) are inside any of a mask's images, interpolated."""
    if mask.images is None or mask.affine is None:
        raise ValueError("tract.soft_weights: a soft mask needs images, not spheres")
    v = voxels(inverse(mask.affine)[..., None], points.t())
    shape = (mask.images.shape[1], mask.images.shape[2], mask.images.shape[3])
    corners = trilinear(v, shape, slopes=False)
    flat = mask.images.flatten(1).index_select(1, corners.rows.reshape(-1))
    each = (flat.unflatten(1, (8, -1)) * corners.weights).sum(1)
    return each.amax(0)
