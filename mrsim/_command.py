"""What the subcommands of ``python -m mrsim`` share: parsers, checks, summaries."""

import argparse
import json
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

import mrsim
from mrsim import io

Made = TypeVar("Made")
SOFTWARE = {"SoftwareName": "mrsim", "SoftwareVersion": mrsim.__version__}


def subcommand(
    subparsers: Any,
    name: str,
    run: Callable[[argparse.Namespace], int],
    title: str,
    about: str,
    examples: str = "",
) -> argparse.ArgumentParser:
    """Add a subcommand to a command line.

    Args:
        subparsers: what ``ArgumentParser.add_subparsers`` returned.
        name: of the subcommand.
        run: what it does with the parser's result; returns the exit code.
        title: a line for the list of commands.
        about: the text above its options.
        examples: the text below them.

    Returns:
        Its parser.
    """
    parser = subparsers.add_parser(
        name,
        help=title,
        description=about,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run, device="cpu")
    return parser


def add_effort(options: Any, device: str = "") -> None:
    """Add the options that say how a command works.

    Args:
        options: a parser, or a group of one.
        device: what runs on the device; nothing: there is no such option.
    """
    options.add_argument(
        "--threads", type=int, metavar="N", default=1, help="of the CPU (1)"
    )
    if device:
        options.add_argument(
            "--device", default="cpu", help=f"of {device}: cpu, cuda (cpu)"
        )
    options.add_argument("--quiet", action="store_true", help="no progress, no table")


def prepare(given: argparse.Namespace) -> None:
    """Look at the device, make the folder for results, set the threads.

    Args:
        given: from the parser.

    Raises:
        InputError: one of them is not available.
    """
    if given.threads < 1:
        raise io.InputError("--threads must be positive")
    check_device(given.device)
    try:
        given.out.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise io.InputError(f"--out {given.out} cannot be made: {e}") from e
    torch.set_num_threads(given.threads)


def worked(work: Callable[..., Made], *inputs: Any) -> tuple[Made, float]:
    """Do the work of a command; what it refuses is the fault of an input.

    Args:
        work: the function to call.
        *inputs: its arguments.

    Returns:
        What it returns, and how long it took [s].

    Raises:
        InputError: it raised a ValueError.
    """
    before = time.perf_counter()
    try:
        made = work(*inputs)
    except ValueError as e:
        raise io.InputError(str(e)) from e
    return made, time.perf_counter() - before


def check_device(device: str) -> None:
    """Refuse a device that torch cannot use.

    Args:
        device: its name, such as ``"cuda"``.

    Raises:
        InputError: it is not available.
    """
    if not available(device):
        raise io.InputError(f"--device {device} is not available; use cpu")


def available(device: str) -> bool:
    """Tell whether torch can use a device.

    Args:
        device: its name, such as ``"cuda"``.

    Returns:
        Whether it is there.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):
        return False
    return True


def pair(
    option: str, text: str, form: str, example: str
) -> tuple[str, tuple[float, float]]:
    """Read ``NAME=number,number``.

    Args:
        option: whose value it is, for the message.
        text: the value.
        form: what the numbers are, such as ``"LOW,HIGH"``.
        example: one that is right.

    Returns:
        The name and the two numbers.

    Raises:
        InputError: the text is not of this form.
    """
    name, _, numbers = text.partition("=")
    try:
        first, second = map(float, numbers.split(","))
    except ValueError as e:
        raise io.InputError(
            f"{option} {text} must be NAME={form}, such as {example}"
        ) from e
    return name, (first, second)


def median(x: Tensor) -> float | None:
    """Return the median of what is finite, if anything is.

    Args:
        x: of any shape.

    Returns:
        The number.
    """
    known = x[x.isfinite()]
    return float(known.median()) if len(known) else None


def medians(maps: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, Any]:
    """Sum maps up.

    Args:
        maps: name → (voxel,), ``name_sd`` beside ``name`` where it is known.
        names: of the maps.

    Returns:
        name → the medians of the map and of its standard deviation.
    """
    rows = {}
    for name in names:
        kinds = {"median": name, "median_sd": f"{name}_sd"}
        rows[name] = {kind: median(maps[n]) for kind, n in kinds.items() if n in maps}
    return rows


def columns(rows: Mapping[str, Any], unit: Callable[[str], str]) -> list[str]:
    """Lay medians out for a terminal.

    Args:
        rows: from `medians`.
        unit: name of a map → its unit.

    Returns:
        Lines of text.
    """
    lines = [f"{'map':14}{'median':>12}{'median sd':>12}"]
    for name, row in rows.items():
        cells = ["-" if v is None else f"{v:.4g}" for v in row.values()]
        told = (
            f"{name} [{unit(name)}]" if unit(name) not in ("1", "arbitrary") else name
        )
        lines.append(f"{told:14}{''.join(f'{c:>12}' for c in cells)}")
    return lines


def write_json(path: Path, report: Mapping[str, Any]) -> None:
    """Write numbers.

    Args:
        path: of the file.
        report: what it says.
    """
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
