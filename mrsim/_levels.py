"""Functions with derivative rules of their own, under any transforms at a low price.

torch leads an `autograd.Function` through its stack of transforms by flattening trees
and by making a class for each level of each call, which takes longer than a small
simulation. `apply` goes down the stack itself. It is as general: each level sees what
torch would show it.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from inspect import signature
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._C import (
    _functorch as functorch,  # pyright: ignore[reportAttributeAccessIssue]
)
from torch._functorch import eager_transforms
from torch._functorch.pyfunctorch import retrieve_current_functorch_interpreter
from torch._functorch.utils import enable_single_level_autograd_function
from torch._functorch.vmap import (
    lazy_load_decompositions,  # pyright: ignore
    vmap_increment_nesting,
)
from torch.autograd import forward_ad
from torch.autograd.function import _SingleLevelFunction

Dims = Sequence[int | None]
_dual = partial(torch._VF._make_dual, level=0)  # pyright: ignore
_undual = partial(torch._VF._unpack_dual, level=0)  # pyright: ignore


class Family(NamedTuple):
    """Functions of a rule, which holds no tensors, and flat tensors.

    Where a cotangent or a tangent is ``None``, it is zero.
    """

    value: Callable[..., Any]  # (rule, *inputs) → tensor or tuple of tensors, all new
    push: Callable[..., Any]  # (rule, inputs, tangents) → tangents of the value
    pull: Callable[..., Any]  # (rule, inputs, cotangents, wanted) → one each input
    vmap: Callable[..., Any]  # (rule, size, dims, inputs) → value and its dims
    both: Callable[..., Any] | None = None  # (rule, inputs, tangents) → value, push


def apply(family: Family, rule: Any, *inputs: Tensor) -> Any:
    """Evaluate a function under the transforms now active.

    Args:
        family: how it is evaluated, differentiated and mapped.
        rule: which of the functions.
        *inputs: its tensors.

    Returns:
        A tensor, or a tuple of tensors.
    """
    if torch.compiler.is_compiling():  # which differentiates plain operations
        return family.value(rule, *inputs)
    top = functorch.peek_interpreter_stack()
    step = None if top is None else _STEPS.get(top.key())
    taped = torch.is_grad_enabled() and any(x.requires_grad for x in inputs)
    if top is None and not taped:
        return _bare(family, rule, list(map(functorch.unwrap_if_dead, inputs)))
    if step is None:  # plain autograd, or a transform that torch must lead through
        return _Node.apply(family, rule, *inputs)
    interpreter = retrieve_current_functorch_interpreter()
    return step(interpreter, family, rule, list(map(functorch.unwrap_if_dead, inputs)))


def _bare(family: Family, rule: Any, inputs: Sequence[Tensor]) -> Any:
    """Evaluate where no transform is active, perhaps on bare dual numbers."""
    if forward_ad._current_level < 0 or not torch._C._is_fwd_grad_enabled():
        return family.value(rule, *inputs)
    values, moves = zip(*map(_undual, inputs), strict=True)
    if all(t is None for t in moves):
        return family.value(rule, *inputs)
    return _duals(*_both(family, rule, values, moves))


def jvp(
    f: Callable[..., Any],
    primals: Sequence[Tensor],
    tangents: Sequence[Tensor],
    *,
    alone: bool = False,
) -> tuple[Any, Any]:
    """Return `torch.func.jvp`, whose trees take longer than a small function.

    Args:
        f: a function of tensors; a tensor, or a sequence of tensors, out.
        primals: its arguments.
        tangents: of their shapes.
        alone: f takes no derivative in forward mode by itself, so that bare dual
            numbers, which are faster, will do where no transform is active.

    Returns:
        The value and its tangent: tensors, or tuples of them.
    """
    if torch.compiler.is_compiling() or not _STEPS:
        return torch.func.jvp(f, tuple(primals), tuple(tangents))  # pyright: ignore
    forward_ad._maybe_load_decompositions()  # of the rules of some operations
    bare = alone and functorch.peek_interpreter_stack() is None
    nesting = nullcontext() if bare else eager_transforms.jvp_increment_nesting()
    inside = forward_ad._current_level >= 0  # of another jvp, or entered by hand
    below = nullcontext() if inside else forward_ad.dual_level()
    enabled = forward_ad._set_fwd_grad_enabled(mode=True)
    with nesting as level, enabled, below:
        pairs = zip(primals, tangents, strict=True)
        made = f(*(_dual(_undual(x)[0] if bare else x, t) for x, t in pairs))
        if isinstance(made, Tensor):
            return _apart(made, level)
        values, moves = zip(*(_apart(y, level) for y in made), strict=True)
        return values, moves


def _apart(dual: Tensor, level: int | None) -> tuple[Tensor, Tensor]:
    """Take a dual number of a level (None: a bare one) apart."""
    value, move = _undual(dual)
    move = torch.zeros_like(value) if move is None else move
    if level is None:
        return value, move
    bare = functorch._unwrap_for_grad
    return bare(value, level), bare(move, level)


def vmap(
    f: Callable[..., tuple[Sequence[Tensor], Sequence[Tensor]]],
    rows: Sequence[Tensor],
    chunk: int | None = None,
) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    """Return `torch.func.vmap` over first axes, without its trees if not in chunks.

    Args:
        f: a function of tensors; a pair of sequences of tensors out, the first of them
            the same for all rows.
        rows: its arguments, all with the axis first.
        chunk: how many rows travel at once; all by default.

    Returns:
        The results, the second ones with the axis first.
    """
    if torch.compiler.is_compiling() or chunk is not None or not _STEPS:
        same, each = torch.func.vmap(f, chunk_size=chunk)(*rows)
        return [y[0] for y in same], each
    lazy_load_decompositions()
    size = len(rows[0])
    with vmap_increment_nesting(size, "error") as level:
        same, each = f(*(functorch._add_batch_dim(x, 0, level) for x in rows))
        bare = [functorch._unwrap_batched(y, level) for y in same]
        made = [functorch._remove_batch_dim(y, level, size, 0) for y in each]
    return [y if d is None else y.select(d, 0) for y, d in bare], made


def no_derivative(*_: Any) -> Any:
    """Stand for the rules of a function whose inputs are detached."""
    raise RuntimeError("a function of constants was asked for a derivative")


def _mapped(
    interpreter: Any, family: Family, rule: Any, inputs: Sequence[Tensor]
) -> Any:
    level, size = interpreter.level(), interpreter.batch_size()
    bare, dims = zip(
        *(functorch._unwrap_batched(x, level) for x in inputs), strict=True
    )
    with interpreter.lower():
        if all(d is None for d in dims):
            return apply(family, rule, *inputs)
        out, at = family.vmap(rule, size, dims, bare)
    if isinstance(out, Tensor):
        return functorch._add_batch_dim(out, at, level)
    return tuple(
        y if d is None else functorch._add_batch_dim(y, d, level)
        for y, d in zip(out, at, strict=True)
    )


def _pushed(
    interpreter: Any, family: Family, rule: Any, inputs: Sequence[Tensor]
) -> Any:
    level = interpreter.level()
    moves = [_tangent(x, level) for x in inputs]
    bare = [functorch._unwrap_for_grad(x, level) for x in inputs]
    if all(t is None for t in moves):
        with _below(interpreter):
            out = apply(family, rule, *bare)
        return _wrapped(out, level)
    with _below(interpreter):
        out, moved = _both(family, rule, bare, moves)
    return _duals(out, moved)


def _duals(values: Any, moves: Any) -> Any:
    if isinstance(values, Tensor):
        return _dual(values, moves)
    return tuple(_dual(y, t) for y, t in zip(values, moves, strict=True))


def _both(
    family: Family, rule: Any, inputs: Sequence[Tensor], moves: Sequence[Tensor | None]
) -> tuple[Any, Any]:
    if family.both is not None:
        return family.both(rule, inputs, moves)
    return apply(family, rule, *inputs), family.push(rule, inputs, moves)


def _wrapped(out: Any, level: int) -> Any:
    if isinstance(out, Tensor):
        return functorch._wrap_for_grad(out, level)
    return tuple(functorch._wrap_for_grad(y, level) for y in out)


@contextmanager
def _below(interpreter: Any) -> Iterator[None]:
    """Leave a level that follows derivatives, also where it has been told not to.

    torch switches derivatives off around the rules of a level; those below it go on.
    """
    enabled = forward_ad._set_fwd_grad_enabled(mode=True)
    with torch.enable_grad(), enabled, interpreter.lower():
        yield


def _tangent(x: Tensor, level: int) -> Tensor | None:
    """Return what a tensor's tangent at a level wraps."""
    if functorch.maybe_get_level(x) != level or not torch._C._is_fwd_grad_enabled():
        return None
    found = _undual(x)[1]
    return None if found is None else functorch._unwrap_for_grad(found, level)


