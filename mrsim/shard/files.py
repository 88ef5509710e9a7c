"""The files of a store: `.npy` shards that are complete or not there.

The mark of a shard is written after its data has reached the disk. Every file belongs
to one shard and appears under its name when it is complete, so that ranks on any number
of nodes never share a file.
"""

import json
import zlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mrsim.shard._store import (
    Store,
    StoreError,
    leaf_path,
    mark,
    publish,
    shards,
    span,
)

_PIECE = 2**24


def write(store: Store, k: int, leaves: Mapping[str, np.ndarray]) -> None:
    """Write one shard: its data, then its mark.

    Args:
        store: where.
        k: which shard.
        leaves: name → array of as many rows as the shard has items.

    Raises:
        StoreError: the disk is full or fails; what was complete before stays.
    """
    try:
        for name, array in leaves.items():
            publish(leaf_path(store, k, name), lambda f, a=array: np.save(f, a))
        sums = {n: checksum(leaf_path(store, k, n)) for n in leaves}
        text = json.dumps(sums).encode()
        publish(mark(store, k), lambda file: file.write(text))
    except OSError as e:
        need = sum(a.nbytes for a in leaves.values())
        raise StoreError(
            e.errno,
            f"shard {k} of {shards(store)} ({need} bytes) cannot be written to"
            f" {store.folder}: {e.strerror}; make room and start again, the complete"
            f" shards are kept",
        ) from e


def checksum(path: Path) -> int:
    """Return the CRC-32 of a file."""
    value = 0
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            value = zlib.crc32(piece, value)
    return value


def sound(store: Store, k: int, verify: bool = True) -> bool | None:
    """Tell whether a shard is complete (True), absent (None) or corrupt (False).

    Args:
        store: where.
        k: which shard.
        verify: read the data and compare checksums, not only look for the files.

    Returns:
        As above.
    """
    done = mark(store, k)
    if not done.exists():
        return None
    try:
        sums = json.loads(done.read_text(encoding="utf-8"))
        if not verify:
            return all(leaf_path(store, k, n).exists() for n in sums)
        return all(checksum(leaf_path(store, k, n)) == s for n, s in sums.items())
    except (OSError, ValueError):
        return False


def read(store: Store, name: str, start: int = 0, stop: int | None = None) -> Tensor:
    """Read items of a store, through memory maps.

    A file is compared with its checksum when this process first reads it.

    Args:
        store: what `run` returned.
        name: of the leaf.
        start: first item.
        stop: first item after them; all by default.

    Returns:
        (stop - start, …) a tensor with memory of its own.

    Raises:
        StoreError: a shard is missing or corrupt.
        ValueError: the range is not within the store.

    >>> import tempfile
    >>> from mrsim import shard
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     work = lambda start, stop: {"square": torch.arange(start, stop) ** 2}
    ...     store = shard.run(work, count=10, folder=folder, size=4)
    ...     shard.read(store, "square", 3, 6)
    tensor([ 9, 16, 25])
    """
    stop = store.count if stop is None else stop
    if not 0 <= start < stop <= store.count:
        raise ValueError(
            f"read: items {start} … {stop} do not lie in 0 … {store.count}"
        )
    parts = []
    for k in range(start // store.size, (stop - 1) // store.size + 1):
        first, last = span(store, k)
        parts.append(
            leaf(store, k, name)[max(start, first) - first : min(stop, last) - first]
        )
    return torch.from_numpy(np.concatenate(parts))


def leaf(store: Store, k: int, name: str) -> np.ndarray:
    """Map one leaf of one shard into memory, read-only.

    Args:
        store: where.
        k: which shard.
        name: of the leaf.

    Returns:
        The array, as the file has it.

    Raises:
        StoreError: the shard is missing or corrupt.
    """
    path = leaf_path(store, k, name)
    try:
        _compare(path, json.loads(mark(store, k).read_text(encoding="utf-8"))[name])
        return np.load(path, mmap_mode="r")
    except Exception as e:  # numpy parses the header of a damaged file as Python
        raise StoreError(
            f"shard {k} of {shards(store)} of {store.folder} has no readable {name!r}"
            f" ({e!r}); run the job again: what is complete is kept"
        ) from e


def _compare(path: Path, wanted: int) -> None:
    """Refuse a file that is not what was written."""
    now = path.stat()
    if _known_sum(path, now.st_size, now.st_mtime_ns) != wanted:
        raise ValueError("its checksum is not the one that it was written with")


@lru_cache(maxsize=2**16)
def _known_sum(path: Path, _size: int, _written: int) -> int:
    """Return the checksum of a file, read once as long as it does not change."""
    return checksum(path)


def names(store: Store) -> list[str]:
    """Return the names of the leaves.

    Raises:
        StoreError: the first shard is missing.
    """
    try:
        return sorted(json.loads(mark(store, 0).read_text(encoding="utf-8")))
    except (OSError, ValueError) as e:
        raise StoreError(f"shard 0 of {store.folder} is missing; run the job") from e
