"""The GPU's walk against the CPU kernel's passes and the torch path.

Without a GPU the kernels run in Triton's interpreter, on tiny trains, and are compiled
for a card that is not there.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import jvp, vjp, vmap

import mrsim
from mrsim import Tissue, epg
from mrsim.epg import engine
from mrsim.epg.kernels import triton_coefs, triton_passes
from mrsim.epg.kernels.call import Physics
from mrsim.epg.kernels.given import given
from mrsim.epg.kernels.table import KNOT

if find_spec("triton") is None:
    pytest.skip("triton comes with torch's CUDA builds", allow_module_level=True)
GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
LANES = 3
DIRECT = {"flip", "B1", "phase", "demod", "efficiency"}  # beside what is given
MPRAGE = epg.MPRAGE(flip=[0.2] * 3, TR=0.01, TI=0.5, TE=0.002, efficiency=0.9)
TISSUE = Tissue(T1=1.0, T2=0.1, M0=1.3, B1=0.9)
FLIPS = [2.0, 1.5, 1.8, 1.2]
CASES = {
    "real": (epg.fse, TISSUE, epg.FSE(flip=FLIPS, esp=0.01)),
    "plain": (epg.fse, Tissue(T1=1.0, T2=0.1), epg.FSE(flip=FLIPS[:2], esp=0.01)),
    "complex": (
        epg.fse,
        mrsim.replace(TISSUE, df=torch.tensor(12.0)),
        epg.FSE(flip=FLIPS[:3], esp=0.01, phase=[0.1, 0.3, -0.2]),
    ),
    "inverted": (epg.fisp, TISSUE, epg.FISP(flip=[0.3, 0.5, 0.2], TR=0.012, TI=0.02)),
    "inefficient": (
        epg.fisp,
        TISSUE,
        epg.FISP(flip=[0.3, 0.5], TR=0.012, TE=0.004, TI=0.02, efficiency=0.9),
    ),
    "truncated": (epg.fse, TISSUE, epg.FSE(flip=FLIPS, esp=0.01, states=2)),
    "spoiled": (epg.mprage, TISSUE, MPRAGE),
}


@pytest.fixture(scope="module", autouse=True)
def interpreter() -> Iterator[None]:
    """Without a GPU the kernels are made, at their import, for the interpreter."""
    with pytest.MonkeyPatch.context() as patch:
        if not GPU:
            patch.setenv("TRITON_INTERPRET", "1")
        yield


class Given:
    """One simulation as the passes see it, and the same in torch."""

    def __init__(self, name: str, dtype: torch.dtype) -> None:
        f, tissue, seq = CASES[name]
        jobs: list[Any] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(engine, "obstacle", lambda *_: "")
            patch.setattr(engine, "fused", lambda *x: jobs.append(x) or torch.ones(9))
            f(tissue, seq)
        job, values = jobs[0][0], jobs[0][1:]
        random = torch.Generator().manual_seed(0)
        mapped = [
            x.unsqueeze(-1)
            * (1 + 0.1 * torch.rand(LANES if k % 2 else 1, generator=random))
            for k, x in enumerate(values)
        ]
        fields = [x.to(DEVICE, dtype) for x in mapped]
        double = dtype == torch.float64
        self.physics: Physics = job.physics._replace(own=False, double=double)
        self.job = replace(job, physics=self.physics)
        self.table, self.reads = job.table, job.table.reads
        rows = dict(zip(job.names, fields, strict=True))
        direct = {
            n: x[None] if n == "B1" else x for n, x in rows.items() if n in DIRECT
        }
        made = given(job.plan, job.table, job.pools, job.names, fields)
        self.columns = direct | made
        self.fields, self.dtype = fields, dtype

    def signal(self, **columns: Tensor) -> Tensor:
        """What the kernel should give, by torch alone and differentiable."""
        moved = {**self.columns, **columns}
        parts, integers = (
            self.physics.parts,
            triton_passes._job(self.physics, self.table, moved).integers,
        )
        C, start = triton_coefs.coefficients(parts, integers, moved)
        w = triton_coefs.weights(parts, integers, moved, self.table.intervals)
        return walked(self, integers, C, start, w)

    def random(self, *shape: int) -> Tensor:
        return torch.randn(*shape, device=DEVICE, dtype=self.dtype)


def walked(g: Given, integers: Any, C: Tensor, start: Tensor, w: Any) -> Tensor:
    """The walk in plain torch, from the docstring of `mrsim.epg.kernels.table`."""
    zero = torch.zeros(LANES, device=DEVICE, dtype=g.dtype.to_complex())
    F = [zero] * (g.table.places + 1)
    Z = [zero] * g.table.orders
    unit = 1j if g.physics.parts == 2 else 1.0
    Z[0] = unit * start[0].expand(LANES) + zero
    clears, found = integers.clears.tolist(), [zero] * g.reads
    for j, row in enumerate(integers.knots.tolist()):
        k = dict(zip((n.lower() for n in KNOT), row, strict=True))
        end = k["clear"] + k["clears_f"]
        for place in clears[k["clear"] : end]:
            F[place] = zero
        for order in clears[end : end + k["clears_z"]]:
            Z[order] = zero
        c, s, U, grown, re, im = C[j].unbind(0)
        M = torch.complex(re, im)
        for order in range(k["first"], k["first"] + k["count"] * k["step"], k["step"]):
            a, b = k["base"] + order, k["base"] - order
            y = U * Z[order]
            y = y + unit * grown if order == 0 and k["regrow"] else y
            Z[order] = c * y
            if k["kind"] != 1:
                continue
            P, Q = M * F[a], mirrored(M * F[b], k["enter"], g)
            A, D = P + Q, P - Q
            H = c * D + s * y / 2
            F[b], F[a] = mirrored(A - H, k["leave"], g), A + H
            Z[order] = Z[order] - 2 * s * D
        for r in range(k["read"], k["read"] + k["reads"]):
            place = int(integers.places[r])
            found[r] = (
                torch.complex(w[0][r], w[1][r]) * F[place] if place >= 0 else zero
            )
    return torch.stack(found)


def mirrored(x: Tensor, sign: int, g: Given) -> Tensor:
    return torch.complex(x.real, -x.imag) if g.physics.parts == 2 else sign * x


@pytest.fixture(params=["complex", "inefficient"])
def case(request: pytest.FixtureRequest) -> Given:
    torch.manual_seed(0)
    return Given(request.param, torch.float64)


def close(a: Tensor, b: Tensor, tolerance: float = 1e-12) -> None:
    scale = float(b.abs().amax().clamp_min(1e-30))
    torch.testing.assert_close(a, b, rtol=0, atol=tolerance * scale)


def ran(g: Given, moves: dict[str, Tensor], lead: int = 1) -> Tensor:
    kind = g.dtype.to_complex()
    out = torch.full((lead, g.reads, LANES), torch.nan, device=DEVICE, dtype=kind)
    triton_passes.forward(g.physics, g.table, g.columns, moves, out)
    return out


@pytest.mark.parametrize("name", CASES)
def test_value_is_the_torch_path(name: str) -> None:
    case = Given(name, torch.float64)
    wanted = case.job.reference.f(*case.fields)
    close(ran(case, {})[0], wanted.expand(-1, LANES))
    close(case.signal(), wanted.expand(-1, LANES))


def moves_of(g: Given, lead: int) -> dict[str, Tensor]:
    return {n: g.random(lead, *x.shape) for n, x in g.columns.items()}


def test_two_tangents_at_once(case: Given) -> None:
    moves = moves_of(case, 2)
    made = ran(case, moves, 2)
    for k in range(2):
        way = {n: t[k] for n, t in moves.items()}
        close(made[k], pushed(case, case.columns, way))


def pushed(g: Given, at: dict[str, Tensor], way: dict[str, Tensor]) -> Tensor:
    names = tuple(at)

    def f(*xs: Tensor) -> Tensor:
        return torch.view_as_real(g.signal(**dict(zip(names, xs, strict=True))))

    values, tangents = (tuple(x[n] for n in names) for x in (at, way))
    return torch.view_as_complex(jvp(f, values, tangents)[1].contiguous())


def test_two_cotangents_at_once(case: Given) -> None:
    bars = torch.complex(*case.random(2, 2, case.reads, LANES).unbind(0))
    made = triton_passes.backward(case.physics, case.table, case.columns, bars)
    for k in range(2):
        _, pull = vjp(lambda x: torch.view_as_real(case.signal(**x)), case.columns)
        (wanted,) = pull(torch.view_as_real(bars[k]))
        for name, bar in wanted.items():
            close(made[name][k], bar, 1e-11)


@pytest.mark.parametrize("name", ["plain", "complex"])
def test_reverse_over_forward(name: str) -> None:
    torch.manual_seed(0)
    case = Given(name, torch.float64)
    moves = moves_of(case, 2)
    bars = torch.complex(*case.random(2, 2, case.reads, LANES).unbind(0))
    first, second = triton_passes.backward_of_forward(
        case.physics, case.table, case.columns, moves, bars
    )

    def f(columns: dict[str, Tensor], turned: dict[str, Tensor]) -> Tensor:
        ways = [{n: t[k] for n, t in turned.items()} for k in range(2)]
        return torch.view_as_real(
            torch.stack([pushed(case, columns, way) for way in ways])
        )

    _, pull = vjp(f, case.columns, moves)
    wanted = pull(torch.view_as_real(bars))
    for made, right in zip((first, second), wanted, strict=True):
        for name, bar in right.items():
            close(made[name], bar, 1e-11)


def test_single_precision() -> None:
    torch.manual_seed(0)
    narrow, wide = Given("complex", torch.float32), Given("complex", torch.float64)
    made = ran(narrow, {})
    assert made.dtype == torch.complex64
    close(made.to(torch.complex128), ran(wide, {}), 2e-6)


def test_nan_spins_stay_alone() -> None:
    g = Given("real", torch.float64)
    before = ran(g, {})
    g.columns["B1"] = g.columns["B1"].expand(1, LANES).clone()
    clean = ran(g, {})
    g.columns["B1"][0, 1] = torch.nan
    after = ran(g, {})
    assert after[:, :, 1].isnan().all()
    assert torch.equal(after[:, :, [0, 2]], clean[:, :, [0, 2]])
    assert before.isfinite().all()


def test_more_lanes_than_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    g = Given("plain", torch.float64)
    few = ran(g, {})
    monkeypatch.setattr(triton_passes, "_BLOCK", 2)
    monkeypatch.setattr(triton_passes, "_SCRATCH", 1)
    assert torch.equal(ran(g, {}), few)
    bars = torch.ones(1, g.reads, LANES, dtype=torch.complex128, device=DEVICE)
    made = triton_passes.backward(g.physics, g.table, g.columns, bars)
    assert made["flip"].isfinite().all()
    assert made["flip"].abs().amax() > 0


def test_what_stays_on_the_torch_path() -> None:
    plain = Given("real", torch.float64).physics
    device = torch.device("cuda")
    assert triton_passes.obstacle(plain, device) == ""
    assert "torch path" in triton_passes.obstacle(plain._replace(pools=2), device)
    assert "torch path" in triton_passes.obstacle(plain._replace(motion=True), device)
    assert "mps" in triton_passes.obstacle(plain, torch.device("mps"))


COMPILING = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from mrsim.epg.kernels import triton_walk as walk
whole = dict.fromkeys(("knots", "clears", "places_read"), "*i32")
sizes = "count", "lanes", "places", "slots", "readings", "stored"
whole |= dict.fromkeys(sizes, "i32")
for name, real, parts, tangent in (
    ("there", "fp64", 1, 0), ("there_and_back", "fp32", 2, 1)
):
    fn, fixed = getattr(walk, name), {"PARTS": parts, "T": tangent, "BLOCK": 128}
    names = fn.arg_names
    kinds = {n: "constexpr" if n in fixed else whole.get(n, "*" + real) for n in names}
    source = ASTSource(fn, kinds, {(names.index(n),): v for n, v in fixed.items()})
    assert triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["cubin"]
"""


def test_compiles_for_a_card() -> None:
    clean = {n: v for n, v in os.environ.items() if n != "TRITON_INTERPRET"}
    command = [sys.executable, "-c", COMPILING]
    made = subprocess.run(command, env=clean, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr[-2000:]


@pytest.mark.gpu
@pytest.mark.skipif(not GPU, reason="needs a CUDA device")
def test_public_functions_on_a_gpu() -> None:
    f, tissue, seq = CASES["complex"]
    tissues = mrsim.expand(tissue, 1000)
    many = vmap(f, in_dims=(0, None))
    there = mrsim.to(tissues, device="cuda"), mrsim.to(seq, device="cuda")
    close(many(*there).cpu(), many(tissues, seq))
    slope = vmap(mrsim.jac(f, "T1", "T2", "B1"), in_dims=(0, None))
    close(slope(*there).T2.cpu(), slope(tissues, seq).T2)
