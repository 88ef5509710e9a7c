"""Moments of gradients as whole multiples of a unit."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mrsim.pulseq._instants import Instant

_MOST = 100  # units in one row; more of them would fit anything
_LEAST = 0.01  # rad/mm that count as no moment: rounding of times and amplitudes


def unencoded(
    played: Sequence[Instant], moments: Any, encoded: str | None, tolerance: float
) -> Any:
    """Wind up what encoded axes do between two pulses after the last readout there.

    Args:
        played: what happens.
        moments: (row, 3) between one and the next [rad/mm].
        encoded: the axes; ``None`` finds those that vary.
        tolerance: how much they must vary, relative to the largest moment.

    Returns:
        (row, 3) moments.
    """
    starts = [k for k, i in enumerate(played) if i.kind in ("pulse", "invert")]
    groups = list(zip(starts, [*starts[1:], len(moments)], strict=True))
    made = moments.copy()
    for axis, name in enumerate("xyz"):
        before: dict[tuple[int, int], list[float]] = {}
        size = np.abs(moments[:, axis]).max()
        for a, b in groups:
            reads = [k for k in range(a, b) if played[k + 1].kind == "read"]
            for j, k in enumerate(reads):
                there = moments[a : k + 1, axis].sum()
                before.setdefault((j, len(reads)), []).append(there)
        varies = any(np.ptp(x) > tolerance * size for x in before.values())
        if name in encoded if encoded is not None else varies:
            for a, b in groups:
                if any(i.kind == "read" for i in played[a + 1 : b + 1]):
                    made[a:b, axis] = 0.0
                    made[b - 1, axis] = moments[a:b, axis].sum()
    return made


def fitted(
    moments: Any, unit: float | None, tolerance: float
) -> tuple[list[Any], Any] | None:
    """Return each row's shift and the moment of one unit.

    Args:
        moments: (row, 3) [rad/mm].
        unit: its length [rad/mm]; ``None``: the largest that fits.
        tolerance: how far moments may be from whole multiples [units].

    Returns:
        Whole numbers or triples, and (3,); ``None`` if there is no such unit.
    """
    moments = np.where(np.abs(moments) < _LEAST, 0.0, moments)
    sizes = np.linalg.norm(moments, axis=1)
    most = sizes.max()
    if most < _LEAST:
        return [0] * len(moments), np.zeros(3)
    way = moments[sizes.argmax()] / most
    for size in [unit] if unit else [most / n for n in range(1, _MOST + 1)]:
        counts = (moments @ way / size).round()
        if np.abs(moments / size - counts[:, None] * way).max() <= tolerance:
            return [int(n) for n in counts], size * way
    shifts, scale = np.zeros(moments.shape, int), np.zeros(3)
    for axis, column in enumerate(moments.T):
        most = np.abs(column).max()
        if most < _LEAST:
            continue
        for size in [unit] if unit else [most / n for n in range(1, _MOST + 1)]:
            counts = (column / size).round()
            if np.abs(column / size - counts).max() <= tolerance:
                shifts[:, axis], scale[axis] = counts, size
                break
        else:
            return None
    return [tuple(map(int, row)) for row in shifts], scale
