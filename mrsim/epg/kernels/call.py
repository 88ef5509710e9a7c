"""Calls of the compiled walk: tensors in, tensors out, no autograd."""

import ctypes
import mmap
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
_HEADERS = (
    *("readings", "layout", "knots", "pulses", "waits", "inputs", "states", "lanes"),
)
_SOURCES = ("fused.cpp", *(f"{name}.hpp" for name in _HEADERS))
_LEAST = 2_000_000  # state updates that are worth another thread
MOST = 4  # tangents of one call
ANY = 15  # coefficients that a tangent moves (see lanes.hpp)


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


def _flags(physics: Physics, variant: Variant) -> list[str]:
    values = {
        "PARTS": physics.parts,
        "TANGENTS": len(variant.masks),
        "MASKS": ",".join(map(str, variant.masks)) or "0",
        "BACK": int(variant.back),
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
    name, role, x, lead = a
    strides, sizes = x.stride(), x.shape
    if len(sizes) == 1:  # of one lane
        part = int(x.is_complex())
        return [
            name,
            role,
            sizes[0],
            x.data_ptr(),
            0,
            part,
            strides[0] << part,
            *_NO_AXES,
        ]
    if role in (TOTAL, MOVED_TOTAL):  # (thread, leading, number)
        head = [name, role, sizes[2], x.data_ptr(), strides[1], strides[0], strides[2]]
        return head + _NO_AXES
    at = int(lead)
    first, part = (strides[0] if lead else 0), 0
    if x.is_complex():  # (re, im) lie side by side
        part, first, strides = 1, 2 * first, tuple(2 * s for s in strides)
    made = [name, role, sizes[at], x.data_ptr(), first, part, strides[at]]
    for n, s in zip(sizes[at + 1 :], strides[at + 1 :], strict=True):
        made.append(s if n > 1 else 0)
    made += _NO_AXES[len(made) - 7 :]
    return made


_NO_AXES = [0] * AXES


def walk(
    physics: Physics,
    table: Table,
    arrays: Sequence[Array],
    batch: tuple[int, ...],
    variant: Variant = _FORWARD,
    copies: int = 0,
    ways: Sequence[int] = (),
    late: int = 0,
) -> None:
    """Walk a table, and back if copies of a cotangent are given.

    Args:
        physics: what the kernel is compiled for.
        table: the plan.
        arrays: what goes in and out.
        batch: the batch axes.
        variant: the kernel.
        copies: of the cotangent.
        ways: the tangents' places on leading axes; what the kernel has more is zero.
        late: how many of the last ones are of M0 alone.

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
    if len(batch) > AXES:  # deeper than a kernel counts
        for i in range(batch[0]):
            inner = [_inner(a, i) for a in arrays]
            walk(physics, table, inner, batch[1:], variant, copies, ways, late)
        return
    listed, places = array("q"), array("q", ways)
    for a in arrays:
        listed.extend(_described(a))
    numbers = _of(table)[1]
    head = [lanes, len(batch), *batch, *_NO_AXES[len(batch) :]]
    head += [threads(table, lanes), *numbers[:6]]
    head += [copies, len(places) - late, late, *numbers[6:], places.buffer_info()[0]]
    head += [len(arrays), listed.buffer_info()[0]]
    call = array("q", head)
    if run(call.buffer_info()[0]):
        raise MemoryError("epg.run: the states of a few spins do not fit into memory")


def _inner(a: Array, i: int) -> Array:
    if a.role in (TOTAL, MOVED_TOTAL):
        return a
    axis = 1 + a.lead
    x = a.tensor.select(axis, i if a.tensor.shape[axis] > 1 else 0)
    return a._replace(tensor=x)


_LARGE_PAGE = 2**21


def empty(like: Tensor, sizes: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Return new memory; where it is large, of large pages if the system has them.

    The first touch of each page costs more time than what is written to a small one.
    """
    made = like.new_empty(sizes, dtype=dtype)
    if made.nbytes < 2 * _LARGE_PAGE:
        return made
    start = -(-made.data_ptr() // _LARGE_PAGE) * _LARGE_PAGE
    size = (made.data_ptr() + made.nbytes - start) // _LARGE_PAGE * _LARGE_PAGE
    if size >= 2 * _LARGE_PAGE and made.device.type == "cpu" and _advise():
        _advise()(start, size, mmap.MADV_HUGEPAGE)  # a refusal costs time alone
    return made


@lru_cache(maxsize=1)
def _advise() -> Any:
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return None
    found = ctypes.CDLL(None).madvise
    found.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    return found


def threads(table: Table, lanes: int) -> int:
    """Return how many threads a call uses."""
    return max(1, min(torch.get_num_threads(), lanes * _of(table)[0] // _LEAST))


_seen: dict[int, tuple[Table, int, list[int]]] = {}


def _of(table: Table) -> tuple[int, list[int]]:
    """Return how many orders a table's pulses have, and its sizes and addresses."""
    found = _seen.get(id(table))
    if found is None:
        stored = sum(table.knots[KNOT.index("COUNT") :: len(KNOT)])
        parts = table.knots, table.readings, table.clears, table.waits, table.rows
        numbers = [table.count, table.reads, table.intervals, len(table.kinds)]
        numbers += [table.places, table.orders]
        numbers += [x.buffer_info()[0] for x in (*parts, table.tops)]
        if len(_seen) > 1024:
            _seen.clear()
        found = _seen[id(table)] = table, stored, numbers
    return found[1:]
