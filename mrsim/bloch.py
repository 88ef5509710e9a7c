"""The isochromat twin of `mrsim.epg`: the same Program, spin by spin.

An independent check: magnetisation vectors at equispaced positions along each gradient
axis, with plain rotations, matrix exponentials and no configuration states. With more
positions than twice the largest order the average over them is exact, and the same
holds for the phases of a static spread of off-resonance (T2′).
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from mrsim.epg.inputs import checked
from mrsim.epg.lineshape import absorption
from mrsim.epg.pools import Pools
from mrsim.epg.program import Event, Program
from mrsim.tissue import Lineshape, Tissue

_MOST = 2**24  # isochromats of one voxel
Fields = dict[str, Tensor]


class _Voxel(NamedTuple):
    """What stays while a program plays; rates have axes (to, from)."""

    x: Fields
    pools: Pools
    axes: int  # gradient axes
    across: Tensor  # generator of Mx and of My; with shifts of all Mx, then My [1/s]
    along: Tensor  # (component, component) generator of Mz - rest [1/s]
    rest: Tensor  # (component, 1, 1)
    place: Tensor  # (axis, position) phase that one unit of shift winds up [rad]
    clock: tuple[int, ...]  # class of each row's wait, for T2′
    spread: Tensor  # (class, df) phase of one wait of each class [rad]


Moving = tuple[Tensor, Tensor, Tensor]  # x, y (free, …), z (component, df, position)


def run(tissue: Tissue, program: Program, spins: int | None = None) -> Tensor:
    """Simulate a program with isochromats in one voxel.

    dM/dt = M × γB - relaxation + exchange, pool by pool, for each position
    z_n = 2π n / N, the unit shift turning M+ by z_n over a wait; the signal is the mean
    of M+ e^{-i demod}. Spins that flow take the phase of where they are in the middle
    of each gradient. Off-resonance with T2′ is a Lorentzian spread, whose
    characteristic function e^{-|τ|/T2′} weighs each net precession time τ.

    Args:
        tissue: the voxel, without diffusion.
        program: the sequence; its ``states`` must be ``None``.
        spins: number N of positions on each axis; by default the smallest exact one.

    Returns:
        (reading,) complex signal [units of M0].

    Raises:
        TypeError: a field is no floating tensor, or dtypes differ.
        ValueError: shapes or devices do not match, the program is truncated, spins
            diffuse, or there would be too many of them.

    >>> from mrsim import Tissue, bloch, epg
    >>> from mrsim.units import deg, ms
    >>> train = epg.fse_program(epg.FSE(flip=[180 * deg] * 2, esp=10 * ms))
    >>> bloch.run(Tissue(T1=1.0, T2=0.1), train).real
    tensor([0.9048, 0.8187])
    """
    x, pools = checked("bloch.run", tissue, program)
    _refuse(tissue, program)
    voxel = _voxel(x, pools, program, spins)
    z = voxel.rest.expand(-1, voxel.spread.shape[1], voxel.place.shape[1])
    flat = torch.zeros_like(z[: pools.free])
    M: Moving = flat, flat, z
    found, start = [], torch.zeros_like(program.duration[0])
    for row, event in enumerate(program.layout):
        if event.pulse or event.invert:
            M = _saturate(_operate(M, voxel, row, event), voxel, row, event)
        M = _wait(M, voxel, row, event, start)
        start = start + program.duration[row]
        if event.read:
            found.append(_read(M, voxel, row, event))
        if event.spoil:
            M = flat, flat, M[2].mean(-1, keepdim=True).expand_as(z)
    none = torch.complex(flat, flat).new_zeros(0)
    return torch.stack(found) if found else none


def _refuse(tissue: Tissue, program: Program) -> None:
    if program.states is not None:
        raise ValueError(
            f"bloch.run: isochromats cannot drop orders, but the program keeps only"
            f" {program.states}; give it states=None"
        )
    exchange = tissue.exchange
    own = exchange is not None and not (exchange.D is None and exchange.v is None)
    if tissue.D is not None or own:
        raise ValueError(
            "bloch.run: isochromats neither diffuse nor hop between pools that move"
            " apart; leave D, exchange.D and exchange.v None, or use epg.run"
        )


def _voxel(x: Fields, pools: Pools, program: Program, spins: int | None) -> _Voxel:
    layout, like = program.layout, program.flip
    moves = [e.shift if isinstance(e.shift, tuple) else (e.shift,) for e in layout]
    axes = max(len(move) for move in moves)
    totals = [sum(abs(m[i]) for m in moves if len(m) > i) for i in range(axes)]
    sizes = [2 * total + 1 if spins is None else spins for total in totals]
    classes = range(len(layout)) if program.clock is None else program.clock
    names = sorted(set(classes))
    clock = tuple(names.index(c) for c in classes)
    counts = [2 * clock.count(i) + 1 for i in range(len(names))] if "T2p" in x else []
    if math.prod(sizes) * math.prod(counts) > _MOST:
        raise ValueError(
            f"bloch.run: exact averages need {math.prod(sizes)} positions and"
            f" {math.prod(counts)} off-resonances; shorten the program or, with T2p,"
            f" give rows of equal duration one class of program.clock"
        )
    across, along, rest = _generators(x, pools)
    place, spread = _grid(sizes, like), _grid(counts, like)
    if not counts:
        spread = torch.zeros_like(like[:1]).expand(len(names), 1)
    return _Voxel(x, pools, axes, across, along, rest, place, clock, spread)


def _grid(sizes: list[int], like: Tensor) -> Tensor:
    """Return every combination of equispaced angles: (axis, point)."""
    angles = [
        torch.arange(n, device=like.device).to(like.dtype) * (2 * math.pi / n)
        for n in sizes
    ]
    if not angles:
        return like.new_zeros(0, 1)
    return torch.stack([a.reshape(-1) for a in torch.meshgrid(*angles, indexing="ij")])


def _generators(x: Fields, pools: Pools) -> tuple[Tensor, Tensor, Tensor]:
    """Return the generators of Mx with My, and of Mz, and M0 of every component."""
    free, bound = pools.free, pools.bound
    one = torch.ones_like(x["T1"])[None]
    others = [x[n] for n in ("exchange.f", "bound.f") if n in x]
    f = torch.cat([one - sum(o.sum() for o in others), *others])
    T1 = [x["T1"][None]] + [x[n] for n in ("exchange.T1", "bound.T1") if n in x]
    T2 = [x["T2"][None]] + [x[n] for n in ("exchange.T2",) if n in x]
    F, Z = -torch.diag(1 / torch.cat(T2)), -torch.diag(1 / torch.cat(T1))
    ways = [(*pair, "exchange.k", i) for i, pair in enumerate(pools.pairs)]
    ways += [(p, free + i, "bound.k", i) for i, p in enumerate(pools.partners)]
    for a, b, name, i in ways:
        k, way = x[name][i], pools.directional[name == "bound.k"]
        there, back = (k, k * f[a] / f[b]) if way else (k * f[b], k * f[a])
        Z = Z + _swap(a, b, there, back, free + bound)
        if b < free:
            F = F + _swap(a, b, there, back, free)
    if pools.dipolar:
        Z = torch.block_diag(Z, -torch.diag(1 / x["bound.T1D"]))
        f = torch.cat([f, torch.zeros_like(x["bound.T1D"])])
    if "exchange.df" in x:
        turn = torch.diag(2 * math.pi * torch.cat([0 * one, x["exchange.df"]]))
        F = torch.cat([torch.cat([F, -turn], 1), torch.cat([turn, F], 1)])
    rest = f * x["M0"] if "M0" in x else f
    return F, Z, rest[:, None, None]


def _swap(a: int, b: int, there: Tensor, back: Tensor, size: int) -> Tensor:
    """Return the generator of a → b with one rate and b → a with another."""
    e = torch.eye(size, dtype=there.dtype, device=there.device)
    out = torch.outer(e[b] - e[a], e[a]) * there
    return out + torch.outer(e[a] - e[b], e[b]) * back


def _exponential(A: Tensor) -> Tensor:
    """Return exp(A) for a decaying A; torch errs by 1e-11 at norms of 0.01 to 0.05."""
    if A.shape[-1] == 1:
        return A.exp()
    eye = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
    return torch.linalg.matrix_exp(A - eye) * math.e


def _row(voxel: _Voxel, name: str, row: int) -> Tensor:
    """Return a row of a field that has one for each event, or one for all."""
    x = voxel.x[name]
    return x[row % x.shape[0]]


def _operate(M: Moving, voxel: _Voxel, row: int, event: Event) -> Moving:
    x, y, z = M
    fields = voxel.x
    up, bound = z[: len(x)], z[len(x) :]
    if event.invert:
        share = _row(voxel, "efficiency", row) if "efficiency" in fields else 1
        return torch.zeros_like(x), torch.zeros_like(y), torch.cat([-share * up, bound])
    flip = fields["flip"][row]
    flip = flip * fields["B1"] if "B1" in fields else flip
    c, s = _turn(
        event.quadrant, fields["phase"][row] if "phase" in fields else None, flip
    )
    own, cross = c * x + s * y, c * y - s * x
    cross, up = (
        flip.cos() * cross - flip.sin() * up,
        flip.sin() * cross + flip.cos() * up,
    )
    return c * own - s * cross, s * own + c * cross, torch.cat([up, bound])


def _turn(quadrant: int, phase: Tensor | None, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return cos and sin of quadrant·90° + phase."""
    angle = torch.zeros_like(like) if phase is None else phase
    angle = angle + torch.full_like(angle, quadrant * math.pi / 2)
    return angle.cos(), angle.sin()


