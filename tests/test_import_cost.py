"""What `import mrsim` loads and costs, relative to torch in the same interpreter."""

import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "bench"))
from bench_import import measure


def test_import_is_light(capsys: pytest.CaptureFixture[str]) -> None:
    made = min(measure(2), key=lambda one: one["mrsim_s"] / one["torch_s"])
    with capsys.disabled():
        print(f"\nimport mrsim: {made}")
    assert made["extras"] == []
    # the aim is 0.2 s above 1.7 s of torch; a loaded machine slows both
    assert made["mrsim_s"] < 0.12 * made["torch_s"]
    assert made["mrsim_mib"] < 0.15 * made["torch_mib"]


def test_import_compiles_and_reads_nothing(tmp_path: Path) -> None:
    """No compiler is run, no thread started and no file written by the import alone."""
    code = (
        "import torch, numpy, optree, gc, importlib, subprocess, sys, threading\n"
        "def audit(event, args):\n"
        "    if event in ('subprocess.Popen', 'os.system', 'os.fork'):\n"
        "        raise AssertionError(event)\n"
        "    if event == 'open' and isinstance(args[1], str) and 'w' in args[1]:\n"
        "        raise AssertionError(args)\n"
        "threads = threading.active_count()\n"
        "sys.addaudithook(audit)\n"
        "import mrsim\n"
        "assert threading.active_count() == threads\n"
        "assert gc.isenabled()\n"
        "gc.disable()\n"
        "importlib.reload(mrsim)\n"
        "assert not gc.isenabled()\n"
    )
    run = [sys.executable, "-B", "-c", code]
    made = subprocess.run(run, capture_output=True, text=True, cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert not list(tmp_path.iterdir())
