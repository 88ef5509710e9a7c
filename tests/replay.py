"""Event lists as programs, and programs through the operators one by one.

An event list is the format of the golden data: ``["rf", deg, deg]``,
``["wait", ms, orders]``, ``["adc", deg]`` and ``["spoil"]``, executed in order; a pulse
may have a fourth entry, the exponent that saturates bound pools.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from mrsim import Tissue, epg
from mrsim.tree import replace
from mrsim.units import deg, ms


def program_of(
    events: Sequence[Sequence[Any]],
    *,
    quadrants: bool = False,
    moment: float | None = None,
) -> epg.Program:
    """Return an event list as a Program.

    Args:
        events: the list.
        moment: wave vector of one unit of shift [rad/mm].
        quadrants: put the phases, multiples of 90°, into the layout.
    """
    rows: list[dict[str, Any]] = []
    fresh = {
        "flip": 0.0,
        "phase": 0.0,
        "time": None,
        "shift": 0,
        "demod": None,
        "pulse": False,
        "spoil": False,
        "saturation": 0.0,
    }
    open_row = False
    for kind, *args in events:
        if kind == "rf":
            names = ("flip", "phase", "saturation")
            rows.append(fresh | {"pulse": True} | dict(zip(names, args, strict=False)))
            open_row = True
            continue
        last = rows[-1] if rows else fresh
        waits = kind == "wait" and last["time"] is not None
        if not open_row or waits:
            rows.append(dict(fresh))
        open_row = kind != "spoil"
        if kind == "wait":
            shift = tuple(args[1]) if isinstance(args[1], list) else args[1]
            rows[-1] |= {"time": args[0], "shift": shift}
        elif kind == "adc":
            rows[-1]["demod"] = args[0]
            open_row = False
        else:
            rows[-1]["spoil"] = True
    return _program(rows, quadrants, moment)


def _program(
    rows: list[dict[str, Any]], quadrants: bool, moment: float | None
) -> epg.Program:
    def quarter(degrees: float | None) -> int:
        return round((degrees or 0.0) / 90) if quadrants else 0

    def column(name: str, unit: float, period: float = math.inf) -> Tensor:
        return torch.tensor([(r[name] or 0.0) % period * unit for r in rows])

    layout = tuple(
        epg.Event(
            pulse=r["pulse"],
            quadrant=quarter(r["phase"]),
            shift=r["shift"],
            read=r["demod"] is not None,
            receiver=quarter(r["demod"]),
            spoil=r["spoil"],
        )
        for r in rows
    )
    phases = {n: column(n, deg, 360.0) for n in ("phase", "demod")}
    more: dict[str, Any] = {} if quadrants else dict(phases)
    if any(r["saturation"] for r in rows):
        more["saturation"] = column("saturation", 1.0)
    if moment is not None:
        more["moment"] = torch.tensor([moment])
    return epg.Program(
        flip=column("flip", deg),
        duration=column("time", ms),
        **more,
        layout=layout,
    )


def in_quadrants(events: Sequence[Sequence[Any]]) -> bool:
    """Tell whether every phase is a multiple of 90°."""
    phases = [e[2] for e in events if e[0] == "rf"] + [
        e[1] for e in events if e[0] == "adc"
    ]
    return all(p % 90 == 0 for p in phases)


def part(program: epg.Program, start: int, stop: int) -> epg.Program:
    """Return some rows of a program."""
    names = ("flip", "duration", "phase", "demod", "efficiency", "saturation")
    columns = {n: getattr(program, n) for n in names}
    return replace(
        program,
        **{n: None if v is None else v[start:stop] for n, v in columns.items()},
        clock=program.clock and program.clock[start:stop],
        layout=program.layout[start:stop],
    )


def phased(program: epg.Program) -> epg.Program:
    """Return a program with its quadrants moved into phase and demod."""
    like = program.flip
    turns = {
        "phase": [e.quadrant for e in program.layout],
        "demod": [e.receiver for e in program.layout],
    }
    made = {}
    for name, quarters in turns.items():
        angle = torch.tensor(quarters, dtype=like.dtype).to(like.device) * (math.pi / 2)
        old = getattr(program, name)
        made[name] = angle if old is None else old + angle
    layout = tuple(e._replace(quadrant=0, receiver=0) for e in program.layout)
    return replace(program, **made, layout=layout)


def steps(
    tissue: Tissue, program: epg.Program, state: epg.State | None = None
) -> Iterator[tuple[int, epg.State]]:
    """Play a program with the operators; yield each row and the state after its wait.

    Truncated programs lose |k| >= states after every shift.
    """
    program = phased(program)
    assert program.phase is not None
    one = torch.ones_like(tissue.T1)
    M0 = one if tissue.M0 is None else tissue.M0
    B1 = one if tissue.B1 is None else tissue.B1
    state = epg.equilibrium(M0) if state is None else state
    for row, event in enumerate(program.layout):
        if event.pulse:
            state = epg.rf(state, B1 * program.flip[row], program.phase[row])
        elif event.invert:
            share = one if program.efficiency is None else program.efficiency[row]
            state = epg.State(F=0 * state.F, Z=-share * state.Z)
        time = program.duration[row]
        state = epg.relax(state, tissue.T1, tissue.T2, M0, time)
        if tissue.df is not None:
            state = epg.precess(state, tissue.df, time)
        if event.shift:
            state = epg.shift(state, event.shift)
        if program.states is not None:
            state = cut(state, program.states)
        yield row, state
        if event.spoil:
            state = epg.spoil(state)


def cut(state: epg.State, states: int) -> epg.State:
    """Keep |k| < states."""
    K = state.Z.shape[0] - 1
    if states > K:
        return state
    return epg.State(F=state.F[K - states + 1 : K + states], Z=state.Z[:states])


def signal(
    tissue: Tissue, program: epg.Program, init: epg.State | None = None
) -> Tensor:
    """Return a program's signal by the operators."""
    demod = phased(program).demod
    assert demod is not None
    found = [
        state.F[state.Z.shape[0] - 1] * torch.exp(-1j * demod[row])
        for row, state in steps(tissue, program, init)
        if program.layout[row].read
    ]
    none = torch.zeros(0, dtype=torch.complex(tissue.T1, tissue.T1).dtype)
    return torch.stack(found) if found else none
