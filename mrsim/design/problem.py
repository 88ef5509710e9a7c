"""A design problem as functions of one flat vector of doubles, scaled to order one."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import grad_and_value, jacrev

from mrsim._convert import as_tensor
from mrsim.design.constraints import Constraint
from mrsim.transform import locate
from mrsim.tree import get, names as field_names, promote, put, smooth

TOLERANCE = 1e-6  # by how much a design may exceed a constraint, relative to its limit

Objective = Callable[[Any], Tensor]
Limit = float | Tensor | None
Bounds = Mapping[str, tuple[Limit, Limit]]


class Problem(NamedTuple):
    """What a solver sees: x is the named fields, flattened and divided by a scale."""

    objective: Objective  # of a record
    constraints: tuple[Constraint, ...]
    names: tuple[str, ...]  # of the fields that may change
    base: Any  # the start, with values in all these fields
    build: Callable[[Tensor, Any], Any]  # (x, base) → base with its named fields at x
    flatten: Callable[[Any], Tensor]  # its inverse: record → x
    lower: Tensor  # (n,)
    upper: Tensor  # (n,)


def pose(
    objective: Objective,
    start: Any,
    wanted: Sequence[str],
    bounds: Bounds | None,
    constraints: Sequence[Constraint],
) -> Problem:
    """Describe a design problem by flat vectors.

    Args:
        objective: of a record, one real number.
        start: the record to start from.
        wanted: names of the fields that may change; none for all that are present.
        bounds: name → (lower, upper).
        constraints: limits on the record.

    Returns:
        The problem.

    Raises:
        ValueError: a name is unknown, a bound has no field or the wrong shape, or a
            lower bound lies above the upper one.
    """
    limits = dict(bounds or {})
    chosen = wanted or [n for n in field_names(start) if smooth(get(start, n))]
    for name in chosen:
        locate([start], name)
        start = promote(start, name)
    for name in set(limits) - set(chosen):
        raise ValueError(
            f"design: bounds are given for {name!r}, but only {tuple(chosen)} may"
            f" change; name it too or leave its bounds out"
        )
    fields = [get(start, n) for n in chosen]
    ends = [_ends(n, x, limits.get(n)) for n, x in zip(chosen, fields, strict=True)]
    scales = [_scale(x, low, high) for x, (low, high) in zip(fields, ends, strict=True)]
    sizes = [x.numel() for x in fields]

    def build(x: Tensor, base: Any) -> Any:
        parts = zip(chosen, x.split(sizes), fields, scales, strict=True)
        for name, part, like, scale in parts:
            base = put(base, name, (part.reshape(like.shape) * scale).to(like))
        return base

    def flatten(record: Any) -> Tensor:
        return _flat([get(record, n) for n in chosen], scales)

    lower, upper = (_flat([e[k] for e in ends], scales) for k in (0, 1))
    names = tuple(chosen)
    return Problem(
        objective, tuple(constraints), names, start, build, flatten, lower, upper
    )


def _flat(parts: Sequence[Tensor], scales: Sequence[float]) -> Tensor:
    pairs = zip(parts, scales, strict=True)
    return torch.cat([x.reshape(-1).double() / scale for x, scale in pairs])


def _ends(
    name: str, field: Tensor, limits: tuple[Limit, Limit] | None
) -> tuple[Tensor, Tensor]:
    low, high = limits or (None, None)
    pair = -math.inf if low is None else low, math.inf if high is None else high
    try:
        lower, upper = (as_tensor(v, field).to(field).expand_as(field) for v in pair)
    except RuntimeError as e:
        raise ValueError(
            f"design: the bounds of {name} must be scalars or have its shape"
            f" {tuple(field.shape)}, got {limits}"
        ) from e
    if not (lower <= upper).all():
        raise ValueError(
            f"design: the bounds of {name} are (lower, upper) with lower ≤ upper,"
            f" got {limits}"
        )
    return lower, upper


def _scale(*values: Tensor) -> float:
    """Return the power of two next to the largest start, else to the largest bound."""
    # bounds and fields survive a division by a power of two exactly
    for value in values:
        largest = value.nan_to_num(0.0, posinf=0.0, neginf=0.0).abs().amax()
        if largest > 0:
            return 2.0 ** round(math.log2(float(largest)))
    return 1.0


def inside(problem: Problem, x: Tensor) -> Tensor:
    """Move every entry into its bounds."""
    return torch.clamp(x, problem.lower, problem.upper)


def value_and_gradient(problem: Problem, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the objective and its gradient with respect to x, both in doubles.

    Raises:
        ValueError: the objective is not one real number.
    """

    def f(x: Tensor) -> Tensor:
        return scalar(problem.objective(problem.build(x, problem.base)))

    gradient, value = grad_and_value(f)(x)
    return value, gradient


def scalar(value: Any) -> Tensor:
    """Require one real number of an objective.

    Args:
        value: what the objective returned.

    Returns:
        It, in double precision.

    Raises:
        ValueError: it is something else.
    """
    if isinstance(value, Tensor) and value.shape == () and value.is_floating_point():
        return value.double()
    got = (
        f"a tensor of shape {tuple(value.shape)} and {value.dtype}"
        if isinstance(value, Tensor)
        else f"{type(value).__name__}"
    )
    raise ValueError(
        f"design: the objective must return one real number, a tensor of shape (),"
        f" got {got}; take for example one field, .sum() or .abs()"
    )


def excess(problem: Problem, x: Tensor, base: Any = None) -> Tensor:
    """Return by how much each constraint is exceeded (negative: met), one vector."""
    record = problem.build(x, problem.base if base is None else base)
    parts = [c.excess(record).reshape(-1).double() for c in problem.constraints]
    return torch.cat([x[:0], *parts])


def violation(problem: Problem, x: Tensor) -> float:
    """Return the largest excess over a constraint; 0 where all are met."""
    over = excess(problem, x)
    return float(over.amax().clamp(min=0.0)) if len(over) else 0.0


def excess_slopes(problem: Problem, x: Tensor) -> Tensor:
    """Return the Jacobian of the constraints, (m, n)."""
    return jacrev(lambda x: excess(problem, x))(x)


def feasible(problem: Problem, x: Tensor) -> Tensor:
    """Move x into its bounds and, by Gauss-Newton steps, onto violated constraints."""
    x = inside(problem, x)
    for _ in range(30):
        over = excess(problem, x)
        broken = over > 0
        if not broken.any():
            break
        rows = excess_slopes(problem, x)[broken]
        step = torch.linalg.pinv(rows) @ (over[broken] + torch.finfo(x.dtype).eps)
        x = inside(problem, x - step)
    return x
