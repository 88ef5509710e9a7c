"""The direction at a point and its derivatives, by the implicit function theorem.

Batch last: points (3, B). All of it is plain torch, so it can be differentiated again.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from mrsim import _remat
from mrsim._check import transforming
from mrsim.tract.field import Corners, nearest, sample, trilinear, voxels
from mrsim.tract.rules import Rule, find, moved, pulled, stationary, tangent_inverse


class Image(NamedTuple):
    """An image and what leads to it, for B points."""

    values: Tensor  # (rows, N)
    first: Tensor | None  # (B,) row at which the point's image starts
    inverse: Tensor  # (3, 4, B or 1)
    model: Tensor  # (7, N, B or 1)


class Spot(NamedTuple):
    """All that the derivatives at a point need."""

    p: Tensor  # (3, B)
    u: Tensor  # (3, B) the direction there
    corners: Corners
    c: Tensor  # (N, B) the image's numbers
    q: Tensor  # (3, B)
    slope: Tensor  # (3, 3, B) ∂q/∂u


class Pulled(NamedTuple):
    """Cotangents of what a direction depends on."""

    p: Tensor  # (3, B)
    values: Tensor  # (N, B), of the numbers there
    inverse: Tensor  # (3, 4, B)
    model: Tensor  # (7, N, B)


class Change(NamedTuple):
    """Tangents of what a direction depends on; None where there is none."""

    p: Tensor | None
    values: Tensor | None  # (N, B), of the numbers there
    inverse: Tensor | None  # (3, 4, B)
    model: Tensor | None  # (7, N, B)


def spot(rule: Rule, image: Image, p: Tensor, u: Tensor, seek: bool) -> Spot:
    """Return the direction at p that u leads to (or is) and its surroundings."""
    v = voxels(image.inverse, p)
    start = 0 if image.first is None else image.first
    if rule.kind == "vectors":
        one = torch.ones_like(v[:1])
        row = (nearest(v.detach(), rule.shape) + start)[None]
        corners = Corners(row, one, torch.zeros_like(v)[:, None])
    else:
        corners = trilinear(v, rule.shape, slopes=True)
        corners = corners._replace(rows=corners.rows + start)
    c = gathered(image.values, corners, corners.weights)
    u = _Direction.apply(rule, seek, c, image.model, u)  # pyright: ignore[reportAssignmentType]
    return Spot(p, u, corners, c, *stationary(rule, c, image.model, u))


def gathered(values: Tensor, corners: Corners, weights: Tensor) -> Tensor:
    """Sum image rows (rows, N) over the corners → (N, B)."""
    if not transforming():
        return sample(values, corners, weights).contiguous()
    rows = values.index_select(0, corners.rows.reshape(-1)).unflatten(
        0, tuple(corners.rows.shape)
    )
    return (rows * weights[..., None]).sum(0).t()


def push(rule: Rule, image: Image, at: Spot, change: Change) -> Tensor:
    """Return the change (3, B) of the direction."""
    dv = torch.zeros_like(at.p)
    if change.p is not None:
        dv = dv + (image.inverse[:, :3] * change.p).sum(1)
    if change.inverse is not None:
        dv = dv + voxels(change.inverse, at.p)
    weights = (at.corners.slopes * dv[:, None]).sum(0)
    dc = gathered(image.values, at.corners, weights)
    if change.values is not None:
        dc = dc + change.values
    dq = moved(rule, at.c, image.model, at.u, dc, change.model)
    return tangent_inverse(at.q, at.slope, at.u, dq)


def pull(rule: Rule, image: Image, at: Spot, cotangent: Tensor) -> Pulled:
    """Return the transpose of `push` along a cotangent (3, B) of the direction."""
    y = tangent_inverse(at.q, at.slope, at.u, cotangent)
    dc, model = pulled(rule, at.c, image.model, at.u, y)
    slopes = at.corners.slopes
    parts = [(gathered(image.values, at.corners, s) * dc).sum(0) for s in slopes]
    dv = torch.stack(parts)
    p = (image.inverse[:, :3] * dv[:, None]).sum(0)
    one = torch.cat([at.p, torch.ones_like(at.p[:1])])
    return Pulled(p, dc, dv[:, None] * one, model)


class _Direction(torch.autograd.Function):
    """(rule, seek, c (N, B), model, start (3, B)) → u (3, B), with its derivative."""

    @staticmethod
    def forward(rule: Rule, seek: bool, c: Tensor, model: Tensor, u: Tensor) -> Tensor:
        return find(rule, c, model, u)[0] if seek else u.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.rule = inputs[0]
        ctx.save_for_backward(*inputs[2:4], output)
        ctx.save_for_forward(*inputs[2:4], output)

    # a rule's plain operations would lose outer tangents: they go into segments
    @staticmethod
    def jvp(
        ctx: Any, _rule: Any, _seek: Any, dc: Tensor, dmodel: Tensor, _u: Any
    ) -> Any:
        def along(*xs: Tensor) -> Tensor:
            c, model, u = _attached(ctx.rule, *xs[:3])
            dq = moved(ctx.rule, c, model, u, xs[3], xs[4])
            return tangent_inverse(*stationary(ctx.rule, c, model, u), u, dq)

        return _remat.apply(_remat.Segment(along, 3), *ctx.saved_tensors, dc, dmodel)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Any:
        def back(*xs: Tensor) -> tuple[Tensor, ...]:
            c, model, u = _attached(ctx.rule, *xs[:3])
            y = tangent_inverse(*stationary(ctx.rule, c, model, u), u, xs[3])
            dc, dmodel = pulled(ctx.rule, c, model, u, y)
            return dc, dmodel.sum_to_size(model.shape)

        segment = _remat.Segment(back, 3)
        dc, dmodel = _remat.apply(segment, *ctx.saved_tensors, cotangent)
        return None, None, dc, dmodel, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, rule: Rule, seek: bool, *xs: Tensor) -> Any:
        size, pairs = info.batch_size, list(zip(xs, in_dims[2:], strict=True))
        count = max(
            x.shape[-1] if d is None else x.movedim(d, 0).shape[-1] for x, d in pairs
        )
        wide = []
        for x, d in pairs:
            x = x.unsqueeze(0) if d is None else x.movedim(d, 0)
            x = x.movedim(0, -2).expand(*x.shape[1:-1], size, count)
            wide.append(x.flatten(-2))
        return _Direction.apply(rule, seek, *wide).unflatten(-1, (size, count)), 1  # pyright: ignore[reportFunctionMemberAccess]


def _attached(
    rule: Rule, c: Tensor, model: Tensor, u: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the same with the direction's dependence on c and model."""
    return c, model, _Direction.apply(*(rule, False), c, model, u.detach())  # pyright: ignore[reportReturnType]
