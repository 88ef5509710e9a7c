"""Checks of the command's options, and the small languages of two of them."""

import argparse
import math
from collections.abc import Sequence

import torch

from mrsim import io
from mrsim._command import pair
from mrsim.fit import Prior
from mrsim.maps_command.models import Model

_EXAMPLE = "T2=0.01,0.5"


def check(given: argparse.Namespace) -> None:
    """Refuse, before the work, what cannot be done.

    Args:
        given: from the parser.

    Raises:
        InputError: a number is out of range.
    """
    sigma = 1.0 if given.sigma is None else given.sigma
    if min(given.starts, given.iterations) < 1 or not sigma > 0:
        raise io.InputError("--starts, --iterations and --sigma must be positive")
    if given.sigma is None and (given.prior or given.likelihood == "rician"):
        raise io.InputError(
            "--prior and --likelihood rician weigh the data by their noise; give"
            " --sigma, its standard deviation in the data's units"
        )


def limits(
    texts: Sequence[str], model: Model
) -> dict[str, tuple[float | None, float | None]]:
    """Return the bounds of the unknowns.

    Args:
        texts: ``NAME=LOW,HIGH`` of the command line.
        model: what is fitted, with its own bounds.

    Returns:
        name → (lower, upper).

    Raises:
        InputError: a text is not understood.
    """
    box = {n: model.bounds[n] for n in model.unknown if n in model.bounds}
    for text in texts:
        name, (low, high) = pair("--bounds", text, "LOW,HIGH", _EXAMPLE)
        _require(name, model)
        box[name] = low, high
    return {n: (a, None if math.isinf(b) else b) for n, (a, b) in box.items()}


def priors(texts: Sequence[str], model: Model) -> dict[str, Prior]:
    """Return the priors of the unknowns.

    Args:
        texts: ``NAME=MEAN,SD`` or ``log:NAME=MEAN,SD`` of the command line.
        model: what is fitted.

    Returns:
        name → prior.

    Raises:
        InputError: a text is not understood.
    """
    made = {}
    for text in texts:
        kind, _, rest = text.rpartition(":")
        name, (mean, sd) = pair("--prior", rest, "MEAN,SD", _EXAMPLE)
        _require(name, model)
        if kind not in ("", "log") or not sd > 0:
            raise io.InputError(
                f"--prior {text} must be NAME=MEAN,SD or log:NAME=MEAN,SD, SD > 0"
            )
        made[name] = Prior(mean, sd, torch.log) if kind else Prior(mean, sd)
    return made


def _require(name: str, model: Model) -> None:
    if name not in model.unknown:
        raise io.InputError(
            f"{name!r} is no unknown of this model; they are"
            f" {', '.join(model.unknown)} (and M0, which has no bounds)"
        )
