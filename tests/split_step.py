"""A slow oracle with diffusion: Bloch–Torrey on a periodic grid of positions.

Strang splitting between what is diagonal in wave vectors (diffusion, flow, relaxation,
exchange), applied by FFT, and the gradient's phase, applied in real space. The domain
is so many periods of one unit of dephasing that a fraction of it is periodic, too. Two
step sizes are extrapolated (Richardson), which leaves an error of fourth order.
"""

import math
from typing import Any

import torch
from torch import Tensor

from mrsim import Tissue, epg
from mrsim.epg.lineshape import absorption


def run(tissue: Tissue, program: epg.Program, steps: int = 8) -> Tensor:
    """Return the signal; ``steps`` and ``2 steps`` parts of each wait."""
    fine, coarse = (_run(tissue, program, n, 2 * steps) for n in (2 * steps, steps))
    return (4 * fine - coarse) / 3


def _run(tissue: Tissue, program: epg.Program, steps: int, period: int) -> Tensor:
    moves = [
        e.shift if isinstance(e.shift, tuple) else (e.shift,) for e in program.layout
    ]
    axes = max(map(len, moves))
    sizes = [
        period * (2 * total + 1) if (total := sum(abs(m[i]) for m in moves)) else 1
        for i in range(axes)
    ]
    grids = [torch.arange(n) * (2 * math.pi * period / max(n, 1)) for n in sizes]
    place = torch.stack(torch.meshgrid(*grids, indexing="ij"))  # (axis, *grid)
    ks = [torch.fft.fftfreq(n, 1 / n) / (period if n > 1 else 1) for n in sizes]
    order = torch.stack(torch.meshgrid(*ks, indexing="ij"))
    F, Z, M0 = generators(tissue)
    dims = tuple(range(-axes, 0))
    shape = (-1, *(1,) * axes)
    plus = torch.zeros(len(F), *sizes, dtype=torch.complex128)
    z = (M0.reshape(shape) + torch.zeros(sizes)) + 0j
    found = []
    for row, event in enumerate(program.layout):
        if event.pulse or event.invert:
            plus, z = _operate(tissue, program, row, plus, z)
            z = _saturate(tissue, program, row, z, len(F))
        shift = moves[row]
        parts = steps if any(shift) else 1
        time = program.duration[row] / parts
        loss, drift = _motion(tissue, program, row, order, len(Z))
        free = slice(0, len(F))
        if tissue.df is not None:
            drift_f = drift[free] - 2 * math.pi * tissue.df
        else:
            drift_f = drift[free]
        UF = _propagator(F, loss[free] + 1j * drift_f, time / 2)
        UZ = _propagator(Z, loss + 1j * drift, time / 2)
        turn = sum(n * p for n, p in zip(shift, place, strict=False)) / parts
        wind = torch.exp(1j * turn)
        for _ in range(parts):
            plus = _spectral(UF, plus, dims) * wind
            plus = _spectral(UF, plus, dims)
            for _half in range(2):
                away = _spectral(UZ, z - M0.reshape(shape), dims)
                z = away + M0.reshape(shape)
        w = _gone(tissue, program, row)
        plus, z = plus * (1 - w), M0.reshape(shape) + (z - M0.reshape(shape)) * (1 - w)
        if event.read:
            demod = event.receiver * math.pi / 2
            demod = demod + (0 if program.demod is None else program.demod[row])
            found.append(plus.sum(0).mean() * torch.exp(-1j * torch.as_tensor(demod)))
        if event.spoil:
            plus = 0 * plus
            z = z.mean(dims, keepdim=True) + 0 * z
    return torch.stack(found)


def generators(tissue: Tissue) -> tuple[Tensor, Tensor, Tensor]:
    """Return the generators of F and Z and M0 of all components."""
    x, b = tissue.exchange, tissue.bound
    flat = torch.zeros(0)

    def col(r: Any, n: str) -> Tensor:
        return flat if r is None else torch.atleast_1d(getattr(r, n))

    f = torch.cat([col(x, "f"), col(b, "f")])
    f = torch.cat([1 - f.sum()[None], f])
    T1 = torch.cat([tissue.T1[None], col(x, "T1"), col(b, "T1")])
    T2 = torch.cat([tissue.T2[None], col(x, "T2")])
    F, Z = torch.diag(-1 / T2) + 0j, torch.diag(-1 / T1) + 0j
    free = len(T2)
    ways = []
    if x is not None:
        pairs = x.pairs or tuple((0, i) for i in range(1, free))
        ways += [
            (*p, k, x.directional) for p, k in zip(pairs, col(x, "k"), strict=True)
        ]
    if b is not None:
        ends = b.partners or (0,) * len(col(b, "f"))
        ways += [
            (p, free + i, k, b.directional)
            for i, (p, k) in enumerate(zip(ends, col(b, "k"), strict=True))
        ]
    for i, j, k, directional in ways:
        there, back = (k, k * f[i] / f[j]) if directional else (k * f[j], k * f[i])
        for G in [Z, F][: 1 + (j < free)]:
            G[i, i] -= there
            G[j, i] += there
            G[j, j] -= back
            G[i, j] += back
    if x is not None and x.df is not None:
        F = F + torch.diag(2j * math.pi * torch.cat([torch.zeros(1), col(x, "df")]))
    if b is not None and b.T1D is not None:
        Z = torch.block_diag(Z, torch.diag(-1 / col(b, "T1D")) + 0j)
        f = torch.cat([f, 0 * col(b, "f")])
    return F, Z, f if tissue.M0 is None else f * tissue.M0


