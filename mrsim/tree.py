"""Records: frozen dataclasses that torch.func, optree and pickle understand.

A record is a pytree whose leaves are its tensors. A field that is ``None`` is physics
that is absent: it has no leaf, costs nothing and has no derivative. A field declared
with `static` is hashable structure and takes no part in differentiation.

This is the only file that touches torch's (private) pytree registry.
"""

import dataclasses
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, TypeVar, dataclass_transform

import optree
import torch
from optree.registry import __GLOBAL_NAMESPACE as _GLOBAL
from torch import Tensor
from torch.utils import _pytree

from mrsim._check import check_values
from mrsim._show import show

R = TypeVar("R")
# Records that somebody made. Those that transforms return can hold derivatives, whose
# units are not the fields'.
_made: weakref.WeakSet[Any] = weakref.WeakSet()

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

    Returns:
        A dataclass field whose default is ``None``.
    """
    return dataclasses.field(default=None, metadata={"neutral": value, "like": like})


@dataclass_transform(kw_only_default=True, frozen_default=True)
def record(cls: type[R]) -> type[R]:
    """Make a class a record: frozen, keyword-only, a pytree in torch and optree.

    The constructor turns Python floats and lists into tensors (of the dtype and device
    of the record's first floating tensor or array, else of torch's default), copies
    arrays with their dtype, and lets tensors, records, bools, ints and ``None`` pass,
    so that a record of ints can serve as ``in_dims``. Unflattening bypasses it.

    Args:
        cls: a class whose annotated fields are tensors, records or `static`.

    Returns:
        The dataclass.

    >>> import torch
    >>> from mrsim import record
    >>> @record
    ... class Decay:
    ...     R2: torch.Tensor  # () rate [1/s]
    >>> torch.func.grad(lambda x: x.R2**2)(Decay(R2=3.0))
    Decay(R2=6)
    """
    cls.__post_init__ = _convert  # pyright: ignore[reportAttributeAccessIssue]
    cls.__repr__ = _repr
    made: Any = dataclasses.dataclass(frozen=True, kw_only=True, eq=False, repr=False)(
        cls
    )
    leafy, fixed = leaf_names(made), _static_names(made)

    def flatten(x: Any) -> tuple[list[Any], tuple[Any, ...]]:
        held = x.__dict__
        present = tuple([n for n in leafy if held[n] is not None])
        return [held[n] for n in present], (present, tuple([held[n] for n in fixed]))

    def unflatten(children: Iterable[Any], context: Any) -> Any:
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
    return _fields(x if isinstance(x, type) else type(x))


@cache
def _fields(cls: type) -> tuple[dataclasses.Field[Any], ...]:
    return tuple(cls.__dataclass_fields__.values())  # what Dynamo follows, too


@cache
def leaf_names(cls: type) -> tuple[str, ...]:
    """Return the names of a record class's fields that are no structure."""
    return tuple(f.name for f in _fields(cls) if not f.metadata.get("static"))


@cache
def _static_names(cls: type) -> tuple[str, ...]:
    return tuple(f.name for f in _fields(cls) if f.metadata.get("static"))


@cache
def metadata(cls: type, name: str) -> Mapping[str, Any]:
    """Return what a record class declares of a field."""
    return next(f.metadata for f in _fields(cls) if f.name == name)


def is_record(x: Any) -> bool:
    """Tell whether ``x`` is an instance of a class made by `record`."""
    return hasattr(type(x), "__dataclass_fields__") and (
        type(x) in _pytree.SUPPORTED_NODES
    )


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


def _repr(self: Any) -> str:
    return show(self, units=self in _made)


def _convert(self: Any) -> None:
    if not torch.compiler.is_compiling():
        _made.add(self)
    held = self.__dict__
    given = {name: held[name] for name in leaf_names(type(self))}
    if not any(map(_is_bare, given.values())):
        return
    typed = {n: _tensor(v, torch.empty(0)) for n, v in given.items() if _has_dtype(v)}
    first = next((v for v in typed.values() if v.is_floating_point()), torch.empty(0))
    bare = {n: v for n, v in given.items() if isinstance(v, float | list | tuple)}
    made = {n: _tensor(v, first) for n, v in bare.items() if n not in typed}
    made |= {n: v.to(first.device) for n, v in typed.items() if v is not given[n]}
    for name, value in made.items():
        object.__setattr__(self, name, value)
    check_values(type(self).__name__, given | made, made)


def _is_bare(value: Any) -> bool:
    return value is not None and not isinstance(value, Tensor)


def _has_dtype(value: Any) -> bool:
    """Tell tensors, arrays and lists that hold one from bare numbers."""
    if isinstance(value, list | tuple):
        return any(map(_has_dtype, value))
    return hasattr(value, "__array__") and not isinstance(value, float)


def _tensor(value: Any, like: Tensor) -> Tensor:
    """Make a tensor of arrays, tensors and numbers (as ``like``), in lists or bare."""
    if isinstance(value, Tensor):
        return value
    if not _has_dtype(value):
        return torch.tensor(value, dtype=like.dtype, device=like.device)
    if isinstance(value, list | tuple):
        typed = _tensor(next(filter(_has_dtype, value)), like)
        return torch.stack([_tensor(v, typed) for v in value])
    array = value.__array__()
    native = array.dtype.newbyteorder("=")
    return torch.tensor(array.astype(native, order="C"))


def replace(x: R, /, **changes: Any) -> R:
    """Return a copy of the record with the named fields changed."""
    out = object.__new__(type(x))
    out.__dict__.update(x.__dict__)
    if not changes.keys() <= out.__dict__.keys():
        have = ", ".join(f.name for f in fields(x))
        raise TypeError(
            f"replace: {type(x).__name__} has no field"
            f" {', '.join(sorted(changes.keys() - out.__dict__.keys()))}; it has {have}"
        )
    out.__dict__.update(changes)
    _convert(out)
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
    """Move every floating tensor of a tree to a dtype and every tensor to a device."""

    def move(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        return x.to(device=device, dtype=dtype if x.is_floating_point() else None)

    return tree_map(move, tree)


def expand(tree: R, size: int) -> R:
    """Give every leaf a first axis of ``size``, contiguous, for ``in_dims=0``."""
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
    values = {n: _tensor(v, first).to(first) for n, v in axes.items()}
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
