"""Limits on a sequence as data: a name and a function that must not be positive."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mrsim.tree import get


class Constraint(NamedTuple):
    """A limit on a record: no entry of ``excess(record)`` may be above zero."""

    name: str  # for messages
    excess: Callable[[Any], Tensor]  # of the record; relative to the limit


def at_most(f: Callable[[Any], Tensor], limit: float, name: str = "") -> Constraint:
    """Limit any function of the record: f(record) ≤ limit, entry by entry.

    Args:
        f: a differentiable function of the record; its result may have any shape.
        limit: largest value allowed [units of f].
        name: what messages call the limit; the function's own name by default.

    Returns:
        The constraint, whose excess is (f − limit)/|limit|.

    >>> import mrsim
    >>> from mrsim import design, epg
    >>> short = design.at_most(lambda q: len(q.flip) * q.esp, 0.1, "train length")
    >>> short.excess(epg.FSE(flip=[3.1] * 16, esp=0.008))
    tensor(0.2800)
    """
    unit = abs(limit) or 1.0
    called = name or getattr(f, "__name__", "limit")
    return Constraint(called, lambda q: (f(q) - limit) / unit)


def rms(name: str, limit: float) -> Constraint:
    """Limit the root mean square of a field: its power, for flip angles.

    Args:
        name: the field, dotted for nested records.
        limit: largest RMS [the field's unit].

    Returns:
        The constraint, whose excess is mean(x²)/limit² − 1.

    >>> from mrsim import design, epg
    >>> design.rms("flip", 2.0).excess(epg.FSE(flip=[2.0, 2.0], esp=0.008))
    tensor(0.)
    """
    return Constraint(
        f"rms of {name}", lambda q: get(q, name).square().mean() / limit**2 - 1
    )


def total(name: str, limit: float) -> Constraint:
    """Limit the sum of a field: the total time, for repetition times.

    Args:
        name: the field, dotted for nested records.
        limit: largest sum [the field's unit].

    Returns:
        The constraint.

    >>> from mrsim import design, epg
    >>> design.total("flip", 4.0).excess(epg.FSE(flip=[2.0, 3.0], esp=0.008))
    tensor(0.2500)
    """
    return at_most(lambda q: get(q, name).sum(), limit, f"total of {name}")


def slew(name: str, limit: float) -> Constraint:
    """Limit the step between neighbours: |xₙ₊₁ − xₙ| ≤ limit along the last axis.

    Args:
        name: the field, dotted for nested records.
        limit: largest step [the field's unit].

    Returns:
        The constraint; its excess has two entries for every step, up and down.

    >>> from mrsim import design, epg
    >>> design.slew("flip", 0.5).excess(epg.FSE(flip=[2.0, 3.0], esp=0.008))
    tensor([ 1., -3.])
    """

    def excess(q: Any) -> Tensor:
        step = get(q, name).diff() / limit
        return torch.cat([step, -step], -1) - 1

    return Constraint(f"slew of {name}", excess)
