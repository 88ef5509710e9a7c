"""Names and files of results."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from mrsim import io
from mrsim.series import Series, volume

_UNITS = {"T1": "s", "T2": "s", "M0": "arbitrary"}


def unit(name: str) -> str:
    """Return the unit of a map, as BIDS writes it.

    Args:
        name: of the map.

    Returns:
        The unit; ``"1"`` for none.
    """
    return "arbitrary" if name == "residual" else _UNITS.get(name, "1")


def bids_prefix(path: Path) -> str:
    """Return what BIDS entities of an image go into the names of its maps.

    Args:
        path: of the image.

    Returns:
        ``sub-01_ses-1_`` or the like, or nothing.
    """
    kept = ("sub", "ses", "acq", "run", "space")
    parts = path.name.split(".")[0].split("_")
    return "".join(f"{p}_" for p in parts if p.split("-")[0] in kept and "-" in p)


def save_maps(
    folder: Path,
    prefix: str,
    maps: Mapping[str, Tensor],
    inside: Tensor,
    series: Series,
    suffix: Mapping[str, str],
    about: Mapping[str, Any],
) -> list[Path]:
    """Write maps as NIfTI with BIDS names and sidecars; zero outside.

    Args:
        folder: where to write.
        prefix: of the names.
        maps: name → (voxel,), ``name_sd`` beside ``name``.
        inside: (voxel,) where the voxels lie.
        series: whose grid, affine and header they take.
        suffix: name → what BIDS calls the map.
        about: what every sidecar says.

    Returns:
        The files.
    """
    files = []
    for name, values in maps.items():
        base, _, kind = name.partition("_")
        entity = "desc-sd_" if kind else ""
        path = folder / f"{prefix}{entity}{suffix.get(base, base)}.nii.gz"
        what = f"standard deviation of {base}" if kind else base
        text = {"Description": f"{what}, fitted by mrsim", "Units": unit(base)}
        data = volume(values, inside, series)
        files.append(io.save(path, data, series.like, text | dict(about)))
    return files


def finish(folder: Path) -> None:
    """Remove the chunks of a fit whose maps are written.

    Args:
        folder: of the results.
    """
    shutil.rmtree(folder / "parts", ignore_errors=True)
