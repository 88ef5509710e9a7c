"""Panels of figures: trains, curves, one map, point spreads, bars."""

from collections.abc import Iterable, Mapping
from itertools import cycle
from typing import Any

import torch
from torch import Tensor

from mrsim import epg
from mrsim.units import deg, ms

COLOURS = {"constant": "#8c8c8c", "ramp": "#e08a00", "optimised": "#0060b0"}
_OTHERS = (
    "#333333",
    "#009e73",
    "#c2185b",
    "#7b5ea7",
    "#56b4e9",
)  # other names, in turn
STYLE = {
    "font.size": 16,
    "axes.titlesize": 18,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 1.2,
    "lines.linewidth": 2.4,
    "legend.frameon": False,
    "image.interpolation": "nearest",
}


def flips(axes: Any, trains: Mapping[str, epg.FSE]) -> None:
    """Draw the refocusing flips of trains.

    Args:
        axes: of matplotlib.
        trains: name → train.

    >>> from matplotlib.figure import Figure
    >>> from mrsim import epg, plot
    >>> axes = Figure().subplots()
    >>> plot.flips(axes, {"constant": epg.FSE(flip=[2.1] * 8, esp=0.01)})
    >>> axes.get_xlabel()
    'echo'
    """
    colours = _colours(trains)
    for name, train in trains.items():
        echoes = range(1, len(train.flip) + 1)
        axes.plot(
            echoes, (train.flip / deg).tolist(), "o-", color=colours[name], label=name
        )
    top = 1.3 * max(float(train.flip.max()) for train in trains.values()) / deg
    axes.set(xlabel="echo", ylabel="flip angle [°]", ylim=(0, top))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend()


def curves(axes: Any, values: Mapping[str, Tensor], esp: float, label: str) -> None:
    """Draw one value for each echo over the echo time.

    Args:
        axes: of matplotlib.
        values: name → (echo,).
        esp: echo spacing [s].
        label: what the values are, with unit.

    >>> import torch
    >>> from matplotlib.figure import Figure
    >>> from mrsim import plot
    >>> axes = Figure().subplots()
    >>> plot.curves(axes, {"signal": torch.tensor([0.9, 0.8])}, 0.01, "signal / M0")
    >>> axes.get_ylabel()
    'signal / M0'
    """
    colours = _colours(values)
    for name, y in values.items():
        times = [float(esp) / ms * (i + 1) for i in range(len(y))]
        axes.plot(times, y.tolist(), "o-", color=colours[name], label=name)
    axes.axhline(0, color="0.85", linewidth=1, zorder=0)
    axes.set(xlabel="echo time [ms]", ylabel=label)


def point_spreads(
    axes: Any, values: Mapping[str, Tensor], zoom: int, reach: int = 8
) -> None:
    """Draw point-spread functions on a logarithmic scale.

    Args:
        axes: of matplotlib.
        values: name → (point,) PSF over its largest value, the point in the middle.
        zoom: points in a pixel.
        reach: how far to draw on either side [pixels].

    >>> import torch
    >>> from matplotlib.figure import Figure
    >>> from mrsim import plot
    >>> axes, x = Figure().subplots(), torch.linspace(-16, 16, 129)
    >>> plot.point_spreads(axes, {"ideal": torch.sinc(x).abs()}, zoom=4)
    >>> axes.get_yscale()
    'log'
    """
    colours = _colours(values)
    for name, y in values.items():
        middle = len(y) // 2
        near = y[middle - reach * zoom : middle + reach * zoom + 1]
        x = torch.linspace(-reach, reach, len(near))
        axes.semilogy(x.tolist(), near.tolist(), color=colours[name], label=name)
    axes.set(xlabel="position [pixel]", ylabel="|PSF| / peak", ylim=(1e-3, 1.3))


def picture(axes: Any, plane: Tensor, mask: Tensor, title: str, **style: Any) -> Any:
    """Draw one map, transparent outside its mask, first index to the right.

    Args:
        axes: of matplotlib.
        plane: (x, y) the map.
        mask: (x, y) bool, where it is shown.
        title: above it.
        **style: for ``imshow``.

    Returns:
        The image, for a colour bar.

    >>> import torch
    >>> from matplotlib.figure import Figure
    >>> from mrsim import plot
    >>> axes, plane = Figure().subplots(), torch.rand(6, 4)
    >>> plot.picture(axes, plane, plane > 0.1, "a map").get_array().shape
    (4, 6)
    """
    shown = plane.double().where(mask, torch.nan)
    image = axes.imshow(shown.T.numpy(), origin="lower", **style)
    axes.set_title(title)
    axes.axis("off")
    return image


def histograms(
    axes: Any, values: Mapping[str, Tensor], reach: float, label: str
) -> None:
    """Draw densities of normalised errors beside the standard normal density.

    Args:
        axes: of matplotlib.
        values: name → errors [1], any shape.
        reach: the axis spans −reach … reach.
        label: what the values are.

    >>> import torch
    >>> from matplotlib.figure import Figure
    >>> from mrsim import plot
    >>> axes, z = Figure().subplots(), torch.linspace(-2, 2, 99)
    >>> plot.histograms(axes, {"T2": z}, 4.0, "error / sd")
    >>> axes.get_xlabel()
    'error / sd'
    """
    colours = _colours(values)
    for name, z in values.items():
        heights, edges = torch.histogram(
            z.double().cpu().flatten(), 60, range=(-reach, reach), density=True
        )
        style = {"color": colours[name], "linewidth": 2.4, "label": name}
        axes.stairs(heights.tolist(), edges.tolist(), **style)
    x = torch.linspace(-reach, reach, 201)
    normal = (-x.square() / 2).exp() / (2 * torch.pi) ** 0.5
    axes.plot(x.tolist(), normal.tolist(), "k--", linewidth=1.5, label="N(0, 1)")
    axes.set(xlabel=label, ylabel="density", ylim=(0, 0.6))
    above = {"loc": "upper center", "ncols": 2, "handlelength": 1.2}
    axes.legend(**above, fontsize="small", columnspacing=1.0)


def bars(
    axes: Any, values: Mapping[str, tuple[float, float]], labels: tuple[str, str]
) -> None:
    """Draw pairs of bars, each with its number, such as predicted and measured.

    Args:
        axes: of matplotlib.
        values: name → the two heights.
        labels: what the first and the second bar are.

    >>> from matplotlib.figure import Figure
    >>> from mrsim import plot
    >>> axes = Figure().subplots()
    >>> told = {"constant": (2.5, 2.6), "optimised": (1.3, 1.3)}
    >>> plot.bars(axes, told, ("predicted", "measured"))
    >>> [label.get_text() for label in axes.get_xticklabels()]
    ['constant', 'optimised']
    """
    colours = _colours(values)
    for i, (name, pair) in enumerate(values.items()):
        for j, (height, alpha) in enumerate(zip(pair, (0.45, 1.0), strict=True)):
            x = i + 0.4 * (j - 0.5)
            label = labels[j] if i == 0 else None
            axes.bar(x, height, 0.38, color=colours[name], alpha=alpha, label=label)
            text = f"{height:.2f}"
            axes.text(x, height, text, ha="center", va="bottom", fontsize="small")
    axes.set_xticks(range(len(values)), list(values))
    axes.set_ylim(0, 1.3 * max(max(pair) for pair in values.values()))
    axes.legend()


def _colours(names: Iterable[str]) -> dict[str, str]:
    """Give known names their colour, and others one each."""
    others = [name for name in names if name not in COLOURS]
    return COLOURS | dict(zip(others, cycle(_OTHERS), strict=False))
