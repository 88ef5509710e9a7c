"""The protocols that the command designs, each as a design problem."""

import argparse
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mrsim import design, epg
from mrsim.maps_command.models import Protocol, Recovery, angles
from mrsim.tissue import Tissue
from mrsim.tree import record, replace
from mrsim.units import deg, ms


class Problem(NamedTuple):
    """What is designed, and for what."""

    signal: Callable[[Any, Any], Tensor]  # (tissue, record) → signal
    unknown: tuple[str, ...]
    targets: tuple[str, ...]  # whose relative variances are added
    start: Any  # record
    fields: tuple[str, ...]  # that may change
    bounds: dict[str, tuple[float, float]]
    constraints: tuple[design.Constraint, ...]
    columns: Callable[[Any], dict[str, Tensor]]  # of the table: name_unit → values
    tissue: Callable[[Tensor, Tensor], Any]  # T1, T2 → the signal's record


@record
class Schedule:
    """Coefficients of the splines of a fingerprinting schedule."""

    flip: Tensor  # (coefficient,) [rad]
    TR: Tensor  # (coefficient,) or () [s]
    phase: Tensor | None = None  # (coefficient,) [rad]


def train(given: argparse.Namespace) -> Problem:
    """Fast spin echo: refocusing flips of limited power."""
    rms = given.rms_deg * deg
    flip = torch.full((given.echoes,), rms, dtype=torch.float64)
    start = epg.FSE(flip=flip, esp=flip.new_tensor(given.esp_ms * ms))
    return Problem(
        epg.fse,
        ("M0", "T2", "B1"),
        ("T2",),
        start,
        ("flip",),
        {"flip": (10 * deg, 180 * deg)},
        (design.rms("flip", rms),),
        lambda q: {"flip_deg": q.flip / deg},
        _tissue,
    )


def fingerprints(given: argparse.Namespace) -> Problem:
    """Inversion-recovery FISP: splines of flips, of TRs and RF phases if asked for."""
    n, k = given.trs, given.coefficients
    low, high = (x * ms for x in given.tr_ms)
    t = torch.arange(n, dtype=torch.float64)
    lobes = torch.sin(torch.pi * t / (n / 4)).abs() * given.flip_max_deg * deg
    flip = design.spline_fit(lobes.clamp(1 * deg), k)
    bounds = {"flip": (1 * deg, given.flip_max_deg * deg)}
    middle = flip.new_tensor((low + high) / 2)
    start = Schedule(
        flip=flip.clamp(*bounds["flip"]),
        TR=middle.expand(k).contiguous() if high > low else middle,
        phase=torch.zeros_like(flip) if given.phases else None,
    )
    if high > low:
        bounds["TR"] = (low, high)
    if given.phases:
        bounds["phase"] = (-torch.pi, torch.pi)
    te, ti = (flip.new_tensor(x * ms) for x in (given.te_ms, given.ti_ms))

    def played(q: Schedule) -> epg.FISP:
        return epg.FISP(
            flip=design.spline(q.flip, n),
            TR=design.spline(q.TR, n) if q.TR.ndim else q.TR.expand(n),
            TE=te,
            TI=ti,
            phase=None if q.phase is None else design.spline(q.phase, n),
        )

    def columns(q: Schedule) -> dict[str, Tensor]:
        seq = played(q)
        made = {"flip_deg": seq.flip / deg, "TR_ms": seq.TR / ms}
        return made if seq.phase is None else made | {"phase_deg": seq.phase / deg}

    time = (low + high) / 2 * n
    total = design.at_most(lambda q: played(q).TR.sum(), time, "total time")
    return Problem(
        lambda tissue, q: epg.fisp(tissue, played(q)),
        ("M0", "T1", "T2"),
        ("T1", "T2"),
        start,
        tuple(bounds),
        bounds,
        (total,) if high > low else (),
        columns,
        _tissue,
    )


def flips(given: argparse.Namespace) -> Problem:
    """Variable flip angles (DESPOT1)."""
    start = Protocol(
        flip=torch.linspace(3, 25, given.angles, dtype=torch.float64) * deg,
        TR=torch.tensor(given.tr_ms[0] * ms, dtype=torch.float64),
    )
    return Problem(
        angles,
        ("M0", "T1"),
        ("T1",),
        start,
        ("flip",),
        {"flip": (0.5 * deg, 90 * deg)},
        (),
        lambda q: {"flip_deg": q.flip / deg},
        _tissue,
    )


def inversions(given: argparse.Namespace) -> Problem:
    """Inversion recovery: the inversion times."""
    longest = 4.0 if given.tr_ms is None else given.tr_ms[0] * ms
    steps = torch.linspace(0.02, 0.75, given.times, dtype=torch.float64)
    TR = None if given.tr_ms is None else steps.new_tensor(longest)
    start = Protocol(TI=steps * longest, TR=TR)
    return Problem(
        _recovery,
        ("M0", "T1", "efficiency"),
        ("T1",),
        start,
        ("TI",),
        {"TI": (5 * ms, longest)},
        (),
        lambda q: {"TI_ms": q.TI / ms},
        lambda T1, T2: Recovery(T1=T1, M0=torch.ones_like(T2)),
    )


def _recovery(voxel: Recovery, q: Protocol) -> Tensor:
    """Return the signed signal: a design shall not see the kink of a magnitude."""
    full = 0.0 if q.TR is None else torch.exp(-q.TR / voxel.T1)
    turned = 2.0 if voxel.efficiency is None else 2 * voxel.efficiency
    return voxel.M0 * (1 - turned * torch.exp(-q.TI / voxel.T1) + full)  # pyright: ignore


def _tissue(T1: Tensor, T2: Tensor) -> Tissue:
    return replace(Tissue(T1=T1, T2=T2), M0=torch.ones_like(T1))


PROBLEMS = {"fse": train, "mrf": fingerprints, "vfa": flips, "ir": inversions}
