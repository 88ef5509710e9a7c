"""Checks that teach: what came, what is expected, how to fix it.

Shapes, dtypes and devices are static and are checked by every simulator, also inside
transforms. Values are checked on concrete tensors only: by a record's constructor for
the Python numbers and arrays it converts, and by `mrsim.check` on request.
"""

import importlib
import math
import sys
import warnings
from collections.abc import Collection, Mapping
from functools import lru_cache
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor, peek_interpreter_stack

_TIMES = {
    *("T1", "T2", "T2p", "T1D", "TR", "TE", "TI", "TM", "esp", "duration", "delay"),
    *("cycle", "pause"),
}
_LONGEST = 60.0
_LARGEST_FLIP = 4 * math.pi
_FASTEST = 0.1  # mm²/s, a hundred times the diffusivity of tissue
_POSITIVE = {
    "D": "mm²/s",
    "k": "1/s",
    "rho": "signal/mm³",
    "kappa": "mm/s",
    "relaxivity": "mm/s",
}


def check_positive(where: str, **numbers: Any) -> None:
    """Require numbers above 0, outside transforms.

    Args:
        where: the function that asks, for the message.
        **numbers: name and number, array or tensor; ``None`` is absent and passes.

    Raises:
        ValueError: one is 0, negative or NaN.
    """
    for name, value in numbers.items():
        given = None if value is None else torch.as_tensor(value)
        if given is not None and concrete(given) and not (given > 0).all():
            raise ValueError(f"{where}: {name} must be positive, got {value}")


def check_floats(where: str, **fields: Any) -> None:
    """Require floating tensors of one dtype on one device.

    Args:
        where: the function that asks, for the message.
        **fields: name and value; ``None`` is absent and passes.

    Raises:
        TypeError: a value is no floating tensor, or dtypes differ.
        ValueError: devices differ.
    """
    first, like = "", None
    for name, value in fields.items():
        if value is None:
            continue
        if not isinstance(value, Tensor) or not value.is_floating_point():
            raise TypeError(f"{where}: {name} must be {_no_float(name, value)}")
        if like is None:
            first, like = name, value
        elif value.dtype != like.dtype:
            raise TypeError(
                f"{where}: {first} is {like.dtype} but {name} is {value.dtype}; bring"
                f" all records to one dtype with mrsim.to(record, dtype=...)"
            )
        elif value.device != like.device:
            raise ValueError(
                f"{where}: {first} is on {like.device} but {name} is on"
                f" {value.device}; move all records to one device with"
                f" mrsim.to(record, device=...)"
            )


def _no_float(name: str, value: Any) -> str:
    wanted = "a floating-point tensor, got"
    if isinstance(value, int):
        return f"{wanted} the int {value}; write the float {float(value)}"
    if not isinstance(value, Tensor):
        kind = type(value).__name__
        return f"{wanted} a {kind}; convert it with torch.as_tensor({name})"
    usual = f"{name}.to(torch.get_default_dtype())"
    return f"{wanted} {value.dtype}; convert it with {usual}"


def check_shapes(where: str, record: Any, **shapes: str) -> dict[str, int]:
    """Require the shapes of a record's present fields.

    Args:
        where: the function that asks, for the message.
        record: the record whose fields are checked.
        **shapes: field name and its axes, ``""`` for a scalar, ``"echo"`` for one axis.

    Returns:
        The length of each named axis.

    Raises:
        ValueError: a rank is wrong or an axis has two lengths.
    """
    sizes: dict[str, int] = {}
    owner: dict[str, str] = {}
    held = vars(record)
    for name, axes in shapes.items():
        value = held[name]
        if not isinstance(value, Tensor) or not (axes or value.ndim):
            continue
        wanted, got = _axes(axes), value.shape
        if len(got) != len(wanted):
            raise ValueError(
                f"{where}: {name} must have shape ({', '.join(wanted)}), got"
                f" {tuple(got)}; {_remedy(where, record, len(got) - len(wanted))}"
            )
        for axis, size in zip(wanted, got, strict=True):
            if sizes.setdefault(axis, size) != size:
                raise ValueError(
                    f"{where}: {name} has {size} along '{axis}' but {owner[axis]} has"
                    f" {sizes[axis]}; give them the same length"
                )
            owner.setdefault(axis, name)
    return sizes


@lru_cache(maxsize=256)
def _axes(names: str) -> tuple[str, ...]:
    return tuple(names.split())


def _remedy(where: str, record: Any, extra: int) -> str:
    if extra < 0:
        return "give one value for each entry of the axis"
    dims = "(0, None)" if type(record).__name__ == "Tissue" else "(None, 0)"
    return f"map over a batch with vmap({where}, in_dims={dims})"


def check_values(
    where: str, fields: Mapping[str, Any], checked: Collection[str] | None = None
) -> None:
    """Look for unit slips, impossible values and NaN in concrete tensors.

    Args:
        where: the record's name, for the message.
        fields: all fields of the record.
        checked: the names to look at; ``None`` for all.

    Raises:
        ValueError: a time is negative, or TE is longer than TR.
    """
    tensors = {
        n: v.detach()
        for n, v in fields.items()
        if isinstance(v, Tensor) and v.is_floating_point() and v.numel() and concrete(v)
    }
    chosen = tensors.keys() if checked is None else tensors.keys() & checked
    for name in chosen:
        _check_one(where, name, tensors[name])
    if {"T1", "T2"} & chosen:
        larger = _larger(tensors.get("T2"), tensors.get("T1"))
        if larger.any():
            warn(
                f"{where}: T2 is larger than T1 in {int(larger.sum())} of"
                f" {larger.numel()} voxels, which no tissue shows; are they swapped?"
            )
    if {"TE", "TR"} & chosen:
        larger = _larger(tensors.get("TE"), tensors.get("TR"))
        if larger.any():
            raise ValueError(
                f"{where}: TE is longer than TR in {int(larger.sum())} of"
                f" {larger.numel()} values; the reading lies within its repetition"
            )


