"""Minimise from many starts: score all by one vmap, descend together, polish a few."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.func import grad_and_value, vmap

from mrsim._batched import peak_bytes
from mrsim._check import require
from mrsim.design._minimise import Design, minimise
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

_NEAR = 0.1  # starts that end within this of each other, in scaled units, are one


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
    one vmapped value and gradient, on f/|f| plus a penalty of the constraints; after
    half of them the best quarter goes on. The best ``polish`` that differ are then
    minimised in turn by `minimise`. A batch costs little more than one start, so
    hundreds of them are a cheap way out of bad minima.

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

    >>> import torch
    >>> from mrsim import design, epg
    >>> cost = lambda q: (3 * q.flip).sin().sum() + q.flip.sum() / 9  # many minima
    >>> box = {"flip": (0.0, 6.0)}
    >>> start = epg.FSE(flip=[2.0], esp=0.01)
    >>> batch = design.random_starts(start, "flip", bounds=box, count=16)
    >>> found = design.multistart(cost, batch, "flip", bounds=box)
    >>> found[0].record.flip.round(decimals=2), len(found)
    (tensor([1.5600]), 1)
    """
    first = tree_map(lambda v: v[0], starts)
    problem = pose(objective, first, wanted, bounds, constraints)
    x, bases = _gather(problem, starts)
    mark = torch.cat([x.flatten(), problem.lower, problem.upper])
    saved = load(checkpoint, mark) if checkpoint else None
    if saved is None:
        x, which = _search(problem, x, bases, steps, polish, memory, progress)
        saved = {"x": x, "start": which}
        if checkpoint:
            save(checkpoint, mark, saved)
    made = []
    for n, (x, k) in enumerate(zip(saved["x"], saved["start"], strict=True)):
        one = minimise(
            objective,
            problem.build(x, tree_map(lambda v, k=k: v[k], bases)),
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


def _search(
    problem: Problem,
    x: Tensor,
    bases: Any,
    steps: int,
    polish: int,
    memory: int,
    progress: bool,
) -> tuple[Tensor, list[int]]:
    """Return the best few places found from all starts, and which starts led there."""

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

    slopes = vmap(slope, chunk_size=_chunk(vmap(slope), x, bases, memory))
    bar = require("tqdm", "demo").tqdm(total=steps, desc="starts") if progress else None
    which, best, half = torch.arange(len(x), device=x.device), x, steps // 2
    few = max(polish, len(x) // 4)
    for count, rate, keep in ((half, 2 * RATE, few), (steps - half, RATE, len(x))):
        some = tree_map(lambda v, which=which: v[which], bases)
        best, merit = _descend(problem, slopes, best, some, count, rate, bar)
        order = _ranked(merit)[:keep]
        which, best, merit = which[order], best[order], merit[order]
    picked = _apart(best[merit.isfinite()])[:polish]
    return best[picked], which[picked].tolist()


def _descend(
    problem: Problem,
    slopes: Callable[[Tensor, Any], tuple[Tensor, Tensor]],
    x: Tensor,
    bases: Any,
    steps: int,
    rate: float,
    bar: Any,
) -> tuple[Tensor, Tensor]:
    """Take steps of Adam, the last half as long as the first; return the best met."""
    moving, best, merit = x.clone(), x, torch.full_like(x[:, 0], math.inf)
    optimiser = torch.optim.Adam([moving], betas=(0.9, 0.99))
    for k in range(steps + 1):
        moving.grad, now = slopes(moving, bases)
        better = now < merit
        best = torch.where(better[:, None], moving, best)
        merit = torch.where(better, now, merit)
        for group in optimiser.param_groups:
            group["lr"] = rate * (1 - k / (2 * steps + 2))
        optimiser.step()
        moving.data = inside(problem, moving)
        if bar is not None and k:
            bar.update()
    return best, merit


def _ranked(merit: Tensor) -> Tensor:
    """Return the positions of all starts, best first.

    Raises:
        ValueError: none has a finite merit.
    """
    if not merit.isfinite().any():
        raise ValueError(
            f"design: the objective is finite at none of the {len(merit)} starts (for a"
            f" CRLB: the Fisher matrix is singular everywhere); check that the signal"
            f" depends on all unknowns, or draw other starts"
        )
    return merit.argsort()


def _chunk(f: Any, x: Tensor, bases: Any, memory: int) -> int:
    """Return how many starts fit into a number of bytes."""
    if len(x) <= 4:
        return len(x)
    low, high = (
        peak_bytes(f, x[:n], tree_map(lambda v, n=n: v[:n], bases)) for n in (2, 4)
    )
    return min(len(x), 2 + max(0, memory - low) // max(1, (high - low) // 2))


def _apart(x: Tensor) -> list[int]:
    """Return the positions of rows that differ from all before them."""
    picked: list[int] = []
    for k in range(len(x)):
        if all(float((x[k] - x[j]).abs().max()) > _NEAR for j in picked):
            picked.append(k)
    return picked
