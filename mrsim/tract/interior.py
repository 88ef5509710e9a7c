"""Amplitudes that must not be negative: an interior-point method for a batch.

    minimise ½ xᵀP x − qᵀx  with  s = H x ≥ 0

has its minimum where P x − q = Hᵀy, y ≥ 0 and s y = 0. Predictor-corrector steps
(Mehrotra 1992, SIAM J Optim 2:575) follow s y = μ to μ → 0; the rows found are then
exchanged until these conditions hold to rounding. Everything here is concrete, below
all transforms.
"""

import torch
from torch import Tensor

from mrsim.tract.quadratic import amplitudes, back, factor, gram, pick, pulled

_SHORT = 0.995  # of the way to the border
_GAP = 1e-12  # relative violation at which the steps end
_NEAR = 1e-8  # below which they end when they gain no more
_EXCHANGES = 100  # of rows, at most, after them
_SLACK = 1e-10  # relative; a smaller violation is rounding
_RANK = 1e-12  # eigenvalues below this share of the largest are rounding


def search(
    p: Tensor, q: Tensor, w: Tensor, rows: Tensor, iterations: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Find the rows whose constraint acts at the minimum.

    Args:
        p: (n, n), or (batch, n, n).
        q: (batch, n).
        w: (), or (batch,): size of P, by which multipliers compare with amplitudes.
        rows: (m, n), or (batch, m, n).
        iterations: most steps.

    Returns:
        (batch, m) bool; (batch,) bool, whether the minimum was reached; (batch, n, n)
        the projector on the span of the acting rows.
    """
    x, s, y, scale = _begin(p, q, w, rows)
    active = torch.zeros_like(s, dtype=torch.bool)
    done = ~x.isfinite().all(-1) | (scale[:, 0] == 0)
    least, best = torch.full_like(scale[:, 0], torch.inf), x
    for _ in range(iterations):
        live = (~done).nonzero()[:, 0]
        if not len(live):
            break
        pp, hh, old = pick(p, live, 2), pick(rows, live, 2), (x[live], s[live], y[live])
        new = _advance(pp, q[live], hh, *old)
        error = _error(pp, q[live], hh, pick(w, live, 0), scale[live], new)
        better = error < least[live]
        # the faster of the two to vanish: an indicator that needs no common scale
        acting = new[1] / old[1] < new[2] / old[2]
        acting = torch.where(better.unsqueeze(-1), acting, active[live])
        active = active.index_copy(0, live, acting)
        inner = torch.where(better.unsqueeze(-1), new[0], best[live])
        best = best.index_copy(0, live, inner)
        x, s, y = (
            v.index_copy(0, live, part) for v, part in zip((x, s, y), new, strict=True)
        )
        # beyond rounding steps go astray
        ended = (error < _GAP) | (~better & (least[live] < _NEAR)) | ~error.isfinite()
        done = done.index_copy(0, live, ended)
        least = torch.minimum(least, least.index_copy(0, live, error))
    active, settled, held = _polish(p, q, w, rows, active, scale)
    near = (~settled & (least < _NEAR)).nonzero()[:, 0]
    pp, hh, ww = pick(p, near, 2), pick(rows, near, 2), pick(w, near, 0)
    proven = _as_low(pp, q[near], ww, hh, held[near], best[near], scale[near])
    return active, settled.index_copy(0, near, proven), held


def _polish(
    p: Tensor, q: Tensor, w: Tensor, rows: Tensor, active: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Exchange rows until the conditions of the minimum hold to rounding."""
    count = len(q)
    held = q.new_zeros(count, q.shape[-1], q.shape[-1])
    done = torch.zeros(count, dtype=torch.bool, device=q.device)
    live = torch.arange(count, device=q.device)
    for _ in range(_EXCHANGES):
        pp, hh, ww = pick(p, live, 2), pick(rows, live, 2), pick(w, live, 0)
        space, inverse = _span(active[live], hh)
        x = constrained(pp, q[live], space, ww)
        size = scale[live]
        amplitude = amplitudes(hh, x) / size
        force = (pp @ x.unsqueeze(-1)).squeeze(-1) - q[live]
        solved = (inverse @ force.unsqueeze(-1)).squeeze(-1)
        multiplier = amplitudes(hh, solved) / (ww.unsqueeze(-1) * size)
        multiplier = torch.where(active[live], multiplier, torch.inf)
        lack = torch.where(active[live], torch.inf, amplitude)
        below = (lack < -_SLACK) & (lack == lack.amin(-1, keepdim=True))
        pulling = multiplier < -_SLACK
        worst = multiplier == multiplier.amin(-1, keepdim=True)
        leaving = pulling & worst & ~below.any(-1, keepdim=True)
        ended = ~(below | leaving).any(-1)
        held = held.index_copy(0, live, space)
        done = done.index_copy(0, live, ended & x.isfinite().all(-1))
        active = active.index_copy(0, live, (active[live] | below) & ~leaving)
        live = live[~ended]
        if not len(live):
            break
    return active, done, held


def _as_low(
    p: Tensor,
    q: Tensor,
    w: Tensor,
    rows: Tensor,
    held: Tensor,
    best: Tensor,
    scale: Tensor,
) -> Tensor:
    """Tell where exchanges went round at a cost as low as the interior point's."""
    # Where more rows vanish than there are unknowns, as in pure water, multipliers are
    # not unique: those computed may be negative though x is the minimum.
    x = constrained(p, q, held, w)
    d = x - best
    slope = (p @ (x + best).unsqueeze(-1)).squeeze(-1) / 2 - q
    excess = (d * slope).sum(-1) / (w * scale[:, 0].square())
    feasible = (amplitudes(rows, x) > -_NEAR * scale).all(-1)
    return feasible & (excess < _SLACK)


def constrained(p: Tensor, q: Tensor, held: Tensor, size: Tensor) -> Tensor:
    """Minimise ½ xᵀP x − qᵀx on the space that a projector leaves free.

    x = (N P N + c (1 − N))⁻¹ N q with N = 1 − ``held``, for any c.

    Args:
        p: (..., n, n).
        q: (..., n).
        held: (..., n, n).
        size: (...), c; of P's size.

    Returns:
        (..., n).
    """
    free = torch.eye(p.shape[-1], dtype=p.dtype, device=p.device) - held
    matrix = free @ p @ free + size.unsqueeze(-1).unsqueeze(-1) * held
    return back(factor(matrix), (free @ q.unsqueeze(-1)).squeeze(-1))


def _begin(
    p: Tensor, q: Tensor, w: Tensor, rows: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Start at the free minimum, amplitudes and multipliers lifted off the border."""
    x = back(factor(p), q)
    s = amplitudes(rows, x)
    scale = s.abs().amax(-1, keepdim=True)
    s = s.clamp_min(0.1 * scale)
    return x, s, (0.1 * w.unsqueeze(-1) * scale).expand_as(s), scale


def _advance(
    p: Tensor, q: Tensor, rows: Tensor, x: Tensor, s: Tensor, y: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    dual = (p @ x.unsqueeze(-1)).squeeze(-1) - q - pulled(rows, y)
    primal = amplitudes(rows, x) - s
    root = factor(p + gram(y / s, rows))

    def direction(product: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        dx = back(root, -dual - pulled(rows, (product + y * primal) / s))
        ds = amplitudes(rows, dx) + primal
        return dx, ds, -(product + y * ds) / s

    gap = (s * y).mean(-1, keepdim=True)
    _, ds, dy = direction(s * y)
    a, b = _border(s, ds), _border(y, dy)
    aimed = ((s + a * ds) * (y + b * dy)).mean(-1, keepdim=True)
    centre = (aimed / gap) ** 3 * gap
    dx, ds, dy = direction(s * y + ds * dy - centre)
    t = torch.minimum(_SHORT * _border(s, ds), _SHORT * _border(y, dy)).clamp_max(1.0)
    return x + t * dx, s + t * ds, y + t * dy


def _border(x: Tensor, dx: Tensor) -> Tensor:
    """Return how far x may go along dx until an entry is zero; at most 1/_SHORT."""
    falling = dx < 0
    ratio = torch.where(falling, -x / torch.where(falling, dx, -1.0), 2.0)
    return ratio.amin(-1, keepdim=True).clamp_max(1 / _SHORT)


def _error(
    p: Tensor,
    q: Tensor,
    rows: Tensor,
    w: Tensor,
    scale: Tensor,
    state: tuple[Tensor, Tensor, Tensor],
) -> Tensor:
    """Return the largest relative violation of the conditions of the minimum."""
    x, s, y = state
    size = scale[:, 0]
    dual = (p @ x.unsqueeze(-1)).squeeze(-1) - q - pulled(rows, y)
    primal = (amplitudes(rows, x) - s).abs().amax(-1) / size
    gap = (s * y).amax(-1) / (w * size * size)
    return torch.stack([dual.abs().amax(-1) / (w * size), primal, gap]).amax(0)


def _span(active: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return the projector on the span of the acting rows, and HᵀH's inverse there."""
    square = gram(active.to(rows), rows)
    fine = square.isfinite().all(-1).all(-1)  # eigh raises for a batch with one NaN
    values, vectors = torch.linalg.eigh(torch.where(fine[:, None, None], square, 0.0))
    least = _RANK * values[..., -1:].clamp_min(torch.finfo(rows.dtype).tiny)
    kept = (values > least).unsqueeze(-2)
    turned = vectors / torch.where(kept, values.unsqueeze(-2), 1.0)
    return (vectors * kept) @ vectors.mT, (turned * kept) @ vectors.mT
