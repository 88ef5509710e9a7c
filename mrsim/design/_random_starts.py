"""Diverse, feasible random starts for a search with many minima."""

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.func import vmap

from mrsim.design._spline import spline
from mrsim.design.constraints import Constraint
from mrsim.design.problem import Bounds, Problem, excess, inside, pose
from mrsim.tree import expand, get

R = TypeVar("R")

_KNOTS = 5  # coefficients of the smooth starts


def random_starts(
    record: R,
    *wanted: str,
    bounds: Bounds,
    constraints: Sequence[Constraint] = (),
    count: int = 256,
    generator: torch.Generator | None = None,
) -> R:
    """Draw diverse starts for `multistart`: rough, smooth, and the record's own values.

    Entries are drawn one by one: uᵖ between the bounds, u uniform in [0, 1], p uniform
    in [0.5, 3.5] for each start. In every fourth start, fields of more than 5 entries
    are cubic splines of 5 uniform coefficients. Each start is multiplied by the largest
    number up to 1 at which it, clipped to the bounds, meets the constraints; so these
    should become easier towards zero, as those on power, time and slew do.

    Args:
        record: what the starts are like; it is the first of them.
        *wanted: names of the fields to draw; no name: all that are present.
        bounds: name → (lower, upper) [the field's unit], finite, for all of them.
        constraints: limits such as `rms`.
        count: how many starts.
        generator: source of the random numbers; torch's own if ``None``.

    Returns:
        A batch of records: every leaf has the first axis ``count``.

    Raises:
        ValueError: a bound is missing.

    >>> import torch
    >>> from mrsim import design, epg
    >>> train = epg.FSE(flip=[2.0] * 16, esp=0.008)
    >>> limits = {"flip": (0.2, 3.0)}
    >>> batch = design.random_starts(train, "flip", bounds=limits, count=100)
    >>> batch.flip.shape, batch.esp.shape
    (torch.Size([100, 16]), torch.Size([100]))
    """
    problem = pose(_nothing, record, wanted, bounds, constraints)
    if not (problem.lower.isfinite() & problem.upper.isfinite()).all():
        raise ValueError(
            f"random_starts: every field drawn needs finite bounds on both sides,"
            f" got {bounds} for {problem.names}"
        )
    fields = [get(problem.base, name) for name in problem.names]
    draws = [_draw(like.shape, count, generator) for like in fields]
    unit = torch.cat([d.reshape(count, -1) for d in draws], 1).to(problem.lower)
    x = problem.lower + unit * (problem.upper - problem.lower)
    own = inside(problem, problem.flatten(problem.base))
    x = torch.cat([own[None], x[1:]])
    shrunk = vmap(lambda x: _shrink(problem, x))(x)
    return vmap(problem.build)(shrunk, expand(problem.base, count))


def _draw(shape: torch.Size, count: int, generator: torch.Generator | None) -> Tensor:
    """Draw fields in [0, 1]: powers of uniform numbers, for every fourth a spline."""
    long = len(shape) == 1 and shape[0] > _KNOTS
    smooth = count // 4 if long else 0
    power = torch.rand(count, *(1,) * len(shape), generator=generator)
    rough = torch.rand(count - smooth, *shape, generator=generator)
    rough = rough ** (0.5 + 3 * power[smooth:])
    if not smooth:
        return rough
    knots = torch.rand(smooth, _KNOTS, generator=generator)
    return torch.cat([rough, spline(knots, shape[0])])


def _nothing(_: Any) -> Tensor:
    return torch.zeros(())


def _shrink(problem: Problem, x: Tensor) -> Tensor:
    """Scale x down by bisection until it, inside the bounds, meets the constraints."""

    def meets(t: Tensor) -> Tensor:
        return (excess(problem, inside(problem, t * x)) <= 0).all()

    low, high = torch.zeros_like(x[0]), torch.ones_like(x[0])
    low = torch.where(meets(high), high, low)
    for _ in range(50):
        middle = (low + high) / 2
        good = meets(middle)
        low, high = torch.where(good, middle, low), torch.where(good, high, middle)
    return inside(problem, low * x)
