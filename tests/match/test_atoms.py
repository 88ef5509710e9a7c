"""Designs of dictionaries: what their atoms are, from the index alone."""

import math

import pytest
import torch
from torch.quasirandom import SobolEngine

import mrsim
from mrsim import Tissue, match

BASE = Tissue(T1=1.0, T2=0.1)
RANGES = {"T1": (0.1, 5.0), "T2": (0.01, 2.0)}


def test_grid_is_that_of_mrsim() -> None:
    axes = {"T1": [0.5, 1.0, 2.0], "T2": [0.05, 0.1], "B1": [0.8, 1.0, 1.2, 1.3]}
    atoms, whole = match.grid(BASE, **axes), mrsim.grid(BASE, **axes)
    assert atoms.count == 24
    made, listed = (a.at(torch.arange(24)) for a in (atoms, match.listed(whole)))
    for name in axes:
        assert torch.equal(getattr(made, name), getattr(whole, name))
        assert torch.equal(getattr(listed, name), getattr(whole, name))


def test_huge_grid_costs_nothing() -> None:
    axis = torch.linspace(0.1, 1.0, 3000)
    atoms = match.grid(BASE, T1=axis, T2=axis, B1=axis)
    assert atoms.count == 27 * 10**9
    last = atoms.at(torch.tensor([atoms.count - 1, 3000]))
    assert last.T1.tolist() == [axis[-1], axis[0]]
    assert last.T2.tolist() == [axis[-1], axis[1]]


@pytest.mark.parametrize("design", [match.sobol, match.latin])
def test_atoms_follow_from_their_index(design) -> None:
    atoms = design(BASE, 10**9, log=("T1",), seed=3, **RANGES)
    index = torch.randint(10**9, (50,), generator=torch.Generator().manual_seed(0))
    many, one = atoms.at(index), atoms.at(index[7:8])
    assert torch.equal(many.T1[7:8], one.T1)
    assert torch.equal(many.T2[7:8], one.T2)
    for name, (low, high) in RANGES.items():
        x = getattr(many, name)
        assert ((x >= low) & (x <= high)).all()
    other = design(BASE, 10**9, log=("T1",), seed=4, **RANGES).at(index)
    assert not torch.isclose(other.T1, many.T1).any()


def test_sobol_is_the_scrambled_sequence() -> None:
    wanted = SobolEngine(2, scramble=True, seed=5).draw(300, dtype=torch.float64)
    ranges = {"T1": (0.0, 1.0), "T2": (0.0, 1.0)}
    made = match.sobol(BASE, 300, seed=5, **ranges).at(torch.arange(300))
    torch.testing.assert_close(
        torch.stack([made.T1, made.T2], 1), wanted, atol=1e-9, rtol=0
    )


@pytest.mark.parametrize("count", [1, 2, 97, 1000])
def test_latin_has_one_atom_in_each_slice(count: int) -> None:
    atoms = match.latin(BASE, count, log=("T1",), T1=(0.1, 10.0), T2=(0.0, 1.0))
    made = atoms.at(torch.arange(count))
    places = {
        "T1": (made.T1 / 0.1).log() / math.log(100.0) * count,
        "T2": made.T2 * count,
    }
    for place in places.values():
        assert torch.equal(place.floor().long().sort().values, torch.arange(count))
    if count > 90:
        pair = torch.corrcoef(torch.stack([*places.values()]))
        assert pair[0, 1].abs() < 4 / count**0.5


def test_parameters_of_matches() -> None:
    atoms = match.grid(BASE, T1=[0.5, 1.0], T2=[0.05, 0.1])
    made = match.params(atoms, torch.tensor([[3, -1], [0, 1]]))
    assert made.T1.shape == (2, 2)
    assert made.T1[0, 0] == 1.0
    assert made.T2[0, 1].isnan()
    assert made.T2[1].tolist() == [0.05, 0.1]


@pytest.mark.parametrize(
    ("ranges", "log"),
    [
        ({"T3": (0.1, 1.0)}, ()),
        ({"T1": (2.0, 1.0)}, ()),
        ({"T1": (0.0, 1.0)}, ("T1",)),
        ({"T1": (0.1, 1.0)}, ("T2",)),
    ],
)
def test_impossible_ranges_are_refused(ranges, log) -> None:
    with pytest.raises(ValueError, match="match:"):
        match.latin(BASE, 10, log=log, **ranges)


def test_a_dictionary_has_atoms() -> None:
    with pytest.raises(ValueError, match="no values"):
        match.grid(BASE, T1=[0.5, 1.0], T2=[])
    for count, ranges in ((0, {"T1": (0.1, 1.0)}), (5, {})):
        with pytest.raises(ValueError, match="at least one atom"):
            match.latin(BASE, count, **ranges)


def test_sobol_says_when_it_is_exhausted() -> None:
    with pytest.raises(ValueError, match="latin"):
        match.sobol(BASE, 2**30 + 1, T1=(0.1, 1.0))


def test_records_are_no_atoms() -> None:
    batch = mrsim.grid(mrsim.Tissue(T1=1.0, T2=0.1), T2=[0.1, 0.2])
    with pytest.raises(TypeError, match=r"atoms must come from match\.grid"):
        match.dictionary(lambda tissue: tissue.T2[None], batch)
