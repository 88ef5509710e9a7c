"""Where the parameters of IVIM models may lie, and points spread over that box."""

import math
from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from mrsim.ivim.exponential import Biexp
from mrsim.tree import fields

Bounds = Mapping[str, tuple[float, float]]
Box = dict[str, tuple[float, float]]

LIMITS: Bounds = {
    "S0": (0.0, math.inf),
    "f": (0.0, 1.0),
    "f1": (0.0, 0.5),
    "f2": (0.0, 0.5),
    "Dp": (0.005, 0.2),
    "Dstar": (0.003, 0.2),
    "D": (0.0, 0.005),
    "D0": (0.0, 0.005),
    "D1": (0.005, 0.05),
    "D2": (0.05, 2.0),
    "v": (0.0, 10.0),
    "tau": (0.001, 10.0),
}
"""The box of every unknown when none is given [the field's unit] (f, Dp, D: OSIPI)."""

_GRID = {"f": 6, "f1": 4, "f2": 4, "D": 12, "D0": 8, "K": 2, "tau": 3}
_OTHERS = 6  # grid points of the remaining unknowns, which tell starts apart
SHIFT = 1e-4
"""Diffusivities are spread, and move, evenly in log(D + SHIFT) [mm²/s]."""


def limits(
    bounds: Bounds | None = None, model: type = Biexp, fixed: Collection[str] = ()
) -> Box:
    """Return the lower and upper bound of every unknown of a model.

    Args:
        bounds: name → (lower, upper) [the field's unit]; `LIMITS` for names left out.
            Fields without an entry there, such as ``K`` and ``Db``, are unknowns only
            if they are named here.
        model: the record's class.
        fixed: names of fields that are no unknowns.

    Returns:
        name → (lower, upper), in the order of the record's fields.

    Raises:
        ValueError: a name is no field of the model, is bounded and fixed, or a lower
            bound exceeds its upper one.

    >>> from mrsim import ivim
    >>> ivim.limits({"S0": (0.5, 1.5)}, fixed=["f"])
    {'S0': (0.5, 1.5), 'Dp': (0.005, 0.2), 'D': (0.0, 0.005)}
    """
    given = dict(bounds or {})
    known = [f.name for f in fields(model)]
    for name in (*given, *fixed):
        if name not in known or (name in given and name in fixed):
            raise ValueError(
                f"ivim: {name!r} must be a field of {model.__name__}"
                f" ({', '.join(known)}), bounded or fixed but not both"
            )
    box = {n: LIMITS[n] for n in known if n in LIMITS and n not in fixed} | given
    for name, (low, high) in box.items():
        if not low <= high:
            raise ValueError(
                f"ivim: the bounds of {name} are (lower, upper), lower ≤ upper,"
                f" got {(low, high)}"
            )
    return {n: (float(box[n][0]), float(box[n][1])) for n in known if n in box}


def spread(name: str, low: float, high: float, count: int | None = None) -> Tensor:
    """Return values that fill an interval evenly, away from its ends.

    Args:
        name: the unknown; diffusivities, speeds and times are spread logarithmically.
        low: lower bound [the field's unit].
        high: upper bound.
        count: how many; by default as a grid of starts wants it.

    Returns:
        (count,) values, double precision.
    """
    count = (count or _GRID.get(name, _OTHERS)) if high > low else 1
    share = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    if name[0] not in "Dvt":
        return low + (high - low) * share
    shift = SHIFT if name[0] == "D" else 0.01 * high
    ends = math.log(low + shift), math.log(high + shift)
    return (ends[0] + (ends[1] - ends[0]) * share).exp() - shift
