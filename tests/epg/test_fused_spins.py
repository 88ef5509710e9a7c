"""The fused engine takes any number of spins, any values, and little memory."""

import itertools
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from both_paths import agree, on_torch
from cases import FULL, PLAIN, STILL, TRAIN, TWO, _mixed
from torch import Tensor
from torch.func import grad, jacfwd, jacrev, jvp, vmap

import mrsim
from mrsim import Tissue, epg
from mrsim.epg.kernels import call, family, passes
from mrsim.tree import replace, tree_leaves, tree_map
from mrsim.units import deg, ms

if epg.engine_info().path != "fused":
    pytest.skip("no compiled kernel here", allow_module_level=True)

MIXED = _mixed()


def _voxels(count: int, dtype: torch.dtype = torch.float64) -> Tissue:
    share = torch.linspace(0.0, 1.0, count, dtype=dtype)
    return Tissue(T1=0.5 + share, T2=0.04 + 0.06 * share, B1=0.8 + 0.4 * share)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("count", [1, 7, 8, 9, 4001])
def test_any_number_of_spins_and_threads(count: int, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        tissue = _voxels(count)

        def power(t: Tissue, s: epg.FSE) -> Tensor:
            return vmap(epg.fse, (0, None))(t, s).real.square().sum()

        train = epg.FSE(flip=torch.full((40,), 2.0), esp=torch.tensor(5 * ms))
        agree(power(tissue, train), on_torch(power, tissue, train))
        made = grad(power, (0, 1))
        agree(made(tissue, train), on_torch(made, tissue, train))
        assert all(map(torch.equal, *map(tree_leaves, [made(tissue, train)] * 2)))
    finally:
        torch.set_num_threads(before)


def test_states_that_do_not_fit_are_found_again_stretch_by_stretch() -> None:
    """Ten MB of them a block of spins: three stretches on the way back."""
    flip = 2.4 + 0.4 * torch.linspace(0.0, 40.0, 640).sin()
    train = epg.FSE(flip=flip, esp=torch.tensor(3 * ms))
    tissue, slow = _voxels(2), replace(_voxels(2), T1=torch.ones(2))

    def ends(t: Tissue, s: epg.FSE) -> Tensor:
        return vmap(epg.fse, (0, None))(t, s).real[:, (1, 300, 639)]

    def along(t: Tissue, s: epg.FSE) -> Tensor:
        return jvp(ends, (t, s), (slow, s))[1].square().sum()

    for made in (jacrev(ends, (0, 1)), grad(along, (0, 1))):
        agree(made(tissue, train), on_torch(made, tissue, train), 1e-10)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("count", [15, 16, 17, 33, 130])
def test_spins_beside_each_other_in_single_precision(count: int, shared: bool) -> None:
    tissue = _voxels(count, torch.float32)
    far = torch.arange(count) == count - 2  # angles beyond what is reduced quickly
    tissue = replace(tissue, B1=tissue.B1.where(~far, 3e4))
    flip = torch.linspace(1.0, 3.0, 40, dtype=torch.float32)
    if not shared:
        flip = flip * torch.linspace(0.9, 1.1, count, dtype=torch.float32)[:, None]
    train = epg.FSE(flip=flip, esp=torch.tensor(5e-3, dtype=torch.float32))

    def played(t: Tissue, s: epg.FSE) -> Tensor:
        if shared:
            return vmap(epg.fse, (0, None))(t, s)
        return vmap(lambda t, x: epg.fse(t, replace(s, flip=x)))(t, s.flip)

    made = played(tissue, train)
    agree(made, on_torch(played, tissue, train), 3e-6)
    few = tree_map(lambda x: x[-3:], tissue)
    last = train if shared else replace(train, flip=flip[-3:])
    assert torch.equal(played(few, last), made[-3:])


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf, 0.0, 1e-30, 1e30])
def test_a_strange_spin_changes_only_itself(bad: float) -> None:
    tissue = _voxels(19)
    hole = torch.arange(19) == 11
    train = epg.FSE(flip=torch.full((20,), 2.0), esp=torch.tensor(5 * ms))
    jac = mrsim.jac(epg.fse, "T1", "T2", "B1")
    back = mrsim.jac(epg.fse, "T1", "T2", "B1", mode="reverse")
    for name in ("T1", "T2", "B1"):
        other = replace(tissue, **{name: getattr(tissue, name).where(~hole, bad)})
        for f in (epg.fse, jac, back):
            made, wanted = (vmap(f, (0, None))(t, train) for t in (other, tissue))
            for a, b in zip(tree_leaves(made), tree_leaves(wanted), strict=True):
                assert torch.equal(a[~hole], b[~hole])
        value = vmap(epg.fse, (0, None))
        made, wanted = (
            value(other, train)[11].real,
            on_torch(value, other, train)[11].real,
        )
        if (name, bad) == ("T1", 0.0):  # the limit, where the torch path has NaN
            assert made.isfinite().all()
        else:
            assert torch.equal(made.isfinite(), wanted.isfinite())


