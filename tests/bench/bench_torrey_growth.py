"""How cost grows with degrees of freedom, modes and signals, and error with mesh size.

Prints JSON of CPU seconds of one thread, medians, with the fitted powers, and draws
them with the convergence of P1 meshes to mesh-free slabs and spheres.

    python tests/bench/bench_torrey_growth.py --picture FILE --json FILE [--finest UM]
"""

import math
import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from drawing import finish
from timing import options, report, rounded
from torch.func import grad

from mrsim import plot, torrey

torch.set_default_dtype(torch.float64)
torch.set_num_threads(1)
WATER = torrey.Water(D=torch.tensor([2e-3]))
PAIR = torrey.PGSE(q=1.2e5, direction=[1.0, 0, 0], delta=5e-3, Delta=1.5e-2)
RADIUS = 5e-3


def seconds(run: Callable[[], Any], rounds: int) -> float:
    """Return the median CPU time of a run, after one that warms up."""
    run()
    times = []
    for _ in range(rounds):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return statistics.median(times)


def power(x: list[float], y: list[float]) -> float:
    """Return the exponent of y ∝ x^p by least squares."""
    rows = [(math.log(a), math.log(b)) for a, b in zip(x, y, strict=True)]
    mean = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
    top = sum((a - mean[0]) * (b - mean[1]) for a, b in rows)
    return top / sum((a - mean[0]) ** 2 for a, _ in rows)


def modes_of(mesh: Any, count: int) -> torrey.Basis:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a cut that completes a group of modes
        return torrey.laplace(*mesh, WATER, modes=count, method="sparse")


def with_nodes(sizes: list[float], rounds: int) -> dict[str, Any]:
    """Measure every stage on finer and finer spheres."""
    made: dict[str, list[float]] = {
        n: [] for n in ("dofs", "modes", "gradient", "steps")
    }
    for size in sizes:
        nodes, topology = mesh = torrey.mesh_sphere(RADIUS, size=size * 1e-3)

        def loss(points: torch.Tensor, topology: Any = topology) -> torch.Tensor:
            basis = modes_of((torrey.Nodes(points=points), topology), 48)
            return torrey.signal(basis, PAIR).real

        steps = torrey.count_steps(PAIR, 1e-4)
        slope = grad(loss)
        made["dofs"].append(len(topology.home))
        made["modes"].append(seconds(lambda m=mesh: modes_of(m, 48), rounds))
        made["gradient"].append(seconds(lambda f=slope, p=nodes.points: f(p), rounds))
        made["steps"].append(
            seconds(lambda m=mesh, s=steps: torrey.stepped(*m, WATER, PAIR, s), rounds)
        )
    powers = {n: power(made["dofs"], made[n]) for n in ("modes", "gradient", "steps")}
    return {**made, "powers": powers}


def with_edges(sizes: list[float]) -> dict[str, Any]:
    """Measure the errors of finer meshes against the mesh-free signals."""
    edges = [-RADIUS, RADIUS]
    shapes = {
        "slab": (torrey.Slab(edges=edges), partial(torrey.mesh_slab, edges)),
        "sphere": (torrey.Sphere(radius=RADIUS), partial(torrey.mesh_sphere, RADIUS)),
    }
    found: dict[str, Any] = {"slab": {}, "sphere": {}}
    for name, (shape, mesh) in shapes.items():
        exact, lengths, errors = torrey.analytic(shape, WATER, PAIR), [], []
        for size in sizes:
            nodes, topology = mesh(size=size * 1e-3)
            signal = (
                torrey.simulate(nodes, topology, WATER, PAIR)
                if name == "slab"
                else torrey.signal(modes_of((nodes, topology), 48), PAIR)
            )
            errors.append(float((signal - exact).abs()))
            lengths.append(edge_um(nodes, topology) if name == "sphere" else size)
        order = power(lengths, errors)
        found[name] = {"edge_um": lengths, "error": errors, "order": order}
    return found


