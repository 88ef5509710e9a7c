"""Hypothesis strategies: programs and tissues with any physics switched on."""

import math

import torch
from hypothesis import strategies as st
from strategies import angles, log_uniform
from torch import Tensor

from mrsim import Bound, Exchange, Tissue, epg
from mrsim.units import ms

rates = log_uniform(0.1, 300.0)
World = tuple[Tissue, epg.Program]


def _list(draw: st.DrawFn, values: st.SearchStrategy[float], size: int) -> Tensor:
    return torch.tensor(draw(st.lists(values, min_size=size, max_size=size)))


def _maybe(draw: st.DrawFn, values: st.SearchStrategy[float]) -> Tensor | None:
    found = draw(st.none() | values)
    return None if found is None else torch.tensor(found)


@st.composite
def exchanges(draw: st.DrawFn, *, apart: bool = False) -> Exchange:
    """Draw one or two further free pools, connected in any way."""
    n = draw(st.integers(1, 2))
    T2 = _list(draw, log_uniform(5 * ms, 300 * ms), n)
    pairs = draw(
        st.sampled_from([None, ((1, 0),)])
        if n == 1
        else st.sampled_from([None, ((0, 1), (1, 2)), ((2, 1), (0, 2), (0, 1))])
    )
    count = n if pairs is None else len(pairs)
    return Exchange(
        T1=T2 * draw(log_uniform(1.1, 30.0)),
        T2=T2,
        f=_list(draw, st.floats(0.05, 0.3), n),
        k=_list(draw, rates, count),
        df=_list(draw, st.floats(-100, 100), n) if draw(st.booleans()) else None,
        D=_list(draw, st.floats(0, 3e-3), n) if apart else None,
        v=_list(draw, st.floats(-5, 5), n) if apart and draw(st.booleans()) else None,
        pairs=pairs,
        directional=draw(st.booleans()),
    )


@st.composite
def bounds(draw: st.DrawFn, free: int) -> Bound:
    """Draw one or two semisolid pools, with dipolar order or without."""
    n = draw(st.integers(1, 2))
    dipolar = draw(st.booleans())
    return Bound(
        f=_list(draw, st.floats(0.02, 0.15), n),
        k=_list(draw, rates, n),
        T1=_list(draw, log_uniform(0.1, 2.0), n),
        T2=_list(draw, log_uniform(7e-6, 15e-6), n),
        T1D=_list(draw, log_uniform(1 * ms, 20 * ms), n) if dipolar else None,
        lineshape=draw(st.sampled_from(["superlorentzian", "lorentzian", "gaussian"])),
        partners=draw(
            st.none() | st.tuples(*[st.integers(0, free - 1)] * n)  # pyright: ignore
        ),
        directional=draw(st.booleans()),
    )


@st.composite
def layouts(draw: st.DrawFn, rows: int, *, wide: bool, dual: bool) -> epg.Layout:
    """Draw a structure that starts with a pulse and often rewinds what it winds."""
    shift = st.tuples(*[st.integers(-1, 1)] * 3) if wide else st.integers(-2, 2)
    one = draw(shift)
    back = tuple(-n for n in one) if isinstance(one, tuple) else -one
    none = (0, 0, 0) if wide else 0
    shift = st.sampled_from([one, one, back, back, none]) | shift
    kinds = st.sampled_from(["pulse"] * 4 + ["wait"] * 2 + ["invert"])
    found = []
    for row in range(rows):
        kind = draw(kinds) if row else "pulse"
        found.append(
            epg.Event(
                pulse=kind == "pulse",
                invert=kind == "invert",
                quadrant=draw(st.integers(0, 3)),
                shift=draw(shift),
                read=draw(st.booleans()),
                receiver=draw(st.integers(0, 3)),
                spoil=row > 0 and draw(st.integers(0, 9)) == 9,
                dual=dual and draw(st.booleans()),
            )
        )
    found[-1] = found[-1]._replace(read=True)
    return tuple(found)


