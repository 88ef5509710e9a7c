"""Rematerialising segments: functions that carry their own derivative rules.

A segment is an `autograd.Function` of flat tensors whose forward keeps no tape. Its
derivative rules are segments again, made of ``jvp(f)`` and ``vjp(f)``, so the family is
closed under differentiation: every composition of torch.func transforms works, to any
order, and memory is that of one recomputed segment.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from mrsim.tree import tree_flatten, tree_unflatten

F = TypeVar("F", bound=Callable[..., Any])


class Segment(NamedTuple):
    """A function of flat tensors and how its batch axes travel."""

    f: Callable[..., Any]
    trailing: bool  # vmap appends its axis to every input's shape; f broadcasts them
    primals: int  # inputs from this position on enter f linearly (tangents, cotangents)
    expand: bool  # inputs that are not mapped are expanded to the batch


def remat(f: F) -> F:
    """Make a function that saves only its inputs and recomputes itself for derivatives.

    Unlike ``torch.utils.checkpoint`` it composes with every torch.func transform, to
    any order.

    Args:
        f: a function of pytrees of floating tensors, returning a pytree of tensors.

    Returns:
        A function with the same value and derivatives.

    >>> import torch
    >>> from mrsim import remat
    >>> torch.func.hessian(remat(lambda x: x.sin() ** 2))(torch.tensor(0.0))
    tensor(2.)
    """

    def wrapped(*args: Any) -> Any:
        leaves, structure = tree_flatten(args)
        made: list[Any] = []

        def flat(*xs: Tensor) -> tuple[Tensor, ...]:
            out, spec = tree_flatten(f(*tree_unflatten(list(xs), structure)))
            made[:] = [spec]
            return tuple(out)

        out = apply(Segment(flat, False, len(leaves), False), *leaves)
        return tree_unflatten(list(out), made[0])

    return wrapped  # pyright: ignore[reportReturnType]


def apply(segment: Segment, *inputs: Tensor) -> Any:
    """Run a segment under the transforms now active."""
    return _Closed.apply(segment, *inputs)


def _tangent(segment: Segment) -> Segment:
    def f(*inputs: Tensor) -> Any:
        n = len(inputs) // 2
        return torch.func.jvp(segment.f, inputs[:n], inputs[n:])[1]

    return Segment(f, segment.trailing, -1, True)


def _cotangent(segment: Segment, n: int) -> Segment:
    def f(*inputs: Tensor) -> Any:
        out, pull = torch.func.vjp(segment.f, *inputs[:n])
        return pull(inputs[n] if isinstance(out, Tensor) else tuple(inputs[n:]))

    return Segment(f, segment.trailing, n, True)


class _Closed(torch.autograd.Function):
    @staticmethod
    def forward(segment: Segment, *inputs: Tensor) -> Any:
        return segment.f(*inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.segment = inputs[0]
        ctx.save_for_backward(*inputs[1:])
        ctx.save_for_forward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Any:
        inputs = ctx.saved_tensors
        rule = _cotangent(ctx.segment, len(inputs))
        return None, *_Closed.apply(rule, *inputs, *cotangents)

    @staticmethod
    def jvp(ctx: Any, _: Any, *tangents: Tensor) -> Any:
        inputs = ctx.saved_tensors
        rule = _tangent(ctx.segment)._replace(primals=len(inputs))
        return _Closed.apply(rule, *inputs, *tangents)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], segment: Segment, *inputs: Tensor) -> Any:
        dims = in_dims[1:]
        if segment.trailing and any(d is not None for d in dims[: segment.primals]):
            size = info.batch_size if segment.expand else 1
            moved = [
                x.unsqueeze(-1).expand(*x.shape, size) if d is None else x.movedim(d, -1)
                for x, d in zip(inputs, dims, strict=True)
            ]
            out = _Closed.apply(segment, *[x.contiguous() for x in moved])
            axis = -1
        else:
            mapped = tuple(None if d is None else 0 for d in dims)
            moved = [
                x if d is None else x.movedim(d, 0)
                for x, d in zip(inputs, dims, strict=True)
            ]
            f = torch.func.vmap(segment.f, in_dims=mapped)
            out = _Closed.apply(segment._replace(f=f), *moved)
            axis = 0
        return out, axis if isinstance(out, Tensor) else (axis,) * len(out)