def _check_motion(where: str, name: str, value: Tensor) -> None:
    """Refuse diffusivities, rates and densities that are negative."""
    if name not in _POSITIVE or where not in {"Tissue", "Exchange", "Bound", "Water"}:
        return
    given = value.nan_to_num(0.0)
    high = float(given.amax())
    if name == "D" and high > _FASTEST:
        warn(
            f"{where}: D = {high:g} mm²/s looks like µm²/ms; mrsim takes mm²/s,"
            f" write {high:g} * um**2 / ms with mrsim.units"
        )
    if value.shape[-2:] == (3, 3):
        skew = (given - given.mT).abs().amax()
        low = torch.linalg.eigvalsh(given).amin()
        if skew > 1e-6 * given.abs().amax() or low < 0:
            raise ValueError(
                f"{where}: D must be symmetric with eigenvalues of at least 0, got"
                f" {float(low):g} as the smallest; a tensor of measured entries has"
                f" both triangles"
            )
        return
    low = float(given.amin())
    if low < 0:
        raise ValueError(
            f"{where}: {name} must not be negative, got {low:g} {_POSITIVE[name]}"
        )


def _check_shares(where: str, value: Tensor) -> None:
    """Refuse shares of magnetisation outside 0 … 1."""
    low, high = map(float, value.nan_to_num(0.5).aminmax())
    if low < 0 or high > 1:
        raise ValueError(
            f"{where}: f is a share of M0 in [0, 1], got {low if low < 0 else high:g};"
            f" if it is in percent, divide by 100"
        )


def _larger(a: Tensor | None, b: Tensor | None) -> Tensor:
    """Tell where a exceeds b; nowhere if one is absent or they do not fit."""
    if a is None or b is None or a.device != b.device:
        return torch.zeros(1, dtype=torch.bool)
    if a.ndim and b.ndim and a.shape != b.shape:
        return torch.zeros(1, dtype=torch.bool)
    return a > b


def _check_one(where: str, name: str, value: Tensor) -> None:
    missing = int(value.isnan().sum())
    if missing:
        warn(f"{where}: {name} is NaN in {missing} of {value.numel()} values")
    if name in _TIMES:
        low, high = value.nan_to_num(0.0, posinf=0.0).aminmax()
        if low < 0:
            raise ValueError(
                f"{where}: {name} must not be negative, got {float(low):g} s"
            )
        if high > _LONGEST:
            warn(
                f"{where}: {name} = {float(high):g} s looks like milliseconds;"
                f" mrsim takes seconds, write {float(high):g} * mrsim.units.ms"
            )
    _check_motion(where, name, value)
    if name == "f" and where in {"Exchange", "Bound"}:
        _check_shares(where, value)
    if name == "flip":
        largest = float(value.nan_to_num(0.0).abs().amax())
        if largest > _LARGEST_FLIP:
            warn(
                f"{where}: flip = {largest:g} rad looks like degrees;"
                f" mrsim takes radians, write {largest:g} * mrsim.units.deg"
            )


def warn(message: str) -> None:
    """Warn at the line of the first caller outside mrsim and torch."""
    level, frame = 1, sys._getframe()
    while frame.f_back and _is_inside(frame):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, UserWarning, stacklevel=level)


def _is_inside(frame: FrameType) -> bool:
    package = frame.f_globals.get("__name__", "").partition(".")[0]
    constructor = "__create_fn__" in frame.f_code.co_qualname
    return constructor or package in {"mrsim", "dataclasses", "torch"}


def check(record: Any) -> Any:
    """Check the values of a record and of the records inside it; return it unchanged.

    Call it outside transforms. Times that are negative and TE > TR raise; times above
    60 s, flips above 4π, T2 > T1 and NaN warn.

    Args:
        record: any record.

    Returns:
        The same record.

    Raises:
        ValueError: a time is negative.

    >>> import mrsim
    >>> tissue = mrsim.check(mrsim.Tissue(T1=0.95, T2=0.1))
    """
    inside = vars(record)
    check_values(type(record).__name__, inside)
    for value in inside.values():
        if hasattr(value, "__dataclass_fields__"):
            check(value)
    return record


def require(module: str, extra: str) -> Any:
    """Import an optional package or say how to install it.

    Args:
        module: the package's import name.
        extra: mrsim's extra that brings it.

    Returns:
        The imported module.

    Raises:
        ImportError: the package is missing.
    """
    try:
        return importlib.import_module(module)
    except ImportError as e:
        raise ImportError(
            f"{module} is needed here and is not installed;"
            f' get it with: pip install "mrsim[{extra}]"'
        ) from e


def concrete(x: Tensor) -> bool:
    """Tell whether a tensor's values can be looked at: nothing traces it."""
    return not (
        torch.compiler.is_compiling()  # first: a compiler cannot follow the others
        or x.is_meta
        or traced(x)
        or torch._C._len_torch_dispatch_stack()
    )


def traced(x: Tensor) -> bool:
    """Tell whether a torch.func transform follows a tensor."""
    return is_functorch_wrapped_tensor(x)


def transforming() -> bool:
    """Tell whether a torch.func transform is active."""
    return peek_interpreter_stack() is not None
