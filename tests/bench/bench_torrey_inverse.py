"""Shapes and permeability from noisy signals, each with its Cramér-Rao bound.

Data have SNR 50 at b = 0: 3 shells of q × 30 directions × 5 diffusion times, and for
free nodes 9 shells × 120 directions of a pair of pulses with a phase. They come from a
finer mesh than the one that is fitted, with more modes. It prints JSON:
``python tests/bench/bench_torrey_inverse.py [case …] [--picture FOLDER] [--seeds N]``
"""

import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from inverse_nodes import MODES, node_bound, released, seen, smooth_prior
from inverse_pictures import exchange_picture, picture
from inverse_signals import (
    DIFFUSION_TIMES,
    SHELLS,
    SIGMA,
    WATER,
    grid,
    noisy,
    signals,
)
from timing import options, report
from torch import Tensor

import mrsim
from mrsim import torrey
from mrsim.units import um

torch.set_default_dtype(torch.float64)
torch.set_num_threads(1)


@mrsim.record
class Cell:
    """A shape and what fills it."""

    shape: torrey.Ball
    water: torrey.Water


def fitted(
    model: Callable, data: Tensor, start, *names: str, tolerance: float = 1e-2
) -> tuple:
    """Fit, and return what was found, its way, its bounds and what it took."""
    began, way = time.process_time(), [start]
    found = torrey.recover(
        model,
        *names,
        sigma=SIGMA,
        tolerance=tolerance,
        callback=lambda _step, x, _cost: way.append(x),
        progress=True,
    )(data, start)
    about = {
        "steps": len(found.history) - 1,
        "mean squared residual": float(2 * found.cost / data.numel()),
        "cpu s": time.process_time() - began,
    }
    return found, way, about


def row(made: Tensor, true: Tensor, bound: Tensor) -> dict:
    made, true = made.reshape(-1), true.reshape(-1)
    return {
        "true": true.tolist(),
        "found": made.tolist(),
        "error %": (100 * (made / true - 1).abs()).tolist(),
        "bound (sd) %": (100 * bound.reshape(-1) / true).tolist(),
    }


def shape_case(name: str, place: Callable, chart: tuple, modes: int, fine, folder):
    """Return a function that fits a shape of a chart to the signals of a fine mesh."""

    def model(x) -> Tensor:
        return signals(place(chart[0], x), chart[1], WATER, modes)

    def run(start, *names: str) -> tuple:
        data = noisy(signals(*fine, WATER, 64))
        found, _, about = fitted(model, data, start, *names)
        meshes = {
            "start": (place(chart[0], start), chart[1]),
            "found": (place(chart[0], found.params), chart[1]),
            "true": fine,
        }
        picture(folder, name, meshes, data, model(start), model(found.params))
        return found.params, found.covariance.diagonal().sqrt(), about

    return run


def sphere(folder: Path | None) -> dict:
    true = torrey.Ball(radii=5 * um)
    fine = torrey.mesh_sphere(true.radii, size=1 * um)
    chart = torrey.sphere_chart((4,))
    run = shape_case("sphere", torrey.ball, chart, 30, fine, folder)
    found, sd, about = run(torrey.Ball(radii=3.5 * um), "radii")
    return {"radius [mm]": row(found.radii, true.radii, sd), **about}


def cylinder(folder: Path | None) -> dict:
    true = torrey.Axon(radii=3 * um, length=10 * um)
    fine = torrey.mesh_cylinder(true.radii, 10 * um, size=0.8 * um)
    chart = torrey.cylinder_chart((3,), slices=6)
    run = shape_case("cylinder", torrey.axon, chart, 26, fine, folder)
    start = torrey.Axon(radii=2 * um, length=8 * um)
    found, sd, about = run(start, "radii", "length")
    return {
        "radius [mm]": row(found.radii, true.radii, sd[0]),
        "length [mm]": row(found.length, true.length, sd[1]),
        **about,
    }


def ellipsoid(folder: Path | None) -> dict:
    true = torrey.Ellipsoid(axes=torch.tensor([3.0, 4.0, 6.0]) * um)
    fine = torrey.mesh_ellipsoid(true.axes, size=1.1 * um)
    chart = torrey.sphere_chart((4,))
    run = shape_case("ellipsoid", torrey.ellipsoid, chart, 34, fine, folder)
    start = torrey.Ellipsoid(axes=torch.tensor([4.0, 4.4, 4.8]) * um)
    found, sd, about = run(start, "axes")
    return {"semi-axes [mm]": row(found.axes, true.axes, sd), **about}


