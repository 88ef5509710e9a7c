"""What a store of results is: a folder, how it is cut, and what was computed.

``manifest.json`` says what was computed and how it was cut. Shard k of the leaf
``coefs`` is ``coefs.00000k.npy``; ``00000k.done`` holds its checksums.
"""

import hashlib
import inspect
import json
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mrsim.tree import tree_flatten

_FORMAT = 1


class StoreError(OSError):
    """A result could not be kept or is not there; the message says what to do."""


class Store(NamedTuple):
    """A folder of shards: item i lies in shard i // size."""

    folder: Path
    count: int  # items
    size: int  # items in a shard; the last one may have fewer


def shards(store: Store) -> int:
    """Return the number of shards."""
    return -(-store.count // store.size)


def span(store: Store, k: int) -> tuple[int, int]:
    """Return the first item of shard k, and the first one after it."""
    return k * store.size, min(store.count, (k + 1) * store.size)


def mark(store: Store, k: int) -> Path:
    """Return the file that says that shard k is complete."""
    return store.folder / f"{k:06d}.done"


def leaf_path(store: Store, k: int, name: str) -> Path:
    """Return the file of one leaf of shard k."""
    return store.folder / f"{name}.{k:06d}.npy"


def fingerprint(*inputs: Any) -> str:
    """Return a hash of all that a result depends on.

    Args:
        *inputs: trees of tensors, numbers, strings and functions; a function counts by
            its name and its code.

    Returns:
        Hexadecimal digits.
    """
    made = hashlib.sha256()
    leaves, structure = tree_flatten(inputs)
    made.update(str(structure).encode())
    for x in leaves:
        if isinstance(x, Tensor):
            v = x.detach().cpu().contiguous().resolve_conj().resolve_neg()
            made.update(f"{v.dtype}{tuple(v.shape)}".encode())
            made.update(v.reshape(-1).view(torch.uint8).numpy().tobytes())
        elif callable(x):
            code = getattr(inspect.unwrap(x), "__code__", None)
            made.update(f"{getattr(x, '__qualname__', type(x))}".encode())
            if code:
                made.update(code.co_code)
                plain = [c for c in code.co_consts if not hasattr(c, "co_code")]
                made.update(repr(plain).encode())
        else:
            made.update(f"{type(x).__name__}{x!r}".encode())
    return made.hexdigest()


def create(folder: str | Path, count: int, size: int, inputs: Any) -> Store:
    """Make a folder for results, or take up the one that is there.

    Args:
        folder: where.
        count: number of items.
        size: items in a shard.
        inputs: all that the result depends on, see `fingerprint`.

    Returns:
        The store.

    Raises:
        StoreError: the folder holds another job's results, or cannot be written.
    """
    store = Store(Path(folder), count, size)
    wanted = {
        "format": _FORMAT,
        "count": count,
        "size": size,
        "inputs": fingerprint(inputs),
        "versions": _versions(),
    }
    path = store.folder / "manifest.json"
    if path.exists():
        known = _manifest(path)
        other = [n for n in wanted if known.get(n) != wanted[n]]
        if other:
            raise StoreError(
                f"{folder} holds shards of another job, different in"
                f" {', '.join(other)} ({known.get(other[0])} there,"
                f" {wanted[other[0]]} here); delete it or give another folder"
            )
        return store
    try:
        store.folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(wanted, indent=2).encode()
        publish(path, lambda file: file.write(text))
    except OSError as e:
        raise StoreError(f"{folder} cannot be written: {e.strerror}") from e
    return store


def open_store(folder: str | Path) -> Store:
    """Open a folder of results.

    Args:
        folder: what `run` was given.

    Returns:
        The store, complete or not.

    Raises:
        StoreError: it has no readable manifest.

    >>> import tempfile, torch
    >>> from mrsim import shard
    >>> work = lambda start, stop: {"square": torch.arange(start, stop) ** 2}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = shard.run(work, count=10, folder=folder, size=4)
    ...     shard.read(shard.open_store(folder), "square", 7)
    tensor([49, 64, 81])
    """
    known = _manifest(Path(folder) / "manifest.json")
    return Store(Path(folder), known["count"], known["size"])


def _manifest(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise StoreError(f"{path} is no manifest of a store: {e}") from e


def _versions() -> dict[str, str]:
    from mrsim import __version__  # here, since mrsim imports this module

    return {
        "mrsim": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "machine": platform.machine(),
    }


def publish(path: Path, fill: Callable[[BinaryIO], Any]) -> None:
    """Write a file that appears only when it is complete and on the disk."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
