"""Refinement finds what lies between the atoms, within bounds."""

import pytest
import torch
from match_models import TIMES, atoms, noisy, signal, turning

from mrsim import Tissue, match


@pytest.mark.parametrize("f", [signal, turning])
@pytest.mark.parametrize("rank", [None, 12])
def test_parameters_between_atoms_are_found(f, rank) -> None:
    d = match.dictionary(f, atoms(800), TIMES, rank=rank)
    other = atoms(40, seed=9)
    true = other.at(torch.arange(40))
    data = noisy(d._replace(atoms=other), torch.arange(40), 0.0)
    found = match.match(d, data)
    made = match.refine(d, found, data, "T1", "T2", steps=6)
    wide = {"T1": (0.15, 5.0), "T2": (0.015, 0.6)}
    made = match.refine(d, found, data, "T1", "T2", steps=6, bounds=wide)
    if rank is None or f is signal:
        torch.testing.assert_close(made.params.T1, true.T1, rtol=1e-5, atol=0)
        torch.testing.assert_close(made.params.T2, true.T2, rtol=1e-5, atol=0)
    assert (made.score >= found.score).all()
    first = match.refine(d, found, data, "T1", "T2", steps=1, bounds=wide)
    gaps = [
        (p.T2 / true.T2).log().abs().median()
        for p in (match.params(d.atoms, found.index), first.params)
    ]
    assert gaps[1] < 0.2 * gaps[0]


def test_refinement_minimises_the_distance_in_noise() -> None:
    d = match.dictionary(signal, atoms(2000), TIMES, rank=10)
    data = noisy(d, torch.arange(0, 2000, 67), 0.05)
    found = match.match(d, data)
    made = match.refine(d, found, data, "T1", "T2", steps=8)
    v = match.compress(d, data)

    def misfit(x):
        s = signal(Tissue(T1=x[:, 0], T2=x[:, 1]), TIMES[:, None]).mT
        c = match.compress(d, s).to(v.dtype)
        inner = (c.conj() * v).sum(1)
        return 1 - inner.abs().square() / c.abs().square().sum(
            1
        ) / v.abs().square().sum(1)

    x = torch.stack([made.params.T1, made.params.T2], 1)
    slope = torch.func.jacrev(lambda x: misfit(x).sum())(x) * x
    inside = (x > torch.tensor([0.201, 0.0201])) & (x < torch.tensor([3.99, 0.499]))
    assert inside.all(1).float().mean() > 0.8
    assert slope[inside.all(1)].abs().max() < 1e-6
    torch.testing.assert_close(1 - made.score**2, misfit(x), rtol=1e-8, atol=1e-12)


def test_bounds_hold_and_bad_voxels_stay_out() -> None:
    d = match.dictionary(signal, atoms(500, torch.float32), TIMES.float(), rank=10)
    data = noisy(d, torch.arange(20), 0.5).reshape(4, 5, -1)
    data[1, 1, 3] = torch.nan
    with pytest.warns(UserWarning, match="1 of 20"):
        found = match.match(d, data)
    tight = {"T2": (0.09, 0.11)}
    made = match.refine(d, found, data, "T1", "T2", bounds=tight)
    assert made.params.T1.shape == (4, 5)
    assert made.params.T1.dtype == torch.float32
    moved = made.score > found.score
    here = made.params.T2[moved]
    assert ((here >= 0.0899) & (here <= 0.1101)).all()
    assert made.params.T1[1, 1].isnan()
    assert made.score[1, 1].isnan()
    assert made.params.T2.isnan().sum() == 1
    with pytest.raises(ValueError, match="bounds"):
        match.refine(d, found, data, "T1", bounds=tight)
    with pytest.raises(ValueError, match="scalar fields"):
        match.refine(d, found, data)
    for name, message in (("T9", "no argument has a field"), ("df", "scalar fields")):
        with pytest.raises(ValueError, match=message):
            match.refine(d, found, data, name)
