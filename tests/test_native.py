"""Kernels are compiled once, and whatever goes wrong ends in a working result."""

import contextlib
import ctypes
import multiprocessing
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import mrsim
from mrsim import _native, epg
from mrsim.epg.kernels import call
from mrsim.units import ms

_GCC = shutil.which("g++") or shutil.which("clang++")
compiles = pytest.mark.skipif(not _GCC, reason="no C++ compiler")
SOURCE = {"one.cpp": 'extern "C" int one() { return NUMBER; }'}


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MRSIM_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MRSIM_ENGINE", raising=False)
    call.forget()
    yield
    call.forget()


def _one(number: int = 7) -> int | str:
    made = _native.library(SOURCE, "one.cpp", f"-DNUMBER={number}")
    return made if isinstance(made, str) else made.one()


def _kept() -> list[Path]:
    return sorted(_native.cache().glob("*.so"))


def _signal() -> torch.Tensor:
    train = epg.FSE(flip=[2.0, 2.5], esp=10 * ms)
    return epg.fse(mrsim.Tissue(T1=1.0, T2=0.1), train)


def _expected() -> torch.Tensor:
    with epg.use_engine("torch"):
        return _signal()


@compiles
def test_a_library_is_built_once_and_kept() -> None:
    assert (_one(), _one(8)) == (7, 8)
    kept = {p: p.stat().st_mtime_ns for p in _kept()}
    assert len(kept) == 2
    _native.forget()
    assert _one() == 7
    assert {p: p.stat().st_mtime_ns for p in _kept()} == kept
    assert not [p for p in _native.cache().iterdir() if p.suffix != ".so"]