def _saturate(M: Moving, voxel: _Voxel, row: int, event: Event) -> Moving:
    z = M[2]
    x, pools = voxel.x, voxel.pools
    if not pools.bound or not ({"saturation", "power"} & x.keys()):
        return M
    W = torch.zeros_like(x["bound.f"])
    offset = _row(voxel, "offset", row) if "offset" in x else 0 * x["T1"]
    if "saturation" in x:
        W = W + _row(voxel, "saturation", row)
    if "power" in x:
        power = _row(voxel, "power", row)
        power = power * x["B1"].square() if "B1" in x else power
        line: Lineshape = pools.lineshape  # pyright: ignore[reportAssignmentType]
        W = W + math.pi * power * absorption(offset, x["bound.T2"], line)
    free, last = pools.free, pools.free + pools.bound
    if not pools.dipolar:
        kept = z[free:] * torch.exp(-W)[:, None, None]
        return M[0], M[1], torch.cat([z[:free], kept])
    u = 2 * math.pi * math.sqrt(15) * x["bound.T2"] * offset
    off = torch.zeros_like(u) if event.dual else -u
    rows = [torch.stack([torch.ones_like(u), off], -1), torch.stack([off, u * u], -1)]
    keep = _exponential(-W[:, None, None] * torch.stack(rows, -2))
    pairs = torch.stack([z[free:last], z[last:]], 1)
    made = torch.einsum("pab,pbij->apij", keep, pairs)
    return M[0], M[1], torch.cat([z[:free], made[0], made[1]])