def edge_um(nodes: torrey.Nodes, topology: torrey.Topology) -> float:
    """Return the edge of an equilateral triangle like the mean facet of a surface."""
    a, b, c = nodes.points[topology.point[topology.outer]].unbind(1)
    area = torch.linalg.cross(b - a, c - a).norm(dim=-1).mean() / 2
    return 1e3 * math.sqrt(4 / math.sqrt(3) * float(area))


def with_modes(counts: list[int], rounds: int) -> dict[str, Any]:
    """Measure one signal with more and more modes."""
    mesh = torrey.mesh_sphere(RADIUS, size=0.9e-3)
    bases = [modes_of(mesh, n) for n in counts]
    kept = [len(b.decay) for b in bases]
    spent = [seconds(lambda b=b: torrey.signal(b, PAIR), rounds) for b in bases]
    return {
        "modes": kept,
        "signal": spent,
        "power": power(list(map(float, kept)), spent),
    }


def with_signals(counts: list[int], rounds: int) -> dict[str, Any]:
    """Measure more and more directions at once."""
    basis = modes_of(torrey.mesh_sphere(RADIUS, size=1.2e-3), 48)
    spent = []
    for n in counts:
        pairs = torrey.shells(PAIR, [1000.0], torrey.directions(n))
        spent.append(seconds(lambda p=pairs: torrey.signals(basis, p), rounds))
    return {
        "signals": counts,
        "all": spent,
        "power": power(list(map(float, counts)), spent),
    }


def draw(found: dict[str, Any], file: str) -> None:
    """Plot a report on logarithmic axes."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    pyplot.rcParams.update(plot.STYLE)
    figure, axes = pyplot.subplots(1, 4, figsize=(23, 5.6), layout="constrained")
    nodes, modes, signals = (found[n] for n in ("nodes", "modes", "signals"))
    for name, p in nodes["powers"].items():
        label = f"{name} ∝ n$^{{{p:.2f}}}$"
        axes[0].loglog(nodes["dofs"], [1e3 * t for t in nodes[name]], "o-", label=label)
    finish(axes[0], "Larger meshes", "degrees of freedom n", "CPU time [ms]")
    label = f"∝ N$^{{{modes['power']:.2f}}}$"
    axes[1].loglog(
        modes["modes"], [1e3 * t for t in modes["signal"]], "o-", label=label
    )
    finish(axes[1], "One signal", "modes N", "CPU time [ms]")
    label = f"∝ S$^{{{signals['power']:.2f}}}$"
    spent = [1e3 * t for t in signals["all"]]
    axes[2].loglog(signals["signals"], spent, "o-", label=label)
    finish(axes[2], "All signals", "signals S", "CPU time [ms]")
    for name, x in found["edges"].items():
        label = f"{name} ∝ h$^{{{x['order']:.2f}}}$"
        axes[3].loglog(x["edge_um"], [1e3 * e for e in x["error"]], "o-", label=label)
    slab = found["edges"]["slab"]
    first = 1e3 * slab["error"][0]
    ideal = [first * (h / slab["edge_um"][0]) ** 2 for h in slab["edge_um"]]
    axes[3].loglog(slab["edge_um"], ideal, "k--", label="∝ h²")
    finish(axes[3], "Finer meshes", "edge of elements h [µm]", "error [‰ of S0]")
    figure.savefig(file, dpi=80)


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--picture")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--finest", type=float, default=0.6, help="edges [µm]")
    given = parser.parse_args()
    sizes = [s for s in (2.0, 1.4, 1.0, 0.7, 0.6, 0.5, 0.4) if s >= given.finest]
    found = {
        "nodes": with_nodes(sizes, given.rounds),
        "edges": with_edges([2.0, 1.4, 1.0, 0.7, 0.5]),
        "modes": with_modes([16, 32, 64, 128, 256], given.rounds),
        "signals": with_signals([8, 32, 128, 512], given.rounds),
    }
    report(rounded(found), given.json)
    if given.picture:
        draw(found, given.picture)


if __name__ == "__main__":
    main()
