import gzip
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mrsim import tract
from mrsim.io import InputError
from mrsim.tract_files import (
    load_fod,
    load_gradients,
    load_scheme,
    load_table,
    load_tracks,
    load_volumes,
    save_fod,
    save_tracks,
)

nib = pytest.importorskip("nibabel")
needs_mrtrix = pytest.mark.skipif(
    shutil.which("mrconvert") is None, reason="needs MRtrix3 (apt-get install mrtrix3)"
)


def affine() -> Tensor:
    made = torch.eye(4)
    turn = torch.linalg.qr(
        torch.tensor([[1.0, 0.3, 0.1], [0.2, -1.0, 0.4], [0.1, 0.2, 1.0]])
    )[0]
    made[:3, :3] = turn * torch.tensor([2.0, 2.5, 3.0])
    made[:3, 3] = torch.tensor([-7.0, 11.0, 3.5])
    return made


def bundle(generator: torch.Generator) -> list[Tensor]:
    sizes = (2, 9, 31, 4)
    return [
        10 * torch.randn(n, 3, generator=generator).float().cumsum(0) for n in sizes
    ]


@pytest.mark.parametrize("ending", ["tck", "trk", "trx"])
def test_tracks_come_back(
    ending: str, tmp_path: Path, generator: torch.Generator
) -> None:
    tracks = bundle(generator)
    path = tmp_path / f"x.{ending}"
    save_tracks(path, tracks, affine(), (20, 21, 22, 45), {"step_size": "0.2"})
    found = load_tracks(path)
    assert [len(t) for t in found] == [len(t) for t in tracks]
    for a, b in zip(found, tracks, strict=True):
        assert torch.allclose(a, b, atol=1e-4)
    if ending == "tck":
        assert nib.streamlines.load(path).header["step_size"] == "0.2"
    save_tracks(path, [], affine(), (20, 21, 22))
    assert load_tracks(path) == []


def test_trx_is_that_of_trx_python(tmp_path: Path, generator: torch.Generator) -> None:
    trx = pytest.importorskip("trx.trx_file_memmap", reason="needs trx-python")
    tracks = bundle(generator)
    save_tracks(tmp_path / "x.trx", tracks, affine(), (20, 21, 22))
    found = trx.load(str(tmp_path / "x.trx"))
    assert np.allclose(found.header["VOXEL_TO_RASMM"], affine())
    for a, b in zip(found.streamlines, tracks, strict=True):
        assert np.array_equal(a, b.numpy())
    found.close()
    (tmp_path / "y.trx").write_text("nothing")
    with pytest.raises(InputError, match="cannot be read"):
        load_tracks(tmp_path / "y.trx")


