"""Shapes and permeability from noisy signals, each with its Cramér-Rao bound.

Data have SNR 50 at b = 0: 3 shells of q × 30 directions × 5 diffusion times, and for
free nodes one pair of pulses with a phase. They come from a finer mesh than the one
that is fitted, with more modes. It prints JSON:
``python tests/bench/bench_torrey_inverse.py [case …] [--picture FOLDER] [--seeds N]``
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from inverse_nodes import node_bound, released, seen
from inverse_pictures import exchange_picture, picture
from inverse_signals import SHELLS, SIGMA, WATER, noisy, signals
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


def fitted(model: Callable, data: Tensor, start, *names: str) -> tuple:
    """Fit, and return what was found, its way, its bounds and what it took."""
    began, way = time.process_time(), [start]
    found = torrey.recover(
        model,
        *names,
        sigma=SIGMA,
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


BENT = torrey.Axon(
    radii=3 * um, length=12 * um, bead=0.2, bead_length=12 * um, bend=1 / (14 * um)
)
ROD = torrey.cylinder_chart((2,), slices=10)


def bow(nodes: torrey.Nodes) -> float:
    """Return how far the ends of the axis lie from its middle, as a share of truth."""
    chart, _ = ROD

    def of(x: torrey.Nodes) -> Tensor:
        middle, ends = ((chart.along.abs() - h).abs() < 1e-9 for h in (0, 0.5))
        return (x.points[ends].mean(0) - x.points[middle].mean(0)).norm()

    return float(of(nodes) / of(torrey.axon(chart, BENT)))


def one_rod(data: Tensor, fine: tuple) -> tuple:
    """Recover a cylinder node by node from the straight one that fits best."""
    began = time.process_time()
    chart, topology = ROD
    straight, _, _ = fitted(
        lambda x: seen(torrey.axon(chart, x), topology),
        data,
        torrey.Axon(radii=2.5 * um, length=10 * um),
        "radii",
        "length",
    )
    start = torrey.axon(chart, straight.params)
    made = released(data, start, topology)
    about = {
        "start: surface distance / radius": apart(start, topology, *fine),
        "found: surface distance / radius": apart(made[0], topology, *fine),
        "bend found / true": bow(made[0]),
        "mean squared residual": made[-1],
        "cpu s": time.process_time() - began,
    }
    print(json.dumps(about), file=sys.stderr)
    return start, made, about


def free_nodes(folder: Path | None, seeds: int) -> dict:
    """Recover a bent, beaded cylinder node by node from a straight start.

    The bead comes back; of the bend, which signals tell less of, the stiffness keeps
    most: its share is reported beside the distance, which alone does not show it.
    """
    chart, topology = ROD
    far_chart, far = torrey.cylinder_chart((4,), slices=16)
    fine = torrey.axon(far_chart, BENT), far
    clean = seen(*fine, 64)
    runs = [one_rod(noisy(clean, k), fine) for k in range(seeds)]
    start, (found, rest, share, *_), _ = runs[0]
    meshes = {"start": (start, topology), "found": (found, topology), "true": fine}
    made = (seen(x, topology) for x in (start, found))
    picture(folder, "free nodes", meshes, noisy(clean), *made)
    every = [about["found: surface distance / radius"] for *_, about in runs]
    at_truth = torrey.axon(chart, BENT)
    return {
        "surface distance / radius, mean of seeds": sum(every) / len(every),
        "worst": max(every),
        "of the mesh alone": apart(at_truth, topology, *fine),
        "bound": node_bound(found, rest, share, topology, float(BENT.radii)),
        "seeds": [about for *_, about in runs],
    }


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
