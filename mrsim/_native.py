"""C++ kernels, compiled once with the system's compiler and kept.

A library is named by everything it follows from: sources, flags, compiler and CPU. It
is built in a file of its own and renamed into place, so that any number of processes
can build it at once and a killed build leaves nothing that is taken for a library. A
file carries the hash of its contents; one that does not fit is built again. Where the
cache cannot be written, libraries live in a directory of this process alone.
"""

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FLAGS = ("-O2", "-march=native", "-fno-math-errno", "-fno-trapping-math")
FLAGS += ("-ffp-contract=fast", "-std=c++17", "-shared", "-fPIC", "-pthread")
_LONGEST = 300  # s of one build
_MARK = 32  # bytes of the hash that ends a library's file

_lock = threading.RLock()
_known: dict[str, ctypes.CDLL | str] = {}


def library(sources: Mapping[str, str], main: str, *flags: str) -> ctypes.CDLL | str:
    """Return a compiled library, or why there is none.

    It is made once in a process; a failure is remembered too.

    Args:
        sources: file name → text, of everything the main file includes from here.
        main: the file that is compiled.
        *flags: more flags, such as ``-DNAME=1``.

    Returns:
        The loaded library, or a sentence that says what is missing or failed.
    """
    key = repr((sorted(sources.items()), main, flags, _setting()))
    with _lock:
        if key not in _known:
            _known[key] = _made(sources, main, flags)
        return _known[key]


def forget() -> None:
    """Forget all libraries and failures of this process (its files stay)."""
    with _lock:
        _known.clear()
        _machine.cache_clear()
        _private.cache_clear()


def cache() -> Path:
    """Return the directory of libraries: $MRSIM_CACHE, or the user's own cache."""
    given = os.environ.get("MRSIM_CACHE")
    if given:
        return Path(given)
    if sys.platform == "win32":
        root = os.environ.get("LOCALAPPDATA", "")
    else:
        root = os.environ.get("XDG_CACHE_HOME", "")
    with contextlib.suppress(RuntimeError):  # no home directory
        return (Path(root) if root else Path.home() / ".cache") / "mrsim"
    return Path(tempfile.gettempdir()) / f"mrsim-{platform.node()}"


def _setting() -> tuple[str | None, ...]:
    """Return what of the environment decides how libraries are made."""
    return tuple(os.environ.get(n) for n in ("CXX", "PATH", "MRSIM_CACHE"))


def _compiler() -> str | None:
    given = os.environ.get("CXX")
    return (
        shutil.which(given) if given else shutil.which("g++") or shutil.which("clang++")
    )


@functools.cache
def _machine(compiler: str) -> str:
    """Describe the compiler and the CPU it compiles for."""
    told = subprocess.run(
        [compiler, "--version"], capture_output=True, text=True, timeout=60, check=False
    )
    flags = platform.processor() + platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        wanted = ("model name", "flags", "Features", "CPU part")
        flags += "".join(sorted({x for x in lines if x.startswith(wanted)}))
    return compiler + told.stdout + flags


def _made(
    sources: Mapping[str, str], main: str, flags: tuple[str, ...]
) -> ctypes.CDLL | str:
    compiler = _compiler()
    if compiler is None:
        return "there is no C++ compiler ($CXX, g++ or clang++)"
    why = f"what {compiler} makes can neither be loaded nor kept"
    try:
        told = _machine(compiler)
    except (OSError, subprocess.SubprocessError) as e:
        return f"{compiler} does not work: {e}"
    text = repr((sorted(sources.items()), main, FLAGS, flags, told))
    name = hashlib.sha256(text.encode()).hexdigest()[:32] + ".so"
    for folder in (_writable(cache()), _private()):
        try:
            found = folder and _loaded(folder / name)
            if folder and found is None:
                _build(compiler, sources, main, flags, folder / name)
                found = _loaded(folder / name)
            if found:
                return found
        except subprocess.TimeoutExpired as e:  # another folder would not help
            return f"{compiler} does not do: {e}"
        except (OSError, RuntimeError, subprocess.SubprocessError) as e:
            why = f"{compiler} does not do: {e}"
    return why


def _writable(folder: Path) -> Path | None:
    """Return a directory of the user's own, made if need be, if it can be used."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        mine = not hasattr(os, "getuid") or folder.stat().st_uid in (0, os.getuid())
    except OSError:
        return None
    return folder if mine else None


@functools.cache
def _private() -> Path | None:
    with contextlib.suppress(OSError):
        folder = tempfile.TemporaryDirectory(
            prefix="mrsim-", ignore_cleanup_errors=True
        )
        _kept.append(folder)
        return Path(folder.name)
    return None


_kept: list[Any] = []  # directories, removed when the process ends


def _forked() -> None:
    """Leave a parent's directories to the parent, and its lock to its threads."""
    global _lock
    _lock = threading.RLock()
    _private.cache_clear()
    for folder in _kept:
        folder._finalizer.detach()
    _kept.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def _loaded(path: Path) -> ctypes.CDLL | None:
    """Load a library whose contents fit their hash."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    body, mark = data[:-_MARK], data[-_MARK:]
    if len(body) < _MARK or hashlib.sha256(body).digest() != mark:
        with contextlib.suppress(OSError):
            path.unlink()
        return None
    return ctypes.CDLL(str(path))


def _build(
    compiler: str,
    sources: Mapping[str, str],
    main: str,
    flags: tuple[str, ...],
    path: Path,
) -> None:
    """Compile to a file of this build alone, then move it into place."""
    with tempfile.TemporaryDirectory(
        prefix="build-", dir=path.parent, ignore_cleanup_errors=True
    ) as folder:
        for name, text in sources.items():
            (Path(folder) / name).write_text(text, encoding="utf-8")
        out = Path(folder) / path.name
        command = [compiler, *FLAGS, *flags, str(Path(folder) / main), "-o", str(out)]
        told = subprocess.run(
            command, capture_output=True, text=True, timeout=_LONGEST, check=False
        )
        if told.returncode:
            why = told.stderr.strip().splitlines()[:1] or [f"code {told.returncode}"]
            raise RuntimeError(f"it failed with {why[0]}")
        body = out.read_bytes()
        out.write_bytes(body + hashlib.sha256(body).digest())
        out.replace(path)
