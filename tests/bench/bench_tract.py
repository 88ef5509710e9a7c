"""Streamlines: steps a second beside tckgen and dipy, and what derivatives cost.

python tests/bench/bench_tract.py [--seeds N] [--rounds N]
CPU seconds of one thread, interleaved in one run, medians; prints JSON. Needs the full
golden data (MRSIM_REFERENCE), mrtrix3 for tckgen and dipy for dipy's tracker.
"""

import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from timing import options, report
from torch import Tensor
from torch.func import vmap

from mrsim import tract
from mrsim.tract import field as lookup, peak, polynomial
from mrsim.tree import replace

torch.set_num_threads(1)
HOME = Path(os.environ.get("MRSIM_REFERENCE", "tests/reference/data")) / "tract"
STEPS = 40


def cpu(f: Callable[[], Any], children: bool = False) -> tuple[float, Any]:
    who = resource.RUSAGE_CHILDREN if children else resource.RUSAGE_SELF
    before = resource.getrusage(who)
    out = f()
    after = resource.getrusage(who)
    user, system = after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime
    return user + system, out


def load() -> tuple[tract.Field, tract.Seed]:
    with np.load(HOME / "fod.npz") as held:
        image, affine = (held[k].astype(np.float32) for k in ("fod", "affine"))
    with np.load(HOME / "p1_main.npz") as held:
        seeds, ways = held["seeds"], held["init_dir"]
    fod = tract.Field(coefficients=torch.tensor(image), affine=torch.tensor(affine))
    ways = torch.tensor(np.nan_to_num(ways, nan=1.0)).float()
    return fod, tract.Seed(position=torch.tensor(seeds).float(), direction=ways)


def write(folder: Path, fod: tract.Field, seeds: Tensor) -> None:
    import nibabel as nib

    affine = fod.affine.double().numpy()
    image = nib.Nifti1Image(fod.coefficients.numpy(), affine)
    nib.save(image, folder / "fod.nii")
    v = np.linalg.inv(affine) @ np.c_[seeds.numpy(), np.ones(len(seeds))].T
    mask = np.zeros(fod.coefficients.shape[:3], np.uint8)
    mask[tuple(np.rint(v[:3]).astype(int))] = 1
    nib.save(nib.Nifti1Image(mask, affine), folder / "mask.nii")


def tckgen(folder: Path) -> int:
    """Run tckgen on the same seeds; return the vertices of its tracks."""
    command = ["tckgen", "fod.nii", "out.tck", "-algorithm", "SD_STREAM", "-quiet"]
    command += ["-seed_grid_per_voxel", "mask.nii", "2", "-nthreads", "0", "-force"]
    subprocess.run(command, cwd=folder, check=True)
    import nibabel as nib

    return len(nib.streamlines.load(folder / "out.tck").streamlines._data)


def dipy_steps(fod: tract.Field, seeds: Tensor, ways: Tensor) -> int:
    from dipy.data import get_sphere
    from dipy.tracking.stopping_criterion import ThresholdStoppingCriterion
    from dipy.tracking.tracker import deterministic_tracking

    image = fod.coefficients.double().numpy()
    affine = fod.affine.double().numpy()
    stop = ThresholdStoppingCriterion((image[..., 0] > 0.05).astype(float), 0.5)
    made = deterministic_tracking(
        seeds.double().numpy(),
        stop,
        affine,
        seed_directions=ways.double().numpy(),
        sh=image,
        sphere=get_sphere(name="repulsion724"),
        basis_type="tournier07",
        legacy=False,
        nbr_threads=1,
        max_angle=20,
        step_size=0.2154,
        max_len=1000,
    )
    return sum(map(len, made))


def unrolled(fod: tract.Field, seeds: tract.Seed, iterations: int) -> Tensor:
    """Return the ends after STEPS steps by plain autograd through Newton's steps."""
    values = polynomial.polynomial(fod.coefficients.flatten(0, 2))
    turn = lookup.inverse(fod.affine)[..., None]
    shape = tuple(fod.coefficients.shape[:3])
    p, u = seeds.position.t(), seeds.direction.t()
    for _ in range(STEPS):
        corners = lookup.trilinear(lookup.voxels(turn, p), shape, slopes=False)
        rows = values[corners.rows]  # (8, B, N)
        c = (rows * corners.weights[..., None]).sum(0).t()
        for _ in range(iterations):
            u = peak.refine(c, u)
        p = p + 0.2154 * u
    return p