def _followed(
    interpreter: Any, family: Family, rule: Any, inputs: Sequence[Tensor]
) -> Any:
    level = interpreter.level()
    taped = torch.is_grad_enabled() and any(
        x.requires_grad and functorch.maybe_get_level(x) == level for x in inputs
    )
    if not taped and forward_ad._current_level < 0:
        with _below(interpreter):
            out = apply(
                family, rule, *(functorch._unwrap_for_grad(x, level) for x in inputs)
            )
        return _wrapped(out, level)
    lift = interpreter._cptr.lift
    with enable_single_level_autograd_function():
        return _Followed.apply(  # pyright: ignore[reportAttributeAccessIssue]
            interpreter, family, rule, *map(lift, inputs)
        )


_NEEDED = (
    *("_add_batch_dim", "_unwrap_batched", "_unwrap_for_grad", "_wrap_for_grad"),
    *("maybe_get_level", "unwrap_if_dead"),
)
_STEPS = (  # none where torch has other names inside
    {
        functorch.TransformType.Vmap: _mapped,
        functorch.TransformType.Jvp: _pushed,
        functorch.TransformType.Grad: _followed,
    }
    if all(hasattr(functorch, name) for name in _NEEDED)
    else {}
)


def _forward(ctx: Any, family: Family, rule: Any, inputs: Sequence[Tensor]) -> None:
    ctx.family, ctx.rule = family, rule
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs)
    ctx.save_for_forward(*inputs)


