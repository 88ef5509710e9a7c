"""Even spherical harmonics as homogeneous polynomials in Cartesian coordinates.

On the sphere a real, even series of degree L is one polynomial F of degree L,
F(u) = Σ_β (L!/β!) T_β u^β over the N = (L+1)(L+2)/2 exponents β of degree L: as many
numbers as there are harmonics, in a linear, one-to-one map. F has no poles, and its
Hessian, H_ij = L(L−1) Σ_α ((L−2)!/α!) T_{α+e_i+e_j} u^α, gives all else by Euler:
∇F = H u/(L−1) and F = u·∇F/L.
"""

import functools
import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mrsim._check import check_floats

_SMALL = 2**13  # numbers below which one large product is faster (measured)
Terms = tuple[list[list[int]], list[float], tuple[tuple[int, int, int], ...]]
_Poly = dict[tuple[int, int, int], float]


def degree(count: int) -> int:
    """Return the degree of an even series from its number of coefficients.

    Args:
        count: (lmax+1)(lmax+2)/2: 6, 15, 28, 45, …

    Returns:
        lmax, at least 2.

    Raises:
        ValueError: no even degree has so many coefficients.

    >>> degree(45)
    8
    """
    L = (math.isqrt(8 * count + 1) - 3) // 2
    if (L + 1) * (L + 2) // 2 != count or L % 2 or L < 2:
        raise ValueError(
            f"tract: an FOD needs (lmax+1)(lmax+2)/2 coefficients with lmax even and at"
            f" least 2 (6, 15, 28, 45, 66, 91, …) on its last axis, got {count}; odd"
            f" degrees have no place in it"
        )
    return L


@functools.cache
def exponents(L: int) -> tuple[tuple[int, int, int], ...]:
    """Return the exponents of x, y, z of every monomial of degree L."""
    pairs = ((a, b) for a in range(L, -1, -1) for b in range(L - a, -1, -1))
    return tuple((a, b, L - a - b) for a, b in pairs)


def polynomial(coefficients: Tensor) -> Tensor:
    """Turn tournier07 coefficients into those of the polynomial T_β.

    Args:
        coefficients (..., N): real even harmonics, index l(l+1)/2 + m.

    Returns:
        (..., N) T_β in the order of `exponents`.

    Raises:
        ValueError: N fits no even degree.

    Reference:
        Tournier et al. 2019, NeuroImage 202:116137 (basis).

    >>> import torch
    >>> polynomial(torch.tensor([1.0, 0, 0, 0, 0, 0]))[:4]  # Y_00 (x² + y² + z²)
    tensor([0.2821, 0.0000, 0.0000, 0.2821])
    """
    L = degree(coefficients.shape[-1])
    return coefficients @ _basis(L).to(coefficients)


