"""Fit a model that is linear in some of its unknowns: these are never searched."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from mrsim._check import check_positive
from mrsim.fit.local import Local, lengths, products, real, rounding
from mrsim.fit.result import Fit, scaled
from mrsim.fit.search import search
from mrsim.fit.unknowns import (
    Bounds,
    check_data,
    check_names,
    filled,
    limits,
    noise,
    refuse_closures,
    sizes,
    unknowns,
)
from mrsim.transform import value_and_jac
from mrsim.tree import get, put


class _Split(NamedTuple):
    """A separable model at one point of its nonlinear unknowns."""

    basis: Tensor  # (sample, k) signal of each amplitude 1
    bend: Tensor  # (sample, p) Jacobian of the fitted signal, amplitudes kept
    rest: Tensor  # (sample, p) its part that no change of amplitudes makes
    amplitudes: Tensor  # (k,)
    residual: Tensor  # (sample,)


def variable_projection(
    f: Callable[..., Tensor],
    *wanted: str,
    linear: str = "M0",
    bounds: Bounds | None = None,
    iterations: int = 100,
    tolerance: float | None = None,
    sigma: float | Tensor | None = None,
) -> Callable[..., Fit]:
    """Make a function that fits a model that is linear in one of its fields.

    f = Φ(θ) c. For each θ the amplitudes are the least-squares solution c = Φ⁺ data, so
    that only θ is searched: Levenberg-Marquardt on ½ ‖data − Φ Φ⁺ data‖² with the
    Jacobian (1 − ΦΦ⁺) (∂Φ/∂θ) c. No start of c is needed, and one dimension less makes
    fewer steps. Amplitudes of complex data are complex: an unknown phase costs nothing.

    Args:
        f: signal model as of `levenberg_marquardt`.
        *wanted: names of the other unknown fields. No name: all that are present.
        linear: the field that f is linear in, of any shape; what start says of it does
            not matter.
        bounds: of the other unknowns, as of `levenberg_marquardt`.
        iterations: most steps.
        tolerance: as of `levenberg_marquardt`.
        sigma: standard deviation of each real channel [units of data], (); estimated
            from the residual if ``None``.

    Returns:
        A function ``(data, start, *args)`` → `Fit`, differentiable and for use under
        vmap as `levenberg_marquardt`'s. The covariance is of all wanted, then linear.
        For complex data ``params`` holds the moduli of the amplitudes, ``phase`` their
        phases.

    Raises:
        ValueError: as of `levenberg_marquardt`; a bound is of ``linear``, there is no
            other unknown, or sigma is no single number.
        TypeError: as of `levenberg_marquardt`.

    Reference:
        Golub and Pereyra 1973, SIAM J Numer Anal 10:413; Kaufman 1975, BIT 15:49.

    >>> import mrsim, torch
    >>> from mrsim.fit import variable_projection
    >>> decay = lambda tissue, t: tissue.M0 * (-t / tissue.T2).exp()
    >>> t = torch.tensor([0.01, 0.05, 0.1])
    >>> data = 2 * (-t / 0.08).exp()
    >>> start = mrsim.Tissue(T1=1.0, T2=0.05)
    >>> found = variable_projection(decay, "T2")(data, start, t)
    >>> found.params.T2, found.converged
    (tensor(0.0800), tensor(True))
    """
    check_names("variable_projection", wanted)
    check_positive("fit.variable_projection", sigma=sigma, tolerance=tolerance)

    def fit(data: Tensor, start: Any, *args: Any) -> Fit:
        refuse_closures(f)
        base, named = unknowns(start, wanted)
        base, _ = unknowns(base, (linear,))
        chosen = tuple(n for n in named if n != linear)
        check_data(data, base, chosen)
        lower, upper = limits(base, chosen, bounds or {})

        def split(x: Tensor, data: Tensor, base: Any, args: Any) -> _Split:
            here = filled(base, chosen, x)
            both = value_and_jac(_basis(f, linear), *chosen)(here, *args)
            return _projected(*_checked(both, chosen, data), data)

        def measure(x: Tensor, data: Tensor, base: Any, args: Any) -> Local:
            return _local(split(x, data, base, args), data, sizes(base, chosen, x))

        ends, given = (lower, upper), (data, base, args)
        found = search(measure, chosen, ends, given, iterations, tolerance)
        x, cost, _, converged, steps = found
        made = split(x, data, base, args)
        curve, phase = _curve(made)
        whole = scaled(curve, cost, data, noise(sigma, lower))
        size = len(x) + len(made.amplitudes)
        shape = get(base, linear).shape
        c = made.amplitudes if phase is None else made.amplitudes.abs()
        return Fit(
            params=put(filled(base, chosen, x), linear, c.reshape(shape)),
            covariance=whole[:size, :size],
            cost=cost,
            converged=converged,
            at_bound=torch.cat([(x <= lower) | (x >= upper), torch.zeros_like(c) > 0]),
            iterations=steps,
            phase=None if phase is None else phase.reshape(shape),
        )

    return fit


def _local(made: _Split, data: Tensor, size: Tensor) -> Local:
    """Return what the search needs at a point; columns that are rounding are silent."""
    fitted = real(data.reshape(-1) + made.residual)
    rest, r = real(made.rest), real(made.residual)
    silent = size * lengths(rest) <= rounding(fitted)
    _, curve = products(torch.where(silent, 0.0, rest), r)
    return Local(
        cost=r.square().sum() / 2,
        slope=torch.where(silent, 0.0, real(made.bend).mT @ r),
        curve=curve,
        silent=silent,
        power=real(data.reshape(-1)).square().sum(),
    )


def _basis(f: Callable[..., Tensor], linear: str) -> Callable[..., Tensor]:
    """Return the signals (k, sample) of amplitudes that are 1 one by one."""

    def run(params: Any, *args: Any) -> Tensor:
        like = get(params, linear)
        eye = torch.eye(like.numel(), dtype=like.dtype, device=like.device)
        units = eye.reshape(-1, *like.shape)
        return vmap(lambda e: f(put(params, linear, e), *args))(units)

    return run


def _checked(
    both: tuple[Tensor, Any], chosen: tuple[str, ...], data: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the basis (sample, k) and its Jacobian (sample, k, p)."""
    value, jacobian = both
    if value.shape[1:] != data.shape:
        raise ValueError(
            f"fit: data must have the shape of the model's signal,"
            f" {tuple(value.shape[1:])}, got {tuple(data.shape)}; map over voxels with"
            f" vmap(variable_projection(f), in_dims=(0, 0, None))"
        )
    if value.is_complex() and not data.is_complex():
        raise TypeError(
            f"fit: data is {data.dtype} but the model's signal is {value.dtype}; fit"
            f" complex data, or a real model such as lambda *a: f(*a).real (or .abs())"
        )
    size = len(value)
    columns = [get(jacobian, n).reshape(size, data.numel(), -1) for n in chosen]
    return value.reshape(size, -1).mT, torch.cat(columns, -1).movedim(0, 1)


