"""Steady states: equal to thousands of repetitions, with their derivatives."""

import pytest
import torch
from torch.func import hessian, jacfwd, jacrev, vmap

import mrsim
from mrsim import Bound, Exchange, Tissue, epg
from mrsim.tree import replace, tree_leaves
from mrsim.units import deg, ms

GREY = Tissue(T1=0.3, T2=0.06, M0=1.2, B1=0.9, df=11.0)
WATER = Tissue(T1=0.3, T2=0.06, D=2e-3, v=2.0)
POOLS = Exchange(T1=0.25, T2=0.02, f=0.2, k=10.0, df=30.0)
SOLID = Bound(f=0.1, k=4.0, T1=0.4, T2=11e-6, T1D=6 * ms)
MIXED = replace(GREY, exchange=POOLS, bound=SOLID)
PLAIN = replace(MIXED, bound=replace(SOLID, T1D=None))

BALANCED = epg.bssfp_program(epg.BSSFP(flip=[40 * deg] * 2, TR=5 * ms))
UNBALANCED = replace(
    epg.fisp_program(epg.FISP(flip=[30 * deg], TR=8 * ms, TE=2 * ms)), states=60
)
DESS = epg.dess_program(
    epg.DESS(flip=30 * deg, TR=10 * ms, TE=2 * ms, moment=20.0, states=60)
)
DWSSFP = epg.dwssfp_program(
    epg.DWSSFP(
        flip=35 * deg, TR=25 * ms, TE=20 * ms, delta=8 * ms, moment=40.0, states=25
    )
)
TRAIN = epg.fse_program(
    epg.FSE(flip=[120 * deg] * 4, esp=8 * ms, TR=100 * ms, states=40)
)
MP2RAGE = epg.mp2rage_program(
    epg.MP2RAGE(
        flip=[4 * deg, 6 * deg], TI=[0.1, 0.3], TR=8 * ms, cycle=0.6, shots=(4, 5)
    )
)
RICH = replace(UNBALANCED, states=25, moment=torch.tensor([20.0]))
RICH = replace(RICH, power=torch.tensor([2e3, 0.0]), offset=torch.tensor([1e3, 0.0]))


