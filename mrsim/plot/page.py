"""An interactive 3-D picture as one file."""

from pathlib import Path
from typing import Any

from mrsim._check import require


def write_page(path: Path, drawn: Any, title: str, unit: str) -> Path:
    """Write a page that shows one 3-D object of plotly and needs no network.

    Args:
        path: of the page.
        drawn: the object.
        title: above it.
        unit: of length.

    Returns:
        The file.
    """
    graph = require("plotly.graph_objects", "html")
    names = {f"{axis}axis": {"title": f"{axis} [{unit}]"} for axis in "xyz"}
    figure = graph.Figure(drawn)
    figure.update_layout(
        title=title,
        template="plotly_white",
        font={"size": 15},
        scene={"aspectmode": "data", **names},
        margin={"l": 0, "r": 0, "b": 0, "t": 40 if title else 0},
    )
    options = {"displaylogo": False}
    figure.write_html(
        path, include_plotlyjs=True, include_mathjax=False, config=options
    )
    return path
