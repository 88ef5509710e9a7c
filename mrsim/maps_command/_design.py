"""``python -m mrsim design``: protocols of least variance for given tissues."""

import argparse
import math
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import mrsim
from mrsim import design, io, phantom
from mrsim._check import require
from mrsim._command import (
    SOFTWARE,
    add_effort,
    prepare,
    subcommand,
    worked,
    write_json,
)
from mrsim.maps_command.problems import PROBLEMS, Problem
from mrsim.maps_command.report import write_html
from mrsim.tissue import Tissue
from mrsim.tree import get

_ABOUT = """\
Design a protocol by gradients of the Cramer-Rao bound: the sum of var(T)/T² of what is
mapped, averaged over the tissues of your maps (or in the worst of them).

protocols:
  fse      refocusing flips of a train, of limited RMS: T2 (M0 and B1 unknown)
  mrf      flips, TRs and phases of inversion-recovery FISP, as splines: T1 and T2
  vfa      flip angles of spoiled gradient echoes (DESPOT1): T1
  ir       inversion times: T1 (M0 and the efficiency unknown)
"""
_EXAMPLES = """\
examples:
  python -m mrsim design fse --echoes 16 --esp-ms 8 --rms-deg 60 --starts 128
  python -m mrsim design mrf --trs 400 --tr-ms 11 16 --t1 T1map.nii.gz --t2 T2map.nii.gz
  python -m mrsim design vfa --angles 3 --tr-ms 15 --power inf

An interrupted run goes on where it stopped when the same command is given again.
"""


def add_parser(subparsers: Any) -> None:
    """Add the subcommand.

    Args:
        subparsers: what ``ArgumentParser.add_subparsers`` returned.
    """
    title = "flips, TRs, TIs of least variance"
    p = subcommand(subparsers, "design", run, title, _ABOUT, _EXAMPLES)
    p.add_argument("protocol", choices=[*PROBLEMS])
    p.add_argument("--out", type=Path, default=Path("mrsim-design"), help="folder")

    q = p.add_argument_group("protocol")
    q.add_argument("--echoes", type=int, default=16, metavar="N", help="fse (16)")
    q.add_argument("--esp-ms", type=float, default=8.0, metavar="MS", help="fse (8)")
    q.add_argument(
        "--rms-deg", type=float, default=60.0, metavar="DEG", help="fse (60)"
    )
    q.add_argument("--trs", type=int, default=400, metavar="N", help="mrf (400)")
    q.add_argument(
        "--tr-ms",
        type=float,
        nargs="+",
        metavar="MS",
        help="repetition time; mrf: two numbers let it vary between them (12)",
    )
    q.add_argument("--te-ms", type=float, default=3.0, metavar="MS", help="mrf (3)")
    q.add_argument("--ti-ms", type=float, default=20.0, metavar="MS", help="mrf (20)")
    q.add_argument(
        "--flip-max-deg", type=float, default=70.0, metavar="DEG", help="mrf (70)"
    )
    q.add_argument(
        "--coefficients", type=int, default=24, metavar="K", help="of splines (24)"
    )
    q.add_argument("--phases", action="store_true", help="mrf: design RF phases too")
    q.add_argument("--angles", type=int, default=3, metavar="N", help="vfa (3)")
    q.add_argument("--times", type=int, default=5, metavar="N", help="ir (5)")

    t = p.add_argument_group("tissues", "without maps grey and white matter at 3 T")
    t.add_argument("--t1", type=Path, metavar="FILE", help="T1 map [s]")
    t.add_argument("--t2", type=Path, metavar="FILE", help="T2 map [s]")
    t.add_argument("--mask", type=Path, metavar="FILE", help="non-zero: look here")
    t.add_argument("--tissues", type=int, default=8, metavar="N", help="clusters (8)")
    t.add_argument(
        "--power", type=float, default=1.0, metavar="P", help="1: average, inf: worst"
    )

    e = p.add_argument_group("effort")
    e.add_argument(
        "--starts", type=int, default=1, metavar="N", help="random starts (1)"
    )
    e.add_argument("--iterations", type=int, default=200, metavar="N", help="(200)")
    e.add_argument("--memory-gib", type=float, default=1.0, metavar="G", help="(1)")
    e.add_argument("--seed", type=int, default=0, help="of the starts (0)")
    add_effort(e)


def run(given: argparse.Namespace) -> int:
    """Design the protocol and write it.

    Args:
        given: from the parser.

    Returns:
        The exit code, 0.

    Raises:
        InputError: an input cannot be used.
    """
    _check(given)
    prepare(given)
    problem = PROBLEMS[given.protocol](given)
    maps, share = _tissues(given)
    tissues = problem.tissue(maps.T1, maps.T2)
    found, seconds = worked(_minimised, given, problem, tissues, share)
    report = _report(problem, found, tissues, share, maps)
    report |= {"Model": given.protocol, "seconds": round(seconds, 2)} | SOFTWARE
    _write(given, problem, found, report)
    if not given.quiet:
        sys.stdout.write(f"{_text(report)}\nwritten to {given.out}/\n")
    return 0


def _check(given: argparse.Namespace) -> None:
    if given.tr_ms is None and given.protocol != "ir":
        given.tr_ms = [12.0]
    given.tr_ms = given.tr_ms and [given.tr_ms[0], given.tr_ms[-1]]
    numbers = (given.echoes - 3, given.trs - 4, given.angles - 1, given.times - 2)
    effort = (given.starts, given.iterations, given.tissues)
    if min(*numbers, *effort) < 1 or not given.power >= 1:
        raise io.InputError(
            "at least 4 echoes, 5 TRs, 2 angles and 3 times are needed; --starts,"
            " --iterations and --tissues are positive, --power is at least 1"
        )
    if not 4 <= given.coefficients <= given.trs:
        raise io.InputError("--coefficients must lie between 4 and --trs")
    if (given.t1 is None) != (given.t2 is None):
        raise io.InputError("--t1 and --t2 must be given together")


