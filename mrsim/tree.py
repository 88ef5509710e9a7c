"""Records: frozen dataclasses that torch.func, optree and pickle understand.

A record is a pytree whose leaves are its tensors. A field that is ``None`` is physics
that is absent: it has no leaf, costs nothing and has no derivative. A field declared
with `static` is hashable structure and takes no part in differentiation.

Here are the edits: by field name, of every leaf, and of batches.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from mrsim._check import check_values
from mrsim._convert import as_tensor
from mrsim._declare import (
    complete,
    fields as fields,
    is_record as is_record,
    leaf_names as leaf_names,
    metadata as metadata,
    neutral as neutral,
    record as record,
    static as static,
    tree_flatten as tree_flatten,
    tree_leaves as tree_leaves,
    tree_map as tree_map,
    tree_unflatten as tree_unflatten,
)

R = TypeVar("R")


def smooth(x: Any) -> bool:
    """Tell whether a leaf can be differentiated."""
    return isinstance(x, Tensor) and (x.is_floating_point() or x.is_complex())


def filled(
    f: Callable[..., Any], leaves: Sequence[Any], at: Sequence[int]
) -> Callable[..., Any]:
    """Return ``f`` of all leaves as a function of those at the given positions."""

    def chosen(*xs: Any) -> Any:
        now = dict(zip(at, xs, strict=True))
        return f(*(now.get(k, x) for k, x in enumerate(leaves)))

    return chosen


def replace(x: R, /, **changes: Any) -> R:
    """Return a copy of the record with the named fields changed.

    Args:
        x: a record.
        **changes: new values of fields, made tensors as by the constructor.

    Returns:
        The new record.

    Raises:
        TypeError: the record has no such field.

    >>> from mrsim import Tissue, replace
    >>> replace(Tissue(T1=1.0, T2=0.1), T2=0.05).T2
    tensor(0.0500)
    """
    out = object.__new__(type(x))
    out.__dict__.update(x.__dict__)
    if not changes.keys() <= out.__dict__.keys():
        have = ", ".join(f.name for f in fields(x))
        raise TypeError(
            f"replace: {type(x).__name__} has no field"
            f" {', '.join(sorted(changes.keys() - out.__dict__.keys()))}; it has {have}"
        )
    out.__dict__.update(changes)
    complete(out)
    return out


def get(x: Any, name: str) -> Any:
    """Return the field at a dotted name (``"exchange.k"``)."""
    for part in name.split("."):
        x = getattr(x, part)
    return x


def put(x: R, name: str, value: Any) -> R:
    """Return a copy of the record with the field at a dotted name set."""
    head, _, rest = name.partition(".")
    if rest:
        value = put(getattr(x, head), rest, value)
    out = object.__new__(type(x))
    out.__dict__.update(x.__dict__)
    out.__dict__[head] = value
    return out


def names(x: Any, prefix: str = "") -> Iterator[str]:
    """Yield the dotted names of every field that can be a leaf, present or not."""
    for name in leaf_names(type(x)):
        value = getattr(x, name)
        if is_record(value):
            yield from names(value, f"{prefix}{name}.")
        else:
            yield prefix + name


def promote(x: R, name: str) -> R:
    """Give an absent field its neutral value, so that it can be differentiated.

    Returns:
        The record, with a value in the field.

    Raises:
        ValueError: the field is absent and declares no neutral value.
    """
    if get(x, name) is not None:
        return x
    head, _, last = name.rpartition(".")
    owner = get(x, head) if head else x
    meta = metadata(type(owner), last)
    if "neutral" not in meta:
        raise ValueError(
            f"{type(owner).__name__}.{last} is None and has no neutral value;"
            f" give it a value before naming it"
        )
    if meta["like"] is None:
        first = next(filter(smooth, tree_leaves(owner)), torch.empty(0))
        return put(x, name, first.new_full((), meta["neutral"]))
    return put(x, name, torch.full_like(getattr(owner, meta["like"]), meta["neutral"]))


def only(x: R, wanted: Iterable[str], make: Callable[[str], Any]) -> R:
    """Return a record of the same type that holds ``make(name)`` at the wanted names.

    Every other leaf is ``None``.
    """
    kept = tuple(wanted)
    out = object.__new__(type(x))
    out.__dict__.update(x.__dict__)
    for name in leaf_names(type(x)):
        prefix = name + "."
        inside = [n[len(prefix) :] for n in kept if n.startswith(prefix)]
        if name in kept:
            out.__dict__[name] = make(name)
        elif inside:
            value = getattr(x, name)
            out.__dict__[name] = only(value, inside, lambda n, p=prefix: make(p + n))
        else:
            out.__dict__[name] = None
    return out


def to(
    tree: R, dtype: torch.dtype | None = None, device: torch.device | str | None = None
) -> R:
    """Move every floating tensor of a tree to a dtype and every tensor to a device.

    Args:
        tree: records or other pytrees of tensors.
        dtype: of floating tensors; ``None`` leaves them.
        device: of all tensors; ``None`` leaves them.

    Returns:
        The same, moved.

    >>> import mrsim, torch
    >>> mrsim.to(mrsim.Tissue(T1=1.0, T2=0.1), torch.float64).T2.dtype
    torch.float64
    """

    def move(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        return x.to(device=device, dtype=dtype if x.is_floating_point() else None)

    return tree_map(move, tree)


def expand(tree: R, size: int) -> R:
    """Give every leaf a first axis of ``size``, contiguous, for ``in_dims=0``.

    Args:
        tree: records or other pytrees of tensors.
        size: length of the new axis.

    Returns:
        The same with leaves of shape (size, …).

    >>> from mrsim import Tissue, expand
    >>> expand(Tissue(T1=1.0, T2=0.1), 3).T2
    tensor([0.1000, 0.1000, 0.1000])
    """
    return tree_map(lambda x: x.expand(size, *x.shape).contiguous(), tree)


def grid(base: R, /, **axes: Any) -> R:
    """Make a record of every combination of the given axes: a flat batch.

    Args:
        base: one voxel's record; fields not named keep its value.
        **axes: 1-D tensors, arrays or lists of values; the first varies slowest.

    Returns:
        A record whose every leaf has the batch axis ``(product of lengths, …)``.

    Raises:
        ValueError: an axis names no field or is not 1-D.

    >>> from mrsim import Tissue, grid
    >>> atoms = grid(Tissue(T1=1.0, T2=0.1), T1=[0.5, 1.0, 2.0], T2=[0.05, 0.1])
    >>> atoms.T1.shape, atoms.T2[:2]
    (torch.Size([6]), tensor([0.0500, 0.1000]))
    """
    owner = type(base).__name__
    first = next(filter(smooth, tree_leaves(base)), torch.empty(0))
    values = {n: as_tensor(v, first).to(first) for n, v in axes.items()}
    for name, value in values.items():
        if name not in names(base) or value.ndim != 1:
            raise ValueError(
                f"grid: {name} must be a 1-D list of values for a field of {owner}"
                f" ({', '.join(names(base))}), got shape {tuple(value.shape)}"
            )
        check_values(owner, {name: value})
    mesh = torch.meshgrid(*values.values(), indexing="ij")
    made = expand(base, mesh[0].numel())
    for name, values_of in zip(values, mesh, strict=True):
        made = put(made, name, values_of.reshape(-1))
    return made
