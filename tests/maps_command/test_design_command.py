"""``design`` and ``match``: from maps to a protocol, and from fingerprints to maps."""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import vmap

import mrsim
from mrsim import Tissue, epg, io, maps_command
from mrsim.units import deg, ms

nib = pytest.importorskip("nibabel")
pytest.importorskip("scipy")
pytest.importorskip("matplotlib")
pytest.importorskip("tqdm")


def call(*words: Any) -> int:
    p = argparse.ArgumentParser()
    maps_command.add_parsers(p.add_subparsers())
    given = p.parse_args([*map(str, words), "--quiet"])
    return given.run(given)


def save(path: Path, values: Tensor, shape: tuple[int, ...]) -> Path:
    data = values.reshape(*shape, *values.shape[1:]).numpy().astype(np.float32)
    nib.save(nib.Nifti1Image(data, np.eye(4)), path)
    return path


def report(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "design.json").read_text())


def test_flip_angles_are_designed_for_maps(tmp_path: Path) -> None:
    T1 = torch.cat([torch.full((30,), 0.8), torch.full((10,), 1.6), torch.zeros(8)])
    t1 = save(tmp_path / "T1map.nii.gz", T1, (4, 4, 3))
    t2 = save(tmp_path / "T2map.nii.gz", T1 / 10, (4, 4, 3))
    maps = ("--t1", t1, "--t2", t2, "--tissues", 2)
    call("design", "vfa", "--angles", 2, "--tr-ms", 10, "--out", tmp_path, *maps)
    made = report(tmp_path)
    assert [r["share"] for r in made["tissues"]] == [0.75, 0.25]
    assert [r["T1_ms"] for r in made["tissues"]] == [800, 1600]
    low, high = made["design"]["flip_deg"]
    # the two-angle optimum for T1 alone: tan(α/2) = (√2 ∓ 1) √tanh(TR/2T1)
    root = torch.tensor([0.01 / 2 / 0.8, 0.01 / 2 / 1.6]).tanh().sqrt()
    first, second = (2 * ((2**0.5 + s) * root).atan() / deg for s in (-1, 1))
    assert float(first.min()) < low < float(first.max())
    assert float(second.min()) < high < float(second.max())
    assert made["variance_ratio_to_start"] < 1
    table = (tmp_path / "design.tsv").read_text().split()
    assert table[0] == "flip_deg"
    assert float(table[1]) == pytest.approx(low, rel=1e-4)
    assert "data:image/png" in (tmp_path / "design.html").read_text()


def test_worst_case_costs_the_average_little(tmp_path: Path) -> None:
    words = ("design", "ir", "--times", 4)
    call(*words, "--out", tmp_path / "a")
    call(*words, "--out", tmp_path / "w", "--power", "inf")
    average, worst = report(tmp_path / "a"), report(tmp_path / "w")
    assert average["objective"] <= worst["objective"]
    assert average["variance_ratio_to_start"] <= worst["variance_ratio_to_start"] + 1e-6
    assert max(average["design"]["TI_ms"]) <= 4000


def test_trains_are_designed_from_many_starts(tmp_path: Path) -> None:
    words = ("design", "fse", "--echoes", 6, "--starts", 4, "--iterations", 12)
    call(*words, "--out", tmp_path)
    made = report(tmp_path)
    flips = torch.tensor(made["design"]["flip_deg"])
    assert made["violation"] <= 1e-6
    assert flips.square().mean().sqrt() <= 60 * (1 + 1e-6)
    assert made["variance_ratio_to_start"] < 0.8
    call(*words, "--out", tmp_path)  # nothing is left to do
    assert report(tmp_path)["design"] == made["design"]


MRF = ("design", "mrf", "--trs", "16", "--coefficients", "5", "--tr-ms", "10", "16")


