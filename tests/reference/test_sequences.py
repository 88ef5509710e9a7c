"""Golden signals and Jacobians of whole sequences.

The conventions are those of the README of the folder ``sequences``: in index.json each
file's ``model`` says how its arrays are simulated, its ``meta`` which parameters its
Jacobian has; times in ms, angles in degrees, derivatives per ms.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import replay
import torch
from golden import folder
from torch import Tensor
from torch.func import grad, jacfwd, vmap

import mrsim
from mrsim import Tissue, epg
from mrsim.tree import replace
from mrsim.units import deg, ms

Data = dict[str, Tensor]
PARAMETERS = {
    "T1": ("T1_ms",),
    "T2": ("T2_ms", "T2star_ms"),
    "B1": ("B1",),
    "B0": ("B0_hz",),
    "inv_efficiency": ("inv_efficiency",),
}


def load(path: Path) -> Data:
    with np.load(path) as file:
        return {k: torch.tensor(file[k]) for k in file.files}


INDEX = json.loads((folder("sequences") / "index.json").read_text())


def tissue(p: Data, *, sign: int = 1) -> Tissue:
    return Tissue(
        T1=p["T1"] * ms,
        T2=p.get("T2", 0 * p["T1"] + 100) * ms,
        B1=p.get("B1"),
        df=sign * p["B0"] if "B0" in p else None,
    )


def fse(d: Data, p: Data, meta: str) -> Tensor:
    cut = re.search(r"orders 0\.\.(\d+)", meta)
    states = int(cut[1]) + 1 if cut else None
    seq = epg.FSE(flip=d["flip_deg"] * deg, esp=d["esp_ms"] * ms, states=states)
    if "TR_ms" not in d:
        return epg.fse(tissue(p), seq)
    signal = epg.run(tissue(p), _repeated(epg.fse_program(seq), d["TR_ms"] * ms, 2))
    return signal[-len(seq.flip) :]


def _repeated(train: epg.Program, TR: Tensor, times: int) -> epg.Program:
    """Play a train every TR; nothing dephases between its last echo and the next."""
    train = replay.part(train, 0, len(train.layout) - 1)
    still = torch.zeros(1)
    rest = (TR - train.duration.sum())[None]
    return epg.Program(
        flip=torch.cat([train.flip, still]).repeat(times),
        duration=torch.cat([train.duration, rest]).repeat(times),
        layout=(*train.layout, epg.Event()) * times,
        states=train.states,
    )


def mrf_fisp(d: Data, p: Data, _: str) -> Tensor:
    seq = epg.FISP(
        flip=d["flip_deg"] * deg,
        TR=d["TR_ms"] * ms,
        TI=d["TI_ms"] * ms,
        efficiency=p.get("inv_efficiency"),
    )
    return 1j * epg.fisp(tissue(p), seq)


def mrf_bssfp(d: Data, p: Data, _: str) -> Tensor:
    seq = epg.BSSFP(
        flip=d["flip_deg"] * deg,
        TR=d["TR_ms"] * ms,
        TE=d["TE_ms"] * ms,
        TI=d["TI_ms"] * ms,
        phase=d["phase_deg"] * deg,
    )
    return epg.bssfp(tissue(p, sign=-1), seq)


def mpnrage(d: Data, p: Data, _: str) -> Tensor:
    seq = epg.MPRAGE(
        flip=(d["flip_deg"] * deg).expand(int(d["nshots"])),
        TR=d["TR_ms"] * ms,
        TI=d["TI_ms"] * ms,
        efficiency=p.get("inv_efficiency"),
    )
    return 1j * epg.mprage(tissue(p), seq)


def mprage(d: Data, p: Data, _: str) -> Tensor:
    before = int(d["nshots"]) // 2
    seq = epg.MPRAGE(
        flip=(d["flip_deg"] * deg).expand(before + 1),
        TR=d["TRspgr_ms"] * ms,
        TI=d["TI_ms"] * ms,
        efficiency=p.get("inv_efficiency"),
        centre=before,
    )
    return 1j * epg.mprage(tissue(p), seq)[before:]


def mp2rage(d: Data, p: Data, _: str) -> Tensor:
    before, after = d["nshots"].tolist()
    shots, TR, cycle = before + after, d["TRspgr_ms"] * ms, d["TRmp2rage_ms"] * ms
    starts = d["TI_ms"] * ms - before * TR
    one = (epg.Event(pulse=True), epg.Event(spoil=True))
    train = one * before + (one[0]._replace(read=True), one[1]) + one * (after - 1)
    block = (epg.Event(invert=True), *train, epg.Event(), *train, epg.Event())
    ends = starts + shots * TR
    waits = torch.stack([starts[0], starts[1] - ends[0], cycle - ends[1]])
    still, flips = torch.zeros(1), d["flip_deg"] * deg
    flip, duration = [still], [waits[:1]]
    for i in range(2):
        flip += [torch.stack([flips[i], still[0]]).repeat(shots), still]
        duration += [torch.stack([still[0], TR]).repeat(shots), waits[i + 1 : i + 2]]
    rows = len(block) * 6
    program = epg.Program(
        flip=torch.cat(flip).repeat(6),
        duration=torch.cat(duration).repeat(6),
        efficiency=p["inv_efficiency"].expand(rows) if "inv_efficiency" in p else None,
        layout=block * 6,
    )
    return 1j * epg.run(tissue(p), program)[-2:]


def spgr(d: Data, p: Data, _: str) -> Tensor:
    seq = epg.SPGR(flip=p["flip"] * deg, TR=d["TR_ms"] * ms, TE=d["TE_ms"] * ms)
    return epg.spgr(tissue(p, sign=-1), seq)


def bssfp(d: Data, p: Data, _: str) -> Tensor:
    TR = d["TR_ms"] * ms
    seqs = (epg.BSSFP(flip=p["flip"] * deg, TR=TR, TE=TE) for TE in (TR / 2, TR))
    return torch.stack([epg.bssfp_steady(tissue(p), seq) for seq in seqs])


MODELS: dict[str, Callable[[Data, Data, str], Tensor]] = {
    "fse": fse,
    "mrf_fisp": mrf_fisp,
    "mrf_bssfp": mrf_bssfp,
    "mpnrage": mpnrage,
    "mprage": mprage,
    "mp2rage": mp2rage,
    "spgr": spgr,
    "bssfp": bssfp,
}
LATER = {
    "fse_two_pool": "exchange",
    "fisp_mt": "magnetisation transfer",
    "fse_diffusion": "diffusion",
}


def discovered(having: str = "ref_signal") -> list[Any]:
    """Return the files that store an array, as parameters of a test."""
    return [
        pytest.param(
            name,
            id=name,
            marks=[pytest.mark.skip(reason=f"no {LATER[entry['model']]} yet")]
            if entry["model"] in LATER
            else [],
        )
        for name, entry in INDEX.items()
        if having in load(folder("sequences") / f"{name}.npz")
    ]


def voxels(d: Data) -> Data:
    """Return the parameters that vary from voxel to voxel, in the file's units."""
    found = {
        name: d[key] for name, keys in PARAMETERS.items() for key in keys if key in d
    }
    each = d["flip_deg"].shape == found["T1"].shape
    return found | ({"flip": d["flip_deg"]} if each else {})