@pytest.mark.parametrize("angle", [0.0, 1e-9, 3.0, 50.0, 2e4, 3e6, -1e5])
def test_angles_of_any_size(angle: float) -> None:
    tolerance = 1e-12 + 2e-15 * abs(angle)  # of the angles' own sums
    program = replace(MIXED, phase=MIXED.phase + angle, demod=MIXED.demod + angle)
    agree(epg.run(FULL, program), on_torch(epg.run, FULL, program), tolerance)
    flip = replace(MIXED, flip=MIXED.flip + angle)
    agree(epg.run(FULL, flip), on_torch(epg.run, FULL, flip), 1e-12)


def test_relaxation_of_any_size() -> None:
    scales = 10.0 ** torch.arange(-12.0, 13.0)
    tissue = Tissue(T1=0.9 * scales, T2=0.08 * scales)
    f = vmap(epg.fse, (0, None))
    agree(f(tissue, TRAIN), on_torch(f, tissue, TRAIN), 1e-13)
    made = vmap(mrsim.jac(epg.fse, "T1", "T2"), (0, None))
    agree(made(tissue, TRAIN), on_torch(made, tissue, TRAIN), 1e-11)


def test_batches_of_more_axes_than_a_kernel_counts() -> None:
    deep = (1, 2, 1, 1, 2, 1, 2, 1)
    T2 = torch.linspace(0.05, 0.12, 8).reshape(deep)

    def power(T2: Tensor, B1: Tensor) -> Tensor:
        f = lambda T2: epg.fse(replace(PLAIN, T2=T2, B1=B1), TRAIN).real  # noqa: E731
        for _ in deep:
            f = vmap(f)
        return f(T2).square().sum()

    assert len(deep) > call.AXES
    made = grad(power, (0, 1))
    agree(made(T2, torch.tensor(0.9)), on_torch(made, T2, torch.tensor(0.9)))


def test_what_is_not_mapped_is_not_copied() -> None:
    seen: list[tuple[int, ...]] = []
    walk = call.walk

    def watched(physics: Any, table: Any, arrays: Any, *rest: Any) -> None:
        seen.extend(tuple(a.tensor.shape) for a in arrays if a.name == 0)
        walk(physics, table, arrays, *rest)

    call.walk = watched
    try:
        vmap(epg.fse, (0, None))(_voxels(9), TRAIN)
        vmap(mrsim.jac(epg.fse, "T2"), (0, None))(_voxels(9), TRAIN)
    finally:
        call.walk = walk
    assert seen
    assert {shape[-1] for shape in seen} == {1}


