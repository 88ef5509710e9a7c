"""Files of the command: a series, its b values, directions and mask; maps out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mrsim import io, ivim
from mrsim._check import require

_UNITS = {"S0": "arbitrary", "Dp": "mm^2/s", "v": "mm/s", "tau": "s"}


class Series(NamedTuple):
    """A 4-D series as it lies on disk, and where it lies in the scanner."""

    raw: Any  # array (voxel, volume), x fastest, a view of the file where possible
    slope: float  # value = slope · raw + intercept
    intercept: float
    like: io.Image  # its grid; the data are empty
    shape: tuple[int, ...]  # (x, y, z)


def load_series(path: Path) -> Series:
    """Open a 4-D NIfTI series.

    Args:
        path: the file.

    Returns:
        The series.

    Raises:
        InputError: the file is missing, is no NIfTI image or is not 4-D.
    """
    nib = require("nibabel", "demo")
    if not path.is_file():
        raise io.InputError(f"{path} does not exist; give the path of a NIfTI series")
    try:
        file = nib.load(path)
        raw = file.dataobj.get_unscaled()
    except (nib.filebasedimages.ImageFileError, OSError, EOFError) as e:
        raise io.InputError(f"{path} cannot be read as a NIfTI image: {e}") from e
    if raw.ndim != 4:
        raise io.InputError(
            f"{path} must be 4-D, a volume for each b value, got shape {raw.shape};"
            f" merge the volumes into one series"
        )
    header = file.header.copy()
    header.set_data_shape(raw.shape[:3])
    return Series(
        raw.reshape(-1, raw.shape[3], order="F"),
        float(file.dataobj.slope),
        float(file.dataobj.inter),
        io.Image(torch.empty(0), file.affine, header, path),
        raw.shape[:3],
    )


def voxels(series: Series, at: Tensor) -> Tensor:
    """Return (voxel, volume) signals, float64, of chosen voxels."""
    some = series.raw[at.numpy()].astype("float64")
    return torch.from_numpy(series.slope * some + series.intercept)


def load_acquisition(
    bval: Path,
    bvec: Path | None,
    cval: Path | None,
    series: Series,
    dtype: torch.dtype,
) -> ivim.Acquisition:
    """Read b values, and directions and flow weighting where they are given.

    Args:
        bval: numbers [s/mm²], as FSL writes them, in rows or columns.
        bvec: directions, as FSL writes them in three rows, or in three columns.
        cval: numbers [s/mm].
        series: which they belong to.
        dtype: of the result.

    Returns:
        The acquisition.

    Raises:
        InputError: a file is missing, holds other things than numbers, the wrong number
            of them, or b in wrong units.
    """
    volumes = series.raw.shape[1]
    q = ivim.Acquisition(
        b=_values("b", bval, volumes, dtype),
        c=cval and _values("c", cval, volumes, dtype),
        bvec=bvec and _directions(bvec, volumes, dtype),
    )
    try:
        return ivim.check(q)
    except ValueError as e:
        raise io.InputError(f"{bval}: {e}") from e


def _values(name: str, path: Path, volumes: int, dtype: torch.dtype) -> Tensor:
    found = [x for row in _numbers(path) for x in row]
    if len(found) != volumes:
        raise io.InputError(
            f"{path} holds {len(found)} {name} values, but the series has {volumes}"
            f" volumes; give the .{name}val file that belongs to it"
        )
    return torch.tensor(found, dtype=dtype)


def _numbers(path: Path) -> list[list[float]]:
    if not path.is_file():
        raise io.InputError(f"{path} does not exist; give the file of the series")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return [[float(x) for x in line.split()] for line in lines if line.split()]
    except ValueError as e:
        raise io.InputError(f"{path} must hold numbers only: {e}") from e


def _directions(path: Path, volumes: int, dtype: torch.dtype) -> Tensor:
    rows = _numbers(path)
    shape = len(rows), {len(row) for row in rows}
    if shape not in ((3, {volumes}), (volumes, {3})):
        raise io.InputError(
            f"{path} must hold 3 rows of {volumes} numbers, one direction for each"
            f" volume, got {len(rows)} rows of {sorted(shape[1])}"
        )
    table = torch.tensor(rows, dtype=dtype)
    return table.mT.contiguous() if len(rows) == 3 else table


def load_mask(path: Path | None, series: Series) -> Tensor:
    """Return where to fit, (voxel,): in the mask, or where there is any signal.

    Args:
        path: a volume on the grid of the series.
        series: what is fitted.

    Returns:
        Indices of voxels, x fastest.

    Raises:
        InputError: the mask lies on another grid, or nothing is left to fit.
    """
    if path is None:
        inside = torch.zeros(len(series.raw), dtype=torch.bool)
        for volume in series.raw.T:  # one at a time: the series may be a memory map
            values = torch.from_numpy(volume.astype("float32"))
            inside |= (values * series.slope + series.intercept > 0) & values.isfinite()
        if not inside.any():
            raise io.InputError("the series has no positive signal anywhere")
        return inside.nonzero()[:, 0]
    mask = io.load(path).data
    if mask.shape != series.shape:
        raise io.InputError(
            f"{path} has shape {tuple(mask.shape)}, but the series"
            f" {tuple(series.shape)}; give a mask on the same grid"
        )
    inside = (mask.isfinite() & (mask != 0)).permute(2, 1, 0).reshape(-1)
    if not inside.any():
        raise io.InputError(f"{path} is zero everywhere; mark the voxels to fit")
    return inside.nonzero()[:, 0]


def save_maps(
    folder: Path,
    maps: Mapping[str, Tensor],
    inside: Tensor,
    series: Series,
    about: Mapping[str, Any],
) -> None:
    """Write maps as NIfTI volumes with sidecars; zero outside.

    Args:
        folder: where to write.
        maps: name → (voxel,), ``name_sd`` and the like beside ``name``.
        inside: (voxel,) where the voxels lie.
        series: whose grid it is.
        about: what every sidecar says.
    """
    for name, values in maps.items():
        kind, _, what = name.partition("_")
        units = _UNITS.get(kind, "mm^2/s" if kind[0] in "DM" else "1")
        flat = torch.zeros(len(series.raw), dtype=torch.float32)
        flat[inside] = values
        volume = flat.reshape(series.shape[::-1]).permute(2, 1, 0)
        sidecar = {"Description": f"{what} of IVIM {kind}" if what else f"IVIM {kind}"}
        path = folder / f"{name}.nii.gz"
        io.save(path, volume, series.like, sidecar | {"Units": units} | dict(about))
