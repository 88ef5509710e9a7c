"""The cost of one voxel around one point: value, slope and curvature."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mrsim.fit.unknowns import filled, sizes
from mrsim.transform import value_and_jac
from mrsim.tree import get

_FEW = 8  # unknowns
_SILENT = 100.0  # times eps √samples: rounding noise of a Jacobian's column against ‖s‖


class Local(NamedTuple):
    """The cost around one point; the formulas are those of residuals r = s − data."""

    cost: Tensor  # () ½ ‖r‖²
    slope: Tensor  # (p,) Jᵀ r, the exact gradient
    curve: Tensor  # (p, p) Jᵀ J
    silent: Tensor  # (p,) bool: the column of J is rounding noise, and taken as 0
    power: Tensor  # () ‖data‖²


class Tangent(NamedTuple):
    """A model's signal around one point, real; imaginary parts come behind real."""

    value: Tensor  # (sample,)
    columns: Tensor  # (sample, p) Jacobian, silent columns 0
    silent: Tensor  # (p,) bool


def tangent(
    f: Callable[..., Tensor],
    names: Sequence[str],
    x: Tensor,
    data: Tensor,
    base: Any,
    args: Sequence[Any],
) -> Tangent:
    """Expand a model's signal to first order.

    Args:
        f: the model.
        names: the unknown fields of base.
        x: their values, flat.
        data: what is fitted.
        base: the record that gives all other fields.
        args: further arguments of f.

    Returns:
        Signal and Jacobian.

    Raises:
        ValueError: the model's signal and data differ in shape.
        TypeError: one of them is complex, the other real.
    """
    value, jacobian = value_and_jac(f, *names)(filled(base, names, x), *args)
    _check_signal(value, data)
    columns = [get(jacobian, n).reshape(value.numel(), -1) for n in names]
    j, s = real(torch.cat(columns, 1)), real(value.reshape(-1))
    silent = sizes(base, names, x) * lengths(j) <= rounding(s)
    return Tangent(s, torch.where(silent, 0.0, j), silent)


def lengths(columns: Tensor) -> Tensor:
    """Return the norms of columns, without derivative."""
    return columns.detach().square().sum(0).sqrt()  # norm(dim=0) took a tenth of a fit


def rounding(signal: Tensor) -> Tensor:
    """Return the length below which a column is rounding noise beside a signal."""
    eps = torch.finfo(signal.dtype).eps
    noise = _SILENT * eps * math.sqrt(len(signal))
    return noise * signal.detach().square().sum().sqrt()


def squares(at: Tangent, data: Tensor, sigma: Tensor | None) -> Local:
    """Expand ½ Σ |s − data|² to second order, in the sense of Gauss and Newton.

    Args:
        at: signal and Jacobian.
        data: what is fitted.
        sigma: by which residuals are divided, () or like data; ``None`` for 1.

    Returns:
        The sum of squares.
    """
    d, s, j = real(data.reshape(-1)), at.value, at.columns
    if sigma is not None:
        width = sigma.expand(data.shape).reshape(-1)
        weight = 1 / (torch.cat([width, width]) if data.is_complex() else width)
        d, s, j = d * weight, s * weight, j * weight.unsqueeze(-1)
    r = s - d
    slope, curve = products(j, r)
    return Local(
        cost=r.square().sum() / 2,
        slope=slope,
        curve=curve,
        silent=at.silent,
        power=d.square().sum(),
    )


def products(j: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
    """Return Jᵀr and JᵀJ.

    Args:
        j: (sample, p).
        r: (sample,).

    Returns:
        (p,) and (p, p).
    """
    if j.shape[1] > _FEW:
        return j.mT @ r, j.mT @ j
    # a batch of tiny matrix products takes seven times as long as these sums
    columns = j.unbind(1)
    slope = torch.stack([(x * r).sum() for x in columns])
    half = [[(x * y).sum() for y in columns[: i + 1]] for i, x in enumerate(columns)]
    size = range(len(columns))
    rows = [[half[max(i, k)][min(i, k)] for k in size] for i in size]
    return slope, torch.stack([torch.stack(row) for row in rows])


def _check_signal(value: Any, data: Tensor) -> None:
    if not isinstance(value, Tensor) or value.shape != data.shape:
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(
            f"fit: data must have the shape of the model's signal, {got}, got"
            f" {tuple(data.shape)}; map over voxels with"
            f" vmap(levenberg_marquardt(f), in_dims=(0, 0, None))"
        )
    if value.is_complex() != data.is_complex():
        raise TypeError(
            f"fit: data is {data.dtype} but the model's signal is {value.dtype}; fit"
            f" complex data, or a real model such as lambda *a: f(*a).real (or .abs())"
        )


def real(x: Tensor) -> Tensor:
    """Put the imaginary parts behind the real parts along the first axis."""
    return torch.cat([x.real, x.imag]) if x.is_complex() else x
