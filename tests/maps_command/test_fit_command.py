"""``fit``: files in, BIDS maps out, mistakes explained, nothing computed lost."""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import vmap

import mrsim
from mrsim import Tissue, epg, io, maps_command
from mrsim.maps_command.models import MODELS, Protocol, Recovery
from mrsim.units import deg, ms

nib = pytest.importorskip("nibabel")
pytest.importorskip("matplotlib")
pytest.importorskip("tqdm")

AFFINE = np.diag([2.0, 2.0, 4.0, 1.0])
SHAPE = (4, 3, 2)
COUNT = 24


def save(path: Path, values: Tensor) -> Path:
    """Write (voxel, …) values, the first index of the volume varying slowest."""
    data = values.reshape(*SHAPE, *values.shape[1:]).numpy().astype(np.float32)
    nib.save(nib.Nifti1Image(data, AFFINE), path)
    return path


def call(*words: Any) -> int:
    p = argparse.ArgumentParser()
    maps_command.add_parsers(p.add_subparsers())
    given = p.parse_args(["fit", *map(str, words), "--quiet"])
    return given.run(given)


def read(folder: Path, name: str) -> Tensor:
    file = nib.load(folder / f"{name}.nii.gz")
    assert np.allclose(file.affine, AFFINE)
    return torch.from_numpy(file.get_fdata()).reshape(-1)


def noise(y: Tensor, generator: torch.Generator, sigma: float) -> Tensor:
    return y + sigma * torch.randn(y.shape, generator=generator)


T2 = torch.linspace(0.04, 0.12, COUNT)
TE = torch.tensor([10.0, 25, 40, 80, 120])


def echoes(tmp_path: Path, generator: torch.Generator) -> Path:
    y = 800 * (-TE * ms / T2.unsqueeze(-1)).exp()
    y = torch.where(torch.arange(COUNT).unsqueeze(-1) == 5, torch.nan, y)
    return save(tmp_path / "sub-01_run-2_MESE.nii.gz", noise(y, generator, 1.0))


def test_maps_have_names_units_grid_and_report(
    tmp_path: Path, generator: torch.Generator
) -> None:
    data, out = echoes(tmp_path, generator), tmp_path / "maps"
    mask = save(tmp_path / "mask.nii.gz", (torch.arange(COUNT) != 7).double())
    call(data, "--model", "t2", "--te-ms", *TE.tolist(), "--out", out, "--mask", mask)
    prefix = "sub-01_run-2_"
    found, sd = read(out, f"{prefix}T2map"), read(out, f"{prefix}desc-sd_T2map")
    good = (torch.arange(COUNT) != 5) & (torch.arange(COUNT) != 7)
    assert found[5].isnan()
    assert found[7] == sd[7] == 0
    assert ((found - T2)[good].abs() < 6 * sd[good]).all()
    assert (sd[good] < 0.02 * T2[good]).all()
    torch.testing.assert_close(
        read(out, f"{prefix}M0map")[good], torch.full((22,), 800.0), rtol=0.02, atol=0
    )
    sidecar = json.loads((out / f"{prefix}T2map.json").read_text())
    assert sidecar["Units"] == "s"
    assert sidecar["Model"] == "t2"
    report = json.loads((out / f"{prefix}report.json").read_text())
    assert (report["voxels"], report["not_fitted"]) == (23, 1)
    assert report["maps"]["T2"]["median"] == pytest.approx(0.08, rel=0.1)
    assert 0.3 < report["median_residual"] < 2
    page = (out / f"{prefix}report.html").read_text()
    assert "data:image/png;base64," in page
    assert (out / f"{prefix}report.png").stat().st_size > 10_000
    assert not (out / "parts").exists()


def test_sidecars_of_several_files_tell_the_protocol(tmp_path: Path) -> None:
    T1, B1 = torch.linspace(0.5, 2.0, COUNT), torch.linspace(0.8, 1.2, COUNT)
    q = Protocol(flip=torch.tensor([3.0, 10.0, 20.0]) * deg, TR=15 * ms)
    tissue = Tissue(T1=T1, T2=T1 / 10, M0=torch.full_like(T1, 50.0), B1=B1)
    y = vmap(MODELS["vfa"].signal, (0, None))(tissue, q)
    paths = []
    for k, flip in enumerate((3.0, 10.0, 20.0)):
        paths.append(save(tmp_path / f"sub-2_flip-{k}_VFA.nii", y[:, k]))
        text = {"FlipAngle": flip, "RepetitionTimeExcitation": 0.015}
        (tmp_path / f"sub-2_flip-{k}_VFA.json").write_text(json.dumps(text))
    field = save(tmp_path / "TB1map.nii.gz", 100 * B1)
    (tmp_path / "TB1map.json").write_text('{"Units": "percent"}')
    call(*paths, "--model", "vfa", "--b1", field, "--out", tmp_path, "--starts", 3)
    torch.testing.assert_close(read(tmp_path, "sub-2_T1map"), T1, rtol=1e-4, atol=0)


