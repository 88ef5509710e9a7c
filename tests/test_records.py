"""Every public record: copies, pickles, safe files, both registries, a picture.

Records are discovered, never listed: a new one is tested by being there.
"""

import copy
import dataclasses
import importlib
import io
import pickle
import pkgutil
import types
import typing
from collections.abc import Iterator
from typing import Any

import optree
import pytest
import torch
from torch import Tensor
from torch.utils import _pytree

import mrsim
from mrsim import tree
from mrsim._show import show

_STATIC: dict[Any, Any] = {int: 3, float: 0.5, bool: True, str: "linear"}


def _modules() -> Iterator[types.ModuleType]:
    """Yield the packages whose names users write."""
    yield mrsim
    for found in pkgutil.iter_modules(mrsim.__path__):
        hidden = found.name.startswith("_") or found.name.endswith("_command")
        if not hidden and found.name != "demo":
            yield importlib.import_module(f"mrsim.{found.name}")


def _records() -> dict[str, type]:
    found = {}
    for module in _modules():
        for cls in vars(module).values():
            ours = isinstance(cls, type) and cls.__module__.startswith("mrsim")
            if ours and cls in _pytree.SUPPORTED_NODES:
                found[f"{cls.__module__}.{cls.__qualname__}"] = cls
    return found


RECORDS = _records()


def _made(cls: type, *, full: bool, generator: torch.Generator) -> Any:
    """Make a record with random tensors in its fields, as unflattening would."""
    hints = typing.get_type_hints(cls)
    out = object.__new__(cls)
    for field in tree.fields(cls):
        absent = field.default is None and not full
        inside = [
            part
            for part in (hints[field.name], *typing.get_args(hints[field.name]))
            if isinstance(part, type) and part in _pytree.SUPPORTED_NODES
        ]
        if field.metadata.get("static"):
            value = _structure(field, hints[field.name])
        elif absent:
            value = None
        elif inside and Tensor not in typing.get_args(hints[field.name]):
            value = _made(inside[0], full=full, generator=generator)
        else:
            value = torch.rand(3, generator=generator)
        out.__dict__[field.name] = value
    return out


def _structure(field: Any, hint: Any) -> Any:
    if field.name == "layout":
        return (mrsim.epg.Event(pulse=True, shift=1), mrsim.epg.Event(read=True))
    if field.default is dataclasses.MISSING:
        return _STATIC.get(hint, (1, 2))
    return field.default


def same(a: Any, b: Any) -> bool:
    (x, s), (y, t) = tree.tree_flatten(a), tree.tree_flatten(b)
    return s == t and all(torch.equal(p, q) for p, q in zip(x, y, strict=True))


@pytest.fixture(params=[False, True], ids=["least", "full"])
def x(request: Any, cls: type, generator: torch.Generator) -> Any:
    return _made(cls, full=request.param, generator=generator)


def test_records_of_every_package_are_found() -> None:
    owners = {name.split(".")[1] for name in RECORDS}
    assert {"tissue", "epg", "ivim", "tract", "torrey", "fit"} <= owners
    assert len(RECORDS) > 60


@pytest.mark.parametrize("cls", RECORDS.values(), ids=RECORDS.keys())
class TestEveryRecord:
    def test_copies_are_equal_and_apart(self, x: Any) -> None:
        twin = copy.deepcopy(x)
        assert same(twin, x)
        for a, b in zip(tree.tree_leaves(twin), tree.tree_leaves(x), strict=True):
            assert a.data_ptr() != b.data_ptr()
        assert same(pickle.loads(pickle.dumps(x)), x)

    def test_file_with_torch_s_safe_default(self, x: Any) -> None:
        file = io.BytesIO()
        torch.save(x, file)
        file.seek(0)
        assert same(torch.load(file, weights_only=True), x)

    def test_state_is_its_leaves_by_name(self, x: Any) -> None:
        state = {n: tree.get(x, n) for n in tree.names(x)}
        given = [v for v in state.values() if v is not None]
        assert len(given) == len(tree.tree_leaves(x))
        zero = tree.tree_map(torch.zeros_like, x)
        for name, value in state.items():
            zero = tree.put(zero, name, value)
        assert same(zero, x)

    def test_both_registries(self, x: Any) -> None:
        leaves, spec = _pytree.tree_flatten(x)
        assert same(_pytree.tree_unflatten(leaves, spec), x)
        others, structure = optree.tree_flatten(x)
        assert len(others) == len(leaves)
        assert same(optree.tree_unflatten(structure, others), x)
        assert spec == _pytree.tree_flatten(copy.deepcopy(x))[1]

    def test_dtype_and_device(self, x: Any) -> None:
        moved = mrsim.to(x, torch.float32, "meta")
        assert {(v.dtype, v.device.type) for v in tree.tree_leaves(moved)} <= {
            (torch.float32, "meta")
        }

    def test_picture_names_the_fields_that_are_present(self, x: Any) -> None:
        text = show(x)
        assert text.startswith(f"{type(x).__qualname__}(")
        for name in tree.names(x):
            shown = f"{name.split('.')[-1]}=" in text
            assert shown or tree.get(x, name) is None
        assert len(text) < 2000
