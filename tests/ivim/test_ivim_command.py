"""The subcommand: files in, maps out, bad files explained."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.func import vmap

from mrsim import __main__, io, ivim, ivim_command

nib = pytest.importorskip("nibabel")

B = [0, 10, 20, 60, 150, 300, 500, 800]
AFFINE = np.diag([2.0, 2.0, 4.0, 1.0])
SHAPE = (4, 3, 2)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """A series without noise: f = 0.2, Dp = 0.04, D = 0.001, S0 = 1000."""
    count = int(np.prod(SHAPE))
    p = ivim.Biexp(
        S0=torch.full((count,), 1000.0),
        f=torch.full((count,), 0.2),
        Dp=torch.full((count,), 0.04),
        D=torch.full((count,), 0.001),
    )
    q = ivim.Acquisition(b=torch.tensor(B, dtype=torch.float64))
    y = vmap(ivim.signal, in_dims=(0, None))(p, q)
    noise = torch.randn(y.shape, generator=torch.Generator().manual_seed(0))
    out = {
        "data": tmp_path / "dwi.nii.gz",
        "bval": tmp_path / "dwi.bval",
        "mask": tmp_path / "mask.nii.gz",
        "out": tmp_path / "maps",
    }
    volume = (y + noise).reshape(*SHAPE, -1).numpy().astype(np.float32)
    nib.save(nib.Nifti1Image(volume, AFFINE), out["data"])
    out["bval"].write_text(" ".join(map(str, B)) + "\n")
    mask = np.zeros(SHAPE, np.uint8)
    mask[1:, :, 0] = 1
    nib.save(nib.Nifti1Image(mask, AFFINE), out["mask"])
    return out


def call(files: dict[str, Path], *more: str) -> int:
    words = [files["data"], files["bval"], "--out", files["out"], "--quiet", *more]
    given = __main__.parser().parse_args(["ivim", *map(str, words)])
    return given.run(given)


def volume(files: dict[str, Path], name: str) -> Any:
    return nib.load(files["out"] / f"{name}.nii.gz")


@pytest.mark.parametrize("method", ["varpro", "lsq", "segmented", "rician", "map"])
def test_methods_write_maps_on_the_grid_of_the_series(
    files: dict[str, Path], method: str
) -> None:
    assert call(files, "--method", method, "--sigma", "1.0") == 0
    for name, wanted in {"S0": 1000.0, "f": 0.2, "Dp": 0.04, "D": 0.001}.items():
        found = volume(files, name)
        assert found.shape == SHAPE
        assert np.allclose(found.affine, AFFINE)
        assert np.allclose(found.get_fdata(), wanted, rtol=0.1)
    report = json.loads((files["out"] / "report.json").read_text())
    assert report["voxels"] == int(np.prod(SHAPE))
    assert report["not_fitted"] == 0
    sd = volume(files, "f_sd").get_fdata()
    assert (sd > 0).all()
    assert (sd < 0.02).all()
    assert volume(files, "converged").get_fdata().mean() > 0.9
    sidecar = json.loads((files["out"] / "Dp.json").read_text())
    assert sidecar["Units"] == "mm^2/s"
    assert sidecar["Description"] == "IVIM Dp"
    assert sidecar["Method"] == method


def test_the_command_line_explains_and_shows(
    files: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["ivim", str(files["data"]), str(files["bval"]), "--out", str(files["out"])]
    assert __main__.main(words) == 0
    shown = capsys.readouterr()
    assert "24 voxels, 0 of them not fitted" in shown.out
    assert "24/24" in shown.err
    files["bval"].write_text("0 10 20")
    assert __main__.main(words) == 2
    assert "holds 3 b values" in capsys.readouterr().err


def test_bad_options(files: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    words = {
        ("--starts", "0"): "must be positive",
        ("--sigma", "-1"): "must be positive",
        ("--sigma", "0"): "must be positive",
        ("--device", "mtia"): "use cpu",
        ("--out", str(tmp_path / "file" / "maps")): "cannot be made",
    }
    for pair, message in words.items():
        with pytest.raises(io.InputError, match=message):
            call(files, *pair)


def test_chunks_scaled_integers_and_plain_files_agree(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = nib.load(files["data"])
    data = np.round(image.get_fdata())
    data[0, 0, 0], data[1, 2, 1] = 0.0, -3.0
    nib.save(nib.Nifti1Image(data.astype(np.float32), AFFINE), files["data"])
    call(files)
    whole = volume(files, "Dp").get_fdata()
    assert whole[0, 0, 0] == whole[1, 2, 1] == 0
    header = nib.Nifti1Header()
    header.set_data_dtype(np.int16)
    plain = files | {"data": tmp_path / "dwi.nii"}
    scaled = nib.Nifti1Image(2 * (data + 3), AFFINE, header)
    scaled.header.set_slope_inter(0.5, -3.0)
    nib.save(scaled, plain["data"])
    assert nib.load(plain["data"]).dataobj.slope == 0.5
    monkeypatch.setattr(ivim_command, "_CHUNK", 5)
    call(plain)
    assert np.allclose(volume(plain, "Dp").get_fdata(), whole, rtol=1e-5)


def test_what_all_voxels_share_is_learnt_once(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    call(files, "--method", "map")
    whole = volume(files, "Dp").get_fdata()
    monkeypatch.setattr(ivim_command, "_CHUNK", 7)
    call(files, "--method", "map")
    assert np.allclose(volume(files, "Dp").get_fdata(), whole, rtol=1e-5)


def test_mask_bounds_and_precision(files: dict[str, Path]) -> None:
    call(files, "--mask", str(files["mask"]), "--bounds", "Dp=0.05,0.2", "--single")
    Dp = volume(files, "Dp").get_fdata()
    assert np.allclose(Dp[1:, :, 0], 0.05)
    assert (Dp[..., 1] == 0).all()
    assert (Dp[0] == 0).all()


def test_other_models(files: dict[str, Path]) -> None:
    call(files, "--model", "triexp")
    assert volume(files, "D0").shape == SHAPE
    files["bval"].write_text(
        "\n".join(map(str, [0, 200, 300, 400, 500, 600, 700, 800]))
    )
    call(files, "--model", "simplified")
    assert volume(files, "f").shape == SHAPE


def test_flow_weighting(files: dict[str, Path], tmp_path: Path) -> None:
    cval = tmp_path / "dwi.cval"
    c = [0.0, 0.3, 0.5, 0.9, 1.4, 2.0, 2.6, 3.2]
    cval.write_text(" ".join(map(str, c)))
    q = ivim.Acquisition(b=torch.tensor(B, dtype=torch.float64), c=torch.tensor(c))
    y = 1000 * ivim.signal(ivim.Ballistic(f=0.2, v=2.0, D=0.001), q)
    data = y.expand(*SHAPE, -1).numpy().astype(np.float32)
    nib.save(nib.Nifti1Image(data, AFFINE), files["data"])
    call(files, "--model", "ballistic", "--cval", str(cval))
    assert np.allclose(volume(files, "v").get_fdata(), 2.0, rtol=1e-2)
    assert json.loads((files["out"] / "v_sd.json").read_text())["Units"] == "mm/s"
    with pytest.raises(io.InputError, match="needs --cval"):
        call(files, "--model", "ballistic")
    with pytest.raises(io.InputError, match="other models none"):
        call(files, "--cval", str(cval))
    with pytest.raises(io.InputError, match="varpro"):
        call(files, "--model", "ballistic", "--cval", str(cval), "--method", "varpro")


def test_tensors(files: dict[str, Path], tmp_path: Path) -> None:
    b = [0.0, *[20.0, 100.0, 400.0, 800.0] * 8]
    g = torch.randn(33, 3, generator=torch.Generator().manual_seed(1))
    g = g / g.norm(dim=-1, keepdim=True) * (torch.tensor(b) > 0).unsqueeze(-1)
    D = torch.tensor([1.5e-3, 0.9e-3, 0.6e-3, 2e-4, -1e-4, 1.5e-4])
    p = ivim.DTI(S0=1000.0, f=0.1, Dp=0.03, D=D)
    y = ivim.signal(p, ivim.Acquisition(b=b, bvec=g))
    data = y.expand(*SHAPE, -1).numpy().astype(np.float32)
    nib.save(nib.Nifti1Image(data, AFFINE), files["data"])
    files["bval"].write_text(" ".join(map(str, b)))
    bvec = tmp_path / "dwi.bvec"
    whole = torch.zeros(3, 3)
    for k, (i, j) in enumerate([(0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2)]):
        whole[i, j] = whole[j, i] = D[k]
    values = torch.linalg.eigvalsh(whole)
    wanted = (1.5 * values.var(correction=0) * 3 / values.square().sum()).sqrt()
    for table in (g.mT, g):
        np.savetxt(bvec, table.numpy())
        call(files, "--model", "dti", "--bvec", str(bvec))
        assert np.allclose(volume(files, "Dxy").get_fdata(), 2e-4, rtol=1e-2)
        assert np.allclose(volume(files, "MD").get_fdata(), 1e-3, rtol=1e-3)
        assert np.allclose(volume(files, "FA").get_fdata(), wanted, rtol=1e-3)
        assert volume(files, "Dyz_sd").shape == SHAPE
    with pytest.raises(io.InputError, match="needs --bvec"):
        call(files, "--model", "dti")
    bvec.write_text("1 0 0\n0 1 0\n")
    with pytest.raises(io.InputError, match="3 rows of 33 numbers"):
        call(files, "--model", "dti", "--bvec", str(bvec))


def test_a_network(files: dict[str, Path], tmp_path: Path) -> None:
    q = ivim.Acquisition(b=torch.tensor(B, dtype=torch.float32))
    net = ivim.train_posterior(
        q,
        torch.Generator().manual_seed(0),
        prior={"S0": (0.9, 1.1), "f": (0.0, 0.4), "Dp": (0.01, 0.1), "D": (2e-4, 3e-3)},
        sigma=(5e-4, 0.1),
        hidden=(48, 48),
        steps=300,
        batch=256,
    )
    ivim.save_net(tmp_path / "net.pt", net)
    call(files, "--method", "net", "--net", str(tmp_path / "net.pt"), "--sigma", "10")
    low, high = volume(files, "f_low").get_fdata(), volume(files, "f_high").get_fdata()
    assert (low < high).all()
    assert np.allclose(volume(files, "f").get_fdata(), 0.2, atol=0.1)
    assert np.allclose(volume(files, "S0").get_fdata(), 1000.0, rtol=0.05)
    with pytest.raises(io.InputError, match="needs --net"):
        call(files, "--method", "net")
    image = nib.load(files["data"])
    dark = image.get_fdata()
    dark[0, 0, 0] = 1e-3
    nib.save(nib.Nifti1Image(dark.astype(np.float32), AFFINE), files["data"])
    call(files, "--method", "net", "--net", str(tmp_path / "net.pt"), "--sigma", "10")
    assert np.isnan(volume(files, "f").get_fdata()).sum() == 1
    files["bval"].write_text(" ".join(str(b + 3 * (b > 0)) for b in B))
    with pytest.raises(io.InputError, match="train a network for this protocol"):
        call(
            files, "--method", "net", "--net", str(tmp_path / "net.pt"), "--sigma", "1"
        )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 10 20", "holds 3 b values, but the series has 8"),
        ("0 10 twenty 60 150 300 500 800", "numbers only"),
        ("0 0.01 0.02 0.06 0.15 0.3 0.5 0.8", "ms/µm²"),
        ("0 1e7 2e7 6e7 1.5e8 3e8 5e8 8e8", "s/m²"),
        ("50 60 70 80 150 300 500 800", "smallest b"),
        ("0 10 20 60 150 300 500 -800", "must not be negative"),
    ],
)
def test_bad_b_values(files: dict[str, Path], text: str, message: str) -> None:
    files["bval"].write_text(text)
    with pytest.raises(io.InputError, match=message):
        call(files)


def test_unsorted_b_values_are_fine(files: dict[str, Path]) -> None:
    image = nib.load(files["data"])
    order = [3, 0, 7, 2, 5, 1, 6, 4]
    nib.save(nib.Nifti1Image(image.get_fdata()[..., order], AFFINE), files["data"])
    files["bval"].write_text(" ".join(str(B[k]) for k in order))
    call(files)
    assert np.allclose(volume(files, "f").get_fdata(), 0.2, rtol=0.1)


def test_bad_files(files: dict[str, Path], tmp_path: Path) -> None:
    flat = tmp_path / "flat.nii.gz"
    nib.save(nib.Nifti1Image(np.ones(SHAPE, np.float32), AFFINE), flat)
    with pytest.raises(io.InputError, match="must be 4-D"):
        call(files | {"data": flat})
    with pytest.raises(io.InputError, match="does not exist"):
        call(files | {"data": tmp_path / "none.nii"})
    with pytest.raises(io.InputError, match="does not exist"):
        call(files | {"bval": tmp_path / "none.bval"})
    text = tmp_path / "text.nii.gz"
    text.write_text("no image")
    with pytest.raises(io.InputError, match="cannot be read"):
        call(files | {"data": text})
    empty = tmp_path / "empty.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros(SHAPE, np.float32), AFFINE), empty)
    with pytest.raises(io.InputError, match="zero everywhere"):
        call(files, "--mask", str(empty))
    small = tmp_path / "small.nii.gz"
    nib.save(nib.Nifti1Image(np.ones((2, 2, 2), np.float32), AFFINE), small)
    with pytest.raises(io.InputError, match="same grid"):
        call(files, "--mask", str(small))
    with pytest.raises(io.InputError, match="NAME=LOW,HIGH"):
        call(files, "--bounds", "Dp:0.1")
    with pytest.raises(io.InputError, match="must be a field"):
        call(files, "--bounds", "Dq=0,1")
    with pytest.raises(io.InputError, match="biexp only"):
        call(files, "--method", "segmented", "--model", "triexp")
    nothing = tmp_path / "nothing.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((*SHAPE, 8), np.float32), AFFINE), nothing)
    with pytest.raises(io.InputError, match="no positive signal"):
        call(files | {"data": nothing})


def test_one_nan_voxel_is_reported(files: dict[str, Path]) -> None:
    image = nib.load(files["data"])
    data = image.get_fdata()
    data[1, 1, 1, 2] = np.nan
    nib.save(nib.Nifti1Image(data.astype(np.float32), AFFINE), files["data"])
    call(files)
    report = json.loads((files["out"] / "report.json").read_text())
    assert report["not_fitted"] == 1
    assert np.isnan(volume(files, "f").get_fdata()).sum() == 1
