"""Answers of the torch path, and how close those of the fused engine are."""

from collections.abc import Callable
from typing import Any

from mrsim import epg
from mrsim.tree import tree_leaves


def on_torch(f: Callable[..., Any], *args: Any) -> Any:
    with epg.use_engine("torch"):
        return f(*args)


def agree(made: Any, wanted: Any, tolerance: float = 1e-11) -> None:
    for a, b in zip(tree_leaves(made), tree_leaves(wanted), strict=True):
        a, b = a.detach(), b.detach()
        assert a.shape == b.shape
        size = max(float(b.abs().max()), 1e-3) if b.numel() else 1.0
        assert a.numel() == 0 or float((a - b).abs().max()) <= tolerance * size
