"""The state of a minimisation, and its file."""

import os
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor


class State(NamedTuple):
    """The best design so far and how it was found."""

    x: Tensor  # (n,)
    value: float  # objective at x
    violation: float  # largest excess at x
    rows: tuple[tuple[float, float, float], ...] = ()  # value, gradient norm, violation
    evaluations: int = 1
    success: bool = False
    message: str = "no iteration was made"


def save(path: str | Path, mark: Tensor, content: dict[str, Any]) -> None:
    """Write a dict of tensors and plain values, all or nothing.

    Args:
        path: the file.
        mark: numbers that tell this problem from others.
        content: what to keep.
    """
    part = Path(f"{path}.part")
    torch.save({"mark": mark, **content}, part)
    os.replace(part, path)


def load(path: str | Path, mark: Tensor) -> dict[str, Any] | None:
    """Read what `save` wrote; ``None`` if there is no file yet.

    Args:
        path: the file.
        mark: as given to `save`.

    Returns:
        The content, or ``None``.

    Raises:
        ValueError: the file is damaged or belongs to another problem.
    """
    if not Path(path).exists():
        return None
    try:
        content = torch.load(path, map_location=mark.device, weights_only=True)
        known = content.pop("mark")
    except Exception as e:  # torch lets errors of zip, pickle and its own through
        raise ValueError(
            f"design: {path} is no checkpoint, or damaged ({type(e).__name__}); delete"
            f" it or give another path"
        ) from e
    if known.shape != mark.shape or not torch.allclose(known, mark, rtol=1e-6, atol=0):
        raise ValueError(
            f"design: the checkpoint {path} is of another problem (its start, bounds or"
            f" objective differ); delete it or give another path"
        )
    return content