def test_killed_design_goes_on(tmp_path: Path) -> None:
    """A schedule of flips and TRs, killed by the system in the middle."""
    code = "import sys, argparse; from mrsim import maps_command\n"
    code += (
        "p = argparse.ArgumentParser(); maps_command.add_parsers(p.add_subparsers())\n"
    )
    code += "g = p.parse_args(sys.argv[1:]); g.run(g)"
    words = [*MRF, "--phases", "--out", str(tmp_path), "--quiet", "--iterations", "8"]
    run = [sys.executable, "-c", code, *words]
    child = subprocess.Popen(run, env=os.environ | {"OMP_NUM_THREADS": "1"})
    saved = tmp_path / "design.pt"
    while child.poll() is None:
        time.sleep(0.1)
        if saved.exists() and len(torch.load(saved, weights_only=True)["rows"]) >= 3:
            child.send_signal(signal.SIGKILL)
            break
    assert child.wait() == -signal.SIGKILL
    rows = torch.load(saved, weights_only=True)["rows"]
    assert 3 <= len(rows) < 8
    assert not (tmp_path / "design.json").exists()
    call(*words[:-3], "--iterations", 8)
    after = torch.load(saved, weights_only=True)["rows"]
    assert after[: len(rows)] == rows
    made = report(tmp_path)
    assert made["variance_ratio_to_start"] < 1
    assert sum(made["design"]["TR_ms"]) <= 16 * 13 * (1 + 1e-6)
    assert {*made["design"]} == {"flip_deg", "TR_ms", "phase_deg"}


def test_designed_schedule_is_matched(
    tmp_path: Path, generator: torch.Generator
) -> None:
    call(*MRF, "--iterations", 2, "--out", tmp_path)
    lines = (tmp_path / "design.tsv").read_text().split("\n")
    table = torch.tensor([[float(x) for x in r.split()] for r in lines[1:] if r])
    seq = epg.FISP(flip=table[:, 0] * deg, TR=table[:, 1] * ms, TE=3 * ms, TI=20 * ms)
    T1, T2 = torch.linspace(0.6, 1.8, 12), torch.linspace(0.05, 0.12, 12)
    tissue = Tissue(T1=T1, T2=T2, M0=torch.full_like(T1, 7.0))
    turn = torch.polar(torch.ones(()), torch.tensor(0.7))
    y = turn * vmap(epg.fisp, (0, None))(tissue, seq)
    y = y + 1e-4 * torch.randn(12, 16, 2, generator=generator).sum(-1)
    real = save(tmp_path / "sub-9_real.nii.gz", y.real, (3, 2, 2))
    imag = save(tmp_path / "sub-9_imag.nii.gz", y.imag, (3, 2, 2))
    words = ("--schedule", tmp_path / "design.tsv", "--out", tmp_path / "maps")
    call("match", real, "--imag", imag, *words, "--atoms", 2000)
    for name, wanted, rtol in (("T1", T1, 0.01), ("T2", T2, 0.03)):
        found = nib.load(tmp_path / "maps" / f"sub-9_{name}map.nii.gz").get_fdata()
        torch.testing.assert_close(
            torch.from_numpy(found).reshape(-1), wanted, rtol=rtol, atol=0
        )
    page = json.loads((tmp_path / "maps" / "sub-9_report.json").read_text())
    assert page["maps"]["M0"]["median"] == pytest.approx(7.0, rel=0.02)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("design", "vfa", "--angles", 1), "at least 4 echoes"),
        (("design", "mrf", "--trs", 10), "--coefficients must lie"),
        (("design", "fse", "--t1", "x.nii"), "together"),
        (("design", "fse", "--power", 0.5), "--power is at least 1"),
        (("match", "none.nii", "--schedule", "none.tsv"), "does not exist"),
        (("match", "none.nii", "--schedule", "s", "--atoms", 0), "must be positive"),
    ],
)
def test_mistakes_are_explained(
    words: tuple[Any, ...], message: str, tmp_path: Path
) -> None:
    with pytest.raises(io.InputError, match=message):
        call(*words, "--out", tmp_path / "out")


def test_maps_on_other_grids_are_told(tmp_path: Path) -> None:
    t1 = save(tmp_path / "T1map.nii.gz", torch.ones(8), (2, 2, 2))
    t2 = save(tmp_path / "T2map.nii.gz", torch.ones(12), (2, 2, 3))
    with pytest.raises(io.InputError, match="another grid"):
        call("design", "vfa", "--t1", t1, "--t2", t2, "--out", tmp_path / "out")


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    p = argparse.ArgumentParser()
    maps_command.add_parsers(p.add_subparsers())
    for name in ("fit", "match", "design"):
        with pytest.raises(SystemExit):
            p.parse_args([name, "--help"])
        text = capsys.readouterr().out
        assert "examples:" in text
        assert "interrupted run goes on" in text
    assert mrsim.__version__
