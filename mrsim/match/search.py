"""The best atoms of each voxel in one part of a dictionary.

Only groups of atoms that can hold a winner are looked at. The bound is exact, so the
result is that of trying every atom: float32 decides which groups, float64 which atoms.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from mrsim.match.groups import ROUNDING, Groups, score

_SCREEN = 2**19
_PAIRS = 2**22  # pairs of a voxel and a group kept at once


class Best(NamedTuple):
    """The best atoms so far, best first."""

    score: Tensor  # (voxel, top) cos², double; -1 where there is none
    index: Tensor  # (voxel, top) of the dictionary; -1 where there is none
    scale: Tensor  # (voxel, top, 2) ⟨atom, voxel⟩/|atom|², re and im, for |voxel| = 1


def nothing(voxels: int, top: int, like: Tensor) -> Best:
    """Return what is known before the first part."""
    return Best(
        score=like.new_full((voxels, top), -1.0, dtype=torch.float64),
        index=like.new_full((voxels, top), -1, dtype=torch.long),
        scale=like.new_zeros((voxels, top, 2), dtype=torch.float64),
    )


def improved(best: Best, voxels: Tensor, part: Groups) -> Best:
    """Look for better atoms in a part of a dictionary.

    Args:
        best: of these voxels so far.
        voxels: (1 or 2, voxel, k) in double precision and of norm 1, see `planes`.
        part: the atoms.

    Returns:
        The best of both.
    """
    for voxel, group in _batches(_survivors(best, voxels, part)):
        order = group.argsort(stable=True)
        voxel, group = voxel[order], group[order]
        best = _merged(
            best, voxels, part, voxel, *_tried(best, voxels, part, voxel, group)
        )
    return best


def _survivors(
    best: Best, voxels: Tensor, part: Groups
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield pairs of a voxel and a group that may hold one of its best atoms.

    At the angle θ from the centre, no atom of the group is nearer than θ - ρ; it is
    out if that exceeds the angle of the worst of the best atoms known, at most that
    of the nearest centres: they are atoms too.
    """
    rounding = ROUNDING * torch.finfo(torch.float32).eps
    bend = torch.stack([part.cos, -part.sin])
    top, step = best.score.shape[1], max(1, _SCREEN // len(part.cos))
    for start in range(0, voxels.shape[1], step):
        some = slice(start, start + step)
        near = score(voxels[:, some].float(), part.centre).sqrt_()
        known = best.score[some, -1].clamp(min=0).sqrt().float()
        if len(part.cos) >= top:
            nearest = near.amax(1) if top == 1 else near.topk(top).values[:, -1]
            known = torch.maximum(known, nearest)
        least = (known - rounding).clamp(0, 1)
        angle = torch.stack([least, (1 - least.square()).sqrt()], 1)
        within = near >= angle @ bend - rounding  # cos θ ≥ cos(known + ρ)
        voxel, group = within.nonzero().unbind(1)
        yield voxel + start, group


def _batches(
    pairs: Iterator[tuple[Tensor, Tensor]],
) -> Iterator[tuple[Tensor, Tensor]]:
    """Collect pairs until there are enough for large matrix products."""
    held: list[tuple[Tensor, Tensor]] = []
    count = 0
    for pair in pairs:
        held.append(pair)
        count += len(pair[0])
        if count >= _PAIRS:
            yield _joined(held)
            held, count = [], 0
    if count:
        yield _joined(held)


def _joined(held: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    voxels, groups = zip(*held, strict=True)
    return torch.cat(voxels), torch.cat(groups)


def _tried(
    best: Best, voxels: Tensor, part: Groups, voxel: Tensor, group: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the scores (pair, few) and places in the part of each pair's best."""
    count, each = part.index.shape
    few = min(best.score.shape[1], each)
    counts = torch.bincount(group, minlength=count).tolist()
    scores, places, start = [], [], 0
    for k, size in enumerate(counts):
        if not size:
            continue
        rows = voxels[:, voxel[start : start + size]]
        made = score(rows, part.unit[k])
        value, place = made.max(1, keepdim=True) if few == 1 else made.topk(few)
        scores.append(value)
        places.append(place + k * each)
        start += size
    return torch.cat(scores), torch.cat(places)


def _merged(
    best: Best,
    voxels: Tensor,
    part: Groups,
    voxel: Tensor,
    scores: Tensor,
    places: Tensor,
) -> Best:
    """Put what was found together with what was known, and keep the first of each."""
    count, top = best.score.shape
    everyone = torch.arange(count, device=voxel.device).repeat_interleave(top)
    owner = torch.cat([everyone, voxel.repeat_interleave(scores.shape[1])])
    places = torch.cat([torch.zeros_like(everyone), places.flatten()])
    value = torch.cat([best.score.flatten(), scores.flatten()])
    index = part.index.flatten()[places[len(everyone) :]]
    index = torch.cat([best.index.flatten(), index])
    order = index.argsort()
    order = order[value[order].argsort(descending=True, stable=True)]
    order = order[owner[order].argsort(stable=True)]
    sizes = torch.bincount(owner, minlength=count)
    firsts = (sizes.cumsum(0) - sizes).unsqueeze(1)
    chosen = order[firsts + torch.arange(top, device=order.device)]
    fresh = chosen >= count * top
    place = places[chosen]
    unit, norm = part.unit.flatten(0, 1)[place], part.norm.flatten()[place]
    scale = torch.einsum("pvk,vtk->vtp", voxels, unit) / norm.unsqueeze(-1)
    scale = torch.nn.functional.pad(scale, (0, 2 - len(voxels)))
    old = best.scale.flatten(0, 1)[chosen.clamp(max=count * top - 1)]
    return Best(
        score=value[chosen],
        index=index[chosen],
        scale=torch.where(fresh.unsqueeze(-1), scale, old),
    )
