"""What a tissue and a program hold: physics by name, its shapes and structure."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mrsim._check import check_floats, check_shapes
from mrsim.epg.pools import Pools
from mrsim.epg.program import Layout, Program, by_identity, check_structure
from mrsim.epg.values import check_clock, check_moments, check_shares
from mrsim.tissue import Bound, Exchange, Tissue

_SCALARS = ("T1", "T2", "M0", "B1", "df", "T2p")
_EXCHANGE = ("T1", "T2", "f", "k", "df", "D", "v")
_BOUND = ("f", "k", "T1", "T2", "T1D")
_EACH = ("flip", "duration", "phase", "demod")
_EITHER = ("efficiency", "saturation", "power", "offset", "moment")
_OF_PROGRAM = (*_EACH, *_EITHER, "thickness")
_OF_TISSUE = (*_SCALARS, "D", "v")
_KEPT = 256  # structures that are remembered
_VOXEL = dict.fromkeys(_SCALARS, "")
_ROWS = dict.fromkeys(_EACH, "event") | {"thickness": ""}


def checked(
    where: str, tissue: Tissue, program: Program
) -> tuple[dict[str, Tensor], Pools]:
    """Check a tissue and a program for one voxel; return their physics.

    Args:
        where: the function that asks, for the message.
        tissue: the voxel.
        program: the sequence.

    Returns:
        Field name → tensor of those that are present, with pool axes at full length;
        nested fields have dotted names. And the structure of the pools.

    Raises:
        TypeError: a field has the wrong type, or dtypes differ.
        ValueError: shapes, devices or the structure do not fit.
    """
    fields = _present(program, _OF_PROGRAM) | _present(tissue, _OF_TISSUE)
    for head, names in (("exchange", _EXCHANGE), ("bound", _BOUND)):
        record = getattr(tissue, head)
        if record is not None:
            found = _present(record, names)
            fields |= {f"{head}.{n}": v for n, v in found.items()}
    pools = _structure(where, tissue, program, fields)
    check_clock(where, program)
    check_moments(where, program)
    check_shares(where, tissue, pools)
    if tissue.exchange is None and tissue.bound is None:
        return fields, pools
    for name, value in fields.items():
        if "." in name and value.ndim == 0:
            fields[name] = value[None]
    if tissue.exchange is not None and pools.apart:
        own = _own_motion(tissue, tissue.exchange, pools)
        fields = {n: v for n, v in fields.items() if f"exchange.{n}" not in own} | own
    return fields, pools


def _structure(
    where: str, tissue: Tissue, program: Program, fields: dict[str, Tensor]
) -> Pools:
    """Check all but values, once for each structure; return that of the pools."""
    layout, exchange, bound = program.layout, tissue.exchange, tissue.bound
    try:
        key = (
            *(where, id(layout), program.clock, program.states, program.substeps),
            *(type(program.states), type(program.substeps)),  # 1.0 is no whole number
            exchange and (exchange.pairs, exchange.directional),
            bound and (bound.partners, bound.directional, bound.lineshape),
            *fields,
            *[(x.shape, x.dtype, x.device) for x in fields.values()],
        )
        known = _structures.get(key)
    except (AttributeError, TypeError):  # no tensors, or shapes that are symbols
        return _checked_structure(where, tissue, program, fields)
    if known is None:
        made = _checked_structure(where, tissue, program, fields)
        if len(_structures) > _KEPT:
            _structures.clear()
        known = _structures[key] = layout, made  # whose id stays its own
    return known[1]


_structures: dict[Any, tuple[Layout, Pools]] = {}


def _checked_structure(
    where: str, tissue: Tissue, program: Program, fields: dict[str, Tensor]
) -> Pools:
    check_structure(where, program)
    check_floats(where, **fields)
    if program.flip.dtype not in (torch.float32, torch.float64):
        raise TypeError(
            f"{where}: a complex signal needs float32 or float64, got"
            f" {program.flip.dtype}; convert with mrsim.to(record, torch.float32)"
        )
    check_shapes(where, tissue, **_VOXEL)
    _check_program(where, program)
    pools = _pools(where, tissue, program)
    _check_motion(where, tissue, program, pools)
    return pools


def _present(record: Any, names: Sequence[str]) -> dict[str, Any]:
    held = vars(record)
    return {n: held[n] for n in names if held[n] is not None}


def _check_program(where: str, program: Program) -> None:
    events = check_shapes(where, program, **_ROWS)["event"]
    if events != len(program.layout):
        raise ValueError(
            f"{where}: the program has {events} rows of numbers and its layout has"
            f" {len(program.layout)} events; give one row for each event"
        )
    for name in _EITHER:
        value = getattr(program, name)
        if value is None:
            continue
        vector = name == "moment" and value.ndim == 2 and value.shape[1] == 3
        if (value.ndim != 1 and not vector) or value.shape[0] not in (1, events):
            also = " or (event, 3)" if name == "moment" else ""
            raise ValueError(
                f"{where}: {name} must have shape (event,){also}, with one row for"
                f" each of the {events} events or one for all, got {tuple(value.shape)}"
            )
    clock = program.clock
    if clock is not None and len(clock) != events:
        raise ValueError(
            f"{where}: clock has {len(clock)} entries for {events} events;"
            f" give each row its class, or None"
        )


def _pools(where: str, tissue: Tissue, program: Program) -> Pools:
    exchange, bound = tissue.exchange, tissue.bound
    free = 1 if exchange is None else 1 + _length(where, exchange, "exchange")
    count = 0 if bound is None else _length(where, bound, "bound")
    pairs: tuple[tuple[int, int], ...] = ()
    partners: tuple[int, ...] = ()
    if exchange is not None:
        star = tuple((0, i) for i in range(1, free))
        pairs = star if exchange.pairs is None else exchange.pairs
        _check_pairs(where, exchange, pairs, free)
    if bound is not None:
        partners = (0,) * count if bound.partners is None else bound.partners
        _check_bound(where, bound, program, partners, free)
    return Pools(
        free=free,
        bound=count,
        pairs=pairs,
        partners=partners,
        directional=(
            exchange is None or exchange.directional,
            bound is None or bound.directional,
        ),
        dipolar=bound is not None and bound.T1D is not None,
        shifted=exchange is not None and exchange.df is not None,
        lineshape="superlorentzian" if bound is None else bound.lineshape,
        apart=exchange is not None and not (exchange.D is None and exchange.v is None),
    )


def _length(where: str, record: Any, head: str) -> int:
    """Return how many pools a record holds; its pool fields agree."""
    names = ("T1", "T2", "f", "df", "D", "v", "T1D")
    given = {n: getattr(record, n, None) for n in names}
    sizes = {n: v.shape for n, v in given.items() if isinstance(v, Tensor)}
    if any(len(s) > 1 for s in sizes.values()) or len(set(sizes.values())) != 1:
        shown = ", ".join(f"{n} {tuple(s)}" for n, s in sizes.items())
        raise ValueError(
            f"{where}: the fields of {head} must all have shape (pool,), or all be"
            f" scalars for one pool, got {shown}"
        )
    shape = next(iter(sizes.values()))
    return shape[0] if shape else 1


def _check_pairs(
    where: str, exchange: Exchange, pairs: tuple[tuple[int, int], ...], free: int
) -> None:
    ok = all(a != b and 0 <= a < free and 0 <= b < free for a, b in pairs)
    rates = exchange.k.numel() if exchange.k.ndim < 2 else -1
    if not ok or rates != len(pairs):
        raise ValueError(
            f"{where}: exchange has {free} free pools (the tissue's own is 0) and pairs"
            f" {pairs}; give pairs of two different pools, and k one rate for each, got"
            f" k of shape {tuple(exchange.k.shape)}"
        )


def _check_bound(
    where: str, bound: Bound, program: Program, partners: tuple[int, ...], free: int
) -> None:
    count = len(partners)
    if bound.k.ndim > 1 or bound.k.numel() != count or bound.f.numel() != count:
        raise ValueError(
            f"{where}: bound has {bound.f.numel()} pools, k of shape"
            f" {tuple(bound.k.shape)} and partners {partners}; give each pool one rate"
            f" and one free partner"
        )
    if not all(0 <= p < free for p in partners):
        raise ValueError(
            f"{where}: bound.partners {partners} must name free pools 0 … {free - 1}"
        )
    if bound.T2 is None and (program.power is not None or bound.T1D is not None):
        raise ValueError(
            f"{where}: the lineshape of a bound pool needs bound.T2 (about 10e-6 s);"
            f" give it, or give the bare exponents program.saturation"
        )
    if bound.T1D is not None and program.offset is None:
        raise ValueError(
            f"{where}: dipolar order (bound.T1D) is driven by irradiation off"
            f" resonance; give program.offset [Hz]"
        )
    if bound.lineshape not in ("superlorentzian", "lorentzian", "gaussian"):
        raise ValueError(
            f"{where}: lineshape must be 'superlorentzian', 'lorentzian' or 'gaussian',"
            f" got {bound.lineshape!r}"
        )


def _check_motion(where: str, tissue: Tissue, program: Program, pools: Pools) -> None:
    moves = {"D": tissue.D, "v": tissue.v}
    if tissue.exchange is not None:
        moves |= {"exchange.D": tissue.exchange.D, "exchange.v": tissue.exchange.v}
    given = [n for n, value in moves.items() if value is not None]
    washed = given == ["v"] and program.thickness is not None
    if given and program.moment is None and not washed:
        raise ValueError(
            f"{where}: {' and '.join(given)} act through the gradients, and the program"
            f" has none; give program.moment, the wave vector [rad/mm] of one shift"
        )
    if not given and tissue.T2p is None and program.states is None:
        return
    vector = _vector(program.layout)
    directed = vector or (program.moment is not None and program.moment.ndim == 2)
    for name, shape in (("D", (3, 3)), ("v", (3,))):
        value = getattr(tissue, name)
        if value is None:
            continue
        if value.shape not in ((), shape):
            raise ValueError(
                f"{where}: {name} must have shape () or {shape}, got"
                f" {tuple(value.shape)}"
            )
        if value.ndim and not directed and program.moment is not None:
            raise ValueError(
                f"{where}: {name} of shape {shape} needs gradients with a direction;"
                f" give program.moment as (event, 3), or shifts of three integers"
            )
        if name == "v" and not value.ndim and directed:
            raise ValueError(
                f"{where}: v must have shape (3,) where gradients have directions"
            )
    if pools.apart and program.substeps is None and _moves(program.layout):
        raise ValueError(
            f"{where}: pools with a D or v of their own do not commute with exchange"
            f" while a gradient is on; ask for program.substeps (8 or more) and see"
            f" epg.substep_error"
        )
    if (vector or tissue.T2p is not None) and program.states is not None:
        raise ValueError(
            f"{where}: states={program.states} counts orders along one axis; leave it"
            f" None with T2p or with shifts of three integers"
        )


@by_identity
def _vector(layout: Layout) -> bool:
    return any(isinstance(event.shift, tuple) for event in layout)


@by_identity
def _moves(layout: Layout) -> bool:
    return any(event.shift not in (0, (0, 0, 0)) for event in layout)


def _own_motion(tissue: Tissue, exchange: Exchange, pools: Pools) -> dict[str, Tensor]:
    """Return D and v of every pool where they differ."""
    found: dict[str, Tensor] = {}
    for name in ("D", "v"):
        own, others = getattr(tissue, name), getattr(exchange, name)
        if own is None and others is None:
            continue
        own = torch.zeros_like(tissue.T1) if own is None else own
        if own.ndim:
            raise ValueError(
                f"epg.run: with exchange.{name}, the tissue's {name} must be a scalar"
            )
        rest = own.expand(pools.free - 1) if others is None else others
        found[f"exchange.{name}"] = torch.cat([own[None], rest.reshape(-1)])
    return found
