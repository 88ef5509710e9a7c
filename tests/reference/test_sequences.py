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
import torch
from golden import folder
from torch import Tensor
from torch.func import grad, jacfwd, vmap

import mrsim
from mrsim import Bound, Exchange, Tissue, epg
from mrsim.tree import replace
from mrsim.units import deg, m, ms, um

Data = dict[str, Any]
PARAMETERS = {
    "T1": ("T1_ms",),
    "T2": ("T2_ms", "T2star_ms"),
    "B1": ("B1",),
    "B0": ("B0_hz",),
    "inv_efficiency": ("inv_efficiency",),
    "D": ("D_um2_per_ms",),
}


def load(path: Path) -> Data:
    """Return a file's arrays as tensors, and its whole numbers as tuples of ints."""
    with np.load(path) as file:
        arrays = {k: file[k] for k in file.files}
    return {
        k: tuple(map(int, a.flatten())) if a.dtype.kind == "i" else torch.tensor(a)
        for k, a in arrays.items()
    }


INDEX = json.loads((folder("sequences") / "index.json").read_text())


def tissue(p: Data, *, sign: int = 1) -> Tissue:
    return Tissue(
        T1=p["T1"] * ms,
        T2=p.get("T2", 0 * p["T1"] + 100) * ms,
        B1=p.get("B1"),
        df=sign * p["B0"] if "B0" in p else None,
        D=p["D"] * (um**2 / ms) if "D" in p else None,
    )


def train(d: Data, meta: str, **fields: Any) -> epg.FSE:
    cut = re.search(r"orders 0\.\.(\d+)", meta)
    return epg.FSE(
        flip=d["flip_deg"] * deg,
        esp=d["esp_ms"] * ms,
        states=int(cut[1]) + 1 if cut else None,
        **fields,
    )


def fse(d: Data, p: Data, meta: str) -> Tensor:
    TR = {"TR": d["TR_ms"] * ms, "repeats": 2} if "TR_ms" in d else {}
    return epg.fse(tissue(p), train(d, meta, **TR))


def fse_diffusion(d: Data, p: Data, meta: str) -> Tensor:
    moment = d["crusher_rad"] / (d["voxel_m"] * m)
    return epg.fse(tissue(p), train(d, meta, moment=moment))


def fse_two_pool(d: Data, p: Data, meta: str) -> Tensor:
    other = {"T1": p["poolB_T1"] * ms, "T2": p["poolB_T2"] * ms}
    exchange = Exchange(
        **other,
        f=p["poolB_fraction"],
        k=p["poolB_exchange"],
        df=p["poolB_shift"],
        directional=False,
    )
    return epg.fse(replace(tissue(p), exchange=exchange), train(d, meta))


def mrf_fisp(d: Data, p: Data, _: str) -> Tensor:
    seq = epg.FISP(
        flip=d["flip_deg"] * deg,
        TR=d["TR_ms"] * ms,
        TI=d["TI_ms"] * ms,
        efficiency=p.get("inv_efficiency"),
    )
    return 1j * epg.fisp(tissue(p), seq)


def fisp_mt(d: Data, p: Data, meta: str) -> Tensor:
    saturation = None
    if meta == "saturated":
        B1 = 1 if p.get("B1") is None else p["B1"]
        saturation = d["sat_per_rad2"] * (B1 * d["flip_deg"] * deg).square()
    bound = Bound(
        f=d["bound_fraction"],
        k=d["bound_exchange_per_s"],
        T1=d["T1_bound_ms"] * ms,
        directional=False,
    )
    seq = epg.FISP(flip=d["flip_deg"] * deg, TR=d["TR_ms"] * ms, saturation=saturation)
    return 1j * epg.fisp(replace(tissue(p), bound=bound), seq)


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
        flip=(d["flip_deg"] * deg).expand(*d["nshots"]),
        TR=d["TR_ms"] * ms,
        TI=d["TI_ms"] * ms,
        efficiency=p.get("inv_efficiency"),
    )
    return 1j * epg.mprage(tissue(p), seq)


def mprage(d: Data, p: Data, _: str) -> Tensor:
    before = d["nshots"][0] // 2
    seq = epg.MPRAGE(
        flip=(d["flip_deg"] * deg).expand(before + 1),
        TR=d["TRspgr_ms"] * ms,
        TI=d["TI_ms"] * ms,
        efficiency=p.get("inv_efficiency"),
        centre=before,
    )
    return 1j * epg.mprage(tissue(p), seq)[before:]


