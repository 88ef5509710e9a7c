"""What a record's constructor makes of numbers, lists and arrays: tensors."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

_KEPT = (Tensor, int, torch.SymInt, torch.SymFloat, type(None))


def converted(owner: str, given: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return tensors for those values that are numbers, lists or arrays.

    Floats and lists take the dtype and device of the first floating tensor or array,
    else torch's default; arrays keep their dtype and are copied.

    Args:
        owner: the record's name, for the message.
        given: field name → value. Tensors, records, ints, bools and ``None`` pass.

    Returns:
        Field name → tensor, of the fields that were converted only.

    Raises:
        TypeError: a value is nothing of these.
    """
    if not any(map(_is_bare, given.values())):
        return {}
    typed = {n: as_tensor(v, torch.empty(0)) for n, v in given.items() if _has_dtype(v)}
    first = next((v for v in typed.values() if v.is_floating_point()), torch.empty(0))
    bare = {n: v for n, v in given.items() if isinstance(v, float | list | tuple)}
    made = {n: as_tensor(v, first) for n, v in bare.items() if n not in typed}
    made |= {n: v.to(first.device) for n, v in typed.items() if v is not given[n]}
    for name, value in given.items():
        if name not in made and not _passes(value):
            raise TypeError(
                f"{owner}: {name} must be a number, a list, an array or a tensor, got"
                f" the {type(value).__name__} {value!r:.60}"
            )
    return made


def _is_bare(value: Any) -> bool:
    return value is not None and not isinstance(value, Tensor)


def _passes(value: Any) -> bool:
    """Tell what stays as it is: axes of in_dims, records and what is absent."""
    return isinstance(value, _KEPT) or hasattr(type(value), "__dataclass_fields__")


def _has_dtype(value: Any) -> bool:
    """Tell tensors, arrays and lists that hold one from bare numbers."""
    if isinstance(value, list | tuple):
        return any(map(_has_dtype, value))
    array = hasattr(value, "__array__") or hasattr(value, "__dlpack__")
    return array and not isinstance(value, float)


def as_tensor(value: Any, like: Tensor) -> Tensor:
    """Make a tensor of arrays, tensors and numbers (as ``like``), in lists or bare."""
    if isinstance(value, Tensor):
        return value
    if not _has_dtype(value):
        return torch.tensor(value, dtype=like.dtype, device=like.device)
    if isinstance(value, list | tuple):
        typed = as_tensor(next(filter(_has_dtype, value)), like)
        return torch.stack([as_tensor(v, typed) for v in value])
    if hasattr(value, "__dlpack__") and not hasattr(value, "__array_interface__"):
        return torch.from_dlpack(value).clone()  # JAX, CuPy: numpy may not know it
    array = value.__array__()
    native = array.dtype.newbyteorder("=")
    return torch.tensor(array.astype(native, order="C"))
