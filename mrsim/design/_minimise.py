"""Minimise an objective from one start, with history, progress and a checkpoint."""

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mrsim._check import require
from mrsim.design.checkpoint import State, load, save
from mrsim.design.constraints import Constraint
from mrsim.design.problem import (
    TOLERANCE,
    Bounds,
    Objective,
    feasible,
    inside,
    pose,
    value_and_gradient,
    violation,
)
from mrsim.design.solvers import SOLVERS, Run

_PLATEAU = 1e6  # what a solver sees, in units of the start, where nothing is finite
_SHRUNK = 1e-2  # below this share of its unit an objective is given a new unit,
_ZERO = 1e-12  # unless it is zero: this share of its start
_ATTEMPTS = 5


class History(NamedTuple):
    """One entry for every iteration of the solver."""

    value: Tensor  # (iteration,) objective
    gradient: Tensor  # (iteration,) norm of the step x − clip(x − ∇), relative, scaled
    violation: Tensor  # (iteration,) largest excess over a constraint, relative


class Design(NamedTuple):
    """What a minimisation found."""

    record: Any  # the best record: within its bounds, constraints met to 1e-6
    value: float  # its objective
    start_value: float  # objective of the start
    violation: float  # largest excess over a constraint, relative to its limit
    success: bool  # the solver's stopping test is met and so are the constraints
    message: str  # how the solver ended
    evaluations: int  # of value and gradient
    history: History


def minimise(
    objective: Objective,
    start: Any,
    *wanted: str,
    bounds: Bounds | None = None,
    constraints: Sequence[Constraint] = (),
    method: str = "SLSQP",
    iterations: int = 200,
    tolerance: float = 1e-10,
    progress: bool = False,
    checkpoint: str | Path | None = None,
) -> Design:
    """Minimise a function of a record over some of its fields, under limits.

    The solver sees the fields divided by powers of two near their largest start value,
    the objective divided by its start value, and gradients by torch.func in double
    precision, whatever the record's dtype. A point without finite value or gradient (a
    singular Fisher matrix) looks to it like a large value on a plateau, so that its
    line search steps back. What it returns is moved into the bounds and, by
    Gauss-Newton steps, onto the constraints; the best such design seen wins.

    Args:
        objective: a differentiable function of the record that returns one real
            number, such as ``lambda q: mrsim.crlb(f, "T2", sigma=1)(tissue, q).T2``.
        start: the record to start from; entries out of bounds are moved into them.
        *wanted: names of the fields that may change, dotted for nested records; a field
            that is ``None`` starts from its neutral value. No name: all present ones.
        bounds: name → (lower, upper) [the field's unit], scalars or of its shape;
            ``None`` for no bound on that side.
        constraints: limits such as `rms`, `total`, `slew`, `at_most`.
        method: ``"SLSQP"``, ``"trust-constr"`` (scipy, extra ``opt``), ``"Adam"`` or
            ``"LBFGS"`` (torch.optim; constraints by an augmented Lagrangian, less
            precise; LBFGS takes no bounds).
        iterations: most iterations of the solver.
        tolerance: relative change of the objective at which to stop.
        progress: show a progress bar (needs tqdm, extra ``demo``).
        checkpoint: a file that keeps the best design and the history after every
            iteration; a later call for the same problem goes on from it.

    Returns:
        The best design and how it was found.

    Raises:
        ValueError: the objective is not finite at the start or not one real number; a
            name, bound or method is unknown; the checkpoint is of another problem.

    Reference:
        Kraft 1988, A software package for sequential quadratic programming.

    >>> import mrsim
    >>> from mrsim import design
    >>> from mrsim.units import ms
    >>> decay = lambda tissue, q: tissue.M0 * (-q.TE / tissue.T2).exp()
    >>> @mrsim.record
    ... class Echoes:
    ...     TE: torch.Tensor  # (echo,) echo times [s]
    >>> cost = lambda q: mrsim.crlb(decay, "M0", "T2", sigma=0.01)(tissue, q).T2
    >>> tissue = mrsim.Tissue(T1=1.0, T2=80 * ms)
    >>> start = Echoes(TE=[10 * ms, 50 * ms])
    >>> found = design.minimise(cost, start, "TE", bounds={"TE": (0, None)})
    >>> (found.record.TE / ms).round(decimals=1)
    tensor([ 0.0000, 88.7000])
    """
    if method not in SOLVERS:
        raise ValueError(f"design: method must be one of {[*SOLVERS]}, got {method!r}")
    problem = pose(objective, start, wanted, bounds, constraints)
    x = inside(problem, problem.flatten(problem.base))
    value, gradient = value_and_gradient(problem, x)
    _refuse(value, gradient)
    mark = torch.cat([x, problem.lower, problem.upper, value.reshape(1)])
    state = State(x, float(value), violation(problem, x))
    saved = load(checkpoint, mark) if checkpoint else None
    log = SimpleNamespace(
        problem=problem,
        state=State(**saved) if saved else state,
        last=(x, value, gradient),
        unit=abs(float(value)) or 1.0,
        path=checkpoint,
        mark=mark,
        bar=None,
    )
    if progress:
        done = len(log.state.rows)
        log.bar = require("tqdm", "demo").tqdm(total=iterations, initial=done)
    _solve(log, method, iterations, tolerance)
    if log.bar is not None:
        log.bar.close()
    found: State = log.state
    rows = torch.tensor(found.rows, dtype=torch.float64).reshape(-1, 3)
    return Design(
        problem.build(found.x, problem.base),
        found.value,
        float(value),
        found.violation,
        found.success,
        found.message,
        found.evaluations,
        History(*rows.unbind(1)),
    )