def columns(name: str) -> list[str]:
    """Return the parameters of a file's Jacobian, by index.json or the README."""
    text = (folder("sequences") / "README.md").read_text()
    axis = r"jac axis1=\(([^)]*)\)"
    listed = re.search(axis, INDEX[name]["meta"]) or re.search(f"{name}: {axis}", text)
    assert listed, f"neither says what the columns of {name}'s Jacobian are"
    return re.findall(r"[A-Za-z]\w*", re.sub(r"\[[^\]]*\]|'", "", listed[1]))


def close(made: Tensor, wanted: Tensor, rtol: float, *, each: bool = False) -> None:
    """Compare relative to the largest entry, of all or of each parameter (axis 1)."""
    size = wanted.abs().amax((0, 2), keepdim=True) if each else wanted.abs().max()
    assert made.shape == wanted.shape
    assert ((made - wanted).abs() <= rtol * size).all()


@pytest.mark.parametrize("name", discovered())
def test_signal(name: str) -> None:
    d, meta = load(folder("sequences") / f"{name}.npz"), INDEX[name]["meta"]
    model = MODELS[INDEX[name]["model"]]
    made = vmap(lambda p: model(d, p, meta))(voxels(d))
    close(made, d["ref_signal"], 1e-12)
    for peer in (k for k in d if k.endswith("_signal") and not k.startswith("ref")):
        close(made, d[peer], 1e-5)


