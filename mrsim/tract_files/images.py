"""Images: NIfTI through nibabel, MRtrix's mif through `mrsim.tract_files.mif`."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mrsim._check import require
from mrsim.io import InputError
from mrsim.tract import axes, degree, warn_of_frame
from mrsim.tract_files.mif import load_mif


def load_volumes(path: str | Path) -> tuple[Tensor, Tensor]:
    """Read an image of any number of dimensions.

    Args:
        path: ``.nii``, ``.nii.gz``, ``.mif`` or ``.mif.gz``.

    Returns:
        The data, float32, and its affine (4, 4), float64: voxel indices to scanner
        millimetres.

    Raises:
        InputError: the file is missing, of another format or damaged.

    >>> import nibabel, numpy, tempfile
    >>> from mrsim import tract_files
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = folder + "/dwi.nii.gz"
    ...     nibabel.Nifti1Image(numpy.ones((4, 3, 2, 8)), None).to_filename(path)
    ...     tract_files.load_volumes(path)[0].shape
    torch.Size([4, 3, 2, 8])
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} does not exist; give the path of a NIfTI or mif file")
    if path.name.endswith((".mif", ".mif.gz")):
        return load_mif(path)
    nib = require("nibabel", "io")
    try:
        file = nib.load(path)
        data = np.asarray(file.dataobj, dtype=np.float32)
    except Exception as e:  # nibabel lets errors of zlib and numpy through
        raise InputError(f"{path} cannot be read as an image: {e!r}") from e
    return torch.from_numpy(data), torch.from_numpy(np.array(file.affine, dtype=float))


def load_fod(path: str | Path, *, check: bool = True) -> tuple[Tensor, Tensor]:
    """Read an image of fibre orientation densities.

    Args:
        path: as of `load_volumes`; tournier07 in the scanner frame, as MRtrix writes.
        check: warn where its peaks look as if it were not.

    Returns:
        (x, y, z, coefficient) float32, and the affine (4, 4), float64.

    Raises:
        InputError: the file cannot be used, or its volumes fit no even lmax.

    >>> import tempfile, torch
    >>> from mrsim import tract_files
    >>> fod = torch.zeros(4, 3, 2, 6).index_fill(3, torch.tensor([0]), 0.3)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = tract_files.save_fod(folder + "/fod.nii", fod, torch.eye(4))
    ...     tract_files.load_fod(path, check=False)[0].shape
    torch.Size([4, 3, 2, 6])
    """
    data, affine = load_volumes(path)
    if data.ndim != 4:
        raise InputError(
            f"{path} must be 4-D (x, y, z, coefficient), got shape {tuple(data.shape)}"
        )
    try:
        degree(data.shape[-1])
        axes(affine)
        if check:
            warn_of_frame(data, affine)
    except ValueError as e:
        raise InputError(f"{path}: {e}") from e
    return data, affine


def check_affine(path: Path | str, affine: Tensor) -> None:
    """Refuse what is no affine of an image."""
    if tuple(affine.shape) != (4, 4):
        raise InputError(
            f"{path} cannot be written: affine must have shape (4, 4), got"
            f" {tuple(affine.shape)}"
        )


def save_fod(path: str | Path, coefficients: Tensor, affine: Tensor) -> Path:
    """Write fibre orientation densities as float32 NIfTI, as MRtrix reads them.

    Args:
        path: ending in ``.nii`` or ``.nii.gz``.
        coefficients: (x, y, z, coefficient), tournier07 in the scanner frame.
        affine: (4, 4) voxel indices to scanner millimetres.

    Returns:
        The path.

    Raises:
        InputError: the coefficients fit no even lmax, or the affine is none.

    >>> import tempfile, torch
    >>> from mrsim import tract_files
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     fod = torch.zeros(4, 3, 2, 45)  # lmax 8
    ...     tract_files.save_fod(folder + "/fod.nii.gz", fod, torch.eye(4)).name
    'fod.nii.gz'
    """
    nib = require("nibabel", "io")
    try:
        degree(coefficients.shape[-1])
    except ValueError as e:
        raise InputError(f"{path}: {e}") from e
    check_affine(path, affine)
    values = coefficients.detach().cpu().float().numpy()
    file = nib.Nifti1Image(values, affine.detach().cpu().double().numpy())
    file.header.set_xyzt_units("mm")
    nib.save(file, path)
    return Path(path)
