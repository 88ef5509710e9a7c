"""A whole brain, end to end: fingerprints matched to a dictionary, spin echoes fitted.

The MNI152 brain (1.9 million voxels, 1 mm; needs nilearn's files) becomes maps of T1,
T2, M0 and B1; a 16-echo train is simulated, made noisy and fitted for T2, B1 and M0;
a dictionary of inversion-recovery FISP over T1, T2 and B1 is simulated, compressed and
matched to noisy signals of all voxels. Prints JSON: wall time of rank 0, CPU time of
all ranks, memory, errors. What is done is kept: killed, it goes on where it was::

    torchrun --nproc-per-node 2 tests/bench/bench_brain.py --share 1
    python tests/bench/bench_brain.py --share 0.05        # a twentieth of all of it
"""

import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from timing import options, report
from torch import Tensor
from torch.func import vmap

import mrsim
from mrsim import Tissue, epg, fit, io, match, phantom, shard
from mrsim.tree import tree_map
from mrsim.units import deg, ms

RANGES = {"T1": (0.3, 5.0), "T2": (0.02, 2.5), "B1": (0.75, 1.25)}
NOISE = 0.01  # standard deviation of a channel, of M0
LEVELS = 8  # of B1, so that the brain has few different fingerprints


class Head(NamedTuple):
    """The voxels of a brain, and those that differ."""

    tissue: Tissue  # (voxel,)
    kinds: Tissue  # (kind,)
    kind: Tensor  # (voxel,) which


