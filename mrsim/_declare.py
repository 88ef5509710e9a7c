"""What makes a class a record: a frozen dataclass that both pytree registries know.

This is the only file that touches torch's (private) pytree registry.
"""

import dataclasses
import weakref
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, TypeVar, dataclass_transform

import optree
import torch
from optree.registry import __GLOBAL_NAMESPACE as _GLOBAL
from torch.utils import _pytree

from mrsim._check import check_values
from mrsim._convert import converted
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
    """Declare a hashable field of a record that is structure, not a leaf.

    Args:
        default: its value where none is given.

    Returns:
        A dataclass field.

    >>> import torch, mrsim
    >>> @mrsim.record
    ... class Comb:
    ...     spacing: torch.Tensor  # () between echoes [s]
    ...     count: int = mrsim.static(4)
    >>> f = lambda comb: comb.count * comb.spacing**2
    >>> torch.func.grad(f)(Comb(spacing=0.5)).spacing
    tensor(4.)
    """
    return dataclasses.field(default=default, metadata={"static": True})


def neutral(value: float, like: str | None = None) -> Any:
    """Declare an optional field and the value at which its physics has no effect.

    Args:
        value: the neutral value (1 for ``B1``, 0 for ``df``).
        like: the field whose shape the neutral value takes; ``None`` for a scalar.

    Returns:
        A dataclass field whose default is ``None``.

    >>> import torch, mrsim
    >>> @mrsim.record
    ... class Coil:
    ...     gain: torch.Tensor | None = mrsim.neutral(1.0)  # () of the receiver [1]
    >>> Coil().gain is None
    True
    >>> mrsim.jac(lambda coil: 3 * coil.gain, "gain")(Coil()).gain  # at 1
    tensor(3.)
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
    written: Any = cls
    written.__post_init__, written.__repr__ = complete, _repr
    written.__setattr__, written.__delattr__ = _set_once, _keep
    made: Any = dataclasses.dataclass(kw_only=True, eq=False, repr=False)(written)
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


def complete(x: Any) -> None:
    """Turn numbers and arrays in a new record's fields into tensors; check them.

    Args:
        x: a record that nobody else holds yet.
    """
    if not torch.compiler.is_compiling():
        _made.add(x)
    held = x.__dict__
    given = {name: held[name] for name in leaf_names(type(x))}
    made = converted(type(x).__name__, given)
    for name, value in made.items():
        object.__setattr__(x, name, value)
    if made:
        check_values(type(x).__name__, given | made, made)


def _repr(self: Any) -> str:
    return show(self, units=self in _made)


# Shared by all records: `dataclass(frozen=True)` would compile its own for every class,
# which took a quarter of the time of `import mrsim`.
def _set_once(self: Any, name: str, value: Any) -> None:
    """Let the constructor set each field, and nobody set anything after it."""
    if name in self.__dict__ or name not in self.__dataclass_fields__:
        raise dataclasses.FrozenInstanceError(
            f"cannot assign to {name}: a {type(self).__name__} is a record and does not"
            f" change; make another one with mrsim.replace(record, {name}=...)"
        )
    object.__setattr__(self, name, value)


def _keep(self: Any, name: str) -> None:
    raise dataclasses.FrozenInstanceError(
        f"cannot delete {name}: a {type(self).__name__} is a record and does not change"
    )
