"""Settings and fixtures shared by every test."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, Phase, settings

torch.set_default_dtype(torch.float64)
torch.set_num_threads(1)

settings.register_profile(
    "brisk", max_examples=50, deadline=None, derandomize=True, print_blob=True
)
settings.register_profile("nightly", max_examples=1000, deadline=None)
settings.register_profile(  # nothing shrinks a mutant's failure
    "mutation",
    max_examples=8,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.differing_executors],  # one process, many runs
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "brisk"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Return the workers of `-n auto`: each may take a gigabyte."""
    return min(os.cpu_count() or 1, 8)


@pytest.fixture(scope="session")
def reference() -> Path:
    """The folder of golden data."""
    default = Path(__file__).parent / "reference" / "data"
    return Path(os.environ.get("MRSIM_REFERENCE", default))


@pytest.fixture
def generator() -> torch.Generator:
    """A source of random numbers that starts anew in every test."""
    return torch.Generator().manual_seed(0)
