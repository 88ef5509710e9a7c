"""A simulation as one fused function with derivative rules that are fused too.

The rules are functions of the same family (see `mrsim.epg.kernels.family`). Every
derivative beyond is the torch path's, so that the family is closed under
differentiation. A vmap appends its axis to the batch, or where it maps tangents or
cotangents alone becomes their leading axis; nothing is expanded.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import is_legacy_batchedtensor, peek_interpreter_stack
from torch._functorch.utils import unwrap_dead_wrappers
from torch.autograd import forward_ad

from mrsim import _levels, _remat
from mrsim._recorder import opaque
from mrsim.epg.kernels.family import Job, Rule, evaluated
from mrsim.epg.program import by_identity
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
        return opaque(evaluated, _rule(job), *unwrap_dead_wrappers(fields))
    return _levels.apply(_FUSED, _rule(job), *fields)


@by_identity
def _rule(job: Job) -> Rule:
    return Rule(job)


def _plain(fields: Sequence[Tensor]) -> bool:
    """Tell whether no transform follows the fields, nor autograd."""
    return (
        peek_interpreter_stack() is None
        and forward_ad._current_level < 0
        and not (torch.is_grad_enabled() and any(x.requires_grad for x in fields))
    )


def _reference(rule: Rule) -> _remat.Segment:
    """Return a function of the family in torch."""
    segment, n, at = rule.job.reference, rule.fields, rule.at
    if rule.kind == "pull":
        made = _remat._cotangent(segment, rule.to, n)
        return made._replace(f=_led(made.f, n)) if rule.lead else made
    if rule.kind == "value":
        return segment
    made = _remat.Segment(_both_in_torch(rule), n, trailing=True, expand=True)
    if rule.kind == "both":
        return made
    return _remat._cotangent(made, rule.to, n + len(at), (rule.valued, True))


def _both_in_torch(rule: Rule) -> Callable[..., tuple[Tensor, Tensor]]:
    segment, n, lead = rule.job.reference, rule.fields, int(rule.lead)
    push = _remat._tangent(segment, range(n), n).f

    def both(*xs: Tensor) -> tuple[Tensor, Tensor]:
        fields, head = list(xs[:n]), xs[n].shape[:lead]
        moves = dict(zip(rule.at, xs[n:], strict=True))
        full = []
        for k, x in enumerate(fields):
            t = moves[k] if k in moves else x.new_zeros(*head, *x.shape)
            shape = torch.broadcast_shapes(x.shape, t.shape[lead:])
            # jvp wants equal shapes, and no strides of 0
            fields[k] = x.expand(shape).contiguous()
            full.append(t.expand(*head, *shape).contiguous())
        return segment.f(*fields), push(*fields, *full)

    return both


def _led(f: Callable[..., Any], n: int) -> Callable[..., Any]:
    def g(*xs: Tensor) -> Any:
        dims = (None,) * n + (0,) * (len(xs) - n)
        return torch.func.vmap(f, in_dims=dims)(*xs)

    return g


def _value(rule: Rule, *inputs: Tensor) -> Any:
    return opaque(evaluated, rule, *inputs)


def _both(
    rule: Rule, inputs: Sequence[Tensor], moves: Sequence[Tensor | None]
) -> tuple[Any, Any]:
    """Work out a function and its tangent, for a simulation in one walk."""
    at = tuple(k for k, t in enumerate(moves) if t is not None)
    given = (t for t in moves if t is not None)
    if rule.kind == "value":
        made = _levels.apply(_FUSED, Rule(rule.job, "both", at), *inputs, *given)
        return made[0], made[1]
    segment = _remat._tangent(_reference(rule), at, len(inputs))
    made = _levels.apply(_FUSED, rule, *inputs)
    return made, _remat.apply(segment, *inputs, *given)


def _push(rule: Rule, inputs: Sequence[Tensor], moves: Sequence[Tensor | None]) -> Any:
    if rule.kind == "value":
        return _both(rule, inputs, moves)[1]
    at = tuple(k for k, t in enumerate(moves) if t is not None)
    segment = _remat._tangent(_reference(rule), at, len(inputs))
    return _remat.apply(segment, *inputs, *(t for t in moves if t is not None))


def _pull(
    rule: Rule,
    inputs: Sequence[Tensor],
    cotangents: Sequence[Tensor | None],
    wanted: Sequence[bool],
) -> Sequence[Tensor | None]:
    count = len(inputs)
    to = tuple(k for k, x in enumerate(inputs) if wanted[k] and smooth(x))
    given = [y for y in cotangents if y is not None]
    # torch.autograd.grad(…, is_grads_batched=True) has batches without a vmap rule
    hidden = any(map(is_legacy_batchedtensor, given))
    if not to or not given:
        return (None,) * count
    if rule.kind == "value" and not hidden:
        made = _levels.apply(_FUSED, replace(rule, kind="pull", to=to), *inputs, *given)
    elif rule.kind == "both" and cotangents[1] is not None and not hidden:
        back = replace(rule, kind="both_pull", to=to, valued=len(given) == 2)
        made = _levels.apply(_FUSED, back, *inputs, *given)
    elif rule.kind == "both" and not hidden:
        n = rule.fields
        found = _pull(Rule(rule.job), inputs[:n], given, wanted)
        return (*found, *(None,) * (count - n))
    else:
        flags = [y is not None for y in cotangents]
        segment = _remat._cotangent(_reference(rule), to, count, flags)
        made = _remat.apply(segment, *inputs, *given)
    grads = dict(zip(to, made, strict=True))
    return tuple(grads.get(k) for k in range(count))


def _mapped(
    rule: Rule, size: int, dims: Sequence[int | None], inputs: Sequence[Tensor]
) -> Any:
    n = rule.fields
    if rule.kind in ("both", "pull") and all(d is None for d in dims[:n]):
        return _on_lead(rule, dims, size, inputs)
    back = rule.kind in ("pull", "both_pull")
    moved = [
        _last(x, d, size if back else 1) for x, d in zip(inputs, dims, strict=True)
    ]
    out = _levels.apply(_FUSED, rule, *moved)
    if isinstance(out, Tensor):
        return out, out.ndim - 1
    return out, tuple(y.ndim - 1 for y in out)


_FUSED = _levels.Family(_value, _push, _pull, _mapped, _both)


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
    out = _levels.apply(_FUSED, replace(rule, lead=True), *inputs[:n], *moved)
    value, led = (out[:1], out[1:]) if rule.kind == "both" else ((), out)
    if rule.lead:
        led = tuple(y.unflatten(0, (size, inner)) for y in led)
    return (*value, *led), (None,) * len(value) + (0,) * len(led)
