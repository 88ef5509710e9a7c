"""Cramér-Rao bounds from a Jacobian's rows, as one function with one derivative rule.

For one voxel the operations between the rows and the bound take longer than the rows
themselves where a transform follows each of them; so none does.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import add
from typing import Any

import torch
from torch import Tensor

from mrsim import _levels, _remat
from mrsim._check import concrete
from mrsim._covariance import Bound, invert, regular, tolerance
from mrsim._gram import gram, noise, products, rounding, rows_back, turned_back
from mrsim._levels import Family
from mrsim._recorder import opaque
from mrsim._small import conjugated, inverse

_SMALL = 8  # unknowns, whose matrix Python inverts as fast as a few tensors are made


@dataclass(frozen=True, eq=False)  # no tuple: torch would look for tensors inside
class Rule:
    """What a bound depends on besides tensors."""

    floors: tuple[float, ...]  # the least size of each field's natural change
    shapes: tuple[torch.Size, ...]  # of the fields
    dtype: torch.dtype  # real dtype of the model
    prior: bool = False  # the inputs hold prior information
    back: bool = False  # the rows' cotangent instead; those of the bounds come last


def variances(rule: Rule, *inputs: Tensor) -> Sequence[Tensor]:
    """Return the smallest variances of unbiased estimates.

    Args:
        rule: everything that is no tensor.
        *inputs: the derivatives of the signal by each number of the fields,
            (p, *sample), the signal, weights, (sample,) or (1,) in float64, the fields,
            and the information known beforehand, (p, p) in float64, if there is any.

    Returns:
        The variances of each field, of its shape.
    """
    return _levels.apply(_BOUND, rule, *inputs)


def information(rule: Rule, *inputs: Tensor) -> Tensor:
    """Return the Fisher matrix (p, p) of what `variances` takes."""
    rows, value, weights, *fields = inputs[: 3 + len(rule.floors)]
    raw = gram(rows.flatten(1), weights)
    # the value becomes 0; its derivatives stay, since they need not vanish with it
    matrix = raw - noise(rule.floors, raw, value, weights, fields)
    return matrix + inputs[3 + len(rule.floors)] if rule.prior else matrix


def bound(rule: Rule, *inputs: Tensor) -> Bound:
    """Return the whole covariance of what `variances` takes, and what has none."""
    return invert(information(rule, *inputs), torch.finfo(rule.dtype).eps)


def _variances(rule: Rule, *inputs: Tensor) -> tuple[Tensor, ...]:
    flat = bound(rule, *inputs).matrix.diagonal()
    return _apart(rule, flat.to(rule.dtype))


def _apart(rule: Rule, flat: Tensor) -> tuple[Tensor, ...]:
    if not any(rule.shapes):
        return flat.unbind()
    parts = flat.split([shape.numel() for shape in rule.shapes])
    return tuple(x.reshape(s) for x, s in zip(parts, rule.shapes, strict=True))


def _rows_back(rule: Rule, *inputs: Tensor) -> Tensor:
    """Return the rows' cotangent: -(F⁻¹ diag(bars) F⁻¹) through F = Σ w J* J."""
    count = len(rule.floors)
    rows, weights = inputs[0], inputs[2]
    matrix = information(rule, *inputs[:-count])
    f = regular(matrix, torch.finfo(rule.dtype).eps)
    inverse = torch.linalg.inv_ex(matrix * f.unit + f.shift)[0]
    bars = torch.cat([bar.reshape(-1) for bar in inputs[-count:]]).double()
    turned = inverse.mT * (bars * f.scale.diagonal()) @ inverse.mT
    return rows_back(rows.flatten(1), weights, -turned * f.unit).reshape(rows.shape)


def _function(rule: Rule) -> Any:
    return _rows_back if rule.back else _variances


def _segment(rule: Rule, n: int) -> _remat.Segment:
    return _remat.Segment(lambda *xs: _function(rule)(rule, *xs), n)


def _value(rule: Rule, *inputs: Tensor) -> Any:
    return opaque(_plain, rule, *inputs)


def _push(rule: Rule, inputs: Sequence[Tensor], moves: Sequence[Any]) -> Any:
    return _remat.along(_segment(rule, len(inputs)), inputs, moves)


def _pull(
    rule: Rule, inputs: Sequence[Tensor], bars: Sequence[Any], wanted: Sequence[bool]
) -> Sequence[Tensor | None]:
    if rule.back or wanted[2] or any(wanted[3 + len(rule.floors) :]):
        return _remat.back(_segment(rule, len(inputs)), inputs, bars, wanted)
    pairs = zip(bars, rule.shapes, strict=True)
    given = [inputs[0].real.new_zeros(s) if x is None else x for x, s in pairs]
    made = _levels.apply(_BOUND, replace(rule, back=True), *inputs, *given)
    return made, *(None,) * (len(inputs) - 1)


def _mapped(
    rule: Rule, _: int, dims: Sequence[int | None], inputs: Sequence[Tensor]
) -> Any:
    segment = _segment(rule, len(inputs))
    made = torch.func.vmap(segment.f, in_dims=tuple(dims))(*inputs)
    return made, 0 if rule.back else (0,) * len(made)


_BOUND = Family(value=_value, push=_push, pull=_pull, vmap=_mapped)


# ------------------------------------------------------ where no transform follows


def _plain(rule: Rule, *inputs: Tensor) -> Any:
    covariance = _small_covariance(rule, inputs)
    if covariance is None:
        return _function(rule)(rule, *inputs)
    rows, weights = inputs[0], inputs[2]
    if not rule.back:
        diagonal = [row[i] for i, row in enumerate(covariance)]
        return _apart(rule, torch.tensor(diagonal, dtype=rule.dtype).to(rows.device))
    bars = [x for bar in inputs[-len(rule.floors) :] for x in _numbers(bar)]
    turned = conjugated(covariance, [-x for x in bars])
    bar = torch.tensor(turned, dtype=weights.dtype).to(rows.device)
    return turned_back(rows.flatten(1), weights, bar).reshape(rows.shape)


def _small_covariance(rule: Rule, inputs: Sequence[Tensor]) -> list[list[float]] | None:
    """Return the covariance of a few unknowns, all of which it has."""
    count = len(rule.floors)
    rows, value, weights, *fields = inputs[: 3 + count]
    if len(rows) > _SMALL or not concrete(rows):
        return None
    signals = torch.cat([rows.flatten(1), value.reshape(1, -1)])
    *matrix, last = products(signals, weights).tolist()
    eps = torch.finfo(rule.dtype).eps
    least = rounding(rule.dtype, value.numel()) ** 2 * last[-1]
    pairs = zip(fields, rule.floors, strict=True)
    scales = [scale for x, floor in pairs for scale in _scales(x, floor)]
    if not all(s**2 * matrix[i][i] > least for i, s in enumerate(scales)):
        return None
    matrix = [row[: len(rows)] for row in matrix]
    if rule.prior:
        given = zip(matrix, inputs[3 + count].tolist(), strict=True)
        matrix = [list(map(add, row, known)) for row, known in given]
    return inverse(matrix, tolerance(eps, len(rows)))


def _scales(field: Tensor, floor: float) -> list[float]:
    """Return the natural change of each number of a field (see `noise`)."""
    numbers = _numbers(field)
    return [max(*map(abs, numbers), floor) or 1.0] * len(numbers)


def _numbers(x: Tensor) -> list[float]:
    return x.reshape(-1).tolist()
