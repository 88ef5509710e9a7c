"""Golden slice profiles: every array of rotations in slice_profile.npz."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from golden import folder

from mrsim.epg.pulses import profile, spinor
from mrsim.epg.waveforms import sinc_pulse

np = pytest.importorskip("numpy")


def files() -> list[Path]:
    return sorted(folder("epg").glob("slice_profile*.npz"))


def cases() -> list[Any]:
    found = [
        pytest.param(path, name[2:], id=f"{path.stem}-{name[2:]}")
        for path in files()
        for name in np.load(path).files
        if name.startswith("a_")
    ]
    assert found
    return found


@pytest.mark.parametrize(("path", "degrees"), cases())
def test_spinors_and_magnetisation(path: Path, degrees: str) -> None:
    data = np.load(path)
    meta = json.loads(str(data["meta"]))
    pulse = sinc_pulse(
        math.radians(float(degrees)),
        meta["dur_s"],
        1e3 * meta["thickness_m"],
        meta["tbw"],
        meta["n"],
    )
    shape = torch.tensor(data["b1_rel"])
    assert (pulse.B1 / pulse.B1.max() - shape).abs().max() < 1e-14
    z = 1e3 * torch.tensor(data["z_m"])
    a, b = spinor(pulse, z)
    assert (a - torch.tensor(data[f"a_{degrees}"])).abs().max() < 1e-12
    assert (b - torch.tensor(data[f"b_{degrees}"])).abs().max() < 1e-12
    across = 2 * a.conj() * b
    M = torch.stack([across.real, across.imag, a.abs() ** 2 - b.abs() ** 2], -1)
    wanted = torch.tensor(data[f"M_{degrees}"])
    assert (M - wanted).abs().max() < 1e-12
    made = profile(pulse, z)
    assert (made.flip.cos() - wanted[:, 2]).abs().max() < 1e-12
    # with half of the gradient undone, M+ is -i e^{iφ} sin(flip) e^{iψ'}
    turned = -1j * torch.exp(1j * (made.phase + made.after)) * made.flip.sin()
    assert pulse.gradient is not None
    ratio = data["Gz_T_per_m"] * 1e-3 / float(pulse.gradient)
    assert abs(ratio - 1) < 1e-7  # of two gyromagnetic ratios
    wound = math.pi * meta["tbw"] / (1e3 * meta["thickness_m"]) * z
    assert (turned * torch.exp(1j * wound) - across).abs().max() < 1e-12
