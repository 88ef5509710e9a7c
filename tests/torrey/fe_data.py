"""Finite-element cases of the golden data, in mm and s."""

import json
from functools import cache
from typing import Any, NamedTuple

import golden
import numpy as np
import torch

from mrsim import torrey
from mrsim.units import um, us

FOLDER = golden.folder("torrey")


class Case(NamedTuple):
    """A mesh, its water, its sequences and what they should give."""

    data: dict[str, np.ndarray]
    nodes: torrey.Nodes
    topology: torrey.Topology
    water: torrey.Water
    sequences: list[dict[str, Any]]

    @property
    def mesh(self) -> tuple[torrey.Nodes, torrey.Topology, torrey.Water]:
        return self.nodes, self.topology, self.water


def names(key: str) -> list[str]:
    """Return the cases that hold an array."""
    found = sorted(p.stem for p in FOLDER.glob("fe_*.npz"))
    return [n for n in found if key in np.load(FOLDER / f"{n}.npz").files]


def mesh(data: dict[str, np.ndarray]) -> tuple[torrey.Nodes, torrey.Topology]:
    """Return the mesh of a case's arrays, which are in micrometres."""
    return torrey.make_mesh(
        data["points"] * um,
        data["elements"],
        data["elem_marker"],
        data["facets"],
        data["facet_marker"],
    )


@cache
def case(name: str) -> Case:
    data = dict(np.load(FOLDER / f"{name}.npz"))
    nodes, topology = mesh(data)
    corners = {tuple(sorted(f)): k for k, f in enumerate(data["facets"].tolist())}
    values = dict(zip(data["kappa_ids"].tolist(), data["kappa"].tolist(), strict=True))

    def rows(facets: torch.Tensor, marker: torch.Tensor, count: int) -> torch.Tensor:
        """Return kappa of every marker, found by one of its facets."""
        points = topology.point[facets].tolist()
        made = [0.0] * count
        for three, row in zip(points, marker.tolist(), strict=True):
            at = data["facet_marker"][corners[tuple(sorted(three))]]
            made[row] = values[int(at)] * um / us
        return torch.tensor(made)

    T2 = torch.tensor(data["T2"] * us)
    water = torrey.Water(
        D=torch.tensor(data["D"] * um**2 / us),
        T2=None if T2.isinf().all() else T2,
        rho=torch.tensor(data["rho"]),
        kappa=rows(topology.inner[:, 0], topology.inner_marker, topology.inners),
        relaxivity=rows(topology.outer, topology.outer_marker, topology.outers),
    )
    sequences = json.loads(str(data["meta"]))["sequences"]
    return Case(data, nodes, topology, water, sequences)


def encoding(about: dict[str, Any], q: float, direction: np.ndarray) -> Any:
    """Return the encoding of a sequence at q [rad/(µm µs)]."""
    kind = getattr(torrey, about["type"])
    times = {n: about[n] * us for n in ("delta", "Delta")}
    if "tpause" in about:
        times["pause"] = about["tpause"] * us
    more = {"periods": int(about["nperiod"])} if "nperiod" in about else {}
    return kind(q=q / (um * us), direction=direction.tolist(), **times, **more)
