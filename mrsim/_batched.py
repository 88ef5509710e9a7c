"""Maps over batches of any size in bounded memory."""

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mrsim._check import concrete, require
from mrsim.tree import tree_flatten, tree_leaves, tree_map, tree_unflatten

_PROBES = (2, 10)


def batched(
    f: Callable[..., Any],
    in_dims: int | tuple[int | None, ...] = 0,
    memory: int = 2**28,
    progress: bool = False,
) -> Callable[..., Any]:
    """Map a function over a batch in chunks that fit a number of bytes.

    ``batched(f)(x) == vmap(f)(x)``; the chunk size follows from the memory that two
    small probes of ``f`` allocate. Inside another transform it is that vmap unchunked.

    Args:
        f: the function of one item, as for ``torch.func.vmap``.
        in_dims: for each argument 0 (mapped along its leaves' first axis) or ``None``.
        memory: bytes that one chunk may allocate; inputs and results come on top.
        progress: show a progress bar (needs tqdm, extra ``demo``).

    Returns:
        A function of the same arguments; results have the batch axis first.

    >>> import torch
    >>> from mrsim import batched
    >>> batched(lambda x: x.exp().sum(), memory=10**6)(torch.zeros(1000, 100)).shape
    torch.Size([1000])
    """
    mapped = torch.func.vmap(f, in_dims=in_dims)

    def run(*args: Any) -> Any:
        dims = (in_dims,) * len(args) if isinstance(in_dims, int) else in_dims

        def part(start: int, stop: int) -> tuple[Any, ...]:
            return tuple(
                x if d is None else tree_map(lambda v: v[start:stop], x)
                for x, d in zip(args, dims, strict=True)
            )

        leaves = [v for x, d in zip(args, dims, strict=True) if d == 0 for v in tree_leaves(x)]
        size = _length(leaves)
        if size <= _PROBES[1] or not all(map(concrete, leaves)):
            return mapped(*args)
        low, high = (peak_bytes(mapped, *part(0, n)) for n in _PROBES)
        each = max(1, (high - low) // (_PROBES[1] - _PROBES[0]))
        chunk = min(size, max(1, (memory - low) // each))
        starts = _bar(range(0, size, chunk), progress)
        flat, structure = zip(*(tree_flatten(mapped(*part(i, i + chunk))) for i in starts))
        return tree_unflatten([torch.cat(y) for y in zip(*flat, strict=True)], structure[0])

    return run


def _length(leaves: list[Tensor]) -> int:
    sizes = {v.shape[0] if v.ndim else None for v in leaves}
    if len(sizes) != 1 or None in sizes:
        shapes = [tuple(v.shape) for v in leaves]
        raise ValueError(
            f"batched: every leaf of a mapped argument needs the same first axis, got"
            f" shapes {shapes}; mrsim.expand or mrsim.grid give it to all leaves"
        )
    return sizes.pop() or 0


def _bar(items: Iterable[int], progress: bool) -> Iterable[int]:
    return require("tqdm", "demo").tqdm(items) if progress else items


def peak_bytes(f: Callable[..., Any], *args: Any) -> int:
    """Return the largest number of bytes alive at once among the tensors ``f`` makes."""
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
        old = {x.untyped_storage()._cdata for x in tree_leaves(args) if isinstance(x, Tensor)}
        for x in tree_leaves(out):
            if isinstance(x, Tensor):
                self._hold(x, x.untyped_storage()._cdata, old)
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
