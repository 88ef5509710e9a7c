"""Minimise from many starts: score all by one vmap, descend together, polish a few."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.func import grad_and_value, vmap

from mrsim._batched import peak_bytes
from mrsim._check import require
from mrsim.design._minimise import Design, minimise
from mrsim.design._spline import spline
from mrsim.design.checkpoint import load, save
from mrsim.design.constraints import Constraint
from mrsim.design.problem import (
    TOLERANCE,
    Bounds,
    Objective,
    Problem,
    excess,
    inside,
    pose,
    scalar,
)
from mrsim.design.solvers import RATE, WEIGHT
from mrsim.tree import expand, get, put, tree_leaves, tree_map

R = TypeVar("R")

_NEAR = 0.1  # starts that end within this of each other, in scaled units, are one
_KNOTS = 5  # coefficients of the smooth random starts


def multistart(
    objective: Objective,
    starts: Any,
    *wanted: str,
    bounds: Bounds | None = None,
    constraints: Sequence[Constraint] = (),
    method: str = "SLSQP",
    iterations: int = 200,
    tolerance: float = 1e-8,
    steps: int = 60,
    polish: int = 4,
    memory: int = 2**30,
    progress: bool = False,
    checkpoint: str | Path | None = None,
) -> list[Design]:
    """Minimise a function of a record from many starts and return the best few.

    All starts are scored by one vmap and then descend together: ``steps`` of Adam, each
    one vmapped value and gradient, on f/|f| plus a penalty of the constraints. The best
    ``polish`` that differ are then minimised in turn by `minimise`. The batch costs
    little more than one start, so hundreds of them are a cheap way out of bad minima.

    Args:
        objective: as for `minimise`.
        starts: a batch of records: every leaf has the same first axis, as from
            `random_starts`, ``mrsim.expand`` or ``mrsim.grid``.
        *wanted: as for `minimise`.
        bounds: as for `minimise`.
        constraints: as for `minimise`.
        method: of the polishing, as for `minimise`.
        iterations: of each polishing.
        tolerance: of each polishing.
        steps: of the common descent; 0 polishes the best starts as they are.
        polish: how many to polish.
        memory: bytes that the vmap may allocate at once, see `mrsim.batched`.
        progress: show progress bars (needs tqdm, extra ``demo``).
        checkpoint: a file that keeps the result of the common descent; each polishing
            adds one of its own beside it. A later call goes on from them.

    Returns:
        The polished designs, best first.

    Raises:
        ValueError: the objective is finite at no start; or as for `minimise`.
    """
    first = tree_map(lambda v: v[0], starts)
    problem = pose(objective, first, wanted, bounds, constraints)
    x, bases = _gather(problem, starts)
    mark = torch.cat([x.flatten(), problem.lower, problem.upper])
    saved = load(checkpoint, mark) if checkpoint else None
    if saved is None:
        found, merit = _descend(problem, x, bases, steps, memory, progress)
        saved = {"x": found, "picked": _pick(found, merit, polish)}
        if checkpoint:
            save(checkpoint, mark, saved)
    made = []
    for n, k in enumerate(saved["picked"]):
        base = tree_map(lambda v, k=k: v[k], bases)
        one = minimise(
            objective,
            problem.build(saved["x"][k], base),
            *problem.names,
            bounds=bounds,
            constraints=constraints,
            method=method,
            iterations=iterations,
            tolerance=tolerance,
            progress=progress,
            checkpoint=f"{checkpoint}.{n}" if checkpoint else None,
        )
        made.append(one)
    return sorted(made, key=lambda d: (d.violation > TOLERANCE, d.value))


def _gather(problem: Problem, starts: Any) -> tuple[Tensor, Any]:
    """Return the starts' x (start, n) and the starts with all named fields present."""
    count = len(next(iter(tree_leaves(starts))))
    for name in problem.names:
        if get(starts, name) is None:
            starts = put(starts, name, expand(get(problem.base, name), count))
    return inside(problem, vmap(problem.flatten)(starts)), starts


def _descend(
    problem: Problem, x: Tensor, bases: Any, steps: int, memory: int, progress: bool
) -> tuple[Tensor, Tensor]:
    """Let all starts descend together; return the best of each and their merits."""

    def slope(x: Tensor, base: Any) -> tuple[Tensor, Tensor]:
        def f(x: Tensor) -> Tensor:
            return scalar(problem.objective(problem.build(x, base)))

        def broken(x: Tensor) -> Tensor:
            return WEIGHT / 2 * excess(problem, x, base).relu().square().sum()

        gradient, value = grad_and_value(f)(x)
        push, penalty = grad_and_value(broken)(x)
        sane = value.isfinite() & gradient.isfinite().all()
        unit = torch.where(sane & (value != 0), value.abs(), 1.0)
        step = torch.where(sane, gradient / unit + push, 0.0)
        return step, torch.where(sane, value + unit * penalty, math.inf)

    chunk = _chunk(vmap(slope), x, bases, memory)
    slopes = vmap(slope, chunk_size=chunk)
    moving, best, merit = x.clone(), x, torch.full_like(x[:, 0], math.inf)
    optimiser = torch.optim.Adam([moving], betas=(0.9, 0.99))
    rounds = range(steps + 1)
    for k in require("tqdm", "demo").tqdm(rounds, "starts") if progress else rounds:
        moving.grad, now = slopes(moving, bases)
        better = now < merit
        best = torch.where(better[:, None], moving, best)
        merit = torch.where(better, now, merit)
        for group in optimiser.param_groups:
            group["lr"] = 2 * RATE * (1 - k / (steps + 1))
        optimiser.step()
        moving.data = inside(problem, moving)
    return best, merit


def _chunk(f: Any, x: Tensor, bases: Any, memory: int) -> int:
    """Return how many starts fit into a number of bytes."""
    if len(x) <= 4:
        return len(x)
    low, high = (
        peak_bytes(f, x[:n], tree_map(lambda v, n=n: v[:n], bases)) for n in (2, 4)
    )
    return min(len(x), 2 + max(0, memory - low) // max(1, (high - low) // 2))


def _pick(x: Tensor, merit: Tensor, count: int) -> list[int]:
    """Return the positions of the best starts that ended in different places."""
    if not merit.isfinite().any():
        raise ValueError(
            f"design: the objective is finite at none of the {len(x)} starts (for a"
            f" CRLB: the Fisher matrix is singular everywhere); check that the signal"
            f" depends on all unknowns, or draw other starts"
        )
    picked: list[int] = []
    for k in merit.argsort().tolist():
        known = [x[j] for j in picked]
        apart = all(float((x[k] - other).abs().max()) > _NEAR for other in known)
        if merit[k].isfinite() and apart and len(picked) < count:
            picked.append(k)
    return picked


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
