"""Rematerialising segments: functions that carry their own derivative rules.

A segment is a function of flat tensors (see `mrsim._levels`) that keeps no tape. Its
derivative rules are segments again, made of ``jvp(f)`` and ``vjp(f)``, so the family is
closed under differentiation: every composition of torch.func transforms works, to any
order, and memory is that of one recomputed segment.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from types import CellType
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from mrsim import _levels
from mrsim._check import traced
from mrsim._levels import Family
from mrsim.tree import filled, smooth, tree_flatten, tree_leaves, tree_unflatten

F = TypeVar("F", bound=Callable[..., Any])


class Segment(NamedTuple):
    """A function of flat tensors and how its batch axes travel."""

    f: Callable[..., Any]
    primals: int  # inputs from this position on enter f linearly (tangents, cotangents)
    trailing: bool = False  # vmap appends its axis to every input; f broadcasts them
    expand: bool = False  # inputs that are not mapped are expanded to the batch
    push: Callable[..., Any] | None = None  # f's jvp, (*primals, *tangents) → tangent
    leading: bool = False  # f takes its linear inputs also with one more axis, first


def remat(f: F) -> F:
    """Make a function that saves only its inputs and recomputes itself for derivatives.

    Unlike ``torch.utils.checkpoint`` it composes with every torch.func transform but
    linearize, to any order. What is differentiated must be an argument of ``f``: a
    tensor that ``f`` closes over is a constant.

    Args:
        f: a function of pytrees, returning a pytree of floating or complex tensors.

    Returns:
        A function with the same value and derivatives.

    Raises:
        ValueError: (when called) ``f`` closes over a tensor that is differentiated.

    >>> import torch
    >>> from mrsim import remat
    >>> torch.func.hessian(remat(lambda x: x.sin() ** 2))(torch.tensor(0.0))
    tensor(2.)
    """

    @functools.wraps(f)
    def wrapped(*args: Any) -> Any:
        _refuse_closures(f)
        leaves, structure = tree_flatten(args)
        at = [k for k, x in enumerate(leaves) if isinstance(x, Tensor)]
        made: list[Any] = []

        def flat(*xs: Any) -> tuple[Tensor, ...]:
            out, spec = tree_flatten(f(*tree_unflatten(list(xs), structure)))
            made[:] = [spec]
            return tuple(out)

        segment = Segment(filled(flat, leaves, at), len(at))
        out = apply(segment, *(leaves[k] for k in at))
        return tree_unflatten(list(out), made[0])

    return wrapped  # pyright: ignore[reportReturnType]


def _refuse_closures(f: Callable[..., Any]) -> None:
    """Refuse the closures that would silently lose a derivative."""
    for name, x in closed_over(f):
        if x.requires_grad or traced(x):
            raise ValueError(
                f"remat: the function closes over {name!r}, whose derivative would"
                f" be lost; make it an argument"
            )


def closed_over(f: Any, seen: set[int] | None = None) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors, with their names, that a function closes over at any depth."""
    seen = set() if seen is None else seen
    if isinstance(f, functools.partial):
        held = {"argument": (f.func, f.args, f.keywords)}
    else:
        names = getattr(getattr(f, "__code__", None), "co_freevars", ())
        cells = zip(names, getattr(f, "__closure__", None) or (), strict=True)
        held = {name: _content(cell) for name, cell in cells}
    for name, value in held.items():
        for x in tree_leaves(value):
            if isinstance(x, Tensor):
                yield name, x
            elif callable(x) and id(x) not in seen:
                seen.add(id(x))
                yield from closed_over(x, seen)


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # a name that is not bound yet
        return None


def apply(segment: Segment, *inputs: Tensor) -> Any:
    """Run a segment under the transforms now active."""
    return _levels.apply(_CLOSED, segment, *inputs)


def _moving(inputs: Sequence[Tensor]) -> tuple[int, ...]:
    return tuple(k for k, x in enumerate(inputs) if smooth(x))


def _tangent(segment: Segment, at: Sequence[int], n: int) -> Segment:
    """Return the jvp of a segment of n inputs with tangents for those at ``at``."""

    def f(*inputs: Tensor) -> Any:
        primals = tuple(inputs[k].contiguous() for k in at)  # jvp refuses stride 0
        return _levels.jvp(filled(segment.f, inputs[:n], at), primals, inputs[n:])[1]

    made = Segment(f, n, trailing=segment.trailing, expand=True)
    return made._replace(f=segment.push, leading=True) if segment.push else made


