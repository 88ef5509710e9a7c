import argparse
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mrsim import tract, tract_command
from mrsim.io import InputError
from mrsim.tract_files import load_tracks, save_fod

nib = pytest.importorskip("nibabel")


def affine() -> Tensor:
    made = torch.eye(4)
    made[:3, :3] = torch.tensor([[1.6, -1.2, 0.0], [1.2, 1.6, 0.0], [0.0, 0.0, 2.2]])
    made[:3, 3] = -made[:3, :3] @ torch.tensor([11.5, 11.5, 5.5])
    return made


def ring() -> Tensor:
    """Return FODs of a ring about the scanner's axis, with a kissing crossing."""
    grid = [torch.arange(24.0), torch.arange(24.0), torch.arange(12.0)]
    at = torch.stack(torch.meshgrid(*grid, indexing="ij"), -1)
    p = at @ affine()[:3, :3].mT + affine()[:3, 3]
    r = p[..., :2].norm(dim=-1)
    way = torch.stack([-p[..., 1], p[..., 0], 0.2 * r], -1)
    way = way / way.norm(dim=-1, keepdim=True).clamp_min(1e-9)
    fod = tract.harmonics(way, 6) * (0.25 / (1 + (r[..., None] - 14).square() / 40))
    return torch.where(((r > 7) & (r < 21))[..., None], fod, 0.0)


def track(folder: Path, words: str) -> list[Tensor]:
    parser = argparse.ArgumentParser()
    tract_command.add_parser(parser.add_subparsers())
    given = parser.parse_args(["track", *words.format(folder).split()])
    assert given.run(given) == 0
    return load_tracks(given.out)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_fod(tmp_path / "fod.nii", ring(), affine())
    seeds = np.zeros((24, 24, 12), np.uint8)
    seeds[16:20, 9:15, 5:7] = 1
    nib.save(nib.Nifti1Image(seeds, affine().numpy()), tmp_path / "seeds.nii")
    half = np.zeros((24, 24, 12), np.uint8)
    half[:, 10:] = 1
    nib.save(nib.Nifti1Image(half, affine().numpy()), tmp_path / "half.nii")
    return tmp_path


SHORT = "{0}/fod.nii --step 1 --maxlength 20 --minlength 4"
SETS = {
    "default": "--maxlength 40",
    "step": "--step 0.5 --angle 30 --cutoff 0.15 --minlength 4 --maxlength 30",
    "rk4": "--rk4 --maxlength 30",
    "mask": "--mask {0}/half.nii --minlength 5",
    "exclude": "--exclude 0,14,0,4 --minlength 5 --maxlength 60",
    "include": "--include 14,0,0,5 --include 0,14,0,6 --stop --maxlength 80",
    "downsample": "--downsample 5",
    "one way": "--seed_unidirectional --minlength 3 --maxlength 40",
}


@pytest.mark.skipif(
    shutil.which("tckgen") is None, reason="needs MRtrix3 (apt-get install mrtrix3)"
)
@pytest.mark.parametrize("name", SETS)
def test_tracks_are_those_of_tckgen(name: str, folder: Path) -> None:
    words = SETS[name]
    both = "--seed_grid_per_voxel {0}/seeds.nii 1 --seed_direction=-0.36,0.8,0.48 "
    made = track(folder, "{0}/fod.nii --quiet --out {0}/ours.tck " + both + words)
    theirs = (both + words).replace("--", "-").replace("=", " ")
    command = (
        "tckgen {0}/fod.nii {0}/theirs.tck -algorithm SD_STREAM -quiet -nthreads 0 "
    )
    subprocess.run(
        (command + theirs).format(folder).split(), check=True, capture_output=True
    )
    wanted = load_tracks(folder / "theirs.tck")
    assert len(wanted) > 10
    assert len(made) == len(wanted)
    # grid seeds run in MRtrix's order of axes: match by the seed's own track
    free = list(wanted)
    for a in made:
        best = min(
            range(len(free)),
            key=lambda k: float(
                (free[k][0] - a[0]).norm() + (free[k][-1] - a[-1]).norm()
            ),
        )
        b = free.pop(best)
        assert len(a) == len(b)
        assert (a - b).abs().max() < 0.01


