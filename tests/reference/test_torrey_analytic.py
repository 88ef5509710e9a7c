"""Slabs, cylinders and spheres against mesh-free references of another program.

Geometries are discovered in every file analytic_*.npz of the folder: new files and new
geometries of the same format are checked too.
"""

import json
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from golden import folder
from torch import Tensor
from torch.func import vmap

from mrsim import torrey
from mrsim.torrey._analytic import analytic, analytic_rates
from mrsim.torrey._gaussian_phase import gaussian_phase
from mrsim.torrey._short_pulse import short_pulse, short_pulse_limit
from mrsim.torrey.geometry import Cylinder, Slab, Sphere
from mrsim.tree import put

UM, US = 1e-3, 1e-6
KINDS = {"slab": Slab, "cylinder": Cylinder, "sphere": Sphere}
X = [1.0, 0.0, 0.0]


@cache
def arrays(name: str) -> dict[str, np.ndarray]:
    with np.load(folder("torrey") / f"{name}.npz") as file:
        return dict(file)


def cases(suffix: str) -> list[Any]:
    """Return the file and the geometry of every array whose name ends so."""
    found = []
    for path in sorted(folder("torrey").glob("analytic_*.npz")):
        names = json.loads(str(arrays(path.stem)["meta"]))
        found += [
            pytest.param(path.stem, n, id=f"{path.stem}-{n}")
            for n in names
            if f"{n}_{suffix}" in arrays(path.stem)
        ]
    return found


def geometry(file: str, name: str) -> tuple[Any, torrey.Water]:
    about = json.loads(str(arrays(file)["meta"]))[name]
    kind = KINDS[about["geom"]]
    edges = torch.tensor(about["edges"]) * UM
    shape = kind(edges=edges) if kind is Slab else kind(radius=edges)
    T2 = [np.inf if t is None else t * US for t in about["T2"]]
    kappa = [k * UM / US for k in about["kappa"]] or None
    D = torch.tensor(about["D"]) * UM**2 / US
    return shape, torrey.Water(D=D, T2=T2, kappa=kappa)


def gradients(file: str) -> Tensor:
    return torch.tensor(arrays(file)["q"]) / (UM * US)


def over_q(f: Any, file: str, name: str, encoding: Any) -> Tensor:
    shape, water = geometry(file, name)
    return vmap(lambda q: f(shape, water, put(encoding, "q", q)))(gradients(file))


def error(made: list[Tensor], file: str, key: str) -> float:
    return float(np.abs(torch.stack(made).numpy() - arrays(file)[key]).max())


def pairs(file: str) -> list[torrey.PGSE]:
    times = arrays(file)["pgse_delta_Delta"] * US
    return [torrey.PGSE(q=0.0, direction=X, delta=a, Delta=b) for a, b in times]


@pytest.mark.parametrize(("file", "name"), cases("pgse"))
def test_pgse(file: str, name: str) -> None:
    made = [over_q(analytic, file, name, x) for x in pairs(file)]
    assert error(made, file, f"{name}_pgse") <= 1e-8


@pytest.mark.parametrize(("file", "name"), cases("dpgse"))
def test_double_pgse(file: str, name: str) -> None:
    made = [
        over_q(
            analytic,
            file,
            name,
            torrey.DoublePGSE(q=0.0, direction=X, delta=a, Delta=b, pause=c),
        )
        for a, b, c in arrays(file)["dpgse_delta_Delta_pause"] * US
    ]
    assert error(made, file, f"{name}_dpgse") <= 1e-8


@pytest.mark.parametrize(("file", "name"), cases("cosogse"))
def test_cosine(file: str, name: str) -> None:
    delta, Delta, periods = arrays(file)["ogse_delta_Delta_nperiod"]
    encoding = torrey.CosOGSE(
        q=0.0, direction=X, delta=delta * US, Delta=Delta * US, periods=int(periods)
    )
    made = over_q(analytic, file, name, encoding)
    assert np.abs(made.numpy() - arrays(file)[f"{name}_cosogse"]).max() <= 1e-6


@pytest.mark.parametrize(("file", "name"), cases("eig"))
def test_eigenvalues(file: str, name: str) -> None:
    shape, water = geometry(file, name)
    wanted = arrays(file)[f"{name}_eig"] / US
    fine = put(shape, "degree", 48 if isinstance(shape, Slab) else 24)
    made = analytic_rates(fine, water)[: len(wanted)].numpy()
    assert np.abs(made - wanted).max() <= 1e-8 * wanted.max()


@pytest.mark.parametrize(("file", "name"), cases("pgse_gpd"))
def test_gaussian_phase(file: str, name: str) -> None:
    made = [over_q(gaussian_phase, file, name, x) for x in pairs(file)]
    assert error(made, file, f"{name}_pgse_gpd") <= 1e-11


def moments(file: str, Delta: float) -> list[torrey.PGSE]:
    """Return short pulses of the file's areas."""
    areas = arrays(file)["sgpQ"] / UM
    delta = 1e-3
    return [
        torrey.PGSE(q=Q / delta, direction=X, delta=delta, Delta=Delta) for Q in areas
    ]


@pytest.mark.parametrize(("file", "name"), cases("sgp"))
def test_short_pulses(file: str, name: str) -> None:
    shape, water = geometry(file, name)
    made = [
        torch.stack([short_pulse(shape, water, x) for x in moments(file, T * US)])
        for T in arrays(file)["sgpT"]
    ]
    assert error(made, file, f"{name}_sgp") <= 1e-11


@pytest.mark.parametrize(("file", "name"), cases("sgp_longtime"))
def test_short_pulses_after_long_times(file: str, name: str) -> None:
    shape, water = geometry(file, name)
    made = [short_pulse_limit(shape, x) for x in moments(file, 1.0)]
    assert error(made, file, f"{name}_sgp_longtime") <= 1e-11
    made = [short_pulse(shape, water, x) for x in moments(file, 0.2)]
    assert error(made, file, f"{name}_sgp_longtime") <= 1e-11
