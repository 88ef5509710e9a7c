"""Speed of IVIM fits. Prints JSON.

One thread, CPU time, medians; what is compared is interleaved in one process.

    python tests/bench/bench_ivim.py speed      with the peers that are installed
    python tests/bench/bench_ivim.py million    a million voxels: time and memory
"""

import argparse
import importlib.util
import math
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timing import options, report
from torch import Tensor
from torch.func import vmap

import mrsim
from mrsim import ivim

B = [0.0, 5.0, 10.0, 20.0, 30.0, 40.0, 60.0, 150.0, 300.0, 500.0, 700.0]
PRIOR = {"f": (0.05, 0.55), "Dp": (0.01, 0.1), "D": (0.0005, 0.003)}
Run = Callable[[], Any]


def main() -> None:
    """Run one study and print what it found."""
    parser = options(__doc__)
    parser.add_argument("study", choices=[*STUDIES])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--voxels", type=int, default=16384, help="speed (16384)")
    given = parser.parse_args()
    torch.set_num_threads(1)
    report(STUDIES[given.study](given), given.json)


def rounded(x: float, digits: int = 4) -> float:
    return float(f"{float(x):.{digits}g}")


# ----------------------------------------------------------------------- speed


def phantom(count: int, snr: float) -> Tensor:
    g = torch.Generator().manual_seed(0)
    u = torch.rand(3, count, generator=g, dtype=torch.float64)
    ends = zip(PRIOR.items(), u, strict=True)
    p = {n: low + (high - low) * x for (n, (low, high)), x in ends}
    truth = ivim.Biexp(S0=torch.ones(count, dtype=torch.float64), **p)
    clean = vmap(ivim.signal, in_dims=(0, None))(truth, acquisition(torch.float64))
    return clean + torch.randn(clean.shape, generator=g, dtype=torch.float64) / snr


def acquisition(dtype: torch.dtype) -> ivim.Acquisition:
    return ivim.Acquisition(b=torch.tensor(B, dtype=dtype))


def squares(y: Tensor, params: Any) -> Tensor:
    """Return the sum of squares in double precision."""
    p = mrsim.to(params, torch.float64)
    model = vmap(ivim.signal, in_dims=(0, None))(p, acquisition(torch.float64))
    return (model - y).square().sum(-1)


def speed(given: argparse.Namespace) -> dict[str, Any]:
    y = phantom(given.voxels, 30.0)
    single, q = y.float(), acquisition(torch.float32)
    best = 2 * ivim.varpro(y, acquisition(y.dtype), starts=4, iterations=50).cost
    runs: dict[str, tuple[int, Run]] = {}
    for steps in (4, 6, 8, 12):
        for compiled in (False, True):
            name = f"varpro {steps} steps{' compiled' * compiled}"
            options = {"iterations": steps, "compiled": compiled}
            runs[name] = (
                len(y),
                lambda o=options: ivim.varpro(single, q, **o).params,
            )
    options = {"iterations": 12, "compiled": True, "starts": 2}
    runs["varpro 2 starts 12 steps compiled"] = (
        len(y),
        lambda o=options: ivim.varpro(single, q, **o).params,
    )
    for tolerance in (1e-2, 1e-3):
        runs[f"least_squares tolerance {tolerance:g}"] = (
            len(y),
            lambda t=tolerance: ivim.least_squares(single, q, tolerance=t).params,
        )
    runs["segmented"] = len(y), lambda: ivim.segmented(single, q).params
    runs |= peers(y)
    compile_seconds = {}
    for name, (_, run) in runs.items():
        if "compiled" in name:
            start = cpu()
            run()
            compile_seconds[name] = round(cpu() - start, 1)
    times: dict[str, list[float]] = {name: [] for name in runs}
    results = {}
    for _ in range(given.rounds):
        for name, (_, run) in runs.items():
            start = time.process_time()
            results[name] = run()
            times[name].append(time.process_time() - start)
    out = {}
    reference = (
        statistics.median(times["osipy"]) / runs["osipy"][0]
        if "osipy" in runs
        else None
    )
    for name, (count, _) in runs.items():
        seconds = statistics.median(times[name]) / count
        excess = squares(y[:count], results[name]) / best[:count] - 1
        out[name] = {
            "voxels_per_s": round(1 / seconds),
            "within_1e-3": rounded((excess <= 1e-3).double().mean()),
            "p95_excess": rounded(excess.nan_to_num(math.inf).quantile(0.95)),
        }
        if reference:
            out[name]["times_osipy"] = rounded(reference / seconds, 3)
        if name in compile_seconds:
            out[name]["compile_cpu_s"] = compile_seconds[name]
    return out


