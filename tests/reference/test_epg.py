"""Golden signals, states and derivatives of event lists.

The conventions are those of the README of the folder ``epg``: times in ms and angles in
degrees, ``F_k`` and ``Z_k`` for every signed order k.
"""

import json
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import playing
import pytest
import replay
import torch
from golden import folder
from torch import Tensor
from torch.func import grad, jacfwd, jacrev

import mrsim
from mrsim import Tissue, bloch, epg
from mrsim.tree import get, replace
from mrsim.units import deg, ms

Case = dict[str, Any]


def load(name: str) -> Any:
    return json.loads((folder("epg") / f"{name}.json").read_text())


def arrays(name: str, prefix: str) -> dict[str, Tensor]:
    with np.load(folder("epg") / f"{name}.npz") as file:
        keys = [k for k in file.files if k.startswith(f"{prefix}__")]
        return {k.removeprefix(f"{prefix}__"): torch.tensor(file[k]) for k in keys}


def _pools(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def tissue_of(system: Case) -> Tissue:
    """Return the tissue of a system; m²/s and m/s become mm²/s and mm/s."""
    T1, T2, M0 = (_pools(system.get(n, 1.0)) for n in ("T1", "T2", "M0"))
    df = _pools(system.get("df", 0.0))
    more: Case = {"df": df[0]} if df[0] else {}
    more |= {"B1": system["B1"]} if "B1" in system else {}
    more |= {"D": system["D"] * 1e6} if system.get("D") else {}
    more |= {"D": torch.tensor(system["D3"]) * 1e6} if "D3" in system else {}
    more |= {"v": system["v"] * 1e3} if system.get("v") else {}
    if len(T1) == 2:
        second: Case = {"f": M0[1] / sum(M0), "k": system["ka"] / ms, "T1": T1[1] * ms}
        if T2[1] is None:
            more["bound"] = mrsim.Bound(**second)
        else:
            shift = df[1] - df[0] if len(df) > 1 else 0.0
            second |= {"T2": T2[1] * ms, "df": shift or None}
            more["exchange"] = mrsim.Exchange(**second)
    return Tissue(T1=T1[0] * ms, T2=T2[0] * ms, M0=float(sum(M0)), **more)


def program(case: Case, *, quadrants: bool = False) -> epg.Program:
    dk = case["system"].get("dk")
    moment = None if dk is None else dk * 1e-3
    return replay.program_of(case["sequence"], quadrants=quadrants, moment=moment)


def programs(case: Case) -> list[epg.Program]:
    """Return a case with its phases as numbers and, where possible, as quadrants."""
    made = [program(case)]
    if replay.in_quadrants(case["sequence"]):
        made.append(program(case, quadrants=True))
    return made


def discovered(name: str, having: str = "signal") -> list[Any]:
    """Return the cases of a file that store an array, as parameters of a test."""
    return [
        pytest.param(case, id=case["name"])
        for case in load(name)
        if having in arrays(name, case["name"])
    ]


def diffuses(system: Case) -> bool:
    return bool(system.get("D")) or "D3" in system


@pytest.mark.parametrize("case", discovered("epg_cases"))
@pytest.mark.parametrize("f", [epg.run, bloch.run, playing.signal])
def test_signal(f: Callable[..., Tensor], case: Case) -> None:
    wanted = arrays("epg_cases", case["name"])["signal"]
    tissue = tissue_of(case["system"])
    if f is bloch.run and diffuses(case["system"]):
        with pytest.raises(ValueError, match="diffus"):
            f(tissue, program(case))
        return
    if f is playing.signal and isinstance(case["sequence"][1][-1], list):
        pytest.skip("operators have one gradient axis")
    for played in programs(case):
        assert (f(tissue, played) - wanted).abs().max() <= case["atol"]
        small = f(*mrsim.to((tissue, played), torch.float32))
        assert small.dtype == torch.complex64
        assert (small - wanted).abs().max() <= 2e-5


@pytest.mark.parametrize("case", discovered("epg_cases", "steady"))
def test_steady(case: Case) -> None:
    wanted = arrays("epg_cases", case["name"])["steady"]
    readings = sum(e[0] == "adc" for e in case["sequence"])
    long = case | {"sequence": case["sequence"] * -(-3000 // readings)}
    made = epg.run(tissue_of(case["system"]), program(long))[2999]
    assert (made - wanted).abs().max() <= case["atol"]


@pytest.mark.parametrize("case", discovered("epg_cases", "F"))
def test_states(case: Case) -> None:
    golden = arrays("epg_cases", case["name"])
    tissue = tissue_of(case["system"])
    for played in programs(case):
        for found in (_by_operators(tissue, played), _by_evolve(tissue, played)):
            for state, F, Z in zip(found, golden["F"], golden["Z"], strict=True):
                made_f, made_z = _padded(state, F.shape[-1] // 2)
                free = made_f.shape[0]  # a bound pool has no F
                assert (made_f - F[:free]).abs().max() <= case["atol"]
                assert (made_z - Z).abs().max() <= case["atol"]


def _by_operators(tissue: Tissue, program: epg.Program) -> list[epg.State]:
    played = playing.steps(tissue, program)
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
    """Return F and Z of each pool and of the orders -K … K."""
    F, Z = (torch.atleast_2d(x) for x in (state.F, state.Z))
    more = torch.zeros(len(Z), K + 1 - Z.shape[1], dtype=Z.dtype)
    F = torch.cat([more[: len(F)], F, more[: len(F)]], 1)
    Z = torch.cat([Z, more], 1)
    return F, torch.cat([Z.flip(1)[:, :K].conj(), Z], 1)


# ---------------------------------------------------------------------- derivatives

# golden name → field and its golden unit
SINGLE = {"T1": ("T1", ms), "T2": ("T2", ms), "df": ("df", 1.0), "B1": ("B1", 1.0)}
DOUBLE = {
    "T1a": ("T1", ms),
    "T2a": ("T2", ms),
    "T1b": ("exchange.T1", ms),
    "T2b": ("exchange.T2", ms),
    "f": ("exchange.f", 1.0),
    "ka": ("exchange.k", 1 / ms),
    "dfb": ("exchange.df", 1.0),
    "B1": ("B1", 1.0),
}


def columns_of(case: Case) -> dict[str, tuple[str, float]]:
    """Return field and unit of each column of a case's derivatives."""
    return DOUBLE if "T1a" in case["system"] else SINGLE


def point(case: Case) -> Tensor:
    """Return the values of the parameters in mrsim's units."""
    system = {"df": 0.0, "B1": 1.0} | case["system"]
    return torch.tensor([system[n] * unit for n, (_, unit) in columns_of(case).items()])


def units(case: Case) -> Tensor:
    return torch.tensor([unit for _, unit in columns_of(case).values()])


def fields(case: Case) -> list[str]:
    return [field for field, _ in columns_of(case).values()]


def voxel(case: Case, theta: Tensor) -> Tissue:
    """Return the tissue of a vector of parameters."""
    values = dict(zip(fields(case), theta, strict=True))
    own = {n: v for n, v in values.items() if "." not in n}
    other = {n.partition(".")[2]: v for n, v in values.items() if "." in n}
    return Tissue(**own, exchange=mrsim.Exchange(**other) if other else None)


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
    program, tissue = replay.program_of(case["sequence"]), voxel(case, point(case))
    near(epg.run(tissue, program), golden["signal"], 1e-12)
    made = mrsim.jac(epg.run, *fields(case), mode=mode)(tissue, program)
    columns = torch.stack([get(made, n) for n in fields(case)], 1) * units(case)
    near(columns, golden["jac"], case["rtol"], (1,))
    if "jac_alpha" not in golden:
        return
    at = pulses(program)
    made = mrsim.jac(epg.run, "flip", "phase", mode=mode)(tissue, program)
    near(made.flip[:, at] * deg, golden["jac_alpha"], case["rtol"], (1,))
    near(made.phase[:, at] * deg, golden["jac_phase"], case["rtol"], (1,))


@pytest.mark.parametrize("case", discovered("epg_derivatives", "hess"))
def test_hessians(case: Case) -> None:
    golden = arrays("epg_derivatives", case["name"])["hess"]
    program, theta = replay.program_of(case["sequence"]), point(case)

    def signal(x: Tensor) -> Tensor:
        return torch.view_as_real(epg.run(voxel(case, x), program))

    for outer, inner in ((jacfwd, jacrev), (jacrev, jacfwd), (jacfwd, jacfwd)):
        made = torch.complex(*outer(inner(signal))(theta).unbind(1))
        made = made * units(case) * units(case)[:, None]
        near(made, golden, 1e-8, (1, 2))


@pytest.mark.parametrize("case", discovered("epg_derivatives", "crlb"))
def test_crlb(case: Case) -> None:
    golden = arrays("epg_derivatives", case["name"])
    program, tissue = replay.program_of(case["sequence"]), voxel(case, point(case))
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


def moving(*events: list[Any], moment: float = 25.0, **physics: float) -> Tensor:
    """Return one spin echo of a tissue that diffuses or flows."""
    tissue = replace(TISSUE, **{n: torch.tensor(v) for n, v in physics.items()})
    return epg.run(tissue, replay.program_of(events, moment=moment))[0]


ECHO = (["rf", 90.0, 0.0], ["wait", 10.0, 1], ["rf", 180.0, 90.0])
ECHO = (*ECHO, ["wait", 10.0, 1], ["adc", 0.0])


def constant_gradient() -> Tensor:
    return moving(*ECHO, D=1.5e-3).abs()


def pulsed_gradient() -> Tensor:
    first, last = ["wait", 4.0, 1], ["wait", 4.0, 1]
    middle = (["wait", 21.0, 0], ["rf", 180.0, 90.0])
    return moving(["rf", 90.0, 0.0], first, *middle, last, ["adc", 0.0], D=1.5e-3).abs()


def flowing() -> Tensor:
    return (moving(*ECHO, v=3.0) / moving(*ECHO)).angle()


FACTS = {
    r"stejskal_tanner_constant_gradient": constant_gradient,
    r"stejskal_tanner_pgse": pulsed_gradient,
    r"velocity_phase_spin_echo_constant_gradient": flowing,
    r"ernst_ideal_spoiling": ernst,
    r"bssfp_on_resonance_TE0": steady,
    r"bssfp_off_resonance_(\d+)Hz_TE0_magnitude": steady,
    r"cpmg_180": cpmg,
    r"hahn_echo_(\d+)_(\d+)": hahn,
    r"stimulated_echo_(\d+)_(\d+)_(\d+)": stimulated,
    r"spgr_quadratic_(\d+)_after(\d+)": spoiled,
}


@pytest.mark.parametrize("fact", TABLE["facts"], ids=lambda fact: fact["name"])
def test_closed_form(fact: Case) -> None:
    found = [(m, f) for n, f in FACTS.items() if (m := re.fullmatch(n, fact["name"]))]
    assert found, "a new fact: say above how it is simulated"
    match, f = found[0]
    wanted = torch.tensor(fact["value"])
    assert (f(*match.groups()) - wanted).abs().max() <= 1e-10
