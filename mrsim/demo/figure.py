"""The figure of the main job."""

from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from mrsim import plot
from mrsim._check import require
from mrsim.demo.measure import point_spread, signal_and_slope
from mrsim.demo.result import Result
from mrsim.demo.trial import errors, ratio
from mrsim.units import ms

_NAMES = {"constant": "constant", "ramp": "best ramp", "optimised": "optimised"}
_ZOOM = 8
_TOP = {"left": 0.05, "right": 0.985, "bottom": 0.79, "top": 0.935, "wspace": 0.27}
_LOW = {"left": 0.05, "right": 0.945, "bottom": 0.035, "top": 0.73}
_LOW |= {"wspace": 0.1, "hspace": 0.3, "width_ratios": (1, 1, 1, 1, 0.05)}


def draw(result: Result, report: dict[str, Any]) -> Path:
    """Draw trains, signals, point spreads, T2 maps, errors and sd maps into a PNG.

    Args:
        result: of the computation; the file goes to its ``options.out``.
        report: its numbers.

    Returns:
        The file.
    """
    mpl = require("matplotlib", "demo")
    figures = require("matplotlib.figure", "demo")
    path = result.options.out / "report.png"
    with mpl.rc_context(plot.STYLE):
        figure = figures.Figure(figsize=(20, 22))
        figure.suptitle(_headline(report), fontsize=24, fontweight="bold", y=0.98)
        top = figure.add_gridspec(1, 4, **_TOP).subplots()
        low = figure.add_gridspec(3, 5, **_LOW).subplots()
        _lines(top, result)
        _maps(low[0], result)
        _errors(low[1], result)
        _bounds(low[2], result)
        figure.savefig(path, dpi=90)
    return path


def _headline(report: dict[str, Any]) -> str:
    return (
        f"T2 variance at equal RF power: {report['measured_ratio_constant']:.3f} of the"
        f" constant train's, {report['measured_ratio_ramp']:.3f} of the best ramp's"
    )


def _lines(axes: Any, result: Result) -> None:
    """Draw trains, signal, sensitivity and point spread of the brain's mean tissue."""
    both = {n: signal_and_slope(result.tissues, t) for n, t in result.trains.items()}
    signals = {n: signal.mean(0) for n, (signal, _) in both.items()}
    esp = result.options.esp
    plot.flips(axes[0], result.trains)
    plot.curves(axes[1], signals, esp, "signal / M0")
    plot.curves(
        axes[2],
        {n: slope.mean(0) for n, (_, slope) in both.items()},
        esp,
        "(∂S/∂T2) / M0 [1/s]",
    )
    plot.point_spreads(
        axes[3], {n: point_spread(s, zoom=_ZOOM) for n, s in signals.items()}, _ZOOM
    )
    titles = (
        "Refocusing trains",
        "Signal",
        "Sensitivity to T2",
        "Point spread, one image",
    )
    for panel, title in zip(axes, titles, strict=True):
        panel.set_title(title)


def _maps(axes: Any, result: Result) -> None:
    truth = result.cut.tissue.T2
    fitted = {n: trial.fitted[: len(truth)] for n, trial in result.trials.items()}
    low, high = (float(truth.quantile(q)) / ms for q in (0.01, 0.95))
    style = {"cmap": "viridis", "vmin": 0.9 * low, "vmax": high}
    maps = {"T2, truth": truth} | _titled("T2 fitted, {}", fitted)
    _row(axes[:4], axes[4], result, maps, "T2 [ms]", style)


def _errors(axes: Any, result: Result) -> None:
    truth = result.cut.tissue.T2
    wrong = {n: errors(trial, truth) for n, trial in result.trials.items()}
    reach = 2.5 * float(wrong["constant"].square().mean().sqrt()) / ms
    style = {"cmap": "RdBu_r", "vmin": -reach, "vmax": reach}
    first = _titled("Error, {}", {n: e[: len(truth)] for n, e in wrong.items()})
    _row(axes[1:4], axes[4], result, first, "T2 fitted − truth [ms]", style)
    sds = {n: t.bound[t.which].sqrt() for n, t in result.trials.items()}
    normal = {n: e / sds[n] for n, e in wrong.items()}
    plot.histograms(axes[0], normal, 4.0, "T2 error / CRLB sd")
    axes[0].set_title("Fits attain the bound")


def _bounds(axes: Any, result: Result) -> None:
    sds = {n: trial.bound.sqrt() for n, trial in result.trials.items()}
    top = float(sds["constant"].quantile(0.95)) / ms
    style = {"cmap": "magma", "vmin": 0.0, "vmax": top}
    titled = _titled("CRLB sd, {}", sds)
    _row(axes[1:4], axes[4], result, titled, "CRLB sd of T2 [ms]", style)
    truth, constant = result.cut.tissue.T2, result.trials["constant"]
    pairs = {n: ratio(t, constant, truth)[:2] for n, t in result.trials.items()}
    plot.bars(axes[0], pairs, ("predicted by CRLB", "measured by fits"))
    axes[0].set(ylabel="relative to the constant train", title="Variance of T2")


def _titled(title: str, values: dict[str, Tensor]) -> dict[str, Tensor]:
    return {title.format(_NAMES[n]): v for n, v in values.items()}


def _row(
    axes: Any,
    bar: Any,
    result: Result,
    values: dict[str, Tensor],
    label: str,
    style: dict[str, Any],
) -> None:
    """Draw maps side by side [ms], cropped to the brain, with one colour bar."""
    mask = result.cut.mask
    rows, columns = (mask.any(i).nonzero().ravel() for i in (1, 0))
    box = tuple(slice(int(i[0]), int(i[-1]) + 1) for i in (rows, columns))
    zooms = np.linalg.norm(result.brain.like.affine[:3, :3], axis=0)
    width, height = np.delete(zooms, result.cut.axis)
    image = None
    for panel, (title, flat) in zip(axes, values.items(), strict=True):
        plane = flat.new_zeros(mask.shape).masked_scatter(mask, flat / ms)
        image = plot.picture(
            panel, plane[box], mask[box], title, aspect=height / width, **style
        )
    ends = "both" if style["vmin"] else "max"  # colours go on beyond the bar's range
    bar.figure.colorbar(image, cax=bar, label=label, extend=ends)