def test_seeds_and_formats(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    positions = torch.tensor([[14.0, 0.0, 0.0], [0.0, 14.0, 1.0], [500.0, 0.0, 0.0]])
    np.savetxt(folder / "seeds.txt", positions.numpy())
    three = track(
        folder,
        SHORT + " --seeds {0}/seeds.txt --out {0}/a.trk",
    )
    assert len(three) == 2  # one lies outside
    said = capsys.readouterr()
    assert "3 seeds, 2 tracks" in said.out
    assert "left the image" in said.out
    assert "seeds" in said.err  # the progress bar
    image = track(
        folder,
        SHORT + " --seeds {0}/seeds.nii --quiet --out {0}/b.trx",
    )
    assert 10 < len(image) <= 48
    again = SHORT + " --seed_random_per_voxel {0}/seeds.nii 2 --quiet --out {0}/c.tck"
    one, two = track(folder, again), track(folder, again)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    other = track(folder, again + " --random 5")
    assert not torch.equal(one[0][0], other[0][0])
    ball = SHORT + " --seed_sphere 14,0,0,3 --seeds_count 30 --quiet --out {0}/d.tck"
    assert 10 < len(track(folder, ball)) <= 30
    assert capsys.readouterr().out == ""


def test_other_algorithms(folder: Path) -> None:
    fod = ring()
    points = tract.hemisphere(724)
    peak = points[(fod @ tract.harmonics(points, 6).mT).argmax(-1)]
    there = fod.abs().amax(-1, keepdim=True) > 0
    vectors = torch.where(there, peak, 0.0).float().numpy()
    nib.save(nib.Nifti1Image(vectors, affine().numpy()), folder / "v.nii")
    words = " --step 1 --maxlength 20 --minlength 4 --algorithm FACT --quiet"
    words = words + " --seeds {0}/seeds.nii --out {0}/x.tck"
    fact = track(folder, "{0}/v.nii" + words)
    g = torch.cat([torch.zeros(1, 3), tract.hemisphere(12)])
    b = torch.tensor([0.0] + [1e3] * 12)
    along = (peak @ g.mT).square()
    signal = (-b * torch.where(there, 3e-4 + 1.4e-3 * along, 7e-4)).exp().float()
    nib.save(nib.Nifti1Image(signal.numpy(), affine().numpy()), folder / "dwi.nii")
    np.savetxt(folder / "grad.txt", torch.cat([g, b[:, None]], -1).numpy())
    words = words.replace("FACT", "Tensor_Det --cutoff 0.3 --grad {0}/grad.txt")
    tensor = track(folder, "{0}/dwi.nii" + words)
    for made in (fact, tensor):
        assert len(made) > 20
        radius = torch.cat(made)[:, :2].norm(dim=-1)
        assert radius.min() > 5
        assert radius.max() < 23


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("{0}/none.nii --seeds {0}/seeds.nii", "does not exist"),
        ("{0}/seeds.nii --seeds {0}/seeds.nii", "4-D"),
        ("{0}/fod.nii --seeds {0}/none.txt", "does not exist"),
        ("{0}/fod.nii --seed_sphere 1,2,3", "4 numbers"),
        ("{0}/fod.nii --seed_grid_per_voxel {0}/seeds.nii 0", "1, 2"),
        ("{0}/fod.nii --seeds {0}/seeds.nii --mask nowhere", "neither a file"),
        ("{0}/fod.nii --seeds {0}/seeds.nii --seed_direction 0,0,0", "zero"),
        ("{0}/fod.nii --seeds {0}/seeds.nii --angle -3", "angle"),
        ("{0}/fod.nii --step 2 --seeds {0}/seeds.nii --out {0}/x.vtk", "must end"),
        ("{0}/fod.nii --seed_sphere 0,0,0,1 --seeds_count -3", "positive"),
        ("{0}/fod.nii --seeds {0}/seeds.nii --device nothing", "not available"),
        ("{0}/fod.nii --algorithm Tensor_Det --seeds {0}/seeds.nii", "--grad"),
    ],
)
def test_bad_input_is_told(words: str, why: str, folder: Path) -> None:
    with pytest.raises(InputError, match=why):
        track(folder, words + " --quiet" + ("" if "--out" in words else " --out x.tck"))
