"""What a fit says: numbers, a picture of maps, and a page that holds both."""

import base64
import html
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mrsim import plot
from mrsim._check import require
from mrsim.series import Series, volume

_OTHERS = ("residual", "score", "converged")
_PAGE = """\
<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>body{{font-family:sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}}
td,th{{padding:.2rem 1rem;text-align:right}}img{{max-width:100%}}</style></head>
<body><h1>{title}</h1><table>{rows}</table><p>{text}</p>
<img alt="maps" src="data:image/png;base64,{image}"></body></html>
"""


def summary(maps: Mapping[str, Tensor]) -> dict[str, Any]:
    """Sum maps up.

    Args:
        maps: name → (voxel,), ``name_sd`` beside ``name``.

    Returns:
        Numbers that can be written as JSON.
    """
    first = next(iter(maps.values()))
    rows = {n: {"median": _median(maps[n])} for n in _parameters(maps)}
    for name in (n for n in rows if f"{n}_sd" in maps):
        rows[name] |= {"median_sd": _median(maps[f"{name}_sd"])}
    return {
        "voxels": len(first),
        "not_fitted": int(first.isnan().sum()),
        "converged": round(float(maps["converged"].mean()), 5),
        "median_residual": _median(maps["residual"]),
        "maps": rows,
    }


def _parameters(maps: Mapping[str, Tensor]) -> list[str]:
    return [n for n in maps if n not in _OTHERS and not n.endswith("_sd")]


def _median(x: Tensor) -> float | None:
    known = x[x.isfinite()]
    return float(known.median()) if len(known) else None


def table(report: Mapping[str, Any]) -> str:
    """Lay the numbers of a report out for a terminal.

    Args:
        report: from `summary`.

    Returns:
        Lines of text.
    """
    lines = [f"{'map':12}{'median':>12}{'median sd':>12}"]
    for name, row in report["maps"].items():
        cells = ["-" if v is None else f"{v:.4g}" for v in row.values()]
        lines.append(f"{name:12}{''.join(f'{c:>12}' for c in cells)}")
    rest = (
        f"{report['voxels']} voxels: {report['not_fitted']} not fitted,"
        f" {100 * report['converged']:.2f} % converged"
    )
    return "\n".join([*lines, rest])


def draw(
    path: Path, maps: Mapping[str, Tensor], inside: Tensor, series: Series
) -> Path:
    """Draw the fullest axial slice of every map above its standard deviation.

    Args:
        path: of the PNG.
        maps: name → (voxel,).
        inside: (voxel,) where they lie.
        series: the grid.

    Returns:
        The path.
    """
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


def write_html(path: Path, report: Mapping[str, Any], picture: Path) -> None:
    """Write a page with the numbers and the picture, in one file.

    Args:
        path: of the page.
        report: its numbers.
        picture: the PNG.
    """
    rows = "".join(
        f"<tr><td>{html.escape(str(k))}</td><td>{html.escape(str(v))}</td></tr>"
        for k, v in report.items()
        if k not in ("files", "maps")
    )
    text = "<pre>" + html.escape(table(report)) + "</pre>" if "maps" in report else ""
    image = base64.b64encode(picture.read_bytes()).decode()
    title = f"mrsim {report.get('Model', '')}"
    page = _PAGE.format(title=html.escape(title), rows=rows, text=text, image=image)
    path.write_text(page, encoding="utf-8")
