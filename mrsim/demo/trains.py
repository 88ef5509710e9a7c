"""The three refocusing trains: constant, best linear ramp, optimised by gradients."""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from mrsim import design, epg
from mrsim.demo.measure import Objective
from mrsim.tree import expand, replace
from mrsim.units import deg

LOWEST, HIGHEST = 10 * deg, 180 * deg


class Ramp(NamedTuple):
    """The best of many linear start ramps."""

    train: epg.FSE
    start: float  # first flip angle [rad]
    length: int  # number of echoes before the plateau
    tried: int  # how many ramps of this power there were


def constant(echoes: int, esp: float, rms: float) -> epg.FSE:
    """Make the train of equal flips.

    Args:
        echoes: number of refocusing pulses.
        esp: echo spacing [s].
        rms: the flip angle [rad].

    Returns:
        The train, in float64.
    """
    flip = torch.full((echoes,), rms, dtype=torch.float64)
    return epg.FSE(flip=flip, esp=flip.new_tensor(esp))


def ramp(echoes: int, start: float, length: int, rms: float) -> Tensor:
    """Return the flips of a linear start ramp of a given power.

    flipᵢ = start + (plateau − start) min(i/length, 1), the plateau such that the RMS is
    exact; NaN where there is no such plateau.

    Args:
        echoes: number of flips.
        start: first flip angle [rad].
        length: number of flips before the plateau.
        rms: RMS of the flips [rad].

    Returns:
        (echo,) flips [rad].
    """
    w = (torch.arange(echoes, dtype=torch.float64) / length).clamp(max=1.0)
    a = w.square().sum()
    b = start * (w * (1 - w)).sum()
    c = start**2 * (1 - w).square().sum() - echoes * rms**2
    return start * (1 - w) + ((b * b - a * c).sqrt() - b) / a * w


def best_ramp(goal: Objective, like: epg.FSE, rms: float) -> Ramp:
    """Score every linear ramp of the constant train's power and return the best.

    Starts from 10° to 180° in steps of 5°, every length, all flips in [10°, 180°]; one
    vmap scores them all.

    Args:
        goal: the objective.
        like: a train whose number of echoes and spacing are kept.
        rms: RMS of the flips [rad].

    Returns:
        The ramp of the smallest objective.
    """
    echoes = len(like.flip)
    pairs = [(s * deg, n) for s in range(10, 181, 5) for n in range(1, echoes)]
    flips = torch.stack([ramp(echoes, s, n, rms) for s, n in pairs])
    legal = ((flips >= LOWEST - 1e-9) & (flips <= HIGHEST + 1e-9)).all(1)
    trains = replace(expand(like, int(legal.sum())), flip=flips[legal])
    best = int(vmap(goal)(trains).nan_to_num(math.inf).argmin())
    start, length = pairs[int(legal.nonzero()[best, 0])]
    train = replace(like, flip=flips[legal][best])
    return Ramp(train, start, length, int(legal.sum()))


def optimised(
    goal: Objective,
    known: epg.FSE,
    rms: float,
    count: int,
    steps: int,
    polish: int,
    generator: torch.Generator,
    progress: bool = False,
) -> epg.FSE:
    """Design the train: let many random trains descend together, polish the best few.

    Args:
        goal: the objective.
        known: the train to beat, the first of the starts.
        rms: limit on the RMS of the flips [rad]; each flip stays in [10°, 180°].
        count: how many starts.
        steps: of their common descent.
        polish: how many of them are polished by SLSQP.
        generator: source of the random trains.
        progress: show progress bars.

    Returns:
        The best train found.
    """
    bounds = {"flip": (LOWEST, HIGHEST)}
    limits = (design.rms("flip", rms * (1 - 1e-6)),)  # kept to 1e-6: never above rms
    starts = design.random_starts(
        known,
        "flip",
        bounds=bounds,
        constraints=limits,
        count=count,
        generator=generator,
    )
    found = design.multistart(
        goal,
        starts,
        "flip",
        bounds=bounds,
        constraints=limits,
        steps=steps,
        polish=polish,
        tolerance=1e-5,
        progress=progress,
    )
    return found[0].record