def mp2rage(d: Data, p: Data, _: str) -> Tensor:
    seq = epg.MP2RAGE(
        flip=d["flip_deg"] * deg,
        TI=d["TI_ms"] * ms,
        TR=d["TRspgr_ms"] * ms,
        cycle=d["TRmp2rage_ms"] * ms,
        efficiency=p.get("inv_efficiency"),
        shots=d["nshots"],
        repeats=6,
    )
    return 1j * epg.mp2rage(tissue(p), seq)


def spgr(d: Data, p: Data, _: str) -> Tensor:
    seq = epg.SPGR(flip=p["flip"] * deg, TR=d["TR_ms"] * ms, TE=d["TE_ms"] * ms)
    return epg.spgr(tissue(p, sign=-1), seq)


def bssfp(d: Data, p: Data, _: str) -> Tensor:
    TR = d["TR_ms"] * ms
    seqs = (epg.BSSFP(flip=p["flip"] * deg, TR=TR, TE=TE) for TE in (TR / 2, TR))
    return torch.stack([epg.bssfp_steady(tissue(p), seq) for seq in seqs])


MODELS: dict[str, Callable[[Data, Data, str], Tensor]] = {
    "fse": fse,
    "fse_two_pool": fse_two_pool,
    "fse_diffusion": fse_diffusion,
    "fisp_mt": fisp_mt,
    "mrf_fisp": mrf_fisp,
    "mrf_bssfp": mrf_bssfp,
    "mpnrage": mpnrage,
    "mprage": mprage,
    "mp2rage": mp2rage,
    "spgr": spgr,
    "bssfp": bssfp,
}


def discovered(having: str = "ref_signal") -> list[Any]:
    """Return the files that store an array, as parameters of a test."""
    return [
        pytest.param(name, id=name)
        for name in INDEX
        if having in load(folder("sequences") / f"{name}.npz")
    ]


def voxels(d: Data) -> Data:
    """Return the parameters that vary from voxel to voxel, in the file's units."""
    if "cases" in d:
        names = ("T1", "poolB_T1", "T2", "poolB_T2", "poolB_fraction")
        return dict(
            zip((*names, "poolB_exchange", "poolB_shift"), d["cases"].mT, strict=True)
        )
    found = {
        name: d[key] for name, keys in PARAMETERS.items() for key in keys if key in d
    }
    each = d["flip_deg"].shape == found["T1"].shape
    return found | ({"flip": d["flip_deg"]} if each else {})


def columns(name: str) -> list[str]:
    """Return the parameters of a file's Jacobian, by index.json or the README."""
    text = (folder("sequences") / "README.md").read_text()
    axis = r"jac (?:axis1=\(|order: \[)([^)\]]*[^)]*?)[)\]]"
    meta = re.sub(r"\[[^'\]]*\]", "", INDEX[name]["meta"])  # units, not lists of names
    listed = re.search(axis, meta) or re.search(f"{name}: {axis}", text)
    assert listed, f"neither says what the columns of {name}'s Jacobian are"
    return re.findall(r"[A-Za-z]\w*", listed[1].replace("'", ""))


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
    if "ref_signal_sat" in d:  # the peer's pulses saturate the bound pool
        made = vmap(lambda p: model(d, p, "saturated"))(voxels(d))
        close(made, d["ref_signal_sat"], 1e-12)
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
    differences = "finite" in meta or "central FD" in meta
    close(made, d["ref_jac"], 1e-8 if differences else 1e-10, each=True)
    for peer in (k for k in d if k.endswith("_jac") and not k.startswith("ref")):
        loose = "mp2rage" in name or (name, peer) == ("mrf_bssfp", "blochsim_jac")
        close(made, d[peer], 5e-5 if loose else 1e-5, each=True)


@pytest.mark.parametrize("name", discovered("ref_steady"))
def test_sixth_playing(name: str) -> None:
    d, meta = load(folder("sequences") / f"{name}.npz"), INDEX[name]["meta"]
    seq = train(d, meta, TR=d["TR_ms"] * ms, repeats=6)
    made = vmap(epg.fse, in_dims=(0, None))(vmap(tissue)(voxels(d)), seq)
    close(made, d["ref_steady"], 1e-12)


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
