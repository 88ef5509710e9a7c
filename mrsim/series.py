"""Series of volumes as they lie on disk, read voxel by voxel; maps back onto them."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mrsim import io
from mrsim._check import require
from mrsim._explained import explain as _explain


class Part(NamedTuple):
    """Volumes of one file."""

    raw: Any  # array (voxel, volume), x fastest, a view of the file where possible
    slope: float  # value = slope · raw + intercept
    intercept: float


class Series(NamedTuple):
    """Volumes on one grid, and where it lies in the scanner."""

    parts: tuple[Part, ...]
    like: io.Image  # its grid; the data are empty
    shape: tuple[int, ...]  # (x, y, z)
    volumes: int


def load(paths: Sequence[Path]) -> Series:
    """Open one 4-D NIfTI file, or several files on one grid, one after another.

    Args:
        paths: the files; 3-D files are one volume each.

    Returns:
        The series; nothing is read yet where the files are not compressed.

    Raises:
        InputError: a file is missing or no NIfTI image, a single file is not 4-D, or
            grids differ.

    >>> import nibabel, numpy, tempfile
    >>> from pathlib import Path
    >>> from mrsim import series
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "dwi.nii")
    ...     nibabel.Nifti1Image(numpy.ones((4, 3, 2, 8)), None).to_filename(path)
    ...     series.load([path]).shape
    (4, 3, 2)
    """
    opened = [_open(path) for path in paths]
    if len(opened) == 1 and opened[0][0].ndim != 4:
        raise io.InputError(
            f"{paths[0]} must be 4-D, a volume for each sample, got shape"
            f" {opened[0][0].shape}; give all volumes, in one file or several"
        )
    first, file = opened[0]
    for path, (raw, other) in zip(paths, opened, strict=True):
        affine = np.allclose(other.affine, file.affine, atol=1e-3)
        if raw.shape[:3] != first.shape[:3] or not affine:
            raise io.InputError(
                f"{path} has shape {raw.shape[:3]} or an affine unlike {paths[0]},"
                f" {first.shape[:3]}; give volumes on one grid"
            )
    header = file.header.copy()
    header.set_data_shape(first.shape[:3])
    size = int(np.prod(first.shape[:3]))
    parts = tuple(
        Part(
            raw.reshape(size, -1, order="F"),
            float(file.dataobj.slope),
            float(file.dataobj.inter),
        )
        for raw, file in opened
    )
    like = io.Image(torch.empty(0), file.affine, header, paths[0])
    volumes = sum(part.raw.shape[1] for part in parts)
    return Series(parts, like, tuple(first.shape[:3]), volumes)


def _open(path: Path) -> tuple[Any, Any]:
    nib = require("nibabel", "io")
    if not path.is_file():
        raise io.InputError(f"{path} does not exist; give the path of a NIfTI series")
    try:
        file = nib.load(path)
        raw = file.dataobj.get_unscaled()
    except Exception as e:  # nibabel lets errors of zlib and numpy through
        raise io.InputError(f"{path} cannot be read as a NIfTI image: {e!r}") from e
    if raw.ndim not in (3, 4):
        raise io.InputError(f"{path} must be 3-D or 4-D, got shape {raw.shape}")
    return raw, file


def voxels(series: Series, at: Tensor) -> Tensor:
    """Return the signals of chosen voxels.

    Args:
        series: of `load`.
        at: (voxel,) their indices, x fastest.

    Returns:
        (voxel, volume) float64.

    >>> import nibabel, numpy, tempfile, torch
    >>> from pathlib import Path
    >>> from mrsim import series
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "dwi.nii")
    ...     nibabel.Nifti1Image(numpy.ones((4, 3, 2, 8)), None).to_filename(path)
    ...     series.voxels(series.load([path]), torch.tensor([0, 5])).shape
    torch.Size([2, 8])
    """
    where = at.numpy()
    parts = [
        p.slope * p.raw[where].astype("float64") + p.intercept for p in series.parts
    ]
    return torch.from_numpy(np.concatenate(parts, 1))


def load_mask(path: Path | None, series: Series, *, signed: bool = False) -> Tensor:
    """Return where to fit: in the mask, or where there is any signal.

    Args:
        path: a volume on the grid of the series.
        series: what is fitted.
        signed: negative values are signal too.

    Returns:
        (voxel,) indices of voxels, x fastest.

    Raises:
        InputError: the mask lies on another grid, or nothing is left to fit.

    >>> import nibabel, numpy, tempfile
    >>> from pathlib import Path
    >>> from mrsim import series
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "dwi.nii")
    ...     nibabel.Nifti1Image(numpy.ones((4, 3, 2, 8)), None).to_filename(path)
    ...     series.load_mask(None, series.load([path])).shape
    torch.Size([24])
    """
    if path is None:
        inside = torch.zeros(len(series.parts[0].raw), dtype=torch.bool)
        for part in series.parts:
            for volume in part.raw.T:  # one at a time: it may be a memory map
                values = torch.from_numpy(volume.astype("float32"))
                values = values * part.slope + part.intercept
                inside |= ((values.abs() if signed else values) > 0) & values.isfinite()
        if not inside.any():
            raise io.InputError("the series has no positive signal anywhere")
        return inside.nonzero()[:, 0]
    mask = load_volume(path, series)
    inside = mask.isfinite() & (mask != 0)
    if not inside.any():
        raise io.InputError(f"{path} is zero everywhere; mark the voxels to fit")
    return inside.nonzero()[:, 0]


def load_volume(path: Path, series: Series) -> Tensor:
    """Read a map on the grid of a series.

    Args:
        path: the file.
        series: whose grid it must have.

    Returns:
        (voxel,) values in float32, x fastest.

    Raises:
        InputError: the file cannot be read, or lies on another grid.

    >>> import nibabel, numpy, tempfile
    >>> from pathlib import Path
    >>> from mrsim import series
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     dwi, b1 = Path(folder, "dwi.nii"), Path(folder, "b1.nii")
    ...     nibabel.Nifti1Image(numpy.ones((4, 3, 2, 8)), None).to_filename(dwi)
    ...     nibabel.Nifti1Image(numpy.ones((4, 3, 2)), None).to_filename(b1)
    ...     series.load_volume(b1, series.load([dwi])).shape
    torch.Size([24])
    """
    found = io.load(path)
    if found.data.shape != series.shape:
        raise io.InputError(
            f"{path} has shape {tuple(found.data.shape)}, but the series"
            f" {tuple(series.shape)}; give a volume on the same grid"
        )
    return found.data.permute(2, 1, 0).reshape(-1)


def volume(values: Tensor, at: Tensor, series: Series) -> Tensor:
    """Put the values of some voxels back onto the grid; zero elsewhere.

    Args:
        values: (voxel,).
        at: (voxel,) their indices, x fastest.
        series: whose grid it is.

    Returns:
        (x, y, z) in float32.

    >>> import nibabel, numpy, tempfile, torch
    >>> from pathlib import Path
    >>> from mrsim import series
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "dwi.nii")
    ...     nibabel.Nifti1Image(numpy.ones((4, 3, 2, 8)), None).to_filename(path)
    ...     opened = series.load([path])
    ...     series.volume(torch.ones(2), torch.tensor([0, 5]), opened).sum()
    tensor(2.)
    """
    flat = torch.zeros(len(series.parts[0].raw), dtype=torch.float32)
    whole = flat.index_copy(0, at, values.float().cpu())
    return whole.reshape(series.shape[::-1]).permute(2, 1, 0)


_explain(sys.modules[__name__])
