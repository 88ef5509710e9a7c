"""Run a function over a range of items in shards, on as many ranks as there are."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from mrsim._check import require, warn
from mrsim.shard._store import Store, create, mark, shards, span
from mrsim.shard._world import World, device, world
from mrsim.shard.files import sound, write


def run(
    f: Callable[[int, int], Mapping[str, Tensor]],
    count: int,
    folder: str | Path,
    size: int = 2**16,
    inputs: Any = None,
    progress: bool = False,
    verify: bool = True,
) -> Store:
    """Compute ``f`` over items 0 … count - 1 and keep the results in a folder.

    Item i belongs to shard i // size, whoever computes it, and the shards that are not
    complete are dealt out to the ranks in turn: the files are the same, bit for bit,
    for any number of ranks and after any number of restarts. Shards whose checksum is
    wrong are reported and computed again.

    Args:
        f: ``f(start, stop)`` returns name → tensor of stop - start rows; a pure
            function of the two.
        count: number of items.
        folder: where results go; all ranks must see it.
        size: items in a shard: the unit of work, of memory and of what a kill loses.
        inputs: all that f depends on, any tree of tensors, records and functions; its
            hash keeps the results of different jobs apart.
        progress: show a progress bar, on rank 0 (needs tqdm, extra ``demo``).
        verify: read complete shards and compare checksums; without, corrupt ones are
            not found.

    Returns:
        The store, complete once all ranks are through; ranks that are joined (see
        `join`) wait for each other here.

    Raises:
        ValueError: f returned other than stop - start rows.
        StoreError: the folder holds another job's results, or the disk is full.

    >>> import tempfile, torch
    >>> from mrsim import shard
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     work = lambda start, stop: {"square": torch.arange(start, stop) ** 2}
    ...     store = shard.run(work, count=10, folder=folder, size=4)
    ...     shard.read(store, "square").sum()
    tensor(285)
    """
    store, here = create(folder, count, size, inputs), world()
    for k in _bar(_mine(store, here, verify), progress and here.rank == 0):
        start, stop = span(store, k)
        made = dict(f(start, stop))
        for name, x in made.items():
            if not isinstance(x, Tensor) or x.ndim == 0 or len(x) != stop - start:
                got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
                raise ValueError(
                    f"shard: {name!r} of items {start} … {stop} must be a tensor of"
                    f" {stop - start} rows, got {got}"
                )
        write(store, k, {n: x.detach().cpu().numpy() for n, x in made.items()})
    if here.joined:
        dist.barrier()
    return store


def missing(store: Store, verify: bool = False) -> list[int]:
    """Return the shards that are absent or corrupt.

    Args:
        store: what `run` returned.
        verify: as in `run`.

    Returns:
        Their numbers.

    >>> import tempfile, torch
    >>> from mrsim import shard
    >>> work = lambda start, stop: {"square": torch.arange(start, stop) ** 2}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     store = shard.run(work, count=10, folder=folder, size=4)
    ...     shard.missing(store)
    []
    """
    return [k for k in range(shards(store)) if not sound(store, k, verify)]


def _mine(store: Store, here: World, verify: bool) -> Sequence[int]:
    """Return the shards that this rank is to compute."""
    own = range(here.rank, shards(store), here.size)
    state = {k: sound(store, k, verify) for k in own}
    corrupt = [k for k, s in state.items() if s is False]
    if corrupt:
        warn(
            f"shard: {len(corrupt)} of {shards(store)} shards in {store.folder} are"
            f" corrupt ({corrupt[:8]} …) and are computed again"
        )
        for k in corrupt:
            mark(store, k).unlink(missing_ok=True)
    left = [k for k, s in state.items() if not s]
    if not here.joined:
        return left  # ranks that start at any time need a deal that never changes
    todo = torch.zeros(shards(store), dtype=torch.uint8, device=device())
    todo[left] = 1
    dist.all_reduce(todo)
    return todo.nonzero()[:, 0].tolist()[here.rank :: here.size]


def _bar(items: Sequence[int], progress: bool) -> Iterable[int]:
    if not progress:
        return items
    return require("tqdm", "demo").tqdm(items, unit="shard", desc=f"pid {os.getpid()}")
