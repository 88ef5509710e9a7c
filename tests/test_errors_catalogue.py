"""Wrong arguments of every public function end in errors that say what was expected.

The calls to start from are those of the docstrings' examples: a new function joins by
having one. Each argument in turn becomes None, text, integers, a dict, one axis more,
twice as long, a tensor without data, or a path in a folder that does not exist: the
function may still do its work, or it raises an error that names the argument, the field
or what it expects, and the path that is missing.
"""

import inspect
import tempfile
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import public
import pytest
import torch

import mrsim
from mrsim.tree import fields, is_record, put

FUNCTIONS = public.functions()
DEAR = {"batched", "compiled", "design.minimise", "ivim.allocate", "ivim.optimise"}
DEAR |= {"ivim.learn_prior", "torrey.surface_distance"}  # seconds each
EXPECTS = ("must", "expected", "move all", "is no ", "give ", "cannot be written")
GIVEN = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def wrong(x: Any) -> Iterator[Any]:
    """Yield values that are not what an argument should be."""
    yield from (None, "wrong")
    if isinstance(x, torch.Tensor):
        yield torch.ones(x.shape, dtype=torch.long)
        yield x[None]
        yield x.to("meta")
        if x.ndim:
            yield torch.cat([x, x])
    elif is_record(x):
        yield {"T1": 1.0}
        yield mrsim.to(x, device="meta")
        present = [f.name for f in fields(x) if _is_tensor(getattr(x, f.name))]
        yield from (put(x, n, getattr(x, n)[None]) for n in present)
    elif isinstance(x, int | float) and not isinstance(x, bool):
        yield torch.ones(2, 3)
    elif isinstance(x, Path) or (isinstance(x, str) and Path(x).is_absolute()):
        yield type(x)(Path("nowhere", Path(x).name))
    elif callable(x):
        yield 3


def _is_tensor(x: Any) -> bool:
    return isinstance(x, torch.Tensor)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "function", [f for f in FUNCTIONS if f.name not in DEAR], ids=lambda f: f.name
)
def test_wrong_arguments_are_named(
    function: public.Public, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a wrong name may be that of a new file
    lasting = lambda: nullcontext(tempfile.mkdtemp(dir=tmp_path))  # noqa: E731
    monkeypatch.setattr(tempfile, "TemporaryDirectory", lasting)  # of the example
    torch.set_default_dtype(torch.float32)  # as users have it, and the examples
    try:
        found = public.calls(function)
        for call in found[:1]:
            _try(function, call)
    finally:
        torch.set_default_dtype(torch.float64)


def _try(function: public.Public, call: public.Call) -> None:
    signature = inspect.signature(function.f)
    given = signature.bind(*call.args, **call.kwargs).arguments
    for name, x in given.items():
        parameter = signature.parameters[name]
        if parameter.kind not in GIVEN:
            continue
        for value in wrong(x):
            changed = signature.bind(*call.args, **call.kwargs)
            changed.arguments[name] = value
            try:
                function.f(*changed.args, **changed.kwargs)
            except (TypeError, ValueError, OSError) as e:
                said, absent = str(e), isinstance(e, FileNotFoundError)
            else:
                continue
            words = {name, function.f.__name__, *_parts(x), *EXPECTS}
            assert len(said) > 20
            assert any(word in said for word in words), said
            assert not absent or ("must exist" in said and str(value) in said), said


def _parts(x: Any) -> list[str]:
    """Return the names of a record's fields and of its kind."""
    if not is_record(x):
        return []
    return [type(x).__name__, *(f.name for f in fields(x))]


def test_most_functions_are_tried() -> None:
    assert len(FUNCTIONS) > 300
    with_example = [f for f in FUNCTIONS if ">>>" in (f.f.__doc__ or "")]
    assert len(with_example) > 0.65 * len(FUNCTIONS)


def test_errors_list_what_came_and_what_is_expected() -> None:
    from mrsim import epg

    state, one = epg.equilibrium(torch.tensor(1.0)), torch.tensor(1.0)
    with pytest.raises(TypeError, match=r"epg\.rf cannot work with these") as e:
        epg.rf(state, "ninety", one)
    assert "flip: got str 'ninety'; expected () flip angle α, B1 inc" in str(e.value)
    assert "phase: got float64 (); expected () phase φ [rad]" in str(e.value)
    assert e.value.__cause__ is not None


def test_errors_of_users_functions_stay_as_they_are() -> None:
    def broken(tissue: Any, _: Any) -> Any:
        return tissue.no_such_field

    with pytest.raises(AttributeError, match="no_such_field"):
        mrsim.batched(broken, in_dims=(0, None))(mrsim.Tissue(T1=[1.0], T2=[0.1]), 0)
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        mrsim.epg.spoil()
