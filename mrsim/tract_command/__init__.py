"""``python -m mrsim track``: streamlines of an FOD image, with tckgen's options."""

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap

from mrsim import tract
from mrsim._check import require
from mrsim._command import check_device, subcommand
from mrsim.io import InputError
from mrsim.tract_command import inputs
from mrsim.tract_command.inputs import ALGORITHMS
from mrsim.tract_files import save_tracks
from mrsim.tract_files.tracks import check_ending

_ABOUT = """\
Deterministic streamlines as MRtrix's tckgen makes them, with its options and defaults:
SD_STREAM through an FOD image (mif or NIfTI; tournier07, scanner frame), Tensor_Det
through a diffusion series, FACT through an image of vectors.
"""
_CHUNK = 4096  # seeds tracked at once


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add the subcommand ``track`` to a command line.

    Args:
        subparsers: what ``ArgumentParser.add_subparsers`` returned.

    Returns:
        The subcommand's parser; its ``run`` is `run`.
    """
    p = subcommand(subparsers, "track", run, "streamlines of an FOD image", _ABOUT)
    p.add_argument("source", type=Path, help="FODs, diffusion series or vectors, 4-D")
    p.add_argument(
        "--out", type=Path, default=Path("tracks.tck"), help=".tck, .trk or .trx"
    )
    p.add_argument(
        "--algorithm", choices=[*ALGORITHMS], default="SD_STREAM", help="(SD_STREAM)"
    )
    _seeding(p.add_argument_group("seeds, one of"))
    how = p.add_argument_group("tracking")
    how.add_argument("--step", type=float, metavar="MM", help="(0.1 voxel; rk4: 0.25)")
    how.add_argument("--angle", type=float, default=60.0, metavar="DEG", help="(60)")
    how.add_argument("--cutoff", type=float, default=0.1, metavar="A", help="(0.1)")
    how.add_argument("--minlength", type=float, metavar="MM", help="(5 voxels)")
    how.add_argument("--maxlength", type=float, metavar="MM", help="(100 voxels)")
    how.add_argument("--rk4", action="store_true", help="Runge-Kutta steps")
    how.add_argument("--stop", action="store_true", help="at the last --include")
    how.add_argument("--seed_unidirectional", action="store_true")
    how.add_argument("--seed_direction", metavar="X,Y,Z", help="(strongest peak)")
    how.add_argument("--downsample", type=int, default=1, metavar="R", help="(1)")
    place = p.add_argument_group("regions: an image, or a sphere X,Y,Z,R")
    for name in ("mask", "include", "exclude"):
        place.add_argument(f"--{name}", action="append", default=[], metavar="ROI")
    table = p.add_argument_group("gradient table, for Tensor_Det")
    table.add_argument("--grad", type=Path, metavar="FILE", help="MRtrix: x y z b")
    table.add_argument("--fslgrad", type=Path, nargs=2, metavar=("BVECS", "BVALS"))
    p.add_argument("--nocheck", action="store_true", help="no check of the FODs' frame")
    p.add_argument("--double", action="store_true", help="float64 instead of float32")
    p.add_argument("--compile", action="store_true", help="compile the peak search")
    p.add_argument("--device", default="cpu", help="cpu or cuda (cpu)")
    p.add_argument("--quiet", action="store_true", help="no progress, no summary")
    return p


def _seeding(group: Any) -> None:
    kinds = group.add_mutually_exclusive_group(required=True)
    kinds.add_argument(
        "--seeds",
        type=Path,
        metavar="FILE",
        help="positions x y z [mm], a row each; or an image, one seed in each voxel",
    )
    kinds.add_argument(
        "--seed_grid_per_voxel", nargs=2, metavar=("MASK", "N"), help="N³ in each voxel"
    )
    kinds.add_argument(
        "--seed_random_per_voxel",
        nargs=2,
        metavar=("MASK", "N"),
        help="N in each voxel",
    )
    kinds.add_argument("--seed_sphere", metavar="X,Y,Z,R", help="with --seeds_count")
    group.add_argument("--seeds_count", type=int, default=1000, metavar="N")
    group.add_argument("--random", type=int, default=0, metavar="S", help="generator")


def run(given: argparse.Namespace) -> int:
    """Track and write the file.

    Args:
        given: from the parser.

    Returns:
        The exit code, 0.

    Raises:
        InputError: an input cannot be used.
    """
    check_device(given.device)
    check_ending(given.out)
    dtype = torch.float64 if given.double else torch.float32
    try:
        field, affine, shape = ALGORITHMS[given.algorithm](given, dtype)
        options = inputs.options(given, field)
        seeds = inputs.seeds(given)
        start = inputs.direction(given.seed_direction)
    except ValueError as e:
        raise InputError(str(e)) from e
    before = time.perf_counter()
    tracks, why = [], torch.zeros(len(tract.REASONS), dtype=torch.long)
    for chunk in _bar(seeds.split(_CHUNK), given):
        position = chunk.to(options.step)
        seed = tract.Seed(position=position)
        if start is not None:
            aim = start.to(position).expand(len(chunk), 3).contiguous()
            seed = tract.Seed(position=position, direction=aim)
        found = vmap(tract.stream, in_dims=(0, None, None))(seed, field, options)
        why = why + torch.bincount(found.reasons.flatten().cpu(), minlength=len(why))
        tracks.extend(_ragged(found, given.downsample))
    about = {"method": given.algorithm, "step_size": f"{float(options.step):g}"}
    about["source"] = str(given.source)
    about["total_count"] = str(len(seeds))
    given.out.parent.mkdir(parents=True, exist_ok=True)
    save_tracks(given.out, tracks, affine, shape, about)
    if not given.quiet:
        seconds = time.perf_counter() - before
        sys.stdout.write(_summary(tracks, seeds, why, seconds, given.out))
    return 0


def _bar(chunks: Sequence[Tensor], given: argparse.Namespace) -> Iterator[Tensor]:
    if given.quiet:
        yield from chunks
        return
    total = sum(map(len, chunks))
    with require("tqdm", "demo").tqdm(total=total, unit=" seeds") as bar:
        for chunk in chunks:
            yield chunk
            bar.update(len(chunk))


def _ragged(found: tract.Track, every: int) -> list[Tensor]:
    """Return the accepted tracks, of every R-th vertex from the seed and both ends."""
    kept = found.accepted.nonzero()[:, 0]
    rows = zip(
        found.points[kept].cpu(),
        found.length[kept].tolist(),
        found.seed_index[kept].tolist(),
        strict=True,
    )
    if every <= 1:
        return [points[:n].clone() for points, n, _ in rows]
    made = []
    for points, n, seed in rows:
        at = torch.arange(n)
        chosen = ((at - seed) % every == 0) | (at == 0) | (at == n - 1)
        made.append(points[:n][chosen])
    return made


def _summary(
    tracks: Sequence[Tensor], seeds: Tensor, why: Tensor, seconds: float, out: Path
) -> str:
    vertices = sum(map(len, tracks))
    lines = [f"{len(seeds)} seeds, {len(tracks)} tracks, {vertices} vertices"]
    lines += [
        f"  {count:8d} halves: {reason}"
        for reason, count in zip(tract.REASONS, why.tolist(), strict=True)
        if count and reason != "none"
    ]
    return "\n".join([*lines, f"{seconds:.1f} s, written to {out}\n"])
