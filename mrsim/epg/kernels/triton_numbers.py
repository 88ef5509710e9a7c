"""Numbers and states of the walk on a GPU (see `mrsim.epg.kernels.triton_walk`).

A number is a value and, with T, its derivative; a state a number, or with PARTS 2 two
of them, (re, im). What is absent repeats what is there, and is not used.
"""

# ruff: noqa: ANN001, ANN201, D103
# Triton reads no annotation but constexpr.
# pyright: reportArgumentType=false

import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]


@triton.jit
def mul(a, da, x, dx, T: tl.constexpr):
    y = a * x
    dy = y
    if T:
        dy = a * dx + da * x
    return y, dy


@triton.jit
def pull(a, da, y, dy, T: tl.constexpr):
    v = a * y
    d = v
    if T:
        d = a * dy
        v += da * dy
    return v, d


@triton.jit
def get(at, i, PARTS: tl.constexpr, T: tl.constexpr, BLOCK: tl.constexpr):
    p = at + i * (PARTS * (1 + T)) * BLOCK
    re = tl.load(p)
    dre = re
    im = re
    dim = re
    if T:
        dre = tl.load(p + BLOCK)
    if PARTS == 2:
        im = tl.load(p + (1 + T) * BLOCK)
        if T:
            dim = tl.load(p + 3 * BLOCK)
    return re, dre, im, dim


@triton.jit
def put(
    at, i, re, dre, im, dim, PARTS: tl.constexpr, T: tl.constexpr, BLOCK: tl.constexpr
):
    p = at + i * (PARTS * (1 + T)) * BLOCK
    tl.store(p, re)
    if T:
        tl.store(p + BLOCK, dre)
    if PARTS == 2:
        tl.store(p + (1 + T) * BLOCK, im)
        if T:
            tl.store(p + 3 * BLOCK, dim)


@triton.jit
def turn(mr, dmr, mi, dmi, xr, dxr, xi, dxi, PARTS: tl.constexpr, T: tl.constexpr):
    """Multiply a state by M."""
    yr, dyr = mul(mr, dmr, xr, dxr, T)
    yi = yr
    dyi = dyr
    if PARTS == 2:
        a, da = mul(mi, dmi, xi, dxi, T)
        yi, dyi = mul(mr, dmr, xi, dxi, T)
        b, db = mul(mi, dmi, xr, dxr, T)
        yr -= a
        dyr -= da
        yi += b
        dyi += db
    return yr, dyr, yi, dyi


@triton.jit
def unturn(mr, dmr, mi, dmi, yr, dyr, yi, dyi, PARTS: tl.constexpr, T: tl.constexpr):
    """Multiply an adjoint by conj(M)."""
    # what is pulled back is pushed on, with value and derivative in each other's place
    if T:
        dxr, xr, dxi, xi = turn(mr, dmr, -mi, -dmi, dyr, yr, dyi, yi, PARTS, T)
    else:
        xr, dxr, xi, dxi = turn(mr, dmr, -mi, -dmi, yr, dyr, yi, dyi, PARTS, T)
    return xr, dxr, xi, dxi


@triton.jit
def dot(xr, dxr, xi, dxi, yr, dyr, yi, dyi, PARTS: tl.constexpr, T: tl.constexpr):
    """Return what a real factor of x gets from the adjoint y of their product."""
    v, d = pull(xr, dxr, yr, dyr, T)
    if PARTS == 2:
        w, e = pull(xi, dxi, yi, dyi, T)
        v += w
        d += e
    return v, d


@triton.jit
def coefs(C, dC, j, lanes, lane, mask, T: tl.constexpr):
    at = j * 6 * lanes + lane
    c = tl.load(C + at, mask, 0.0)
    s = tl.load(C + at + lanes, mask, 0.0)
    u = tl.load(C + at + 2 * lanes, mask, 0.0)
    g = tl.load(C + at + 3 * lanes, mask, 0.0)
    mr = tl.load(C + at + 4 * lanes, mask, 0.0)
    mi = tl.load(C + at + 5 * lanes, mask, 0.0)
    dc, ds, du, dg, dmr, dmi = c, s, u, g, mr, mi
    if T:
        dc = tl.load(dC + at, mask, 0.0)
        ds = tl.load(dC + at + lanes, mask, 0.0)
        du = tl.load(dC + at + 2 * lanes, mask, 0.0)
        dg = tl.load(dC + at + 3 * lanes, mask, 0.0)
        dmr = tl.load(dC + at + 4 * lanes, mask, 0.0)
        dmi = tl.load(dC + at + 5 * lanes, mask, 0.0)
    return c, dc, s, ds, u, du, g, dg, mr, dmr, mi, dmi


@triton.jit
def operate(
    k, grows, enter,
    u, du, g, dg, mr, dmr, mi, dmi,
    ar, dar, ai, dai, br, dbr, bi, dbi, zr, dzr, zi, dzi,
    PARTS: tl.constexpr, T: tl.constexpr,
):  # fmt: skip
    """Return y, D and A of one order."""
    yr, dyr = mul(u, du, zr, dzr, T)
    yi, dyi = mul(u, du, zi, dzi, T)
    on = tl.where((k == 0) & (grows != 0), 1.0, 0.0).to(yr.dtype)
    if PARTS == 2:
        yi += on * g
        dyi += on * dg
    else:
        yr += on * g
        dyr += on * dg
    pr, dpr, pi, dpi = turn(mr, dmr, mi, dmi, ar, dar, ai, dai, PARTS, T)
    qr, dqr, qi, dqi = turn(mr, dmr, mi, dmi, br, dbr, bi, dbi, PARTS, T)
    if PARTS == 2:
        qi = -qi
        dqi = -dqi
    else:
        qr = enter * qr
        dqr = enter * dqr
    return (
        yr, dyr, yi, dyi, pr - qr, dpr - dqr, pi - qi, dpi - dqi,
        pr + qr, dpr + dqr, pi + qi, dpi + dqi,
    )  # fmt: skip
