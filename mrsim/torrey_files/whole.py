"""What must hold before meshio reads a file, and after.

meshio waits for ever for a line that an incomplete file lacks, makes room for what a
header promises, and passes numbers on as they come.
"""

import re
from pathlib import Path

import torch
from torch import Tensor

from mrsim.io import InputError


def check_whole(path: Path) -> None:
    """Refuse a text file without its counts, or whose counts exceed its size.

    Args:
        path: of the mesh; of ``.node`` and ``.ele`` the other is looked at too.

    Raises:
        InputError: the file is incomplete.
    """
    if path.suffix in {".node", ".ele"}:
        for kind in (".node", ".ele"):
            _check_counts(path.with_suffix(kind), 0)
    elif path.suffix == ".off":
        _check_counts(path, 1)
    elif path.suffix == ".ply":
        head, mark, _ = path.read_bytes().partition(b"end_header")
        counts = re.findall(rb"element +\S+ +(-?\d+)", head)
        if not mark or not counts:
            raise InputError(f"{path} cannot be read as a mesh: it has no whole header")
        _compare(path, counts)


def _check_counts(path: Path, before: int) -> None:
    if not path.is_file():
        raise InputError(f"{path} does not exist; it belongs to the mesh")
    text = path.read_bytes().split(b"\n")
    lines = [x.split() for x in text if x.strip() and not x.lstrip().startswith(b"#")]
    if len(lines) <= before:
        raise InputError(f"{path} cannot be read as a mesh: it ends before its counts")
    _compare(path, lines[before][:2] if before else lines[before][:1])


def _compare(path: Path, counts: list[bytes]) -> None:
    size = path.stat().st_size
    if not all(x.isdigit() and int(x) <= size for x in counts):
        said = b" ".join(counts).decode(errors="replace")
        raise InputError(
            f"{path} cannot be read as a mesh: it says that it holds {said} points or"
            f" cells, in {size} bytes"
        )


def check_numbers(path: Path, points: Tensor, *cells: Tensor) -> None:
    """Refuse points that are not finite, and cells of points that there are not.

    Args:
        path: of the mesh.
        points: (point, 3).
        *cells: (cell, corner) numbers of points.

    Raises:
        InputError: there are such.
    """
    if points.ndim != 2 or points.shape[1] != 3:
        raise InputError(
            f"{path}: points must have three coordinates, got {tuple(points.shape)}"
        )
    odd = (~points.isfinite()).any(1)
    if odd.any():
        k = int(odd.nonzero()[0, 0])
        raise InputError(f"{path}: point {k} is not finite: {points[k].tolist()}")
    for rows in cells:
        out = ((rows < 0) | (rows >= len(points))).any(1)
        if out.any():
            k = int(torch.nonzero(out)[0, 0])
            raise InputError(
                f"{path}: cell {k} has the points {rows[k].tolist()}, but there are"
                f" {len(points)}, numbered from 0"
            )
