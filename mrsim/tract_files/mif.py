"""MRtrix's own image format."""

import gzip
import math
import re
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mrsim.io import InputError

_KINDS = {"Bit": None, "Int8": "i1", "UInt8": "u1"} | {
    f"{sign}{kind}{bits}{end}": f"{mark}{letter}{bits // 8}"
    for end, mark in (("LE", "<"), ("BE", ">"))
    for sign, kind, letter in (
        ("", "Int", "i"),
        ("U", "Int", "u"),
        ("", "Float", "f"),
    )
    for bits in (16, 32, 64)
}


def load_mif(path: Path) -> tuple[Tensor, Tensor]:
    """Read an image in MRtrix's own format, header and data in one file.

    Args:
        path: ``.mif`` or ``.mif.gz``.

    Returns:
        The data, float32, and its affine (4, 4), float64: voxel indices to scanner
        millimetres.

    Raises:
        InputError: the file is damaged, or of a kind that is not read here.
    """
    opened = gzip.open if path.name.endswith(".gz") else open
    try:
        with opened(path, "rb") as file:
            content = file.read()
    except (OSError, EOFError, zlib.error) as e:
        raise InputError(f"{path} cannot be read: {e}") from e
    try:
        return _decoded(path, content)
    except InputError:
        raise
    except (KeyError, ValueError, IndexError, OverflowError) as e:
        raise InputError(f"{path} has a header that cannot be used: {e!r}") from e


def _decoded(path: Path, content: bytes) -> tuple[Tensor, Tensor]:
    text, _, _ = content.partition(b"\nEND\n")
    lines = text.decode("utf-8", errors="replace").splitlines()
    if not lines or lines[0].strip() != "mrtrix image":
        raise InputError(f"{path} is no mif image: it does not begin 'mrtrix image'")
    pairs = [line.partition(":") for line in lines[1:]]
    fields = {k.strip(): v.strip() for k, _, v in pairs}
    turns = [v.strip() for k, _, v in pairs if k.strip() == "transform"]
    size = [int(x) for x in fields["dim"].split(",")]
    where, _, start = fields["file"].partition(" ")
    kind = _KINDS[fields["datatype"]]
    if kind is None or where != ".":
        raise InputError(
            f"{path}: bit images and separate data files are not read here;"
            f" convert it with: mrconvert {path} image.nii.gz"
        )
    if min(size) < 1:
        raise InputError(f"{path}: dim must be positive, got {fields['dim']}")
    flat = np.frombuffer(content, kind, math.prod(size), int(start))
    # the rank of each axis by stride, and whether it runs backwards
    layout = [(x[0] == "-", int(x[1:])) for x in fields["layout"].split(",")]
    order = sorted(range(len(size)), key=lambda k: layout[k][1])
    data = flat.reshape([size[k] for k in order], order="F")
    data = data.transpose([order.index(k) for k in range(len(size))])
    data = np.flip(data, tuple(k for k, (back, _) in enumerate(layout) if back))
    gains = re.split(r"[ ,]+", fields.get("scaling", "0,1"))
    low, gain = (float(x) for x in gains[:2])
    values = np.ascontiguousarray(low + gain * data, dtype=np.float32)
    return torch.from_numpy(values), _affine(path, fields["vox"], turns)


def _affine(path: Path, vox: str, turns: list[str]) -> Tensor:
    spacing = [float(x) for x in vox.split(",")][:3]
    affine = np.eye(4)
    if turns:
        affine[:3] = [[float(x) for x in row.split(",")] for row in turns[:3]]
    affine[:3, :3] = affine[:3, :3] * np.array(spacing)
    if not np.isfinite(affine).all():
        raise InputError(f"{path}: vox and transform must be finite")
    return torch.from_numpy(affine)
