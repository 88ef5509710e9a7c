"""Errors that are said again, and errors that are left as they are."""

import importlib
import sys
from pathlib import Path

import pytest
import torch

from mrsim._eager import eager
from mrsim._explained import explained


def deep(record: object, times: int) -> int:
    """Multiply.

    Args:
        record: what has a size.
        times: how often.
    """
    return record.size * times  # pyright: ignore[reportAttributeAccessIssue]


def bare(record: object) -> int:
    """Multiply, without a word about arguments."""
    return torch.ones(2)[record.size]  # pyright: ignore


deep.__module__ = bare.__module__ = "mrsim.deep"


def from_inside(f, name: str = "mrsim.inside"):
    """Return a function whose code counts as the library's."""
    made = type(f)(f.__code__, {**f.__globals__, "__name__": name}, f.__name__)
    made.__doc__, made.__module__ = f.__doc__, f.__module__
    return explained(made, "mrsim.deep")


def test_a_stumble_names_its_arguments() -> None:
    with pytest.raises(TypeError) as caught:
        from_inside(deep)(3.5, times=2)
    assert str(caught.value).splitlines() == [
        "deep.deep cannot work with these arguments (AttributeError: 'float' object has"
        " no attribute 'size')",
        "  record: got float 3.5; expected what has a size",
        "  times: got int 2; expected how often",
    ]
    assert isinstance(caught.value.__cause__, AttributeError)


def test_without_a_section_of_arguments_it_says_what_came() -> None:
    with pytest.raises(TypeError) as caught:
        from_inside(bare)(None)
    assert str(caught.value).splitlines()[1:] == ["  record: got None"]


def test_calls_that_python_refuses_are_pythons_to_explain() -> None:
    with pytest.raises(TypeError, match=r"^deep\(\) missing 1 required positional"):
        from_inside(deep)(3.5)
    with pytest.raises(TypeError, match="unexpected keyword argument 'often'"):
        from_inside(deep)(3.5, often=2)


def test_what_a_users_code_says_stays() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'size'$"):
        from_inside(deep, "somewhere.else")(3.5, 2)


def test_explained_once_is_enough() -> None:
    once = from_inside(deep)
    assert explained(once, "mrsim.deep") is once
    assert explained(once, "mrsim") is not once
    assert explained(once, "mrsim").__module__ == "mrsim"


def test_what_dynamo_leaves_alone_works_before_it_is_imported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    double = eager(lambda x, by=2: x * by)
    monkeypatch.delitem(sys.modules, "torch._dynamo", raising=False)
    assert (double(3), double(3, by=4)) == (6, 12)
    assert "torch._dynamo" not in sys.modules
    monkeypatch.undo()
    importlib.import_module("torch._dynamo")

    assert (double(3), double(3, by=4)) == (6, 12)


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    def read(path: Path) -> str:
        return path.read_text()

    with pytest.raises(FileNotFoundError, match=r"the file must exist; .*/map") as e:
        from_inside(read)(tmp_path / "map")
    assert e.value.filename == str(tmp_path / "map")
    with pytest.raises(FileNotFoundError, match=r"its folder must exist; .*/no/map"):
        from_inside(read)(tmp_path / "no" / "map")
    with pytest.raises(FileNotFoundError, match="No such file or directory"):
        from_inside(read, "somewhere.else")(tmp_path / "map")
