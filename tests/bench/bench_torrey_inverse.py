"""Shapes and permeability from noisy signals, each with its Cramér-Rao bound.

Data have SNR 50 at b = 0: 3 shells of q × 30 directions × 5 diffusion times. They come
from a finer mesh than the one that is fitted, with more modes. It prints JSON:
``python tests/bench/bench_torrey_inverse.py [case …] [--picture FILE]``
"""

import json
import sys
import time
import warnings
from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import vmap

import mrsim
from mrsim import torrey, tract
from mrsim.torrey._surface_distance import surface_distance
from mrsim.units import ms, um

torch.set_default_dtype(torch.float64)
torch.set_num_threads(1)
SIGMA = 1 / 50
STIFFNESS = 0.5
STEPS = 24
DELTA = 8 * ms
DIFFUSION_TIMES = torch.tensor([12.0, 20, 35, 60, 100]) * ms
SHELLS = torch.tensor([0.4, 0.8, 1.2]) / um / DELTA
DIRECTIONS = tract.hemisphere(30)
WATER = torrey.Water(D=2e-3)


@mrsim.record
class Cell:
    """A shape and what fills it."""

    shape: torrey.Ball
    water: torrey.Water


def signals(nodes, topology, water, modes: int, shells: Tensor = SHELLS) -> Tensor:
    """Return the signals of the whole protocol (450,)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a cut that completes a group of modes
        basis = torrey.laplace(nodes, topology, water, modes=modes)

    def one(q: Tensor, u: Tensor) -> Tensor:
        # the pulses' propagators depend on q alone: one each for all diffusion times
        def wait(t: Tensor) -> Tensor:
            delta = torch.tensor(DELTA)
            pair = torrey.PGSE(q=q, direction=u, delta=delta, Delta=t)
            return torrey.signal(basis, pair).real

        return vmap(wait)(DIFFUSION_TIMES)

    q = shells.repeat_interleave(len(DIRECTIONS))
    return vmap(one)(q, DIRECTIONS.repeat(len(shells), 1)).flatten()


def noisy(clean: Tensor, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return clean + SIGMA * torch.randn(clean.shape, generator=generator)


def fitted(model: Callable, data: Tensor, start, *names: str) -> tuple:
    """Fit, and return the parameters, their bounds and what the fit took."""
    began = time.process_time()
    found = torrey.recover(model, *names, sigma=SIGMA, progress=True)(data, start)
    about = {
        "steps": len(found.history) - 1,
        "chi2 of one signal": float(2 * found.cost / data.numel()),
        "cpu s": time.process_time() - began,
    }
    return found.params, found.covariance.diagonal().sqrt(), about


def row(made: Tensor, true: Tensor, bound: Tensor) -> dict:
    made, true = made.reshape(-1), true.reshape(-1)
    return {
        "true": true.tolist(),
        "found": made.tolist(),
        "error %": (100 * (made / true - 1).abs()).tolist(),
        "bound (sd) %": (100 * bound.reshape(-1) / true).tolist(),
    }


def sphere() -> dict:
    true = torrey.Ball(radii=5 * um)
    fine, far = torrey.mesh_sphere(true.radii, size=1 * um)
    data = noisy(signals(fine, far, WATER, 64))
    chart, topology = torrey.sphere_chart((4,))

    def model(x: torrey.Ball) -> Tensor:
        return signals(torrey.ball(chart, x), topology, WATER, 30)

    found, sd, about = fitted(model, data, torrey.Ball(radii=3.5 * um), "radii")
    return {"radius [mm]": row(found.radii, true.radii, sd), **about}


def cylinder() -> dict:
    true = torrey.Axon(radii=3 * um, length=10 * um)
    fine, far = torrey.mesh_cylinder(true.radii, 10 * um, size=0.8 * um)
    data = noisy(signals(fine, far, WATER, 64))
    chart, topology = torrey.cylinder_chart((3,), slices=6)

    def model(x: torrey.Axon) -> Tensor:
        return signals(torrey.axon(chart, x), topology, WATER, 26)

    start = torrey.Axon(radii=2 * um, length=8 * um)
    found, sd, about = fitted(model, data, start, "radii", "length")
    return {
        "radius [mm]": row(found.radii, true.radii, sd[0]),
        "length [mm]": row(found.length, true.length, sd[1]),
        **about,
    }


def ellipsoid() -> dict:
    true = torrey.Ellipsoid(axes=torch.tensor([3.0, 4.0, 6.0]) * um)
    fine, far = torrey.mesh_ellipsoid(true.axes, size=1.1 * um)
    data = noisy(signals(fine, far, WATER, 64))
    chart, topology = torrey.sphere_chart((4,))

    def model(x: torrey.Ellipsoid) -> Tensor:
        return signals(torrey.ellipsoid(chart, x), topology, WATER, 34)

    start = torrey.Ellipsoid(axes=torch.tensor([4.0, 4.4, 4.8]) * um)
    found, sd, about = fitted(model, data, start, "axes")
    return {"semi-axes [mm]": row(found.axes, true.axes, sd), **about}


def permeability() -> dict:
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
    found, sd, about = fitted(model, data, start, "water.kappa", "water.D")
    return {
        "kappa [mm/s]": row(found.water.kappa, true.kappa, sd[0]),
        "D [mm²/s]": row(found.water.D, true.D, sd[1]),
        **about,
    }


def draw(path: str, meshes: dict, history: Tensor) -> None:
    """Render meshes side by side, and how the loss fell."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from mrsim import torrey_files

    figure = plt.figure(figsize=(14, 4))
    for k, (name, mesh) in enumerate(meshes.items()):
        space = figure.add_subplot(1, 4, k + 1, projection="3d")
        torrey_files.draw_mesh(space, *mesh)
        space.set_title(name)
    torrey_files.draw_history(figure.add_subplot(1, 4, 4), history)
    figure.savefig(path, dpi=120)