def derivatives(fod: tract.Field, seeds: tract.Seed, count: int) -> dict[str, float]:
    base = tract.tracks(seeds, fod, tract.options(fod))
    good = base.accepted & (base.seed_index > STEPS)
    ids = good.nonzero()[:count, 0]
    first = base.offsets[ids] + base.seed_index[ids]
    way = torch.nn.functional.normalize(base.points[first - 1] - base.points[first])
    some = tract.Seed(position=seeds.position[ids], direction=way)
    opts = replace(tract.options(fod, unidirectional=True), most=STEPS + 1, lanes=count)
    many = vmap(tract.stream, in_dims=(0, None, None))
    out: dict[str, float] = {}

    def measured(name: str, ends: Callable[[tract.Field], Tensor]) -> None:
        field = replace(fod, coefficients=fod.coefficients.clone().requires_grad_())
        saved: dict[int, int] = {}

        def pack(x: Tensor) -> Tensor:
            saved[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            forward, y = cpu(lambda: ends(field))
        backward, _ = cpu(lambda: y.sum().backward())
        image = 2 * fod.coefficients.numel() * 4
        held = sum(n for n in saved.values() if n < image // 2)
        out[f"{name} forward s"] = forward
        out[f"{name} backward s"] = backward
        out[f"{name} backward/forward"] = backward / forward
        out[f"{name} bytes a step"] = held / (count * STEPS)

    def adjoint(field: tract.Field) -> Tensor:
        track = many(some, field, opts)
        return track.points[:, STEPS]

    for _ in range(2):  # the second is kept: the first fills caches
        measured("adjoint", adjoint)
    measured("unrolled 3", lambda field: unrolled(field, some, 3))
    return out


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--seeds", type=int, help="all")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    fod, seeds = load()
    some = slice(given.seeds)
    seeds = tract.Seed(position=seeds.position[some], direction=seeds.direction[some])
    opts = tract.options(fod)
    fast = replace(opts, compiled=True, lanes=8192)
    tract.tracks(
        replace(seeds, position=seeds.position[:9], direction=seeds.direction[:9]),
        fod,
        fast,
    )
    rates: dict[str, list[float]] = {}

    def run(name: str, f: Callable[[], int], children: bool = False) -> None:
        seconds, steps = cpu(f, children)
        rates.setdefault(name, []).append(steps / seconds)
        print(name, round(steps / seconds), file=sys.stderr, flush=True)

    def ours(chosen: tract.Options) -> int:
        made = tract.tracks(seeds, fod, chosen)
        return int(made.offsets.diff()[made.accepted].sum())

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if shutil.which("tckgen"):
            write(folder, fod, seeds.position)
        for _ in range(given.rounds):
            if shutil.which("tckgen"):
                run("tckgen", lambda: tckgen(folder), children=True)
            run("compiled", lambda: ours(fast))
            run("eager", lambda: ours(opts))
            if find_spec("dipy"):
                some = torch.arange(0, len(seeds.position), 60)
                parts = seeds.position[some], seeds.direction[some]
                run("dipy", lambda parts=parts: dipy_steps(fod, *parts))
    out: dict[str, Any] = {k: round(median(v)) for k, v in rates.items()}
    out["steps/s of accepted tracks, each round"] = {
        k: [round(x) for x in v] for k, v in rates.items()
    }
    for peer in ("tckgen", "dipy"):
        for mine in ("compiled", "eager"):
            if peer in rates:
                pairs = zip(rates[mine], rates[peer], strict=True)
                out[f"{mine}/{peer}"] = median(a / b for a, b in pairs)
    out["derivatives"] = derivatives(fod, seeds, 2000)
    report(out, given.json)


if __name__ == "__main__":
    main()
