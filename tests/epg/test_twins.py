"""Configuration states, isochromats and Bloch–Torrey tell the same, whatever is on."""

import split_step
import torch
from hypothesis import given, settings, strategies as st
from strategies import angles
from torch import Tensor
from worlds import World, exchanges, rotation, worlds

from mrsim import Bound, Exchange, Tissue, bloch, epg
from mrsim.tree import replace

few = settings(max_examples=8)


def close(a: Tensor, b: Tensor, tolerance: float, tissue: Tissue) -> None:
    size = 1.0 if tissue.M0 is None else float(tissue.M0)
    assert a.shape == b.shape
    assert a.isfinite().all()
    assert (a - b).abs().max() <= tolerance * size


def t(x: float) -> Tensor:
    return torch.tensor(x)


@settings(max_examples=30)
@given(worlds())
def test_graphs_are_isochromats(world: World) -> None:
    close(epg.run(*world), bloch.run(*world), 1e-10, world[0])


@settings(max_examples=20)
@given(worlds(max_rows=5, diffusion=True, spread=False, wide=False))
def test_graphs_are_bloch_torrey(world: World) -> None:
    close(epg.run(*world), split_step.run(*world), 1e-6, world[0])


@settings(max_examples=6)
@given(worlds(max_rows=3, diffusion=True, spread=False, wide=True))
def test_graphs_are_bloch_torrey_in_three_dimensions(world: World) -> None:
    close(epg.run(*world), split_step.run(*world, steps=2), 1e-6, world[0])


@settings(max_examples=10)
@given(worlds(max_rows=4, apart=True, spread=False))
def test_graphs_are_bloch_torrey_where_pools_move_apart(world: World) -> None:
    tissue, program = world
    program = replace(program, substeps=16)
    wanted = split_step.run(tissue, program, steps=24)
    close(epg.run(tissue, program), wanted, 1e-6, tissue)


@settings(max_examples=10)
@given(worlds(max_rows=5, spread=False))
def test_the_oracles_agree_without_diffusion(world: World) -> None:
    wide = any(isinstance(e.shift, tuple) for e in world[1].layout)
    wanted = split_step.run(*world, steps=1 if wide else 4)
    close(bloch.run(*world), wanted, 1e-6, world[0])


# simpler models are limits ------------------------------------------------------------


def single(tissue: Tissue, pool: int) -> Tissue:
    """Return one free pool by itself."""
    x = tissue.exchange
    assert x is not None
    if pool == 0:
        return replace(tissue, exchange=None)
    df = t(0.0) if tissue.df is None else tissue.df
    df = df if x.df is None else df + x.df[pool - 1]
    return replace(tissue, T1=x.T1[pool - 1], T2=x.T2[pool - 1], df=df, exchange=None)


@few
@given(worlds(diffusion=True, wide=False), exchanges())
def test_without_exchange_pools_add_up(world: World, x: Exchange) -> None:
    tissue, program = world
    tissue = replace(tissue, bound=None, exchange=replace(x, k=0 * x.k))
    parts = [1 - x.f.sum(), *x.f]
    wanted = sum(f * epg.run(single(tissue, i), program) for i, f in enumerate(parts))
    close(epg.run(tissue, program), wanted, 1e-12, tissue)  # pyright: ignore


@few
@given(worlds(diffusion=True, wide=False), exchanges())
def test_fast_exchange_is_one_pool_of_mean_rates(world: World, x: Exchange) -> None:
    tissue, program = world
    tissue = replace(tissue, bound=None)
    df = None if x.df is None else x.df[:1]
    x = Exchange(T1=x.T1[:1], T2=x.T2[:1], f=x.f[:1], k=t(1e9)[None], df=df)
    fast = replace(tissue, exchange=x)
    f = torch.cat([1 - x.f.sum()[None], x.f])
    R1, R2 = (
        (f / torch.cat([a[None], b])).sum()
        for a, b in ((tissue.T1, x.T1), (tissue.T2, x.T2))
    )
    df = t(0.0) if tissue.df is None else tissue.df
    df = df if x.df is None else df + (x.f * x.df).sum()
    mean = replace(tissue, T1=1 / R1, T2=1 / R2, df=df, exchange=None)
    close(epg.run(fast, program), epg.run(mean, program), 1e-5, tissue)


@few
@given(worlds(diffusion=True), exchanges())
def test_pools_can_be_renumbered(world: World, x: Exchange) -> None:
    """The last pool becomes the tissue's own."""
    tissue, program = world
    n = len(x.f)
    pairs = x.pairs or tuple((0, i) for i in range(1, n + 1))
    swap = {0: n, n: 0}
    f0 = 1 - x.f.sum()
    if tissue.bound is not None:
        f0 = f0 - tissue.bound.f.sum()
        ends = tissue.bound.partners or (0,) * len(tissue.bound.f)
        ends = tuple(p % (n + 1) for p in ends)
        bound = replace(tissue.bound, partners=ends)
        moved = replace(bound, partners=tuple(swap.get(p, p) for p in ends))
    else:
        bound = moved = None
    df = t(0.0) if tissue.df is None else tissue.df
    own = 0 * x.f if x.df is None else x.df
    last = own[-1]
    other = Exchange(
        T1=torch.cat([x.T1[:-1], tissue.T1[None]]),
        T2=torch.cat([x.T2[:-1], tissue.T2[None]]),
        f=torch.cat([x.f[:-1], f0[None]]),
        k=x.k,
        df=torch.cat([own[:-1] - last, -last[None]]),
        pairs=tuple((swap.get(a, a), swap.get(b, b)) for a, b in pairs),
        directional=x.directional,
    )
    one = replace(tissue, exchange=x, bound=bound)
    two = replace(
        tissue, T1=x.T1[-1], T2=x.T2[-1], df=df + last, exchange=other, bound=moved
    )
    close(epg.run(one, program), epg.run(two, program), 1e-11, tissue)


