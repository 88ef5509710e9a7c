"""The match is that of trying every atom in double precision, however it is cut."""

import pytest
import torch
from match_models import TIMES, atoms, noisy, signal, turning
from torch import Tensor

from mrsim import match, shard
from mrsim.match.groups import groups


def brute(d: match.Dictionary, data: Tensor, top: int = 1) -> Tensor:
    """Return cos² of every atom, sorted: (values, indices) of the best."""
    c = match.coefs(d, torch.arange(d.atoms.count)).to(torch.complex128)
    v = match.compress(d, data).to(torch.complex128)
    made = (v @ c.mH).abs().square() / c.abs().square().sum(1)
    made = made / v.abs().square().sum(1, keepdim=True)
    return made.nan_to_num(-1.0).topk(top)


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.3, 3.0])
@pytest.mark.parametrize("f", [signal, turning])
@pytest.mark.parametrize("rank", [None, 8])
def test_match_is_that_of_trying_all(f, rank, noise: float) -> None:
    d = match.dictionary(f, atoms(5000), TIMES, rank=rank)
    assert d.real == (f is signal)
    true = torch.arange(0, 5000, 41)
    data = noisy(d, true, noise)
    found = match.match(d, data)
    value, index = brute(d, data)
    assert torch.equal(found.index, index[:, 0])
    torch.testing.assert_close(found.score**2, value[:, 0], rtol=1e-12, atol=1e-12)
    if noise == 0:
        assert torch.equal(found.index, true)
    back = match.coefs(d, found.index)
    inner = (back.conj() * match.compress(d, data)).sum(1)
    wanted = inner / back.abs().square().sum(1)
    torch.testing.assert_close(found.scale, wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("f", [signal, turning])
def test_float32_finds_the_index_of_float64(f) -> None:
    d = match.dictionary(f, atoms(12_000, torch.float32), TIMES.float(), rank=8)
    data = noisy(d, torch.arange(0, 12_000, 67), 0.02)
    assert data.dtype == torch.complex64
    assert torch.equal(match.match(d, data).index, brute(d, data)[1][:, 0])


def test_shards_and_several_best() -> None:
    d = match.dictionary(signal, atoms(3000), TIMES, rank=8)
    data = noisy(d, torch.arange(0, 3000, 31), 0.1)
    whole = match.match(d, data, top=7)
    value, index = brute(d, data, 7)
    assert torch.equal(whole.index, index)
    torch.testing.assert_close(whole.score**2, value, rtol=1e-12, atol=0)
    cut = match.match(d, data, top=7, size=999)
    for a, b in zip(whole, cut, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=0)
    few = match.match(d, data, top=7, size=201)
    assert torch.equal(few.index, index)


def test_most_groups_are_left_out(monkeypatch) -> None:
    from mrsim.match import search

    d = match.dictionary(signal, atoms(12_000), TIMES, rank=8)
    data = noisy(d, torch.arange(0, 12_000, 67), 0.02)
    tried, plain = [], search._tried

    def counted(best, voxels, part, voxel, group):
        tried.append(len(voxel) / (voxels.shape[1] * len(part.cos)))
        return plain(best, voxels, part, voxel, group)

    monkeypatch.setattr(search, "_tried", counted)
    match.match(d, data)
    assert sum(tried) < 0.2


@pytest.mark.parametrize("f", [signal, turning])
def test_groups_hold_every_atom_within_their_radius(f) -> None:
    d = match.dictionary(f, atoms(3001), TIMES, rank=8)
    c = match.coefs(d, torch.arange(3001))
    c[7] = 0
    c[8] = torch.nan
    made = groups(c, 100)
    held = made.index[made.index >= 0]
    wanted = [k + 100 for k in range(3001) if k not in (7, 8)]
    assert held.sort().values.tolist() == wanted
    z = made.unit
    if c.is_complex():
        z = torch.complex(*made.unit.chunk(2, -1))
    centre = made.centre.double()
    if c.is_complex():
        centre = torch.complex(*centre.chunk(2, -1))
    cos = (z @ centre.conj().unsqueeze(-1)).abs()[..., 0]
    assert (
        cos[made.index >= 0]
        >= made.cos.double().repeat_interleave((made.index >= 0).sum(1)) - 1e-6
    ).all()


def test_masks_and_bad_voxels() -> None:
    d = match.dictionary(signal, atoms(500), TIMES, rank=8)
    data = noisy(d, torch.arange(12), 0.0).reshape(3, 4, -1)
    plain = match.match(d, data)
    data[0, 1, 5] = torch.nan
    data[1, 2] = 0
    data[2, 2, 0] = torch.inf
    mask = torch.ones(3, 4, dtype=torch.bool)
    mask[2, 1:] = False
    with pytest.warns(UserWarning, match="2 of 9 voxels"):
        found = match.match(d, data, mask)
    good = mask.clone()
    good[0, 1] = good[1, 2] = False
    assert torch.equal(found.index[good], plain.index[good])
    assert (found.index[~good] == -1).all()
    assert found.score[~good].isnan().all()
    assert found.scale[~good].isnan().all()
    assert match.params(d.atoms, found.index).T1[~good].isnan().all()
    none = match.match(d, data, torch.zeros_like(mask))
    assert none.index.shape == (3, 4)
    assert (none.index == -1).all()
    assert match.match(d, data[:0], top=2).score.shape == (0, 4, 2)


def test_atoms_that_take_no_part() -> None:
    calls = []

    def f(tissue, t: Tensor) -> Tensor:
        calls.append(1)
        return signal(tissue, t)

    kept = atoms(2000, keep=lambda tissue: tissue.T2 < 0.1 * tissue.T1)
    d = match.dictionary(f, kept, TIMES, rank=8)
    data = noisy(d._replace(atoms=atoms(2000)), torch.arange(0, 2000, 11), 0.0)
    found = match.match(d, data, size=300)
    made = match.params(kept, found.index)
    assert (made.T2 < 0.1 * made.T1).all()
    assert torch.equal(found.index, brute(d, data)[1][:, 0])
    none = match.dictionary(signal, kept._replace(keep=lambda x: x.T1 < 0), TIMES)
    assert (match.match(none, data).index == -1).all()


def test_store_and_ranges_of_voxels(tmp_path) -> None:
    d = match.dictionary(signal, atoms(1000, torch.float32), TIMES.float(), rank=8)
    data = noisy(d, torch.arange(0, 1000, 13), 0.05)
    plain = match.match(d, data)
    store = match.build(d, tmp_path / "atoms", size=300)
    assert torch.equal(shard.read(store, "coefs"), match.coefs(d, torch.arange(1000)))
    assert torch.equal(match.match(d, data, store=store).index, plain.index)

    def work(start: int, stop: int) -> dict[str, Tensor]:
        return match.match(d, data[start:stop], store=store)._asdict()

    maps = shard.run(work, len(data), tmp_path / "maps", size=20)
    assert torch.equal(shard.read(maps, "index"), plain.index)
    torch.testing.assert_close(shard.read(maps, "scale"), plain.scale)


def test_wrong_shapes_are_refused() -> None:
    d = match.dictionary(signal, atoms(50), TIMES, rank=3)
    with pytest.raises(ValueError, match="60 samples"):
        match.match(d, torch.ones(2, 59))
    with pytest.raises(ValueError, match="mask"):
        match.match(d, torch.ones(2, 60), mask=torch.ones(3, dtype=torch.bool))
    with pytest.raises(ValueError, match="rank"):
        match.dictionary(signal, atoms(50), TIMES, rank=61)
    with pytest.raises(ValueError, match="top must be at least 1"):
        match.match(d, torch.ones(2, 60), top=0)
    for rank in (None, 3):  # whole numbers would lose the basis and the scores
        whole = match.dictionary(signal, atoms(50), TIMES, rank=rank)
        with pytest.raises(TypeError, match="convert"):
            match.match(whole, torch.ones(2, 60, dtype=torch.int16))
