"""Checkpoints that cannot be read, and those of something else."""

from pathlib import Path

import pytest
import torch

from mrsim.design import checkpoint

MARK = torch.tensor([1.0, 2.0])


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    assert checkpoint.load(path, MARK) is None
    checkpoint.save(path, MARK, {"x": torch.arange(3.0), "round": 4})
    found = checkpoint.load(path, MARK)
    assert found is not None
    assert found.keys() == {"x", "round"}
    assert found["x"].tolist() == [0.0, 1.0, 2.0]
    assert [p.name for p in tmp_path.iterdir()] == ["state.pt"]


@pytest.mark.parametrize("size", [0, 10, -1])
def test_a_damaged_file_is_named(size: int, tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    checkpoint.save(path, MARK, {"x": torch.arange(3.0)})
    whole = path.read_bytes()
    path.write_bytes(whole[:size] if size >= 0 else whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"state\.pt is no checkpoint, or damaged"):
        checkpoint.load(path, MARK)


@pytest.mark.parametrize("mark", [[1.0, 2.1], [1.0, 2.0, 3.0]])
def test_another_problem_is_refused(mark: list[float], tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    checkpoint.save(path, MARK, {"x": torch.arange(3.0)})
    with pytest.raises(ValueError, match="design"):
        checkpoint.load(path, torch.tensor(mark))
