"""Tracks: ``.tck`` and ``.trk`` through nibabel; ``.trx``, a zip of arrays, here."""

import itertools
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mrsim._check import require
from mrsim.io import InputError
from mrsim.tract_files.images import check_affine

_TRACKS = (".tck", ".trk", ".trx")


def save_tracks(
    path: str | Path,
    tracks: Sequence[Tensor],
    affine: Tensor | None = None,
    shape: Sequence[int] | None = None,
    about: dict[str, str] | None = None,
) -> Path:
    """Write tracks.

    Args:
        path: ending in ``.tck``, ``.trk`` or ``.trx``.
        tracks: (vertex, 3) scanner positions [mm] each.
        affine: (4, 4) of the image they were made in, for ``.trk`` and ``.trx``.
        shape: of that image.
        about: words for the header of a ``.tck`` file, as tckgen writes its options.

    Returns:
        The path.

    Raises:
        InputError: the ending is another, or affine and shape are missing.

    >>> import tempfile, torch
    >>> from mrsim import tract_files
    >>> track = torch.linspace(0, 4, 9)[:, None].expand(9, 3)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = folder + "/one.trk"
    ...     tract_files.save_tracks(path, [track], torch.eye(4), (5, 5, 5)).name
    'one.trk'
    """
    path = Path(path)
    check_ending(path)
    points = [x.detach().cpu().float().numpy() for x in tracks]
    nib = require("nibabel", "io")
    header: dict[Any, Any] = dict(about or {})
    if path.suffix != ".tck":
        if affine is None or shape is None:
            raise InputError(f"{path}: affine and shape of the image are needed")
        check_affine(path, affine)
        grid = nib.Nifti1Image(np.zeros(tuple(shape[:3]), np.int8), affine.numpy())
        if path.suffix == ".trx":
            return _save_trx(path, points, grid)
        fields = nib.streamlines.Field
        header = {
            fields.VOXEL_TO_RASMM: affine.numpy(),
            fields.VOXEL_SIZES: grid.header.get_zooms()[:3],
            fields.DIMENSIONS: grid.shape,
            fields.VOXEL_ORDER: "".join(nib.aff2axcodes(affine.numpy())),
        }
    made = nib.streamlines.Tractogram(points, affine_to_rasmm=np.eye(4))
    nib.streamlines.save(made, str(path), header=header)
    return path


def check_ending(path: Path) -> None:
    """Refuse a name whose ending is that of no file of tracks.

    Args:
        path: where tracks shall be written.

    Raises:
        InputError: it is none.
    """
    if path.suffix not in _TRACKS:
        raise InputError(f"{path} must end in one of {', '.join(_TRACKS)}")


def load_tracks(path: str | Path) -> list[Tensor]:
    """Read tracks.

    Args:
        path: a ``.tck``, ``.trk`` or ``.trx`` file.

    Returns:
        (vertex, 3) scanner positions [mm] of each track, float32.

    Raises:
        InputError: the file is missing, damaged or of another format.

    >>> import tempfile, torch
    >>> from mrsim import tract_files
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = tract_files.save_tracks(folder + "/one.tck", [torch.rand(7, 3)])
    ...     [len(track) for track in tract_files.load_tracks(path)]
    [7]
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} does not exist; give the path of a file of tracks")
    if path.suffix == ".trx":
        tracks = _load_trx(path)
    else:
        streamlines = require("nibabel", "io").streamlines
        try:
            found = streamlines.load(str(path)).streamlines
        except Exception as e:  # nibabel checks little of what a header says
            raise InputError(f"{path} cannot be read as tracks: {e!r}") from e
        tracks = [torch.from_numpy(np.array(x, dtype=np.float32)) for x in found]
    bad = next((k for k, x in enumerate(tracks) if not x.isfinite().all()), None)
    if bad is not None:
        raise InputError(f"{path}: track {bad} has a vertex that is not finite")
    return tracks


def _save_trx(path: Path, points: list[np.ndarray], grid: Any) -> Path:
    offsets = np.cumsum([0, *map(len, points)]).astype("<u8")
    header = {
        "DIMENSIONS": [int(n) for n in grid.shape],
        "VOXEL_TO_RASMM": grid.affine.tolist(),
        "NB_VERTICES": int(offsets[-1]),
        "NB_STREAMLINES": len(points),
    }
    rows = np.concatenate([np.zeros((0, 3)), *points]).astype("<f4")
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("header.json", json.dumps(header))
        file.writestr("positions.3.float32", rows.tobytes())
        file.writestr("offsets.uint64", offsets.tobytes())
    return path


def _load_trx(path: Path) -> list[Tensor]:
    """Read tracks from a zip of raw arrays, named by kind, columns and type."""
    try:
        with zipfile.ZipFile(path) as file:
            names = {n.split(".")[0]: n for n in file.namelist() if "/" not in n}
            count = json.loads(file.read(names["header"]))["NB_STREAMLINES"]
            kinds = [names[n].split(".")[-1] for n in ("positions", "offsets")]
            flat = np.frombuffer(file.read(names["positions"]), kinds[0])
            offsets = np.frombuffer(file.read(names["offsets"]), kinds[1])
        rows = torch.from_numpy(flat.astype(np.float32)).reshape(-1, 3)
        starts = offsets[:count].astype(np.int64).tolist()
    except Exception as e:  # a zip can ask for what zipfile has not
        raise InputError(f"{path} cannot be read as tracks: {e!r}") from e
    return [rows[a:b] for a, b in itertools.pairwise([*starts, len(rows)])]
