"""What a walk on a GPU needs of each knot and reading, from torch.

A bar is the cotangent of what is named before it.
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mrsim.epg.kernels.call import Physics
from mrsim.epg.kernels.table import KNOT, PULSE, READING, SPOIL

Columns = Mapping[str, Tensor]


class Form(NamedTuple):
    """What a kernel is compiled for; hashable."""

    tangents: int  # 0 or 1
    parts: int
    free: int
    pools: int
    pad: int  # pools, as a power of two
    bound: int
    shifted: int
    motion: int
    knot_rows: int  # coefficients of a knot
    wait_rows: int  # ... and of a kind of wait
    block: int  # lanes


def form_of(physics: Physics, tangents: int, block: int) -> Form:
    """Return the kernel for some physics.

    Args:
        physics: what the kernel must do.
        tangents: 1 if it carries a derivative.
        block: lanes of a program, a power of two.

    Returns:
        What it is compiled for.
    """
    parts, free, pools, bound = physics[1:5]
    shifted, motion = int(physics.shifted), int(physics.motion)
    return Form(
        *(tangents, parts, free, pools, 1 << (pools - 1).bit_length(), bound),
        *(shifted, motion, 2 + parts + bound * (pools - free)),
        (1 + shifted) * free**2 + pools**2 + pools + motion * (1 + 2 * parts),
        block,
    )


class Numbers(NamedTuple):
    """A table on a device."""

    knots: Tensor  # (knot, KNOT) int32, with STORE last
    clears: Tensor
    places: Tensor  # of the readings
    column: dict[str, Tensor]  # of knots
    look: dict[str, Tensor]  # of readings
    waits: int  # kinds of intervals
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
            table.intervals,
            sum(table.knots[KNOT.index("COUNT") :: len(KNOT)]),
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
    physics: Physics, integers: Numbers, columns: Columns
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what the walk reads (see `mrsim.epg.kernels.triton_memory.coefs`).

    Args:
        physics: what the kernel must do.
        integers: the table.
        columns: fields, and coefficients of each kind of wait.

    Returns:
        Of each knot and of each kind of wait, (·, coefficient, *batch); half of ζ_0,
        (pool, *batch).
    """
    return (
        _of_knots(physics, integers, columns),
        _of_waits(physics, integers, columns),
        0.5 * columns["start"],
    )


def _of_knots(physics: Physics, integers: Numbers, columns: Columns) -> Tensor:
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
    parts = [c, s, half]
    if physics.parts == 2:
        angle = _phase(columns, k["before"], like) - _phase(columns, k["frame"], like)
        if "angle" in columns:
            angle = angle + columns["angle"][k["wait"]]
        parts[2:] = [half * turn for turn in _quarters(angle, k["turn"])]
    made = [x[:, None] for x in parts]
    if physics.bound:
        names = [("bound",), ("order",), ("cross", "cross")][
            : 1 + 2 * (physics.bound - 1)
        ]
        made += [
            columns[name].unflatten(0, (len(integers.knots), -1))
            for pair in names
            for name in pair
        ]
    return _joined(made, len(integers.knots))


def _of_waits(physics: Physics, integers: Numbers, columns: Columns) -> Tensor:
    waits = integers.waits

    def of(name: str, size: int) -> Tensor:
        if name in columns:
            return columns[name].unflatten(0, (waits, size))
        none = torch.zeros_like(columns["relax"][:1])
        return none.expand(size, *none.shape[1:])[None]

    made = [of("carry", physics.free**2)]
    if physics.shifted:
        made.append(of("carry_im", physics.free**2))
    made += [of("relax", physics.pools**2), 0.5 * of("grown", physics.pools)]
    if physics.motion:
        made.append(of("loss", 3))
    if physics.motion and physics.parts == 2:
        made.append(of("turn", 2))
    return _joined(made, waits)


def _joined(made: list[Tensor], count: int) -> Tensor:
    """Join coefficients (count or 1, rows, *batch) of unlike batches."""
    batch = torch.broadcast_shapes(*(x.shape[2:] for x in made))
    return torch.cat([x.expand(count, x.shape[1], *batch) for x in made], 1)


def weights(
    physics: Physics, integers: Numbers, columns: Columns
) -> tuple[Tensor, Tensor]:
    """Return what multiplies F at each reading, as re and im (reading, pool, *batch).

    Args:
        physics: what the kernel must do; in real plans F is a multiple of 1 or i.
        integers: the table.
        columns: as in `coefficients`.

    Returns:
        Two tensors.
    """
    r, like = integers.look, columns["relax"]
    if "read" not in columns:
        none = like[:0, None].expand(0, physics.free, *like.shape[1:])
        return none, none
    kind = r["wait"] - integers.waits
    if physics.parts == 1:
        turn = _quarters(torch.zeros_like(like[:1]), r["turn"] + r["part"])
    else:
        angle = _phase(columns, r["frame"], like)
        if "read_angle" in columns:
            angle = angle + columns["read_angle"][kind]
        if "demod" in columns:
            angle = angle - _rows(columns["demod"], r["demod"])
        turn = _quarters(angle, r["turn"])
    re, im = (x[:, None] for x in turn)
    read = columns["read"].unflatten(0, (-1, physics.free))[kind]
    if "read_im" not in columns:
        return read * re, read * im
    more = columns["read_im"].unflatten(0, (-1, physics.free))[kind]
    return read * re - more * im, read * im + more * re


def signal(w: tuple[Tensor, Tensor], raw: Tensor) -> tuple[Tensor, Tensor]:
    """Weight raw readings (reading, part, pool, *batch)."""
    a = raw[:, 0]
    if raw.shape[1] == 1:
        return (w[0] * a).sum(1), (w[1] * a).sum(1)
    b = raw[:, 1]
    return (w[0] * a - w[1] * b).sum(1), (w[0] * b + w[1] * a).sum(1)


def raw_bar(parts: int, w: tuple[Tensor, Tensor], bar: Tensor) -> Tensor:
    """Return raw's bar from the signal's, (reading, part, pool, *batch)."""
    x, y = bar.real[:, None], bar.imag[:, None]
    re = w[0] * x + w[1] * y
    if parts == 1:
        return re[:, None]
    return torch.stack([re, w[0] * y - w[1] * x], 1)


def weight_bar(raw: Tensor, bar: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weights' bars from the signal's."""
    x, y, a = bar.real[:, None], bar.imag[:, None], raw[:, 0]
    if raw.shape[1] == 1:
        return a * x, a * y
    b = raw[:, 1]
    return a * x + b * y, a * y - b * x