def _backward(ctx: Any, cotangents: Sequence[Tensor], first: int) -> tuple[Any, ...]:
    wanted = ctx.needs_input_grad[first:]
    found = ctx.family.pull(ctx.rule, ctx.saved_tensors, cotangents, wanted)
    return *(None,) * first, *found


class _Followed(_SingleLevelFunction):
    """What one level of `torch.func.grad` or `vjp` sees."""

    @staticmethod
    def forward(interpreter: Any, family: Family, rule: Any, *inputs: Tensor) -> Any:
        level = interpreter.level()
        bare = [functorch._unwrap_for_grad(x, level) for x in inputs]
        with _below(interpreter):
            out = apply(family, rule, *bare)
        return _wrapped(out, level)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], _output: Any) -> None:
        _forward(ctx, inputs[1], inputs[2], inputs[3:])

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Any:
        return _backward(ctx, cotangents, 3)

    @staticmethod
    def jvp(ctx: Any, *moves: Any) -> Any:
        return ctx.family.push(ctx.rule, ctx.saved_tensors, moves[3:])


class _Node(torch.autograd.Function):
    """The same where no transform is active, or one that `apply` does not know."""

    @staticmethod
    def forward(family: Family, rule: Any, *inputs: Tensor) -> Any:
        return family.value(rule, *inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], _output: Any) -> None:
        _forward(ctx, inputs[0], inputs[1], inputs[2:])

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Any:
        return _backward(ctx, cotangents, 2)

    @staticmethod
    def jvp(ctx: Any, *moves: Any) -> Any:
        inputs = [_undual(x)[0] for x in ctx.saved_tensors]  # not to be followed again
        return ctx.family.push(ctx.rule, inputs, moves[2:])

    @staticmethod
    def vmap(info: Any, dims: Any, family: Family, rule: Any, *inputs: Tensor) -> Any:
        return family.vmap(rule, info.batch_size, dims[2:], inputs)


# apply binds arguments to it, and would work it out in every call
_Node.forward.__signature__ = signature(_Node.forward)  # pyright: ignore
