"""What tests of `compiled` share."""

from typing import Any

import torch

from mrsim.tree import tree_leaves

X = torch.linspace(0.5, 1.5, 4)


def counted(f: Any) -> tuple[Any, list[int]]:
    calls: list[int] = []

    def run(*args: Any) -> Any:
        calls.append(1)
        return f(*args)

    return run, calls


def close(a: Any, b: Any, tolerance: float = 1e-13) -> None:
    for x, y in zip(tree_leaves(a), tree_leaves(b), strict=True):
        torch.testing.assert_close(x, y, rtol=tolerance, atol=tolerance)
