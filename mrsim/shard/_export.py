"""One HDF5 file or zarr folder of a store, for other programs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mrsim._check import require
from mrsim.shard._store import Store, shards, span
from mrsim.shard.files import leaf, names


def export(store: Store, path: str | Path) -> Path:
    """Copy a complete store into one HDF5 file (``.h5``) or zarr folder (``.zarr``).

    The shards become the chunks. Needs h5py or zarr, extra ``dict``.

    Args:
        store: what `run` returned.
        path: where, ending in ``.h5``, ``.hdf5`` or ``.zarr``.

    Returns:
        The path.

    Raises:
        ValueError: the ending is another.
        StoreError: a shard is missing.

    >>> import tempfile, torch
    >>> from mrsim import shard
    >>> work = lambda start, stop: {"square": torch.arange(start, stop) ** 2}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     store = shard.run(work, count=10, folder=folder + "/squares", size=4)
    ...     shard.export(store, folder + "/squares.h5").name
    'squares.h5'
    """
    path = Path(path)
    if path.suffix in {".h5", ".hdf5"}:
        path.parent.mkdir(parents=True, exist_ok=True)  # as zarr does
        with require("h5py", "dict").File(path, "w") as group:
            _fill(store, group.create_dataset)
    elif path.suffix == ".zarr":
        _fill(store, require("zarr", "dict").open_group(path, mode="w").create_array)
    else:
        raise ValueError(f"export: {path} must end in .h5, .hdf5 or .zarr")
    return path


def _fill(store: Store, create: Callable[..., Any]) -> None:
    for name in names(store):
        first = leaf(store, 0, name)
        made = create(
            name,
            shape=(store.count, *first.shape[1:]),
            dtype=first.dtype,
            chunks=(min(store.size, store.count), *first.shape[1:]),
        )
        for k in range(shards(store)):
            start, stop = span(store, k)
            made[start:stop] = leaf(store, k, name)
