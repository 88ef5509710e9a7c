"""NIfTI files in and out, with BIDS names, units and sidecars (extra ``demo``).

Relaxation times are in seconds on both sides, as BIDS asks. Nothing is downloaded.
"""

import importlib.util
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mrsim._check import require
from mrsim._explained import explain as _explain

_LONGEST = 20.0
_OWN_MAPS = (
    'take maps of your own: mrsim.io.load_time("T2map.nii.gz") in Python, --t1 and --t2'
    " on the command line"
)
_MNI = "datasets/data/mni_icbm152_{}_tal_nlin_sym_09a_converted.nii.gz"


class InputError(ValueError):
    """A file that the user gave cannot be used; the message says how to fix it."""


class Image(NamedTuple):
    """A volume and where it lies in the scanner."""

    data: Tensor  # (x, y, z)
    affine: np.ndarray  # (4, 4) voxel indices to RAS+ millimetres
    header: Any  # of nibabel
    path: Path


def load(path: str | Path) -> Image:
    """Read one NIfTI volume.

    Args:
        path: a ``.nii`` or ``.nii.gz`` file of three dimensions.

    Returns:
        The image in float32, with scaling applied.

    Raises:
        InputError: the file is missing, is no NIfTI image or is not 3-D.

    >>> import nibabel, numpy, tempfile
    >>> from mrsim import io
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = folder + "/map.nii.gz"
    ...     nibabel.Nifti1Image(numpy.ones((4, 3, 2)), numpy.eye(4)).to_filename(path)
    ...     io.load(path).data.shape
    torch.Size([4, 3, 2])
    """
    nib = require("nibabel", "demo")
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} does not exist; give the path of a NIfTI file")
    try:
        file = nib.load(path)
        data = np.asarray(file.dataobj, dtype=np.float32)
    except Exception as e:  # nibabel lets errors of zlib and numpy through
        raise InputError(f"{path} cannot be read as a NIfTI image: {e!r}") from e
    if data.ndim > 3 and data.size == np.prod(data.shape[:3]):
        data = data.reshape(data.shape[:3])
    if data.ndim != 3:
        raise InputError(f"{path} must be 3-D, got shape {data.shape}; give one volume")
    return Image(torch.from_numpy(data), file.affine, file.header, path)


def load_time(path: str | Path) -> Image:
    """Read a map of a relaxation time, in seconds.

    Args:
        path: the NIfTI file; a JSON sidecar beside it may state its ``Units``.

    Returns:
        The image [s].

    Raises:
        InputError: as `load`; or the values or the sidecar say milliseconds.

    >>> import nibabel, numpy, tempfile
    >>> from mrsim import io
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = folder + "/T2map.nii.gz"
    ...     seconds = numpy.full((4, 3, 2), 0.08)
    ...     nibabel.Nifti1Image(seconds, numpy.eye(4)).to_filename(path)
    ...     io.load_time(path).data.max()
    tensor(0.0800)
    """
    image = load(path)
    inside = image.data[image.data.isfinite() & (image.data > 0)]
    if not inside.numel():
        raise InputError(f"{path} has no positive value; a map in seconds is expected")
    typical = float(inside.median())
    units = _sidecar(image.path).get("Units", "s")
    if typical > _LONGEST:
        raise InputError(
            f"{path} looks like milliseconds (median {typical:.4g}); maps are in"
            f" seconds, as in BIDS: divide it by 1000"
        )
    if units not in ("s", "second", "seconds"):
        raise InputError(
            f"{path} is in {units!r} by its JSON sidecar; maps are in seconds, as in"
            f" BIDS: convert it and set Units to 's'"
        )
    return image


def save(path: Path, data: Tensor, like: Image, sidecar: Mapping[str, Any]) -> Path:
    """Write a map as float32 NIfTI with a JSON sidecar beside it.

    Args:
        path: where to write, ending in ``.nii.gz``.
        data: (x, y, z) the map, of the shape of ``like``.
        like: the image whose affine and header are taken over.
        sidecar: what BIDS wants to know: ``Units``, ``Description``, …

    Returns:
        The path.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from mrsim import io
    >>> grey = io.load(io.mni152()["gm"])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "half.nii.gz")
    ...     io.save(path, grey.data / 2, grey, {"Units": "1"}).name
    'half.nii.gz'
    """
    nib = require("nibabel", "demo")
    values = data.detach().float().cpu().numpy()
    file = nib.Nifti1Image(values, like.affine, like.header)
    file.set_data_dtype(np.float32)
    file.header["cal_min"] = file.header["cal_max"] = 0
    file.header["descrip"] = b"made by mrsim"
    nib.save(file, path)
    text = json.dumps(dict(sidecar), indent=2)
    _sidecar_path(path).write_text(text + "\n", encoding="utf-8")
    return path


def mni152() -> dict[str, Path]:
    """Find the MNI152 2009a brain (1 mm) among the files of an installed nilearn.

    Nilearn itself is not imported, and nothing is downloaded.

    Returns:
        The paths of ``t1`` (T1-weighted, brain only), ``gm`` and ``wm`` (fractions
        times 255).

    Raises:
        ImportError: nilearn is not installed.
        InputError: it is, but without these files.

    Reference:
        Fonov 2011 (NeuroImage 54:313).

    >>> from mrsim import io
    >>> sorted(io.mni152())
    ['gm', 't1', 'wm']
    >>> io.load(io.mni152()["gm"]).data.shape
    torch.Size([197, 233, 189])
    """
    spec = importlib.util.find_spec("nilearn")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(
            "nilearn, which brings the MNI152 brain, is not installed; get it with"
            f' pip install "mrsim[demo]", or {_OWN_MAPS}'
        )
    home = Path(spec.submodule_search_locations[0])
    paths = {name: home / _MNI.format(name) for name in ("t1", "gm", "wm")}
    missing = [str(p) for p in paths.values() if not p.is_file()]
    if missing:
        raise InputError(
            f"nilearn is installed without {missing[0]}; install nilearn >= 0.8, or"
            f" {_OWN_MAPS}"
        )
    return paths


def _sidecar(path: Path) -> Mapping[str, Any]:
    file = _sidecar_path(path)
    try:
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except ValueError as e:
        raise InputError(f"{file} is no valid JSON: {e}") from e


def _sidecar_path(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(".gz").removesuffix(".nii") + ".json")


_explain(sys.modules[__name__])