def _projected(basis: Tensor, slopes: Tensor, data: Tensor) -> _Split:
    """Solve for the amplitudes and project on what they cannot make."""
    y, kind = data.reshape(-1), torch.promote_types(data.dtype, basis.dtype)
    basis, slopes = basis.to(kind), slopes.to(kind)
    mirror = _mirrored(basis).mT
    gram = mirror @ basis
    size = torch.real(gram.diagonal()).sqrt()
    unit = torch.where(size > 0, 1 / torch.where(size > 0, size, 1.0), 0.0)
    square = unit * unit.unsqueeze(-1)
    blank = torch.diag_embed((size == 0).to(gram))
    pseudo = (torch.linalg.inv_ex(gram * square + blank)[0] * square) @ mirror
    c = pseudo @ y
    bend = (slopes * c.unsqueeze(-1)).sum(1)
    rest = bend - basis @ (pseudo @ bend)
    return _Split(basis, bend, rest, c, basis @ c - y)


def _mirrored(x: Tensor) -> Tensor:
    """Return the complex conjugate; torch's own has no batching rule in places."""
    return torch.complex(x.real, -x.imag) if x.is_complex() else x


def _curve(made: _Split) -> tuple[Tensor, Tensor | None]:
    """Return JᵀJ of θ, the amplitudes' moduli and phases; and the phases."""
    c = made.amplitudes
    if not c.is_complex():
        columns = torch.cat([made.bend, made.basis], 1)
        return columns.mT @ columns, None
    phase = torch.atan2(c.imag, c.real)
    turn = torch.complex(phase.cos(), phase.sin())
    ours = made.basis * c
    turned = torch.complex(-ours.imag, ours.real)
    columns = real(torch.cat([made.bend, made.basis * turn, turned], 1))
    return columns.mT @ columns, phase