def test_inversion_recovery_and_echo_trains(tmp_path: Path) -> None:
    T1 = torch.linspace(0.4, 2.5, COUNT)
    TI = torch.tensor([50.0, 200, 500, 1000, 2000, 4000])
    voxel = Recovery(T1=T1, M0=T1 * 0 + 9.0, efficiency=torch.full_like(T1, 0.93))
    q = Protocol(TI=TI * ms, TR=6.0)
    y = vmap(MODELS["ir"].signal, (0, None))(voxel, q)
    data = save(tmp_path / "ir.nii.gz", y)
    known = ("--ti-ms", *TI.tolist(), "--tr-ms", 6000, "--starts", 4, "--double")
    call(data, "--model", "ir", "--out", tmp_path, *known)
    torch.testing.assert_close(read(tmp_path, "T1map"), T1, rtol=1e-5, atol=0)
    torch.testing.assert_close(
        read(tmp_path, "inveff"), torch.full_like(T1, 0.93), rtol=1e-5, atol=0
    )
    B1 = torch.linspace(0.75, 0.95, COUNT)
    tissue = mrsim.grid(Tissue(T1=1.0, T2=0.08, M0=5.0), T2=T2)
    train = epg.FSE(flip=[150 * deg] * 8, esp=10 * ms)
    z = vmap(epg.fse, (0, None))(mrsim.replace(tissue, B1=B1), train).real
    data = save(tmp_path / "fse.nii.gz", z)
    (tmp_path / "fse.json").write_text(
        json.dumps({"EchoTime": [0.01 * k for k in range(1, 9)], "FlipAngle": 150})
    )
    call(data, "--model", "fse", "--out", tmp_path)
    torch.testing.assert_close(read(tmp_path, "T2map"), T2, rtol=2e-3, atol=0)
    torch.testing.assert_close(read(tmp_path, "TB1map"), B1, rtol=2e-3, atol=0)


def test_likelihood_prior_and_bounds_are_used(
    tmp_path: Path, generator: torch.Generator
) -> None:
    data, base = echoes(tmp_path, generator), ("--te-ms", *TE.tolist())
    name = "sub-01_run-2_T2map"
    call(data, "--model", "t2", *base, "--out", tmp_path, "--bounds", "T2=0.05,0.1")
    kept = read(tmp_path, name)
    inside = kept[kept > 0]  # without a mask a voxel without signal is background
    assert inside.min() == pytest.approx(0.05)
    assert inside.max() == pytest.approx(0.1)
    sigma = ("--sigma", 200)
    prior = ("--prior", "log:T2=-2.8,0.05")
    rice = ("--likelihood", "rician")
    call(data, "--model", "t2", *base, "--out", tmp_path, *sigma, *prior, *rice)
    pulled = read(tmp_path, name)
    away = (pulled[pulled > 0].log() + 2.8).abs()
    assert away.max() < 0.1
    report = json.loads((tmp_path / "sub-01_run-2_report.json").read_text())
    assert report["Likelihood"] == "rician"


def test_interrupted_run_goes_on(
    tmp_path: Path, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, out = echoes(tmp_path, generator), tmp_path / "maps"
    words = (data, "--model", "t2", "--te-ms", *TE.tolist(), "--out", out)
    monkeypatch.setattr(maps_command._fit, "_CHUNK", 10)
    monkeypatch.setattr(maps_command.report, "_drawn", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        call(*words)
    assert len(list((out / "parts").iterdir())) == 3
    assert (out / "sub-01_run-2_T2map.nii.gz").is_file()
    monkeypatch.undo()
    monkeypatch.setattr(maps_command._fit, "_CHUNK", 10)
    made = maps_command._fit.fit.variable_projection
    calls = []

    def counted(*a: Any, **k: Any) -> Any:
        one = made(*a, **k)
        return lambda *given: (calls.append(1), one(*given))[1]

    monkeypatch.setattr(maps_command._fit.fit, "variable_projection", counted)
    call(*words)
    assert not calls
    assert not (out / "parts").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "needs TE: give --te-ms"),
        (("--te-ms", 1, 2), "2 values, but there are 5 volumes"),
        (("--te-ms", 1, 2, 3, 4, 5, "--b1", "MASK"), "not for --model t2"),
        (("--te-ms", 1, 2, 3, 4, 5, "--bounds", "T9=1,2"), "no unknown"),
        (("--te-ms", 1, 2, 3, 4, 5, "--bounds", "T2=1"), "LOW,HIGH"),
        (("--te-ms", 1, 2, 3, 4, 5, "--prior", "T2=1,2"), "give --sigma"),
        (("--te-ms", 1, 2, 3, 4, 5, "--mask", "DATA"), "must be 3-D"),
        (("--te-ms", 1, 2, 3, 4, 5, "--device", "moon"), "not available"),
    ],
)
def test_mistakes_are_explained(
    words: tuple[Any, ...], message: str, tmp_path: Path, generator: torch.Generator
) -> None:
    data = echoes(tmp_path, generator)
    mask = save(tmp_path / "mask.nii.gz", torch.ones(COUNT))
    names = {"DATA": data, "MASK": mask}
    given = [names.get(w, w) if isinstance(w, str) else w for w in words]
    with pytest.raises(io.InputError, match=message):
        call(data, "--model", "t2", "--out", tmp_path / "o", *given)


def test_files_that_cannot_be_used_are_explained(tmp_path: Path) -> None:
    flat = save(tmp_path / "flat.nii.gz", torch.ones(COUNT))
    te = ("--te-ms", 1, "--model", "t2", "--out", tmp_path)
    with pytest.raises(io.InputError, match="must be 4-D"):
        call(flat, *te)
    with pytest.raises(io.InputError, match="does not exist"):
        call(tmp_path / "none.nii", *te)
    other = tmp_path / "other.nii.gz"
    nib.save(nib.Nifti1Image(np.ones((4, 3, 1), np.float32), AFFINE), other)
    with pytest.raises(io.InputError, match="one grid"):
        call(flat, other, *te)
    (tmp_path / "flat.json").write_text("{")
    with pytest.raises(io.InputError, match="no valid JSON"):
        call(flat, flat, "--model", "t2", "--out", tmp_path)
