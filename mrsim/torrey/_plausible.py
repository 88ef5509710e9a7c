"""Values that no cell and no scanner has: slips of units, told where they are met.

All look at concrete tensors only: inside transforms nothing is known of values.
"""

import math
from typing import Any

from torch import Tensor

from mrsim._check import concrete, warn

_LARGEST, _SMALLEST = 0.1, 1e-5  # lengths of elements [mm]
_WIDEST = 2.0  # layer of a geometry [mm]; large ones stand for free diffusion
_LONGEST = {  # of one encoding, and of one step between samples [s]
    "delta": 1.0,
    "rise": 1.0,
    "times": 1.0,
    "Delta": 5.0,
    "start": 5.0,
    "pause": 5.0,
    "TE": math.inf,  # looked at in the record
}
_WEAKEST = 1.0  # γG, which turns spins by no more than 1e-4 rad in a cell [rad/(mm s)]


def check_element_size(where: str, volume: Tensor) -> None:
    """Warn of elements that are too large or too small for a cell.

    Args:
        where: the function that asks, for the message.
        volume: of every element (element,) [mm³].
    """
    size = (6 * float(volume.mean().abs())) ** (1 / 3)
    if size > _LARGEST:
        warn(
            f"{where}: elements are {size:.3g} mm long in the mean and fill"
            f" {float(volume.sum()):.3g} mm³, more than any cell; mrsim takes mm:"
            f" multiply points in µm by mrsim.units.um"
        )
    if size < _SMALLEST:
        warn(
            f"{where}: elements are {size:.3g} mm long in the mean, less than a"
            f" membrane is thick; mrsim takes mm: multiply points in m by mrsim.units.m"
        )


def check_moved(where: str, volume: Tensor) -> None:
    """Refuse elements that moved points have turned inside out, by number.

    Args:
        where: the function that asks, for the message.
        volume: signed, of every element (element,) [mm³].

    Raises:
        ValueError: an element is inverted, flat or not finite.
    """
    if not concrete(volume) or not volume.numel():
        return
    volume = volume.detach()
    bad = ~(volume > 0)
    if bad.any():
        k = int(bad.nonzero()[0, 0])
        raise ValueError(
            f"{where}: element {k} has the volume {float(volume[k]):.3g} mm³ where the"
            f" points lie now: it is inverted, flat or not finite"
            f" ({int(bad.sum())} of {len(bad)} are); see torrey.mesh_quality"
        )
    check_element_size(where, volume.double())


def check_edges(where: str, edges: Tensor) -> None:
    """Refuse layers that do not follow each other, warn of implausible ones.

    Args:
        where: the function that asks, for the message.
        edges: planes or radii (layer + 1,) [mm].

    Raises:
        ValueError: the edges do not ascend.
    """
    if not concrete(edges):
        return
    width = edges.detach().diff()
    if not (width > 0).all():
        raise ValueError(
            f"{where}: edges of layers must ascend (radii from 0), got"
            f" {edges.tolist()} mm"
        )
    if float(width.max()) > _WIDEST:
        warn(
            f"{where}: a layer is {float(width.max()):.3g} mm wide, more than any cell;"
            f" mrsim takes mm: multiply lengths in µm by mrsim.units.um"
        )


def check_encoding(x: Any) -> None:
    """Refuse impossible times, warn of times in ms and gradients in T/m.

    Args:
        x: an encoding, or a batch of them.

    Raises:
        ValueError: a time is negative, samples do not ascend, or a number of steps or
            periods is not positive.
    """
    where = type(x).__name__
    for name, value in vars(x).items():
        if name in {"steps", "periods"} and value is not None and value < 1:
            raise ValueError(f"{where}: {name} must be at least 1, got {value}")
        if not isinstance(value, Tensor) or not concrete(value) or not value.numel():
            continue
        if name in _LONGEST:
            _check_times(where, name, value.detach())
        if name == "q":
            strong = float(value.detach().abs().amax())
            if 0 < strong < _WEAKEST:
                warn(
                    f"{where}: q = {strong:g} rad/(mm s) turns no spin; it is γG, not"
                    f" the gradient: use torrey.with_G(encoding, {strong:g} * T / m)"
                    f" with mrsim.units"
                )


def _check_times(where: str, name: str, value: Tensor) -> None:
    if name == "times":
        value = value.diff(dim=-1)
        if not (value >= 0).all():
            raise ValueError(
                f"{where}: times must ascend, one goes back by"
                f" {float(-value.min()):g} s"
            )
    if not value.numel():
        return
    low, high = map(float, value.aminmax())
    if low < 0:
        raise ValueError(f"{where}: {name} must not be negative, got {low:g} s")
    if high >= _LONGEST[name]:
        warn(
            f"{where}: {name} = {high:g} s looks like milliseconds; mrsim takes"
            f" seconds, write {high:g} * mrsim.units.ms"
        )