def _cotangent(
    segment: Segment, at: Sequence[int], n: int, given: Sequence[bool] = ()
) -> Segment:
    """Return the vjp of a segment of n inputs with respect to those at ``at``.

    Cotangents of all outputs are given, or of those that ``given`` tells.
    """

    def f(*inputs: Tensor) -> Any:
        primals = (inputs[k] for k in at)
        out, pull, *_ = torch.func.vjp(filled(segment.f, inputs[:n], at), *primals)
        if isinstance(out, Tensor):
            return pull(inputs[n])
        bars = iter(inputs[n:])
        all_given = given or (True,) * len(out)
        pairs = zip(out, all_given, strict=True)
        return pull(tuple(next(bars) if g else torch.zeros_like(y) for y, g in pairs))

    return Segment(f, n, trailing=segment.trailing, expand=True)


def _value(segment: Segment, *inputs: Tensor) -> Any:
    out = segment.f(*inputs)
    if isinstance(out, Tensor):
        return _own(out, inputs)
    return tuple(_own(y, inputs) for y in out)


def along(segment: Segment, inputs: Sequence[Tensor], tangents: Sequence[Any]) -> Any:
    """Return a segment's tangents; ``None`` for an input's stands for zero."""
    at = _moving(inputs)
    rule = _tangent(segment, at, len(inputs))
    moves = (tangents[k] for k in at)
    given = [
        torch.zeros_like(inputs[k]) if t is None else t
        for k, t in zip(at, moves, strict=True)
    ]
    return apply(rule, *inputs, *given)


def back(
    segment: Segment, inputs: Sequence[Tensor], cotangents: Sequence[Any], _: Any
) -> Sequence[Tensor | None]:
    """Return the cotangents of a segment's inputs from those of its outputs."""
    at = _moving(inputs)
    given = [c is not None for c in cotangents]
    if not any(given):
        return [None] * len(inputs)
    rule = _cotangent(segment, at, len(inputs), given)
    bars = (c for c in cotangents if c is not None)
    grads = dict(zip(at, apply(rule, *inputs, *bars), strict=True))
    return [grads.get(k) for k in range(len(inputs))]


def _mapped(
    segment: Segment, size: int, dims: Sequence[int | None], inputs: Sequence[Tensor]
) -> Any:
    if segment.trailing and any(d is not None for d in dims[: segment.primals]):
        moved = [
            _last(x, d, size if segment.expand else 1)
            for x, d in zip(inputs, dims, strict=True)
        ]
        out = apply(segment, *moved)
        return out, _everywhere(out, last=True)
    pairs = zip(inputs, dims, strict=True)
    moved = [x if d is None else x.movedim(d, 0) for x, d in pairs]
    if segment.leading:
        n = segment.primals
        moved[n:] = [
            x.expand(size, *x.shape).contiguous() if d is None else x
            for x, d in zip(moved[n:], dims[n:], strict=True)
        ]
        inner = segment._replace(leading=False)
    else:
        mapped = tuple(None if d is None else 0 for d in dims)
        f = torch.func.vmap(segment.f, in_dims=mapped)
        inner = segment._replace(f=f, push=None)
    out = apply(inner, *moved)
    return out, _everywhere(out, last=False)


_CLOSED = Family(value=_value, push=along, pull=back, vmap=_mapped)


def _last(x: Tensor, dim: int | None, size: int) -> Tensor:
    """Move or give the mapped axis to the end, contiguous (jvp refuses stride 0)."""
    if dim is None:
        return x.unsqueeze(-1).expand(*x.shape, size).contiguous()
    return x.movedim(dim, -1).contiguous()


def _everywhere(out: Any, *, last: bool) -> Any:
    """Name the batch axis of each output; a negative number misleads torch 2.6."""
    if isinstance(out, Tensor):
        return out.ndim - 1 if last else 0
    return tuple(y.ndim - 1 if last else 0 for y in out)


def _own(y: Tensor, inputs: Sequence[Tensor]) -> Tensor:
    """Copy an output that is an input: autograd would take it for changed in place."""
    return y.clone() if any(y is x for x in inputs) else y
