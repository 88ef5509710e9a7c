"""The sum of squares of one voxel around one point."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mrsim.fit.unknowns import filled, sizes
from mrsim.transform import value_and_jac
from mrsim.tree import get

_SILENT = 100.0  # times eps √samples: rounding noise of a Jacobian's column against ‖s‖


class Local(NamedTuple):
    """The sum of squares around one point."""

    cost: Tensor  # () ½ ‖r‖²
    slope: Tensor  # (p,) Jᵀ r
    curve: Tensor  # (p, p) Jᵀ J
    silent: Tensor  # (p,) bool: the column of J is rounding noise, and taken as 0
    power: Tensor  # () ‖data‖²


def linearise(
    f: Callable[..., Tensor],
    names: Sequence[str],
    x: Tensor,
    data: Tensor,
    base: Any,
    args: Sequence[Any],
) -> Local:
    """Expand ½ ‖f(x) − data‖² to second order in the Gauss-Newton sense.

    Args:
        f: the model.
        names: the unknown fields of base.
        x: their values, flat.
        data: what is fitted.
        base: the record that gives all other fields.
        args: further arguments of f.

    Returns:
        Cost, gradient and curvature.

    Raises:
        ValueError: the model's signal and data differ in shape.
        TypeError: one of them is complex, the other real.
    """
    value, jacobian = value_and_jac(f, *names)(filled(base, names, x), *args)
    _check_signal(value, data)
    columns = [get(jacobian, n).reshape(value.numel(), -1) for n in names]
    flat = (value - data).reshape(-1), value.detach().reshape(-1), data.reshape(-1)
    j, r, s, d = map(_real, (torch.cat(columns, 1), *flat))
    eps = torch.finfo(x.dtype).eps
    noise = _SILENT * eps * math.sqrt(len(r)) * s.square().sum().sqrt()
    lengths = j.detach().square().sum(0).sqrt()  # norm(dim=0) took a tenth of a fit
    silent = sizes(base, names, x) * lengths <= noise
    clean = torch.where(silent, 0.0, j)
    return Local(
        cost=r.square().sum() / 2,
        slope=clean.mT @ r,
        curve=clean.mT @ clean,
        silent=silent,
        power=d.square().sum(),
    )


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


def _real(x: Tensor) -> Tensor:
    """Put the imaginary parts behind the real parts along the first axis."""
    return torch.cat([x.real, x.imag]) if x.is_complex() else x