def permeability(folder: Path | None) -> dict:
    """Recover exchange with a thin layer of short T2, such as myelin's, and D."""
    shells = SHELLS / 3
    shape = torrey.Ball(radii=[4 * um, 6 * um])
    true = torrey.Water(D=2e-3, T2=[0.15, 0.01], kappa=0.02)
    fine, far = torrey.mesh_sphere(shape.radii, size=1.3 * um)
    data = noisy(signals(fine, far, true, 64, shells))
    chart, topology = torrey.sphere_chart((2, 1))

    def model(x: Cell) -> Tensor:
        nodes = torrey.ball(chart, x.shape)
        return signals(nodes, topology, x.water, 34, shells)

    guess = torrey.Water(D=1.5e-3, T2=true.T2, kappa=0.04)
    start = Cell(shape=shape, water=guess)
    found, way, about = fitted(model, data, start, "water.kappa", "water.D")
    sd = found.covariance.diagonal().sqrt()
    both = lambda w: torch.stack([w.kappa.reshape(()), w.D.reshape(())])  # noqa: E731
    walk = torch.stack([both(x.water) for x in way])
    made = model(start), model(found.params)
    exchange_picture(folder, walk, both(true), found.covariance, data, *made)
    return {
        "kappa [mm/s]": row(found.params.water.kappa, true.kappa, sd[0]),
        "D [mm²/s]": row(found.params.water.D, true.D, sd[1]),
        **about,
    }


def centred(nodes: torrey.Nodes, topology: torrey.Topology) -> torrey.Nodes:
    """Return a mesh about its centre of mass: no signal tells the place."""
    each = torrey.volumes(nodes, topology)
    middle = torrey.corners(nodes, topology).mean(1)
    centre = (each[:, None] * middle).sum(0) / each.sum()
    return torrey.Nodes(points=nodes.points - centre)


def apart(nodes, topology, true, true_topology) -> float:
    """Return the mean distance of surfaces against the radius of the cylinder."""
    here, there = centred(nodes, topology), centred(true, true_topology)
    away = torrey.surface_distance(here, topology, there, true_topology)
    return float(away) / float(BENT.radii)


def bow(nodes: torrey.Nodes, topology: torrey.Topology) -> Tensor:
    """Return how the axis curves: the slope of x and y in z² over the volume (2,)."""
    each = torrey.volumes(nodes, topology)
    middle = torrey.corners(centred(nodes, topology), topology).mean(1)
    square = middle[:, 2].square()
    weight = each * (square - (each * square).sum() / each.sum())
    return (weight[:, None] * middle[:, :2]).sum(0) / (weight * square).sum()


BENT = torrey.Axon(
    radii=3 * um, length=18 * um, bead=0.2, bead_length=18 * um, bend=1 / (18 * um)
)
OTHER = mrsim.replace(BENT, bead=torch.tensor(-0.16))
RODS = {"swollen middle": (BENT, 0.0), "swollen ends": (OTHER, 2.3)}
ROD = torrey.cylinder_chart((2,), slices=12)
FINER_ROD = torrey.cylinder_chart((3,), slices=18)  # tells what the first one misses
FINE_ROD = torrey.cylinder_chart((4,), slices=24)
SEED = 10  # the first: others chose the protocol and the prior


def rod(chart: torrey.Chart, shape: torrey.Axon, turn: float) -> torrey.Nodes:
    """Place a rod, turned about z."""
    x, y, z = torrey.axon(chart, shape).points.unbind(-1)
    c, s = math.cos(turn), math.sin(turn)
    return torrey.Nodes(points=torch.stack([c * x - s * y, s * x + c * y, z], -1))


def judged(nodes: torrey.Nodes, true: torrey.Nodes) -> dict:
    """Return the distance of the surfaces, and the share of the bow that is there."""
    wanted, made = bow(true, FINE_ROD[1]), bow(nodes, ROD[1])
    return {
        "surface distance / radius": apart(nodes, ROD[1], true, FINE_ROD[1]),
        "bow found / true": float(made @ wanted / (wanted @ wanted)),
    }