@few
@given(worlds(diffusion=True))
def test_directions_of_rates_only_name_them(world: World) -> None:
    """A directional rate k·f_j is the non-directional rate k."""
    tissue, program = world
    x = Exchange(T1=t(0.6), T2=t(0.04), f=t(0.3), k=t(12.0), directional=False)
    other = replace(x, k=x.k * x.f, directional=True)
    solid = Bound(f=t(0.1), k=t(30.0), T1=t(1.0), T2=t(1e-5), directional=False)
    f0 = 1 - x.f - solid.f
    one = replace(tissue, exchange=x, bound=solid)
    two = replace(
        tissue,
        exchange=other,
        bound=replace(solid, k=solid.k * solid.f, directional=True),
    )
    back = replace(other, k=x.k * f0, pairs=((1, 0),))
    three = replace(two, exchange=back)
    wanted = epg.run(one, program)
    for same in (two, three):
        close(epg.run(same, program), wanted, 1e-12, tissue)


@few
@given(worlds(diffusion=True))
def test_a_bound_pool_apart_or_empty_is_absent(world: World) -> None:
    tissue, program = world
    tissue = replace(tissue, exchange=None)
    alone = replace(tissue, bound=None)
    f, one = t(0.15)[None], torch.ones(1)
    for bound, share in (
        (Bound(f=f, k=0 * one, T1=one, T2=1e-5 * one), 0.85),
        (Bound(f=1e-14 * one, k=1e-13 * one, T1=one, T2=1e-5 * one), 1.0),
    ):
        made = epg.run(replace(tissue, bound=bound), program)
        close(made, share * epg.run(alone, program), 1e-12, tissue)


@few
@given(worlds(diffusion=True), st.sampled_from(["lorentzian", "gaussian"]))
def test_lines_of_no_width_and_of_endless_width_absorb_nothing(
    world: World, lineshape: str
) -> None:
    tissue, program = world
    solid = Bound(f=t(0.1), k=t(30.0), T1=t(1.0), T2=t(1e-5))
    program = replace(
        program,
        power=torch.full_like(program.flip, 1e4),
        offset=torch.full_like(program.flip, 2e3),
    )
    dark = replace(program, power=None)
    wanted = epg.run(replace(tissue, bound=solid), dark)
    for T2, shape in ((1e-18, "superlorentzian"), (1e-18, lineshape), (1e9, lineshape)):
        here = replace(solid, T2=t(T2), lineshape=shape)
        made = epg.run(replace(tissue, bound=here), program)
        close(made, wanted, 1e-10, tissue)
    bright = epg.run(replace(tissue, bound=solid), program)
    assert (bright - wanted).isfinite().all()


@few
@given(worlds(diffusion=True))
def test_dipolar_order_needs_one_offset(world: World) -> None:
    """On resonance, or irradiated from both sides, the bound pool has none."""
    tissue, program = world
    solid = Bound(f=t(0.1), k=t(30.0), T1=t(1.0), T2=t(1e-5))
    ordered = replace(solid, T1D=t(6e-3))
    like = torch.ones_like(program.flip)
    layout = tuple(e._replace(dual=True) for e in program.layout)
    for offset, rows in ((0.0, program.layout), (6e3, layout)):
        played = replace(program, power=3e4 * like, offset=offset * like, layout=rows)
        made = epg.run(replace(tissue, bound=ordered), played)
        wanted = epg.run(replace(tissue, bound=solid), played)
        close(made, wanted, 1e-12, tissue)


@few
@given(worlds(diffusion=True))
def test_what_does_not_move_stays(world: World) -> None:
    tissue, program = world
    still = replace(tissue, D=None, v=None, T2p=None)
    plain = replace(program, thickness=None)
    assert tissue.D is not None
    zero = replace(
        tissue,
        D=0 * tissue.D,
        v=None if tissue.v is None else 0 * tissue.v,
        T2p=t(torch.inf),
    )
    close(epg.run(zero, program), epg.run(still, plain), 1e-12, tissue)


@few
@given(worlds(diffusion=True, wide=False), angles, angles)
def test_turning_everything_turns_nothing(world: World, a: float, b: float) -> None:
    tissue, program = world
    assert tissue.D is not None
    assert program.moment is not None
    R = rotation(a, b)
    D = tissue.D if tissue.D.ndim else tissue.D * torch.eye(3)
    moment = program.moment
    v = tissue.v
    if moment.ndim == 1:
        moment = moment[:, None] * torch.tensor([[0.0, 0.0, 1.0]])
        v = None if v is None else v * torch.tensor([0.0, 0.0, 1.0])
    turned = replace(tissue, D=R @ D @ R.T, v=None if v is None else R @ v)
    played = replace(program, moment=moment @ R.T)
    close(epg.run(turned, played), epg.run(tissue, program), 1e-11, tissue)
