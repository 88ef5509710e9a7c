"""Records: frozen dataclasses that torch.func, optree and pickle understand.

A record is a pytree whose leaves are its tensors. A field that is ``None`` is physics
that is absent: it has no leaf, costs nothing and has no derivative. A field declared
with `static` is hashable structure and takes no part in differentiation.

This is the only file that touches torch's (private) pytree registry.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar, dataclass_transform

import optree
import torch
from optree.registry import __GLOBAL_NAMESPACE as _GLOBAL
from torch import Tensor
from torch.utils import _pytree

from mrsim._check import check_values

R = TypeVar("R")

tree_flatten = _pytree.tree_flatten
tree_leaves = _pytree.tree_leaves
tree_map = _pytree.tree_map
tree_unflatten = _pytree.tree_unflatten


def static(default: Any = dataclasses.MISSING) -> Any:
    """Declare a hashable field of a record that is structure, not a leaf."""
    return dataclasses.field(default=default, metadata={"static": True})


def neutral(value: float, like: str | None = None) -> Any:
    """Declare an optional field and the value at which its physics has no effect.

    Args:
        value: the neutral value (1 for ``B1``, 0 for ``df``).
        like: the field whose shape the neutral value takes; ``None`` for a scalar.
    """
    return dataclasses.field(default=None, metadata={"neutral": value, "like": like})


@dataclass_transform(
    kw_only_default=True, frozen_default=True, field_specifiers=(static, neutral)
)
def record(cls: type[R]) -> type[R]:
    """Make a class a record: frozen, keyword-only, a pytree in torch and optree.

    The constructor turns Python floats, lists and arrays into tensors (of the dtype and
    device of the record's first floating tensor, else of torch's default) and lets
    tensors, records, bools, ints and ``None`` through, so that a record of ints can
    serve as ``in_dims``. Unflattening bypasses the constructor.
    """
    cls.__post_init__ = _convert
    made = dataclasses.dataclass(frozen=True, kw_only=True, eq=False)(cls)
    leafy = tuple(f.name for f in fields(made) if not f.metadata.get("static"))
    fixed = tuple(f.name for f in fields(made) if f.metadata.get("static"))

    def flatten(x: Any) -> tuple[list[Any], tuple[Any, ...]]:
        present = tuple(n for n in leafy if getattr(x, n) is not None)
        values = tuple(getattr(x, n) for n in fixed)
        return [getattr(x, n) for n in present], (present, values)

    def unflatten(children: Iterable[Any], context: tuple[Any, ...]) -> R:
        present, values = context
        x = object.__new__(made)
        x.__dict__.update(dict.fromkeys(leafy))
        x.__dict__.update(zip(present, children, strict=True))
        x.__dict__.update(zip(fixed, values, strict=True))
        return x

    def flatten_with_keys(x: Any) -> tuple[list[Any], tuple[Any, ...]]:
        children, context = flatten(x)
        keys = map(_pytree.GetAttrKey, context[0])
        return list(zip(keys, children, strict=True)), context

    _pytree.register_pytree_node(
        made,
        flatten,
        unflatten,
        serialized_type_name=f"{made.__module__}.{made.__qualname__}",
        flatten_with_keys_fn=flatten_with_keys,
    )
    optree.register_pytree_node(
        made,
        lambda x: (*flatten(x), flatten(x)[1][0]),
        lambda context, children: unflatten(children, context),
        path_entry_type=optree.GetAttrEntry,
        namespace=_GLOBAL,
    )
    torch.serialization.add_safe_globals([made])
    return made


def fields(x: Any) -> tuple[dataclasses.Field[Any], ...]:
    """Return the dataclass fields of a record or of its class."""
    return dataclasses.fields(x)


def is_record(x: Any) -> bool:
    """Tell whether ``x`` is an instance of a class made by `record`."""
    return dataclasses.is_dataclass(x) and not isinstance(x, type)


def _convert(self: Any) -> None:
    values = {
        f.name: getattr(self, f.name)
        for f in fields(self)
        if not f.metadata.get("static")
    }
    arrays = {
        n: torch.tensor(v)
        for n, v in values.items()
        if hasattr(v, "__array__") and not isinstance(v, Tensor | float)
    }
    known = [v for v in (values | arrays).values() if isinstance(v, Tensor)]
    first = next((v for v in known if v.is_floating_point()), torch.empty(0))
    made = {
        n: _stack(v, first) for n, v in values.items() if isinstance(v, float | list | tuple)
    }
    made |= {n: v.to(first.device) for n, v in arrays.items()}
    for name, value in made.items():
        object.__setattr__(self, name, value)
    check_values(type(self).__name__, values | made, made)


def _stack(value: Any, like: Tensor) -> Tensor:
    if isinstance(value, Tensor):
        return value
    if isinstance(value, list | tuple) and any(isinstance(v, Tensor) for v in value):
        return torch.stack([_stack(v, like) for v in value])
    return torch.tensor(value, dtype=like.dtype, device=like.device)


def replace(x: R, **changes: Any) -> R:
    """Return a copy of the record with the named fields changed."""
    return dataclasses.replace(x, **changes)  # pyright: ignore[reportArgumentType]


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
    for f in fields(x):
        value = getattr(x, f.name)
        if f.metadata.get("static"):
            continue
        if is_record(value):
            yield from names(value, f"{prefix}{f.name}.")
        else:
            yield prefix + f.name


def promote(x: R, name: str) -> R:
    """Give an absent field its neutral value, so that it can be differentiated.

    Raises:
        ValueError: the field is absent and declares no neutral value.
    """
    if get(x, name) is not None:
        return x
    head, _, last = name.rpartition(".")
    owner = get(x, head) if head else x
    meta = next(f.metadata for f in fields(owner) if f.name == last)
    if "neutral" not in meta:
        raise ValueError(
            f"{type(owner).__name__}.{last} is None and has no neutral value;"
            f" give it a value before naming it"
        )
    if meta["like"] is None:
        first = next(v for v in tree_leaves(owner) if isinstance(v, Tensor))
        return put(x, name, first.new_full((), meta["neutral"]))
    return put(x, name, torch.full_like(getattr(owner, meta["like"]), meta["neutral"]))


def only(x: R, wanted: Iterable[str], make: Callable[[str], Any]) -> R:
    """Return a record of the same type that holds ``make(name)`` at the wanted names.

    Every other leaf is ``None``.
    """
    kept = tuple(wanted)
    out = object.__new__(type(x))
    out.__dict__.update(x.__dict__)
    for f in fields(x):
        value = getattr(x, f.name)
        if f.metadata.get("static"):
            continue
        inside = [n[len(f.name) + 1 :] for n in kept if n.startswith(f.name + ".")]
        if f.name in kept:
            out.__dict__[f.name] = make(f.name)
        elif inside:
            prefix = f.name + "."
            out.__dict__[f.name] = only(value, inside, lambda n, p=prefix: make(p + n))
        else:
            out.__dict__[f.name] = None
    return out


def to(
    tree: R, dtype: torch.dtype | None = None, device: torch.device | str | None = None
) -> R:
    """Move every floating tensor of a tree to a dtype and every tensor to a device."""

    def move(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        return x.to(device=device, dtype=dtype if x.is_floating_point() else None)

    return tree_map(move, tree)


def expand(tree: R, size: int) -> R:
    """Give every leaf a leading batch axis of ``size``, contiguous, for ``in_dims=0``."""
    return tree_map(lambda x: x.expand(size, *x.shape).contiguous(), tree)


def grid(base: R, **axes: Any) -> R:
    """Make a record of every combination of the given axes: a flat batch.

    Args:
        base: one voxel's record; fields not named keep its value.
        **axes: 1-D tensors, arrays or lists of values; the first varies slowest.

    Returns:
        A record whose every leaf has the batch axis ``(product of lengths, …)``.

    >>> from mrsim import Tissue, grid
    >>> atoms = grid(Tissue(T1=1.0, T2=0.1), T1=[0.5, 1.0, 2.0], T2=[0.05, 0.1])
    >>> atoms.T1.shape, atoms.T2[:2]
    (torch.Size([6]), tensor([0.0500, 0.1000]))
    """
    first = next(v for v in tree_leaves(base) if isinstance(v, Tensor))
    values = [torch.as_tensor(v, dtype=first.dtype, device=first.device) for v in axes.values()]
    mesh = [m.reshape(-1) for m in torch.meshgrid(*values, indexing="ij")]
    size = mesh[0].numel()
    return replace(expand(base, size), **dict(zip(axes, mesh, strict=True)))
