"""Rare ways through the engine: all of them give what the usual way gives."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import grad, jvp, vmap

import mrsim
from mrsim import Exchange, Tissue, epg
from mrsim.epg import engine
from mrsim.tree import replace

TRAIN = epg.FSE(flip=[2.1, 1.7, 2.6], esp=0.009)
VOXEL = Tissue(T1=0.9, T2=0.08, B1=0.95)
T2, B1 = torch.tensor(0.08), torch.tensor(0.95)


def signal(T2: Tensor, B1: Tensor) -> Tensor:
    """Echoes as real numbers."""
    made = epg.fse(replace(VOXEL, T2=T2, B1=B1), TRAIN)
    return torch.view_as_real(made).flatten()


def on_both(f: Callable[..., Any], *args: Any) -> tuple[Any, Any]:
    made = f(*args)
    with epg.use_engine("torch"):
        return made, f(*args)


def close(pair: tuple[Any, Any]) -> None:
    torch.testing.assert_close(*pair, rtol=1e-10, atol=1e-12)


# ---------------------------------------------------------------- derivatives


@pytest.mark.skipif(epg.engine_info().path != "fused", reason="the torch path refuses")
def test_dual_numbers_of_plain_torch() -> None:
    def moved(T2: Tensor, B1: Tensor) -> Tensor:
        with forward_ad.dual_level():
            y = signal(
                forward_ad.make_dual(T2, torch.tensor(0.3)),
                forward_ad.make_dual(B1, torch.tensor(2.0)),
            )
            return forward_ad.unpack_dual(y).tangent

    wanted = jvp(signal, (T2, B1), (torch.tensor(0.3), torch.tensor(2.0)))[1]
    close((moved(T2, B1), wanted))


def test_directions_in_a_table() -> None:
    """Tangents alone have two batch axes, and so have cotangents."""
    T, B = torch.randn(2, 2, 3, generator=torch.Generator().manual_seed(1))

    def move(a: Tensor, b: Tensor) -> Tensor:
        return jvp(signal, (T2, B1), (a, b))[1]

    table = vmap(vmap(move))
    close(on_both(table, T, B))
    looped = [
        torch.stack([move(a, b) for a, b in zip(*r, strict=True)])
        for r in zip(T, B, strict=True)
    ]
    close((table(T, B), torch.stack(looped)))
    weights = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(2))

    def pulled(w: Tensor) -> Tensor:
        return grad(lambda x: (signal(x, B1) * w).sum())(T2)

    made = vmap(vmap(pulled))
    close(on_both(made, weights))
    looped = [torch.stack([pulled(w) for w in row]) for row in weights]
    close((made(weights), torch.stack(looped)))


@pytest.mark.parametrize("which", [0, 1])
def test_reverse_over_forward_needs_not_use_both(which: int) -> None:
    """A loss of the value alone, and one of the tangent alone, beside a tangent."""

    def cost(x: Tensor) -> Tensor:
        return jvp(lambda y: signal(y, B1), (x,), (0.1 * x,))[which].square().sum()

    close(on_both(grad(cost), T2))
    step = 1e-6
    slope = (cost(T2 + step) - cost(T2 - step)) / (2 * step)
    torch.testing.assert_close(grad(cost)(T2), slope, rtol=1e-6, atol=1e-6)


# ---------------------------------------------------------------- many


def test_plans_are_forgotten_and_made_again() -> None:
    program = epg.fse_program(epg.FSE(flip=[2.1] * 9, esp=0.009))
    whole = epg.run(VOXEL, program)
    read = [row for row, event in enumerate(program.layout) if event.read]
    for n in range(1, 300):  # every number says which echoes are read
        kept = [k for k in range(9) if n >> k & 1]
        rows = {read[k] for k in kept}
        layout = tuple(
            e._replace(read=row in rows) for row, e in enumerate(program.layout)
        )
        lost = replace(program, layout=layout)
        assert epg.engine_info(VOXEL, lost) == epg.engine_info(VOXEL, program)
        if n % 40 == 7:
            made = epg.run(VOXEL, lost)
            torch.testing.assert_close(made, whole[kept], rtol=1e-13, atol=0)
    assert torch.equal(epg.run(VOXEL, program), whole)


def test_a_batch_that_leaves_the_cache_goes_in_slices(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    voxels = mrsim.grid(VOXEL, T2=torch.linspace(0.03, 0.3, 50))

    def both(x: Tissue) -> Any:
        return vmap(mrsim.value_and_jac(epg.fse, "T2", "B1"), (0, None))(x, TRAIN)

    with epg.use_engine("torch"):
        value, J = both(voxels)
        monkeypatch.setattr(engine, "_CACHE", 1)  # slices of 16 voxels
        sliced, K = both(voxels)
    for made, wanted in ((sliced, value), (K.T2, J.T2), (K.B1, J.B1)):
        torch.testing.assert_close(made, wanted, rtol=1e-13, atol=1e-13)


# ---------------------------------------------------------------- why not


def test_what_has_no_kernel_says_so_and_runs() -> None:
    n = 9
    pools = Exchange(T1=[1.0] * n, T2=[0.05] * n, f=[0.04] * n, k=[1.0] * n)
    many = replace(VOXEL, exchange=pools)
    one = Exchange(T1=1.0, T2=0.05, f=0.36, k=9.0)
    program = epg.fse_program(TRAIN)
    assert "more than 8 pools" in epg.engine_info(many, program).why
    lumped = epg.run(replace(VOXEL, exchange=one), program)
    torch.testing.assert_close(epg.run(many, program), lumped)

    own = replace(
        VOXEL, D=torch.tensor(1e-3), exchange=replace(one, D=torch.tensor(0.0))
    )
    moving = replace(program, moment=torch.tensor([25.0]), substeps=8)
    info = epg.engine_info(own, moving)
    assert info.path == "torch"
    assert "own D or v" in info.why

    away = (mrsim.to(x, device="meta") for x in (VOXEL, program))
    assert (
        epg.engine_info(*away).why == "there are kernels for CPUs and CUDA devices only"
    )
    assert epg.run(*(mrsim.to(x, device="meta") for x in (VOXEL, program))).shape == (
        3,
    )


def test_substeps_where_pools_commute_leave_no_error() -> None:
    program = replace(epg.fse_program(TRAIN), moment=torch.tensor([25.0]), substeps=2)
    assert (
        epg.substep_error(replace(VOXEL, D=torch.tensor(1e-3)), program).max() < 1e-14
    )
    apart = Exchange(T1=0.5, T2=0.02, f=0.2, k=100.0, D=1e-4)
    tissue = Tissue(T1=0.8, T2=0.08, D=2e-3, exchange=apart)
    strong = replace(program, moment=torch.tensor([60.0]))
    exact = epg.run(tissue, replace(strong, substeps=16))
    for steps in (2, 4):
        rough = replace(strong, substeps=steps)
        error = (epg.run(tissue, rough) - exact).abs()
        told = epg.substep_error(tissue, rough)
        torch.testing.assert_close(told, error, rtol=0.2, atol=1e-12)