@compiles
@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_a_damaged_library_is_built_again(damage: str) -> None:
    assert _one() == 7
    (path,) = _kept()
    data = path.read_bytes()
    made = {
        "cut": data[: len(data) // 2],
        "flipped": data[:200] + bytes([data[200] ^ 1]) + data[201:],
        "empty": b"",
    }[damage]
    path.unlink()  # not in place: it may be mapped
    path.write_bytes(made)
    _native.forget()
    assert _one() == 7
    assert path.read_bytes() == data


@compiles
def test_a_killed_build_leaves_nothing_that_is_taken_for_a_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, again = tmp_path / "begun", tmp_path / "again"
    half = f"for out; do :; done; echo half > $out; echo > {begun}; exec sleep 20"
    text = f'[ $1 = --version ] || [ -e {again} ] || {{ {half}; }}; exec {_GCC} "$@"'
    monkeypatch.setenv("CXX", _compiler(tmp_path, text))
    build = subprocess.Popen([sys.executable, "-c", _BUILD])
    while not begun.exists():
        assert build.poll() is None
        time.sleep(0.01)
    build.kill()
    build.wait()
    assert list(_native.cache().iterdir())
    assert not _kept()  # no name but that of the library is looked for
    again.touch()
    assert _one() == 7
    (path,) = _kept()
    assert ctypes.CDLL(str(path)).one() == 7


@compiles
def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the directory should be")
    assert _one() == 7


@contextlib.contextmanager
def _powerless() -> Iterator[None]:
    """Be nobody where one is root, who may write anywhere."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@compiles
@pytest.mark.skipif(sys.platform == "win32", reason="no such rights")
def test_a_read_only_cache_is_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o555)
        monkeypatch.setenv("MRSIM_CACHE", folder)
        with _powerless():
            assert not os.access(folder, os.W_OK, effective_ids=True)
            assert _one() == 7
        assert not list(Path(folder).iterdir())
        Path(folder).chmod(0o755)


@compiles
@pytest.mark.parametrize("part", ["write_text", "write_bytes", "compiler"])
def test_a_full_disk_is_done_without(
    part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if part == "compiler":
        full = "echo No space left on device >&2; exit 1"
        text = f'case "$*" in *{_native.cache()}/*) {full};; esac; exec {_GCC} "$@"'
        monkeypatch.setenv("CXX", _compiler(tmp_path, text))
    else:
        write = getattr(Path, part)

        def half(path: Path, data: str | bytes, **more: str) -> int:
            if not path.is_relative_to(_native.cache()):
                return write(path, data, **more)
            write(path, data[: len(data) // 2], **more)
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Path, part, half)
    assert _one() == 7
    assert not list(_native.cache().iterdir())


def _compiler(folder: Path, text: str) -> str:
    path = folder / "cxx"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(stat.S_IRWXU)
    return str(path)


_JUNK = "[ $1 = --version ] || { while [ $# -gt 1 ]; do shift; done; echo junk > $1; }"

_HANGS = "[ $1 = --version ] || { echo once >> $0.log; sleep 60; }"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (None, "no C++ compiler"),
        ("exit 1", "failed"),
        ("echo bad >&2; exit 1", "bad"),
        ("exit 0", "cxx"),
        (_JUNK, "cxx"),
        (_HANGS, "timed out"),
        ("sleep 60", "timed out"),
    ],
)
def test_without_a_working_compiler_the_torch_path_runs(
    text: str | None, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = str(tmp_path / "nothing")
    compiler = missing if text is None else _compiler(tmp_path, text)
    monkeypatch.setenv("CXX", compiler)
    run = subprocess.run
    monkeypatch.setattr(  # without a limit this fails
        subprocess,
        "run",
        lambda *a, timeout, **k: run(*a, timeout=min(timeout, 1), **k),
    )
    start = time.monotonic()
    info = epg.engine_info()
    assert text != _HANGS or Path(f"{compiler}.log").read_text() == "once\n"
    assert info.path == "torch"
    assert why in info.why
    assert torch.equal(_signal(), _expected())
    with epg.use_engine("fused"), pytest.raises(RuntimeError, match="asked for"):
        _signal()
    assert time.monotonic() - start < 50  # what hangs is not waited for


_NATIVE = f"""
import importlib.util, os, sys, threading, time
spec = importlib.util.spec_from_file_location("native", {_native.__file__!r})
native = importlib.util.module_from_spec(spec)
spec.loader.exec_module(native)
def one(number):
    made = native.library({SOURCE!r}, "one.cpp", f"-DNUMBER={{number}}")
    return made if isinstance(made, str) else made.one()
"""
_BUILD = _NATIVE + "print(one(7))"
# a thread is in the middle of a build; the child ends with all its exit handlers
_FORK = (
    _NATIVE
    + """
print(one(1), flush=True)  # or the child would say it too
def hold():
    with native._lock:
        held.set()
        time.sleep(5)
held = threading.Event()
threading.Thread(target=hold, daemon=True).start()
held.wait()
child = os.fork()
print(one(3 if child else 2), flush=True)
if not child:
    sys.exit()
print(os.waitpid(child, 0)[1], one(4))
"""
)


@compiles
def test_eight_processes_build_at_once() -> None:
    running = [
        subprocess.Popen([sys.executable, "-c", _BUILD], stdout=subprocess.PIPE)
        for _ in range(8)
    ]
    assert {p.communicate()[0].strip() for p in running} == {b"7"}
    assert all(p.returncode == 0 for p in running)
    assert len(list(_native.cache().iterdir())) == 1


def _in_child(queue: "multiprocessing.Queue[list[float]]") -> None:
    torch.set_num_threads(1)
    queue.put(_signal().real.tolist())


@compiles
@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
@pytest.mark.filterwarnings("ignore:This process")
def test_a_forked_process_runs_and_leaves_the_parent_alone() -> None:
    wanted = _signal()
    fork = multiprocessing.get_context("fork")
    queue = fork.Queue()
    child = fork.Process(target=_in_child, args=(queue,))
    child.start()
    assert queue.get(timeout=120) == wanted.real.tolist()
    child.join()
    assert child.exitcode == 0
    assert torch.equal(_signal(), wanted)


@compiles
@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_a_forked_process_waits_for_no_thread_and_removes_nothing(
    tmp_path: Path,
) -> None:
    (tmp_path / "cache").write_text("so that libraries lie in a directory of their own")
    command = [sys.executable, "-W", "ignore", "-c", _FORK]
    told = subprocess.run(command, capture_output=True, text=True, timeout=100)
    first, *middle, last = told.stdout.split("\n")[:-1]
    assert (first, sorted(middle), last) == ("1", ["2", "3"], "0 4"), told.stderr


@compiles
def test_what_is_loaded_is_a_library() -> None:
    made = _native.library(SOURCE, "one.cpp", "-DNUMBER=1")
    assert isinstance(made, ctypes.CDLL)
    assert made is _native.library(SOURCE, "one.cpp", "-DNUMBER=1")
