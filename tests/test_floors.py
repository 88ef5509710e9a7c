"""What `import mrsim` loads, and what it does without."""

import subprocess
import sys
from importlib.resources import files

import pytest

import mrsim

EXTRAS = [
    *("scipy", "nibabel", "nilearn", "pandas", "matplotlib", "tqdm", "blochsim"),
    *("plotly", "xarray"),
]


def modules_after(statement: str) -> set[str]:
    """Return the top-level modules of a fresh interpreter after a statement."""
    code = f"import sys\n{statement}\nprint('|'.join(sys.modules))"
    run = [sys.executable, "-c", code]
    out = subprocess.run(run, capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in out.stdout.strip().split("|")}


def test_import_loads_torch_numpy_and_optree_only() -> None:
    base = modules_after("import torch, numpy, optree")
    new = modules_after("import mrsim") - base - set(sys.stdlib_module_names)
    assert new == {"mrsim"}


@pytest.mark.parametrize("module", ["mrsim", "mrsim.units", "mrsim.tree"])
def test_import_needs_no_extra(module: str) -> None:
    hide = f"sys.modules.update(dict.fromkeys({EXTRAS}))"
    assert "mrsim" in modules_after(f"{hide}\nimport {module}")


def test_import_warns_of_nothing_of_its_own() -> None:
    statement = "import torch, warnings; warnings.simplefilter('error'); import mrsim"
    assert "mrsim" in modules_after(statement)


def test_every_public_name_is_documented() -> None:
    public = [n for n in vars(mrsim) if not n.startswith("_")]
    assert {"Tissue", "jac", "batched", "remat", "units", "epg"} <= set(public)
    assert not [n for n in public if not (vars(mrsim)[n].__doc__ or "").strip()]


def test_package_is_marked_as_typed() -> None:
    assert files("mrsim").joinpath("py.typed").is_file()
