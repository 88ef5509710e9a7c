"""Golden data of the finite-element model and of its gradients."""

import json
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import golden
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import grad
from torrey.fe_data import mesh

from mrsim import torrey
from mrsim.tree import replace
from mrsim.units import um, us

FOLDER = golden.folder("torrey")
CASES = sorted(p.stem for p in FOLDER.glob("fe_*.npz"))
GRADS = sorted(p.stem for p in FOLDER.glob("grad_*.npz"))
OF_Q = 1 / (um * us)


class Case(NamedTuple):
    """A mesh, its water in mm and s, and what it should give."""

    data: dict[str, Any]
    nodes: torrey.Nodes
    topology: torrey.Topology
    water: torrey.Water
    sequences: list[dict[str, Any]]

    @property
    def amount(self) -> float:
        return float((self.data["rho"] * self.data["volumes"]).sum())


@cache
def case(name: str) -> Case:
    data = dict(np.load(Path(FOLDER) / f"{name}.npz"))
    nodes, topology = mesh(data)
    speed = um / us
    inside = {int(k): float(x) * speed for k, x in zip(*_kappa(data, 2), strict=True)}
    outside = [float(x) * speed for x in _kappa(data, 1)[1]]
    T2 = torch.tensor(data["T2"] * us)
    water = torrey.Water(
        D=torch.tensor(data["D"] * um**2 / us),
        T2=None if T2.isinf().all() else T2,
        rho=torch.tensor(data["rho"]),
        kappa=torch.tensor(list(inside.values())) if inside else None,
        relaxivity=torch.tensor(outside),
    )
    meta = json.loads(str(data["meta"]))
    return Case(data, nodes, topology, water, meta["sequences"])


def _kappa(data: dict[str, Any], sides: int) -> tuple[Any, Any]:
    """Return the ids and values of markers whose facets have so many tetrahedra."""
    corners = np.sort(data["elements"], 1)
    faces = np.concatenate([np.delete(corners, k, 1) for k in range(4)])
    unique, count = np.unique(faces, axis=0, return_counts=True)
    often = {tuple(f): int(n) for f, n in zip(unique, count, strict=True)}
    first = [
        often[tuple(np.sort(data["facets"][np.argmax(data["facet_marker"] == k)]))]
        for k in data["kappa_ids"]
    ]
    chosen = np.array(first) == sides
    return data["kappa_ids"][chosen], data["kappa"][chosen]


def encodings(c: Case, sequence: int) -> Any:
    """Return the encodings of a sequence at every b and direction, as a batch."""
    s = c.sequences[sequence]
    q = torch.tensor(c.data["qvals"][:, sequence]) * OF_Q
    u = torch.tensor(c.data["dirs"])
    count = len(q) * len(u)
    times = {k: s[k] * us for k in ("delta", "Delta", "tpause") if k in s}
    fields = {
        k.removeprefix("t"): torch.full((count,), v, dtype=torch.float64)
        for k, v in times.items()
    }
    if "nperiod" in s:
        fields["periods"] = int(s["nperiod"])
    return getattr(torrey, s["type"])(
        q=q.repeat_interleave(len(u)), direction=u.repeat(len(q), 1), **fields
    )


def parts(basis: torrey.Basis, c: Case, sequence: int) -> Tensor:
    """Return (compartment, b, direction) signals as integrals."""
    made = torch.func.vmap(torrey.signal_parts, (None, 0))(
        basis, encodings(c, sequence)
    )
    return made.T.unflatten(1, c.data["signal_trunc"].shape[1::2][:2]) * c.amount


def far(made: Tensor, wanted: Any, amount: float) -> float:
    """Return the largest error as a share of all spins."""
    return float((made - torch.as_tensor(wanted)).abs().max()) / amount


