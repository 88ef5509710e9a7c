"""Steps of L-BFGS in a metric (Liu & Nocedal 1989, Math Program 45:503, alg. 2.1)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import grad_and_value

from mrsim.tree import filled, smooth, tree_flatten, tree_unflatten

_SUFFICIENT = 1e-4  # of the decrease that the slope promises (Armijo)
_SHRINK, _TRIALS = 0.4, 25

Loss = Callable[[Any], Tensor]
Metric = Callable[[Any], Any]


class Problem(NamedTuple):
    """A loss of a tree as one of a flat vector."""

    look: Callable[[Tensor], tuple[Tensor, Tensor]]  # x → slope, value
    tree: Callable[[Tensor], Any]  # x → params
    metric: Callable[[Tensor], Tensor]  # slope → direction


class State(NamedTuple):
    """Where the descent is, and the steps that it remembers."""

    x: Tensor
    slope: Tensor
    value: Tensor
    pairs: tuple[tuple[Tensor, Tensor], ...] = ()  # steps, changes of slope


def begin(loss: Loss, start: Any, metric: Metric | None) -> tuple[Problem, State]:
    """Flatten a problem and look at its start."""
    given, structure = tree_flatten(start)
    leaves = [x.detach() if isinstance(x, Tensor) else x for x in given]
    at = [k for k, x in enumerate(leaves) if smooth(x)]
    sizes = [leaves[k].numel() for k in at]

    def tree(x: Tensor) -> Any:
        parts = [
            p.reshape(leaves[k].shape) for k, p in zip(at, x.split(sizes), strict=True)
        ]
        return filled(lambda *xs: tree_unflatten(list(xs), structure), leaves, at)(
            *parts
        )

    def flat(params: Any) -> Tensor:
        parts, _ = tree_flatten(params)
        return torch.cat([parts[k].reshape(-1) for k in at])

    x = flat(start).detach()
    size = torch.cat([leaves[k].abs().amax().expand(leaves[k].numel()) for k in at])
    square = torch.where(size == 0, 1.0, size) ** 2
    problem = Problem(
        look=grad_and_value(lambda x: loss(tree(x))),
        tree=tree,
        metric=(lambda g: square * g)
        if metric is None
        else lambda g: flat(metric(tree(g))),
    )
    return problem, State(x, *problem.look(x))


def advance(problem: Problem, state: State, memory: int) -> State | None:
    """Take one step; ``None`` where none lowers the loss."""
    way = _direction(problem, state)
    if state.slope @ way >= 0:
        state = state._replace(pairs=())
        way = _direction(problem, state)
    promised = state.slope @ way
    # the first step moves the largest entry by a hundredth
    first = 0.01 * state.x.abs().amax() / way.abs().amax().clamp_min(1e-300)
    size = 1.0 if state.pairs else float(first)
    for _ in range(_TRIALS):
        x = state.x + size * way
        slope, value = problem.look(x)
        if value <= state.value + _SUFFICIENT * size * promised:
            break
        size *= _SHRINK
    else:
        return None
    s, y = x - state.x, slope - state.slope
    curved = s @ y > 1e-12 * s.norm() * y.norm()
    pairs = (*state.pairs, (s, y))[-memory:] if curved else state.pairs
    return State(x, slope, value, pairs)


def _direction(problem: Problem, state: State) -> Tensor:
    q, shares = state.slope, []
    for s, y in reversed(state.pairs):
        shares.append((s @ q) / (s @ y))
        q = q - shares[-1] * y
    d = problem.metric(q)
    if state.pairs:
        s, y = state.pairs[-1]
        d = d * (s @ y) / (y @ problem.metric(y))
    for (s, y), share in zip(state.pairs, reversed(shares), strict=True):
        d = d + s * (share - (y @ d) / (s @ y))
    return -d
