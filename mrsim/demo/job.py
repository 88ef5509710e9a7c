"""The main job, from maps to report."""

import itertools
import json
from time import perf_counter
from typing import Any

import torch

from mrsim import epg
from mrsim._check import require
from mrsim.demo import brain as brains, measure, trains as designs, trial as trials
from mrsim.demo.figure import draw
from mrsim.demo.files import write_maps
from mrsim.demo.report import describe
from mrsim.demo.result import Options, Result
from mrsim.io import InputError
from mrsim.tree import to


def compute(options: Options) -> Result:
    """Read or make the maps, design a train, compare it and prove it by fits.

    Args:
        options: the user's choices.

    Returns:
        Maps, trains and fits.

    Raises:
        InputError: a file of the user cannot be used.
        ImportError: a package of the extra ``demo`` is missing.
    """
    clock = [perf_counter()]
    brain = brains.from_files(options.t1, options.t2, options.m0, options.mask)
    whole = brains.axial(brain, options.slice, options.fits)
    tissues = brains.halves(brain)
    clock.append(perf_counter())

    generator = torch.Generator().manual_seed(options.seed)
    goal = measure.objective(tissues, options.sigma)
    constant = designs.constant(options.echoes, options.esp, options.rms)
    cut = brains.keep(whole, measure.told(whole.tissue, constant, options.sigma))
    ramp = designs.best_ramp(goal, constant, options.rms)
    best = _optimised(options, goal, ramp, generator)
    trains = {"constant": constant, "ramp": ramp.train, "optimised": best}
    gradient_error = max(measure.gradient_error(goal, t) for t in trains.values())
    clock.append(perf_counter())

    tried = _tried(options, cut, trains, generator)
    clock.append(perf_counter())
    return Result(
        options=options,
        brain=brain,
        cut=cut,
        left_out=len(whole.tissue.T2) - len(cut.tissue.T2),
        tissues=tissues,
        trains=trains,
        ramp=ramp,
        objective={name: float(goal(train)) for name, train in trains.items()},
        gradient_error=gradient_error,
        trials=tried,
        seconds=_stages(("read", "design", "fit"), clock),
    )


def _optimised(
    options: Options,
    goal: measure.Objective,
    ramp: designs.Ramp,
    generator: torch.Generator,
) -> epg.FSE:
    return designs.optimised(
        goal,
        ramp.train,
        options.rms,
        options.starts,
        options.steps,
        options.polish,
        generator,
        progress=options.progress,
    )


def _tried(
    options: Options,
    cut: brains.Slice,
    trains: dict[str, epg.FSE],
    generator: torch.Generator,
) -> dict[str, trials.Trial]:
    """Try every train on the same voxels with the same noise."""
    which = trials.drawn(len(cut.tissue.T2), options.fits, generator)
    shape = (len(which), options.echoes, 2)
    unit = torch.randn(shape, generator=generator, dtype=torch.float64)
    inputs = cut.tissue, trains, which, unit
    tissue, moved, place, noise = to(inputs, device=options.device)
    bar = require("tqdm", "demo").tqdm
    names = bar(trains, "fits", disable=not options.progress)
    return {
        name: trials.tried(tissue, place, moved[name], options.sigma, noise)
        for name in names
    }


def _stages(names: tuple[str, ...], clock: list[float]) -> dict[str, float]:
    lengths = [round(b - a, 2) for a, b in itertools.pairwise(clock)]
    return dict(zip(names, lengths, strict=True))


def run(options: Options) -> dict[str, Any]:
    """Do the main job and write its report, figure and maps.

    Args:
        options: the user's choices; files go to ``options.out``.

    Returns:
        The content of ``report.json``.

    Raises:
        InputError: a file of the user cannot be used.
        ImportError: a package of the extra ``demo`` is missing.
    """
    begin = perf_counter()
    for module in ("nibabel", "scipy", "matplotlib", "tqdm"):
        require(module, "demo")  # before the work, not after it
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise InputError(f"cannot write to {options.out}: {e.strerror}") from e
    result = compute(options)
    drawing = perf_counter()
    report = describe(result)
    files = [*write_maps(result), draw(result, report)]
    end = perf_counter()
    seconds = result.seconds | {"write": round(end - drawing, 2)}
    report |= {
        "seconds": round(end - begin, 2),
        "seconds_by_stage": seconds,
        "files": [f.name for f in files],
    }
    text = json.dumps(report, indent=2)
    (options.out / "report.json").write_text(text + "\n", encoding="utf-8")
    return report
