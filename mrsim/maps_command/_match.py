"""``python -m mrsim match``: T1 and T2 maps of fingerprints by a dictionary."""

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mrsim import epg, io, match
from mrsim._command import add_effort, prepare, subcommand, worked
from mrsim.maps_command.report import publish
from mrsim.series import load, load_mask, voxels
from mrsim.tissue import Tissue
from mrsim.units import deg, ms

_SUFFIX = {"T1": "T1map", "T2": "T2map", "B1": "TB1map", "M0": "M0map"}
_ABOUT = """\
Match fingerprints (inversion-recovery FISP) with a dictionary: atoms are spread over
T1 >= T2, simulated, compressed and matched in shards, and the best atom of each voxel
is refined by Gauss-Newton steps through the simulator.
"""
_EXAMPLES = """\
examples:
  python -m mrsim match sub-01_real.nii --imag sub-01_imag.nii --schedule design.tsv
  python -m mrsim match mrf.nii --schedule design.tsv --atoms 1000000 --b1 0.7 1.3

The schedule is a table with a line for each repetition and columns named flip_deg,
TR_ms and, where phases vary, phase_deg, as `python -m mrsim design mrf` writes it. An
interrupted run goes on with the shards of the dictionary that are not finished.
"""


def add_parser(subparsers: Any) -> None:
    """Add the subcommand.

    Args:
        subparsers: what ``ArgumentParser.add_subparsers`` returned.
    """
    title = "T1 and T2 maps of fingerprints"
    p = subcommand(subparsers, "match", run, title, _ABOUT, _EXAMPLES)
    p.add_argument(
        "data", type=Path, nargs="+", help="a 4-D NIfTI file, or several on one grid"
    )
    p.add_argument(
        "--imag", type=Path, nargs="+", metavar="FILE", help="imaginary part"
    )
    p.add_argument("--schedule", type=Path, required=True, metavar="TSV")
    p.add_argument("--out", type=Path, default=Path("mrsim-match"), help="folder")
    p.add_argument("--mask", type=Path, metavar="FILE", help="non-zero: match here")
    p.add_argument("--te-ms", type=float, default=3.0, metavar="MS", help="(3)")
    p.add_argument("--ti-ms", type=float, default=20.0, metavar="MS", help="(20)")

    d = p.add_argument_group("dictionary")
    two: dict[str, Any] = {"type": float, "nargs": 2}
    d.add_argument("--atoms", type=int, default=20_000, metavar="N", help="(20000)")
    d.add_argument("--rank", type=int, default=10, metavar="R", help="(10)")
    d.add_argument("--t1-ms", **two, default=[100, 5000], metavar="MS", help="range")
    d.add_argument("--t2-ms", **two, default=[10, 2500], metavar="MS", help="range")
    d.add_argument("--b1", **two, metavar="B", help="range of the transmit field (1)")
    d.add_argument("--steps", type=int, default=3, metavar="N", help="refinement (3)")
    add_effort(d)


def run(given: argparse.Namespace) -> int:
    """Match the series and write maps and report.

    Args:
        given: from the parser.

    Returns:
        The exit code, 0.

    Raises:
        InputError: an input cannot be used.
    """
    if min(given.atoms, given.rank) < 1 or given.steps < 0:
        raise io.InputError("--atoms and --rank must be positive, --steps at least 0")
    prepare(given)
    series = load(given.data)
    inside = load_mask(given.mask, series, signed=True)
    train = _schedule(given)
    if len(train.flip) != series.volumes:
        raise io.InputError(
            f"{given.schedule} has {len(train.flip)} repetitions, but the series"
            f" {series.volumes} volumes"
        )
    data = voxels(series, inside).float()
    if given.imag:
        other = load(given.imag)
        if other.shape != series.shape or other.volumes != series.volumes:
            raise io.InputError("--imag must have the grid and volumes of the data")
        data = torch.complex(data, voxels(other, inside).float())
    maps, seconds = worked(_matched, given, train, data)
    about = {"Model": "mrf", "Atoms": given.atoms}
    publish(given, maps, inside, series, _SUFFIX, about, seconds)
    return 0


def _schedule(given: argparse.Namespace) -> epg.FISP:
    """Read the table of repetitions."""
    try:
        lines = given.schedule.read_text(encoding="utf-8").split("\n")
        names = lines[0].split()
        rows = [[float(x) for x in line.split()] for line in lines[1:] if line.split()]
        columns = dict(zip(names, torch.tensor(rows).unbind(1), strict=True))
        flip, TR = columns["flip_deg"] * deg, columns["TR_ms"] * ms
    except (OSError, ValueError, KeyError, IndexError) as e:
        raise io.InputError(
            f"{given.schedule} must be a table with the columns flip_deg and TR_ms, as"
            f" `python -m mrsim design mrf` writes it: {e}"
        ) from e
    phase = columns.get("phase_deg")
    return epg.FISP(
        flip=flip.float(),
        TR=TR.float(),
        TE=torch.tensor(given.te_ms * ms, dtype=torch.float32),
        TI=torch.tensor(given.ti_ms * ms, dtype=torch.float32),
        phase=None if phase is None else (phase * deg).float(),
    )


def _matched(
    given: argparse.Namespace, train: epg.FISP, data: Tensor
) -> dict[str, Tensor]:
    """Return name → (voxel,) maps."""
    names = ("T1", "T2", "B1") if given.b1 else ("T1", "T2")
    ranges: Any = {n: _range(n, x) for n, x in _given(given).items()}
    one = torch.tensor(1.0, dtype=torch.float32)
    base = Tissue(T1=one, T2=one / 10, B1=one if given.b1 else None)
    atoms = match.sobol(
        base, given.atoms, log=("T1", "T2"), keep=lambda t: t.T2 <= t.T1, **ranges
    )
    rank = min(given.rank, len(train.flip))
    d = match.dictionary(epg.fisp, atoms, train, rank=rank)
    store = match.build(d, given.out / "dictionary", progress=not given.quiet)
    found = match.match(d, data, store=store, progress=not given.quiet)
    if given.steps:
        made = match.refine(d, found, data, *names, bounds=ranges, steps=given.steps)
        record, score, scale = made.params, made.score, made.scale
    else:
        record = match.params(atoms, found.index)
        score, scale = found.score, found.scale
    lost = data.abs().square().mean(1) * (1 - score.square()).clamp_min(0)
    maps = {n: getattr(record, n) for n in names} | {"M0": scale.abs()}
    maps |= {"residual": lost.sqrt(), "score": score, "converged": found.index >= 0}
    return {n: v.float() for n, v in maps.items()}


def _given(given: argparse.Namespace) -> dict[str, Any]:
    made = {"T1": [x * ms for x in given.t1_ms], "T2": [x * ms for x in given.t2_ms]}
    return made | ({"B1": given.b1} if given.b1 else {})


def _range(name: str, pair: list[float]) -> tuple[float, float]:
    if not 0 < pair[0] < pair[1]:
        raise io.InputError(f"the range of {name} must ascend from above 0, got {pair}")
    return pair[0], pair[1]
