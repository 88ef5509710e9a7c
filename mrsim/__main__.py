"""``python -m mrsim``: design a spin-echo train and prove it on a brain."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from mrsim import __version__, demo, ivim_command, maps_command, tract_command
from mrsim._command import available
from mrsim.io import InputError
from mrsim.units import deg, ms

_ABOUT = """\
Design a fast-spin-echo train that maps T2 as precisely as its RF power allows, by
gradients through the simulator, and prove it: simulate it with noise on a slice of a
brain, fit T2 in every voxel, compare with a constant train and the best linear ramp.
"""


def parser() -> argparse.ArgumentParser:
    """Make the command line's parser."""
    p = argparse.ArgumentParser(
        prog="python -m mrsim",
        description=_ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--version", action="version", version=f"mrsim {__version__}")
    p.add_argument(
        "--out", type=Path, default=Path("mrsim-demo"), help="folder to write to"
    )

    maps = p.add_argument_group(
        "input", "NIfTI maps; without them the MNI152 brain, 3 T"
    )
    maps.add_argument("--t1", type=Path, metavar="FILE", help="T1 map [s]")
    maps.add_argument("--t2", type=Path, metavar="FILE", help="T2 map [s]")
    maps.add_argument("--m0", type=Path, metavar="FILE", help="M0 map, any unit (1)")
    maps.add_argument("--mask", type=Path, metavar="FILE", help="non-zero: fit here")
    maps.add_argument(
        "--slice", type=int, metavar="K", help="axial slice, from 0 (a full one)"
    )

    train = p.add_argument_group("train")
    train.add_argument(
        "--echoes", type=int, default=16, metavar="N", help="echoes (16)"
    )
    train.add_argument(
        "--esp-ms", type=float, default=8.0, metavar="MS", help="echo spacing [ms] (8)"
    )
    train.add_argument(
        "--rms-deg",
        type=float,
        default=60.0,
        metavar="DEG",
        help="RMS flip limit [°] (60)",
    )

    effort = p.add_argument_group("effort")
    effort.add_argument(
        "--sigma",
        type=float,
        default=0.005,
        metavar="S",
        help="noise sd of each real channel [median M0] (0.005)",
    )
    effort.add_argument(
        "--fits", type=int, metavar="N", help="fits for each train (30000)"
    )
    effort.add_argument("--starts", type=int, metavar="N", help="random trains (256)")
    effort.add_argument("--steps", type=int, metavar="N", help="of their descent (60)")
    effort.add_argument("--polish", type=int, metavar="N", help="trains polished (4)")
    effort.add_argument("--quick", action="store_true", help="a small version, < 20 s")
    effort.add_argument("--seed", type=int, default=0, help="of starts and noise (0)")
    effort.add_argument(
        "--threads",
        type=int,
        metavar="N",
        default=1,
        help="of the CPU (1: small arrays)",
    )
    effort.add_argument("--device", default="cpu", help="of the fits: cpu, cuda (cpu)")
    effort.add_argument("--quiet", action="store_true", help="no progress, no table")
    p.set_defaults(run=_demo)
    commands = p.add_subparsers(title="other commands", metavar="COMMAND")
    ivim_command.add_parser(commands)
    tract_command.add_parser(commands)
    maps_command.add_parsers(commands)
    return p


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: without the program's name; ``sys.argv`` by default.

    Returns:
        The exit code: 0, or 2 when an input cannot be used.
    """
    given = parser().parse_args(arguments)
    try:
        return given.run(given)
    except (InputError, ImportError) as e:
        sys.stderr.write(f"mrsim: {e}\n")
        return 2


def _demo(given: argparse.Namespace) -> int:
    chosen = options(given)
    torch.set_num_threads(given.threads)
    report = demo.run(chosen)
    if not given.quiet:
        sys.stdout.write(f"\n{demo.table(report)}\nwritten to {given.out}/\n")
    return 0


def options(given: argparse.Namespace) -> demo.Options:
    """Check the numbers of a command line and turn them into mrsim's units.

    Args:
        given: from `parser`.

    Returns:
        The job's options.

    Raises:
        InputError: a number is out of range.
    """
    small = (5000, 64, 20, 1) if given.quick else (30_000, 256, 60, 4)
    names = ("fits", "starts", "steps", "polish")
    effort: dict[str, Any] = {
        name: default if getattr(given, name) is None else getattr(given, name)
        for name, default in zip(names, small, strict=True)
    }
    rules = {
        "--echoes must be at least 4, for three unknowns": given.echoes >= 4,
        "--esp-ms must be positive": given.esp_ms > 0,
        "--rms-deg must lie in 20 … 170": 20 <= given.rms_deg <= 170,
        "--sigma must be positive": given.sigma > 0,
        "--fits, --starts, --steps and --polish must be positive": all(
            n > 0 for n in effort.values()
        ),
        "--threads must be positive": given.threads > 0,
        f"--device {given.device} is not available; use cpu": available(given.device),
    }
    for sentence, kept in rules.items():
        if not kept:
            raise InputError(sentence)
    same = ("out", "t1", "t2", "m0", "mask", "slice", "sigma", "seed", "device")
    words: dict[str, Any] = {name: getattr(given, name) for name in same}
    return demo.Options(
        **words,
        **effort,
        echoes=given.echoes,
        esp=given.esp_ms * ms,
        rms=given.rms_deg * deg,
        progress=not given.quiet,
    )


if __name__ == "__main__":
    sys.exit(main())
