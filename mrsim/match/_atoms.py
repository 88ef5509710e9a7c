"""The parameters of a dictionary's atoms, as a pure function of the atom's index."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

import mrsim.tree as tree
from mrsim.tree import expand, get, names, put, tree_leaves, tree_map

Keep = Callable[[Any], Tensor]


class Atoms(NamedTuple):
    """A dictionary's parameters: none is stored, each follows from its index."""

    count: int  # indices are 0 … count - 1
    at: Callable[[Tensor], Any]  # (n,) indices → a record whose leaves have n rows
    keep: Keep | None = None  # such a record → (n,) bool: which take part
    inputs: Any = ()  # all that `at` depends on, for the hash of results


def listed(batch: Any, keep: Keep | None = None) -> Atoms:
    """Take the atoms from a batch of records that is in memory.

    Args:
        batch: a record whose every leaf has the same first axis, as from `mrsim.grid`.
        keep: tells which take part; all by default.

    Returns:
        The atoms, in the order of the batch.

    >>> import mrsim
    >>> from mrsim import match
    >>> base = mrsim.Tissue(T1=1.0, T2=0.1)
    >>> match.listed(mrsim.grid(base, T1=[0.5, 1.0], T2=[0.05, 0.1])).count
    4
    """

    def at(index: Tensor) -> Any:
        return tree_map(lambda v: v[index.to(v.device)], batch)

    return Atoms(len(tree_leaves(batch)[0]), at, keep, (batch, keep))


def grid(base: Any, keep: Keep | None = None, **axes: Any) -> Atoms:
    """Make atoms of every combination of values, as `mrsim.grid`, but of any number.

    Args:
        base: one voxel's record; fields not named keep its value.
        keep: tells which combinations take part, such as ``lambda t: t.T2 <= t.T1``;
            the others are never simulated, and keep their index.
        **axes: 1-D tensors, arrays or lists of values; the first varies slowest.

    Returns:
        The atoms.

    Raises:
        ValueError: an axis names no field, is not 1-D or has no values.

    >>> import mrsim, torch
    >>> from mrsim import match
    >>> base = mrsim.Tissue(T1=1.0, T2=0.1)
    >>> atoms = match.grid(base, T1=[0.5, 1.0, 2.0], T2=[0.05, 0.1])
    >>> atoms.count, atoms.at(torch.tensor([3])).T1
    (6, tensor([1.]))
    """
    values = {n: get(tree.grid(base, **{n: v}), n) for n, v in axes.items()}
    count = math.prod(len(v) for v in values.values())
    if not count:
        raise ValueError(f"match.grid: an axis of {[*values]} has no values")

    def at(index: Tensor) -> Any:
        made, rest = expand(base, len(index)), index
        for name, value in reversed(values.items()):
            place = torch.remainder(rest, len(value)).to(value.device)
            made, rest = put(made, name, value[place]), rest // len(value)
        return made

    return Atoms(count, at, keep, (base, tuple(values.items()), keep))


def params(atoms: Atoms, index: Tensor) -> Any:
    """Return the parameters of some atoms; NaN where the index is negative.

    Args:
        atoms: as from `grid`.
        index: indices of any shape, such as those that `match` found.

    Returns:
        A record whose leaves have the shape of ``index`` first.

    >>> import mrsim, torch
    >>> from mrsim import match
    >>> atoms = match.grid(mrsim.Tissue(T1=1.0, T2=0.1), T1=[0.5, 2.0])
    >>> match.params(atoms, torch.tensor([1, -1])).T1
    tensor([2., nan])
    """
    flat = index.reshape(-1)
    made = atoms.at(flat.clamp(min=0))

    def shaped(v: Tensor) -> Tensor:
        gone = (flat < 0).to(v.device).reshape(-1, *(1,) * (v.ndim - 1))
        return torch.where(gone, torch.nan, v).reshape((*index.shape, *v.shape[1:]))

    return tree_map(shaped, made)


def drawn(
    base: Any,
    count: int,
    ranges: dict[str, tuple[float, float]],
    log: tuple[str, ...],
    unit: Callable[[Tensor], Tensor],
    keep: Keep | None,
    inputs: Any,
) -> Atoms:
    """Make atoms of numbers in [0, 1).

    Args:
        base: one voxel's record.
        count: how many.
        ranges: field → smallest and largest value.
        log: fields that are spread evenly in their logarithm.
        unit: (n,) indices → (n, field) numbers in double precision.
        keep: tells which take part.
        inputs: all that unit depends on.

    Returns:
        The atoms.

    Raises:
        ValueError: there are no atoms or ranges, a range is of no scalar field or is
            not possible, or log names another field.
    """
    if count < 1 or not ranges:
        raise ValueError(
            f"match: at least one atom and one range such as T2=(0.01, 0.3) are"
            f" needed, got {count} atoms and the ranges {ranges}"
        )
    for name, (low, high) in ranges.items():
        old = get(base, name) if name in names(base) else torch.zeros(1)
        if old is not None and old.ndim:
            raise ValueError(
                f"match: {name} must be a scalar field of {type(base).__name__}"
                f" ({', '.join(names(base))})"
            )
        if not low <= high or (name in log and low <= 0):
            raise ValueError(
                f"match: {name} needs (low, high) with low <= high, and low > 0 for"
                f" logarithmic spacing, got {(low, high)}"
            )
    if set(log) - set(ranges):
        raise ValueError(f"match: log names {log}, but the ranges are of {[*ranges]}")
    like = tree_leaves(base)[0]

    def at(index: Tensor) -> Any:
        made = expand(base, len(index))
        columns = unit(index.to(like.device)).unbind(1)
        for u, (name, (low, high)) in zip(columns, ranges.items(), strict=True):
            x = low * (high / low) ** u if name in log else low + (high - low) * u
            made = put(made, name, x.to(like.dtype))
        return made

    return Atoms(count, at, keep, (base, tuple(ranges.items()), log, keep, inputs))
