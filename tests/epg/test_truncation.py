"""The bound on what a truncation costs."""

import pytest
import torch
from hypothesis import given, settings, strategies as st
from strategies import programs, tissues
from torch.func import vmap
from worlds import World, worlds

import mrsim
from mrsim import Exchange, Tissue, epg
from mrsim.tree import replace
from mrsim.units import deg, ms

GREY, FLUID = Tissue(T1=1.0, T2=0.1), Tissue(T1=4.0, T2=2.0)


def train(degrees: float, echoes: int = 40) -> epg.Program:
    return epg.fse_program(epg.FSE(flip=[degrees * deg] * echoes, esp=5 * ms))


def fingerprint() -> epg.Program:
    flips = (10 + 50 * (torch.arange(100.0) / 20).sin().abs()) * deg
    return epg.fisp_program(epg.FISP(flip=flips, TR=12 * ms, TI=20 * ms))


def errors(
    tissue: Tissue, program: epg.Program, states: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the error of every reading and its bound."""
    cut = replace(program, states=states)
    error = (epg.run(tissue, cut) - epg.run(tissue, program)).abs()
    return error, epg.truncation_error(tissue, cut)


@given(tissues(optional=True), programs(max_events=12), st.integers(1, 4))
def test_bound_holds(tissue: Tissue, program: epg.Program, states: int) -> None:
    error, bound = errors(tissue, program, states)
    assert bound.shape == error.shape
    assert (error <= bound + 1e-12).all()


@settings(max_examples=12)
@given(worlds(diffusion=True, spread=False, wide=False), st.integers(1, 4))
def test_bound_holds_with_any_physics(world: World, states: int) -> None:
    tissue, program = world
    error, bound = errors(tissue, program, states)
    size = 1.0 if tissue.M0 is None else float(tissue.M0)
    assert bound.shape == error.shape
    assert (error <= bound + 1e-12 * size).all()


def test_bound_is_not_loose_with_pools_that_diffuse() -> None:
    water = Exchange(T1=0.5, T2=0.02, f=0.2, k=10.0)
    tissue = Tissue(T1=1.0, T2=0.1, exchange=water, D=1e-3)
    program = replace(train(60), moment=torch.tensor([20.0]))
    error, bound = errors(tissue, program, 10)
    assert (error <= bound + 1e-12).all()
    assert bound.max() <= 40 * error.max()
    assert error.max() > 1e-4


def test_no_bound_where_pools_move_apart() -> None:
    water = Exchange(T1=0.5, T2=0.02, f=0.2, k=10.0, D=2e-3)
    tissue = Tissue(T1=1.0, T2=0.1, exchange=water, D=1e-3)
    program = replace(train(60), moment=torch.tensor([20.0]), states=5, substeps=2)
    with pytest.raises(ValueError, match="no bound where pools have a D or v"):
        epg.truncation_error(tissue, program)


@pytest.mark.parametrize("tissue", [GREY, FLUID], ids=["grey", "fluid"])
@pytest.mark.parametrize("states", [4, 10, 20])
@pytest.mark.parametrize(
    "program",
    [train(60), train(120), fingerprint()],
    ids=["fse60", "fse120", "fisp"],
)
def test_bound_is_not_loose(tissue: Tissue, program: epg.Program, states: int) -> None:
    error, bound = errors(tissue, program, states)
    assert (error <= bound + 1e-12).all()
    assert bound.max() <= 40 * error.max()
    assert bound.max() < 1


@pytest.mark.parametrize("states", [1, 5, 20, 60, 80, 81, 200, None])
def test_what_cannot_be_lost_costs_nothing(states: int | None) -> None:
    program = replace(train(100), states=states)
    bound = epg.truncation_error(GREY, program)
    reach = len(bound) if states is None else states
    assert (bound[: max(reach - 1, 0)] == 0).all()
    if states is None or states > 81:
        assert (bound == 0).all()


def test_bound_scales_with_M0_and_dtype() -> None:
    program = replace(train(100, 12), states=5)
    bound = epg.truncation_error(GREY, program)
    bright = replace(GREY, M0=torch.tensor(3.0))
    assert torch.allclose(epg.truncation_error(bright, program), 3 * bound)
    small = (mrsim.to(x, torch.float32) for x in (GREY, program))
    made = epg.truncation_error(*small)
    assert made.dtype == torch.float32
    assert torch.allclose(made.double(), bound, rtol=1e-3, atol=1e-6)


def test_bound_maps_over_voxels_and_programs() -> None:
    voxels = mrsim.grid(GREY, T2=[0.05, 0.1, 0.3])
    program = replace(train(100, 12), states=5)
    made = vmap(epg.truncation_error, in_dims=(0, None))(voxels, program)
    for k, T2 in enumerate(voxels.T2):
        one = epg.truncation_error(replace(GREY, T2=T2), program)
        assert torch.allclose(made[k], one, rtol=1e-12)
    two = mrsim.expand(program, 2)
    made = vmap(epg.truncation_error, in_dims=(None, 0))(GREY, two)
    assert torch.allclose(made[1], epg.truncation_error(GREY, program), rtol=1e-12)


def test_no_reading_no_bound() -> None:
    layout = (epg.Event(pulse=True, shift=3),)
    one = torch.ones(1)
    program = epg.Program(flip=one, duration=one, layout=layout, states=2)
    assert epg.truncation_error(GREY, program).shape == (0,)


def test_bound_has_gradients() -> None:
    program = replace(train(100, 8), states=4)

    def worst(flip: torch.Tensor) -> torch.Tensor:
        bound = epg.truncation_error(GREY, replace(program, flip=flip))
        return bound.square().sum().sqrt()

    slope = torch.func.grad(worst)(program.flip)
    assert slope.isfinite().all()
    way = torch.linspace(-1, 1, len(slope)) * 1e-5
    moved = worst(program.flip + way) - worst(program.flip - way)
    assert (moved / 2 - slope @ way).abs() < 1e-6 * moved.abs()
