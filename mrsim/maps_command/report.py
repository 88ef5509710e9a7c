"""What a fit says: numbers, a picture of maps, and a page that holds both."""

import argparse
import base64
import html
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mrsim import plot
from mrsim._check import require
from mrsim._command import SOFTWARE, columns, median, medians, write_json
from mrsim.maps_command.files import bids_prefix, save_maps, unit
from mrsim.series import Series, volume

_OTHERS = ("residual", "score", "converged")
_PAGE = """\
<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>body{{font-family:sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}}
td,th{{padding:.2rem 1rem;text-align:right}}img{{max-width:100%}}</style></head>
<body><h1>{title}</h1><table>{rows}</table><p>{text}</p>
<img alt="maps" src="data:image/png;base64,{image}"></body></html>
"""


def publish(
    given: argparse.Namespace,
    maps: Mapping[str, Tensor],
    inside: Tensor,
    series: Series,
    suffix: Mapping[str, str],
    about: Mapping[str, Any],
    seconds: float,
) -> None:
    """Write maps, numbers, a picture and a page, and say so.

    Args:
        given: from the parser.
        maps: name → (voxel,), ``name_sd`` beside ``name``.
        inside: (voxel,) where they lie.
        series: the grid.
        suffix: name → what BIDS calls the map.
        about: how the maps were made.
        seconds: how long it took.
    """
    about = {**about, **SOFTWARE}
    prefix = bids_prefix(given.data[0])
    files = save_maps(given.out, prefix, maps, inside, series, suffix, about)
    picture = _drawn(given.out / f"{prefix}report.png", maps, inside, series)
    report = _summary(maps) | {"seconds": round(seconds, 3)} | about
    report |= {"files": [f.name for f in (*files, picture)]}
    text = _text(report)
    write_html(given.out / f"{prefix}report.html", report, picture, text)
    write_json(given.out / f"{prefix}report.json", report)
    if not given.quiet:
        sys.stdout.write(f"{text}\nwritten to {given.out}/\n")


def _summary(maps: Mapping[str, Tensor]) -> dict[str, Any]:
    first = next(iter(maps.values()))
    return {
        "voxels": len(first),
        "not_fitted": int(first.isnan().sum()),
        "converged": round(float(maps["converged"].mean()), 5),
        "median_residual": median(maps["residual"]),
        "maps": medians(maps, _parameters(maps)),
    }


def _parameters(maps: Mapping[str, Tensor]) -> list[str]:
    return [n for n in maps if n not in _OTHERS and not n.endswith("_sd")]


def _text(report: Mapping[str, Any]) -> str:
    rest = (
        f"{report['voxels']} voxels: {report['not_fitted']} not fitted,"
        f" {100 * report['converged']:.2f} % converged to a unique minimum"
    )
    return "\n".join([*columns(report["maps"], unit), rest])


def _drawn(
    path: Path, maps: Mapping[str, Tensor], inside: Tensor, series: Series
) -> Path:
    """Draw the fullest axial slice of every map above its standard deviation."""
    figure_of = require("matplotlib.figure", "plot")
    names = _parameters(maps)
    where = volume(torch.ones(len(inside)), inside, series) > 0
    at = int(where.sum((0, 1)).argmax())
    figure = figure_of.Figure(figsize=(4 * (len(names) + 1), 7), layout="constrained")
    axes = figure.subplots(2, len(names) + 1, squeeze=False)
    last = [("residual", "rms residual"), ("converged", "converged")]
    columns = [[(n, n), (f"{n}_sd", f"sd of {n}")] for n in names] + [last]
    for column, pair in enumerate(columns):
        for row, (name, title) in enumerate(pair):
            if name not in maps:
                axes[row, column].axis("off")
                continue
            plane = volume(maps[name], inside, series)[..., at]
            known = where[..., at] & plane.isfinite()
            top = float(plane[known].quantile(0.98)) if known.any() else 1.0
            style = {"vmin": 0.0, "vmax": top or 1.0, "cmap": "viridis"}
            shown = plot.picture(axes[row, column], plane, known, title, **style)
            figure.colorbar(shown, ax=axes[row, column], shrink=0.8)
    figure.savefig(path, dpi=110)
    return path


def write_html(
    path: Path, report: Mapping[str, Any], picture: Path, text: str = ""
) -> None:
    """Write a page with the numbers and the picture, in one file.

    Args:
        path: of the page.
        report: its numbers.
        picture: the PNG.
        text: lines to show as they are.
    """
    rows = "".join(
        f"<tr><td>{html.escape(str(k))}</td><td>{html.escape(str(v))}</td></tr>"
        for k, v in report.items()
        if k not in ("files", "maps")
    )
    lines = f"<pre>{html.escape(text)}</pre>" if text else ""
    image = base64.b64encode(picture.read_bytes()).decode()
    title = f"mrsim {report.get('Model', '')}"
    page = _PAGE.format(title=html.escape(title), rows=rows, text=lines, image=image)
    path.write_text(page, encoding="utf-8")
