"""Two builds of one source are the same wheel, byte for byte."""

import hashlib
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("hatchling")
ROOT = Path(__file__).parent.parent
BUILD = """
import sys
from hatchling.builders.wheel import WheelBuilder
print(next(WheelBuilder(sys.argv[1]).build(directory=sys.argv[2])))
"""


def _built(folder: Path, zone: str) -> Path:
    world = {**os.environ, "SOURCE_DATE_EPOCH": "1700000000", "TZ": zone}
    run = [sys.executable, "-c", BUILD, str(ROOT), str(folder)]
    out = subprocess.run(run, capture_output=True, text=True, check=True, env=world)
    return Path(out.stdout.strip().splitlines()[-1])


def test_wheels_are_reproducible(tmp_path: Path) -> None:
    first = _built(tmp_path / "a", "UTC")
    time.sleep(2)  # the clock of zip files counts in steps of two seconds
    second = _built(tmp_path / "b", "Asia/Tokyo")
    sums = [hashlib.sha256(p.read_bytes()).hexdigest() for p in (first, second)]
    assert first.name == second.name
    assert sums[0] == sums[1]


def test_wheel_holds_the_package_and_nothing_else(tmp_path: Path) -> None:
    with zipfile.ZipFile(_built(tmp_path, "UTC")) as wheel:
        names = wheel.namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {t for t in tops if not t.endswith(".dist-info")} == {"mrsim"}
    assert "mrsim/py.typed" in names
    assert any(name.endswith("fused.cpp") for name in names)
    assert any(name.endswith("licenses/LICENSE") for name in names)
