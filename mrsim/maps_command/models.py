"""The models that the command fits, and what a protocol of each must tell."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mrsim import epg
from mrsim.tissue import Tissue
from mrsim.tree import neutral, record


@record
class Protocol:
    """What differs from volume to volume, or is the same for all."""

    TE: Tensor | None = None  # (volume,) echo times [s]
    TI: Tensor | None = None  # (volume,) inversion times [s]
    flip: Tensor | None = None  # (volume,) flip angles [rad]
    TR: Tensor | None = None  # () repetition time [s]
    esp: Tensor | None = None  # () echo spacing [s]


@record
class Recovery:
    """A voxel of an inversion-recovery series."""

    T1: Tensor  # () [s]
    M0: Tensor | None = neutral(1.0)  # () [signal units]
    efficiency: Tensor | None = neutral(1.0)  # () of the inversion [1]


class Model(NamedTuple):
    """A signal model; M0 is always unknown too."""

    signal: Callable[..., Tensor]  # (voxel, protocol) → (volume,), real
    unknown: tuple[str, ...]  # without M0
    voxel: Callable[..., Any]  # its record
    start: dict[str, float]  # its fields
    bounds: dict[str, tuple[float, float]]
    starts: dict[str, tuple[float, ...]]  # where several are needed
    needs: tuple[str, ...]  # fields of the protocol
    suffix: dict[str, str]  # BIDS suffix of each map
    about: str


def decay(voxel: Tissue, protocol: Protocol) -> Tensor:
    """M0 exp(−TE/T2)."""
    return voxel.M0 * torch.exp(-protocol.TE / voxel.T2)  # pyright: ignore


def angles(voxel: Tissue, protocol: Protocol) -> Tensor:
    """M0 sin α (1 − E1)/(1 − E1 cos α), α = B1·flip (Ernst and Anderson 1966)."""
    e = torch.exp(-protocol.TR / voxel.T1)  # pyright: ignore
    field: Any = 1.0 if voxel.B1 is None else voxel.B1
    alpha = field * protocol.flip
    return voxel.M0 * alpha.sin() * (1 - e) / (1 - e * alpha.cos())  # pyright: ignore


def recovery(voxel: Recovery, protocol: Protocol) -> Tensor:
    """|M0 (1 − 2 efficiency exp(−TI/T1) + exp(−TR/T1))|, of magnitudes."""
    full = 0.0 if protocol.TR is None else torch.exp(-protocol.TR / voxel.T1)
    turned = 2.0 if voxel.efficiency is None else 2 * voxel.efficiency
    lost = turned * torch.exp(-protocol.TI / voxel.T1)  # pyright: ignore
    return voxel.M0 * (1 - lost + full).abs()  # pyright: ignore


def train(voxel: Tissue, protocol: Protocol) -> Tensor:
    """Return the echoes of a train of any flips, by extended phase graphs."""
    seq = epg.FSE(flip=protocol.flip, esp=protocol.esp)  # pyright: ignore
    return epg.fse(voxel, seq).real


_RELAXING = {"T2": (0.001, 5.0)}
_TISSUE = {"T1": 1.0, "T2": 0.08, "M0": 1.0}

MODELS = {
    "t2": Model(
        decay,
        ("T2",),
        Tissue,
        _TISSUE,
        _RELAXING,
        {"T2": (0.02, 0.08, 0.4)},
        ("TE",),
        {"T2": "T2map", "M0": "M0map"},
        "spin echoes, M0 exp(-TE/T2)",
    ),
    "t2star": Model(
        decay,
        ("T2",),
        Tissue,
        _TISSUE,
        _RELAXING,
        {"T2": (0.01, 0.04, 0.2)},
        ("TE",),
        {"T2": "T2starmap", "M0": "M0map"},
        "gradient echoes, M0 exp(-TE/T2*)",
    ),
    "fse": Model(
        train,
        ("T2", "B1"),
        Tissue,
        _TISSUE | {"B1": 0.9},
        _RELAXING | {"B1": (0.4, 1.25)},
        {"T2": (0.04, 0.15)},
        ("flip", "esp"),
        {"T2": "T2map", "B1": "TB1map", "M0": "M0map"},
        "multi-echo or fast spin echo of any flips, extended phase graphs: T2 and B1",
    ),
    "vfa": Model(
        angles,
        ("T1",),
        Tissue,
        _TISSUE,
        {"T1": (0.01, 10.0)},
        {"T1": (0.3, 1.0, 3.0)},
        ("flip", "TR"),
        {"T1": "T1map", "M0": "M0map"},
        "spoiled gradient echoes of several flips (DESPOT1)",
    ),
    "ir": Model(
        recovery,
        ("T1", "efficiency"),
        Recovery,
        {"T1": 1.0, "M0": 1.0, "efficiency": 0.95},
        {"T1": (0.01, 10.0), "efficiency": (0.5, 1.0)},
        {"T1": (0.2, 0.6, 1.5, 4.0)},
        ("TI",),
        {"T1": "T1map", "efficiency": "inveff", "M0": "M0map"},
        "inversion recovery, magnitudes",
    ),
}
