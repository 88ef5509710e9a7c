"""The main job's figure can be read: none of its words lies on another."""

from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from test_main import SMALL, head, write

from mrsim.__main__ import main

figures = pytest.importorskip("matplotlib.figure")
agg = pytest.importorskip("matplotlib.backends.backend_agg")
pytestmark = pytest.mark.xdist_group("main")
_AIR = 8  # pixels between words, of 2000 across


def words(axes: Any) -> list[Any]:
    """Return an axes' title, labels and the entries of its legend."""
    legend = axes.get_legend()
    entries = legend.get_texts() if legend else []
    named = [axes.title, axes._left_title, axes.xaxis.label, axes.yaxis.label]
    return [x for x in (*named, *entries) if x.get_text() and x.get_visible()]


def test_no_words_overlap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    save = figures.Figure.savefig

    def kept(figure: Any, *args: Any, **kwargs: Any) -> None:
        drawn.append(figure)
        save(figure, *args, **kwargs)

    monkeypatch.setattr(figures.Figure, "savefig", kept)
    maps = write(tmp_path, **head())
    small = [*SMALL, "--fits", "100", "--slice", "2", "--out", str(tmp_path / "out")]
    assert main([*maps, *small]) == 0
    (figure,) = drawn
    agg.FigureCanvasAgg(figure).draw()  # which puts titles into their places
    shown = [x for axes in figure.axes if axes.axison for x in words(axes)]
    shown += [axes._left_title for axes in figure.axes if not axes.axison]
    assert len(shown) > 30
    boxes = [(x.get_text(), x.get_window_extent().padded(_AIR / 2)) for x in shown]
    over = [(a, b) for (a, p), (b, q) in combinations(boxes, 2) if p.overlaps(q)]
    assert not over
