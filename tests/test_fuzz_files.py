"""Damaged files: every reader ends in a clear error or in finite, sound arrays.

Each example is a good file, cut, with bytes flipped, or with numbers of its text or
header replaced. A reader may not hang, may not ask for giant memory, and its error is
a ValueError or OSError that names the file.
"""

import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden import DEFAULT
from hypothesis import HealthCheck, example, given, settings, strategies as st

import mrsim
from mrsim import io, ivim, series, shard, torrey
from mrsim.design import checkpoint
from mrsim.shard import files
from mrsim.units import um

nib = pytest.importorskip("nibabel")
resource = pytest.importorskip("resource")  # of Unix
pytest.importorskip("meshio")
pytest.importorskip("pypulseq")
pulseq = pytest.importorskip("mrsim.pulseq")
tract_files = pytest.importorskip("mrsim.tract_files")
torrey_files = pytest.importorskip("mrsim.torrey_files")

AFFINE = torch.diag(torch.tensor([2.0, 2.0, 2.5, 1.0], dtype=torch.float64))
Reader = Callable[[Path], Any]
Writer = Callable[[Path], Any]


class Hung(BaseException):
    """A reader takes too long."""


@contextmanager
def held(seconds: float = 10.0, memory: int = 2**31) -> Iterator[None]:
    """Let the body have so much time and so much new memory."""

    def late(*_: Any) -> None:
        raise Hung

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(
        resource.RLIMIT_AS, (pages * resource.getpagesize() + memory, hard)
    )
    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


# ----------------------------------------------------------------- good files


def _tracks(path: Path) -> None:
    tracks = [torch.arange(3.0 * n).reshape(n, 3) + 1 for n in (4, 7, 2)]
    tract_files.save_tracks(path, tracks, AFFINE, (4, 4, 4))


def _image(*shape: int) -> Writer:
    def write(path: Path) -> None:
        values = np.random.default_rng(0).uniform(0.5, 1.5, shape).astype(np.float32)
        nib.save(nib.Nifti1Image(values, AFFINE.numpy()), path)

    return write


def _mif(path: Path) -> None:
    text = (
        "mrtrix image\ndim: 2,3,2\nvox: 2,2,2.5\nlayout: +0,+1,+2\n"
        "datatype: Float32LE\ntransform: 1,0,0,0\ntransform: 0,1,0,0\n"
        "transform: 0,0,1,0\nfile: . 160\nEND\n"
    )
    data = np.arange(12, dtype="<f4").tobytes()
    path.write_bytes(text.encode().ljust(160, b"\0") + data)


def _mesh(path: Path) -> None:
    nodes, topology = torrey.mesh_box(torch.tensor([1.0, 1.0, 1.0]) * 1e-2, (1, 1, 1))
    if path.suffix in {".ply", ".stl", ".off", ".obj"}:
        torrey_files.save_surface(path, nodes, topology, um)
    else:
        torrey_files.save_mesh(path, nodes, topology, um)


def _gifti(path: Path) -> None:
    points = np.eye(4, 3, dtype=np.float32)
    faces = np.array([[0, 2, 1], [0, 1, 3], [1, 2, 3], [2, 0, 3]], dtype=np.int32)
    arrays = [
        nib.gifti.GiftiDataArray(x, intent=f"NIFTI_INTENT_{kind}")
        for x, kind in ((points, "POINTSET"), (faces, "TRIANGLE"))
    ]
    nib.save(nib.gifti.GiftiImage(darrays=arrays), path)


def _text(content: str) -> Writer:
    return lambda path: path.write_text(content)


def _pulseq(path: Path) -> None:
    text = (DEFAULT / "pulseq" / "tse.seq").read_text()
    path.write_text(text)


def _net(path: Path) -> None:
    q = ivim.Acquisition(b=[0.0, 200.0, 400.0, 800.0])
    generator = torch.Generator().manual_seed(0)
    y = 1 + torch.rand(128, 4, generator=generator)
    ivim.save_net(path, ivim.train_physics(y, q, generator, epochs=1).net)


def _checkpoint(path: Path) -> None:
    checkpoint.save(path, torch.ones(3), {"x": torch.arange(3.0), "rows": [1.0]})


def _work(start: int, stop: int) -> dict[str, torch.Tensor]:
    return {"square": torch.arange(float(start), float(stop)) ** 2}


def _store(path: Path) -> None:
    shard.run(_work, count=10, folder=path.parent, size=4)


BVALS = "0 0 1000 1000 1000 2000\n"
BVECS = "0 0 1 0 0 0.6\n0 0 0 1 0 0.8\n0 0 0 0 1 0\n"
SWC = "# neuron\n1 1 0 0 0 5 -1\n2 3 10 0 0 1 1\n3 3 20 0 0 1 2\n4 2 0 -9 0 0.5 1\n"


def _beside(name: str, content: str, read: Callable[[Path, Path], Any]) -> Reader:
    """Read a file with a good one beside it."""

    def call(path: Path) -> Any:
        other = path.with_name(name)
        other.write_text(content)
        return read(path, other)

    return call


def _series(path: Path) -> Any:
    found = series.load([path])
    return series.voxels(found, torch.arange(2))


def _stored(path: Path) -> Any:
    store = shard.open_store(path.parent)
    return [shard.read(store, name) for name in files.names(store)]


