"""Least squares with amplitudes that should not, or must not, be negative.

    soft: minimise ½ xᵀP x − qᵀx + ½ w Σ min(0, h x)²  over the rows h of H,
    hard: minimise ½ xᵀP x − qᵀx  with  h x ≥ 0.

Both are convex and piecewise quadratic: once it is known at which rows the constraint
acts, x is linear algebra, and so are all its derivatives. The search, batched and below
all transforms, therefore returns these rows only; `soft` and `hard` do the rest.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mrsim.tract import interior, newton
from mrsim.tract.quadratic import back, factor, gram

_CHUNK = 1024  # voxels searched at once: what caches hold
_STEPS = 200


class Solution(NamedTuple):
    """A minimiser and where the constraint acts on it."""

    x: Tensor  # (n,)
    active: Tensor  # (m,) bool
    settled: Tensor  # () bool: the search ended at the minimum


def soft(p: Tensor, q: Tensor, rows: Tensor, weight: Tensor) -> Solution:
    """Minimise the soft problem, differentiably in all its tensors.

    Args:
        p: (n, n) symmetric and positive definite.
        q: (n,).
        rows: (m, n).
        weight: () w.

    Returns:
        The minimiser. Its derivatives, at fixed active rows, are exact to any order
        wherever no amplitude is zero.
    """
    fixed = (x.detach() for x in (p, q, weight, rows))
    active, settled = Active.apply(_Search(_soft), *fixed)
    x = back(factor(p + weight * gram(active.to(p), rows)), q)
    return Solution(x, active, settled)


def hard(p: Tensor, q: Tensor, rows: Tensor) -> Solution:
    """Minimise the hard problem, differentiably in P and q.

    Args:
        p: (n, n) symmetric and positive definite.
        q: (n,).
        rows: (m, n), not differentiated.

    Returns:
        The minimiser. With N the projector on the space where the acting rows vanish,
        x = (N P N + c (1 − N))⁻¹ N q for any c; its derivatives are those of the
        solution wherever no row is about to change sides.
    """
    size = p.diagonal().mean().detach()
    fixed = (x.detach() for x in (p, q, size, rows))
    active, settled, held = Active.apply(_Search(_hard), *fixed)
    return Solution(interior.constrained(p, q, held, size), active, settled)


class _Search(NamedTuple):
    """What to search, and which inputs carry the batch."""

    run: Callable[..., tuple[Tensor, ...]]
    mapped: tuple[bool, ...] = (False,) * 4  # P, q, w, H
    size: int = 0  # of the batch; 0 for one problem


class Active(torch.autograd.Function):
    """(search, P, q, w, H) → rows that act (bool), settled (bool), and more.

    Nothing of it has derivatives. The whole batch goes in one call.
    """

    @staticmethod
    def forward(search: _Search, *given: Tensor) -> tuple[Tensor, ...]:
        """Search the batch in chunks, or one problem as a batch of one."""
        if not search.size:
            one = search._replace(mapped=(False, True, False, False), size=1)
            p, q, w, rows = given
            found = Active.forward(one, p, q.unsqueeze(0), w, rows)
            return tuple(x[0] for x in found)
        parts = []
        for start in range(0, search.size, _CHUNK):
            part = slice(start, min(search.size, start + _CHUNK))
            pairs = zip(given, search.mapped, strict=True)
            p, q, w, rows = (x[part] if mapped else x for x, mapped in pairs)
            q = q.expand(part.stop - part.start, p.shape[-1])
            parts.append(search.run(p, q, w, rows))
        return tuple(torch.cat(x) for x in zip(*parts, strict=True))

    @staticmethod
    def setup_context(ctx: Any, _: tuple[Any, ...], output: Any) -> None:
        """Mark all outputs as without derivative."""
        ctx.mark_non_differentiable(*output)

    @staticmethod
    def backward(_ctx: Any, *_: Any) -> Any:
        """Return no derivative."""
        return (None,) * 5

    @staticmethod
    def jvp(_ctx: Any, *_: Any) -> Any:
        """Return no derivative."""
        return None

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], search: _Search, *given: Tensor
    ) -> tuple[Any, tuple[int, ...]]:
        """Fold the mapped axis into the batch."""
        size, inside, dims = info.batch_size, search.size, in_dims[1:]
        folds = zip(given, dims, search.mapped, strict=True)
        moved = [_fold(x, d, i, size, inside) for x, d, i in folds]
        pairs = zip(dims, search.mapped, strict=True)
        mapped = tuple(d is not None or i for d, i in pairs)
        total = size * max(1, inside)
        out = Active.apply(search._replace(mapped=mapped, size=total), *moved)
        if inside:
            out = tuple(x.unflatten(0, (size, inside)) for x in out)
        return tuple(out), (0,) * len(out)


def _fold(x: Tensor, dim: int | None, inner: bool, size: int, inside: int) -> Tensor:
    """Bring a vmap's axis first, folded with the batch axis that there is already."""
    if dim is None and not inner:
        return x
    x = x.expand(size, *x.shape) if dim is None else x.movedim(dim, 0)
    if not inside:
        return x
    if not inner:
        x = x.unsqueeze(1).expand(size, inside, *x.shape[1:])
    return x.flatten(0, 1)


def _soft(p: Tensor, q: Tensor, w: Tensor, rows: Tensor) -> tuple[Tensor, ...]:
    if q.is_meta:
        return _blank(q, rows)
    return newton.search(p, q, w, rows, _STEPS)


def _hard(p: Tensor, q: Tensor, w: Tensor, rows: Tensor) -> tuple[Tensor, ...]:
    if q.is_meta:
        return *_blank(q, rows), q.new_empty((*q.shape, q.shape[-1]))
    return interior.search(p, q, w, rows, _STEPS)


def _blank(q: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return results without values: searches have none on the meta device."""
    shape = (len(q), rows.shape[-2])
    return q.new_empty(shape, dtype=torch.bool), q.new_empty(len(q), dtype=torch.bool)
