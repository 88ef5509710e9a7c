"""Bases: the leading directions of all signals, and of what they tell."""

import pytest
import torch
from match_models import TIMES, atoms, signal, turning
from torch.func import vmap

from mrsim import crlb, match


def test_basis_is_that_of_the_singular_value_decomposition() -> None:
    made = match.subspace(signal, atoms(600), TIMES, rank=6)
    s = vmap(signal, (0, None))(atoms(600).at(torch.arange(600)), TIMES)
    unit = s / s.norm(dim=1, keepdim=True)
    wanted = torch.linalg.svd(unit).Vh[:6].mT
    same = made.vectors @ made.vectors.mT - wanted @ wanted.mT
    assert same.abs().max() < 1e-9
    left = 1 - (unit @ wanted).square().sum(1)
    assert made.lost == pytest.approx(float(left.max()), rel=1e-6)


def test_complex_signals_are_kept() -> None:
    made = match.subspace(turning, atoms(400), TIMES, rank=20)
    s = vmap(turning, (0, None))(atoms(400).at(torch.arange(400)), TIMES)
    back = s @ made.vectors @ made.vectors.mH
    share = (s - back).abs().square().sum(1) / s.abs().square().sum(1)
    assert float(share.max()) == pytest.approx(made.lost, rel=1e-6)
    assert made.lost < 0.02


@pytest.mark.parametrize("f", [signal, turning])
def test_basis_keeps_the_bounds(f) -> None:
    rank = 7 if f is signal else 8
    plain = match.subspace(f, atoms(128), TIMES, rank=rank)
    kept = match.subspace(f, atoms(128), TIMES, rank=rank, unknowns=("T1", "T2"))
    assert set(kept.inflation) == {"T1", "T2"}

    def worst(basis: match.Basis) -> dict[str, float]:
        """The same numbers by mrsim.crlb."""

        def whole(tissue, t):
            s = tissue.M0 * f(tissue, t)
            return s if not s.is_complex() else s * torch.exp(1j * tissue.df)

        def short(tissue, t):
            s = whole(tissue, t)
            return s @ basis.vectors.to(s.dtype)

        names = ("T1", "T2")
        others = ["M0", "df"] if f is turning else ["M0"]
        bounds = [
            vmap(crlb(g, *names, nuisance=others, sigma=1.0), (0, None))(
                atoms(128).at(torch.arange(128)), TIMES
            )
            for g in (short, whole)
        ]
        pairs = {n: [getattr(b, n) for b in bounds] for n in names}
        return {n: float((a / b).max()) for n, (a, b) in pairs.items()}

    wanted = worst(kept)
    for name in wanted:
        assert kept.inflation[name] == pytest.approx(wanted[name], rel=1e-5)
    assert max(wanted.values()) - 1 < 0.6 * (max(worst(plain).values()) - 1)
