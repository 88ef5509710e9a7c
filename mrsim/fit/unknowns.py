"""The unknown fields of a record as one flat vector with bounds."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mrsim._check import concrete, traced
from mrsim._convert import as_tensor
from mrsim._remat import closed_over
from mrsim.transform import locate
from mrsim.tree import (
    fields,
    get,
    is_record,
    names as field_names,
    promote,
    put,
    smooth,
)

Limit = float | Tensor | None
Bounds = Mapping[str, tuple[Limit, Limit]]


def unknowns(start: Any, wanted: Sequence[str]) -> tuple[Any, tuple[str, ...]]:
    """Return the start with values in the named fields, and the names.

    Raises:
        TypeError: start is no record.
        ValueError: a name is no field of it.
    """
    if not is_record(start):
        raise TypeError(
            f"fit: start must be a record that holds the unknowns, such as"
            f" mrsim.Tissue, got {type(start).__name__}"
        )
    chosen = tuple(wanted or (n for n in field_names(start) if smooth(get(start, n))))
    for name in chosen:
        locate([start], name)
        start = promote(start, name)
    return start, chosen


def check_names(where: str, wanted: Sequence[Any]) -> None:
    """Require names of fields, where a beginner gives data, each of them once.

    Raises:
        TypeError: something else is among them.
        ValueError: a name is there twice.
    """
    if not all(isinstance(name, str) for name in wanted):
        raise TypeError(
            f"fit.{where}: takes names of fields and makes a function; write"
            f' {where}(f, "T2")(data, start, *args)'
        )
    if len(set(wanted)) < len(wanted):
        raise ValueError(f"fit.{where}: a field is named twice among {wanted}")


def refuse_closures(f: Callable[..., Any]) -> None:
    """Refuse a model that holds a tensor which a transform follows.

    The fit runs below all transforms, where such a tensor has lost its meaning.

    Raises:
        ValueError: there is one among the variables that f closes over.
    """
    for name, x in closed_over(f):
        if traced(x):
            raise ValueError(
                f"fit: the model closes over {name}, a tensor that a transform maps or"
                f" differentiates; make it an argument: fit(data, start, tensor)"
            )


def check_data(data: Any, base: Any, names: Sequence[str]) -> None:
    """Require data, and unknowns of their precision.

    Raises:
        TypeError: they differ, or data is no floating-point or complex tensor.
        ValueError: there are no data, or no unknowns.
    """
    if not smooth(data):
        got = data.dtype if isinstance(data, Tensor) else type(data).__name__
        raise TypeError(
            f"fit: data must be a floating-point or complex tensor, got {got};"
            f" convert it with torch.as_tensor(data, dtype=...)"
        )
    if not data.numel() or not names:
        raise ValueError(
            f"fit: data of at least one sample and an unknown to search for are needed,"
            f" got data of shape {tuple(data.shape)} and the unknowns {tuple(names)}"
        )
    for name in names:
        found = get(base, name).dtype
        if found != data.real.dtype:
            raise TypeError(
                f"fit: data is {data.dtype} but {name} is {found}; bring both to one"
                f" precision with mrsim.to(start, dtype=data.real.dtype)"
            )


def noise(
    sigma: float | Tensor | None, like: Tensor, shape: Sequence[int] = ()
) -> Tensor | None:
    """Return a standard deviation, () or of a shape, of the dtype of another tensor.

    Raises:
        ValueError: it has another shape.
    """
    if sigma is None:
        return None
    width = as_tensor(sigma, like).to(like)
    if width.shape not in ((), tuple(shape)):
        kinds = f"a number or of shape {tuple(shape)}" if shape else "a number here"
        raise ValueError(f"fit: sigma must be {kinds}, got shape {tuple(width.shape)}")
    return width


def limits(base: Any, names: Sequence[str], bounds: Bounds) -> tuple[Tensor, Tensor]:
    """Return the lower and upper bounds of the unknowns, flat.

    Raises:
        ValueError: a bound is of no unknown, has a wrong shape, or crosses the other.
    """
    for name in set(bounds) - set(names):
        raise ValueError(
            f"fit: bounds are given for {name!r}, but the unknowns are {tuple(names)}"
        )
    pairs = [_pair(n, get(base, n), bounds.get(n)) for n in names]
    lower, upper = zip(*pairs, strict=True)
    return torch.cat(lower), torch.cat(upper)


def _pair(
    name: str, x: Tensor, given: tuple[Limit, Limit] | None
) -> tuple[Tensor, Tensor]:
    low, high = given or (None, None)
    ends = [
        torch.as_tensor(open_end if v is None else v, dtype=x.dtype, device=x.device)
        for v, open_end in ((low, -math.inf), (high, math.inf))
    ]
    crossed = all(map(concrete, ends)) and not (ends[0] <= ends[1]).all()
    if crossed or any(v.ndim > x.ndim for v in ends):
        raise ValueError(
            f"fit: the bounds of {name} are (lower, upper) with lower ≤ upper, numbers"
            f" or of its shape {tuple(x.shape)}, got {given}"
        )
    lower, upper = (v.expand(x.shape).reshape(-1) for v in ends)
    return lower, upper


def filled(base: Any, names: Sequence[str], x: Tensor) -> Any:
    """Return the record with the named fields taken from a flat vector."""
    start = 0
    for name in names:
        like = get(base, name)
        part = x[start : start + like.numel()]
        base, start = put(base, name, part.reshape(like.shape)), start + like.numel()
    return base


def sizes(base: Any, names: Sequence[str], x: Tensor) -> Tensor:
    """Return the size of a natural change of each unknown: x, its start, or 1 unit."""
    parts = []
    for name in names:
        head, _, last = name.rpartition(".")
        owner = get(base, head) if head else base
        meta = next(f.metadata for f in fields(owner) if f.name == last)
        least = 1.0 if meta.get("neutral") == 0 else 0.0
        parts.append(get(base, name).reshape(-1).abs().clamp(min=least))
    size = torch.maximum(torch.cat(parts), x.detach().abs())
    return torch.where(size == 0, 1.0, size)
