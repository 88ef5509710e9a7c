"""Golden signals, states and derivatives of event lists.

The conventions are those of the README of the folder ``epg``: times in ms and angles in
degrees, ``F_k`` and ``Z_k`` for every signed order k.
"""

import json
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import replay
import torch
from golden import folder
from torch import Tensor
from torch.func import grad, jacfwd, jacrev

import mrsim
from mrsim import Tissue, bloch, epg
from mrsim.tree import replace
from mrsim.units import deg, ms

Case = dict[str, Any]


def load(name: str) -> Any:
    return json.loads((folder("epg") / f"{name}.json").read_text())


def arrays(name: str, prefix: str) -> dict[str, Tensor]:
    with np.load(folder("epg") / f"{name}.npz") as file:
        keys = [k for k in file.files if k.startswith(f"{prefix}__")]
        return {k.removeprefix(f"{prefix}__"): torch.tensor(file[k]) for k in keys}


def missing(system: Case) -> str:
    """Name the physics that mrsim does not have; empty if it has all."""
    wants = {
        "exchange": np.any(system.get("ka", 0)) or "T1" not in system,
        "magnetisation transfer": None in _pools(system.get("T2")),
        "diffusion": bool(system.get("D")) or "D3" in system,
        "flow": bool(system.get("v")),
    }
    return " and ".join(name for name, wanted in wants.items() if wanted)