@pytest.mark.parametrize("name", CASES)
def test_eigenvalues_and_truncated_signals(name: str) -> None:
    c = case(name)
    count = int(c.data["neig"])
    mesh = (c.nodes, c.topology, c.water)
    wanted = torch.tensor(c.data["eigenvalues"] / us)
    lam, _ = torrey.laplace_modes(*mesh, modes=count)
    zero = wanted.abs() < 1e-10 * wanted.max()
    error = (lam - wanted[:count]).abs()
    assert (error <= 1e-10 * torch.where(zero, wanted.max(), wanted)[:count]).all()
    basis = torrey.laplace(*mesh, modes=count)
    assert basis.decay.shape == (count, count)
    volumes = torrey.compartment_volumes(c.nodes, c.topology)
    golden.close(volumes, torch.tensor(c.data["volumes"]) * um**3, 1e-12)
    for k, s in enumerate(c.sequences):
        made = parts(basis, c, k)
        if "OGSE" in s["type"]:
            at = c.data["ogse_seq_index"].tolist().index(k)
            exact = c.data["signal_trunc_ogse_timeconverged"][:, at]
            assert far(made.sum(0), exact, c.amount) <= 1e-6, s
        else:
            exact = c.data["signal_trunc"][:, :, k]
            assert far(made, exact, c.amount) <= 1e-10, s


@pytest.mark.parametrize("name", CASES)
def test_complete_signals(name: str) -> None:
    c = case(name)
    if "signal_full" not in c.data:
        pytest.skip("the file has no signals of the complete model")
    basis = torrey.laplace(c.nodes, c.topology, c.water)
    for at, k in enumerate(c.data["full_seq_index"]):
        exact = c.data["signal_full"][:, :, at]
        assert far(parts(basis, c, int(k)), exact, c.amount) <= 1e-10
    if "signal_btpde_midpoint" in c.data:  # of a time step that is not converged
        exact = c.data["signal_btpde_midpoint"][:, :, 0]
        assert far(parts(basis, c, 0), exact, c.amount) <= 1e-4


@pytest.mark.parametrize("name", GRADS)
def test_gradients_of_the_complete_model(name: str) -> None:
    data = dict(np.load(Path(FOLDER) / f"{name}.npz"))
    c = case(json.loads(str(data["meta"]))["case"])
    inner = torch.zeros(0) if c.water.kappa is None else c.water.kappa
    finite = torch.tensor(c.data["T2"] * us).nan_to_num(posinf=1e12)
    given = {
        "points": (c.nodes.points, um),
        "D": (c.water.D, um**2 / us),
        "R2": (1 / finite, 1 / us),
        "inner": (inner, um / us),
        "outer": (torch.zeros(c.topology.outers), um / us),
        "q": (torch.tensor(data["q"]) * OF_Q, OF_Q),
        "u": (torch.tensor(data["direction"]), 1.0),
        "delta": (torch.tensor(data["delta"]) * us, us),
        "Delta": (torch.tensor(data["Delta"]) * us, us),
    }

    def signal(x: dict[str, Tensor]) -> Tensor:
        kappa = x["inner"] if len(inner) else None
        water = replace(
            c.water, D=x["D"], T2=1 / x["R2"], kappa=kappa, relaxivity=x["outer"]
        )
        basis = torrey.laplace(torrey.Nodes(points=x["points"]), c.topology, water)
        pair = torrey.PGSE(
            q=x["q"], direction=x["u"], delta=x["delta"], Delta=x["Delta"]
        )
        return torrey.signal(basis, pair).real * basis.amount / um**3

    at = {k: v for k, (v, _) in given.items()}
    golden.close(signal(at), float(data["signal"]), 1e-11)
    made = {k: g * given[k][1] for k, g in grad(signal)(at).items()}
    sides = np.isin(data_ids(c), _kappa(c.data, 2)[0])
    made["kappa"] = torch.empty(len(sides))
    made["kappa"][torch.tensor(sides)] = made.pop("inner")
    made["kappa"][torch.tensor(~sides)] = made.pop("outer")
    for key, g in made.items():
        wanted = torch.tensor(data[f"d_{key}"])
        tolerance = 1e-7 if key == "Delta" else 1e-9
        error = (g.reshape(wanted.shape) - wanted).abs().max()
        assert error <= tolerance * wanted.abs().max(), (key, error)


def data_ids(c: Case) -> Any:
    """Return the ids of all markers, sorted as the values are."""
    return c.data["kappa_ids"]