def main() -> None:
    """Run all stages and print."""
    parser = options(__doc__)
    parser.add_argument("--share", type=float, default=0.05, help="of voxels and atoms")
    parser.add_argument("--atoms", type=float, default=1e6)
    parser.add_argument("--pulses", type=int, default=500)
    parser.add_argument("--rank", type=int, default=10)
    parser.add_argument("--folder", type=Path, default=Path("bench-brain"))
    parser.add_argument("--skip-fit", action="store_true")
    parser.add_argument("--skip-match", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with shard.join() as world:
        clock = Clock(world)
        brain = clock("phantom", lambda: head(args.share))
        result: dict[str, Any] = {"voxels": len(brain.kind), "ranks": world.size}
        if not args.skip_fit:
            result |= fitted(clock, brain, args.folder / "fit")
        if not args.skip_match:
            result |= matched(clock, brain, args)
        clock.report(result, args.json)


def head(share: float) -> Head:
    """The brain's voxels, every n-th of them."""
    images = {name: io.load(path).data for name, path in io.mni152().items()}
    inside = images["t1"] > 0
    grey, white = (images[name][inside] / 255 for name in ("gm", "wm"))
    made = phantom.brain(grey, white, (1 - grey - white).clamp(min=0))
    place = inside.nonzero().float()
    place = (place - place.mean(0)) / place.std(0)
    bias = 1.1 - 0.08 * place.square().sum(1)
    level = ((bias.clamp(0.8, 1.2) - 0.8) / 0.4 * (LEVELS - 1)).round()
    made = mrsim.replace(made, B1=0.8 + 0.4 * level / (LEVELS - 1))
    some = tree_map(lambda x: x[:: round(1 / share)], made)
    rows = torch.stack([some.T1, some.T2, some.M0, some.B1], 1)
    kinds, kind = rows.unique(dim=0, return_inverse=True)
    T1, T2, M0, B1 = kinds.unbind(1)
    return Head(some, Tissue(T1=T1, T2=T2, M0=torch.ones_like(M0), B1=B1), kind)


def noise(start: int, shape: tuple[int, ...]) -> Tensor:
    """Draw noise that belongs to a voxel, whoever computes it."""
    source = torch.Generator().manual_seed(start)
    return NOISE * torch.randn(shape, generator=source)


def fitted(clock: "Clock", brain: Head, folder: Path) -> dict[str, Any]:
    """Simulate a 16-echo train in every voxel and fit T2, B1 and M0 to it."""
    flips = torch.tensor(
        [170, 136, 95, 99, 106, 97, 85, 87, 92, 89, 82, 80, 82, 81, 82, 94]
    )
    train = epg.FSE(flip=flips * deg, esp=8 * ms)
    bounds = {"T2": (0.005, 4.0), "B1": (0.6, 1.4)}

    def model(tissue: Tissue, seq: epg.FSE) -> Tensor:
        return epg.fse(tissue, seq).real

    solve = fit.variable_projection(model, "T2", "B1", bounds=bounds, sigma=NOISE)

    def work(start: int, stop: int) -> dict[str, Tensor]:
        some = tree_map(lambda x: x[start:stop], brain.tissue)
        data = vmap(model, (0, None))(some, train)
        data = data + noise(start, tuple(data.shape))
        begin = Tissue(T1=1.2, T2=0.08, M0=1.0, B1=1.0)
        found = fit.maps(solve, data, begin, train)
        values = {n: getattr(found.params, n) for n in ("T2", "B1", "M0")}
        return {**values, "good": found.converged}

    size = 2**14
    store = clock("fit", lambda: shard.run(work, len(brain.kind), folder, size))
    made = {n: shard.read(store, n) for n in ("T2", "B1", "M0", "good")}
    tissue = brain.tissue
    error = (made["T2"] / tissue.T2 - 1).abs()[made["good"] & (tissue.T2 < 0.2)]
    return {
        "fit_voxels_per_cpu_s": round(len(brain.kind) / clock.cpu("fit")),
        "fit_converged": float(made["good"].float().mean()),
        "fit_T2_median_error": float(error.median()),
    }


def matched(clock: "Clock", brain: Head, args: Any) -> dict[str, Any]:
    """Make a dictionary, simulate the fingerprints of all voxels and match them."""
    t = torch.arange(args.pulses)
    flip = (10 + 50 * torch.sin(torch.pi * (t % 250) / 250).abs()) * deg
    train = epg.FISP(flip=flip, TR=12 * ms, TE=3 * ms, TI=20 * ms)
    atoms = match.sobol(
        Tissue(T1=1.0, T2=0.1, B1=1.0),
        int(args.atoms * args.share),
        log=("T1", "T2"),
        keep=lambda x: x.T2 <= x.T1,
        **RANGES,
    )
    unknowns = ("T1", "T2", "B1")
    d = clock(
        "basis",
        lambda: match.dictionary(
            epg.fisp, atoms, train, rank=args.rank, unknowns=unknowns, samples=512
        ),
    )
    size = 2**16
    store = clock("generate", lambda: match.build(d, args.folder / "atoms", size))
    kinds = clock("voxels", lambda: fingerprints(d, brain, args.folder / "kinds"))

    signal = shard.read(kinds, "signal")

    def work(start: int, stop: int) -> dict[str, Tensor]:
        s = signal[brain.kind[start:stop]]
        s = s * brain.tissue.M0[start:stop, None]
        s = s + torch.view_as_complex(noise(start, (*s.shape, 2)))
        return {"coefs": match.compress(d, s)}

    voxels = len(brain.kind)
    data = clock("noise", lambda: shard.run(work, voxels, args.folder / "data", 2**13))

    def search(start: int, stop: int) -> dict[str, Tensor]:
        some = shard.read(data, "coefs", start, stop)
        return match.match(d, some, store=whole, compressed=True)._asdict()

    whole = store
    block = -(-voxels // (2 * clock.world.size))
    maps = clock(
        "match", lambda: shard.run(search, voxels, args.folder / "maps", block)
    )
    found = match.params(atoms, shard.read(maps, "index"))
    tissue = brain.tissue
    errors = {
        f"match_{n}_median_error": float(
            (getattr(found, n) / getattr(tissue, n) - 1).abs().nanmedian()
        )
        for n in unknowns
    }
    return {
        **errors,
        "atoms": atoms.count,
        "energy_lost_in_basis": d.lost,
        "variance_inflation_of_basis": d.inflation,
        "atoms_per_cpu_s": round(atoms.count / clock.cpu("generate")),
        "matched_voxels_per_cpu_s": round(voxels / clock.cpu("match")),
        "pairs_per_cpu_s": f"{voxels * atoms.count / clock.cpu('match'):.3g}",
    }


def fingerprints(d: match.Dictionary, brain: Head, folder: Path) -> shard.Store:
    """Simulate every kind of voxel."""
    plain = d._replace(atoms=match.listed(brain.kinds), basis=None, real=False)

    def work(start: int, stop: int) -> dict[str, Tensor]:
        return {"signal": match.coefs(plain, torch.arange(start, stop))}

    return shard.run(work, plain.atoms.count, folder, 2**13)


class Clock:
    """Times stages: wall time of this rank, CPU time of all."""

    def __init__(self, world: shard.World) -> None:
        self.world = world
        self.stages: dict[str, dict[str, float]] = {}

    def __call__(self, name: str, stage: Callable[[], Any]) -> Any:
        """Run a stage."""
        wall, cpu = time.perf_counter(), time.process_time()
        made = stage()
        spent = self.total(time.process_time() - cpu)
        self.stages[name] = {
            "wall_s": round(time.perf_counter() - wall, 1),
            "cpu_s": round(spent, 1),
        }
        if self.world.rank == 0:
            print(name, self.stages[name], flush=True)
        return made

    def cpu(self, name: str) -> float:
        """CPU seconds of a stage on all ranks."""
        return max(0.1, self.stages[name]["cpu_s"])

    def total(self, x: float) -> float:
        """The sum over ranks."""
        if not self.world.joined:
            return x
        shared = torch.tensor(x, dtype=torch.float64)
        dist.all_reduce(shared)
        return float(shared)

    def report(self, result: dict[str, Any], file: Path | None) -> None:
        """Print, and keep, all that was measured, on rank 0."""
        peak = self.total(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
        sums = {
            key: round(sum(s[key] for s in self.stages.values()), 1)
            for key in ("wall_s", "cpu_s")
        }
        whole = {"stages": self.stages, "sum": sums, "peak_GiB_of_all_ranks": peak}
        if self.world.rank == 0:
            report({**result, **whole}, file)


if __name__ == "__main__":
    main()