def cpu() -> float:
    """Return the CPU time of this process and of those it waited for."""
    both = resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN
    used = [resource.getrusage(who) for who in both]
    return sum(u.ru_utime + u.ru_stime for u in used)


def peers(y: Tensor) -> dict[str, tuple[int, Run]]:
    """Return fits of other packages, as they are installed, with the same bounds."""
    b, out = np.array(B), {}
    if importlib.util.find_spec("osipy"):
        import osipy.ivim as osipy

        bounds = {"D": (0, 0.005), "D*": (0.005, 0.2), "f": (0, 1), "S0": (0, 10)}
        options = osipy.IVIMFitParams(method=osipy.FittingMethod.FULL, bounds=bounds)
        few = y[:8192].numpy()

        def run() -> Any:
            found = osipy.fit_ivim(few, b, params=options)
            maps = found.s0_map, found.f_map, found.d_star_map, found.d_map
            return record(*(np.asarray(m.values).reshape(-1) for m in maps))

        out["osipy"] = len(few), run
    if importlib.util.find_spec("scipy"):
        from scipy.optimize import curve_fit

        def model(b: Any, S0: float, f: float, Dp: float, D: float) -> Any:
            return S0 * (f * np.exp(-b * Dp) + (1 - f) * np.exp(-b * D))

        box = [0, 0, 0.005, 0], [np.inf, 1, 0.2, 0.005]
        start = [1, 0.2, 0.03, 0.0015]
        some = y[:200].numpy()

        def fit() -> Any:
            rows = [curve_fit(model, b, v, start, bounds=box)[0] for v in some]
            return record(*np.array(rows).T)

        out["scipy curve_fit trf"] = len(some), fit
    if importlib.util.find_spec("dipy"):
        from dipy.core.gradients import gradient_table
        from dipy.reconst.ivim import IvimModel

        table = gradient_table(
            b, bvecs=np.tile([1.0, 0, 0], (len(b), 1)), b0_threshold=0
        )
        lot = y[:100].numpy()

        def trr() -> Any:
            found = IvimModel(table, fit_method="trr", split_b_D=250.0).fit(lot)
            return record(*found.model_params.T)

        out["dipy trr"] = len(lot), trr
    if importlib.util.find_spec("ivim") and importlib.util.find_spec("nibabel"):
        for name, count in (("nlls", 200), ("seg", 4096)):
            out[f"ivim-mri {name}"] = count, files(name, y[:count].numpy())
    return out


def files(name: str, y: np.ndarray) -> Run:
    """Return a fit of ivim-mri, which works on files."""
    import nibabel as nib
    from ivim import fit

    folder = Path(tempfile.mkdtemp())
    data, bval = str(folder / "data.nii.gz"), str(folder / "data.bval")
    nib.save(nib.Nifti1Image(y[:, None, None, :], np.eye(4)), data)
    Path(bval).write_text(" ".join(map(str, B)))

    def run() -> Any:
        base = str(folder / "map")
        getattr(fit, name)(data, bval, "diffusive", outbase=base)
        names = ("S0", "f", "Dstar", "D")
        maps = [nib.load(f"{base}_{n}.nii.gz").get_fdata().reshape(-1) for n in names]
        return record(maps[0], maps[1], maps[2] + 1.75e-3, maps[3])

    return run


def record(S0: Any, f: Any, Dp: Any, D: Any) -> Any:
    parts = zip(("S0", "f", "Dp", "D"), (S0, f, Dp, D), strict=True)
    return ivim.Biexp(**{n: torch.tensor(x, dtype=torch.float64) for n, x in parts})


def million(_: argparse.Namespace) -> dict[str, Any]:
    """Fit a million voxels; memory is what comes on top of the data."""
    count = 1_000_000
    y = phantom(count // 10, 30.0).float().repeat(10, 1)
    q, out = acquisition(torch.float32), {}
    ivim.varpro(y[:8192], q, compiled=True)
    for name, run in {
        "varpro compiled": lambda: ivim.varpro(y, q, compiled=True, progress=True),
        "least_squares": lambda: ivim.least_squares(y, q, progress=True),
    }.items():
        before, start = resident(), time.process_time()
        found = run()
        seconds = time.process_time() - start
        leaves = mrsim.tree.tree_leaves(found)
        out[name] = {
            "cpu_s": round(seconds, 1),
            "voxels_per_s": round(count / seconds),
            "data_mib": round(y.nbytes / 2**20),
            "result_mib": round(sum(x.nbytes for x in leaves) / 2**20),
            "peak_above_start_mib": round(resident() - before),
            "fitted": rounded(found.params.f.isfinite().double().mean()),
        }
        del found, leaves
    return out


def resident() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


STUDIES = {"speed": speed, "million": million}

if __name__ == "__main__":
    main()
