"""Golden matches of a fingerprinting dictionary, computed in double precision.

The conventions are those of the README of the folder ``design``.
"""

from typing import Any

import numpy as np
import pytest
import torch
from golden import close, folder
from torch import Tensor

import mrsim
from mrsim import Tissue, epg, match

FILES = sorted(folder("design").glob("dictionary_*.npz"))


@pytest.fixture(params=FILES, ids=lambda p: p.stem)
def case(request: Any) -> dict[str, Tensor]:
    with np.load(request.param) as data:
        return {name: torch.as_tensor(data[name]) for name in data}


def atoms(case: dict[str, Tensor], dtype: torch.dtype) -> match.Atoms:
    return match.listed(mrsim.to(Tissue(T1=case["T1_s"], T2=case["T2_s"]), dtype))


def train(case: dict[str, Tensor], dtype: torch.dtype) -> epg.FISP:
    times = {name: case[f"{name}_s"] for name in ("TR", "TE", "TI")}
    return mrsim.to(epg.FISP(flip=case["flip_rad"], **times), dtype)


def signal(tissue: Tissue, seq: epg.FISP) -> Tensor:
    """The signal in the file's convention: of Mz > 0, positive."""
    return 1j * epg.fisp(tissue, seq)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1000, 37])
def test_matches(case: dict[str, Tensor], dtype: torch.dtype, size: int) -> None:
    d = match.dictionary(signal, atoms(case, dtype), train(case, dtype))
    found = match.match(d, case["query"].to(dtype.to_complex()), size=size)
    assert torch.equal(found.index, case["match_index"])
    close(found.score, case["match_corr"], 2e-6)
    close(found.scale, case["match_M0"], 4e-6)


def test_atoms(case: dict[str, Tensor]) -> None:
    d = match.dictionary(signal, atoms(case, torch.float64), train(case, torch.float64))
    made = match.coefs(d, torch.arange(len(case["T1_s"])))
    close(made.imag, torch.zeros(()), 1e-12, 1.0)
    close(made.real, case["atoms"].double(), 1e-7, case["atom_norm"][:, None])
    close(made.abs().square().sum(1).sqrt(), case["atom_norm"], 1e-12)


def test_matches_in_a_basis(case: dict[str, Tensor]) -> None:
    dtype = torch.float32
    d = match.dictionary(signal, atoms(case, dtype), train(case, dtype), rank=20)
    assert d.real
    assert d.lost < 1e-7
    found = match.match(d, case["query"])
    assert torch.equal(found.index, case["match_index"])
    close(found.scale, case["match_M0"], 1e-4)