def _refuse(value: Tensor, gradient: Tensor) -> None:
    if not value.isfinite():
        raise ValueError(
            f"design: the objective is {float(value)} at the start, so no direction is"
            f" better (for a CRLB: the Fisher matrix is singular, the sequence cannot"
            f" tell the unknowns apart); start from another sequence, for example one"
            f" of design.random_starts"
        )
    if not gradient.isfinite().all():
        raise ValueError(
            f"design: the objective is finite at the start but"
            f" {int((~gradient.isfinite()).sum())} of {len(gradient)} entries of its"
            f" gradient are not; move the start a little, away from zeros and kinks"
        )


def _solve(
    log: SimpleNamespace, method: str, iterations: int, tolerance: float
) -> None:
    """Run the solver; anew from its best if it failed or outgrew the unit."""
    least = _ZERO * log.unit
    for _ in range(_ATTEMPTS):
        left = iterations - len(log.state.rows)
        if log.state.success or left <= 0:
            break
        before = log.state.value
        log.unit = max(abs(before), least)
        run = Run(partial(_evaluate, log), partial(_note, log), left, tolerance)
        end = SOLVERS[method](log.problem, log.state.x, run)
        _keep(log, feasible(log.problem, end.x))
        met = end.success and log.state.violation <= TOLERANCE
        shrunk = least < abs(log.state.value) < _SHRUNK * log.unit
        log.state = log.state._replace(success=met and not shrunk, message=end.message)
        _save(log)
        if before - log.state.value <= tolerance * log.unit:
            break


def _measure(log: SimpleNamespace, x: Tensor) -> tuple[Tensor, Tensor]:
    seen, value, gradient = log.last
    if not torch.equal(seen, x):
        value, gradient = value_and_gradient(log.problem, x)
        log.last = (x.clone(), value, gradient)
        log.state = log.state._replace(evaluations=log.state.evaluations + 1)
    return value, gradient


def _evaluate(log: SimpleNamespace, x: Tensor) -> tuple[float, Tensor]:
    """Return the scaled objective and its gradient, or a plateau where it has none."""
    value, gradient = _measure(log, x)
    if not value.isfinite() or not gradient.isfinite().all():
        return _PLATEAU, torch.zeros_like(gradient)
    return float(value) / log.unit, gradient / log.unit


def _note(log: SimpleNamespace, x: Tensor) -> None:
    """Add an iterate to the history."""
    x = inside(log.problem, x)
    value, gradient = _measure(log, x)
    downhill = x - inside(log.problem, x - gradient / log.unit)
    over = violation(log.problem, x)
    row = (float(value), float(downhill.norm()), over)
    log.state = log.state._replace(rows=(*log.state.rows, row))
    _keep(log, x)
    _save(log)
    if log.bar is not None:
        log.bar.set_postfix(value=f"{row[0]:.6g}", violation=f"{over:.1e}")
        log.bar.update()


def _keep(log: SimpleNamespace, x: Tensor) -> None:
    """Keep a design that is better: nearer to feasible, then of lower value."""
    value, over = float(_measure(log, x)[0]), violation(log.problem, x)
    rank = max(over, TOLERANCE), value
    known = max(log.state.violation, TOLERANCE), log.state.value
    if math.isfinite(value) and rank < known:
        log.state = log.state._replace(x=x, value=value, violation=over)


def _save(log: SimpleNamespace) -> None:
    if log.path is not None:
        save(log.path, log.mark, log.state._asdict())