def rotation(a: float, b: float) -> Tensor:
    """Return a rotation by a about z and then by b about x."""
    (c, s), (d, e) = ((math.cos(x), math.sin(x)) for x in (a, b))
    Rz = torch.tensor([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
    return torch.tensor([[1.0, 0.0, 0.0], [0.0, d, -e], [0.0, e, d]]) @ Rz


def _turned(draw: st.DrawFn) -> Tensor:
    """Draw a positive definite diffusion tensor."""
    axis = rotation(draw(angles), draw(angles))[:, 0]
    extra = draw(st.floats(0, 2e-3)) * torch.outer(axis, axis)
    return draw(st.floats(1e-4, 2e-3)) * torch.eye(3) + extra


@st.composite
def worlds(
    draw: st.DrawFn,
    max_rows: int = 6,
    *,
    diffusion: bool = False,
    apart: bool = False,
    spread: bool = True,
    wide: bool | None = None,
) -> World:
    """Draw a tissue and a program that fit each other.

    Args:
        draw: given by hypothesis.
        max_rows: most rows.
        diffusion: the tissue diffuses.
        apart: the free pools have diffusivities of their own.
        spread: T2′ may be on.
        wide: shifts are three integers; ``None`` for either.
    """
    rows = draw(st.integers(min(3, max_rows), max_rows))
    if wide is None:
        wide = not apart and draw(st.integers(0, 3)) == 0
    rows = min(rows, 4) if wide else rows
    exchange = draw(exchanges(apart=apart)) if apart or draw(st.booleans()) else None
    free = 1 if exchange is None else 1 + len(exchange.f)
    bound = draw(bounds(free)) if draw(st.booleans()) else None
    directed = wide or (not apart and draw(st.integers(0, 2)) == 0)
    moves = draw(st.booleans()) and not apart
    v = (
        _list(draw, st.floats(-10, 10), 3)
        if directed
        else torch.tensor(draw(st.floats(-10, 10)))
    )
    D = None
    if diffusion or apart:
        tensor = directed and draw(st.booleans())
        D = _turned(draw) if tensor else torch.tensor(draw(st.floats(0, 3e-3)))
    moment = None
    if moves or D is not None:
        sizes = st.floats(-15, 15) if wide else st.floats(-40, 40)
        moment = _list(draw, sizes, 3)[None] if directed else _list(draw, sizes, 1)
    T2p = _maybe(draw, log_uniform(5 * ms, 500 * ms)) if spread else None
    clock = None
    duration = _list(draw, log_uniform(0.1 * ms, 40 * ms), rows)
    if T2p is not None or draw(st.booleans()):
        most = 1 if wide else 2
        clock = tuple(_whole(draw, rows, most))
        duration = duration[torch.tensor([clock.index(c) for c in clock])]
    power = bound is not None and draw(st.booleans())
    T2 = draw(log_uniform(10 * ms, 500 * ms))
    tissue = Tissue(
        T1=T2 * draw(log_uniform(1.1, 50.0)),
        T2=T2,
        M0=_maybe(draw, st.floats(0.1, 10)),
        B1=_maybe(draw, st.floats(0.5, 1.5)),
        df=_maybe(draw, st.floats(-100, 100)),
        D=D,
        v=v if moves else None,
        T2p=T2p,
        exchange=exchange,
        bound=bound,
    )
    plain = draw(st.booleans())
    dipolar = bound is not None and bound.T1D is not None
    program = epg.Program(
        flip=_list(draw, st.floats(0.3, math.pi), rows),
        duration=duration,
        phase=None if plain else _list(draw, angles, rows),
        demod=None if plain else _list(draw, angles, rows),
        efficiency=_list(draw, st.floats(0.5, 1), rows),
        moment=moment,
        thickness=_maybe(draw, log_uniform(0.5, 20.0)) if moves else None,
        saturation=_list(draw, st.floats(0, 1), rows) if draw(st.booleans()) else None,
        power=_list(draw, log_uniform(1e2, 1e5), rows) if power else None,
        offset=_list(draw, st.floats(-1e4, 1e4), rows) if power or dipolar else None,
        layout=draw(layouts(rows, wide=wide, dual=dipolar)),
        clock=clock,
    )
    return tissue, program


def _whole(draw: st.DrawFn, size: int, most: int) -> list[int]:
    return draw(st.lists(st.integers(0, most), min_size=size, max_size=size))