@pytest.mark.parametrize("name", discovered("ref_jac"))
def test_jacobian(name: str) -> None:
    d, meta = load(folder("sequences") / f"{name}.npz"), INDEX[name]["meta"]
    model, wanted = MODELS[INDEX[name]["model"]], columns(name)

    def signal(p: Data) -> Tensor:
        return torch.view_as_real(model(d, p, meta).resolve_conj())

    made = vmap(jacfwd(signal))(voxels(d))
    made = torch.stack([torch.view_as_complex(made[n]) for n in wanted], 1)
    close(made, d["ref_jac"], 1e-10, each=True)
    for peer in (k for k in d if k.endswith("_jac") and not k.startswith("ref")):
        loose = "mp2rage" in name or (name, peer) == ("mrf_bssfp", "blochsim_jac")
        close(made, d[peer], 5e-5 if loose else 1e-5, each=True)


@pytest.mark.parametrize("name", discovered("ref_steady"))
def test_sixth_playing(name: str) -> None:
    d = load(folder("sequences") / f"{name}.npz")
    train = epg.fse_program(epg.FSE(flip=d["flip_deg"] * deg, esp=d["esp_ms"] * ms))
    program = _repeated(train, d["TR_ms"] * ms, 6)
    many = vmap(tissue)(voxels(d))
    made = vmap(epg.run, in_dims=(0, None))(many, program)
    close(made[:, -len(d["flip_deg"]) :], d["ref_steady"], 1e-12)


# ------------------------------------------------------ the Cramér-Rao bound of trains

COSTS = [
    pytest.param(load(path), prefix, id=f"{path.stem}-{prefix}")
    for path in sorted(folder("sequences").glob("crlb_*.npz"))
    for prefix in sorted(
        k.removesuffix("_cost")
        for k in load(path)
        if re.fullmatch(r"(states\d+|exact)_cost", k)
    )
]


@pytest.mark.parametrize(("d", "prefix"), COSTS)
def test_crlb(d: Data, prefix: str) -> None:
    kept = re.fullmatch(r"states(\d+)", prefix)
    voxel = Tissue(T1=d["T1_ms"] * ms, T2=d["T2_ms"] * ms)
    seq = epg.FSE(
        flip=d["flip_deg"] * deg,
        esp=d["esp_ms"] * ms,
        states=int(kept[1]) if kept else None,
    )
    close(epg.fse(voxel, seq), d[f"{prefix}_signal"], 1e-12)
    slope = mrsim.jac(epg.fse, "T2")(voxel, seq).T2 * ms
    close(slope, d[f"{prefix}_dsignal_dT2"], 1e-10)
    close(slope, d[f"{prefix}_dsignal_dT2_fd"], 1e-8)

    def cost(flip: Tensor) -> Tensor:
        bound = mrsim.crlb(epg.fse, "T2", sigma=1.0)
        return bound(voxel, replace(seq, flip=flip)).T2 / ms**2

    made, gradient = cost(seq.flip), grad(cost)(seq.flip) * deg
    close(made, d[f"{prefix}_cost"], 1e-10)
    close(gradient, d[f"{prefix}_grad"], 1e-9)
    close(gradient, d[f"{prefix}_grad_fd"], 1e-8)
    for key in (k for k in d if k.endswith(f"_{prefix}_cost")):
        close(made, d[key], 1e-5)
    for key in (k for k in d if k.endswith(f"_{prefix}_grad")):
        close(gradient, d[key], 1e-5)
