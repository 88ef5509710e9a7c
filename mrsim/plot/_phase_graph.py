"""The extended phase graph of a sequence: configurations over time."""

from itertools import pairwise
from typing import Any, NamedTuple

import torch

from mrsim import epg
from mrsim._check import require
from mrsim.tissue import Tissue
from mrsim.tree import fields, replace
from mrsim.units import ms


class _Path(NamedTuple):
    start: tuple[float, float]  # time [ms], order
    stop: tuple[float, float]
    size: float  # |F| or |Z| at the start / M0


class _Graph(NamedTuple):
    transverse: list[_Path]
    longitudinal: list[_Path]
    pulses: list[float]  # [ms]
    echoes: list[tuple[float, float]]  # time [ms], |F0| / M0


def phase_graph(
    axes: Any, tissue: Tissue, program: epg.Program, floor: float = 1e-3
) -> Any:
    """Draw which configurations a sequence fills, and how strongly.

    F_k (solid) moves through the orders k while a gradient is on, Z_k (dashed) waits;
    a pulse (vertical) splits each of them three ways, and a reading sees F_0 (circle).
    Width and colour are |F_k| and |Z_k| in units of M0, summed over free pools. All
    physics of `epg.run` with one gradient axis and without T2′; meant for some dozens
    of rows.

    Args:
        axes: of matplotlib.
        tissue: the voxel.
        program: the sequence.
        floor: configurations below are left out [units of M0].

    Returns:
        The lines, for a colour bar.

    Raises:
        ValueError: the program has three gradient axes, or the tissue T2p.

    Source: Hennig 1988, J Magn Reson 78:397; Weigel 2015, J Magn Reson Imaging 41:266.

    >>> from matplotlib.figure import Figure
    >>> from mrsim import Tissue, epg, plot
    >>> train = epg.fse_program(epg.FSE(flip=[2.1, 1.7], esp=8e-3))
    >>> lines = plot.phase_graph(Figure().subplots(), Tissue(T1=1.0, T2=0.1), train)
    >>> lines.get_clim()
    (0.001, 1.0)
    """
    collections = require("matplotlib.collections", "plot")
    colors = require("matplotlib.colors", "plot")
    with torch.no_grad():
        graph = _followed(tissue, program, floor)
    norm = colors.LogNorm(floor, 1.0, clip=True)
    drawn = None
    for paths, dashes in (
        (graph.longitudinal, (0, (2.5, 1.2))),
        (graph.transverse, "-"),
    ):
        drawn = collections.LineCollection(
            [(path.start, path.stop) for path in paths],
            array=[path.size for path in paths],
            linewidths=[0.7 + 4.3 * float(norm(path.size)) ** 2 for path in paths],
            linestyles=[dashes], norm=norm, cmap="viridis_r", capstyle="round",
        )  # fmt: skip
        axes.add_collection(drawn)
    orders = [
        abs(y) for path in graph.transverse for y in (path.start[1], path.stop[1])
    ]
    reach = max(orders, default=0) + 1
    axes.vlines(graph.pulses, -reach, reach, color="0.75", linewidth=1, zorder=0)
    axes.scatter(
        [time for time, _ in graph.echoes],
        [0] * len(graph.echoes),
        s=[20 + 160 * size for _, size in graph.echoes],
        facecolor="white", edgecolor="#c92a2a", linewidth=1.6, zorder=5,
    )  # fmt: skip
    total = float(program.duration.sum()) / ms
    axes.set(xlabel="time [ms]", ylabel="order k", ylim=(-reach, reach))
    axes.set_xlim(-0.02 * total, 1.02 * total)
    axes.yaxis.get_major_locator().set_params(integer=True)
    return drawn


def _followed(tissue: Tissue, program: epg.Program, floor: float) -> _Graph:
    """Play the rows one by one and note where each configuration goes."""
    graph = _Graph([], [], [], [])
    state = None
    times = [0.0, *(program.duration.detach().cumsum(0) / ms).tolist()]
    M0 = 1.0 if tissue.M0 is None else float(tissue.M0)
    for row, (start, stop) in enumerate(pairwise(times)):
        event, shift = program.layout[row], program.layout[row].shift
        if isinstance(shift, tuple):
            raise ValueError(
                "plot.phase_graph: draws orders along one gradient axis, but row"
                f" {row} shifts by {shift}; use integer shifts"
            )
        if event.pulse or event.invert:
            instant = event._replace(shift=0, read=False, spoil=False)
            state = _played(tissue, program, row, instant, state)
            graph.pulses.append(start)
        if state is not None:
            F, Z = _sizes(state, M0)
            _note(graph.transverse, F, len(F) // 2, start, stop, shift, floor)
            _note(graph.longitudinal, Z, 0, start, stop, 0, floor)
        rest = event._replace(pulse=False, invert=False, read=False, spoil=False)
        state = _played(tissue, program, row, rest, state)
        if event.read:
            F = _sizes(state, M0)[0]
            graph.echoes.append((stop, F[len(F) // 2]))
        state = epg.spoil(state) if event.spoil else state
    return graph


def _played(
    tissue: Tissue,
    program: epg.Program,
    row: int,
    event: epg.Event,
    state: epg.State | None,
) -> epg.State:
    """Return the state after the pulse, or after the wait, of one row."""
    part = {
        f.name: value[row : row + 1] if len(value) > 1 else value
        for f in fields(program)
        if (value := getattr(program, f.name)) is not None
        and (f.name in ("flip", "duration") or f.metadata.get("like") == "flip")
    }
    if event.pulse or event.invert:
        part["duration"] = torch.zeros_like(part["duration"])
    one = replace(program, **part, layout=(event,), clock=None)
    return epg.evolve(tissue, one, state)[1]


def _sizes(state: epg.State, M0: float) -> tuple[list[float], list[float]]:
    free = state.F if state.F.ndim == 1 else state.F.sum(0)
    still = state.Z if state.Z.ndim == 1 else state.Z[: len(state.F)].sum(0)
    return (free.abs() / M0).tolist(), (still.abs() / M0).tolist()


def _note(
    paths: list[_Path],
    sizes: list[float],
    middle: int,
    start: float,
    stop: float,
    shift: int,
    floor: float,
) -> None:
    paths += [
        _Path((start, k - middle), (stop, k - middle + shift), size)
        for k, size in enumerate(sizes)
        if size > floor
    ]
