"""Deconvolution: throughput beside MRtrix's dwi2fod, in one run. Prints JSON.

One thread, CPU time, medians; the programs take turns. Without MRtrix3, or dipy, their
rows are left out.

    python tests/bench/bench_csd.py --voxels 2000 --rounds 3
"""

import resource
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from timing import options, report
from torch import Tensor
from torch.func import grad, vmap

from mrsim import tract

AXIAL, RADIAL = torch.tensor(1.7e-3).double(), torch.tensor(3e-4).double()


def main() -> None:
    """Run all and print voxels per CPU-second."""
    parser = options(__doc__)
    parser.add_argument("--voxels", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        runs, checks = prepare(given.voxels, Path(name))
        seconds: dict[str, list[float]] = {key: [] for key in runs}
        for _ in range(given.rounds):
            for key, run in runs.items():
                seconds[key].append(run())
        rates = {k: given.voxels / statistics.median(v) for k, v in seconds.items()}
        found = {k: float(f"{v:.4g}") for k, v in rates.items()}
        report({"voxels/s": found} | checks(), given.json)


def prepare(count: int, folder: Path) -> tuple[dict, Callable[[], dict]]:
    generator = torch.Generator().manual_seed(0)
    parts = [(6, 0.0), (30, 1000.0), (60, 3000.0)]
    b = torch.cat([torch.full((n,), x).double() for n, x in parts])
    g = torch.cat([tract.hemisphere(n) for n, _ in parts])
    u = torch.randn(count, 2, 3, generator=generator).double()
    cosine = torch.einsum("vfk,gk->vfg", u / u.norm(dim=-1, keepdim=True), g)
    fibre = (-b * (RADIAL + (AXIAL - RADIAL) * cosine**2)).exp().mean(1)
    balls = torch.stack([(-b * 8e-4).exp(), (-b * 3e-3).exp()])
    share = torch.rand(count, 3, generator=generator).double()
    share = share / share.sum(-1, keepdim=True)
    clean = share[:, :1] * fibre + share[:, 1:] @ balls
    noise = torch.randn(2, *clean.shape, generator=generator).double() / 30
    signals = ((clean + noise[0]) ** 2 + noise[1] ** 2).sqrt().float().double()
    single = ((fibre + noise[0]) ** 2 + noise[1] ** 2).sqrt().float().double()[:, 36:]
    response = tract.tensor_response(b, AXIAL, RADIAL)
    one = tract.CSD(directions=g[36:], response=response[-1])
    ball = (4 * torch.pi) ** 0.5 * balls.mT
    many = tract.MSMT(directions=g, fibre=response, isotropic=ball)
    soft = vmap(tract.csd, in_dims=(0, None))
    hard = vmap(tract.msmt, in_dims=(0, None))
    slope = grad(lambda s: soft(s, one).square().sum())
    runs = {
        "csd": timed(lambda: soft(single, one)),
        "csd and gradient": timed(lambda: slope(single)),
        "msmt": timed(lambda: hard(signals, many)),
    }
    if shutil.which("dwi2fod"):
        put(folder, single, g[36:], b[36:], "one")
        put(folder, signals, g, b, "many")
        np.savetxt(folder / "r.txt", response[-1:].numpy())
        np.savetxt(folder / "wm.txt", response[[0, 6, 36]].numpy())
        for k, tissue in enumerate(("gm", "csf")):
            np.savetxt(folder / f"{tissue}.txt", ball[[0, 6, 36], k : k + 1].numpy())
        files = [f"{n}.{e}" for n in ("wm", "gm", "csf") for e in ("txt", "nii")]
        runs["dwi2fod csd"] = spent(
            folder, ["csd", "one.nii", "r.txt", "f.nii", "-grad", "one.b"]
        )
        runs["dwi2fod msmt_csd"] = spent(
            folder, ["msmt_csd", "many.nii", *files, "-grad", "many.b"]
        )

    def checks() -> dict:
        settled = {
            "csd": vmap(tract.deconvolve, in_dims=(0, None))(single, one).settled,
            "msmt": vmap(tract.deconvolve_tissues, in_dims=(0, None))(
                signals, many
            ).settled,
        }
        made = {f"{k} settled": float(v.double().mean()) for k, v in settled.items()}
        if "dwi2fod csd" in runs:
            far = (soft(single, one) - get(folder / "f.nii")).abs().amax(-1)
            made["csd, largest difference from dwi2fod"] = float(far.max())
            far = (hard(signals, many).fod - get(folder / "wm.nii")).abs().amax(-1)
            made["msmt, share within 1e-5 of dwi2fod"] = float(
                (far < 1e-5).double().mean()
            )
        return made

    return runs, checks


def timed(f: Callable[[], object]) -> Callable[[], float]:
    def run() -> float:
        before = time.process_time()
        f()
        return time.process_time() - before

    return run


def spent(folder: Path, words: list[str]) -> Callable[[], float]:
    more = ["-directions", "dirs.txt", "-nthreads", "0", "-force", "-quiet"]

    def run() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        subprocess.run(["dwi2fod", *words, *more], cwd=folder, check=True)
        return resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before

    return run


def put(folder: Path, signals: Tensor, g: Tensor, b: Tensor, name: str) -> None:
    import nibabel as nib

    values = signals.float().reshape(len(signals), 1, 1, -1).numpy()
    nib.save(nib.Nifti1Image(values, np.eye(4)), folder / f"{name}.nii")
    np.savetxt(folder / f"{name}.b", np.c_[g.numpy(), b.numpy()])
    d = tract.hemisphere(300)
    table = np.c_[torch.atan2(d[:, 1], d[:, 0]).numpy(), d[:, 2].arccos().numpy()]
    np.savetxt(folder / "dirs.txt", table, fmt="%.17g")


def get(path: Path) -> Tensor:
    import nibabel as nib

    return torch.from_numpy(nib.load(path).get_fdata()).flatten(0, 2)


if __name__ == "__main__":
    main()
