"""Maps over batches of any size in bounded memory."""

import weakref
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mrsim._check import require, traced, transforming
from mrsim._remat import closed_over, remat
from mrsim.tree import (
    filled,
    smooth,
    tree_flatten,
    tree_leaves,
    tree_map,
    tree_unflatten,
)

_PROBES = (2, 4)


def batched(
    f: Callable[..., Any],
    in_dims: int | tuple[int | None, ...] = 0,
    memory: int = 2**28,
    progress: bool = False,
) -> Callable[..., Any]:
    """Map a function over a batch in chunks that fit a number of bytes.

    ``batched(f)(x) == vmap(f)(x)``; the chunk size follows from the memory that two
    small probes of ``f`` allocate. Where derivatives are taken of it, chunks save their
    inputs only and recompute themselves (see `remat`), in the same memory; but if ``f``
    closes over what is differentiated, it is the vmap unchunked: use arguments.

    Args:
        f: the function of one item, as for ``torch.func.vmap``.
        in_dims: for each argument 0 (mapped along its leaves' first axis) or ``None``.
        memory: bytes that one chunk may allocate (one item at least); inputs and
            results come on top.
        progress: show a progress bar (needs tqdm, extra ``demo``).

    Returns:
        A function of the same arguments; results have the batch axis first.

    Raises:
        ValueError: `in_dims` holds another axis or does not fit the arguments, or the
            mapped leaves have no common first axis (both when called).

    >>> import torch
    >>> from mrsim import batched
    >>> batched(lambda x: x.exp().sum(), memory=10**6)(torch.zeros(1000, 100)).shape
    torch.Size([1000])
    """
    mapped = torch.func.vmap(f, in_dims=in_dims)

    def run(*args: Any) -> Any:
        dims = (in_dims,) * len(args) if isinstance(in_dims, int) else in_dims
        size = _length(args, dims)

        def cut(made: Callable[[Tensor], Tensor], rest: Callable[[Any], Any]) -> Any:
            pairs = zip(args, dims, strict=True)
            return [rest(x) if d is None else tree_map(made, x) for x, d in pairs]

        def part(start: int, stop: int) -> Any:
            # a copy, since jvp gives a view a tangent as large as the view's storage
            return cut(lambda v: v[start:stop].clone(), lambda x: x)

        if not size:  # which vmap does not take: the shapes come from a made-up item
            made = mapped(*cut(lambda v: v.new_ones(1, *v.shape[1:]), lambda x: x))
            return tree_map(lambda y: y[:0], made)
        closed = any(_followed(x) for _, x in closed_over(f))
        if size <= _PROBES[1] or closed:
            return mapped(*args)
        if transforming() or any(map(_followed, tree_leaves(args))):
            whole, probe = remat(mapped), _there_and_back(mapped)
            low, high = (
                peak_bytes(probe, *cut(partial(_stand_in, n), _stand_ins))
                for n in _PROBES
            )
        else:
            whole = mapped
            low, high = (peak_bytes(mapped, *part(0, n)) for n in _PROBES)
        each = max(1, (high - low) // (_PROBES[1] - _PROBES[0]))
        chunk = min(size, max(1, (memory - low) // each + _PROBES[0]))
        starts = _bar(range(0, size, chunk), progress)
        pieces = [tree_flatten(whole(*part(i, i + chunk))) for i in starts]
        leaves = zip(*(flat for flat, _ in pieces), strict=True)
        return tree_unflatten([torch.cat(y) for y in leaves], pieces[0][1])

    return run


def _followed(x: Any) -> bool:
    return isinstance(x, Tensor) and (x.requires_grad or traced(x))


def _stand_in(count: int, v: Tensor) -> Tensor:
    """Return a plain tensor like the first items of one that is followed."""
    return torch.ones((count, *v.shape[1:]), dtype=v.dtype, device=v.device)


def _stand_ins(x: Any) -> Any:
    return tree_map(lambda v: _stand_in(len(v), v) if v.ndim else v.new_ones(()), x)


def _there_and_back(f: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that runs f and its reverse mode, for what they allocate."""

    def run(*args: Any) -> None:
        leaves, structure = tree_flatten(args)
        at = [k for k, x in enumerate(leaves) if smooth(x)]

        def flat(*xs: Any) -> tuple[Tensor, ...]:
            return tuple(filter(smooth, tree_leaves(f(*tree_unflatten(xs, structure)))))

        chosen = filled(flat, leaves, at)
        values, pull = torch.func.vjp(chosen, *(leaves[k] for k in at))  # pyright: ignore[reportAssignmentType]
        pull(tuple(map(torch.ones_like, values)))

    return run


def _length(args: Sequence[Any], dims: Sequence[int | None]) -> int:
    if len(args) != len(dims) or 0 not in dims or {*dims} - {0, None}:
        raise ValueError(
            f"batched: in_dims must hold 0 or None for each of {len(args)} arguments,"
            f" and 0 at least once, got {dims}"
        )
    mapped = [x for x, d in zip(args, dims, strict=True) if d == 0]
    shapes = [tuple(getattr(v, "shape", ())) for v in tree_leaves(mapped)]
    lengths = {shape[0] if shape else -1 for shape in shapes}
    if len(lengths) != 1 or -1 in lengths:
        raise ValueError(
            f"batched: every leaf of a mapped argument needs the same first axis, got"
            f" shapes {shapes}; mrsim.expand or mrsim.grid give it to all leaves"
        )
    return lengths.pop()


def _bar(items: Sequence[int], progress: bool) -> Iterable[int]:
    return require("tqdm", "demo").tqdm(items, unit="chunk") if progress else items


def peak_bytes(f: Callable[..., Any], *args: Any) -> int:
    """Return the most bytes alive at once among the tensors that ``f`` makes."""
    with _Ledger() as ledger:
        f(*args)
    return ledger.peak


class _Ledger(TorchDispatchMode):
    """Counts the bytes of every storage from the first tensor on it to the last."""

    def __init__(self) -> None:
        super().__init__()
        self.users: dict[int, int] = {}
        self.alive = 0
        self.peak = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        old = {_storage(x) for x in tree_leaves(args) if isinstance(x, Tensor)}
        for x in tree_leaves(out):
            if isinstance(x, Tensor):
                self._hold(x, _storage(x), old)
        return out

    def _hold(self, x: Tensor, key: int, old: set[int]) -> None:
        if key not in self.users:
            if key in old:
                return
            self.users[key] = 0
            self.alive += x.untyped_storage().nbytes()
            self.peak = max(self.peak, self.alive)
        self.users[key] += 1
        weakref.finalize(x, self._drop, key, x.untyped_storage().nbytes())

    def _drop(self, key: int, size: int) -> None:
        self.users[key] -= 1
        if not self.users[key]:
            del self.users[key]
            self.alive -= size


def _storage(x: Tensor) -> int:
    return x.untyped_storage()._cdata
