"""Descent on a mesh, or on any parameters of a simulation, with what belongs to it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mrsim.torrey._lbfgs import Loss, Metric, advance, begin
from mrsim.torrey.progress import progress_bar
from mrsim.tree import put, record

Remesh = Callable[[Any], tuple[Any, Loss, Metric | None] | None]


@record
class Optimised:
    """What a descent found, finished or not."""

    params: Any  # as they were given, at the lowest loss
    loss: Tensor  # () there
    history: Tensor  # (step,) loss after every step
    finished: bool = False  # False: interrupted, or out of iterations


def optimise_mesh(
    loss: Loss,
    start: Any,
    metric: Metric | None = None,
    iterations: int = 100,
    memory: int = 10,
    tolerance: float = 1e-5,
    remesh: Remesh | None = None,
    callback: Callable[[int, Any, float], None] | None = None,
    progress: bool = False,
) -> Optimised:
    """Minimise a loss over nodes, shapes, water, or a tuple of them, by L-BFGS.

    The metric gives the first guess of the inverse Hessian: with `smooth_metric` steps
    are smooth displacements, not spikes of single nodes. A step that inverts an
    element (loss inf or NaN) is shortened. Ctrl-C ends the descent and returns the
    best so far.

    Args:
        loss: of params; () tensor, finite at the start.
        start: a record such as `Nodes`, or a tuple of records.
        metric: gradient → direction, both like start; linear, symmetric and positive.
            By default every leaf is scaled by its largest entry squared.
        iterations: most steps.
        memory: number of steps remembered.
        tolerance: stop when ten steps together lower the loss by less than this share.
        remesh: called with the parameters after every step; returns ``None`` or new
            parameters, their loss and metric, with which the descent goes on.
        callback: called with the step, the parameters and the loss, to draw or save.
        progress: show a progress bar (needs tqdm, extra ``demo``).

    Returns:
        The parameters of the lowest loss.

    Raises:
        ValueError: the loss is not finite at the start.

    >>> import torch
    >>> from mrsim import torrey
    >>> nodes, topology = torrey.mesh_box([4e-3] * 3, (1, 1, 1))
    >>> def loss(x: torrey.Nodes) -> torch.Tensor:
    ...     return torrey.volume_change(x, topology, torch.tensor([7e-8]).double())
    >>> found = torrey.optimise_mesh(loss, nodes)
    >>> torrey.compartment_volumes(found.params, topology) * 1e8
    tensor([7.0000], dtype=torch.float64)
    """
    problem, state = begin(loss, start, metric)
    if not state.value.isfinite():
        raise ValueError(
            f"optimise_mesh: the loss is {float(state.value)} at the start; look for"
            f" inverted elements with torrey.mesh_quality"
        )
    history, finished, best = [state.value], False, state
    bar = progress_bar(iterations, progress)
    try:
        for k in range(iterations):
            new = advance(problem, state, memory)
            if new is None:
                finished = True
                break
            state = new
            history.append(state.value)
            best = state if state.value < best.value else best
            bar(float(state.value))
            if callback:
                callback(k + 1, problem.tree(state.x), float(state.value))
            renewed = remesh(problem.tree(state.x)) if remesh else None
            if renewed:
                params, loss, metric = renewed
                problem, state = begin(loss, params, metric)
                best = state
            if k >= 10 and history[-11] - history[-1] < tolerance * history[-1].abs():
                finished = True
                break
    except KeyboardInterrupt:
        pass
    made = Optimised(
        params=None, loss=best.value, history=torch.stack(history), finished=finished
    )
    return put(made, "params", problem.tree(best.x))  # a tuple of records stays one
