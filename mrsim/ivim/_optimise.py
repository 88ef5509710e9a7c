"""Continuous protocols: any number of settings, placed and weighted together."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import grad_and_value, vmap

from mrsim._convert import as_tensor
from mrsim.design import Constraint, minimise
from mrsim.ivim.acquisition import Acquisition, check
from mrsim.ivim.protocol import Cost, Protocol, joined, sensitivity, taken
from mrsim.tree import to

_STEPS = 60  # multiplicative updates that find the region of the optimum
_START = 40  # most settings that enter the first minimisation
_UNUSED = 1e-9  # part of the largest share below which a setting is dropped
_SAME = 1e-7  # relative rise of the cost for which one setting replaces another

_TOLERANCE = 1e-13  # relative change at which a minimisation stops: the gap is its root

Boxes = Mapping[str, tuple[Tensor, Tensor]]


class Optimum(NamedTuple):
    """A protocol and how good it is."""

    protocol: Protocol  # its weights sum to 1
    cost: float  # of one acquisition, shared; divide by √(number of acquisitions)
    gap: float  # at most this share of the cost could still be saved


def optimise(
    cost: Cost,
    candidates: Acquisition,
    *moving: str,
    bounds: Mapping[str, tuple[Any, Any]] | None = None,
    constraints: Sequence[Constraint] = (),
    tolerance: float = 1e-5,
    rounds: int = 10,
) -> Optimum:
    """Find the settings and their shares that minimise a cost.

    Multiplicative updates of the candidates' shares find the region of the optimum;
    settings and shares are then minimised together, equal settings merge, and the
    candidate of the largest `sensitivity` joins until none is above 1. The number of
    settings is free.

    Args:
        cost: a function of acquisition and weights that falls as weights rise.
        candidates: settings to choose from, a grid over all that may be chosen.
        *moving: fields of the acquisition that may leave the grid, such as ``"b"``,
            ``"c"``, ``"delta"`` or a ``"TE"`` that all share; none: shares alone.
        bounds: field → (lower, upper), scalars or one for each candidate: a setting
            keeps to the bounds of the candidate it came from. By default the range of
            the candidates.
        constraints: limits on the `Protocol`, such as `mrsim.design.at_most` makes.
        tolerance: gap at which to stop.
        rounds: most settings that are added.

    Returns:
        The protocol, its cost and its gap, which is that of a convex cost ∝ 1/√weights
        among the candidates.

    Raises:
        ValueError: not even all candidates together make the cost finite, or a field
            that all share has no bounds.

    >>> from mrsim import ivim
    >>> liver = ivim.Biexp(f=[0.2305], Dp=[0.07002], D=[0.00109])
    >>> cost = ivim.relative_sd(liver, "f", "Dp", "D")
    >>> grid = ivim.Acquisition(b=[20.0 * i for i in range(41)])
    >>> found = ivim.optimise(cost, grid, "b")
    >>> [round(b, 1) for b in found.protocol.acquisition.b.tolist()]
    [0.0, 13.5, 83.8, 800.0]
    """
    candidates = to(check(candidates), dtype=torch.float64)
    boxes = {n: _box(candidates, n, (bounds or {}).get(n)) for n in moving}
    better = partial(_better, cost, boxes, constraints)
    design, home = better(*_region(cost, candidates), ())
    for added in range(rounds + 1):
        design, home = better(design, home, moving)
        gains = sensitivity(cost, design, _with_shared(candidates, design.acquisition))
        best = gains.argmax().reshape(1)
        gap = max(0.0, float(gains[best] - 1) / 2)
        if gap <= tolerance or added == rounds:
            break
        design = Protocol(
            acquisition=joined(design.acquisition, taken(candidates, best)),
            weights=torch.cat([design.weights, design.weights.amax().reshape(1) / 100]),
        )
        home = torch.cat([home, best])
    order = design.acquisition.b.argsort(stable=True)
    shares = (design.weights / design.weights.sum())[order]
    design = Protocol(acquisition=taken(design.acquisition, order), weights=shares)
    return Optimum(design, float(cost(design.acquisition, shares)), gap)


def _box(candidates: Acquisition, name: str, ends: Any) -> tuple[Tensor, Tensor]:
    field = getattr(candidates, name)
    if field is None:
        raise ValueError(f"ivim.optimise: the candidates have no {name!r} to move")
    if ends is None and not field.ndim:
        raise ValueError(
            f"ivim.optimise: all candidates share {name!r}, so that its range is not"
            f" known; give it bounds={{{name!r}: (lower, upper)}}"
        )
    low, high = field.aminmax() if ends is None else ends
    low, high = (as_tensor(x, field).to(field).expand_as(field) for x in (low, high))
    return low, high


def _with_shared(candidates: Acquisition, design: Acquisition) -> Acquisition:
    """Return the candidates with the values that the design's samples share."""
    none = torch.zeros(0, dtype=torch.int64)
    return joined(taken(design, none), candidates)


