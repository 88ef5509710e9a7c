"""Chemical exchange saturation transfer: the Z-spectrum after a train of pulses."""

import math
from collections.abc import Mapping
from functools import reduce

import torch
from torch import Tensor

from mrsim.epg._checks import check_fits, check_sequence, check_whole
from mrsim.epg.blocks import rows
from mrsim.epg.inputs import checked
from mrsim.epg.lineshape import absorption
from mrsim.epg.matrices import exponential
from mrsim.epg.pools import Pools, longitudinal, shares, transverse
from mrsim.epg.program import Event
from mrsim.tissue import Tissue
from mrsim.tree import neutral, record, static


@record
class CEST:
    """A saturation train, played at each offset from equilibrium."""

    offset: Tensor  # (offset,) of the irradiation from the nominal frequency [Hz]
    amplitude: Tensor  # () γB1 of the irradiation [rad/s]; 1 µT is 267.5 rad/s
    duration: Tensor  # () length of a pulse [s]
    pause: Tensor | None = neutral(0.0)  # () after each pulse but the last [s]
    shape: Tensor | None = None  # (sample,) relative amplitude; None: rectangular
    pulses: int = static(1)  # one: continuous-wave irradiation


def cest(tissue: Tissue, seq: CEST) -> Tensor:
    r"""Return the Z-spectrum: pool 0's Z after the train, relative to equilibrium.

    The Bloch–McConnell equations of all pools, dM/dt = A·M + c in the frame that turns
    with the irradiation, solved by matrix exponentials, exact for each sample of a
    pulse and for each pause. Free pools turn about +x with γB1·amplitude and dephase
    with their own shifts; bound pools are saturated at the rate π(γB1)²G(offset).

    Args:
        tissue: the voxel; ``exchange`` holds the pools and their shifts ``df``.
        seq: the saturation.

    Returns:
        (offset,) Z / M_eq of pool 0, before any readout [1].

    Raises:
        TypeError: a field is no floating tensor, or dtypes differ.
        ValueError: shapes or devices do not match, pulses is no such number, or the
            tissue has T2′, diffusion or flow.

    Reference:
        McConnell 1958 (J Chem Phys 28:430); Zaiss & Bachert 2013 (PMB 58:R221).

    >>> from mrsim import Exchange, Tissue, epg
    >>> amide = Exchange(T1=1.0, T2=0.01, f=0.002, k=0.06, df=447.0)
    >>> seq = epg.CEST(offset=[-447.0, 447.0], amplitude=200.0, duration=2.0)
    >>> z = epg.cest(Tissue(T1=1.3, T2=0.08, exchange=amide), seq)
    """
    where = "epg.cest"
    check_sequence(where, seq, offset="offset", shape="sample")
    check_whole(where, "pulses", seq.pulses)
    check_fits(where, "pause must not be negative", _or_zero(seq.pause, seq.duration))
    x, pools = _physics(where, tissue, seq)
    scale = seq.amplitude if tissue.B1 is None else seq.amplitude * tissue.B1
    shape = torch.ones_like(seq.duration)[None] if seq.shape is None else seq.shape
    time = seq.duration / len(shape)
    steps = [_played(pools, x, seq.offset, scale * s, time) for s in shape]
    pulse = reduce(lambda before, step: _product(step, before), steps)
    M = _equilibrium(pools, x, seq.offset)
    M = _product(pulse, M)
    if seq.pulses > 1:
        still = _or_zero(seq.pause, seq.duration)
        pause = _played(pools, x, seq.offset, torch.zeros_like(scale), still)
        again = _product(pulse, pause)
        for _ in range(seq.pulses - 1):
            M = _product(again, M)
    return M[2 * pools.free, 0] / shares(pools, x)[0]


def _or_zero(value: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if value is None else value


def _physics(
    where: str, tissue: Tissue, seq: CEST
) -> tuple[Mapping[str, Tensor], Pools]:
    """Return the tissue's tensors, (1,) or (pool,), and the structure of its pools."""
    if tissue.T2p is not None:
        raise ValueError(f"{where}: T2p is unknown here; average several df instead")
    none = torch.zeros_like(seq.duration)
    row = {"flip": [none], "duration": [seq.duration]}
    if tissue.bound is not None:
        row |= {"power": [none], "offset": [none]}
    wait = rows((Event(),), None, **row)
    fields, pools = checked(where, tissue, wait)
    return {n: v if v.ndim else v[None] for n, v in fields.items()}, pools


def _equilibrium(pools: Pools, x: Mapping[str, Tensor], offset: Tensor) -> Tensor:
    """Return the state (component, 1, offset): x and y, z of each pool, 1."""
    none, one = torch.zeros_like(offset), torch.ones_like(offset)
    z = [f * one for f in shares(pools, x)]
    z += [none] * (pools.count - len(z))
    return torch.stack([none] * (2 * pools.free) + z + [one])[:, None]


def _product(A: Tensor, B: Tensor) -> Tensor:
    """Multiply matrices (to, from, offset)."""
    return (A[:, :, None] * B[None]).sum(1)


def _played(
    pools: Pools, x: Mapping[str, Tensor], offset: Tensor, rate: Tensor, time: Tensor
) -> Tensor:
    """Return exp(A·time), (to, from, offset), under irradiation of a rate γB1."""
    free, size = pools.free, 2 * pools.free + pools.count + 1
    L: list[list[Tensor | None]] = [[None] * size for _ in range(size)]
    none = torch.zeros_like(offset)

    def add(i: int, j: int, value: Tensor) -> None:
        old = L[i][j]
        L[i][j] = value + none if old is None else old + value

    turn = 2 * math.pi * (x.get("df", none) - offset)
    for i, row in enumerate(transverse(pools, x)):
        for j, entry in enumerate(row):
            if entry is None:
                continue
            add(i, j, entry.real)
            add(free + i, free + j, entry.real)
            if entry.is_complex():
                add(i, free + j, -entry.imag)
                add(free + i, j, entry.imag)
        add(i, free + i, -turn)
        add(free + i, i, turn)
        add(free + i, 2 * free + i, -rate)
        add(2 * free + i, free + i, rate)
    rest = shares(pools, x)
    for i, row in enumerate(longitudinal(pools, x)):
        for j, entry in enumerate(row):
            if entry is None:
                continue
            add(2 * free + i, 2 * free + j, entry)
            if j < len(rest):
                add(2 * free + i, size - 1, -entry * rest[j])
    for i in range(pools.bound):
        b, T2 = 2 * free + free + i, x["bound.T2"][i : i + 1]
        W = math.pi * rate.square() * absorption(offset, T2, pools.lineshape)
        add(b, b, -W)
        if pools.dipolar:  # the local field of a super-Lorentzian (Varma 2015)
            ratio = 2 * math.pi * math.sqrt(15) * offset * T2
            d = b + pools.bound
            add(b, d, W * ratio)
            add(d, b, W * ratio)
            add(d, d, -W * ratio.square())
    add(size - 1, size - 1, none)
    return exponential(tuple(map(tuple, L)), time)
