"""Finished chunks of a fit as files, so that nothing computed is lost."""

import os
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mrsim.tree import tree_leaves

_TORN = RuntimeError, KeyError, IndexError, TypeError, EOFError, OSError


def save(path: Path, given: Any, found: Any) -> None:
    """Write a chunk, all or nothing.

    Args:
        path: the file; its folder is made.
        given: what was fitted, to tell this chunk from others.
        found: the result.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    torch.save({"mark": _mark(given), "found": found}, part)
    os.replace(part, path)


def load(path: Path, given: Any) -> Any:
    """Read what `save` wrote; ``None`` if there is no file yet.

    Args:
        path: the file.
        given: as of `save`.

    Returns:
        The result, or ``None``.

    Raises:
        ValueError: the file is of other data, or damaged.
    """
    if not path.exists():
        return None
    try:
        content = torch.load(path, weights_only=True)
        same = torch.equal(content["mark"], _mark(given))
    except (*_TORN, pickle.UnpicklingError) as e:
        raise ValueError(f"fit: {path} is damaged ({e}); delete it") from e
    if not same:
        raise ValueError(
            f"fit: {path} is of other data or another start; delete the folder or give"
            f" another one"
        )
    return content["found"]


def _mark(given: Any) -> Tensor:
    """Return numbers that tell data from other data."""
    parts = [v.reshape(-1).cpu() for v in tree_leaves(given)]
    flat = [torch.view_as_real(v).reshape(-1) if v.is_complex() else v for v in parts]
    known = [v.double().nan_to_num() for v in flat]
    sums = [
        torch.stack([v.sum(), (v * torch.linspace(1, 2, len(v)).to(v)).sum()])
        for v in known
    ]
    sizes = torch.tensor([float(len(v)) for v in known], dtype=torch.float64)
    return torch.cat([sizes, *sums])
