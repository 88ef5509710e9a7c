"""Products of a Jacobian's rows, in double precision: Fisher information.

JᵀJ squares the condition number, so that the products of a float32 Jacobian need double
precision; the Jacobian itself does not. Nothing as large as it is made in double
precision for longer than one pass, and nothing is kept for derivatives but the inputs.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mrsim import _levels, _remat
from mrsim._levels import Family, no_derivative

_BLOCK = 2**20  # numbers that are worked on at a time
_ROUNDING = 100.0  # times eps √samples: noise of a Jacobian's row against ‖s‖


def gram(rows: Tensor, weights: Tensor) -> Tensor:
    """Return Fᵢⱼ = Σₖ wₖ Re(Jᵢₖ* Jⱼₖ) in double precision.

    Args:
        rows: J, (p, sample), real or complex.
        weights: w, (sample,) or (1,) for all samples, float64.

    Returns:
        (p, p), symmetric.
    """
    return _levels.apply(_GRAM, "value", rows, weights)


def rows_back(rows: Tensor, weights: Tensor, bar: Tensor) -> Tensor:
    """Return the cotangent of `gram`'s rows from that of its result.

    Args:
        rows: as in `gram`.
        weights: as in `gram`.
        bar: (p, p), float64.

    Returns:
        Σⱼ (Gᵢⱼ + Gⱼᵢ) w Jⱼ, (p, sample).
    """
    return _levels.apply(_GRAM, "rows", rows, weights, bar)


def _parts(rows: Tensor) -> Tensor:
    """Return real and imaginary part on a last axis, in double precision."""
    bare = rows.resolve_conj()
    real = torch.view_as_real(bare) if rows.is_complex() else bare.unsqueeze(-1)
    return real.double()


def products(rows: Tensor, weights: Tensor) -> Tensor:
    """Return F of rows (p, sample, *batch) and weights (sample or 1, *batch)."""
    x, shared = _parts(rows), weights.shape[0] == 1
    y = x if shared else x * weights.unsqueeze(-1)
    if rows.ndim == 2:
        made = y.flatten(1) @ x.flatten(1).mT
    else:
        p = range(x.shape[0])
        pairs = [(i, j) for i in p for j in p if i <= j]
        sums = {(i, j): (x[i] * y[j]).sum(0).sum(-1) for i, j in pairs}
        every = [torch.stack([sums[min(i, j), max(i, j)] for j in p]) for i in p]
        made = torch.stack(every)
    return made * weights[0] if shared else made


def turned_back(rows: Tensor, weights: Tensor, bar: Tensor) -> Tensor:
    """Return the cotangent of rows (p, sample, *batch) from one (p, p, *batch)."""
    x, both = _parts(rows), bar + bar.transpose(0, 1)
    if weights.shape[0] == 1:
        y, both = x, both * weights[0]
    else:
        y = x * weights.unsqueeze(-1)
    real = rows.real.dtype if rows.is_complex() else rows.dtype
    if rows.ndim == 2:
        made = (both @ y.flatten(1)).reshape(y.shape).to(real)
    else:
        flat, lanes = y.flatten(2), both.unsqueeze(-1).expand(*both.shape, y.shape[-1])
        each = [_mixed(shares, flat).to(real) for shares in lanes.flatten(2)]
        made = torch.stack(each).reshape(y.shape)
    return torch.view_as_complex(made) if rows.is_complex() else made.squeeze(-1)


def _mixed(shares: Tensor, y: Tensor) -> Tensor:
    total = shares[0] * y[0]
    for share, part in zip(shares[1:], y[1:], strict=True):
        total = torch.addcmul(total, share, part)
    return total


_REFERENCE = _remat.Segment(products, 2, trailing=True)


def _segment(rule: str) -> _remat.Segment:
    return _REFERENCE if rule == "value" else _remat._cotangent(_REFERENCE, (0,), 2)


def _value(rule: str, *inputs: Tensor) -> Any:
    f = products if rule == "value" else turned_back
    rows = inputs[0]
    size = max(x.shape[-1] for x in inputs) if rows.ndim > 2 else 1
    step = max(1, _BLOCK // max(1, rows.numel() // rows.shape[-1])) if size > 1 else 1
    if size <= step:
        return f(*inputs)
    parts = [
        f(
            *(
                x.narrow(-1, i, min(step, size - i)) if x.shape[-1] > 1 else x
                for x in inputs
            )
        )
        for i in range(0, size, step)
    ]
    return torch.cat(parts, -1)


def _push(rule: str, inputs: Sequence[Tensor], moves: Sequence[Any]) -> Any:
    made = _remat.along(_segment(rule), inputs, moves)
    return made if rule == "value" else made[0]


def _pull(
    rule: str, inputs: Sequence[Tensor], bars: Sequence[Any], wanted: Sequence[bool]
) -> Sequence[Tensor | None]:
    if rule != "value":
        return _remat.back(_segment(rule), inputs, bars, wanted)
    if wanted[1]:
        whole = _remat._cotangent(_REFERENCE, (0, 1), 2)
        return _remat.apply(whole, *inputs, *bars)
    return rows_back(*inputs, *bars), None


def _mapped(
    rule: str, size: int, dims: Sequence[int | None], inputs: Sequence[Tensor]
) -> Any:
    moved = [
        x.unsqueeze(-1) if d is None else x.movedim(d, -1)
        for x, d in zip(inputs, dims, strict=True)
    ]
    if rule != "value":  # a cotangent has all axes of what it belongs to
        moved = [x.expand(*x.shape[:-1], size) for x in moved]
    out = _levels.apply(_GRAM, rule, *moved)
    return out, out.ndim - 1


_GRAM = Family(value=_value, push=_push, pull=_pull, vmap=_mapped)


# --------------------------------------------------------------- rounding noise of rows


def noise(
    floors: tuple[float, ...],
    information: Tensor,
    value: Tensor,
    weights: Tensor,
    fields: Sequence[Tensor],
) -> Tensor:
    """Return the part of F that belongs to rows which are rounding noise.

    Args:
        floors: the least size of each field's natural change.
        information: F, (p, p).
        value: the signal s whose Jacobian the rows are.
        weights: (sample,) or (1,), float64.
        fields: what the rows are derivatives by, p numbers in all.

    Returns:
        (p, p), F where ‖scaleᵢ Jᵢ‖ ≤ C eps ‖s‖ and 0 elsewhere; a constant.
    """
    raw, s, w, *sizes = (x.detach() for x in (information, value, weights, *fields))
    edge = rounding(s.dtype, s.numel()) ** 2 * gram(s.reshape(1, -1), w)
    sizes = [x.reshape(-1) for x in sizes]
    return _levels.apply(_SILENT, floors, raw, edge.reshape(1), *sizes)


def rounding(dtype: torch.dtype, samples: int) -> float:
    """Return the largest norm, relative to that of the signal, of mere rounding."""
    return _ROUNDING * torch.finfo(dtype).eps * math.sqrt(samples)


def _silent(floors: tuple[float, ...], *inputs: Tensor) -> Tensor:
    """Find it in inputs with batch axes first, which no transform follows."""
    raw, edge, *fields = inputs
    pairs = zip(fields, floors, strict=True)
    least = [floor for x, floor in pairs for _ in range(x.shape[-1])]
    floor = torch.tensor(least, dtype=raw.dtype).to(raw.device)
    lead = raw.shape[:-2]
    largest = torch.cat([_largest(x).expand(*lead, -1) for x in fields], -1)
    size = torch.maximum(largest.double().abs(), floor)
    scale = torch.where(size == 0, 1.0, size)
    diagonal = raw.diagonal(dim1=-2, dim2=-1)
    silent = scale.square() * diagonal <= edge
    return torch.where(silent.unsqueeze(-1) | silent.unsqueeze(-2), raw, 0.0)


def _largest(x: Tensor) -> Tensor:
    """Return the largest size of a field's entries, for each of them."""
    if x.shape[-1] == 1:
        return x
    return x.abs().amax(-1, keepdim=True).expand(x.shape)


def _first(
    floors: tuple[float, ...],
    size: int,
    dims: Sequence[int | None],
    inputs: Sequence[Tensor],
) -> Any:
    pairs = zip(inputs, dims, strict=True)
    moved = [x.unsqueeze(0) if d is None else x.movedim(d, 0) for x, d in pairs]
    moved[0] = moved[0].expand(size, *moved[0].shape[1:])
    return _levels.apply(_SILENT, floors, *moved), 0


_SILENT = Family(value=_silent, push=no_derivative, pull=no_derivative, vmap=_first)