def centred(nodes: torrey.Nodes, topology: torrey.Topology) -> torrey.Nodes:
    """Return a mesh about its centre of mass."""
    each = torrey.volumes(nodes, topology)
    middle = torrey.corners(nodes, topology).mean(1)
    centre = (each[:, None] * middle).sum(0) / each.sum()
    return torrey.Nodes(points=nodes.points - centre)


def apart(nodes, topology, true, true_topology) -> float:
    """Return the distance up to what no PGSE signal tells: place and inversion."""
    here, there = centred(nodes, topology), centred(true, true_topology)
    turned = torrey.Nodes(points=-here.points)
    return min(
        float(surface_distance(x, topology, there, true_topology))
        for x in (here, turned)
    )


def free_nodes() -> dict:
    """Recover a bent, beaded cylinder node by node from a straight start."""
    true = torrey.Axon(
        radii=3 * um, length=12 * um, bead=0.2, bead_length=12 * um, bend=1 / (14 * um)
    )
    far_chart, far = torrey.cylinder_chart((3,), slices=12)
    fine = torrey.axon(far_chart, true)
    data = noisy(signals(fine, far, WATER, 64))
    chart, topology = torrey.cylinder_chart((2,), slices=8)
    # all but straight (0.3 µm off in the middle): straight is a saddle by symmetry
    nearly = torrey.Axon(radii=3 * um, length=12 * um, bend=1 / (60 * um))
    start = torrey.axon(chart, nearly)

    def loss(x: torrey.Nodes) -> Tensor:
        misfit = (signals(x, topology, WATER, 26) - data) / SIGMA
        return misfit.square().mean() + STIFFNESS * torrey.distortion(
            x, topology, start
        )

    steps = []

    def watch(step: int, x: torrey.Nodes, value: float) -> None:
        away = apart(x, topology, fine, far) / (3 * um)
        steps.append((step, value, away))
        print(step, f"{value:.4f} {away:.4f}", file=sys.stderr)

    began = time.process_time()
    found = torrey.optimise_mesh(
        loss,
        start,
        metric=torrey.smooth_metric(start, topology, length=4 * um),
        iterations=STEPS,
        callback=watch,
        progress=True,
    )
    if PICTURE:
        meshes = {
            "start": (start, topology),
            "found": (found.params, topology),
            "true": (fine, far),
        }
        draw(PICTURE[0], meshes, found.history)
    return {
        "surface distance / radius at start": apart(start, topology, fine, far)
        / (3 * um),
        "found": apart(found.params, topology, fine, far) / (3 * um),
        "loss": found.history[[0, -1]].tolist(),
        "steps": len(found.history) - 1,
        "cpu s": time.process_time() - began,
    }


def bent_bound() -> dict:
    """Return how well the bent cylinder could be known if its family were."""
    true = torrey.Axon(
        radii=3 * um, length=12 * um, bead=0.2, bead_length=12 * um, bend=1 / (14 * um)
    )
    chart, topology = torrey.cylinder_chart((2,), slices=8)

    def model(x: torrey.Axon) -> Tensor:
        return signals(torrey.axon(chart, x), topology, WATER, 30)

    names = ("radii", "length", "bead", "bend")
    covariance = mrsim.covariance(mrsim.fisher(model, *names, sigma=SIGMA)(true))
    root = torch.linalg.cholesky(covariance)
    generator = torch.Generator().manual_seed(0)
    at = torch.stack([getattr(true, n) for n in names])
    exact = (torrey.axon(chart, true), topology)
    away = []
    for _ in range(20):
        draw = at + root @ torch.randn(len(names), generator=generator)
        shape = mrsim.replace(true, **dict(zip(names, draw, strict=True)))
        away.append(apart(torrey.axon(chart, shape), topology, *exact) / (3 * um))
    sd = covariance.diagonal().sqrt()
    return {
        "bound (sd) %": dict(zip(names, (100 * sd / at).tolist(), strict=True)),
        "surface distance / radius of an efficient estimate": sum(away) / len(away),
    }


CASES = {
    "sphere": sphere,
    "cylinder": cylinder,
    "ellipsoid": ellipsoid,
    "permeability": permeability,
    "free nodes": free_nodes,
    "bound of the bent cylinder": bent_bound,
}


PICTURE: list[str] = []


def main(arguments: list[str]) -> None:
    if "--picture" in arguments:
        PICTURE.append(arguments[arguments.index("--picture") + 1])
    chosen = [a for a in arguments if a in CASES] or list(CASES)
    print(json.dumps({name: CASES[name]() for name in chosen}, indent=1))


if __name__ == "__main__":
    main(sys.argv[1:])
