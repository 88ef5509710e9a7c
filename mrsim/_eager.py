"""Functions that torch.compile must leave alone."""

import sys
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


def eager(f: Callable[P, R]) -> Callable[P, R]:
    """Make torch.compile run a function as it is: its loops depend on values.

    Dynamo would compile the pieces of such a loop one by one, and have them wrong.

    Args:
        f: the function.

    Returns:
        The same, with a break of the graph around it.
    """
    known: list[Any] = []

    @wraps(f)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        if "torch._dynamo" not in sys.modules:  # its import takes seconds
            return f(*args, **kwargs)
        if not known:
            known.append(torch.compiler.disable(f))
        return known[0](*args, **kwargs)

    return run
