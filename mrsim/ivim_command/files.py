"""Files of the command: b values and directions of a series; maps out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mrsim import io, ivim
from mrsim.series import Series, volume

_UNITS = {"S0": "arbitrary", "Dp": "mm^2/s", "v": "mm/s", "tau": "s"}


def unit(name: str) -> str:
    """Return the unit of a map, as BIDS writes it.

    Args:
        name: of the map.

    Returns:
        The unit; ``"1"`` for none.
    """
    return _UNITS.get(name, "mm^2/s" if name[0] in "DM" else "1")


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
    volumes = series.volumes
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
        sidecar = {"Description": f"{what} of IVIM {kind}" if what else f"IVIM {kind}"}
        path = folder / f"{name}.nii.gz"
        io.save(
            path,
            volume(values, inside, series),
            series.like,
            sidecar | {"Units": unit(kind)} | dict(about),
        )
