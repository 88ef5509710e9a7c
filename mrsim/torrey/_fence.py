"""A fence: an identity that refuses derivatives of too high an order.

Modes carry a rule that is exact up to a given order of differentiation. Beyond it the
numbers would be wrong in silence; behind this fence they raise.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.forward_ad import unpack_dual

from mrsim._check import concrete


def constant(*given: Tensor) -> bool:
    """Tell whether nothing follows tensors: no transform, derivative or trace."""
    return all(
        concrete(x) and not x.requires_grad and unpack_dual(x).tangent is None
        for x in given
    )


def fence(x: Tensor, order: int, message: str) -> Tensor:
    """Return ``x``; its derivatives of more than ``order`` raise.

    Args:
        x: what is differentiated.
        order: the highest order that is right.
        message: what to say beyond.

    Returns:
        The same values.
    """
    return _Fence.apply(order, message, x)


class _Fence(torch.autograd.Function):
    @staticmethod
    def forward(_order: int, _message: str, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], _output: Any) -> None:
        ctx.order, ctx.message, x = inputs
        ctx.save_for_backward(x)
        ctx.save_for_forward(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return (
            None,
            None,
            _Slope.apply(ctx.order - 1, ctx.message, *ctx.saved_tensors, g),
        )

    @staticmethod
    def jvp(ctx: Any, _order: Any, _message: Any, t: Tensor) -> Tensor:
        return _Slope.apply(ctx.order - 1, ctx.message, *ctx.saved_tensors, t)

    @staticmethod
    def vmap(_info: Any, in_dims: Any, order: int, message: str, x: Tensor) -> Any:
        return _Fence.apply(order, message, x), in_dims[2]


class _Slope(torch.autograd.Function):
    """The identity of ``t``, that depends on ``x`` in name: so orders are counted."""

    @staticmethod
    def forward(_order: int, _message: str, _x: Tensor, t: Tensor) -> Tensor:
        return t.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], _output: Any) -> None:
        ctx.order, ctx.message, x, _ = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x)
        ctx.save_for_forward(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        of_x = None
        if ctx.needs_input_grad[2]:
            of_x = _further(ctx, x, torch.zeros_like(x))
        return None, None, of_x, _Slope.apply(ctx.order, ctx.message, x, g)

    @staticmethod
    def jvp(ctx: Any, _order: Any, _message: Any, dx: Any, dt: Any) -> Tensor:
        (x,) = ctx.saved_tensors
        dt = torch.zeros_like(x) if dt is None else dt
        if dx is None:
            return _Slope.apply(ctx.order, ctx.message, x, dt)
        return _further(ctx, x, dt)

    @staticmethod
    def vmap(
        info: Any, in_dims: Any, order: int, message: str, x: Tensor, t: Tensor
    ) -> Any:
        _, _, dx, dt = in_dims
        size = info.batch_size
        x = x.expand(size, *x.shape) if dx is None else x.movedim(dx, 0)
        t = t.expand(size, *t.shape) if dt is None else t.movedim(dt, 0)
        return _Slope.apply(order, message, x, t), 0


def _further(ctx: Any, x: Tensor, t: Tensor) -> Tensor:
    if ctx.order < 1:
        raise NotImplementedError(ctx.message)
    return _Slope.apply(ctx.order - 1, ctx.message, x, t)
