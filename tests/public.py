"""Every public function of mrsim, and the calls that its example makes."""

import copy
import doctest
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, NamedTuple

import torch

import mrsim
from mrsim._check import concrete
from mrsim.tree import tree_leaves


class Public(NamedTuple):
    """A public function and the module through which it is reached."""

    name: str  # such as "epg.fse"
    module: ModuleType
    f: Callable[..., Any]


class Call(NamedTuple):
    """Arguments that a function takes."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def modules() -> dict[str, ModuleType]:
    """Return mrsim and the packages that it holds, by the name in front of a dot."""
    source = inspect.getsource(mrsim)
    inside = {n: m for n, m in vars(mrsim).items() if inspect.ismodule(m)}
    public = {n: m for n, m in inside.items() if f"{n} as {n}" in source}
    outside = ("io", "phantom", "plot", "pulseq", "series")
    outside += ("tract_files", "torrey_files")
    found = {"": mrsim} | public
    for name in outside:
        try:
            found[name] = importlib.import_module(f"mrsim.{name}")
        except ImportError:  # an extra is missing
            continue
    return found


def members(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """Yield what a module offers: what it defines, or imports ``x as x``."""
    source = inspect.getsource(module)
    for name, value in vars(module).items():
        home = getattr(value, "__module__", "") or ""
        if name.startswith("_") or not home.startswith("mrsim"):
            continue
        if home == module.__name__ or f"{name} as {name}" in source:
            yield name, value


def functions() -> list[Public]:
    """Return every public function once, under its shortest name."""
    found: dict[Any, Public] = {}
    for prefix, module in modules().items():
        for name, value in members(module):
            if inspect.isfunction(value) and value not in found:
                full = f"{prefix}.{name}".lstrip(".")
                found[value] = Public(full, module, value)
    return list(found.values())


@contextmanager
def watched(public: Public) -> Iterator[list[Call]]:
    """Note the plain calls of a function made through its module."""
    calls: list[Call] = []

    def noting(*args: Any, **kwargs: Any) -> Any:
        leaves = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        if all(map(concrete, leaves)):
            try:
                calls.append(copy.deepcopy(Call(args, kwargs)))
            except TypeError:  # open files, generators
                calls.append(Call(args, kwargs))
        return public.f(*args, **kwargs)

    noting.__signature__ = inspect.signature(public.f)
    name = public.name.rpartition(".")[2]
    places = {public.module, sys.modules[inspect.unwrap(public.f).__module__]}
    before = {place: getattr(place, name) for place in places}
    for place in places:
        setattr(place, name, noting)
    try:
        yield calls
    finally:
        for place, f in before.items():
            setattr(place, name, f)


def _globals(public: Public) -> dict[str, Any]:
    """Return what the file of a function knows, as doctest gives it to examples."""
    return vars(sys.modules[inspect.unwrap(public.f).__module__]).copy()


def calls(public: Public) -> list[Call]:
    """Run a function's example; return the calls of the function in it."""
    finder = doctest.DocTestFinder(recurse=False)
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    with watched(public) as found:
        for test in finder.find(public.f, public.name, globs=_globals(public)):
            runner.run(test, out=lambda _: None, clear_globs=False)
    return found
