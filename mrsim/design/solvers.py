"""Solvers behind one value-and-gradient: scipy's and torch's."""

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import grad_and_value, hessian

from mrsim._check import require
from mrsim.design.problem import Problem, excess, excess_slopes, inside

RATE = 0.05  # Adam's first step, in units of the variables' scale
WEIGHT = 10.0  # of a squared excess against the relative change of the objective
_ROUNDS = 10  # updates of the multipliers of torch.optim's constraints


class Run(NamedTuple):
    """What a solver needs besides the problem."""

    evaluate: Callable[
        [Tensor], tuple[float, Tensor]
    ]  # x → value of order one, gradient
    note: Callable[[Tensor], None]  # called with every iterate
    iterations: int
    tolerance: float  # relative change of the objective at which to stop


class End(NamedTuple):
    """How a solver ended."""

    x: Tensor
    success: bool
    message: str


def slsqp(problem: Problem, x: Tensor, run: Run) -> End:
    """Sequential quadratic programming (Kraft 1988), by scipy."""
    options = {"maxiter": run.iterations, "ftol": run.tolerance}
    return _scipy("SLSQP", problem, x, run, options)


def trust_constr(problem: Problem, x: Tensor, run: Run) -> End:
    """Interior-point trust region (Byrd, Hribar and Nocedal 1999), by scipy."""
    options = {"maxiter": run.iterations, "xtol": run.tolerance}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "delta_grad == 0.0", UserWarning)
        warnings.filterwarnings("ignore", "Singular Jacobian", UserWarning)
        return _scipy("trust-constr", problem, x, run, options)


def _scipy(
    method: str, problem: Problem, x: Tensor, run: Run, options: dict[str, Any]
) -> End:
    optimize = require("scipy.optimize", "opt")

    def tensor(x: Any) -> Tensor:
        return torch.tensor(x, dtype=torch.float64, device=problem.lower.device)

    def both(x: Any) -> tuple[float, Any]:
        value, gradient = run.evaluate(tensor(x))
        return value, gradient.cpu().numpy()

    def limits(x: Any) -> Any:
        return -excess(problem, tensor(x)).cpu().numpy()

    def slopes(x: Any) -> Any:
        return -excess_slopes(problem, tensor(x)).cpu().numpy()

    def bends(x: Any, v: Any) -> Any:
        return (
            hessian(lambda x: -tensor(v) @ excess(problem, x))(tensor(x)).cpu().numpy()
        )

    if not problem.constraints:
        limit = ()
    elif method == "SLSQP":
        limit = {"type": "ineq", "fun": limits, "jac": slopes}
    else:
        limit = optimize.NonlinearConstraint(limits, 0, math.inf, slopes, bends)
    low, high = problem.lower.cpu().numpy(), problem.upper.cpu().numpy()
    found = optimize.minimize(
        both,
        x.cpu().numpy(),
        jac=True,
        method=method,
        bounds=optimize.Bounds(low, high, keep_feasible=True),
        constraints=limit,
        callback=lambda x, *_: run.note(tensor(x)),
        options=options,
    )
    return End(tensor(found.x), bool(found.success), f"{method}: {found.message}")


def adam(problem: Problem, x: Tensor, run: Run) -> End:
    """Adam (Kingma and Ba 2015), by torch.optim: steps are clipped to the bounds."""
    moving = x.clone()
    optimiser = torch.optim.Adam([moving], lr=RATE, betas=(0.9, 0.99))
    multipliers, values = torch.zeros_like(excess(problem, x)), []
    for k in range(run.iterations):
        if k % max(1, run.iterations // _ROUNDS) == 0:
            multipliers = _raised(problem, moving, multipliers)
        value, gradient = run.evaluate(moving)
        moving.grad = gradient + _penalty(problem, moving, multipliers)[1]
        for group in optimiser.param_groups:
            group["lr"] = RATE * (1 - k / run.iterations)
        optimiser.step()
        moving.data = inside(problem, moving)
        run.note(moving.clone())
        values.append(value)
    last = values[-max(1, len(values) // 10) :]
    settled = max(last) - min(last) <= 1e-3 * abs(last[-1])
    verdict = "settled" if settled else "still moving, give it more iterations"
    return End(moving, settled, f"Adam: {len(values)} iterations, {verdict}")


def lbfgs(problem: Problem, x: Tensor, run: Run) -> End:
    """Limited-memory BFGS (Liu and Nocedal 1989), by torch.optim; takes no bounds.

    Args:
        problem: the problem.
        x: where to start.
        run: the rest.

    Returns:
        The end.

    Raises:
        ValueError: there are bounds.
    """
    if problem.lower.isfinite().any() or problem.upper.isfinite().any():
        raise ValueError(
            "design: LBFGS takes no bounds; use the method 'SLSQP', 'trust-constr' or"
            " 'Adam'"
        )
    rounds = _ROUNDS if problem.constraints else 1
    moving, multipliers = x.clone(), torch.zeros_like(excess(problem, x))
    change = math.inf
    for _ in range(rounds):
        optimiser = torch.optim.LBFGS(
            [moving],
            max_iter=1,
            max_eval=25,
            line_search_fn="strong_wolfe",
            tolerance_grad=0.0,
            tolerance_change=0.0,
        )

        def closure(multipliers: Tensor = multipliers) -> float:
            value, gradient = run.evaluate(moving)
            extra, slope = _penalty(problem, moving, multipliers)
            moving.grad = gradient + slope
            return value + float(extra)

        before = math.inf
        for _ in range(max(1, run.iterations // rounds)):
            value = float(optimiser.step(closure))
            run.note(moving.clone())
            change, before = before - value, value
            if abs(change) <= run.tolerance * abs(value):
                break
        multipliers = _raised(problem, moving, multipliers)
    settled = abs(change) <= run.tolerance * 10
    verdict = "converged" if settled else "still moving, give it more iterations"
    return End(moving, settled, f"LBFGS: {verdict}")


def _penalty(problem: Problem, x: Tensor, multipliers: Tensor) -> tuple[Tensor, Tensor]:
    """Return the augmented Lagrangian's term for the constraints and its gradient."""

    def term(x: Tensor) -> Tensor:
        force = (multipliers + WEIGHT * excess(problem, x)).relu()
        return (force.square() - multipliers.square()).sum() / (2 * WEIGHT)

    gradient, value = grad_and_value(term)(x)
    return value, gradient


def _raised(problem: Problem, x: Tensor, multipliers: Tensor) -> Tensor:
    return (multipliers + WEIGHT * excess(problem, x)).relu()


SOLVERS: Mapping[str, Callable[[Problem, Tensor, Run], End]] = {
    "SLSQP": slsqp,
    "trust-constr": trust_constr,
    "Adam": adam,
    "LBFGS": lbfgs,
}