@pytest.mark.parametrize(
    ("names", "phased"), [(("M0", "T2", "B1"), False), (("M0", "df", "T1"), True)]
)
def test_tangents_that_move_little_are_the_torch_path(
    names: tuple[str, ...], phased: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kernels of large problems know which coefficients each tangent moves."""
    monkeypatch.setattr(passes, "_WORTH", 0)
    tissue = replace(_voxels(11), M0=torch.linspace(0.5, 2.0, 11))
    if phased:
        tissue = replace(tissue, df=torch.linspace(-9.0, 20.0, 11))
    phase = torch.linspace(0.0, 0.4, 6) if phased else None
    train = epg.FSE(flip=torch.linspace(2, 3, 6), esp=torch.tensor(5 * ms), phase=phase)

    def both(t: Tissue, s: epg.FSE) -> Any:
        return vmap(mrsim.value_and_jac(epg.fse, *names), (0, None))(t, s)

    def power(t: Tissue, s: epg.FSE) -> Tensor:
        weights = (torch.cos(torch.arange(y.numel())) for y in tree_leaves(both(t, s)))
        parts = zip(tree_leaves(both(t, s)), weights, strict=True)
        return sum((w.view(y.shape) * (y.abs() ** 2)).sum() for y, w in parts)

    agree(both(tissue, train), on_torch(both, tissue, train))
    made = grad(power, (0, 1))
    agree(made(tissue, train), on_torch(made, tissue, train), 1e-10)


def test_many_tangents_are_a_few_walks() -> None:
    count = 0
    walk = call.walk

    def counted(*args: Any) -> None:
        nonlocal count
        count += 1
        walk(*args)

    call.walk = counted
    try:
        jacfwd(lambda flip: epg.fse(STILL, replace(TRAIN, flip=flip)).real)(TRAIN.flip)
        forward, count = count, 0
        jacrev(lambda flip: epg.fse(STILL, replace(TRAIN, flip=flip)).real)(TRAIN.flip)
    finally:
        call.walk = walk
    assert forward == -(-len(TRAIN.flip) // call.MOST)  # the first gives the value too
    assert count == 2


def test_pools_in_chunks_are_pools_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    many = tree_map(
        lambda x: torch.stack([x * s for s in torch.linspace(0.9, 1.1, 150)]),
        replace(STILL, exchange=TWO),
    )

    def power(t: Tissue, s: epg.FSE) -> Tensor:
        return vmap(epg.fse, (0, None))(t, s).abs().square().sum()

    made = grad(power, (0, 1))
    whole = made(many, TRAIN)
    monkeypatch.setattr(family, "_CHUNK", 1)  # 64 voxels each
    agree(made(many, TRAIN), whole, 1e-12)
    value = vmap(epg.fse, (0, None))
    agree(value(many, TRAIN), on_torch(value, many, TRAIN), 1e-12)


@pytest.mark.parametrize("tissue", [STILL, replace(STILL, exchange=TWO)])
def test_no_spins_at_all(tissue: Tissue) -> None:
    none = tree_map(lambda x: x.new_zeros(0, *x.shape), tissue)

    def power(t: Tissue, s: epg.FSE) -> Tensor:
        return vmap(epg.fse, (0, None))(t, s).abs().square().sum()

    assert vmap(epg.fse, (0, None))(none, TRAIN).shape == (0, len(TRAIN.flip))
    made = grad(power, (0, 1))(none, TRAIN)
    assert made[0].T2.shape == (0,)
    assert not made[1].flip.any()


@pytest.mark.skipif(
    not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="no large pages"
)
def test_large_answers_lie_in_large_pages() -> None:
    x = call.empty(torch.zeros(1), (2**23,), torch.float32)
    assert x.shape == (2**23,)
    middle = x.data_ptr() + x.nbytes // 2
    told = Path("/proc/self/smaps").read_text().split("\nVmFlags:")
    for head, flags in itertools.pairwise(told):
        *_, place = re.findall(r"^([0-9a-f]+)-([0-9a-f]+) ", head, re.MULTILINE)
        first, last = (int(x, 16) for x in place)
        if first <= middle < last:
            assert "hg" in flags.split("\n")[0].split()
            return
    raise AssertionError("memory that is nowhere")


def test_flips_in_degrees_are_not_needed() -> None:
    """Readings of a train of 180° pulses decay with T2 alone."""
    train = epg.FSE(flip=[180 * deg] * 200, esp=5 * ms)
    echoes = torch.arange(1, 201) * 5 * ms
    agree(epg.fse(PLAIN, train).real, torch.exp(-echoes / PLAIN.T2), 1e-12)
