"""Shapes and water from signals: few unknowns, with their covariance."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mrsim._covariance import covariance
from mrsim.fit.unknowns import check_data, filled, sizes, unknowns
from mrsim.torrey.progress import progress_bar
from mrsim.transform import value_and_jac
from mrsim.tree import get, record

_LARGEST = 0.5  # of an unknown's size: the most that one step changes it
_WORST = 1e8  # damping at which there is nothing left to gain


@record
class Recovered:
    """The unknowns at the lowest misfit and what is known about them."""

    params: Any  # as start, with the unknowns at the minimum
    covariance: Tensor  # (p, p) Cramér-Rao bound there, in the order of the names
    cost: Tensor  # () ½ Σ (residual/σ)²
    history: Tensor  # (step,) cost after every step
    finished: bool = False  # False: interrupted, or out of iterations


def recover(
    f: Callable[[Any], Tensor],
    *wanted: str,
    sigma: float,
    iterations: int = 30,
    tolerance: float = 1e-2,
    callback: Callable[[int, Any, float], None] | None = None,
    progress: bool = False,
) -> Callable[[Tensor, Any], Recovered]:
    """Make a function that fits shape and water of a mesh to measured signals.

    Levenberg-Marquardt steps on ½ Σ |f(θ) − data|²/σ², each column of the Jacobian
    scaled to unit length. Unlike `mrsim.fit.levenberg_marquardt`, which is made for
    maps of many voxels, it works on one mesh, shows how it goes on, and Ctrl-C returns
    the best so far.

    Args:
        f: model of one record, which may hold several (shape, water): signals (k,),
            real or complex.
        *wanted: names of the unknowns, dotted (``"shape.radii"``, ``"water.D"``); no
            name: every field that is present.
        sigma: standard deviation of each real channel of the data.
        iterations: most steps.
        tolerance: stop when a step would move the unknowns by less than this share of
            their standard deviations.
        callback: called with the step, the parameters and the cost.
        progress: show a progress bar (needs tqdm, extra ``demo``).

    Returns:
        A function ``(data, start)`` → `Recovered`.

    Raises:
        ValueError: (when called) a name is no field of start, there are no data, or
            the cost is not finite there.

    Reference:
        Levenberg 1944; Marquardt 1963.

    >>> import torch
    >>> from mrsim import torrey
    >>> chart, topology = torrey.sphere_chart((2,))
    >>> def size(x: torrey.Ball) -> torch.Tensor:
    ...     return torrey.compartment_volumes(torrey.ball(chart, x), topology) * 1e9
    >>> start = torrey.Ball(radii=torch.tensor([3e-3], dtype=torch.float64))
    >>> data = torch.tensor([523.5988], dtype=torch.float64)
    >>> torrey.recover(size, sigma=1.0)(data, start).params.radii
    tensor([0.0050], dtype=torch.float64)
    """

    def run(data: Tensor, start: Any) -> Recovered:
        base, names = unknowns(start, wanted)
        check_data(data, base, names)
        x = torch.cat([get(base, n).reshape(-1) for n in names]).detach()

        def look(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            return _look(f, names, filled(base, names, x), data, sigma)

        cost, slope, curve = look(x)
        if not cost.isfinite():
            raise ValueError(
                f"recover: the cost is {float(cost)} at the start; look for inverted"
                f" elements with torrey.mesh_quality"
            )
        history, damping, finished = [cost], 1e-3, False
        bar = progress_bar(iterations, progress)
        try:
            for k in range(iterations):
                scale = sizes(base, names, x)
                move, damping, new = _step(look, x, slope, curve, scale, cost, damping)
                if new is None:
                    finished = True
                    break
                finished = bool((move @ curve @ move) < tolerance**2)
                x, (cost, slope, curve) = x + move, new
                history.append(cost)
                bar(float(cost))
                if callback:
                    callback(k + 1, filled(base, names, x), float(cost))
                if finished:
                    break
        except KeyboardInterrupt:
            pass
        return Recovered(
            params=filled(base, names, x),
            covariance=covariance(curve),
            cost=cost,
            history=torch.stack(history),
            finished=finished,
        )

    return run


def _look(
    f: Callable[[Any], Tensor], names: tuple[str, ...], at: Any, data: Any, sigma: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the cost, its slope and the Fisher information."""
    value, jacobian = value_and_jac(f, *names)(at)
    if value.shape != data.shape:
        raise ValueError(
            f"recover: data have shape {tuple(data.shape)}, the signals of the model"
            f" {tuple(value.shape)}"
        )
    columns = [get(jacobian, n).reshape(value.numel(), -1) for n in names]
    r, J = _real((value - data).reshape(-1)), _real(torch.cat(columns, -1))
    r, J = r.detach() / sigma, J.detach() / sigma
    return r @ r / 2, J.mT @ r, J.mT @ J


def _real(x: Tensor) -> Tensor:
    return torch.cat([x.real, x.imag]) if x.is_complex() else x


def _step(
    look: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]],
    x: Tensor,
    slope: Tensor,
    curve: Tensor,
    scale: Tensor,
    cost: Tensor,
    damping: float,
) -> tuple[Tensor, float, tuple[Tensor, Tensor, Tensor] | None]:
    """Return a step that lowers the cost, with what is seen from there, or ``None``."""
    unit = curve.diagonal().sqrt()
    unit = torch.where(unit > 0, unit, 1.0)
    even = curve / (unit * unit[:, None])
    while damping < _WORST:
        eye = damping * torch.eye(len(x), dtype=x.dtype, device=x.device)
        move = -torch.linalg.inv_ex(even + eye)[0] @ (slope / unit) / unit
        move = move / torch.clamp((move / scale).abs().amax() / _LARGEST, min=1.0)
        new = look(x + move)
        if new[0].isfinite() and new[0] <= cost * (1 + 1e-12):
            return move, damping / 5, new
        damping *= 4
    return torch.zeros_like(x), damping, None
