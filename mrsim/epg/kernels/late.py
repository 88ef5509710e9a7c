"""Values that the pass of their tangents gives as well.

Forward mode asks for a value, and at once for tangents of the same fields, whose pass
works the value out anyway. Within `shared` a value may therefore wait: its memory is
there but not yet written. What no pass of tangents has written is written at the end of
the block, before anything reads it.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import torch
from torch import Tensor
from torch._C._functorch import TransformType, get_interpreter_stack


class _Late(NamedTuple):
    what: object  # of these fields
    fields: tuple[Tensor, ...]
    out: Tensor
    write: Callable[[], None]


_waiting: ContextVar[list[_Late] | None] = ContextVar("waiting", default=None)


def pushed() -> bool:
    """Tell whether forward mode is active, and nothing follows each operation."""
    stack = get_interpreter_stack()
    return (
        stack is not None
        and any(level.key() == TransformType.Jvp for level in stack)
        and not torch._C._len_torch_dispatch_stack()
    )


@contextmanager
def shared() -> Iterator[None]:
    """Let values wait for a pass of tangents within.

    Yields:
        Nothing.
    """
    waiting: list[_Late] = []
    token = _waiting.set(waiting)
    try:
        yield
        for late in waiting:
            late.write()
    finally:
        _waiting.reset(token)


def put(
    what: object,
    fields: Sequence[Tensor],
    out: Tensor,
    write: Callable[[], None],
) -> None:
    """Write a value now, or later where values may wait.

    Args:
        what: the function.
        fields: what it is of.
        out: gets it.
        write: writes it, without an operation of torch, which the transforms that are
            active at the end would follow.
    """
    waiting = _waiting.get()
    if waiting is None:
        write()
    else:
        waiting.append(_Late(what, tuple(fields), out, write))


def taken(
    what: object, fields: Sequence[Tensor], shape: Sequence[int]
) -> Tensor | None:
    """Return the memory of a value that waits; the caller must write it.

    Args:
        what: the function.
        fields: what it is of.
        shape: of the value.

    Returns:
        The memory, or None if there is no such value.
    """
    waiting = _waiting.get() or []
    for i, late in enumerate(waiting):
        if (
            late.what is what
            and late.out.shape == torch.Size(shape)
            and all(map(_same, late.fields, fields))
        ):
            return waiting.pop(i).out
    return None


def _same(a: Tensor, b: Tensor) -> bool:
    return (
        a.data_ptr() == b.data_ptr()
        and a.shape == b.shape
        and a.stride() == b.stride()
        and a.dtype == b.dtype
    )