@pytest.mark.parametrize(
    ("tissue", "program", "times"),
    [
        pytest.param(GREY, BALANCED, 1000, id="bssfp"),
        pytest.param(GREY, UNBALANCED, 2000, id="fisp"),
        pytest.param(WATER, DESS, 1500, id="dess"),
        pytest.param(WATER, DWSSFP, 600, id="dwssfp"),
        pytest.param(GREY, TRAIN, 120, id="fse"),
        pytest.param(GREY, MP2RAGE, 30, id="mp2rage"),
        pytest.param(PLAIN, BALANCED, 1500, id="bssfp-pools"),
        pytest.param(MIXED, RICH, 1500, id="fisp-pools"),
    ],
)
def test_thousands_of_repetitions(
    tissue: Tissue, program: epg.Program, times: int
) -> None:
    state = epg.steady(tissue, program)
    made = epg.run(tissue, program, state)
    chunk = min(times, 50)
    left = epg.evolve(tissue, epg.silent(program))[1]
    block = epg.concat(*(epg.silent(program),) * chunk)
    for _ in range(times // chunk):
        left = epg.evolve(tissue, block, left)[1]
    explicit = epg.run(tissue, program, left)
    assert (made - explicit).abs().max() < 1e-10
    after = epg.evolve(tissue, program, state)[1]
    K = state.Z.shape[-1] - 1
    assert (after.Z[..., : K + 1] - state.Z).abs().max() < 1e-12


def test_truncation_converges() -> None:
    few, some, many = (
        epg.run(GREY, p, epg.steady(GREY, p))
        for p in (replace(UNBALANCED, states=n) for n in (4, 60, 120))
    )
    assert (some - many).abs().max() < 1e-12
    assert (few - many).abs().max() > 1e-6


def signal(tissue: Tissue, seq: epg.DESS) -> torch.Tensor:
    return torch.view_as_real(epg.dess(tissue, seq))


SMALL = epg.DESS(flip=30 * deg, TR=10 * ms, TE=2 * ms, states=5)


def test_derivatives_are_implicit_and_exact() -> None:
    """The derivative of the fixed point equals that of many repetitions."""
    names = ("T1", "T2", "df", "B1", "flip", "TR", "TE")
    forward = mrsim.jac(epg.dess, *names)(GREY, SMALL)
    reverse = mrsim.jac(epg.dess, *names, mode="reverse")(GREY, SMALL)
    program = epg.dess_program(SMALL)

    def repeated(tissue: Tissue, seq: epg.DESS) -> torch.Tensor:
        program = epg.dess_program(seq)
        many = epg.concat(*(epg.silent(program),) * 600, program)
        return epg.run(tissue, many)

    unrolled = mrsim.jac(repeated, *names)(GREY, SMALL)
    assert program.states == 5
    for a, b, c in zip(*map(tree_leaves, (forward, reverse, unrolled)), strict=True):
        size = b.abs().max() + 1e-9
        assert (a - b).abs().max() < 1e-11 * size
        assert (a - c).abs().max() < 1e-7 * size


def test_second_derivatives_under_every_map() -> None:
    def f(T2: torch.Tensor, flip: torch.Tensor) -> torch.Tensor:
        seq = replace(SMALL, flip=flip)
        return signal(replace(GREY, T2=T2), seq).square().sum()

    T2, flip = torch.tensor([0.05, 0.06, 0.08]), torch.tensor([0.3, 0.5, 0.4])
    wanted = [hessian(f, (0, 1))(a, b) for a, b in zip(T2, flip, strict=True)]
    for second in (
        vmap(hessian(f, (0, 1))),
        vmap(jacrev(jacrev(f, (0, 1)), (0, 1))),
        vmap(jacfwd(jacfwd(f, (0, 1)), (0, 1))),
    ):
        made = second(T2, flip)
        for i in range(2):
            for j in range(2):
                loop = torch.stack([w[i][j] for w in wanted])
                assert (made[i][j] - loop).abs().max() < 1e-9 * loop.abs().max()
    h = 1e-5
    slope = jacrev(f, 1)
    rise = (slope(T2[0], flip[0] + h) - slope(T2[0], flip[0] - h)) / (2 * h)
    assert (rise - wanted[0][1][1]).abs() < 1e-6


def test_one_bad_voxel_is_alone() -> None:
    T2 = torch.tensor([0.05, float("nan"), 0.08])
    made = vmap(lambda x: signal(replace(GREY, T2=x), SMALL))(T2)
    assert made[1].isnan().any()
    for i in (0, 2):
        alone = signal(replace(GREY, T2=T2[i]), SMALL)
        assert (made[i] - alone).abs().max() < 1e-13


def test_endless_orders_are_refused() -> None:
    endless = replace(UNBALANCED, states=None)
    with pytest.raises(ValueError, match="say how many to keep"):
        epg.steady(GREY, endless)
    spoiled = epg.concat(endless, epg.wait(1 * ms, spoil=True))
    assert epg.steady(GREY, spoiled).Z.shape == (1,)
    triple = replace(BALANCED, layout=(epg.Event(pulse=True, shift=(1, 0, 0)),) * 4)
    with pytest.raises(ValueError, match="three axes"):
        epg.steady(GREY, triple)
    with pytest.raises(ValueError, match="T2p"):
        epg.steady(replace(GREY, T2p=torch.tensor(0.05)), BALANCED)


def test_shifts_that_cancel_wind_up_nothing() -> None:
    """A rewound gradient leaves one order, and a balanced steady state."""
    pulse = epg.Event(pulse=True, shift=2, read=True)
    rows = (pulse, epg.Event(shift=-2), pulse._replace(quadrant=2), epg.Event(shift=-2))
    wound = replace(BALANCED, layout=rows)
    assert epg.steady(GREY, wound).Z.shape == (1,)
