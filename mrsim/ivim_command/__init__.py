"""``python -m mrsim ivim``: IVIM maps of a diffusion series, with their uncertainty."""

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import mrsim
from mrsim import io, ivim
from mrsim._check import require
from mrsim._command import (
    SOFTWARE,
    add_effort,
    columns,
    medians,
    prepare,
    subcommand,
    worked,
    write_json,
)
from mrsim.ivim_command.files import load_acquisition, save_maps, unit
from mrsim.ivim_command.methods import METHODS, MODELS, fitter
from mrsim.series import Series, load, load_mask, voxels

_CHUNK = 2**16  # voxels
_SAMPLE = 10_000  # voxels from which what all have in common is learnt
_ABOUT = """\
Fit an IVIM model in every voxel of a NIfTI series and write a map, and a map of its
standard deviation, for each parameter: S0, f, Dp (the full exponent, D*), D, under the
names of OSIPI. Background is zero in all maps, voxels that cannot be fitted are NaN.
"""


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add the subcommand ``ivim`` to a command line.

    Args:
        subparsers: what ``ArgumentParser.add_subparsers`` returned.

    Returns:
        The subcommand's parser; its ``run`` is `run`.
    """
    p = subcommand(subparsers, "ivim", run, "IVIM maps of a diffusion series", _ABOUT)
    p.add_argument("data", type=Path, help="4-D NIfTI series (x, y, z, volume)")
    p.add_argument("bval", type=Path, help="b values [s/mm²], one for each volume")
    p.add_argument("--bvec", type=Path, metavar="FILE", help="for --model dti")
    p.add_argument(
        "--cval", type=Path, metavar="FILE", help="flow weighting c [s/mm]: ballistic"
    )
    p.add_argument("--mask", type=Path, metavar="FILE", help="non-zero: fit here")
    p.add_argument(
        "--out", type=Path, default=Path("mrsim-ivim"), help="folder (mrsim-ivim)"
    )
    p.add_argument("--model", choices=[*MODELS], default="biexp", help="(biexp)")
    p.add_argument(
        "--method",
        choices=METHODS,
        help="varpro (of sums of exponentials) or lsq, the default: least squares;"
        " segmented: in two steps; rician: maximum likelihood of magnitudes; map:"
        " maximum a posteriori, its prior learnt from the image; net: a trained network"
        " (--net)",
    )
    p.add_argument(
        "--bounds",
        action="append",
        default=[],
        metavar="NAME=LOW,HIGH",
        help="such as Dp=0.005,0.2 [mm²/s]; may be repeated",
    )
    p.add_argument("--sigma", type=float, help="sd of the noise [units of the data]")
    p.add_argument("--starts", type=int, default=2, metavar="N", help="starts (2)")
    p.add_argument(
        "--threshold", type=float, default=200.0, metavar="B", help="segmented (200)"
    )
    p.add_argument("--net", type=Path, metavar="FILE", help="of ivim.save_net")
    p.add_argument("--single", action="store_true", help="float32 instead of float64")
    p.add_argument("--compile", action="store_true", help="compile varpro's steps")
    add_effort(p, device="the fits")
    return p


def run(given: argparse.Namespace) -> int:
    """Fit the series and write its maps.

    The series stays as it lies on disk; voxels are converted and fitted in chunks.

    Args:
        given: from the parser.

    Returns:
        The exit code, 0.

    Raises:
        InputError: an input cannot be used.
    """
    sigma = 1.0 if given.sigma is None else given.sigma
    if given.starts < 1 or not sigma > 0:
        raise io.InputError("--starts and --sigma must be positive")
    prepare(given)
    dtype = torch.float32 if given.single else torch.float64
    series = load([given.data])
    q = load_acquisition(given.bval, given.bvec, given.cval, series, dtype)
    inside = load_mask(given.mask, series)
    q = mrsim.to(q, device=given.device)
    maps, seconds = worked(_fitted, given, series, q, inside)
    about = {"Model": given.model, "Method": given.method or "least squares"}
    about |= SOFTWARE
    report = _report(maps) | {"seconds": round(seconds, 3)} | about
    save_maps(given.out, maps, inside, series, about)
    write_json(given.out / "report.json", report)
    if not given.quiet:
        sys.stdout.write(f"{_table(report)}\nwritten to {given.out}/\n")
    return 0


def _fitted(
    given: argparse.Namespace, series: Series, q: ivim.Acquisition, inside: Tensor
) -> dict[str, Tensor]:
    """Return name → (voxel,) maps in single precision."""
    some = voxels(series, inside[:: max(1, len(inside) // _SAMPLE)]).to(q.b)
    fit = fitter(given, q, some)
    pieces = []
    hidden = {"total": len(inside), "unit": "voxel", "disable": given.quiet}
    with require("tqdm", "demo").tqdm(**hidden) as progress:
        for at in inside.split(_CHUNK):
            found = fit(voxels(series, at).to(q.b))
            pieces.append({n: x.float().cpu() for n, x in found.items()})
            progress.update(len(at))
    return {n: torch.cat([piece[n] for piece in pieces]) for n in pieces[0]}


def _report(maps: dict[str, Tensor]) -> dict[str, Any]:
    first = next(iter(maps.values()))
    report: dict[str, Any] = {
        "voxels": len(first),
        "not_fitted": int(first.isnan().sum()),
    }
    if "converged" in maps:
        report["converged"] = round(float(maps["converged"].double().mean()), 5)
    return report | {"maps": medians(maps, [n for n in maps if f"{n}_sd" in maps])}


def _table(report: dict[str, Any]) -> str:
    rest = f"{report['voxels']} voxels, {report['not_fitted']} of them not fitted"
    return "\n".join([*columns(report["maps"], unit), rest])
