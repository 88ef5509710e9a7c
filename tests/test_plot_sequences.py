"""Sequence diagrams and phase graphs show what a program does."""

import numpy as np
import pytest
import torch

from mrsim import Bound, Exchange, Tissue, epg, plot, replace
from mrsim.units import deg, ms

figures = pytest.importorskip("matplotlib.figure")
TISSUE = Tissue(T1=1.0, T2=0.1)
TRAIN = epg.fse_program(epg.FSE(flip=[120 * deg, 60 * deg, 180 * deg], esp=8 * ms))


@pytest.fixture
def axes():
    return figures.Figure().subplots()


def texts(axes):
    return [t.get_text() for t in axes.texts]


def lines(axes, kind):
    """Return the segments, and their sizes, of the (0) longitudinal, (1) transverse."""
    drawn = axes.collections[kind]
    return np.array(drawn.get_segments()), np.asarray(drawn.get_array())


def test_pulses_stand_at_their_instants_with_their_angles_and_axes(axes):
    plot.sequence(axes, TRAIN)
    assert texts(axes) == ["90°$_{y}$", "120°$_{x}$", "60°$_{x}$", "180°$_{x}$"]
    pulses = axes.collections[3].get_segments()
    assert np.allclose([s[0][0] for s in pulses], [0, 4, 12, 20])
    heights = np.array([s[1][1] - s[0][1] for s in pulses])
    assert np.allclose(heights / heights[3], [0.5, 2 / 3, 1 / 3, 1])
    assert axes.get_xlabel() == "time [ms]"


def test_readings_are_marked_when_they_happen(axes):
    plot.sequence(axes, TRAIN)
    assert np.allclose(axes.lines[0].get_xdata(), [8, 16, 24])


def test_area_of_a_gradient_is_its_shift(axes):
    layout = (epg.Event(pulse=True, shift=2), epg.Event(shift=-1, read=True))
    plot.sequence(
        axes, epg.Program(flip=[1.0, 0], duration=[4e-3, 1e-3], layout=layout)
    )
    first, second = axes.patches
    area = [p.get_width() * p.get_height() for p in (first, second)]
    assert area[1] / area[0] == pytest.approx(-0.5)


def test_three_gradient_axes_have_three_lanes(axes):
    layout = (epg.Event(pulse=True, shift=(1, 0, -2), read=True),)
    plot.sequence(axes, epg.Program(flip=[1.0], duration=[4e-3], layout=layout))
    assert [t.get_text() for t in axes.get_yticklabels()] == [
        "signal", "Gz", "Gy", "Gx", "RF",
    ]  # fmt: skip
    down, up = axes.patches[1], axes.patches[0]
    assert (up.get_height() > 0, down.get_height() < 0) == (True, True)


def test_phases_beside_quadrants_are_written_in_degrees(axes):
    layout = (epg.Event(pulse=True, quadrant=1, read=True),)
    program = epg.Program(
        flip=[30 * deg], duration=[5e-3], phase=[20 * deg], layout=layout
    )
    plot.sequence(axes, program)
    assert texts(axes) == ["30°$_{110°}$"]


def test_labels_that_would_overlap_are_left_out(axes):
    flip = torch.linspace(10, 60, 100) * deg
    plot.sequence(axes, epg.fisp_program(epg.FISP(flip=flip, TR=10 * ms, TI=0.02)))
    places = [t.get_position()[0] for t in axes.texts]
    assert 10 < len(places) < 26
    assert np.diff(places).min() > 0.03 * 1000
    assert texts(axes)[0] == "inv"


def test_phase_graph_shows_the_textbook_pathways(axes):
    plot.phase_graph(axes, TISSUE, TRAIN)
    segments, sizes = lines(axes, 1)
    first = segments[0], sizes[0]
    assert np.allclose(first[0], [[0, 0], [4, 1]])
    assert first[1] == pytest.approx(1.0)
    after = sizes[
        (segments[:, 0, 0] == 4)
    ]  # 120° about x of F1 = e^{-t/T2}: three ways
    decay = np.exp(-4 / 100)
    expected = decay * np.array([np.sin(np.pi / 3) ** 2, np.cos(np.pi / 3) ** 2])
    assert {round(float(s), 9) for s in after} >= {round(s, 9) for s in expected}
    still, stored = lines(axes, 0)
    waits = stored[(still[:, 0, 0] == 4) & (still[:, 0, 1] == 1)]
    assert waits == pytest.approx(decay * np.sin(2 * np.pi / 3) / 2)


def test_echoes_of_the_phase_graph_are_the_signal(axes):
    plot.phase_graph(axes, replace(TISSUE, M0=torch.tensor(3.0)), TRAIN)
    circles = axes.collections[3]
    assert np.allclose(circles.get_offsets(), [[8, 0], [16, 0], [24, 0]])
    shown = (circles.get_sizes() - 20) / 160
    assert np.allclose(shown, epg.run(TISSUE, TRAIN).abs())


def test_phase_graph_takes_pools_diffusion_inversions_and_spoilers(axes):
    tissue = replace(
        TISSUE,
        D=torch.tensor(1e-3),
        exchange=Exchange(T1=0.5, T2=0.02, f=0.2, k=10.0),
        bound=Bound(f=0.1, k=4.0, T1=1.0, T2=11e-6),
    )
    shot = epg.gre_readout([20 * deg] * 3, TR=8 * ms, TE=3 * ms, spoil=True)
    program = epg.concat(epg.inversion(0.02), shot)
    rich = replace(program, moment=torch.full_like(program.flip, 30.0))
    plot.phase_graph(axes, tissue, rich)
    shown = (axes.collections[3].get_sizes() - 20) / 160
    with epg.use_engine("torch"):
        assert np.allclose(shown, epg.run(tissue, rich).abs(), atol=1e-12)


def test_phase_graph_refuses_what_has_no_single_order(axes):
    layout = (epg.Event(pulse=True, shift=(1, 0, 0), read=True),)
    program = epg.Program(flip=[1.0], duration=[4e-3], layout=layout)
    with pytest.raises(ValueError, match="one gradient axis"):
        plot.phase_graph(axes, TISSUE, program)
    with pytest.raises(ValueError, match="without T2p"):
        plot.phase_graph(axes, replace(TISSUE, T2p=torch.tensor(0.05)), TRAIN)