def one_rod(data: Tensor, true: torrey.Nodes) -> tuple:
    """Recover a cylinder node by node from the straight one that fits best.

    The signals of a finer mesh of that straight one tell what the coarse mesh misses.
    """
    began = time.process_time()
    chart, topology = ROD
    pgse = data[: len(grid(SHELLS)[0]) * len(DIFFUSION_TIMES)]
    straight, _, _ = fitted(
        lambda x: signals(torrey.axon(chart, x), topology, WATER, MODES),
        pgse,
        torrey.Axon(radii=2.5 * um, length=15 * um),
        "radii",
        "length",
        tolerance=0.1,
    )
    start = torrey.axon(chart, straight.params)
    size = straight.params
    prior = smooth_prior(start, float(size.length), float(size.radii))
    finer = torrey.axon(FINER_ROD[0], straight.params)
    missed = seen(finer, FINER_ROD[1], 44) - seen(start, topology)
    found = released(data - missed, prior, topology)
    about = {
        "start": judged(start, true),
        "found": judged(found.nodes, true),
        "mean squared residual": float(found.residual),
        "bound": node_bound(found, prior, topology, float(BENT.radii)),
        "cpu s": time.process_time() - began,
    }
    print(json.dumps(about), file=sys.stderr)
    return start, found.nodes, about


def one_shape(name: str, folder: Path | None, seeds: int) -> dict:
    """Recover one of the rods from several draws of the noise."""
    shape, turn = RODS[name]
    true = rod(FINE_ROD[0], shape, turn)
    clean = seen(true, FINE_ROD[1], 80)
    runs = [one_rod(noisy(clean, SEED + k), true) for k in range(seeds)]
    start, found, _ = runs[0]
    meshes = {
        "start": (start, ROD[1]),
        "found": (found, ROD[1]),
        "true": (true, FINE_ROD[1]),
    }
    made = (seen(x, ROD[1]) for x in (start, found))
    picture(folder, f"free nodes {name}", meshes, noisy(clean, SEED), *made)
    others = {
        "truth on the fitted mesh": shape,
        "without its bend": mrsim.replace(shape, bend=torch.tensor(0.0)),
        "without its bead": mrsim.replace(shape, bead=torch.tensor(0.0)),
        "bent the other way": mrsim.replace(shape, bend=-shape.bend),
    }
    every = [about["found"] for *_, about in runs]
    return {
        "worst surface distance / radius": max(
            x["surface distance / radius"] for x in every
        ),
        "bow found / true": [x["bow found / true"] for x in every],
        "for comparison": {
            n: judged(rod(ROD[0], x, turn), true) for n, x in others.items()
        },
        "seeds": [about for *_, about in runs],
    }


def free_nodes(folder: Path | None, seeds: int) -> dict:
    """Recover bent, beaded cylinders node by node from a straight start."""
    return {name: one_shape(name, folder, seeds) for name in RODS}


def bent_bound() -> dict:
    """Return how well the bent cylinder could be known if its family were."""
    chart, topology = ROD

    def model(x: torrey.Axon) -> Tensor:
        return seen(torrey.axon(chart, x), topology)

    names = ("radii", "length", "bead", "bend")
    covariance = mrsim.covariance(mrsim.fisher(model, *names, sigma=SIGMA)(BENT))
    root = torch.linalg.cholesky(covariance)
    generator = torch.Generator().manual_seed(0)
    at = torch.stack([getattr(BENT, n) for n in names])
    exact = (torrey.axon(chart, BENT), topology)
    away = []
    for _ in range(20):
        drawn = at + root @ torch.randn(len(names), generator=generator)
        shape = mrsim.replace(BENT, **dict(zip(names, drawn, strict=True)))
        away.append(apart(torrey.axon(chart, shape), topology, *exact))
    sd = covariance.diagonal().sqrt()
    return {
        "bound (sd) %": dict(zip(names, (100 * sd / at).tolist(), strict=True)),
        "surface distance / radius of an efficient estimate": sum(away) / len(away),
    }


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--picture", type=Path, metavar="FOLDER", help="save pictures")
    parser.add_argument("--seeds", type=int, default=1, help="of the free nodes")
    parser.add_argument("case", nargs="*", help="of the report; none: all")
    asked = parser.parse_args()
    cases: dict[str, Callable[[], dict]] = {
        "sphere": lambda: sphere(asked.picture),
        "cylinder": lambda: cylinder(asked.picture),
        "ellipsoid": lambda: ellipsoid(asked.picture),
        "permeability": lambda: permeability(asked.picture),
        "free nodes": lambda: free_nodes(asked.picture, asked.seeds),
        "bound of the bent cylinder": bent_bound,
    }
    report({name: cases[name]() for name in asked.case or cases}, asked.json)


if __name__ == "__main__":
    main()
