"""Series of volumes: what is refused, and that nothing is moved or scaled."""

from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch

from mrsim import _command, io, series

nib = pytest.importorskip("nibabel")

AFFINE = np.diag([2.0, 2.0, 3.0, 1.0])


def write(path: Path, data: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    nib.save(nib.Nifti1Image(data, affine), path)
    return path


@pytest.fixture
def data() -> np.ndarray:
    return np.arange(2 * 3 * 4 * 5, dtype="float32").reshape(2, 3, 4, 5) + 1


def test_files_of_volumes_are_one_series(tmp_path: Path, data: np.ndarray) -> None:
    whole = series.load([write(tmp_path / "all.nii.gz", data)])
    paths = [write(tmp_path / f"{k}.nii", data[..., k]) for k in range(3)]
    apart = series.load([*paths, write(tmp_path / "rest.nii", data[..., 3:])])
    at = torch.tensor([0, 7, 23])
    assert whole.volumes == apart.volumes == 5
    assert torch.equal(series.voxels(whole, at), series.voxels(apart, at))
    x, y, z = 1, 0, 1  # voxel 7 of (2, 3, 4), x fastest
    assert series.voxels(whole, at)[1].tolist() == data[x, y, z].tolist()
    values = torch.tensor([3.0, 4.0, 5.0])
    back = series.volume(values, at, whole)
    assert back.shape == (2, 3, 4)
    assert back[x, y, z] == 4.0
    assert back.sum() == 12.0


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda p, _: [p / "none.nii"], "none.nii does not exist"),
        (lambda p, d: [write(p / "a.nii", d[..., 0])], "must be 4-D"),
        (lambda p, d: [write(p / "a.nii", d[..., None])], r"must be 3-D or 4-D, got"),
        (
            lambda p, d: [write(p / "a.nii", d), write(p / "b.nii", d[:, :2])],
            "b.nii has shape .* unlike .*a.nii.*one grid",
        ),
        (
            lambda p, d: [write(p / "a.nii", d), write(p / "b.nii", d, np.eye(4))],
            "volumes on one grid",
        ),
    ],
)
def test_what_is_no_series_is_named(
    make: object, why: str, tmp_path: Path, data: np.ndarray
) -> None:
    with pytest.raises(io.InputError, match=why):
        series.load(make(tmp_path, data))  # pyright: ignore[reportCallIssue]


def test_a_damaged_file_is_named(tmp_path: Path, data: np.ndarray) -> None:
    path = write(tmp_path / "a.nii.gz", data)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(io.InputError, match=r"a\.nii\.gz cannot be read as a NIfTI"):
        series.load([path])


def test_masks(tmp_path: Path, data: np.ndarray) -> None:
    data[0, 0, 0] = 0
    data[1, 0, 0] = -1
    found = series.load([write(tmp_path / "a.nii", data)])
    assert series.load_mask(None, found).tolist() == list(range(2, 24))
    assert series.load_mask(None, found, signed=True).tolist() == list(range(1, 24))
    mask = np.zeros((2, 3, 4), "float32")
    mask[1, 2, 3], mask[0, 1, 0] = 1, np.nan
    path = write(tmp_path / "mask.nii", mask)
    assert series.load_mask(path, found).tolist() == [23]
    empty = write(tmp_path / "empty.nii", 0 * data[..., 0])
    with pytest.raises(io.InputError, match=r"empty\.nii is zero everywhere"):
        series.load_mask(empty, found)
    small = write(tmp_path / "small.nii", mask[:1])
    with pytest.raises(io.InputError, match=r"small\.nii has shape \(1, 3, 4\)"):
        series.load_mask(small, found)
    silent = series.load([write(tmp_path / "b.nii", -np.abs(data))])
    with pytest.raises(io.InputError, match="no positive signal"):
        series.load_mask(None, silent)


def test_a_command_that_cannot_start_says_why(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    taken = tmp_path / "file"
    taken.write_text("")
    for change, why in (
        ({"threads": 0}, "--threads must be positive"),
        ({"device": "abacus"}, "--device abacus is not available; use cpu"),
        ({"out": taken}, "cannot be made"),
    ):
        usual = {"threads": threads, "device": "cpu", "out": tmp_path / "new"}
        with pytest.raises(io.InputError, match=why):
            _command.prepare(Namespace(**usual | change))
    _command.prepare(Namespace(**usual))
    assert (tmp_path / "new").is_dir()
