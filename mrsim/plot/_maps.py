"""Maps with colour bars, in the units that radiologists read."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mrsim.plot.panels import picture
from mrsim.units import ms, um


class Quantity(NamedTuple):
    """How a map is shown."""

    unit: str  # beside the name; "1": none
    scale: float = 1.0  # what one such unit is in mrsim's
    cmap: str = "viridis"
    centre: float | None = None  # colours diverge about this value [mrsim's unit]
    low: float | None = None  # fixed lower limit [mrsim's unit]


QUANTITIES = {
    "T1": Quantity("ms", ms, "inferno", low=0.0),
    "T2": Quantity("ms", ms, "viridis", low=0.0),
    "T2p": Quantity("ms", ms, "viridis", low=0.0),
    "M0": Quantity("1", cmap="gray", low=0.0),
    "S0": Quantity("1", cmap="gray", low=0.0),
    "B1": Quantity("1", cmap="RdBu_r", centre=1.0),
    "df": Quantity("Hz", cmap="RdBu_r", centre=0.0),
    "D": Quantity("µm²/ms", um**2 / ms, "cividis", low=0.0),
    "Dp": Quantity("µm²/ms", um**2 / ms, "plasma", low=0.0),
    "f": Quantity("1", cmap="magma", low=0.0),
    "fa": Quantity("1", cmap="gray", low=0.0),
    "md": Quantity("µm²/ms", um**2 / ms, "cividis", low=0.0),
    "k": Quantity("1/s", cmap="magma", low=0.0),
}
"""Names of maps and how `maps` shows them."""


def maps(
    axes: Sequence[Any],
    values: Mapping[str, Tensor],
    mask: Tensor | None = None,
    share: tuple[float, float] = (0.02, 0.98),
    quantities: Mapping[str, Quantity] = QUANTITIES,
) -> list[Any]:
    """Draw maps, each with a colour bar that names its quantity and unit.

    The first part of a name says what it is: ``"T2"``, ``"T2_sd"`` and ``"T2 of the
    left coil"`` are in ms; with the word ``error`` colours diverge about 0. Limits are
    quantiles over the mask.

    Args:
        axes: of matplotlib, one for each map.
        values: name → (x, y) map, in mrsim's units.
        mask: (x, y) bool, where maps are shown; ``None``: where they are finite.
        share: the quantiles that colours begin and end at.
        quantities: how names are shown; unknown names without a unit.

    Returns:
        The images.

    Raises:
        ValueError: the numbers of axes and maps differ, or a map is not a plane.

    >>> import torch
    >>> from matplotlib.figure import Figure
    >>> from mrsim import plot
    >>> plane = torch.linspace(0.05, 0.1, 12).reshape(4, 3)
    >>> (image,) = plot.maps([Figure().subplots()], {"T2": plane})
    >>> image.colorbar.ax.get_ylabel()
    'T2 [ms]'
    """
    if len(axes) != len(values):
        raise ValueError(
            f"plot.maps: {len(values)} maps ({', '.join(values)}) need as many axes,"
            f" got {len(axes)}; make them with figure.subplots(1, {len(values)})"
        )
    images = []
    for panel, (name, value) in zip(axes, values.items(), strict=True):
        if value.ndim != 2:
            raise ValueError(
                f"plot.maps: {name} must have shape (x, y), got {tuple(value.shape)};"
                f" take a slice, such as {name}[:, :, 40]"
            )
        quantity = _quantity(name, quantities)
        plane = value.detach().cpu().double() / quantity.scale
        shown = plane.isfinite() if mask is None else mask.cpu() & plane.isfinite()
        low, high = _limits(plane[shown], quantity, share)
        style = {"cmap": quantity.cmap, "vmin": low, "vmax": high}
        image = picture(panel, plane, shown, "", **style)
        said = re.sub(r"^(\w+)_sd\b", r"sd of \1", name)
        label = said if quantity.unit == "1" else f"{said} [{quantity.unit}]"
        panel.figure.colorbar(image, ax=panel, label=label, fraction=0.046, pad=0.03)
        images.append(image)
    return images


def _quantity(name: str, quantities: Mapping[str, Quantity]) -> Quantity:
    words = name.split()
    base = words[0] if words else ""
    spread = base.endswith("_sd")
    found = quantities.get(base.removesuffix("_sd"), Quantity("1"))
    if "error" in words[1:]:
        return found._replace(cmap="RdBu_r", centre=0.0, low=None)
    if spread:
        return found._replace(cmap="cividis", centre=None, low=0.0)
    return found


def _limits(
    shown: Tensor, quantity: Quantity, share: tuple[float, float]
) -> tuple[float, float]:
    if not len(shown):
        return 0.0, 1.0
    few = shown[:: math.ceil(len(shown) / 1e6)]  # torch.quantile takes no more
    low, high = torch.quantile(few, few.new_tensor(share)).tolist()
    if quantity.centre is not None:
        middle = quantity.centre / quantity.scale
        reach = max(abs(low - middle), abs(high - middle)) or 1.0
        return middle - reach, middle + reach
    low = low if quantity.low is None else quantity.low / quantity.scale
    return low, high if high > low else low + 1.0
