"""Checks of sequences: dtypes, shapes, and times that fit into one another."""

from typing import Any

from torch import Tensor

from mrsim._check import check_floats, check_shapes, concrete
from mrsim.epg.blocks import PULSES, Train
from mrsim.tissue import Tissue
from mrsim.tree import leaf_names

_LATER = ("moment", *PULSES)  # `attach` knows their axes


def check_sequence(where: str, seq: Any, **shapes: str) -> dict[str, int]:
    """Check the dtypes, the device and the shapes of a sequence's record.

    Args:
        where: the function that asks, for the message.
        seq: the record.
        **shapes: field name and its axes as in `check_shapes`; ``"pulse?"`` allows a
            scalar too. Fields that are not named are scalars.

    Returns:
        The length of each named axis.

    Raises:
        TypeError: a field is no floating tensor, or dtypes differ.
        ValueError: shapes or devices do not match, or an axis is empty.
    """
    held = vars(seq)
    present = {n: held[n] for n in leaf_names(type(seq)) if held[n] is not None}
    check_floats(where, **present)
    wanted = {}
    for name, value in present.items():
        axes = shapes.get(name, "")
        if axes.endswith("?"):
            axes = axes[:-1] if value.ndim else ""
        if axes or name not in _LATER:
            wanted[name] = axes
    sizes = check_shapes(where, seq, **wanted)
    if 0 in sizes.values():
        name = next(n for n, axes in wanted.items() if axes and not held[n].numel())
        raise ValueError(
            f"{where}: {name} holds no {wanted[name]}; give at least one value"
        )
    return sizes


def check_fits(where: str, rule: str, gap: Tensor) -> None:
    """Refuse times that do not fit into one another, where they can be looked at.

    Args:
        where: the function that asks, for the message.
        rule: what should hold, and how to make it.
        gap: what is left over [s].

    Raises:
        ValueError: it is negative.
    """
    if concrete(gap) and (gap.detach() < -1e-6).any():
        short = -float(gap.detach().min())
        raise ValueError(f"{where}: {rule}; {short:g} s are missing")


def check_whole(where: str, name: str, value: Any) -> None:
    """Require a whole number of at least 1.

    Args:
        where: the function that asks, for the message.
        name: what it counts.
        value: the number.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(value, int) or value < 1:
        raise ValueError(
            f"{where}: {name} must be a whole number of at least 1, got {value!r}"
        )


def check_closed(
    where: str, instead: str, tissue: Tissue, seq: Train, *unknown: str
) -> None:
    """Refuse physics that a closed form does not know.

    Args:
        where: the function that asks, for the message.
        instead: what simulates it, for the message.
        tissue: the voxel.
        seq: the sequence.
        *unknown: fields of the tissue that must be absent.

    Raises:
        ValueError: one of them is given, or the tissue flows through the slice.
    """
    found = [n for n in unknown if getattr(tissue, n) is not None]
    flows = tissue.v is not None and seq.thickness is not None
    if found or flows:
        raise ValueError(
            f"{where}: the closed form does not know the tissue's {(*found, 'v')[0]};"
            f" simulate with {instead}"
        )
