"""CEST against closed forms and an independent matrix exponential."""

import math

import numpy as np
import pytest
import torch
from torch.func import hessian, jacfwd, jacrev, vmap

import mrsim
from mrsim import Bound, Exchange, Tissue, epg
from mrsim.epg.lineshape import absorption
from mrsim.tree import replace

linalg = pytest.importorskip("scipy.linalg")

AMIDE = Exchange(T1=1.0, T2=0.01, f=0.01, k=0.3, df=447.0)
WATER = Tissue(T1=1.3, T2=0.08)
TISSUE = Tissue(T1=1.3, T2=0.08, B1=0.9, df=12.0, exchange=AMIDE)
SEQ = epg.CEST(
    offset=[-900.0, -447.0, 0.0, 30.0, 447.0, 800.0], amplitude=300.0, duration=1.5
)


def test_continuous_waves_reach_the_steady_state_of_bloch() -> None:
    seq = replace(SEQ, duration=torch.tensor(40.0))
    w = 2 * math.pi * seq.offset
    line = 1 + (w * 0.08) ** 2
    wanted = line / (line + seq.amplitude**2 * 1.3 * 0.08)
    assert (epg.cest(WATER, seq) - wanted).abs().max() < 1e-10


def independent(seq: epg.CEST, offset: float, bound: Bound | None) -> float:
    """Return Z of water by scipy's matrix exponential, written out for two pools."""
    T1, T2 = np.array([1.3, 1.0]), np.array([0.08, 0.01])
    fb = 0.0 if bound is None else float(bound.f)
    f = np.array([0.99 - fb, 0.01])
    k = np.array([0.3, 0.3 * f[0] / f[1]])  # out of each pool
    df = 12.0 + np.array([0.0, 447.0]) - offset
    times = float(seq.duration), 0.0 if seq.pause is None else float(seq.pause)
    samples = [1.0] if seq.shape is None else seq.shape.tolist()

    def step(amplitude: float, time: float) -> np.ndarray:
        A = np.zeros((9, 9)) if bound is not None else np.zeros((7, 7))
        for i in range(2):
            x, y, z, other = 3 * i, 3 * i + 1, 3 * i + 2, 3 * (1 - i)
            for c, R in ((x, 1 / T2[i]), (y, 1 / T2[i]), (z, 1 / T1[i])):
                A[c, c] -= R + k[i]
                A[other + c % 3, c] += k[i]
            A[x, y], A[y, x] = -2 * np.pi * df[i], 2 * np.pi * df[i]
            A[y, z], A[z, y] = -amplitude, amplitude
            A[z, -1] = f[i] / T1[i]
        if bound is not None:
            there, back = float(bound.k), float(bound.k) * f[0] / fb
            T2b = torch.tensor(float(bound.T2))
            G = absorption(torch.tensor(offset), T2b, "superlorentzian")
            W = np.pi * amplitude**2 * float(G)
            A[2, 2] -= there
            A[6, 2] += there
            A[6, 6] -= back + 1 / float(bound.T1) + W
            A[2, 6] += back
            A[6, -1] = fb / float(bound.T1)
            A[7, 7] = -1.0  # not used
        return linalg.expm(A * time)

    M = np.zeros(9 if bound is not None else 7)
    M[2], M[5], M[-1] = f[0], f[1], 1.0
    if bound is not None:
        M[6] = fb
    for n in range(seq.pulses):
        if n:
            M = step(0.0, times[1]) @ M
        for s in samples:
            M = step(0.9 * float(seq.amplitude) * s, times[0] / len(samples)) @ M
    return M[2] / f[0]


TRAIN = replace(
    SEQ,
    duration=torch.tensor(0.05),
    pause=torch.tensor(0.02),
    shape=torch.tensor([0.3, 1.0, 0.6]),
    pulses=6,
)


@pytest.mark.parametrize("seq", [SEQ, TRAIN], ids=["cw", "pulsed"])
@pytest.mark.parametrize("semisolid", [False, True], ids=["free", "bound"])
def test_spectrum_is_that_of_an_independent_solution(
    seq: epg.CEST, semisolid: bool
) -> None:
    bound = Bound(f=0.08, k=4.0, T1=1.0, T2=10e-6) if semisolid else None
    made = epg.cest(replace(TISSUE, bound=bound), seq)
    wanted = [independent(seq, x, bound) for x in seq.offset.tolist()]
    assert (made - torch.tensor(wanted)).abs().max() < 1e-10


def test_exchange_is_seen_at_the_pools_offset() -> None:
    """The asymmetry tells of the pool, and vanishes without exchange."""
    z = epg.cest(replace(TISSUE, df=None), SEQ)
    assert z[1] - z[4] > 0.02
    apart = replace(AMIDE, k=torch.tensor(0.0))
    z = epg.cest(replace(TISSUE, df=None, exchange=apart), SEQ)
    assert (z[1] - z[4]).abs() < 1e-10
    assert (z - epg.cest(replace(WATER, B1=torch.tensor(0.9)), SEQ)).abs().max() < 1e-10


def test_irradiation_far_away_does_nothing() -> None:
    seq = replace(SEQ, offset=torch.tensor([2e5, -2e5]))
    assert (epg.cest(TISSUE, seq) - 1).abs().max() < 1e-4
    off = replace(SEQ, amplitude=torch.tensor(0.0))
    assert (epg.cest(TISSUE, off) - 1).abs().max() < 1e-11


def test_derivatives() -> None:
    names = ("T1", "exchange.k", "exchange.f", "exchange.df", "B1", "amplitude")
    forward = mrsim.jac(epg.cest, *names)(TISSUE, TRAIN)
    reverse = mrsim.jac(epg.cest, *names, mode="reverse")(TISSUE, TRAIN)
    h = 1e-6

    def at(k: float) -> torch.Tensor:
        exchange = replace(AMIDE, k=torch.tensor(0.3 + k))
        return epg.cest(replace(TISSUE, exchange=exchange), TRAIN)

    slope = (at(h) - at(-h)) / (2 * h)
    for made in (forward, reverse):
        assert (made[0].exchange.k - slope).abs().max() < 1e-6
    assert (forward[1].amplitude - reverse[1].amplitude).abs().max() < 1e-12

    def f(B1: torch.Tensor) -> torch.Tensor:
        return epg.cest(replace(TISSUE, B1=B1), SEQ).square().sum()

    many = torch.tensor([0.8, 0.9])
    wanted = torch.stack([jacrev(jacfwd(f))(x) for x in many])
    assert (vmap(hessian(f))(many) - wanted).abs().max() < 1e-9


def test_what_is_unknown_is_refused() -> None:
    with pytest.raises(ValueError, match="T2p"):
        epg.cest(replace(WATER, T2p=torch.tensor(0.1)), SEQ)
    with pytest.raises(ValueError, match="pulses must be a whole number"):
        epg.cest(WATER, replace(SEQ, pulses=0))
    with pytest.raises(ValueError, match=r"offset must have shape \(offset\)"):
        epg.cest(WATER, replace(SEQ, offset=SEQ.offset[0]))
