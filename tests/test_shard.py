"""Shards: the same files for any number of ranks, kills, full disks, lost bits."""

import errno
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import mrsim
from mrsim import shard

COUNT, SIZE = 50, 4


def work(start: int, stop: int) -> dict[str, Tensor]:
    item = torch.arange(start, stop)
    return {"sine": torch.sin(item.double())[:, None] * torch.ones(3), "item": item}


def files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


@pytest.fixture
def whole(tmp_path: Path) -> dict[str, bytes]:
    shard.run(work, COUNT, tmp_path / "whole", SIZE)
    return files(tmp_path / "whole")


def forked(f: Callable[[], object]) -> int:
    """Run a function in a process of its own; return how that ended."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        f()
        os._exit(0)
    finally:
        os._exit(1)


def test_results_and_ranges(tmp_path: Path) -> None:
    store = shard.run(work, COUNT, tmp_path, SIZE)
    for start, stop in ((0, 50), (0, 1), (3, 5), (4, 8), (49, 50), (7, 33)):
        wanted = work(start, stop)
        for name, x in wanted.items():
            assert torch.equal(shard.read(store, name, start, stop), x)
    assert shard.open_store(tmp_path) == store
    assert shard.missing(store, verify=True) == []
    with pytest.raises(ValueError, match="do not lie"):
        shard.read(store, "sine", 3, 51)
    with pytest.raises(shard.StoreError, match="no readable 'cosine'"):
        shard.read(store, "cosine")


def test_ranks_that_do_not_talk_make_the_same_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: dict[str, bytes]
) -> None:
    for rank in (2, 0, 1):  # of a job array, in any order
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", str(rank + 5))
        monkeypatch.setenv("SLURM_ARRAY_TASK_MIN", "5")
        monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "3")
        store = shard.run(work, COUNT, tmp_path / "three", SIZE)
    assert shard.missing(store) == []
    assert files(tmp_path / "three") == whole


def test_a_killed_rank_loses_one_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: dict[str, bytes]
) -> None:
    made = tmp_path / "killed"

    def dying(start: int, stop: int) -> dict[str, Tensor]:
        if start // SIZE == 7:
            os.kill(os.getpid(), signal.SIGKILL)
        return work(start, stop)

    computed: list[int] = []

    def counted(start: int, stop: int) -> dict[str, Tensor]:
        computed.append(start // SIZE)
        return work(start, stop)

    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, f, end in (("0", work, 0), ("1", dying, -signal.SIGKILL)):
        monkeypatch.setenv("RANK", rank)
        assert forked(lambda f=f: shard.run(f, COUNT, made, SIZE)) == end
    assert shard.missing(shard.open_store(made)) == [7, 9, 11]
    monkeypatch.delenv("RANK")
    shard.run(counted, COUNT, made, SIZE)
    assert computed == [7, 9, 11]
    assert files(made) == whole


def test_killed_between_data_and_mark(tmp_path: Path, whole: dict[str, bytes]) -> None:
    """What lies there without its mark is not trusted, and half files do not count."""
    made = tmp_path / "whole"
    (made / "000003.done").unlink()
    (made / "sine.000003.npy").write_bytes(b"half")
    (made / ".sine.000003.npy.77.part").write_bytes(b"left behind")
    shard.run(work, COUNT, made, SIZE)
    (made / ".sine.000003.npy.77.part").unlink()
    assert files(made) == whole


@pytest.mark.parametrize("damage", ["flip", "cut", "gone", "mark"])
def test_corrupt_shards_are_reported_and_made_again(
    tmp_path: Path, damage: str, whole: dict[str, bytes]
) -> None:
    made = tmp_path / "whole"
    path = made / ("000005.done" if damage == "mark" else "sine.000005.npy")
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data if damage == "flip" else data[:-9])
    if damage == "gone":
        path.unlink()
    with pytest.warns(UserWarning, match="1 of 13 shards .* corrupt"):
        shard.run(work, COUNT, made, SIZE)
    assert files(made) == whole


def test_corrupt_shards_are_not_read(tmp_path: Path) -> None:
    store = shard.run(work, COUNT, tmp_path, SIZE)
    path = tmp_path / "sine.000005.npy"
    data = bytearray(path.read_bytes())
    wanted = shard.read(store, "sine")
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(shard.StoreError, match=r"shard 5 of 13 .* checksum"):
        shard.read(store, "sine", 5 * SIZE, 5 * SIZE + 1)
    assert torch.equal(shard.read(store, "sine", 0, 5 * SIZE), wanted[: 5 * SIZE])
    with pytest.raises(shard.StoreError, match="run the job again"):
        shard.export(store, tmp_path / "all.h5")
    with pytest.warns(UserWarning, match="corrupt"):
        shard.run(work, COUNT, tmp_path, SIZE)
    assert torch.equal(shard.read(store, "sine"), wanted)


def test_a_full_disk_is_reported_and_survived(
    tmp_path: Path, whole: dict[str, bytes]
) -> None:
    made = tmp_path / "full"
    calls: list[int] = []

    def growing(start: int, stop: int) -> dict[str, Tensor]:
        calls.append(start)
        if start == 5 * SIZE:  # the kernel refuses files above a limit from here on
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
        return work(start, stop)

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with pytest.raises(shard.StoreError, match=r"shard 5 of 13 .* make room") as e:
            shard.run(growing, COUNT, made, SIZE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, old)
    assert e.value.errno == errno.EFBIG
    assert not list(made.glob(".*"))

    shard.run(work, COUNT, made, SIZE)
    assert files(made) == whole


def test_no_space_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(shard.StoreError, match="No space left"):
        shard.run(work, COUNT, tmp_path / "full", SIZE)


def test_other_jobs_are_kept_apart(tmp_path: Path) -> None:
    tissue = mrsim.Tissue(T1=1.0, T2=0.1)
    shard.run(work, COUNT, tmp_path, SIZE, inputs=(tissue, work))
    shard.run(work, COUNT, tmp_path, SIZE, inputs=(tissue, work))
    others = [
        {"inputs": (mrsim.replace(tissue, T2=0.2), work)},
        {"inputs": (mrsim.replace(tissue, B1=1.0), work)},
        {"inputs": (tissue, lambda start, stop: {"x": torch.ones(stop - start)})},
        {"inputs": (tissue, work), "size": 5},
    ]
    for other in others:
        with pytest.raises(shard.StoreError, match="another job"):
            shard.run(work, COUNT, tmp_path, **{"size": SIZE, **other})
    known = json.loads((tmp_path / "manifest.json").read_text())
    assert known["versions"]["torch"] == torch.__version__
    assert known["count"] == COUNT


def test_wrong_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="tensor of 4 rows"):
        shard.run(lambda *_: {"x": torch.ones(3)}, COUNT, tmp_path, SIZE)


@pytest.mark.parametrize("name", ["made.h5", "made.zarr"])
def test_export(tmp_path: Path, name: str) -> None:
    module = pytest.importorskip({"h5": "h5py", "zarr": "zarr"}[name.split(".")[1]])
    store = shard.run(work, COUNT, tmp_path / "store", SIZE)
    path = shard.export(store, tmp_path / name)
    opened = (
        module.File(path) if name == "made.h5" else module.open_group(path, mode="r")
    )
    for leaf, x in work(0, COUNT).items():
        assert torch.equal(torch.as_tensor(opened[leaf][:]), x)
    with pytest.raises(ValueError, match="must end in"):
        shard.export(store, tmp_path / "made.mat")


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({}, (0, 1)),
        ({"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}, (3, 4)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, (0, 1)),  # a batch script's own
        ({"SLURM_PROCID": "2", "SLURM_NTASKS": "8", "SLURM_STEP_ID": "0"}, (2, 8)),
        (
            {
                "SLURM_ARRAY_TASK_ID": "12",
                "SLURM_ARRAY_TASK_MIN": "10",
                "SLURM_ARRAY_TASK_COUNT": "5",
                "SLURM_NTASKS": "1",
            },
            (2, 5),
        ),
    ],
)
def test_places(environment: dict[str, str], place: tuple[int, int]) -> None:
    assert shard.world(environment)[:2] == place


def test_impossible_places_are_refused() -> None:
    with pytest.raises(ValueError, match="rank 4 of 4"):
        shard.world({"RANK": "4", "WORLD_SIZE": "4"})


def cost(item: Tensor, seq: mrsim.epg.FSE) -> Tensor:
    return (seq.flip * item).sin().sum() * torch.exp(-seq.esp * item)


def a_sequence() -> mrsim.epg.FSE:
    return mrsim.epg.FSE(flip=[1.0, 2.0, 0.5], esp=0.01)


ITEMS = torch.linspace(0.1, 3.0, 101, dtype=torch.float64)


def test_sums_and_gradients() -> None:
    def plain(seq: mrsim.epg.FSE) -> Tensor:
        return torch.func.vmap(cost, (0, None))(ITEMS, seq).sum()

    wanted, value = torch.func.grad_and_value(plain)(a_sequence())
    made = shard.value_and_grad(cost, parts=7)(ITEMS, a_sequence())
    torch.testing.assert_close(made[0], value, rtol=1e-13, atol=0)
    torch.testing.assert_close(made[1].flip, wanted.flip, rtol=1e-13, atol=0)
    torch.testing.assert_close(made[1].esp, wanted.esp, rtol=1e-13, atol=0)

    f = shard.total(cost, ITEMS)
    slope = torch.func.grad(lambda seq: f(seq) ** 2)(a_sequence())
    torch.testing.assert_close(slope.flip, 2 * value * wanted.flip, rtol=1e-12, atol=0)
    batch = mrsim.expand(a_sequence(), 2)
    many = torch.func.vmap(torch.func.grad(f))(batch)
    torch.testing.assert_close(many.flip[1], wanted.flip, rtol=1e-13, atol=0)
    with pytest.raises(NotImplementedError, match="first derivatives only"):
        torch.func.jacrev(torch.func.grad(lambda x: f(x).sin()))(a_sequence())
    with pytest.raises(RuntimeError):
        torch.func.jacfwd(f)(a_sequence())


def test_ranks_that_cannot_talk_do_not_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RuntimeError, match=r"shard\.join"):
        shard.value_and_grad(cost)(ITEMS, a_sequence())


SCRIPT = """
import sys, torch
sys.path.insert(0, {tests!r})
torch.set_default_dtype(torch.float64)
torch.set_num_threads(1)
import test_shard as t
from mrsim import shard
with shard.join() as world:
    assert world.joined == (world.size > 1)
    shard.run(t.work, t.COUNT, {folder!r}, t.SIZE)
    value, slope = shard.value_and_grad(t.cost)(t.ITEMS, t.a_sequence())
    if world.rank == world.size - 1:
        print(value.item().hex(), *(x.hex() for x in slope.flip.tolist()))
"""


def test_ranks_that_talk(tmp_path: Path, whole: dict[str, bytes]) -> None:
    """Two ranks over gloo share what is left, and sum to the same bits as one."""
    made = tmp_path / "whole"
    for k in (1, 3, 5, 8):
        (made / f"{k:06d}.done").unlink()
    code = SCRIPT.format(tests=str(Path(__file__).parent), folder=str(made))
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "WORLD_SIZE": "2"}
    shared["MASTER_PORT"] = str(20000 + os.getpid() % 20000)
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env={**os.environ, **shared, "RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = "".join(p.communicate(timeout=300)[0] for p in ranks)
    assert [p.returncode for p in ranks] == [0, 0]
    value, slope = shard.value_and_grad(cost)(ITEMS, a_sequence())
    assert said.split() == [value.item().hex(), *(x.hex() for x in slope.flip.tolist())]
    assert files(made) == whole