def _wait(M: Moving, voxel: _Voxel, row: int, event: Event, start: Tensor) -> Moving:
    x = voxel.x
    time = x["duration"][row]
    plane, gone = torch.stack(M[:2]), M[2] - voxel.rest
    U = _exponential(voxel.across * time)
    if "exchange.df" in x:
        U = U.unflatten(1, (2, -1)).unflatten(0, (2, -1))
        plane = torch.einsum("caeb,ebij->caij", U, plane)
    else:
        plane = torch.einsum("ab,cbij->caij", U, plane)
    gone = torch.einsum("ab,bij->aij", _exponential(voxel.along * time), gone)
    shift = event.shift if isinstance(event.shift, tuple) else (event.shift,)
    shift = shift + (0,) * (voxel.axes - len(shift))
    turn = voxel.spread[voxel.clock[row]][:, None]
    turn = turn + sum(n * p for n, p in zip(shift, voxel.place, strict=True))
    if "df" in x:
        turn = turn + 2 * math.pi * x["df"] * time[None]
    if "v" in x and "moment" in x:
        turn = turn + _wound(voxel, row, shift, start + time / 2)[None]
    if "v" in x and "thickness" in x:
        v = x["v"]
        speed = v.abs() if v.ndim == 0 else v.square().sum().sqrt()
        left = 1 - (speed * time / x["thickness"]).clamp(max=1)
        plane, gone = plane * left, gone * left
    (a, b), c, s = plane, turn.cos(), turn.sin()
    return c * a - s * b, s * a + c * b, voxel.rest + gone


def _wound(voxel: _Voxel, row: int, shift: tuple[int, ...], middle: Tensor) -> Tensor:
    """Return the phase of a gradient at where the spins have moved to [rad]."""
    moment, v = _row(voxel, "moment", row), voxel.x["v"]
    if voxel.axes == 1:
        return shift[0] * (moment * v).sum() * middle
    each = moment * v * torch.ones_like(voxel.place[:, 0])
    return (torch.tensor(shift).to(each) * each).sum() * middle


def _read(M: Moving, voxel: _Voxel, row: int, event: Event) -> Tensor:
    x = voxel.x
    found = torch.stack(M[:2]).sum(1).mean(-1)  # (2, df)
    re, im = found[:, 0] if "T2p" not in x else found @ _lorentzian(voxel)
    demod = x["demod"][row] if "demod" in x else None
    c, s = _turn(event.receiver, demod, re)
    return torch.complex(c * re + s * im, c * im - s * re)


def _lorentzian(voxel: _Voxel) -> Tensor:
    """Return weights of the off-resonances that make e^{-|τ|/T2′} of e^{iωτ}."""
    counts = [2 * voxel.clock.count(i) + 1 for i in range(len(voxel.spread))]
    time = voxel.x["duration"]
    net = torch.zeros_like(time[0]).expand(counts)
    for i, count in enumerate(counts):
        n = torch.fft.fftfreq(count, 1 / count, device=time.device).to(time.dtype)
        waits = n * time[voxel.clock.index(i)]
        net = net + waits.reshape(-1, *(1,) * (len(counts) - 1 - i))
    kept = torch.exp(-net.abs() / voxel.x["T2p"])
    for i in range(len(counts)):  # one by one: fftn has a limit of axes
        kept = torch.fft.fft(kept, dim=i, norm="forward")
    return kept.real.reshape(-1)
