"""Values of tissues and programs that cannot be, where they can be looked at."""

import torch

from mrsim._check import concrete
from mrsim.epg.pools import Pools
from mrsim.epg.program import Program
from mrsim.tissue import Tissue


def check_clock(where: str, program: Program) -> None:
    """Refuse different durations in one class of the clock.

    Args:
        where: the function that asks, for the message.
        program: the sequence.

    Raises:
        ValueError: a class has two.
    """
    clock = program.clock
    if clock is None or not program.duration.stride(0):
        return
    if not concrete(program.duration):
        return
    times = program.duration.tolist()
    pairs = set(zip(clock, times, strict=True))
    if len(pairs) == len({name for name, _ in pairs}):
        return
    first: dict[int, float] = {}
    for row, (name, time) in enumerate(zip(clock, times, strict=True)):
        if first.setdefault(name, time) != time:
            raise ValueError(
                f"{where}: rows of clock class {name} last {first[name]:g} s and, in"
                f" row {row}, {time:g} s; give different durations different classes"
            )


def check_moments(where: str, program: Program) -> None:
    """Refuse units of dephasing that change while something is dephased.

    Args:
        where: the function that asks, for the message.
        program: the sequence.

    Raises:
        ValueError: one does.
    """
    moment = program.moment
    if moment is None or moment.shape[0] == 1 or not concrete(moment):
        return
    last, wound = None, False
    for row, event in enumerate(program.layout):
        if wound and last is not None and not torch.equal(moment[row], last):
            raise ValueError(
                f"{where}: moment changes in row {row}, but one unit of shift must wind"
                f" up the same wave vector from spoiler to spoiler; give the gradient"
                f" another number of shifts, or shifts of three integers"
            )
        last = moment[row]
        moves = event.shift if isinstance(event.shift, tuple) else (event.shift,)
        wound = (wound or any(moves)) and not event.spoil


def check_shares(where: str, tissue: Tissue, pools: Pools) -> None:
    """Refuse shares that leave nothing, and balances that cannot be.

    Args:
        where: the function that asks, for the message.
        tissue: the voxel.
        pools: the structure of its pools.

    Raises:
        ValueError: there is one.
    """
    records = {"exchange": tissue.exchange, "bound": tissue.bound}
    given = {n: r for n, r in records.items() if r is not None}
    if not given:
        return
    if not all(concrete(r.f) and concrete(r.k) for r in given.values()):
        return
    # torch 2.6 does not list what grad has detached, but each item of it
    f = {n: [x.item() for x in r.f.detach().reshape(-1)] for n, r in given.items()}
    total = sum(map(sum, f.values()))
    if total >= 1:
        raise ValueError(
            f"{where}: the shares f of the pools add up to {total:g}, which leaves"
            f" nothing for the tissue's own; they must stay below 1"
        )
    for (name, r), directional in zip(records.items(), pools.directional, strict=True):
        if r is not None and directional and 0 in f[name] and (r.k > 0).any():
            raise ValueError(
                f"{where}: {name} has a pool of share f = 0 and a rate k > 0, which"
                f" nothing can balance; leave the pool out, or set directional=False"
            )
