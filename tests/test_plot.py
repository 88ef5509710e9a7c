import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgba

from mrsim import epg, plot
from mrsim.units import deg, ms

figures = pytest.importorskip("matplotlib.figure")


@pytest.fixture
def axes():
    return figures.Figure().subplots()


def test_flips_are_drawn_in_degrees_at_echo_numbers(axes):
    train = epg.FSE(flip=[120 * deg, 60 * deg, 30 * deg], esp=8 * ms)
    plot.flips(axes, {"constant": train, "mine": train})
    x, y = axes.lines[0].get_data()
    assert list(x) == [1, 2, 3]
    assert np.allclose(y, [120, 60, 30])
    assert "[°]" in axes.get_ylabel()
    assert [t.get_text() for t in axes.get_legend().texts] == ["constant", "mine"]


def test_curves_start_at_the_first_echo_time(axes):
    plot.curves(axes, {"ramp": torch.tensor([1.0, 0.5])}, 8 * ms, "signal / M0")
    x, y = axes.lines[0].get_data()
    assert np.allclose(x, [8, 16])
    assert np.allclose(y, [1, 0.5])
    assert axes.get_xlabel() == "echo time [ms]"


def test_point_spreads_keep_the_middle(axes):
    spread = torch.full((256 * 8,), 0.01)
    spread[128 * 8] = 1.0
    plot.point_spreads(axes, {"ramp": spread}, zoom=8, reach=4)
    x, y = axes.lines[0].get_data()
    assert x[np.argmax(y)] == 0
    assert (x[0], x[-1]) == (-4, 4)
    assert axes.get_yscale() == "log"


def test_histogram_is_a_density_beside_the_normal(axes):
    z = torch.randn(20_000, generator=torch.Generator().manual_seed(0))
    plot.histograms(axes, {"optimised": z.reshape(2, -1)}, 4.0, "z")
    heights, edges, _ = axes.patches[0].get_data()
    assert np.sum(heights * np.diff(edges)) == pytest.approx(1, abs=1e-9)
    assert np.max(heights) == pytest.approx(0.4, abs=0.04)


def test_names_without_a_colour_of_their_own_differ(axes):
    plot.histograms(axes, {n: torch.zeros(9) for n in ("T1", "ramp", "T2")}, 4.0, "z")
    colours = {p.get_label(): p.get_edgecolor() for p in axes.patches}
    assert len(colours) == len(set(colours.values())) == 3
    assert colours["ramp"] == to_rgba(plot.COLOURS["ramp"])
    told = [text.get_text() for text in axes.get_legend().get_texts()]
    assert told == ["T1", "ramp", "T2", "N(0, 1)"]


def test_picture_puts_the_first_index_to_the_right_and_hides_the_rest(axes):
    plane = torch.zeros(4, 3)
    plane[3, 0] = 5.0
    mask = torch.ones(4, 3, dtype=torch.bool)
    mask[0, 2] = False
    image = plot.picture(axes, plane, mask, "T2", vmin=0, vmax=5)
    shown = np.ma.filled(image.get_array(), np.nan)
    assert shown.shape == (3, 4)
    assert shown[0, 3] == 5
    assert np.isnan(shown[2, 0])
    assert image.origin == "lower"


def test_bars_carry_their_numbers(axes):
    plot.bars(axes, {"constant": (1.0, 1.0), "ramp": (0.5, 0.52)}, ("CRLB", "fits"))
    assert [t.get_text() for t in axes.texts] == ["1.00", "1.00", "0.50", "0.52"]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["constant", "ramp"]
    assert [t.get_text() for t in axes.get_legend().texts] == ["CRLB", "fits"]
