"""CEST of more pools: what can be lumped, and the order of dipoles."""

import pytest
import torch

from mrsim import Bound, Exchange, Tissue, epg
from mrsim.tree import replace

OFFSETS = [-900.0, -447.0, 30.0, 447.0, 800.0]
SEQ = epg.CEST(offset=OFFSETS, amplitude=300.0, duration=0.8)
AMIDE = Exchange(T1=1.0, T2=0.01, f=0.01, k=0.3, df=447.0)
WATER = Tissue(T1=1.3, T2=0.08, df=12.0)
SOLID = Bound(f=0.1, k=4.0, T1=1.0, T2=11e-6)


def test_two_halves_of_a_pool_are_the_pool() -> None:
    """They do not exchange with each other, and both stand off resonance."""
    half = Exchange(
        T1=[1.0, 1.0],
        T2=[0.01, 0.01],
        f=[0.005, 0.005],
        k=[0.15, 0.15],
        df=[447.0, 447.0],
    )
    made, wanted = (epg.cest(replace(WATER, exchange=x), SEQ) for x in (half, AMIDE))
    torch.testing.assert_close(made, wanted, rtol=1e-10, atol=1e-10)
    assert wanted[3] < 0.9 * wanted[1]


def dipolar(T1D: float | None, offset: float = 3000.0) -> float:
    bound = SOLID if T1D is None else replace(SOLID, T1D=torch.tensor(T1D))
    seq = epg.CEST(offset=[offset], amplitude=600.0, duration=2.0)
    return epg.cest(replace(WATER, bound=bound, df=None), seq).item()


def test_dipoles_without_memory_are_none() -> None:
    """An order that decays at once takes nothing up (Varma 2015)."""
    assert dipolar(1e-6) == pytest.approx(dipolar(None), rel=1e-5)


def test_dipolar_order_holds_saturation_back() -> None:
    made = [dipolar(None), *(dipolar(T) for T in (1e-4, 1e-3, 1e-2))]
    assert made == sorted(made)
    assert made[-1] > made[0] + 0.01
    # what is taken up has the sign of the offset; what is seen has not
    assert dipolar(1e-3, -3000.0) == pytest.approx(dipolar(1e-3), rel=1e-10)
