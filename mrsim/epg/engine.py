"""The EPG engine: a Program and a Tissue in, a signal out.

The work happens in one segment of flat tensors (see `mrsim._remat`) with the event axis
first and batch axes last, so that every vmap is one call on contiguous rows.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mrsim import _remat
from mrsim.epg.inputs import checked
from mrsim.epg.kernels.call import Physics
from mrsim.epg.kernels.choice import (
    EngineInfo,
    described,
    followed,
    missing,
    obstacle,
    physics_of,
    wanted,
)
from mrsim.epg.kernels.fused import Job, fused
from mrsim.epg.kernels.table import make_table
from mrsim.epg.labels import make_axes
from mrsim.epg.plan import Plan, make_plan
from mrsim.epg.pools import Pools
from mrsim.epg.program import Layout, Program, by_identity
from mrsim.epg.state import State
from mrsim.epg.steps import Steps, make_steps
from mrsim.epg.walk import walk
from mrsim.tissue import Tissue

_CACHE = 2**20  # bytes of one state array beyond which slices are faster (measured)


def run(tissue: Tissue, program: Program, init: State | None = None) -> Tensor:
    """Simulate a program in one voxel.

    The extended-phase-graph recursion (Weigel 2015, eqs. 15, 21, 25) with every
    configuration that can reach a reading, so without truncation unless
    ``program.states`` asks for one.

    Args:
        tissue: the voxel.
        program: the sequence.
        init: the state at the start; equilibrium by default.

    Returns:
        (reading,) complex signal, F0·e^{-i demod} at each reading [units of M0].

    Raises:
        TypeError: a field is no floating tensor, or dtypes differ.
        ValueError: shapes or devices do not match.

    >>> from mrsim import Tissue, epg
    >>> layout = (
    ...     epg.Event(pulse=True, shift=1),
    ...     epg.Event(pulse=True, quadrant=1, shift=1, read=True),
    ... )
    >>> echo = epg.Program(flip=[1.5708, 3.1416], duration=[0.005] * 2, layout=layout)
    >>> epg.run(Tissue(T1=1.0, T2=0.1), echo).abs()
    tensor([0.9048])
    """
    return _simulate(tissue, program, init, final=False)[0]


def evolve(
    tissue: Tissue, program: Program, init: State | None = None
) -> tuple[Tensor, State]:
    """Simulate a program and return the signal and the state at its end.

    ``evolve(t, b, init=evolve(t, a)[1])`` continues where ``a`` stopped.

    Args:
        tissue: the voxel.
        program: the sequence.
        init: the state at the start; equilibrium by default.

    Returns:
        The signal as in `run`, and the state after the last row.

    Raises:
        TypeError: a field is no floating tensor, or dtypes differ.
        ValueError: shapes or devices do not match.

    >>> from mrsim import Tissue, epg
    >>> tissue = Tissue(T1=1.0, T2=0.1)
    >>> shot = epg.gre_readout([0.2], TR=0.01)
    >>> signal, state = epg.evolve(tissue, shot)
    >>> signal.imag, epg.evolve(tissue, shot, state)[0].imag  # the second goes on
    (tensor([-0.1987]), tensor([-0.1947]))
    """
    signal, parts = _simulate(tissue, program, init, final=True)
    p, q, z = (torch.complex(x[0], x[1]) for x in parts)
    z = torch.complex(-z.imag, z.real) / 2
    F = torch.cat([q.flip(1).conj().resolve_conj(), p[:, 1:]], 1)
    one = z.shape[0] == 1
    return signal, State(F=F[0] if one else F, Z=z[0] if one else z)


def engine_info(
    tissue: Tissue | None = None, program: Program | None = None
) -> EngineInfo:
    """Say which path simulations run on, and why.

    Args:
        tissue: a voxel, to ask about its simulation.
        program: its sequence.

    Returns:
        The path, "fused" for the compiled kernel and "torch" for plain torch, and the
        reason.

    Raises:
        ValueError: one of the two is missing.

    >>> from mrsim import epg
    >>> epg.engine_info().path in ("fused", "torch")
    True
    """
    if (tissue is None) != (program is None):
        raise ValueError("epg.engine_info: give a tissue and a program, or neither")
    device = torch.device("cpu")
    if tissue is None or program is None:
        why = "the torch path was asked for" if wanted() == "torch" else ""
        why = why or missing(Physics(double=False, parts=1))
    else:
        asked = _ask(tissue, program, None, final=False)
        why, device = obstacle(asked.plan, asked.pools, asked.fields), tissue.T1.device
    if why:
        return EngineInfo("torch", why)
    return EngineInfo("fused", described(device))


class _Asked(NamedTuple):
    plan: Plan
    pools: Pools
    fields: dict[str, Tensor]  # that are present
    clock: tuple[int, ...] | None  # which the plan was made with


def _ask(tissue: Tissue, program: Program, init: State | None, final: bool) -> _Asked:
    fields, pools = checked("epg.run", tissue, program)
    layout, clock = program.layout, program.clock
    orders = None
    if init is not None:
        fields |= _init_fields(init, program.flip, pools)
        orders = init.Z.shape[-1] - 1
    angles = program.phase, program.demod, tissue.df, tissue.v
    quadrants = all(v is None for v in angles) and not (pools.shifted or pools.apart)
    shared = clock if program.moment is None or len(program.moment) == 1 else None
    timed = tissue.T2p is not None
    rest = timed, clock, shared, quadrants, program.states, orders, final
    return _Asked(_planned(layout, *rest), pools, fields, shared)


@by_identity
def _planned(
    layout: Layout,
    timed: bool,
    clock: tuple[int, ...] | None,
    shared: tuple[int, ...] | None,
    quadrants: bool,
    states: int | None,
    init: int | None,
    final: bool,
) -> Plan:
    axes = make_axes(layout, clock, timed)
    if axes.sizes and (final or init is not None):
        raise ValueError(
            "epg.run: states can be handed over where orders lie along one axis and"
            " without T2p; simulate the whole program in one"
        )
    return make_plan(layout, axes, shared, quadrants, states, init, final)


def _simulate(
    tissue: Tissue, program: Program, init: State | None, final: bool
) -> tuple[Tensor, Sequence[Tensor]]:
    plan, pools, present, shared = _ask(tissue, program, init, final)
    job = _job(plan, shared, pools, present)
    if job is not None:
        return fused(job, *present.values()), ()
    names, substeps = tuple(present), program.substeps or 1
    value, push = (partial(f, plan, pools, names, substeps) for f in (_value, _push))
    segment = _remat.Segment(value, len(present), trailing=True, push=push)
    re, im, *state = _remat.apply(segment, *(v.contiguous() for v in present.values()))
    return torch.complex(re, im), state


def _job(
    plan: Plan,
    clock: tuple[int, ...] | None,
    pools: Pools,
    present: dict[str, Tensor],
) -> Job | None:
    """Return a simulation for the fused path, or ``None`` if it cannot take that."""
    names, like = tuple(present), present["T1"]
    key = id(plan), clock is None, pools, names, like.dtype, like.device
    found = _jobs.get(key)
    if found is not None and found.plan is plan and like.device.type == "cpu":
        now = wanted() == "torch" or followed() or missing(found.physics)
        return None if now else found
    if obstacle(plan, pools, present):
        return None
    physics = physics_of(plan, pools, present)
    f, push = (
        partial(_complex, partial(g, plan, pools, names, 1)) for g in (_value, _push)
    )
    reference = _remat.Segment(f, len(names), trailing=True, push=push)
    table = make_table(plan, clock, physics.motion)
    if len(_jobs) > 256:
        _jobs.clear()
    _jobs[key] = Job(plan, table, pools, names, physics, reference)
    return _jobs[key]


_jobs: dict[Any, Job] = {}


def _complex(f: Callable[..., tuple[Tensor, ...]], *tensors: Tensor) -> Tensor:
    re, im = f(*tensors)
    return torch.complex(re, im)


def _init_fields(init: State, like: Tensor, pools: Pools) -> dict[str, Tensor]:
    one = pools.count == 1
    F, Z = (init.F[None], init.Z[None]) if one else (init.F, init.Z)
    K = Z.shape[-1] - 1
    if F.shape != (pools.free, 2 * K + 1) or Z.shape != (pools.count, K + 1):
        lead = "" if one else f"{pools.free} and {pools.count} pools of "
        raise ValueError(
            f"epg.run: a state of order K holds {lead}F of shape (2K+1,) and Z of"
            f" (K+1,), got {tuple(init.F.shape)} and {tuple(init.Z.shape)}; take it"
            f" from epg.evolve"
        )
    wanted = like.dtype.to_complex()
    if {init.F.dtype, init.Z.dtype} != {wanted}:
        raise TypeError(
            f"epg.run: the state must be {wanted} as the program is {like.dtype}, got"
            f" {init.F.dtype} and {init.Z.dtype}; evolve it in the same precision"
        )
    P, Q = F[:, K:], F[:, : K + 1].flip(1)
    return {
        "P_re": P.real,
        "P_im": P.imag,
        "Q_re": Q.real,
        "Q_im": -Q.imag,
        "z_re": 2 * Z.imag,
        "z_im": -2 * Z.real,
    }


def _value(
    plan: Plan, pools: Pools, names: tuple[str, ...], substeps: int, *tensors: Tensor
) -> tuple[Tensor, ...]:
    def value(*xs: Tensor) -> list[Tensor]:
        return [v[0] for v in walk(plan, make_steps(plan, pools, names, xs, substeps))]

    return _in_cache(value, plan, names, tensors, pools.count)


def _push(
    plan: Plan, pools: Pools, names: tuple[str, ...], substeps: int, *inputs: Tensor
) -> tuple[Tensor, ...]:
    """Return the derivative along one tangent, or along many on a leading axis."""
    n = len(names)
    one = inputs[n].ndim == inputs[0].ndim
    moves = [m[None] if one else m for m in inputs[n:]]

    def steps(*xs: Tensor) -> Steps:
        return make_steps(plan, pools, names, xs, substeps)

    def push(*xs: Tensor) -> list[Tensor]:
        def along(*tangents: Tensor) -> Steps:
            return torch.func.jvp(steps, xs[:n], tangents)[1]

        made = walk(plan, steps(*xs[:n]), torch.func.vmap(along)(*xs[n:]))
        return [v[1] if one else v[1:] for v in made]

    copies = (1 + moves[0].shape[0]) * pools.count
    return _in_cache(push, plan, names, [*inputs[:n], *moves], copies)


def _in_cache(
    f: Callable[..., list[Tensor]],
    plan: Plan,
    names: tuple[str, ...],
    tensors: Sequence[Tensor],
    copies: int,
) -> tuple[Tensor, ...]:
    """Call f on slices of the last batch axis whose states stay in the cache."""
    like = tensors[names.index("T1")]
    size = max(x.shape[-1] for x in tensors) if like.ndim else 1
    orders = max(len(k.orders) for k in plan.knots)
    each = copies * (1 if plan.real else 2) * orders * like.element_size()
    chunk = max(_CACHE // max(each, 1), 16)
    if size <= 2 * chunk or like.device.type != "cpu":
        return tuple(f(*tensors))
    parts = [
        f(*(x[..., i : i + chunk] if x.shape[-1] > 1 else x for x in tensors))
        for i in range(0, size, chunk)
    ]
    return tuple(torch.cat(p, -1) for p in zip(*parts, strict=True))
