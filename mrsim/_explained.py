"""Errors from deep inside, said again in the words of the function that was called.

A public function that raises on purpose says what is wrong. Where Python or torch
stumble over an argument instead, `explained` tells what came and what the docstring
expects. Nothing is looked at before: a call that works costs nothing.
"""

import dis
import functools
import inspect
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

from torch import Tensor

_STUMBLES = (AttributeError, IndexError, KeyError, TypeError, ValueError)
_STUMBLES += (AssertionError, NotImplementedError, OverflowError, ZeroDivisionError)
_LIBRARIES = {"mrsim", "torch", "numpy", "scipy", "optree"} | sys.stdlib_module_names
_LIBRARIES |= {"nibabel", "meshio", "plotly", "pypulseq"}  # they read and write files
_RAISE = {dis.opmap["RAISE_VARARGS"], dis.opmap["RERAISE"]}
_TRANSFORMS = re.compile(r"forward mode|functorch|vmap|torch\.func|backward")
_LONGEST = 60


def explain(module: ModuleType) -> None:
    """Let the public functions of a module explain their errors.

    Args:
        module: of mrsim; what its files call among themselves stays as it is.
    """
    offered = "mrsim" if hasattr(module, "__path__") else module.__name__
    for name, f in list(vars(module).items()):
        inside = inspect.isfunction(f) and f.__module__.startswith(offered)
        if inside and not name.startswith("_"):
            setattr(module, name, explained(f, module.__name__))


def explained(f: Callable[..., Any], home: str) -> Callable[..., Any]:
    """Return a function whose errors name its arguments.

    Args:
        f: the function, with a docstring.
        home: the module in which users find it.

    Returns:
        The same function, but for its errors.
    """
    if f.__module__ == home and f.__dict__.get("_explained"):
        return f

    @functools.wraps(f)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return f(*args, **kwargs)
        except FileNotFoundError as e:
            if e.filename is None or not _stumbled(e.__traceback__):
                raise
            raise FileNotFoundError(e.errno, _absent(e.filename), e.filename) from e
        except (*_STUMBLES, RuntimeError) as e:
            text = _explanation(call, e, args, kwargs)
            if text is None:
                raise
            typed = isinstance(e, AttributeError | TypeError)
            raise (TypeError if typed else ValueError)(text) from e

    call.__module__ = home  # where pickle finds it
    call.__dict__["_explained"] = True
    return call


def _explanation(
    call: Callable[..., Any], e: Exception, args: Any, kwargs: Any
) -> str | None:
    """Return what to say, or None where the error says enough or is no stumble."""
    known = isinstance(e, _STUMBLES) or type(e) is RuntimeError
    if type(e) is RuntimeError and _TRANSFORMS.search(str(e)):
        return None  # what torch says of its transforms is of no argument
    if not known or not _stumbled(e.__traceback__):
        return None
    try:
        given = inspect.signature(call).bind(*args, **kwargs).arguments
    except TypeError:  # too few arguments, or unknown ones: Python says which
        return None
    wanted = _documented(inspect.getdoc(call) or "")
    name = f"{call.__module__.removeprefix('mrsim').lstrip('.')}.{call.__name__}"
    lines = [
        f"  {n}: got {_shown(x)}" + (f"; expected {wanted[n]}" if n in wanted else "")
        for n, x in given.items()
    ]
    first = str(e).strip().partition("\n")[0]
    return "\n".join(
        [
            f"{name.lstrip('.')} cannot work with these arguments"
            f" ({type(e).__name__}: {first})",
            *lines,
        ]
    )


def _absent(file: str | os.PathLike[str]) -> str:
    """Say what must exist: the folder of a file, or the file itself."""
    folder = Path(file).parent
    if folder.is_dir():
        return "the file must exist; give the path of one that does"
    return (
        f"its folder must exist; make it with Path({str(folder)!r}).mkdir(parents=True)"
    )


def _stumbled(trace: TracebackType | None) -> bool:
    """Tell whether nobody raised the error on purpose, and no user's code was in it."""
    trace = trace and trace.tb_next  # without the frame of `call`
    last = None
    while trace:
        root = trace.tb_frame.f_globals.get("__name__", "").partition(".")[0]
        if root not in _LIBRARIES:
            return False
        last, trace = trace, trace.tb_next
    if last is None:
        return False
    name = last.tb_frame.f_globals.get("__name__", "")
    chosen = last.tb_frame.f_code.co_code[last.tb_lasti] in _RAISE
    return not (chosen and name.partition(".")[0] == "mrsim")


def _documented(doc: str) -> dict[str, str]:
    """Return what a Google-style docstring says of each argument."""
    section = re.search(r"^Args:\n((?:[ ]{4}.*\n?|\n)+)", doc, re.MULTILINE)
    if section is None:
        return {}
    entries = re.findall(
        r"^[ ]{4}\*{0,2}(\w+): (.*(?:\n[ ]{5,}.*)*)", section[1], re.MULTILINE
    )
    return {name: " ".join(text.split()).rstrip(".") for name, text in entries}


def _shown(x: Any) -> str:
    """Describe a value in a few words: no numbers of tensors, they may be traced."""
    if isinstance(x, Tensor):
        place = "" if x.device.type == "cpu" else f" on {x.device}"
        return f"{str(x.dtype).removeprefix('torch.')} {tuple(x.shape)}{place}"
    if hasattr(x, "__dataclass_fields__"):
        present = {n: v for n, v in vars(x).items() if v is not None}
        inside = ", ".join(f"{n}: {_shown(v)}" for n, v in present.items())
        return f"{type(x).__name__}({inside})"
    if callable(x):
        return f"the function {getattr(x, '__name__', type(x).__name__)}"
    text = f"{x!r}".partition("\n")[0]
    short = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
    return short if x is None else f"{type(x).__name__} {short}"
