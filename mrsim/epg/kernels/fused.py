"""A simulation as one fused function with derivative rules that are fused too.

The rules are functions of the same family (see `mrsim.epg.kernels.family`). Every
derivative beyond is the torch path's, so that the family is closed under
differentiation. A vmap appends its axis to the batch, or where it maps tangents or
cotangents alone becomes their leading axis; nothing is expanded.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import is_legacy_batchedtensor, peek_interpreter_stack
from torch._functorch.utils import unwrap_dead_wrappers
from torch.autograd import forward_ad

from mrsim import _remat
from mrsim._recorder import opaque
from mrsim.epg.kernels.family import Job, Rule, evaluated
from mrsim.tree import smooth


def fused(job: Job, *fields: Tensor) -> Tensor:
    """Simulate under the transforms now active.

    Args:
        job: the simulation.
        *fields: its tensors.

    Returns:
        (reading,) complex signal.
    """
    if _plain(fields):
        return opaque(evaluated, Rule(job), *unwrap_dead_wrappers(fields))
    return _Fused.apply(Rule(job), *fields)  # pyright: ignore[reportReturnType]


def _plain(fields: Sequence[Tensor]) -> bool:
    """Tell whether no transform follows the fields, nor autograd."""
    return (
        peek_interpreter_stack() is None
        and forward_ad._current_level < 0
        and not (torch.is_grad_enabled() and any(x.requires_grad for x in fields))
    )


def _reference(rule: Rule, count: int) -> _remat.Segment:
    """Return a function of the family in torch."""
    segment, n, at = rule.job.reference, rule.fields, rule.at
    made = segment
    if rule.kind in ("push", "push_pull"):
        made = _remat._tangent(segment, at, n)
    if rule.kind == "pull":
        made = _remat._cotangent(segment, at, n)
        if rule.lead:
            made = made._replace(f=_led(made.f, n))
    if rule.kind == "push_pull":
        made = _remat._cotangent(made, (*at, *range(n, n + len(at))), n + len(at))
    return made._replace(primals=count, expand=False)


def _led(f: Callable[..., Any], n: int) -> Callable[..., Any]:
    def g(*xs: Tensor) -> Any:
        dims = (None,) * n + (0,) * (len(xs) - n)
        return torch.func.vmap(f, in_dims=dims)(*xs)

    return g


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(rule: Rule, *inputs: Tensor) -> Any:
        return opaque(evaluated, rule, *inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], _output: Any) -> None:
        ctx.rule = inputs[0]
        ctx.save_for_backward(*inputs[1:])
        ctx.save_for_forward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Any:
        rule, inputs = ctx.rule, ctx.saved_tensors
        count = len(inputs)
        at = tuple(k for k, x in enumerate(inputs) if smooth(x))
        # torch.autograd.grad(…, is_grads_batched=True) has batches without a vmap rule
        hidden = any(map(is_legacy_batchedtensor, cotangents))
        if rule.kind == "value" and not hidden:
            made = _Fused.apply(Rule(rule.job, "pull", at), *inputs, *cotangents)
        elif rule.kind == "push" and not hidden:
            wanted = any(ctx.needs_input_grad[1 + rule.fields :])
            back = replace(rule, kind="push_pull", wanted=wanted)
            at = (*rule.at, *range(rule.fields, count))
            made = _Fused.apply(back, *inputs, *cotangents)
        else:
            segment = _remat._cotangent(_reference(rule, count), at, count)
            made = _remat.apply(segment, *inputs, *cotangents)
        grads = dict(zip(at, made, strict=True))  # pyright: ignore[reportArgumentType]
        return None, *(grads.get(k) for k in range(count))

    @staticmethod
    def jvp(ctx: Any, _: Any, *tangents: Tensor) -> Any:
        rule, inputs = ctx.rule, ctx.saved_tensors
        count = len(inputs)
        at = tuple(k for k, x in enumerate(inputs) if smooth(x))
        moves = [tangents[k] for k in at]
        if rule.kind == "value":
            return _Fused.apply(Rule(rule.job, "push", at), *inputs, *moves)
        segment = _remat._tangent(_reference(rule, count), at, count)
        return _remat.apply(segment, *inputs, *moves)

    @staticmethod
    def vmap(info: Any, in_dims: Any, rule: Rule, *inputs: Tensor) -> Any:
        dims, size, n = in_dims[1:], info.batch_size, rule.fields
        linear = rule.kind in ("push", "pull")
        if linear and all(d is None for d in dims[:n]):
            return _on_lead(rule, dims, size, inputs)
        back = rule.kind in ("pull", "push_pull")
        moved = [
            _last(x, d, size if back else 1) for x, d in zip(inputs, dims, strict=True)
        ]
        out = _Fused.apply(rule, *moved)
        if isinstance(out, Tensor):
            return out, out.ndim - 1
        return out, tuple(y.ndim - 1 for y in out)  # pyright: ignore


# apply binds arguments to it, and would work it out in every call
_Fused.forward.__signature__ = signature(_Fused.forward)  # pyright: ignore


def _last(x: Tensor, dim: int | None, size: int) -> Tensor:
    """Move or give the mapped axis to the end, without a copy."""
    if dim is None:
        x = x.unsqueeze(-1)
        return x.expand(*x.shape[:-1], size) if size > 1 else x
    return x.movedim(dim, -1)


def _on_lead(
    rule: Rule, dims: Sequence[int | None], size: int, inputs: Sequence[Tensor]
) -> Any:
    """Map over tangents or cotangents alone, by the kernel's leading axis."""
    n = rule.fields
    moved = [
        x.expand(size, *x.shape) if d is None else x.movedim(d, 0)
        for x, d in zip(inputs[n:], dims[n:], strict=True)
    ]
    if rule.lead:
        inner = moved[0].shape[1]
        moved = [x.flatten(0, 1) for x in moved]
    out = _Fused.apply(replace(rule, lead=True), *inputs[:n], *moved)
    found = [out] if isinstance(out, Tensor) else list(out)  # pyright: ignore
    if rule.lead:
        found = [y.unflatten(0, (size, inner)) for y in found]  # pyright: ignore
    if isinstance(out, Tensor):
        return found[0], 0
    return tuple(found), (0,) * len(found)
