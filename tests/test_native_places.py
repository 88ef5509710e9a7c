"""Where compiled kernels are kept, on any system."""

import shutil
import sys
import tempfile
from pathlib import Path

import pytest

from mrsim import _native


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MRSIM_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("platform", "variable", "other"),
    [
        ("linux", "XDG_CACHE_HOME", "LOCALAPPDATA"),
        ("win32", "LOCALAPPDATA", "XDG_CACHE_HOME"),
    ],
)
def test_the_users_cache_is_that_of_the_system(
    platform: str, variable: str, other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(Path, "home", lambda: Path("home"))
    assert _native.cache() == Path("home/.cache/mrsim")
    monkeypatch.setenv(other, "elsewhere")
    assert _native.cache() == Path("home/.cache/mrsim")
    monkeypatch.setenv(variable, "here")
    assert _native.cache() == Path("here/mrsim")
    monkeypatch.setenv("MRSIM_CACHE", "asked")
    assert _native.cache() == Path("asked")


def test_without_a_home_it_is_a_temporary_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", home)
    assert _native.cache().parent == Path(tempfile.gettempdir())
    assert _native.cache().name.startswith("mrsim-")


@pytest.mark.skipif(sys.platform == "win32", reason="no executable bits")
def test_a_compiler_that_cannot_start_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "compiler"
    program.write_bytes(b"\x7fELF neither a script nor a program")
    program.chmod(0o755)
    assert shutil.which(str(program))
    monkeypatch.setenv("CXX", str(program))
    monkeypatch.setenv("MRSIM_CACHE", str(tmp_path / "cache"))
    _native.forget()
    try:
        made = _native.library({"one.cpp": "int one() { return 1; }"}, "one.cpp")
    finally:
        _native.forget()
    assert isinstance(made, str)
    assert made.startswith(f"{program} does not work: ")


def test_a_forked_process_leaves_the_directories_of_its_parent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is run in a child, run here on a directory of its own."""
    folder = tempfile.TemporaryDirectory()
    monkeypatch.setattr(_native, "_kept", [folder])
    monkeypatch.setattr(_native, "_lock", before := _native._lock)
    _native._forked()
    assert _native._kept == []
    assert _native._lock is not before
    path = Path(folder.name)
    del folder  # would remove what it made
    assert path.exists()
    path.rmdir()
