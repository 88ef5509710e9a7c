"""A neuron-like mesh at real size: modes, 256 signals and one gradient of the mesh.

Prints JSON: CPU seconds of each stage, on one thread, and the largest memory.

    OMP_NUM_THREADS=1 python tests/bench/bench_torrey_scale.py --modes 200 --json FILE
"""

import time
from collections.abc import Callable
from typing import Any

import torch
from timing import options, peak_bytes, report
from torch import Tensor
from torch.func import grad

from mrsim import torrey
from mrsim.units import ms, um


def measured(found: dict[str, float], name: str, f: Callable[[], Any]) -> Any:
    """Run a stage; write its CPU seconds and the peak memory so far [GiB]."""
    start = time.process_time()
    made = f()
    found[f"{name} [s]"] = round(time.process_time() - start, 2)
    found[f"peak after {name} [GiB]"] = round(peak_bytes() / 2**30, 2)
    return made


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--modes", type=int, default=200)
    parser.add_argument("--depth", type=int, default=3, help="of the branching")
    parser.add_argument("--size", type=float, default=1.05, help="of elements [µm]")
    parser.add_argument("--directions", type=int, default=64)
    given = parser.parse_args()
    torch.set_default_dtype(torch.float64)
    found: dict[str, float] = {}
    nodes, topology = measured(
        found,
        "mesh",
        lambda: torrey.mesh_neuron(
            torrey.example_neuron(depth=given.depth), size=given.size * um
        ),
    )[:2]
    water = torrey.Water(D=2 * um**2 / ms)
    pair = torrey.PGSE(q=1.0, direction=[1.0, 0, 0], delta=5 * ms, Delta=20 * ms)
    protocol = torrey.shells(
        pair, [500.0, 1500.0, 3000.0, 6000.0], torrey.directions(given.directions)
    )
    basis = measured(
        found,
        "basis",
        lambda: torrey.laplace(nodes, topology, water, modes=given.modes),
    )
    signal = measured(found, "signals", lambda: torrey.signals(basis, protocol))

    def misfit(points: Tensor) -> Tensor:
        moved = torrey.Nodes(points=points)
        made = torrey.laplace(moved, topology, water, modes=given.modes)
        return (torrey.signals(made, protocol) - 0.9 * signal).abs().square().sum()

    slope = measured(
        found, "basis, signals and gradient", lambda: grad(misfit)(nodes.points)
    )
    found |= {
        "points": len(nodes.points),
        "elements": len(topology.elements),
        "modes": len(basis.decay),
        "signals": len(signal),
        "finite": bool(slope.isfinite().all()),
    }
    report(found, given.json)


if __name__ == "__main__":
    main()
