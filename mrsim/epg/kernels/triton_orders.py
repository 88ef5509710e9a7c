"""One order of a knot on a GPU: what is done to its states, and the adjoint of that.

With η half of ζ and M the waits' decay and turn (see `mrsim.epg.kernels.table`),

    P = M F_k, Q = conj(M F_-k), y = U η + g (g for k = 0 alone),
    A = P + Q, D = P - Q, H = c D + s y,   P' = A + H, Q' = A - H, η' = c y - s D,

where diffusion and flow have faded F_k, F_-k and η before. Bound pools have no F, and a
c of their own: what the pulse leaves of them; all have one at inversions and spoilers,
where s = 0. Dipolar orders are coupled to their pools by a matrix X.
"""

# ruff: noqa: ANN001, ANN201, ANN202, FBT003
# Triton reads no annotation but constexpr.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false

import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]

from mrsim.epg.kernels.triton_numbers import (
    dotted,
    each_pool,
    minus,
    mixed,
    outer,
    plus,
    pulled,
    quarter,
    scaled,
    times,
    total,
    turned,
    unmixed,
    unturned,
    wave,
)


@triton.jit
def _fades(k, loss, turn, form: tl.constexpr):
    """Return what diffusion and flow leave of F_k, F_-k and η, as (re, im) each."""
    even, odd = plus(loss[0], scaled(k * k, loss[2])), scaled(k, loss[1])
    spin = scaled(k, turn[1])
    p = wave(plus(even, odd), plus(turn[0], spin), form.parts)
    q = wave(minus(even, odd), minus(turn[0], spin), form.parts)
    return p, q, wave(scaled(k * k, loss[2]), spin, form.parts)


@triton.jit
def come(C, k, grows, enter, a, b, z, form: tl.constexpr):
    """Return of one order the faded states, F carried, y, A and D."""
    _, _, re, im, M, M_im, U, g, _, loss, turn = C
    if form.motion:
        fp, fq, fz = _fades(k, loss, turn, form)
        a = turned(fp[0], fp[1], a, form.parts)
        b = turned(fq[0], fq[1], b, form.parts)
        z = turned(fz[0], fz[1], z, form.parts)
    p, q = mixed(M, a), mixed(M, b)
    if form.shifted:
        p = plus(p, mixed(M_im, quarter(a)))
        q = plus(q, mixed(M_im, quarter(b)))
    P = turned(re, im, p, form.parts)
    Q = scaled(enter, turned(re, im, q, form.parts))
    y = plus(mixed(U, z), scaled(grows, g))
    return a, b, z, p, q, y, plus(P, Q), minus(P, Q)


@triton.jit
def operate(C, leave, y, A, D, form: tl.constexpr):
    """Return F_k, F_-k and η after the knot."""
    c, s, X = C[0], C[1], C[8]
    H, z = plus(times(c, D), times(s, y)), minus(times(c, y), times(s, D))
    if form.bound == 2:
        z = plus(z, mixed(X, y))
    return plus(A, H), scaled(leave, minus(A, H)), z


@triton.jit
def back(
    C, sums, k, zero, grows, enter, leave, came, a, b, z, form: tl.constexpr
):  # fmt: skip
    """Return coefficients' and states' cotangents before the knot from those after.

    At order 0, where `zero` is 1, F_k and F_-k are one.
    """
    c, s, re, im, M, M_im, U, _, X, loss, turn = C
    fa, fb, fz, p, q, y, _, D = came
    sum_c, sum_s, sum_re, sum_im, sum_M, sum_M_im, sum_U, sum_g, sum_X = sums[:9]
    sum_loss, sum_turn = sums[9], sums[10]
    b = scaled(leave * (1 - zero), b)
    A_bar, H_bar = plus(a, b), minus(a, b)
    sum_c = plus(sum_c, plus(each_pool(D, H_bar), each_pool(y, z)))
    sum_s = plus(sum_s, minus(dotted(y, H_bar), dotted(D, z)))
    y_bar, D_bar = plus(pulled(c, z), pulled(s, H_bar)), pulled(c, H_bar)
    D_bar = minus(D_bar, pulled(s, z))
    if form.bound == 2:
        sum_X = plus(sum_X, outer(y, z))
        y_bar = plus(y_bar, unmixed(X, z))
    a, b = plus(A_bar, D_bar), scaled(enter, minus(A_bar, D_bar))
    sum_re = plus(sum_re, plus(dotted(p, a), dotted(q, b)))
    if form.parts == 2:
        more = plus(dotted(quarter(p), a), dotted(quarter(q), b))
        sum_im = plus(sum_im, more)
    a, b = unturned(re, im, a, form.parts), unturned(re, im, b, form.parts)
    sum_M = plus(sum_M, plus(outer(fa, a), outer(fb, b)))
    p, q = a, b
    a, b = unmixed(M, p), unmixed(M, q)
    if form.shifted:
        sum_M_im = plus(sum_M_im, plus(outer(quarter(fa), p), outer(quarter(fb), q)))
        a = minus(a, unmixed(M_im, quarter(p)))
        b = minus(b, unmixed(M_im, quarter(q)))
    sum_U = plus(sum_U, outer(fz, y_bar))
    sum_g = plus(sum_g, total(scaled(grows, y_bar), 0, True))
    z = unmixed(U, y_bar)
    if form.motion:
        sum_loss = _unlost(sum_loss, k, dotted(fa, a), dotted(fb, b), dotted(fz, z))
        if form.parts == 2:
            up, down = dotted(quarter(fa), a), dotted(quarter(fb), b)
            sum_turn = _unspun(sum_turn, k, up, down, dotted(quarter(fz), z))
        fp, fq, f0 = _fades(k, loss, turn, form)
        a = unturned(fp[0], fp[1], a, form.parts)
        b = unturned(fq[0], fq[1], b, form.parts)
        z = unturned(f0[0], f0[1], z, form.parts)
    a = plus(a, scaled(zero, b))
    made = (
        sum_c, sum_s, sum_re, sum_im, sum_M, sum_M_im, sum_U, sum_g, sum_X,
        sum_loss, sum_turn,
    )  # fmt: skip
    return made, a, b, z


@triton.jit
def _unlost(bars, k, p, q, z):
    even = plus(p, q)
    return (
        minus(bars[0], even),
        minus(bars[1], scaled(k, minus(p, q))),
        minus(bars[2], scaled(k * k, plus(even, z))),
    )


@triton.jit
def _unspun(bars, k, p, q, z):
    return (
        minus(bars[0], plus(p, q)),
        minus(bars[1], scaled(k, plus(minus(p, q), z))),
    )
