"""Starting points of fits: the atoms of a small dictionary that match best."""

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap

from mrsim._check import check_positive
from mrsim.fit import Fit
from mrsim.ivim import ordered
from mrsim.ivim._limits import spread
from mrsim.ivim._signal import signal
from mrsim.ivim.problem import Problem
from mrsim.tree import tree_map

_SLOW = ("Dp", "Dstar", "D2", "v")  # where a sum of squares has several minima
_RIVAL = 2.0  # a start is tried if its misfit is below this many times that of the fit
_ENTRIES = 2**23  # of the table of voxels and atoms held at once

Starter = Callable[[Tensor, Mapping[str, Tensor], int], tuple[list[Any], Tensor]]


def starter(problem: Problem, known: Mapping[str, Tensor]) -> Starter:
    """Make a function that finds starts: (y, known, how many) → records, misfits.

    Args:
        problem: what is fitted.
        known: name → () or (voxel,), of all voxels.

    Returns:
        The function; the records are the best first, each leaf (voxel,), and the
        misfits (start, voxel) are sums of squares.
    """
    box = problem.box
    atoms, signals = _dictionary(problem, known)

    def begin(
        y: Tensor, known: Mapping[str, Tensor], starts: int
    ) -> tuple[list[Any], Tensor]:
        index, explained = _best_atoms(y, signals, starts)
        order = explained.argsort(0, descending=True)
        index = index.gather(0, order)
        misfits = y.square().sum(-1) - explained.gather(0, order)
        points = []
        for at in index:
            values = {n: x[at] for n, x in atoms.items()} | dict(known)
            if "S0" in box:
                s = signals[at]
                s0 = (y * s).sum(-1) / s.square().sum(-1)
                values["S0"] = s0.clamp(*box["S0"])
            points.append(ordered.to_inner(problem.model(**values), box, problem.names))
        return points, misfits

    return begin


def from_starts(
    problem: Problem,
    known: Mapping[str, Tensor],
    starts: int,
    fit: Callable[[Tensor, Any], Fit],
) -> Callable[[Tensor, Mapping[str, Tensor]], Fit]:
    """Make a function (y, known) that fits from the best start, and its rivals.

    Args:
        problem: what is fitted.
        known: name → () or (voxel,), of all voxels.
        starts: how many.
        fit: as of `fits.fitter`.

    Returns:
        The function of (voxel, sample) data and known fields (voxel,).

    Raises:
        ValueError: there is no start.
    """
    check_positive("ivim", starts=starts)
    begin = starter(problem, known)

    def run(y: Tensor, known: Mapping[str, Tensor]) -> Fit:
        points, misfits = begin(y, known, starts)
        found = fit(y, points[0])
        for point, misfit in zip(points[1:], misfits[1:], strict=True):
            rival = misfit < _RIVAL * 2 * found.cost
            at = (rival | ~found.converged).nonzero()[:, 0]
            if len(at):
                other = fit(y[at], tree_map(lambda x, at=at: x[at], point))
                found = _merged(found, other, at)
        return found

    return run


def _merged(found: Fit, other: Fit, at: Tensor) -> Fit:
    """Put the fits of some voxels in the place of those that cost more."""
    better = other.cost < found.cost[at]

    def put(old: Tensor, new: Tensor) -> Tensor:
        mask = better.reshape(-1, *(1,) * (new.ndim - 1))
        return old.index_copy(0, at, torch.where(mask, new, old[at]))

    return tree_map(put, found, other)


def _dictionary(
    problem: Problem, known: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], Tensor]:
    """Return a grid over the unknowns but S0, and the signals there for S0 = 1.

    The unknown that has several minima ascends slowest along the atoms, so that ranges
    of atoms are ranges of it; of known fields the mean over voxels is taken.
    """
    b, box = problem.acquisition.b, problem.box
    order = sorted((n for n in box if n != "S0"), key=lambda n: n not in _SLOW)
    axes = [spread(n, *box[n]).to(b) for n in order]
    mesh = torch.meshgrid(*axes, indexing="ij")
    atoms = {n: m.reshape(-1) for n, m in zip(order, mesh, strict=True)}
    allowed = torch.ones_like(mesh[0].reshape(-1), dtype=torch.bool)
    if {"f1", "f2"} <= atoms.keys():
        allowed = atoms["f1"] + atoms["f2"] <= 1
    for slow, fast in pairwise(problem.names):
        allowed = allowed & (atoms[slow] < atoms[fast])
    atoms = {n: x[allowed] for n, x in atoms.items()}
    count = int(allowed.sum())
    fixed = {n: x.nanmean().expand(count) for n, x in known.items()}
    one = {"S0": b.new_ones(count)} | fixed | atoms
    points = problem.model(**one)
    return atoms, vmap(signal, in_dims=(0, None))(points, problem.acquisition)


def _best_atoms(data: Tensor, signals: Tensor, starts: int) -> tuple[Tensor, Tensor]:
    """Find the atoms that leave least of the data, at their best S0 ≥ 0.

    Args:
        data: (voxel, sample).
        signals: (atom, sample).
        starts: number of ranges into which the atoms are divided.

    Returns:
        For each range (range, voxel): the atom, and the part of ‖data‖² it explains.
    """
    unit = signals / signals.norm(dim=-1, keepdim=True)
    ranges = unit.split(-(-len(unit) // starts))
    pieces = []
    for y in data.split(max(1, _ENTRIES // len(unit))):
        best = [(y @ part.mT).max(-1) for part in ranges]
        pieces.append([torch.stack(x) for x in zip(*best, strict=True)])
    gain, index = (torch.cat(x, -1) for x in zip(*pieces, strict=True))
    first = torch.arange(len(ranges), device=index.device) * len(ranges[0])
    return index + first.unsqueeze(-1), gain.clamp_min(0).square()
