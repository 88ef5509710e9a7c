"""What the main job says: the numbers of its report and a table to print."""

from typing import Any

import torch
from torch import Tensor

import mrsim
from mrsim import epg
from mrsim.demo.measure import point_spread, signal_and_slope
from mrsim.demo.result import Result
from mrsim.demo.trial import ratio, summary
from mrsim.tree import get
from mrsim.units import deg, ms

_ZOOM = 8


def describe(result: Result) -> dict[str, Any]:
    """Put the result into numbers; each name says its unit if it has one.

    Args:
        result: of the computation.

    Returns:
        What can be written as JSON.
    """
    truth, trials = result.cut.tissue.T2, result.trials
    ratios = {
        n: ratio(trials["optimised"], trials[n], truth) for n in ("constant", "ramp")
    }
    numbers = {
        key: round(value, 6)
        for name, r in ratios.items()
        for key, value in (
            (f"variance_ratio_{name}", r.predicted),
            (f"measured_ratio_{name}", r.measured),
            (f"measured_ratio_{name}_standard_error", r.error),
            (f"disagreement_{name}", abs(r.measured / r.predicted - 1)),
        )
    }
    best = result.objective["optimised"]
    return numbers | {
        "design_ratio_constant": round(best / result.objective["constant"], 6),
        "design_ratio_ramp": round(best / result.objective["ramp"], 6),
        "gradient_max_rel_error": result.gradient_error,
        "fits_per_train": len(trials["optimised"].fitted),
        "bound_hits": sum(int(t.at_bound.sum()) for t in trials.values()),
        "trains": {n: _train(result, n, train) for n, train in result.trains.items()},
        "best_ramp": {
            "start_deg": round(result.ramp.start / deg, 3),
            "length": result.ramp.length,
            "ramps_tried": result.ramp.tried,
        },
        "tissues_designed_for": _tissues(result),
        "input": _input(result),
        "settings": _settings(result),
        "versions": {"mrsim": mrsim.__version__, "torch": torch.__version__},
    }


def _tissues(result: Result) -> list[dict[str, float]]:
    units = {"T1_ms": ("T1", ms), "T2_ms": ("T2", ms), "M0": ("M0", 1.0)}
    columns = {k: get(result.tissues, n) / unit for k, (n, unit) in units.items()}
    return [{k: round(float(v[i]), 4) for k, v in columns.items()} for i in (0, 1)]


def _input(result: Result) -> dict[str, Any]:
    like, cut = result.brain.like, result.cut
    return {
        "name": result.brain.name,
        "file": like.path.name,
        "shape": list(like.data.shape),
        "affine": like.affine.tolist(),
        "slice": cut.index,
        "slice_axis": cut.axis,
        "voxels": len(cut.tissue.T2),
        "voxels_left_out": result.left_out,
    }


def _settings(result: Result) -> dict[str, Any]:
    options = result.options
    same = ("echoes", "sigma", "starts", "steps", "polish", "seed", "device")
    return {
        "unknown": ["M0", "T2", "B1"],
        "known": ["T1"],
        "esp_ms": round(options.esp / ms, 6),
        "rms_deg": round(options.rms / deg, 6),
        **{name: getattr(options, name) for name in same},
        "threads": torch.get_num_threads(),
    }


def _train(result: Result, name: str, train: epg.FSE) -> dict[str, Any]:
    signal, _ = signal_and_slope(result.tissues, train)
    spread = point_spread(signal.mean(0), zoom=_ZOOM)
    return {
        "flip_deg": [round(f / deg, 6) for f in train.flip.tolist()],
        "rms_deg": round(float(train.flip.square().mean().sqrt()) / deg, 6),
        "objective": result.objective[name],
        "mean_signal": round(float(signal.mean()), 5),
        "psf_fwhm_pixels": round(float((spread >= 0.5).sum()) / _ZOOM, 3),
        "psf_energy_beyond_1_pixel": round(_beyond(spread), 4),
        **summary(result.trials[name], result.cut.tissue.T2),
    }


def _beyond(spread: Tensor) -> float:
    middle = len(spread) // 2
    near = spread[middle - _ZOOM : middle + _ZOOM + 1].square().sum()
    return float(1 - near / spread.square().sum())


def table(report: dict[str, Any]) -> str:
    """Lay the main numbers of a report out for a terminal.

    Args:
        report: from `describe`, with ``seconds``.

    Returns:
        Lines of text.
    """
    names = (f"{n:>13}" for n in ("RMS flip", "CRLB sd", "RMS error", "bound hits"))
    head = f"{'train':<11}" + "".join(names)
    rows = [
        f"{name:<11}{t['rms_deg']:>12.1f}°{t['rms_crlb_sd_ms']:>10.3f} ms"
        f"{t['rms_error_ms']:>10.3f} ms{t['bound_hits']:>13}"
        for name, t in report["trains"].items()
    ]
    ratios = [
        f"T2 variance, optimised / {label:<13} CRLB {report[f'variance_ratio_{n}']:.4f}"
        f"   measured {report[f'measured_ratio_{n}']:.4f}"
        f" ± {report[f'measured_ratio_{n}_standard_error']:.4f}"
        for n, label in (("constant", "constant:"), ("ramp", "best ramp:"))
    ]
    best = report["best_ramp"]
    source = report["input"]
    return "\n".join(
        [
            f"{source['name']}, slice {source['slice']}: {source['voxels']} voxels"
            f" ({source['voxels_left_out']} left out: T2 not told to 20 %),"
            f" {report['fits_per_train']} fits per train",
            "",
            head,
            *rows,
            "",
            *ratios,
            f"best of {best['ramps_tried']} ramps: from {best['start_deg']:.0f}°"
            f" in {best['length']} echoes",
            f"gradient, relative error to finite differences:"
            f" {report['gradient_max_rel_error']:.1e}",
            f"{report['seconds']:.1f} s",
        ]
    )
