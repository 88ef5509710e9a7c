"""Timing and flip angles of a series: from options, else from its BIDS sidecars."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mrsim import io
from mrsim.maps_command.models import Model, Protocol
from mrsim.units import deg, ms

# field: option and its unit, keys of the sidecar and their unit, one for each volume?
_SOURCES = {
    "TE": ("te_ms", ms, ("EchoTime",), 1.0, True),
    "TI": ("ti_ms", ms, ("InversionTime",), 1.0, True),
    "flip": ("flip_deg", deg, ("FlipAngle",), deg, True),
    "TR": (
        "tr_ms",
        ms,
        ("RepetitionTimeExcitation", "RepetitionTime", "RepetitionTimePreparation"),
        1.0,
        False,
    ),
    "esp": ("esp_ms", ms, ("EchoSpacing",), 1.0, False),
}


def protocol(
    given: argparse.Namespace, model: Model, volumes: int, dtype: torch.dtype
) -> Protocol:
    """Collect what the model needs to know about a series.

    Args:
        given: from the parser.
        model: what is fitted.
        volumes: how many volumes there are.
        dtype: of the result.

    Returns:
        The protocol.

    Raises:
        InputError: something is missing, or there are more or fewer values than
            volumes.
    """
    sidecars = [sidecar(path) for path in given.data]
    made = {name: _field(given, name, sidecars, volumes) for name in _SOURCES}
    if made["esp"] is None and made["TE"] is not None and "esp" in model.needs:
        made["esp"] = _spacing(made["TE"])
    for name in model.needs:
        if made[name] is None:
            option, _, keys, *_ = _SOURCES[name]
            raise io.InputError(
                f"--model {given.model} needs {name}: give --{option.replace('_', '-')}"
                f", or {keys[0]} in the JSON sidecar beside the images"
            )
    keep = {*model.needs, *(("TR",) if given.model == "ir" else ())}
    fields = {
        n: torch.tensor(made[n], dtype=dtype) for n in keep if made[n] is not None
    }
    return Protocol(**fields)


def sidecar(path: Path) -> dict[str, Any]:
    """Return the JSON beside an image, or nothing.

    Args:
        path: of the image.

    Returns:
        Its content.

    Raises:
        InputError: it is no valid JSON.
    """
    stem = path.name.removesuffix(".gz").removesuffix(".nii")
    file = path.with_name(f"{stem}.json")
    if not file.is_file():
        return {}
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as e:
        raise io.InputError(f"{file} is no valid JSON: {e}") from e


def _field(
    given: argparse.Namespace, name: str, sidecars: Sequence[Any], volumes: int
) -> Any:
    """Return one value or a list of them, in mrsim's unit; ``None`` if unknown."""
    option, unit, keys, other, each = _SOURCES[name]
    values, scale = getattr(given, option), unit
    if values is None:
        key = next((k for k in keys if all(k in s for s in sidecars)), None)
        if key is None:
            return None
        found = [s[key] for s in sidecars]
        flat = [v if isinstance(v, list) else [v] for v in found]
        values, scale = [float(x) for v in flat for x in v], other
    values = values if isinstance(values, list) else [values]
    if not each:
        if len(set(values)) > 1:
            raise io.InputError(f"{name} differs between the images: {values}")
        return values[0] * scale
    if len(values) == 1:
        values = values * volumes
    if len(values) != volumes:
        raise io.InputError(
            f"--{option.replace('_', '-')} or the sidecars give {len(values)} values,"
            f" but there are {volumes} volumes"
        )
    return [v * scale for v in values]


def _spacing(times: list[float]) -> float:
    steps = torch.tensor([0.0, *times]).diff()
    esp = times[-1] / len(times)
    if not torch.allclose(steps, torch.full_like(steps, esp), rtol=0.01):
        raise io.InputError(
            "the echo times are not n·esp, as those of one train; give --esp-ms"
        )
    return esp


def field_map(values: Tensor, path: Path) -> Tensor:
    """Return a map of the transmit field relative to nominal.

    Args:
        values: of the file; 1 or 100 is nominal.
        path: its path, for messages and its sidecar.

    Returns:
        The map; percent (by sidecar, or by a median above 10) become shares.

    Raises:
        InputError: the map has no positive value.
    """
    inside = values[values.isfinite() & (values > 0)]
    if not len(inside):
        raise io.InputError(f"{path} has no positive value; 1 is the nominal field")
    units = str(sidecar(path).get("Units", ""))
    percent = units in ("percent", "%", "p.u.") or float(inside.median()) > 10
    return values / 100 if percent else values
