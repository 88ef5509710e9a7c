"""The driver: a full batch of lanes steps until every streamline has ended.

A lane walks one half of a streamline after the other; when it ends, the next seed takes
its place. It runs below all transforms.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from mrsim.tract._native import look
from mrsim.tract._world import (
    Plan,
    World,
    chosen,
    numbers,
    visits,
)
from mrsim.tract.peak import MOST, climbs, dot, refine, unit
from mrsim.tract.polynomial import amplitudes
from mrsim.tract.rules import (
    CURVATURE,
    EXCLUDED,
    GO,
    IMAGE,
    INCLUDED,
    LENGTH,
    MASK,
    MODEL,
    Rule,
    find,
)
from mrsim.tract.sphere import hemisphere

_WAYS = 200  # directions tried where a seed has none
_IDLE = 16  # lanes are refilled when one of so many waits
_CLIMBS = 2  # steps of a search in a tick; a lane that needs more waits where it is
_COMPILED_CLIMBS = 5  # the same (both divide 50) where they cost less than the lookup


class Walked(NamedTuple):
    """Every vertex of S streamlines in a row, and how each streamline ended."""

    points: Tensor  # (M, 3)
    directions: Tensor  # (M, 3) of the edge from a vertex to the next
    first: Tensor  # (S,) where a streamline starts in the rows
    length: Tensor  # (S,) vertices; 0 where the seed was rejected
    seed_index: Tensor  # (S,)
    accepted: Tensor  # (S,) bool
    reasons: Tensor  # (2, S) of the first half and the second


class _Lanes(NamedTuple):
    """Where every lane stands."""

    ids: Tensor  # (B,) which streamline
    half: Tensor  # (B,) 0 or 1
    p: Tensor  # (3, B)
    u: Tensor  # (3, B)
    at: Tensor  # (3, B) where a direction is looked for
    s: Tensor  # (3, B) how far the search is
    tries: Tensor  # (B,) steps of the search
    stages: Tensor  # (order, 3, B) directions of this step
    stage: Tensor  # (B,) which is looked for
    made: Tensor  # (B,) vertices of this half
    total: Tensor  # (B,) vertices of both and the seed
    seen: Tensor  # (R, B) regions to include that were visited


class _Ledger(NamedTuple):
    """What is known of every streamline; written when a half ends."""

    count: Tensor  # (2, S)
    reason: Tensor  # (2, S)
    seen: Tensor  # (R, S)


class _Trace(NamedTuple):
    """Every vertex made, in the order of time."""

    half: list[Tensor]  # 2 id + half
    made: list[Tensor]  # its number in this half, from 1
    points: list[Tensor]  # (3, B)
    directions: list[Tensor]


def drive(plan: Plan, w: World) -> Walked:
    """Walk every streamline to its ends."""
    u, rejected, seen = _seeded(plan, w)
    count = torch.zeros_like(rejected).expand(2, -1).clone()
    reason = rejected.expand(2, -1).clone()
    ledger = _Ledger(count, reason, seen)
    trace = _Trace([], [], [], [])
    queue = (rejected == GO).nonzero()[:, 0]
    ready, queue = queue[: plan.lanes], queue[plan.lanes :]
    lanes = _started(plan, w, u, seen, ready)
    here = chosen(w, lanes.ids)
    ended = torch.zeros_like(lanes.ids)
    while len(lanes.ids):
        lanes, ended = _tick(plan, here, lanes, ended, trace)
        over = ended.nonzero()[:, 0]
        waiting = len(over)
        if waiting * _IDLE < len(ended):
            continue
        _close(ledger, lanes, ended, over)
        lanes, ended, queue = _refilled(plan, w, u, seen, lanes, ended, over, queue)
        here = chosen(w, lanes.ids)
    return _collect(plan, w, rejected == GO, ledger, trace)


def _seeded(plan: Plan, w: World) -> tuple[Tensor, Tensor, Tensor]:
    """Return the direction at every seed, the reason to reject it, regions visited."""
    directions, reasons, visited = [], [], []
    for ids in torch.arange(w.seed.shape[1], device=w.seed.device).split(plan.lanes):
        here = chosen(w, ids)
        c, empty = numbers(plan.rule, here, here.seed)
        u, reason = find(plan.rule, c, here.model, _begun(plan.rule, c, here.direction))
        reason = torch.where(empty, IMAGE, reason)
        for name, wanted in (("mask", True), ("exclude", False)):
            if name in here.regions:
                held = visits(here.regions[name], here.seed).any(0) == wanted
                code = MASK if wanted else EXCLUDED
                reason = torch.where(held, reason, code)
        directions.append(u)
        reasons.append(reason)
        visited.append(_visited(here, here.seed))
    return torch.cat(directions, 1), torch.cat(reasons), torch.cat(visited, 1)


def _begun(rule: Rule, c: Tensor, direction: Tensor) -> Tensor:
    """Return unit directions; where none was given, that of the largest amplitude."""
    open_ = direction.isnan().any(0)
    if not bool(open_.any()):
        return unit(direction)
    if rule.kind == "vectors":
        each = c.unflatten(0, (-1, 3))
        best = (each * each).sum(1).argmax(0)
        strong = each.gather(0, best.expand(1, 3, -1))[0]
    else:
        ways = hemisphere(_WAYS).to(c)
        if rule.kind == "tensor":
            strong = ways[:1].t().expand(3, c.shape[1])
        else:
            best = amplitudes(c, ways.t()).argmax(0)
            strong = ways[best].t()
    return unit(torch.where(open_, strong, direction))


def _visited(here: World, p: Tensor) -> Tensor:
    if "include" in here.regions:
        return visits(here.regions["include"], p)
    return torch.zeros((0, p.shape[1]), dtype=torch.bool, device=p.device)


def _started(plan: Plan, w: World, u: Tensor, seen: Tensor, ids: Tensor) -> _Lanes:
    none = torch.zeros_like(ids)
    p, u = w.seed[:, ids], u[:, ids]
    stages = p.new_zeros((plan.order, *p.shape))
    return _Lanes(
        ids, none, p, u, p, u, none, stages, none, none, none + 1, seen[:, ids]
    )


def _tick(
    plan: Plan, here: World, lanes: _Lanes, ended: Tensor, trace: _Trace
) -> tuple[_Lanes, Tensor]:
    """Take one step, or a part of it, in every lane; what has ended stays there."""
    lanes, reason = _looked(plan, here, lanes)
    lanes, complete, reason = _stepped(plan, here, lanes, reason)
    p = lanes.p
    go = complete & (reason == GO)
    if "mask" in here.regions:
        held = visits(here.regions["mask"], p).any(0)
        reason = torch.where(go & ~held, MASK, reason)
        go = go & held
    added, seen = go & (ended == GO), lanes.seen
    if "exclude" in here.regions:
        entered = visits(here.regions["exclude"], p).any(0)
        reason = torch.where(go & entered, EXCLUDED, reason)
    if len(seen):
        within = added & (reason == GO)
        seen = seen | (visits(here.regions["include"], p) & within)
        if plan.stop:
            reason = torch.where(within & seen.all(0), INCLUDED, reason)
    more = added.long()
    made, total = lanes.made + more, lanes.total + more
    full = added & (reason == GO) & (total >= plan.most)
    reason = torch.where(full, LENGTH, reason)
    trace.half.append(torch.where(added, 2 * lanes.ids + lanes.half, -1))
    trace.made.append(made)
    trace.points.append(p)
    trace.directions.append(lanes.u)
    moved = lanes._replace(made=made, total=total, seen=seen)
    return moved, torch.where(ended == GO, reason, ended)


def _looked(plan: Plan, here: World, lanes: _Lanes) -> tuple[_Lanes, Tensor]:
    """Look for the direction of this stage; tries is 0 where it was found."""
    rule = plan.rule
    count = _COMPILED_CLIMBS if plan.compiled else _CLIMBS
    if plan.compiled:
        s, size, found, empty = look(
            rule.shape,
            here.values,
            here.support,
            here.first,
            here.inverse,
            lanes.at,
            lanes.s,
            count,
        )
    else:
        c, empty = numbers(rule, here, lanes.at)
        if rule.kind != "fod":
            s, reason = find(rule, c, here.model, lanes.s)
            return lanes._replace(s=s), torch.where(empty, IMAGE, reason)
        s, size, found = climbs(c, lanes.s, _CLIMBS)
        for _ in range(rule.polish):
            s = torch.where(found, refine(c, s), s)
    tries = torch.where(found, 0, lanes.tries + count)
    failed = torch.where(found, ~(size >= plan.rule.cutoff), tries >= MOST)
    reason = torch.where(failed, MODEL, GO)
    return lanes._replace(s=s, tries=tries), torch.where(empty, IMAGE, reason)


def _stepped(
    plan: Plan, here: World, lanes: _Lanes, reason: Tensor
) -> tuple[_Lanes, Tensor, Tensor]:
    """Use the directions that were found: go to the next stage or to the next point.

    Returns:
        The lanes, which of them reached a point, and the reason to stop.
    """
    found = (lanes.tries == 0) & (reason == GO)
    p, u, s, h = lanes.p, lanes.u, lanes.s, here.step
    if plan.order == 1:
        complete, first, mean = found, u, s
    else:
        which = torch.arange(4, device=s.device)[:, None, None] == lanes.stage
        stages = torch.where(which & found, s, lanes.stages)
        k1, k2, k3, k4 = stages
        complete, first = found & (lanes.stage == 4), k1
        mean = unit(k1 + 2 * k2 + 2 * k3 + k4)
        ways = torch.stack([k1 / 2, k2 / 2, k3, mean])
        starts = torch.stack([u, u, unit(k2 + k3), mean])
        pick = (which & found).to(s)
        onward = (pick.sum(0) > 0)[0]
        lanes = lanes._replace(
            at=torch.where(onward, p + h * (pick * ways).sum(0), lanes.at),
            s=torch.where(onward, (pick * starts).sum(0), s),
            stages=stages,
            stage=torch.where(complete, 0, lanes.stage + onward.long()),
        )
    sharp = complete & (dot(first, s) < plan.rule.cosine)
    reason = torch.where(sharp, CURVATURE, reason)
    p = torch.where(complete, p + h * mean, p)
    u = torch.where(complete, mean, u)
    at, s = torch.where(complete, p, lanes.at), torch.where(complete, u, lanes.s)
    return lanes._replace(p=p, u=u, at=at, s=s), complete, reason


def _close(ledger: _Ledger, lanes: _Lanes, ended: Tensor, over: Tensor) -> None:
    """Write down the halves that have ended (in place: nothing else holds these)."""
    ids, half = lanes.ids[over], lanes.half[over]
    ledger.count[half, ids] = lanes.made[over]
    ledger.reason[half, ids] = ended[over]
    ledger.seen[:, ids] = lanes.seen[:, over]


def _refilled(
    plan: Plan,
    w: World,
    u: Tensor,
    seen: Tensor,
    lanes: _Lanes,
    ended: Tensor,
    over: Tensor,
    queue: Tensor,
) -> tuple[_Lanes, Tensor, Tensor]:
    """Give lanes that have ended their second half or a new seed, or drop them."""
    again = over[(lanes.half[over] == 0) & (ended[over] != EXCLUDED)]
    again = again if plan.both else again[:0]
    back = _back(plan, w, u, seen, lanes, again)
    free = torch.ones_like(ended, dtype=torch.bool).index_fill(0, over, 0)
    ready, queue = queue[: len(over) - len(again)], queue[len(over) - len(again) :]
    parts = (_at(lanes, free.nonzero()[:, 0]), back, _started(plan, w, u, seen, ready))
    joined = _Lanes(*(torch.cat(x, -1) for x in zip(*parts, strict=True)))
    return joined, torch.zeros_like(joined.ids), queue


def _at(lanes: _Lanes, columns: Tensor) -> _Lanes:
    return _Lanes(*(x[..., columns] for x in lanes))


def _back(
    plan: Plan, w: World, u: Tensor, seen: Tensor, lanes: _Lanes, columns: Tensor
) -> _Lanes:
    """Return lanes at the seed again, walking the other way."""
    some = _at(lanes, columns)
    fresh = _started(plan, w, -u, seen, some.ids)
    return fresh._replace(half=some.half + 1, total=some.total, seen=some.seen)


def _collect(
    plan: Plan, w: World, started: Tensor, ledger: _Ledger, trace: _Trace
) -> Walked:
    """Put the vertices in order: first half reversed, seed, second half."""
    count, reason = ledger.count, ledger.reason
    length = torch.where(started, count.sum(0) + 1, 0)
    before = count[0] if plan.both else torch.zeros_like(count[0])
    first = length.cumsum(0) - length
    rows = int(length.sum())
    half = torch.cat([*trace.half, reason.new_zeros(0)])
    kept = (half >= 0).nonzero()[:, 0]
    half = half[kept]
    number = torch.cat([*trace.made, half[:0]])[kept]
    ids = half // 2
    ahead = (half % 2 == 0) if plan.both else torch.zeros_like(half, dtype=torch.bool)
    place = first[ids] + before[ids] + torch.where(ahead, -number, number)
    edge = torch.where(ahead, place, place - 1)
    seeds, heads = (first + before)[started], w.seed.t()[started]
    blank = w.seed.new_zeros((rows, 3))
    points = _joined(trace.points, kept, w.seed)
    directions = _joined(trace.directions, kept, w.seed)
    accepted = (length >= plan.least) & (reason != EXCLUDED).all(0)
    accepted = accepted & ledger.seen.all(0)
    return Walked(
        blank.index_copy(0, seeds, heads).index_copy(0, place, points),
        blank.index_copy(0, edge, directions),
        first,
        length,
        before,
        accepted,
        reason,
    )


def _joined(parts: list[Tensor], kept: Tensor, like: Tensor) -> Tensor:
    return torch.cat([*(x.t() for x in parts), like.new_zeros((0, 3))])[kept]