def _motion(
    tissue: Tissue, program: epg.Program, row: int, order: Tensor, count: int
) -> tuple[Tensor, Tensor]:
    """Return k·D k and v·k of every component: (component, *grid)."""
    axes = len(order)
    still = torch.zeros(count, *order.shape[1:])
    if program.moment is None:
        return still, still
    moment = program.moment[row % len(program.moment)]
    if axes == 1 and moment.ndim:
        k = moment.reshape(3, 1) * order
    elif axes == 3:
        k = (moment * torch.ones(3)).reshape(3, 1, 1, 1) * order
    else:
        k = moment * order
    D = torch.zeros(()) if tissue.D is None else tissue.D
    v = torch.zeros(()) if tissue.v is None else tissue.v
    D = D if D.ndim else D * torch.eye(len(k))
    loss = torch.einsum("a...,ab,b...->...", k, D, k)
    drift = (v.reshape(-1, *(1,) * axes) * k).sum(0)
    loss, drift = still + loss, still + drift
    x = tissue.exchange
    for name, where in (("D", loss), ("v", drift)):
        own = None if x is None else getattr(x, name)
        if own is not None:
            for i, value in enumerate(torch.atleast_1d(own)):
                where[i + 1] = value * ((k * k).sum(0) if name == "D" else k.sum(0))
    return loss, drift


def _propagator(L: Tensor, motion: Tensor, time: Tensor) -> Tensor:
    """Return exp((L - diag(motion)) t): (*grid, to, from)."""
    n = len(L)
    A = (L - torch.diag_embed(motion.movedim(0, -1))) * time
    if n == 1:
        return A.exp()
    # closer to the identity than torch's approximation for small norms is exact
    eye = torch.eye(n)
    return torch.linalg.matrix_exp(A - eye) * math.e


def _spectral(U: Tensor, M: Tensor, dims: tuple[int, ...]) -> Tensor:
    k = torch.fft.fftn(M, dim=dims).movedim(0, -1)[..., None]
    return torch.fft.ifftn((U @ k)[..., 0].movedim(-1, 0), dim=dims)


def _operate(
    tissue: Tissue, program: epg.Program, row: int, plus: Tensor, z: Tensor
) -> tuple[Tensor, Tensor]:
    event, free = program.layout[row], len(plus)
    up, rest = z[:free], z[free:]
    if event.invert:
        e = program.efficiency
        share = 1.0 if e is None else e[row % len(e)]
        return 0 * plus, torch.cat([-share * up, rest])
    a = program.flip[row] * (1 if tissue.B1 is None else tissue.B1)
    p = event.quadrant * math.pi / 2 + (
        0 if program.phase is None else program.phase[row]
    )
    t = torch.exp(1j * torch.as_tensor(p))
    c2, s2, s = (a / 2).cos() ** 2, (a / 2).sin() ** 2, a.sin()
    made = c2 * plus + s2 * t**2 * plus.conj() - 1j * t * s * up
    up = (t.conj() * plus).imag * s + a.cos() * up
    return made, torch.cat([up, rest])


def _saturate(
    tissue: Tissue, program: epg.Program, row: int, z: Tensor, free: int
) -> Tensor:
    b = tissue.bound
    if b is None:
        return z
    f = torch.atleast_1d(b.f)

    def at(name: str) -> Tensor:
        x = getattr(program, name)
        return torch.zeros(()) if x is None else x[row % len(x)]

    W = at("saturation") + 0 * f
    if program.power is not None:
        assert b.T2 is not None
        B1 = torch.ones(()) if tissue.B1 is None else tissue.B1
        W = W + math.pi * B1**2 * at("power") * absorption(
            at("offset"), b.T2, b.lineshape
        )
    n = len(f)
    made = z.clone()
    for i in range(n):
        if b.T1D is None:
            made[free + i] = z[free + i] * torch.exp(-W[i])
            continue
        assert b.T2 is not None
        u = 2 * math.pi * math.sqrt(15) * at("offset") * torch.atleast_1d(b.T2)[i]
        off = 0 * u if program.layout[row].dual else -u
        A = -W[i] * torch.stack([torch.stack([u**0, off]), torch.stack([off, u**2])])
        value, vector = torch.linalg.eigh(A)
        E = vector @ torch.diag(value.exp()) @ vector.T
        pair = torch.stack([z[free + i], z[free + n + i]])
        new = torch.einsum("ab,b...->a...", E + 0j, pair)
        made[free + i], made[free + n + i] = new[0], new[1]
    return made


def _gone(tissue: Tissue, program: epg.Program, row: int) -> Tensor:
    if tissue.v is None or program.thickness is None:
        return torch.zeros(())
    return (tissue.v.norm() * program.duration[row] / program.thickness).clamp(max=1)