@functools.cache
def _basis(L: int) -> Tensor:
    """Return (harmonic, monomial) float64: T_β of every harmonic."""
    place = {beta: k for k, beta in enumerate(exponents(L))}
    rows: list[list[float]] = []
    for l in range(0, L + 1, 2):  # noqa: E741
        for m in range(-l, l + 1):
            row = [0.0] * len(place)
            for beta, c in _lift(_harmonic(l, m), (L - l) // 2).items():
                row[place[beta]] = c / _multinomial(beta)
            rows.append(row)
    return torch.tensor(rows, dtype=torch.float64)


def _multinomial(beta: tuple[int, int, int]) -> int:
    a, b, c = beta
    return math.comb(a + b + c, a) * math.comb(b + c, b)


@functools.cache
def _harmonic(l: int, m: int) -> _Poly:  # noqa: E741
    """Return the solid harmonic r^l Y(l, m) with the Condon–Shortley sign kept."""
    k = abs(m)
    if l > k:
        made = _times(_harmonic(l - 1, m), {(0, 0, 1): _climb(l, k)})
        if l - 1 == k:
            return made
        factor = -_climb(l, k) / _climb(l - 1, k)
        below = _lift(_harmonic(l - 2, m), 1)
        return _plus(made, _times(below, {(0, 0, 0): factor}))
    size = math.sqrt(math.prod((n - 1) / n for n in range(2, 2 * k + 1, 2)))
    size *= (-1) ** k * math.sqrt((2 * k + 1) / (4 * math.pi)) * (2**0.5 if k else 1)
    real: _Poly = {(0, 0, 0): size}
    imag: _Poly = {}
    x, y, minus = {(1, 0, 0): 1.0}, {(0, 1, 0): 1.0}, {(0, 1, 0): -1.0}
    for _ in range(k):
        real, imag = (
            _plus(_times(real, x), _times(imag, minus)),
            _plus(_times(real, y), _times(imag, x)),
        )
    return imag if m < 0 else real


def _climb(l: int, k: int) -> float:  # noqa: E741
    return math.sqrt((4 * l * l - 1) / (l * l - k * k))


def _times(p: _Poly, q: _Poly) -> _Poly:
    made: _Poly = {}
    for (a, b, c), v in p.items():
        for (d, e, f), w in q.items():
            key = (a + d, b + e, c + f)
            made[key] = made.get(key, 0.0) + v * w
    return made


def _plus(p: _Poly, q: _Poly) -> _Poly:
    return {k: p.get(k, 0.0) + q.get(k, 0.0) for k in {**p, **q}}


def _lift(p: _Poly, times: int) -> _Poly:
    """Multiply by (x² + y² + z²)^times."""
    for _ in range(times):
        p = _times(p, {(2, 0, 0): 1.0, (0, 2, 0): 1.0, (0, 0, 2): 1.0})
    return p


def curvature(T: Tensor, u: Tensor) -> Tensor:
    """Return ∇²F, symmetric.

    Args:
        T (N, ...): coefficients from `polynomial`, first axis.
        u (3, ...): where.

    Returns:
        (3, 3, ...).
    """
    rows, sizes = (x.to(u.device) for x in _terms(degree(T.shape[0]), 2))
    w = sizes.to(u).reshape(-1, *(1,) * (u.ndim - 1)) * _monomials(u, len(sizes))
    if w.numel() < _SMALL:
        terms = T.index_select(0, rows).unflatten(0, (9, len(sizes)))
        return (terms * w).sum(1).unflatten(0, (3, 3))
    table = rows.view(9, -1)
    xx, xy, xz, yy, yz, zz = (
        (T.index_select(0, table[k]) * w).sum(0) for k in (0, 1, 2, 4, 5, 8)
    )
    return torch.stack([xx, xy, xz, xy, yy, yz, xz, yz, zz]).unflatten(0, (3, 3))


def gradient(T: Tensor, u: Tensor) -> Tensor:
    """Return ∇F, (3, ...), of coefficients (N, ...) at u (3, ...)."""
    rows, w = _first(degree(T.shape[0]), u)
    return torch.stack([(T.index_select(0, r) * w).sum(0) for r in rows])


def gradient_transpose(u: Tensor, y: Tensor, L: int) -> Tensor:
    """Return Σ_i y_i ∂(∇F)_i/∂T, (N, ...), for y (3, ...) at u (3, ...)."""
    rows, w = _first(L, u)
    made = torch.zeros_like(w[:1]).expand(len(exponents(L)), *w.shape[1:])
    for r, y_i in zip(rows, y, strict=True):
        made = made.index_add(0, r, w * y_i)
    return made


def _first(L: int, u: Tensor) -> tuple[Tensor, Tensor]:
    rows, sizes = (x.to(u.device) for x in _terms(L, 1))
    w = sizes.to(u).reshape(-1, *(1,) * (u.ndim - 1)) * _monomials(u, len(sizes))
    return rows.view(3, -1), w


@functools.cache
def _terms(L: int, order: int) -> tuple[Tensor, Tensor]:
    """Return which T_β multiply the n monomials in each component, and the factors."""
    place = {beta: k for k, beta in enumerate(exponents(L))}
    lower = exponents(L - order)
    steps = itertools.product(range(3), repeat=order)
    rows = [place[_raised(alpha, step)] for step in steps for alpha in lower]
    sizes = [1.0 * math.perm(L, order) * _multinomial(alpha) for alpha in lower]
    return _kept(rows), _kept(sizes)


def terms(L: int) -> Terms:
    """Return for ∇²F: which T_β (9, n), the factors, the exponents of monomials."""
    rows, sizes = _terms(L, 2)
    return rows.view(9, -1).tolist(), sizes.tolist(), exponents(L - 2)


def _raised(alpha: tuple[int, int, int], by: Sequence[int]) -> tuple[int, int, int]:
    a, b, c = (n + by.count(i) for i, n in enumerate(alpha))
    return a, b, c


def _monomials(u: Tensor, count: int) -> Tensor:
    """Return the count = (n+1)(n+2)/2 monomials of degree n of u (3, ...)."""
    n = (math.isqrt(8 * count + 1) - 3) // 2
    if n == 0:
        return torch.ones_like(u[:1])
    if n == 1:
        return u
    left, right = (x.to(u.device) for x in _halves(n))
    low = _monomials(u, (n // 2 + 1) * (n // 2 + 2) // 2)
    high = low if n % 2 == 0 else _monomials(u, (n // 2 + 2) * (n // 2 + 3) // 2)
    return low.index_select(0, left) * high.index_select(0, right)


@functools.cache
def _halves(n: int) -> tuple[Tensor, Tensor]:
    """Return two monomials of half the degree whose product is each of degree n."""
    lower, upper = exponents(n // 2), exponents(n - n // 2)
    pairs = []
    for beta in exponents(n):
        part, left = [], n // 2
        for power in beta:
            part.append(min(power, left))
            left -= part[-1]
        rest = tuple(b - a for a, b in zip(part, beta, strict=True))
        pairs.append((lower.index(tuple(part)), upper.index(rest)))
    low, high = zip(*pairs, strict=True)
    return _kept(low), _kept(high)


def _kept(numbers: Sequence[float]) -> Tensor:
    """Make a constant that can be kept: not one of inference mode."""
    kind = torch.float64 if isinstance(numbers[0], float) else torch.long
    with torch.inference_mode(mode=False):
        return torch.tensor(numbers, dtype=kind)


def amplitudes(T: Tensor, u: Tensor) -> Tensor:
    """Return F, (K, B), of coefficients (N, B) along each of the directions (3, K)."""
    _, sizes = _terms(degree(T.shape[0]), 0)
    return (sizes.to(u)[:, None] * _monomials(u, len(sizes))).t() @ T


def apply_matrix(M: Tensor, v: Tensor) -> Tensor:
    """Multiply matrices (3, 3, ...) by vectors (3, ...)."""
    return (M * v).sum(1)


def amplitude(coefficients: Tensor, direction: Tensor) -> Tensor:
    """Evaluate an FOD along a direction.

    Args:
        coefficients (N,): tournier07 coefficients.
        direction (3,): unit vector.

    Returns:
        () Σ c_lm Y_lm(direction), differentiable to any order.

    Raises:
        ValueError: N fits no even degree.
        TypeError: a value is no floating tensor, or dtypes differ.

    >>> import torch
    >>> amplitude(torch.tensor([1.0, 0, 0, 1.0, 0, 0]), torch.tensor([0.0, 0, 1]))
    tensor(0.9129)
    """
    check_floats("amplitude", coefficients=coefficients, direction=direction)
    T = polynomial(coefficients)
    L = degree(T.shape[-1])
    H = curvature(T, direction)
    return (apply_matrix(H, direction) * direction).sum(0) / (L * (L - 1))
