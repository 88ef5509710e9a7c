"""What the pictures of several benchmarks share."""

from typing import Any


def finish(panel: Any, title: str, x: str, y: str = "") -> None:
    """Name logarithmic axes and mark 1, 2, 5, 10, … along them, or powers of ten."""
    panel.set(title=title, xlabel=x, ylabel=y)
    panel.minorticks_off()
    for axis in (panel.xaxis, panel.yaxis):
        low, high = axis.get_view_interval()
        steps = (1, 2, 5) if high < 1000 * max(low, 1e-3) else (1,)
        marks = [m * 10.0**e for e in range(-3, 6) for m in steps]
        inside = [m for m in marks if low <= m <= high]
        axis.set_ticks(inside, labels=[f"{m:g}" for m in inside])
    if panel.get_legend_handles_labels()[1]:
        panel.legend()
