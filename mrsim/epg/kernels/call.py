"""Calls of the compiled walk: tensors in, tensors out, no autograd."""

import ctypes
from array import array
from collections.abc import Sequence
from functools import lru_cache
from importlib import resources
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mrsim import _native
from mrsim.epg.kernels.table import KNOT, Table

INPUTS = (
    *("flip", "B1", "phase", "demod", "efficiency"),
    *("duration", "T1", "T2", "M0", "df"),
    *("relax", "carry", "carry_im", "grown", "angle", "read", "read_im"),
    *("read_angle", "start", "loss", "turn", "bound", "order", "cross"),
)
_ID = {name: i for i, name in enumerate(INPUTS)}
SIGNAL, COTANGENT, AXES = len(INPUTS), len(INPUTS) + 1, 6
VALUE, TANGENT, GRADIENT, TOTAL, MOVED_GRADIENT, MOVED_TOTAL = range(6)
_HEADERS = ("knots.hpp", "waits.hpp", "inputs.hpp", "states.hpp", "lanes.hpp")
_SOURCES = ("fused.cpp", *_HEADERS)
_LEAST = 2_000_000  # state updates that are worth another thread
MOST = 4  # tangents of one call
ANY = 15  # coefficients that a tangent moves


class Physics(NamedTuple):
    """What a kernel is compiled for; hashable."""

    double: bool
    parts: int
    free: int = 1
    pools: int = 1
    bound: int = 0  # 1: bound pools are saturated, 2: with dipolar order
    shifted: bool = False
    motion: bool = False
    own: bool = True  # the kernel works out the kinds of waits from T1, T2, …


@lru_cache(maxsize=1)
def _sources() -> dict[str, str]:
    folder = resources.files("mrsim.epg.kernels")
    return {n: (folder / n).read_text(encoding="utf-8") for n in _SOURCES}


class Variant(NamedTuple):
    """One kernel of some physics; hashable."""

    masks: tuple[int, ...] = ()  # of each tangent: which coefficients it can move
    back: bool = False
    moved: bool = False  # on the way back, cotangents of tangents are wanted


def _flags(physics: Physics, variant: Variant) -> list[str]:
    values = {
        "PARTS": physics.parts,
        "TANGENTS": len(variant.masks),
        "MASKS": ",".join(map(str, variant.masks)) or "0",
        "BACK": int(variant.back),
        "MOVED": int(variant.moved),
        "FREE": physics.free,
        "POOLS": physics.pools,
        "BOUND": physics.bound,
        "SHIFTED": int(physics.shifted),
        "MOTION": int(physics.motion),
        "OWN": int(physics.own),
    }
    flags = [f"-D{name}={value}" for name, value in values.items()]
    return [*flags, "-DDOUBLE"] if physics.double else flags


_walks: dict[tuple[Physics, Variant], Any] = {}
_FORWARD = Variant()


def kernel(physics: Physics, variant: Variant = _FORWARD) -> Any:
    """Return the compiled walk, or why there is none."""
    found = _walks.get((physics, variant))
    if found is None:
        flags = _flags(physics, variant)
        made = _native.library(_sources(), "fused.cpp", *flags)
        if isinstance(made, str):
            return made
        found = _walks[physics, variant] = made.walk
        found.argtypes = (ctypes.c_void_p,)
    return found


def forget() -> None:
    """Forget the kernels of this process."""
    _walks.clear()
    _native.forget()


class Array(NamedTuple):
    """A tensor the kernel sees: (number, *batch), or (leading, number, *batch)."""

    name: int
    role: int
    tensor: Tensor
    lead: bool = False


def _described(a: Array) -> list[int]:
    x = a.tensor
    strides, sizes = x.stride(), x.shape
    if a.role in (TOTAL, MOVED_TOTAL):  # (thread, leading, number)
        head = [a.name, a.role, sizes[2], x.data_ptr(), strides[1], *strides[::2]]
        return [*head, *(0,) * AXES]
    lead = strides[0] if a.lead else 0
    at = int(a.lead)
    part = 0
    if x.is_complex():  # (re, im) lie side by side
        part, strides = 1, tuple(2 * s for s in strides)
        lead *= 2
    axes = [
        s if n > 1 else 0
        for s, n in zip(strides[at + 1 :], sizes[at + 1 :], strict=True)
    ]
    head = [a.name, a.role, sizes[at], x.data_ptr(), lead, part, strides[at]]
    return [*head, *(axes or [0]), *(0,) * (AXES - max(len(axes), 1))]


def batch_of(arrays: Sequence[Array]) -> tuple[int, ...]:
    """Return the common batch shape of arrays."""
    shapes = {a.tensor.shape[1 + a.lead :] for a in arrays}
    if len(shapes) == 1:
        return tuple(next(iter(shapes)))
    return tuple(torch.broadcast_shapes(*shapes))


def walk(
    physics: Physics,
    table: Table,
    arrays: Sequence[Array],
    batch: tuple[int, ...],
    variant: Variant = _FORWARD,
    copies: int = 0,
    tangents: int = 0,
) -> None:
    """Walk a table, and back if copies of a cotangent are given.

    Args:
        physics: what the kernel is compiled for.
        table: the plan.
        arrays: what goes in and out.
        batch: the batch axes.
        variant: the kernel.
        copies: of the cotangent.
        tangents: how many of the kernel's are given; the others are zero.

    Raises:
        MemoryError: the states of one block do not fit.
        RuntimeError: the kernel could not be made.
    """
    run = kernel(physics, variant)
    if isinstance(run, str):
        raise RuntimeError(f"epg: {run}")
    lanes = prod(batch)
    if not lanes:
        return
    described = [n for a in arrays for n in _described(a)]
    listed = array("q", described)
    stored, pointers = _of(table)
    head = [lanes, len(batch), *batch, *(1,) * (AXES - len(batch))]
    head += [threads(table, lanes), table.count, table.reads]
    head += [table.intervals, len(table.kinds), table.places, table.orders]
    head += [stored, copies, tangents, *pointers, len(arrays), listed.buffer_info()[0]]
    call = array("q", head)
    if run(call.buffer_info()[0]):
        raise MemoryError("epg.run: the states of a few spins do not fit into memory")


def threads(table: Table, lanes: int) -> int:
    """Return how many threads a call uses."""
    return max(1, min(torch.get_num_threads(), lanes * _of(table)[0] // _LEAST))


_seen: dict[int, tuple[Table, int, list[int]]] = {}


def _of(table: Table) -> tuple[int, list[int]]:
    """Return how many orders a table's pulses have, and where its numbers lie."""
    found = _seen.get(id(table))
    if found is None:
        stored = sum(table.knots[KNOT.index("COUNT") :: len(KNOT)])
        parts = table.knots, table.readings, table.clears, table.waits, table.rows
        pointers = [x.buffer_info()[0] for x in (*parts, table.tops)]
        if len(_seen) > 1024:
            _seen.clear()
        found = _seen[id(table)] = table, stored, pointers
    return found[1:]
