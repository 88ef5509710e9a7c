"""What physics costs: CPU time of a train against that of one free pool.

``python tests/bench/bench_physics.py``: one thread, interleaved, medians, JSON.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from timing import options, report
from torch import Tensor
from torch.func import vmap

from mrsim import Bound, Exchange, Tissue, epg, grid
from mrsim.tree import put, replace
from mrsim.units import deg, ms

SPINS, ECHOES, ROUNDS = 10_000, 96, 5


def train(**physics: Any) -> epg.Program:
    flip = [180 * deg] + [120 * deg] * (ECHOES - 1)
    program = epg.fse_program(epg.FSE(flip=flip, esp=5 * ms))
    rows = len(program.layout)
    return replace(program, clock=(0,) * rows, **physics)


def voxels(**physics: Any) -> Tissue:
    T2 = torch.linspace(0.04, 0.2, SPINS)
    return grid(Tissue(T1=1.0, T2=0.1, **physics), T2=T2)


def cases() -> dict[str, Callable[[], Tensor]]:
    two = Exchange(T1=0.5, T2=0.02, f=0.2, k=10.0)
    moved = torch.tensor([25.0])
    saturation = torch.full((1,), 0.2)
    irradiated = {"power": torch.full((1,), 2e4), "offset": torch.full((1,), 2e3)}

    def of(tissue: Tissue, program: epg.Program, *, shared: str = "") -> Any:
        dims: Any = 0
        if shared:
            value = getattr(tissue, shared)[0]

            def f(t: Tissue) -> Tensor:
                return epg.run(put(t, shared, value), program)

            return lambda: vmap(f, in_dims=dims)(put(tissue, shared, None))
        return lambda: vmap(epg.run, in_dims=(dims, None))(tissue, program)

    D = torch.tensor(1e-3)
    return {
        "one pool": of(voxels(), train()),
        "two pools with exchange (4)": of(voxels(exchange=two), train()),
        "... and chemical shift (14)": of(
            voxels(exchange=replace(two, df=torch.tensor(-12.0))), train()
        ),
        "magnetisation transfer (2.5)": of(
            voxels(bound=Bound(f=0.1, k=4.0, T1=1.0)), train(saturation=saturation)
        ),
        "... with its super-Lorentzian": of(
            voxels(bound=Bound(f=0.1, k=4.0, T1=1.0, T2=11e-6)), train(**irradiated)
        ),
        "diffusion, one D (1.3)": of(voxels(D=D), train(moment=moved), shared="D"),
        "diffusion, D of each voxel (2.2)": of(voxels(D=D), train(moment=moved)),
    }


def main() -> None:
    given = options(__doc__).parse_args()
    torch.set_num_threads(1)
    made = cases()
    spent: dict[str, list[float]] = {name: [] for name in made}
    for round_ in range(ROUNDS + 1):
        for name, f in made.items():
            start = time.process_time()
            f()
            if round_:
                spent[name].append(time.process_time() - start)
    one = statistics.median(spent["one pool"])
    rows = {n: round(statistics.median(t) / one, 2) for n, t in spent.items()}
    report({"seconds for one pool": round(one, 3), "ratio": rows}, given.json)


if __name__ == "__main__":
    main()