def _pools(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def tissues(system: Case) -> list[Tissue]:
    """Return one tissue for each pool; pools without exchange add up."""
    count = len(_pools(system["T1"]))

    def of(name: str, default: float, pool: int) -> float:
        given = _pools(system.get(name, default))
        return float(given[pool if len(given) > 1 else 0])

    return [
        Tissue(
            T1=of("T1", 0, i) * ms,
            T2=of("T2", 0, i) * ms,
            M0=of("M0", 1, i),
            B1=of("B1", 1, i),
            df=of("df", 0, i) or None,
        )
        for i in range(count)
    ]


def discovered(name: str, having: str = "signal") -> list[Any]:
    """Return the cases of a file that store an array, as parameters of a test."""
    return [
        pytest.param(
            case,
            id=case["name"],
            marks=[pytest.mark.skip(reason=f"no {lack} yet")] if lack else [],
        )
        for case in load(name)
        if having in arrays(name, case["name"])
        for lack in [missing(case["system"])]
    ]


def total(f: Callable[..., Tensor], case: Case, program: epg.Program) -> Tensor:
    voxels = tissues(case["system"])
    voxels = [mrsim.to(tissue, program.flip.dtype) for tissue in voxels]
    return torch.stack([f(tissue, program) for tissue in voxels]).sum(0)


@pytest.mark.parametrize("case", discovered("epg_cases"))
@pytest.mark.parametrize("f", [epg.run, bloch.run, replay.signal])
def test_signal(f: Callable[..., Tensor], case: Case) -> None:
    wanted = arrays("epg_cases", case["name"])["signal"]
    ways = [replay.program_of(case["sequence"])]
    if replay.in_quadrants(case["sequence"]):
        ways += [replay.program_of(case["sequence"], quadrants=True)]
    for program in ways:
        assert (total(f, case, program) - wanted).abs().max() <= case["atol"]
        small = total(f, case, mrsim.to(program, torch.float32))
        assert small.dtype == torch.complex64
        assert (small - wanted).abs().max() <= 2e-5


@pytest.mark.parametrize("case", discovered("epg_cases", "steady"))
def test_steady(case: Case) -> None:
    wanted = arrays("epg_cases", case["name"])["steady"]
    events = case["sequence"]
    readings = sum(e[0] == "adc" for e in events)
    program = replay.program_of(events * -(-3000 // readings))
    made = total(epg.run, case, program)[2999]
    assert (made - wanted).abs().max() <= case["atol"]


@pytest.mark.parametrize("case", discovered("epg_cases", "F"))
def test_states(case: Case) -> None:
    golden = arrays("epg_cases", case["name"])
    for pool, tissue in enumerate(tissues(case["system"])):
        F, Z = golden["F"][:, pool], golden["Z"][:, pool]
        ways = [replay.program_of(case["sequence"])]
        if replay.in_quadrants(case["sequence"]):
            ways += [replay.program_of(case["sequence"], quadrants=True)]
        for program in ways:
            for found in (_by_operators(tissue, program), _by_evolve(tissue, program)):
                for state, f, z in zip(found, F, Z, strict=True):
                    made_f, made_z = _padded(state, F.shape[1] // 2)
                    assert (made_f - f).abs().max() <= case["atol"]
                    assert (made_z - z).abs().max() <= case["atol"]


def _by_operators(tissue: Tissue, program: epg.Program) -> list[epg.State]:
    played = replay.steps(tissue, program)
    return [state for row, state in played if program.layout[row].read]


def _by_evolve(tissue: Tissue, program: epg.Program) -> list[epg.State]:
    """Stop at every reading and go on from there."""
    found, state, start = [], None, 0
    for row, event in enumerate(program.layout):
        if event.read:
            part = replay.part(program, start, row + 1)
            _, state = epg.evolve(tissue, part, state)
            found.append(state)
            start = row + 1
    return found


def _padded(state: epg.State, K: int) -> tuple[Tensor, Tensor]:
    """Return F and Z of the orders -K … K."""
    more = torch.zeros(K + 1 - len(state.Z), dtype=state.Z.dtype)
    F = torch.cat([more, state.F, more])
    Z = torch.cat([state.Z, more])
    return F, torch.cat([Z.flip(0)[:K].conj(), Z])


# ---------------------------------------------------------------------- derivatives

NAMES = ("T1", "T2", "df", "B1")
UNITS = torch.tensor([ms, ms, 1.0, 1.0])


def voxel(theta: Tensor) -> Tissue:
    """Return a tissue from (T1 [ms], T2 [ms], df, B1)."""
    return Tissue(**dict(zip(NAMES, theta * UNITS, strict=True)))


def point(case: Case) -> Tensor:
    system = {"df": 0.0, "B1": 1.0} | case["system"]
    return torch.tensor([system[n] for n in NAMES])


def pulses(program: epg.Program) -> list[int]:
    return [row for row, event in enumerate(program.layout) if event.pulse]


def near(made: Tensor, wanted: Tensor, rtol: float, keep: tuple[int, ...] = ()) -> None:
    """Compare relative to the largest entry of each parameter."""
    over = tuple(i for i in range(wanted.ndim) if i not in keep)
    size = wanted.abs().amax(over, keepdim=True)
    assert ((made - wanted).abs() <= rtol * size + 1e-14).all()


@pytest.mark.parametrize("case", discovered("epg_derivatives", "jac"))
@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_jacobians(mode: str, case: Case) -> None:
    golden = arrays("epg_derivatives", case["name"])
    program, tissue = replay.program_of(case["sequence"]), voxel(point(case))
    near(epg.run(tissue, program), golden["signal"], 1e-12)
    made = mrsim.jac(epg.run, *NAMES, mode=mode)(tissue, program)
    columns = torch.stack([getattr(made, n) for n in NAMES], 1) * UNITS
    near(columns, golden["jac"], case["rtol"], (1,))
    at = pulses(program)
    made = mrsim.jac(epg.run, "flip", "phase", mode=mode)(tissue, program)
    near(made.flip[:, at] * deg, golden["jac_alpha"], case["rtol"], (1,))
    near(made.phase[:, at] * deg, golden["jac_phase"], case["rtol"], (1,))


@pytest.mark.parametrize("case", discovered("epg_derivatives", "hess"))
def test_hessians(case: Case) -> None:
    golden = arrays("epg_derivatives", case["name"])["hess"]
    program, theta = replay.program_of(case["sequence"]), point(case)

    def signal(x: Tensor) -> Tensor:
        return torch.view_as_real(epg.run(voxel(x), program))

    for outer, inner in ((jacfwd, jacrev), (jacrev, jacfwd), (jacfwd, jacfwd)):
        made = torch.complex(*outer(inner(signal))(theta).unbind(1))
        near(made, golden, 1e-8, (1, 2))


@pytest.mark.parametrize("case", discovered("epg_derivatives", "crlb"))
def test_crlb(case: Case) -> None:
    golden = arrays("epg_derivatives", case["name"])
    program, tissue = replay.program_of(case["sequence"]), voxel(point(case))
    bound = mrsim.crlb(epg.run, "T1", "T2", "M0", sigma=1.0)
    made = bound(tissue, program)
    variances = torch.stack([made.T1 / ms**2, made.T2 / ms**2, made.M0])
    near(variances, golden["crlb"], 1e-7, (0,))

    def cost(flip: Tensor) -> Tensor:
        return bound(tissue, replace(program, flip=flip)).T2

    slope = grad(cost)(program.flip)[pulses(program)] * deg / ms**2
    near(slope, golden["crlb_T2_grad_alpha"], 1e-6)


# --------------------------------------------------------------------- closed forms

TABLE = load("analytic")
T1, T2, TR = (TABLE["params"][n] * ms for n in ("T1", "T2", "TR"))
FLIP = TABLE["params"]["alpha_deg"] * deg
TISSUE = Tissue(T1=T1, T2=T2)


def ernst() -> Tensor:
    return epg.spgr(TISSUE, epg.SPGR(flip=FLIP, TR=TR)).abs()


def steady(df: str = "0") -> Tensor:
    tissue = replace(TISSUE, df=torch.tensor(float(df)))
    return epg.bssfp_steady(tissue, epg.BSSFP(flip=FLIP, TR=TR, TE=0.0)).abs()


def cpmg() -> Tensor:
    return epg.fse(TISSUE, epg.FSE(flip=[180 * deg] * 8, esp=9 * ms)).real


def hahn(first: str, second: str) -> Tensor:
    train = epg.FSE(flip=[float(second) * deg], esp=9 * ms)
    train = replace(train, excitation=torch.tensor(float(first) * deg))
    return epg.fse(TISSUE, train)[0].abs()


def stimulated(*degrees: str) -> Tensor:
    a, b, c = (["rf", float(x), 0.0] for x in degrees)
    store = ["wait", 65.0, 7]
    events = [a, ["wait", 5.0, 1], b, store, c, ["wait", 5.0, 1], ["adc", 0.0]]
    return epg.run(TISSUE, replay.program_of(events)).abs()[0]


def spoiled(increment: str, count: str) -> Tensor:
    seq = epg.SPGR(flip=FLIP, TR=TR, pulses=int(count), increment=int(increment))
    return epg.spgr_spoiled(TISSUE, seq)[-1].abs()


FACTS = {
    r"ernst_ideal_spoiling": ernst,
    r"bssfp_on_resonance_TE0": steady,
    r"bssfp_off_resonance_(\d+)Hz_TE0_magnitude": steady,
    r"cpmg_180": cpmg,
    r"hahn_echo_(\d+)_(\d+)": hahn,
    r"stimulated_echo_(\d+)_(\d+)_(\d+)": stimulated,
    r"spgr_quadratic_(\d+)_after(\d+)": spoiled,
}
LATER = r"stejskal_tanner_.*|velocity_.*"


@pytest.mark.parametrize("fact", TABLE["facts"], ids=lambda fact: fact["name"])
def test_closed_form(fact: Case) -> None:
    if re.fullmatch(LATER, fact["name"]):
        pytest.skip("no diffusion or flow yet")
    found = [(m, f) for n, f in FACTS.items() if (m := re.fullmatch(n, fact["name"]))]
    assert found, "a new fact: say above how it is simulated"
    match, f = found[0]
    wanted = torch.tensor(fact["value"])
    assert (f(*match.groups()) - wanted).abs().max() <= 1e-10
