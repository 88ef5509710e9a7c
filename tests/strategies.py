"""Hypothesis strategies for physical inputs."""

import math

import torch
from hypothesis import strategies as st

from mrsim import Tissue
from mrsim.epg.program import Event, Program
from mrsim.units import ms

angles = st.floats(-math.pi, math.pi)
flips = st.floats(0, math.pi)


def log_uniform(low: float, high: float) -> st.SearchStrategy[float]:
    """Draw floats whose logarithm is uniform."""
    return st.floats(math.log(low), math.log(high)).map(math.exp)


times = log_uniform(0.1 * ms, 1000 * ms)


@st.composite
def tissues(draw: st.DrawFn, *, optional: bool = False) -> Tissue:
    """Draw tissues with T1 > T2, and with M0, B1 and df now and then if optional."""
    T1 = draw(log_uniform(100 * ms, 5000 * ms))
    T2 = T1 * draw(log_uniform(0.01, 0.95))
    if not optional:
        return Tissue(T1=T1, T2=T2)
    return Tissue(
        T1=T1,
        T2=T2,
        M0=draw(st.none() | st.floats(0.1, 10)),
        B1=draw(st.none() | st.floats(0.5, 1.5)),
        df=draw(st.none() | st.floats(-200, 200)),
    )


def events(max_shift: int = 2) -> st.SearchStrategy[Event]:
    """Draw rows of a program: pulses, inversions, waits, readings, spoilers."""
    return st.builds(
        Event,
        pulse=st.booleans(),
        quadrant=st.integers(0, 3),
        shift=st.integers(-max_shift, max_shift),
        read=st.booleans(),
        receiver=st.integers(0, 3),
        spoil=st.booleans(),
        invert=st.just(value=False),
    ) | st.builds(
        Event,
        pulse=st.just(value=False),
        invert=st.just(value=True),
        shift=st.just(0),
    )


@st.composite
def programs(
    draw: st.DrawFn, max_events: int = 8, *, quadrants: bool | None = None
) -> Program:
    """Draw programs that read at least once.

    Args:
        draw: given by hypothesis.
        max_events: most rows.
        quadrants: all phases are multiples of 90 degrees; ``None`` for either.
    """
    layout = draw(st.lists(events(), min_size=1, max_size=max_events))
    layout[-1] = layout[-1]._replace(read=True)
    rows = len(layout)

    def column(values: st.SearchStrategy[float]) -> torch.Tensor:
        return torch.tensor(draw(st.lists(values, min_size=rows, max_size=rows)))

    plain = draw(st.booleans()) if quadrants is None else quadrants
    inverts = any(e.invert for e in layout)
    return Program(
        flip=column(flips),
        duration=column(times),
        phase=None if plain else column(angles),
        demod=None if plain else column(angles),
        efficiency=column(st.floats(0.5, 1)) if inverts else None,
        layout=tuple(layout),
    )