FORMATS: dict[str, tuple[str, Writer, Reader]] = {
    "tck": ("a.tck", _tracks, tract_files.load_tracks),
    "trk": ("a.trk", _tracks, tract_files.load_tracks),
    "trx": ("a.trx", _tracks, tract_files.load_tracks),
    "mif": ("a.mif", _mif, tract_files.load_volumes),
    "nii": ("a.nii", _image(3, 2, 2), io.load),
    "nii.gz": ("a.nii.gz", _image(3, 2, 2), io.load),
    "volumes": ("a.nii", _image(2, 2, 2, 6), tract_files.load_volumes),
    "fod": ("a.nii", _image(2, 2, 2, 6), tract_files.load_fod),
    "series": ("a.nii", _image(2, 2, 2, 3), _series),
    "bvals": (
        "a.bval",
        _text(BVALS),
        _beside("a.bvec", BVECS, lambda b, g: tract_files.load_scheme(b, g, AFFINE)),
    ),
    "bvecs": (
        "a.bvec",
        _text(BVECS),
        _beside("a.bval", BVALS, lambda g, b: tract_files.load_scheme(b, g, AFFINE)),
    ),
    "grad": ("a.b", _text("0 0 1 0\n1 0 0 1000\n"), tract_files.load_gradients),
    "msh": ("a.msh", _mesh, lambda p: torrey_files.load_mesh(p, um)),
    "vtk": ("a.vtk", _mesh, lambda p: torrey_files.load_mesh(p, um)),
    "vtu": ("a.vtu", _mesh, lambda p: torrey_files.load_mesh(p, um)),
    "medit": ("a.mesh", _mesh, lambda p: torrey_files.load_mesh(p, um)),
    "ele": ("a.ele", _mesh, lambda p: torrey_files.load_mesh(p, um)),
    "node": ("a.node", _mesh, lambda p: torrey_files.load_mesh(p, um)),
    "ply": ("a.ply", _mesh, lambda p: torrey_files.load_surface(p, um)),
    "stl": ("a.stl", _mesh, lambda p: torrey_files.load_surface(p, um)),
    "off": ("a.off", _mesh, lambda p: torrey_files.load_surface(p, um)),
    "obj": ("a.obj", _mesh, lambda p: torrey_files.load_surface(p, um)),
    "gii": ("a.gii", _gifti, lambda p: torrey_files.load_surface(p, um)),
    "swc": ("a.swc", _text(SWC), torrey_files.load_swc),
    "seq": ("a.seq", _pulseq, pulseq.load),
    "net": ("a.pt", _net, ivim.load_net),
    "checkpoint": ("a.pt", _checkpoint, lambda p: checkpoint.load(p, torch.ones(3))),
    "manifest": ("manifest.json", _store, _stored),
    "mark": ("000000.done", _store, _stored),
    "shard": ("square.000001.npy", _store, _stored),
}


@pytest.fixture
def good(name: str, tmp_path: Path) -> tuple[Path, bytes]:
    """The path and the content of a good file."""
    file, write, read = FORMATS[name]
    write(tmp_path / file)
    read(tmp_path / file)
    return tmp_path / file, (tmp_path / file).read_bytes()


# --------------------------------------------------------------------- damage

WORDS = [b"nan", b"-1", b"1e400", b"999999999999", b"0", b"", b"x", b"2147483648"]
COUNTS = [np.int32(-1), np.int32(2**31 - 1), np.int64(2**62), np.float32(np.nan)]
places = st.floats(0, 1, exclude_max=True)


@st.composite
def damages(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    """Draw a way to damage a file."""
    kind = draw(st.sampled_from(["cut", "flip", "word", "count"]))
    where, which = draw(places), draw(st.integers(0, 7))
    return _damage(kind, where, which)


def _damage(kind: str, where: float, which: int) -> Callable[[bytes], bytes]:
    def apply(content: bytes) -> bytes:
        at = int(where * len(content))
        if kind == "cut":
            return content[:at]
        if kind == "flip":
            return (
                content[:at] + bytes([content[at] ^ (1 << which)]) + content[at + 1 :]
            )
        if kind == "count":
            number = COUNTS[which % len(COUNTS)].tobytes()
            return content[:at] + number + content[at + len(number) :]
        words = content.split(b" ")
        words[int(where * len(words))] = WORDS[which]
        return b" ".join(words)

    apply.__qualname__ = f"{kind}({where}, {which})"
    return apply


@pytest.mark.parametrize("name", FORMATS)
@settings(
    max_examples=15,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(damage=damages())
@example(damage=lambda _: b"")
@example(damage=lambda content: content[: len(content) // 2])
@example(damage=lambda content: content[:-1])
@example(damage=lambda _: bytes(range(256)))
def test_damage_is_said(
    name: str, good: tuple[Path, bytes], damage: Callable[[bytes], bytes]
) -> None:
    path, content = good
    path.write_bytes(damage(content))
    said, found = None, None
    try:
        with warnings.catch_warnings(), held():
            warnings.simplefilter("ignore")
            found = FORMATS[name][2](path)
    except (ValueError, OSError) as e:
        said = e
    finally:
        path.write_bytes(content)
    if said is None:
        _sound(name, found)
    else:
        assert str(path.parent) in str(said)
        assert not isinstance(said, UnicodeDecodeError)


IMAGES = {"nii", "nii.gz", "volumes", "mif", "fod", "series"}  # NaN: background
KEPT = {"manifest", "mark", "shard", "net", "checkpoint"}  # as they were given


def _sound(name: str, found: Any) -> None:
    """What was read must be finite, where the format has no place for NaN."""
    if name in IMAGES | KEPT:
        return
    leaves = [x for x in mrsim.tree.tree_leaves(found) if isinstance(x, torch.Tensor)]
    assert leaves or not found
    assert all(x.isfinite().all() for x in leaves if x.is_floating_point())