def grid_shares(cost: Cost, candidates: Acquisition) -> Tensor:
    """Return the optimal share of each candidate, where none may move."""
    design, home = _better(cost, {}, (), *_region(cost, candidates), ())
    return torch.zeros_like(candidates.b).index_add(0, home, design.weights)


def _region(cost: Cost, candidates: Acquisition) -> tuple[Protocol, Tensor]:
    """Return the best candidates after some updates of all shares (Torsney 1983).

    Shares are multiplied by the root of their sensitivity, which keeps them positive.

    Raises:
        ValueError: not even all candidates together make the cost finite.
    """
    shares = torch.full_like(candidates.b, 1 / len(candidates.b))
    for _ in range(_STEPS):
        slope, value = grad_and_value(lambda w: cost(candidates, w))(shares)
        if not value.isfinite():
            raise ValueError(
                f"ivim.optimise: the cost of all {len(shares)} candidates together is"
                f" {float(value)}: they cannot tell the unknowns apart; offer more"
                f" varied settings or ask for fewer unknowns"
            )
        raised = shares * (-slope).clamp(min=0).sqrt()
        shares = raised / raised.sum()
    home = shares.argsort(descending=True)[:_START].sort().values
    return Protocol(acquisition=taken(candidates, home), weights=shares[home]), home


def _better(
    cost: Cost,
    boxes: Boxes,
    constraints: Sequence[Constraint],
    design: Protocol,
    home: Tensor,
    moving: Sequence[str],
) -> tuple[Protocol, Tensor]:
    """Minimise over shares and moving fields, then merge what became equal."""
    limits: dict[str, Any] = {"weights": (0.0, None)}
    for name in moving:
        low, high = boxes[name]
        ends = (low[home], high[home]) if low.ndim else (low, high)
        limits[f"acquisition.{name}"] = ends
    found = minimise(
        lambda p: cost(p.acquisition, p.weights / p.weights.sum()),
        Protocol(
            acquisition=design.acquisition,
            weights=design.weights / design.weights.amax(),
        ),
        "weights",
        *(f"acquisition.{n}" for n in moving),
        bounds=limits,
        constraints=constraints,
        tolerance=_TOLERANCE,
    )
    return _merged(cost, found.record, home)


def _merged(cost: Cost, design: Protocol, home: Tensor) -> tuple[Protocol, Tensor]:
    """Give the shares of settings to others as long as the cost hardly rises."""
    used = (design.weights > _UNUSED * design.weights.amax()).nonzero().flatten()
    q, home, weights = taken(design.acquisition, used), home[used], design.weights[used]
    shares = weights / weights.sum()
    limit = float(cost(q, shares)) * (1 + _SAME)
    while len(shares) > 1:
        eye = torch.diag(torch.ones_like(shares))
        given = eye.unsqueeze(0) - eye.unsqueeze(1)  # [from, to, sample]
        tried = shares + shares[:, None, None] * given
        values = vmap(vmap(cost, (None, 0)), (None, 0))(q, tried)
        values = torch.where(eye > 0, torch.inf, values.nan_to_num(torch.inf))
        source, target = divmod(int(values.argmin()), len(shares))
        if values[source, target] > limit:
            break
        kept = (eye[source] == 0).nonzero().flatten()
        shares = tried[source, target][kept]
        q, home = taken(q, kept), home[kept]
    return Protocol(acquisition=q, weights=shares), home
