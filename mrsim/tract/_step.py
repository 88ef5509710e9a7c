"""The derivative of one step: of p + h u(p), or of Runge and Kutta's p + h mean."""

from typing import NamedTuple

import torch
from torch import Tensor

from mrsim.tract._direction import Change, Image, Spot, gathered, pull, push, spot
from mrsim.tract._world import Plan
from mrsim.tract.field import Corners
from mrsim.tract.peak import dot, unit


class Back(NamedTuple):
    """Cotangents of what a step depends on."""

    p: Tensor  # (3, B) beyond that of the point itself
    values: list[tuple[Corners, Tensor]]  # where, and (N, B) there
    inverse: Tensor  # (3, 4, B)
    h: Tensor  # (B,)
    model: Tensor  # (7, N, B)


def _stages(
    plan: Plan, image: Image, h: Tensor, p: Tensor, d: Tensor
) -> tuple[list[Spot], list[float]]:
    """Return the four directions of a step, and the weights of the mean."""
    spots = [spot(plan.rule, image, p, d, seek=True)]
    for part in (0.5, 0.5, 1.0):
        ahead = p + part * h * spots[-1].u
        spots.append(spot(plan.rule, image, ahead, d, seek=True))
    return spots, [1.0, 2.0, 2.0, 1.0]


def step_push(
    plan: Plan,
    image: Image,
    h: Tensor,
    p: Tensor,
    d: Tensor,
    change: Change,
    dh: Tensor | None,
    first: Tensor | None,
) -> Tensor:
    """Return the change of p + h u.

    Args:
        plan: what is static.
        image: for these lanes.
        h: step.
        p (3, B): where the step starts.
        d (3, B): its direction.
        change: of p and of the image.
        dh: of the step.
        first: row at which the lane's part of change.values starts.

    Returns:
        (3, B).
    """
    dp = change.p if change.p is not None else torch.zeros_like(p)
    slip = torch.zeros_like(h) if dh is None else dh

    def turned(at: Spot, moved: Tensor) -> Tensor:
        now = change._replace(p=moved)
        if change.values is None:
            return push(plan.rule, image, at, now)
        rows = at.corners.rows - (0 if image.first is None else image.first)
        there = at.corners._replace(rows=rows + (0 if first is None else first))
        dc = gathered(change.values, there, at.corners.weights)
        return push(plan.rule, image, at, now._replace(values=dc))

    if plan.order == 1:
        at = spot(plan.rule, image, p, d, seek=False)
        return dp + slip * at.u + h * turned(at, dp)
    spots, weights = _stages(plan, image, h, p, d)
    mean, dmean = torch.zeros_like(p), torch.zeros_like(p)
    du = torch.zeros_like(p)
    for k, (at, weight) in enumerate(zip(spots, weights, strict=True)):
        part = (0.0, 0.5, 0.5, 1.0)[k]
        last = spots[k - 1].u
        du = turned(at, dp + part * (slip * last + h * du))
        mean, dmean = mean + weight * at.u, dmean + weight * du
    size = dot(mean, mean).sqrt()
    u = mean / size
    du = (dmean - u * dot(u, dmean)) / size
    return dp + slip * u + h * du


def step_pull(
    plan: Plan, image: Image, h: Tensor, p: Tensor, d: Tensor, cotangent: Tensor
) -> Back:
    """Return the transpose of `step_push` along the cotangent (3, B) of p + h u."""
    if plan.order == 1:
        at = spot(plan.rule, image, p, d, seek=False)
        made = pull(plan.rule, image, at, h * cotangent)
        return Back(
            made.p,
            [(at.corners, made.values)],
            made.inverse,
            dot(cotangent, at.u),
            made.model,
        )
    spots, weights = _stages(plan, image, h, p, d)
    mean = torch.stack([w * at.u for w, at in zip(weights, spots, strict=True)]).sum(0)
    size = dot(mean, mean).sqrt()
    u = unit(mean)
    turn = h * (cotangent - u * dot(u, cotangent)) / size
    slip = dot(cotangent, u)
    inverse = model = total = torch.zeros_like(p[:1])
    values, ahead = [], torch.zeros_like(p)
    for k in (3, 2, 1, 0):
        made = pull(plan.rule, image, spots[k], weights[k] * turn + ahead)
        part = (0.0, 0.5, 0.5, 1.0)[k]
        values.append((spots[k].corners, made.values))
        inverse, model = inverse + made.inverse, model + made.model
        total = total + made.p
        if k:
            slip = slip + part * dot(made.p, spots[k - 1].u)
            ahead = part * h * made.p
    return Back(total, values, inverse, slip, model)