def _tissues(given: argparse.Namespace) -> tuple[Tissue, Tensor]:
    """Return tissues and their shares: clusters of the maps, or the literature's."""
    if given.t1 is None:
        both = (phantom.GREY, phantom.WHITE)
        T1, T2 = (torch.tensor([x[n] for x in both]).double() for n in ("T1", "T2"))
        return Tissue(T1=T1, T2=T2), torch.full_like(T1, 0.5)
    images = [io.load_time(given.t1), io.load_time(given.t2)]
    T1, T2 = (image.data.double() for image in images)
    if T1.shape != T2.shape:
        raise io.InputError(f"{given.t2} lies on another grid than {given.t1}")
    mask = (T1 > T2) & (T2 > 0)
    if given.mask is not None:
        chosen = io.load(given.mask).data
        if chosen.shape != mask.shape:
            raise io.InputError(f"{given.mask} lies on another grid than the maps")
        mask = mask & (chosen != 0)
    if not mask.any():
        raise io.InputError("no voxel of the maps has T1 > T2 > 0")
    return design.tissues(Tissue(T1=T1[mask], T2=T2[mask]), given.tissues)


def _costs(problem: Problem) -> Any:
    """Return the cost of one tissue: Σ var(T)/T², for noise of 1 % of M0."""
    bound = mrsim.crlb(problem.signal, *problem.unknown, sigma=0.01)

    def cost(tissue: Any, q: Any) -> Tensor:
        variances = bound(tissue, q)
        parts = [get(variances, n) / get(tissue, n) ** 2 for n in problem.targets]
        return torch.stack(parts).sum()

    return cost


def _minimised(
    given: argparse.Namespace, problem: Problem, tissues: Any, share: Tensor
) -> design.Design:
    goal = design.over(
        _costs(problem),
        tissues,
        share,
        power=given.power,
        memory=int(given.memory_gib * 2**30),
    )
    how: dict[str, Any] = {
        "bounds": problem.bounds,
        "constraints": problem.constraints,
        "iterations": given.iterations,
        "tolerance": 1e-6,
        "progress": not given.quiet,
        "checkpoint": given.out / "design.pt",
    }
    if given.starts == 1:
        return design.minimise(goal, problem.start, *problem.fields, **how)
    starts = design.random_starts(
        problem.start,
        *problem.fields,
        bounds=problem.bounds,
        constraints=problem.constraints,
        count=given.starts,
        generator=torch.Generator().manual_seed(given.seed),
    )
    return design.multistart(goal, starts, *problem.fields, **how)[0]


def _report(
    problem: Problem, found: design.Design, tissues: Any, share: Tensor, maps: Tissue
) -> dict[str, Any]:
    cost = torch.func.vmap(_costs(problem), in_dims=(0, None))
    before, after = (cost(tissues, q) for q in (problem.start, found.record))
    rows = [
        {
            "T1_ms": round(1000 * float(maps.T1[k]), 2),
            "T2_ms": round(1000 * float(maps.T2[k]), 3),
            "share": round(float(share[k]), 4),
            "sd_ratio": round(math.sqrt(float(after[k] / before[k])), 4),
        }
        for k in range(len(share))
    ]
    return {
        "objective": found.value,
        "variance_ratio_to_start": round(
            float((share * after).sum() / (share * before).sum()), 6
        ),
        "violation": found.violation,
        "evaluations": found.evaluations,
        "success": found.success,
        "message": found.message,
        "tissues": rows,
        "design": {n: v.tolist() for n, v in problem.columns(found.record).items()},
    }


def _write(
    given: argparse.Namespace,
    problem: Problem,
    found: design.Design,
    report: dict[str, Any],
) -> None:
    """Write numbers, a table for the scanner, a picture and a page."""
    columns = problem.columns(found.record)
    lines = ["\t".join(columns)]
    rows = zip(*(v.tolist() for v in columns.values()), strict=True)
    lines += ["\t".join(f"{x:.6g}" for x in row) for row in rows]
    (given.out / "design.tsv").write_text("\n".join(lines) + "\n")
    write_json(given.out / "design.json", report)
    figure = require("matplotlib.figure", "plot").Figure(
        figsize=(9, 3 * len(columns)), layout="constrained"
    )
    axes = figure.subplots(len(columns), 1, squeeze=False)[:, 0]
    first = problem.columns(problem.start)
    for panel, (name, values) in zip(axes, columns.items(), strict=True):
        panel.plot(first[name].tolist(), "0.6", label="start")
        panel.plot(values.tolist(), "#0060b0", label="designed")
        panel.set(ylabel=name.replace("_", " [") + "]", xlabel="number")
        panel.legend()
    picture = given.out / "design.png"
    figure.savefig(picture, dpi=110)
    write_html(given.out / "design.html", report, picture)


def _text(report: dict[str, Any]) -> str:
    lines = [f"{'T1 [ms]':>10}{'T2 [ms]':>10}{'share':>8}{'sd / start':>12}"]
    lines += [
        f"{r['T1_ms']:10.0f}{r['T2_ms']:10.1f}{r['share']:8.3f}{r['sd_ratio']:12.4f}"
        for r in report["tissues"]
    ]
    ratio = report["variance_ratio_to_start"]
    return "\n".join([*lines, f"variance, designed / start: {ratio:.4f}"])
