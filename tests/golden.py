"""Golden data: where it lies, how to make tests of it, how to compare with it."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

Case = dict[str, Any]
DEFAULT = Path(__file__).parent / "reference" / "data"


def folder(name: str) -> Path:
    """Return a folder of golden data."""
    return Path(os.environ.get("MRSIM_REFERENCE", DEFAULT)) / name


def load(name: str) -> Case:
    """Return the content of ``folder/file`` (a JSON file)."""
    return json.loads(folder(f"{name}.json").read_text())


def params(name: str, key: str = "cases") -> list[Any]:
    """Return every case of a JSON file as a parameter of a test, with its id."""
    cases = load(name)[key]
    ids = [c.get("id") or f"{c['model']}-{k}" for k, c in enumerate(cases)]
    return [pytest.param(c, id=i) for c, i in zip(cases, ids, strict=True)]


def close(made: Any, wanted: Any, rtol: float, size: Any = None) -> None:
    """Compare relative to each entry or to ``size``; zeros absolutely."""
    made, wanted = torch.as_tensor(made), torch.as_tensor(wanted)
    scale = wanted.abs() if size is None else torch.as_tensor(size)
    error = (made - wanted).abs()
    assert (error <= rtol * scale + 1e-14).all(), (error / scale).max()
