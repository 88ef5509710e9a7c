"""What a walk on a GPU needs of each knot and reading, from torch.

A bar is the cotangent of what is named before it.
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mrsim.epg.kernels.table import KNOT, PULSE, READING, SPOIL

Columns = Mapping[str, Tensor]


class Numbers(NamedTuple):
    """A table on a device."""

    knots: Tensor  # (knot, KNOT) int32, with STORE last
    clears: Tensor
    places: Tensor  # of the readings
    column: dict[str, Tensor]  # of knots
    look: dict[str, Tensor]  # of readings
    slots: int  # numbers of F and ζ of a lane
    stored: int


@functools.lru_cache(maxsize=256)
def numbers_of(key: "Key") -> Numbers:
    """Return a table's integers on a device."""
    table, device = key.table, key.device
    with torch._C._DisableFuncTorch():  # what is kept must belong to no transform
        knots = torch.tensor(table.knots, device=device).reshape(-1, len(KNOT))
        reads = torch.tensor(table.readings, device=device).reshape(-1, len(READING))
        clears = torch.tensor([*table.clears, 0], dtype=torch.int32, device=device)
        return Numbers(
            knots.to(torch.int32),
            clears,
            reads[:, 0].to(torch.int32).contiguous(),
            {n.lower(): knots[:, i] for i, n in enumerate(KNOT)},
            {n.lower(): reads[:, i] for i, n in enumerate(READING)},
            table.places + table.orders,
            int(knots[:, KNOT.index("COUNT")].sum()),
        )


class Key(NamedTuple):
    """A table, by identity, and a device."""

    table: Any
    device: torch.device

    def __hash__(self) -> int:
        return hash((id(self.table), self.device))

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Key)
            and self.table is other.table
            and self.device == other.device
        )

    def __ne__(self, other: object) -> bool:
        return not self == other


# ------------------------------------------------------------------- without states


def _quarters(angle: Tensor, quarters: Tensor) -> tuple[Tensor, Tensor]:
    """Return e^{i (angle + 90° quarters)} as two tensors, exact for quarters alone."""
    c, s = torch.cos(angle), torch.sin(angle)
    q = (quarters % 4).reshape(-1, *(1,) * (angle.ndim - 1))
    re = torch.where(q % 2 == 0, c, -s)
    im = torch.where(q % 2 == 0, s, c)
    sign = torch.where(q < 2, 1.0, -1.0).to(c.dtype)
    return sign * re, sign * im


def _rows(x: Tensor, index: Tensor) -> Tensor:
    """Take rows; row -1, or an absent one, is the first (its result is not used)."""
    return x[index.clamp(min=0) % x.shape[0]]


def _phase(columns: Columns, index: Tensor, like: Tensor) -> Tensor:
    if "phase" not in columns:
        return torch.zeros_like(like[:1])
    there = (index >= 0).reshape(-1, *(1,) * (like.ndim - 1))
    return torch.where(there, _rows(columns["phase"], index), 0.0)


def coefficients(
    parts: int, integers: Numbers, columns: Columns
) -> tuple[Tensor, Tensor]:
    """Return the walk's coefficients (knot, 6, *batch) and its start (1, *batch).

    Args:
        parts: 1 in real plans, 2 in complex ones.
        integers: the table.
        columns: fields, and coefficients of each kind of wait.

    Returns:
        c, s, U, g, Re M and Im M of each knot; ζ_0.
    """
    k, like = integers.column, columns["relax"]
    shape = -1, *(1,) * (like.ndim - 1)
    pulses = (k["kind"] == PULSE).reshape(shape)
    spoils = (k["kind"] == SPOIL).reshape(shape)
    theta = _rows(columns["flip"], k["row"])
    theta = theta * columns["B1"] if "B1" in columns else theta
    left = torch.ones_like(like[:1])
    if "efficiency" in columns:
        left = _rows(columns["efficiency"], k["row"])
    c = torch.where(pulses, torch.cos(theta), torch.where(spoils, 1.0, -left))
    s = torch.where(pulses, torch.sin(theta), 0.0)
    half = 0.5 * k["sign"].reshape(shape).to(like.dtype)
    re = half * columns["carry"][k["wait"]]
    im = torch.zeros_like(re)
    if parts == 2:
        angle = _phase(columns, k["before"], like) - _phase(columns, k["frame"], like)
        if "angle" in columns:
            angle = angle + columns["angle"][k["wait"]]
        turn_re, turn_im = _quarters(angle, k["turn"])
        re, im = re * turn_re, re * turn_im
    U, g = like[k["wait"]], columns["grown"][k["wait"]]
    made = torch.stack(torch.broadcast_tensors(c, s, U, g, re, im), 1)
    return made, columns["start"]


def weights(
    parts: int, integers: Numbers, columns: Columns, intervals: int
) -> tuple[Tensor, Tensor]:
    """Return what multiplies F at each reading, as re and im (reading, *batch).

    Args:
        parts: 1 in real plans, where F is a multiple of 1 or i.
        integers: the table.
        columns: as in `coefficients`.
        intervals: how many kinds of waits are of intervals.

    Returns:
        Two tensors.
    """
    r, read = integers.look, columns["read"]
    kind = r["wait"] - intervals
    if parts == 1:
        zero = torch.zeros_like(read[:1])
        turn_re, turn_im = _quarters(zero, r["turn"] + r["part"])
    else:
        angle = _phase(columns, r["frame"], read)
        if "read_angle" in columns:
            angle = angle + columns["read_angle"][kind]
        if "demod" in columns:
            angle = angle - _rows(columns["demod"], r["demod"])
        turn_re, turn_im = _quarters(angle, r["turn"])
    return read[kind] * turn_re, read[kind] * turn_im


def signal(parts: int, w: tuple[Tensor, Tensor], raw: Tensor) -> tuple[Tensor, Tensor]:
    """Weight raw readings (reading, part, *batch)."""
    if parts == 1:
        return w[0] * raw[:, 0], w[1] * raw[:, 0]
    a, b = raw[:, 0], raw[:, 1]
    return w[0] * a - w[1] * b, w[0] * b + w[1] * a


def raw_bar(parts: int, w: tuple[Tensor, Tensor], bar: Tensor) -> Tensor:
    """Return raw's bar from the signal's, (reading, part, *batch)."""
    re = w[0] * bar.real + w[1] * bar.imag
    if parts == 1:
        return re[:, None]
    return torch.stack([re, w[0] * bar.imag - w[1] * bar.real], 1)


def weight_bar(parts: int, raw: Tensor, bar: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weights' bars from the signal's."""
    if parts == 1:
        return raw[:, 0] * bar.real, raw[:, 0] * bar.imag
    a, b = raw[:, 0], raw[:, 1]
    return a * bar.real + b * bar.imag, a * bar.imag - b * bar.real
