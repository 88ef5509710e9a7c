"""Sequences played until nothing changes."""

import torch

from mrsim import Exchange, Tissue, epg
from mrsim.tree import replace
from mrsim.units import deg, ms


def test_spread_of_frequencies_acts_on_all_pools_alike() -> None:
    """Free induction decays of exchanging pools lose exp(-TE/T2′) each."""
    pool = Exchange(T1=0.4, T2=0.02, f=0.25, k=8.0, df=50.0)
    tissue = Tissue(T1=0.9, T2=0.08, B1=0.9, exchange=pool)
    spread = replace(tissue, T2p=torch.tensor(0.03))
    seq = epg.MGRE(flip=20 * deg, TR=20 * ms, TE=[2 * ms, 5 * ms, 9 * ms])
    wanted = epg.mgre(tissue, seq) * torch.exp(-seq.TE / 0.03)
    torch.testing.assert_close(epg.mgre(spread, seq), wanted, rtol=1e-12, atol=1e-12)
