"""What a record says of itself: axes and units of its fields, and a short picture.

A field's comment, ``# (axes) meaning [unit]``, is the one place that tells them; it is
read from the source of the class, where there is one.
"""

import dataclasses
import inspect
import re
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor

_FIELD = re.compile(r"^    (\w+)\s*:[^#]*#\s*(.*)$", re.MULTILINE)
_AXES = re.compile(r"(?:or )?\(([^()]*)\)\s*")
_UNIT = re.compile(r"\[([^\[\]]+)\]")


class Meaning(NamedTuple):
    """What the comment of a field says."""

    axes: tuple[tuple[str, ...], ...] = ()  # of each shape that it may have
    unit: str | None = None


@cache
def meanings(cls: type) -> dict[str, Meaning]:
    """Return what the comments of a record's fields say.

    Args:
        cls: the record's class.

    Returns:
        Field name → meaning; nothing of classes whose source is not at hand.
    """
    found: dict[str, Meaning] = {}
    for owner in reversed(cls.__mro__):
        if not dataclasses.is_dataclass(owner):
            continue
        try:
            source = inspect.getsource(owner)
        except (OSError, TypeError):
            continue
        for name, comment in _FIELD.findall(source):
            unit = _UNIT.search(comment)
            found[name] = Meaning(_axes(comment), unit and unit[1])
    return found


def _axes(comment: str) -> tuple[tuple[str, ...], ...]:
    shapes, at = [], 0
    while part := _AXES.match(comment, at):
        names = part[1].split(",")
        shapes.append(tuple(name.strip() for name in names if name.strip()))
        at = part.end()
    return tuple(shapes)


def show(record: Any, *, units: bool = True) -> str:
    """Return a record in a line: numbers, or the shapes of arrays, with their units.

    Absent fields and defaults of structure are left out.

    Args:
        record: any record.
        units: whether units are told; they are not those of derivatives.

    Returns:
        The text.

    >>> from mrsim import Tissue
    >>> show(Tissue(T1=0.95, T2=[0.1, 0.2]))
    'Tissue(T1=0.95 s, T2=(2,) float32 [s])'
    """
    cls = type(record)
    told = meanings(cls) if units else {}
    parts = []
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        if value is None or (field.metadata.get("static") and value == field.default):
            continue
        unit = told.get(field.name, Meaning()).unit
        parts.append(f"{field.name}={_value(value, unit, units)}")
    return f"{cls.__qualname__}({', '.join(parts)})"


def _value(value: Any, unit: str | None, units: bool) -> str:
    if isinstance(value, Tensor):
        return _tensor(value, None if unit == "1" else unit)
    if dataclasses.is_dataclass(value):
        return show(value, units=units)
    if isinstance(value, tuple) and len(value) > 4:
        return f"<{len(value)} × {type(value[0]).__name__}>"
    return repr(value)


def _tensor(x: Tensor, unit: str | None) -> str:
    dtype = str(x.dtype).removeprefix("torch.")
    if x.ndim or not _readable(x):
        parts = [f"({', '.join(map(str, x.shape))}{',' * (x.ndim == 1)})", dtype]
        parts += [str(x.device)] * (x.device.type != "cpu")
        return " ".join([*parts, f"[{unit}]"] if unit else parts)
    usual = x.dtype in (torch.get_default_dtype(), torch.bool, torch.int64)
    number = x.detach().item()
    text = f"{number:.6g}" if x.is_floating_point() or x.is_complex() else str(number)
    return " ".join(filter(None, (text, unit, None if usual else dtype)))


def _readable(x: Tensor) -> bool:
    """Tell whether a number can be taken out: a CPU's, and nothing traces it."""
    return (
        x.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and not is_functorch_wrapped_tensor(x)
        and not torch._C._len_torch_dispatch_stack()
    )