@needs_mrtrix
def test_mrtrix_reads_our_tracks(tmp_path: Path, generator: torch.Generator) -> None:
    tracks = bundle(generator)
    save_tracks(tmp_path / "x.tck", tracks)
    made = subprocess.run(
        ["tckstats", "-quiet", "-output", "count", "-output", "mean", "x.tck"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    lengths = [float(tract.length(t, torch.tensor(len(t)))) for t in tracks]
    assert int(made[0]) == 4
    assert abs(float(made[1]) - np.mean(lengths)) < 1e-2


def test_bad_tracks_are_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\.tck, \.trk, \.trx"):
        save_tracks(tmp_path / "x.vtk", [])
    with pytest.raises(InputError, match="affine and shape"):
        save_tracks(tmp_path / "x.trk", [])
    with pytest.raises(InputError, match="does not exist"):
        load_tracks(tmp_path / "x.tck")
    (tmp_path / "y.tck").write_text("nothing")
    with pytest.raises(InputError, match="cannot be read"):
        load_tracks(tmp_path / "y.tck")


def test_fods_come_back(tmp_path: Path, generator: torch.Generator) -> None:
    fod = torch.randn(3, 4, 5, 15, generator=generator)
    save_fod(tmp_path / "x.nii.gz", fod, affine())
    data, turn = load_fod(tmp_path / "x.nii.gz")
    assert torch.allclose(data, fod.float())
    assert torch.allclose(turn, affine(), atol=1e-5)
    with pytest.raises(InputError, match="even spherical harmonics"):
        save_fod(tmp_path / "y.nii", fod[..., :14], affine())
    nib.save(
        nib.Nifti1Image(np.ones((2, 2, 2, 9), np.float32), np.eye(4)),
        tmp_path / "z.nii",
    )
    with pytest.raises(InputError, match="odd degrees"):
        load_fod(tmp_path / "z.nii")
    nib.save(
        nib.Nifti1Image(np.ones((2, 2, 2), np.float32), np.eye(4)), tmp_path / "v.nii"
    )
    with pytest.raises(InputError, match="4-D"):
        load_fod(tmp_path / "v.nii")
    (tmp_path / "w.nii").write_text("nothing")
    with pytest.raises(InputError, match="cannot be read"):
        load_fod(tmp_path / "w.nii")
    with pytest.raises(InputError, match="does not exist"):
        load_fod(tmp_path / "u.nii")


def test_a_wrong_frame_warns_on_reading(tmp_path: Path) -> None:
    at = torch.stack(torch.meshgrid(*3 * [torch.arange(16.0)], indexing="ij"), -1) - 7.5
    r = at[..., :2].norm(dim=-1)
    way = torch.stack([-at[..., 1], at[..., 0], 0.4 * r], -1)
    way = way / way.norm(dim=-1, keepdim=True)
    fod = torch.where((r > 3)[..., None], tract.harmonics(way, 6), 0.0)
    c, s = 0.8, 0.6
    turn = torch.eye(4)
    turn[:3, :3] = torch.tensor([[c, 0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]])
    save_fod(tmp_path / "x.nii", fod, turn)  # its directions lie along the image's axes
    with pytest.warns(UserWarning, match=r"image axes.*tract\.to_scanner"):
        load_fod(tmp_path / "x.nii")
    save_fod(tmp_path / "y.nii", tract.to_scanner(fod, turn), turn)
    load_fod(tmp_path / "y.nii")


@needs_mrtrix
@pytest.mark.parametrize("strides", ["1,2,3,4", "-1,2,-3,4", "4,-3,2,1", "2,3,-4,1"])
@pytest.mark.parametrize("kind", ["float32", "int16be", "uint8"])
def test_mif(
    strides: str, kind: str, tmp_path: Path, generator: torch.Generator
) -> None:
    data = torch.randint(0, 200, (3, 4, 5, 6), generator=generator).float()
    image = nib.Nifti1Image(data.numpy(), affine().numpy())
    nib.save(image, tmp_path / "x.nii")
    # MRtrix keeps axes in the order and sense nearest to right, anterior, superior
    near = nib.as_closest_canonical(image)
    data, wanted = torch.from_numpy(near.get_fdata()).float(), torch.tensor(near.affine)
    words = f"mrconvert x.nii x.mif -quiet -strides {strides} -datatype {kind}"
    subprocess.run(words.split(), cwd=tmp_path, check=True, capture_output=True)
    found, turn = load_volumes(tmp_path / "x.mif")
    assert torch.equal(found, data)
    assert torch.allclose(turn, wanted, atol=1e-5)
    with gzip.open(tmp_path / "y.mif.gz", "wb") as file:
        file.write((tmp_path / "x.mif").read_bytes())
    assert torch.equal(load_volumes(tmp_path / "y.mif.gz")[0], data)


def test_bad_mif_is_told(tmp_path: Path) -> None:
    (tmp_path / "x.mif").write_text("something else")
    with pytest.raises(InputError, match="mrtrix image"):
        load_volumes(tmp_path / "x.mif")
    (tmp_path / "y.mif").write_text("mrtrix image\ndim: 2,2\nEND\n")
    with pytest.raises(InputError, match="header"):
        load_volumes(tmp_path / "y.mif")


def test_fsl_tables_come_into_the_scanner_frame(tmp_path: Path) -> None:
    g = tract.hemisphere(6)
    b = torch.tensor([0.0, 1e3, 1e3, 2e3, 2e3, 2e3])
    np.savetxt(tmp_path / "bvals", b[None].numpy())
    np.savetxt(tmp_path / "bvecs", 1.01 * g.mT.numpy())
    right = affine()  # of negative determinant or not, both are tried
    left = right.clone()
    left[:3, 0] = -left[:3, 0]
    for turn in (right, left):
        flip = torch.ones(3)
        if torch.linalg.det(turn[:3, :3]) > 0:
            flip[0] = -1
        wanted = (g * flip) @ tract.axes(turn).mT
        made = load_scheme(tmp_path / "bvals", tmp_path / "bvecs", turn, 6)
        assert torch.allclose(made.directions, wanted, atol=1e-12)
        assert torch.equal(made.b, b)
    np.savetxt(tmp_path / "rows", g.numpy())
    again = load_scheme(tmp_path / "bvals", tmp_path / "rows", right)
    assert torch.allclose(again.directions.norm(dim=-1), torch.ones(6))
    with pytest.raises(InputError, match="9 values"):
        load_scheme(tmp_path / "bvals", tmp_path / "bvecs", right, 9)


@needs_mrtrix
def test_fsl_tables_are_read_as_mrtrix_reads_them(tmp_path: Path) -> None:
    g, b = tract.hemisphere(12), torch.full((12,), 1e3)
    np.savetxt(tmp_path / "bvals", b[None].numpy())
    np.savetxt(tmp_path / "bvecs", g.mT.numpy())
    for sign in (1.0, -1.0):
        turn = affine()
        turn[:3, 0] = sign * turn[:3, 0]
        image = nib.Nifti1Image(np.ones((2, 2, 2, 12), np.float32), turn.numpy())
        nib.save(image, tmp_path / "x.nii")
        words = (
            "mrinfo x.nii -fslgrad bvecs bvals -export_grad_mrtrix g.txt -force -quiet"
        )
        subprocess.run(words.split(), cwd=tmp_path, check=True, capture_output=True)
        wanted = load_gradients(tmp_path / "g.txt")
        made = load_scheme(tmp_path / "bvals", tmp_path / "bvecs", turn)
        assert torch.allclose(made.directions, wanted.directions, atol=1e-6)
        assert torch.allclose(made.b, wanted.b)


def test_tables(tmp_path: Path) -> None:
    path = tmp_path / "g.txt"
    path.write_text("# x y z b\n0 0 0 0\n1,0,0,1000 # along x\n0 3 4 2000\n")
    made = load_gradients(path)
    wanted = torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 0.6, 0.8]])
    assert torch.allclose(made.directions, wanted)
    assert made.b.tolist() == [0.0, 1000.0, 2000.0]
    path.write_text("1 2 3\n4 5 6\n")
    assert load_table(path).tolist() == [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
    with pytest.raises(InputError, match="four columns"):
        load_gradients(path)
    path.write_text("1 2 3\n4 5\n")
    with pytest.raises(InputError, match="equally many"):
        load_table(path)
    path.write_text("1 two 3\n")
    with pytest.raises(InputError, match="numbers"):
        load_table(path)
