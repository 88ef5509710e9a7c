"""The walk over a table on a GPU: one lane a spin, states in a scratch buffer.

Bilinear in states and in six coefficients of each knot: the pulse's cosine c and sine
s, ζ's decay U and regrowth g, half the decay of F and its turn, M. With P = M F_k and
Q = conj(M F_-k) of the order k before a pulse and y = U ζ + g (g for k = 0 alone),

    P' = A + H, Q' = A - H, ζ' = c y - 2 s D,   A = P + Q, D = P - Q, H = c D + s y / 2.

A number is a value and, with T, its derivative; `pull` is the transpose of a product,
so that the way back on such numbers is the reverse mode of the forward mode. A program
takes a block of lanes at a time; axis 1 of the grid are tangents, or cotangents.
"""

# ruff: noqa: ANN001, ANN201, ANN202, FBT003, PLR0912, PLR0915
# Triton reads no annotation but constexpr, and a kernel is one piece
# pyright: reportArgumentType=false

import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]

from mrsim.epg.kernels.triton_numbers import (
    coefs,
    dot,
    get,
    mul,
    operate,
    pull,
    put,
    unturn,
)


@triton.jit
def _forward(
    knots, clears, places_read, C, dC, start, dstart, raw, draw, F, kept,
    count, lanes, lane, mask, places,
    PARTS: tl.constexpr, T: tl.constexpr, KEEP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Walk there with one block of lanes."""
    Z = F + places * PARTS * (1 + T) * BLOCK
    none = tl.full([BLOCK], 0, F.dtype.element_ty)
    for i in range(tl.load(knots + 14)):
        put(Z, tl.load(clears + i), none, none, none, none, PARTS, T, BLOCK)
    z = tl.load(start + lane, mask, 0.0)
    dz = none
    if T:
        dz = tl.load(dstart + lane, mask, 0.0)
    if PARTS == 2:
        put(Z, 0, none, none, z, dz, PARTS, T, BLOCK)
    else:
        put(Z, 0, z, dz, none, none, PARTS, T, BLOCK)
    for j in range(count):
        n = knots + j * 20
        kind = tl.load(n)
        low, size, step, base = (
            tl.load(n + 2),
            tl.load(n + 3),
            tl.load(n + 4),
            tl.load(n + 5),
        )
        enter, leave, grows = tl.load(n + 6), tl.load(n + 7), tl.load(n + 10)
        clear, stored = tl.load(n + 14), tl.load(n + 19)
        clear_z = clear + tl.load(n + 15)
        for i in range(clear, clear_z):
            put(F, tl.load(clears + i), none, none, none, none, PARTS, T, BLOCK)
        for i in range(clear_z, clear_z + tl.load(n + 16)):
            put(Z, tl.load(clears + i), none, none, none, none, PARTS, T, BLOCK)
        tl.debug_barrier()
        c, dc, s, ds, u, du, g, dg, mr, dmr, mi, dmi = coefs(
            C, dC, j, lanes, lane, mask, T
        )
        for i in range(size):
            k = low + i * step
            ar, dar, ai, dai = get(F, base + k, PARTS, T, BLOCK)
            br, dbr, bi, dbi = get(F, base - k, PARTS, T, BLOCK)
            zr, dzr, zi, dzi = get(Z, k, PARTS, T, BLOCK)
            if KEEP:
                at = 3 * (stored + i)
                put(kept, at, ar, dar, ai, dai, PARTS, T, BLOCK)
                put(kept, at + 1, br, dbr, bi, dbi, PARTS, T, BLOCK)
                put(kept, at + 2, zr, dzr, zi, dzi, PARTS, T, BLOCK)
            yr, dyr, yi, dyi, xr, dxr, xi, dxi, Ar, dAr, Ai, dAi = operate(
                k, grows, enter, u, du, g, dg, mr, dmr, mi, dmi,
                ar, dar, ai, dai, br, dbr, bi, dbi, zr, dzr, zi, dzi, PARTS, T,
            )  # fmt: skip
            cyr, dcyr = mul(c, dc, yr, dyr, T)
            cyi, dcyi = mul(c, dc, yi, dyi, T)
            if kind == 1:
                sxr, dsxr = mul(s, ds, xr, dxr, T)
                sxi, dsxi = mul(s, ds, xi, dxi, T)
                syr, dsyr = mul(s, ds, yr, dyr, T)
                syi, dsyi = mul(s, ds, yi, dyi, T)
                cxr, dcxr = mul(c, dc, xr, dxr, T)
                cxi, dcxi = mul(c, dc, xi, dxi, T)
                hr, dhr = cxr + 0.5 * syr, dcxr + 0.5 * dsyr
                hi, dhi = cxi + 0.5 * syi, dcxi + 0.5 * dsyi
                if k != 0:
                    qr, dqr, qi, dqi = Ar - hr, dAr - dhr, Ai - hi, dAi - dhi
                    if PARTS == 2:
                        qi = -qi
                        dqi = -dqi
                    else:
                        qr = leave * qr
                        dqr = leave * dqr
                    put(F, base - k, qr, dqr, qi, dqi, PARTS, T, BLOCK)
                put(
                    F, base + k, Ar + hr, dAr + dhr, Ai + hi, dAi + dhi, PARTS, T, BLOCK
                )
                cyr -= 2 * sxr
                dcyr -= 2 * dsxr
                cyi -= 2 * sxi
                dcyi -= 2 * dsxi
            put(Z, k, cyr, dcyr, cyi, dcyi, PARTS, T, BLOCK)
        tl.debug_barrier()
        first_read = tl.load(n + 17)
        for r in range(first_read, first_read + tl.load(n + 18)):
            place = tl.load(places_read + r)
            if place >= 0:
                fr, dfr, fi, dfi = get(F, place, PARTS, T, BLOCK)
                out = r * PARTS * lanes + lane
                tl.store(raw + out, fr, mask)
                if T:
                    tl.store(draw + out, dfr, mask)
                if PARTS == 2:
                    tl.store(raw + out + lanes, fi, mask)
                    if T:
                        tl.store(draw + out + lanes, dfi, mask)


@triton.jit(do_not_specialize=["count", "lanes", "places", "slots", "readings"])
def there(
    knots, clears, places_read, C, dC, start, dstart, scratch, raw, draw,
    count, lanes, places, slots, readings,
    PARTS: tl.constexpr, T: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Walk there: raw F at the readings, and its derivative along one tangent."""
    worker, workers, way = tl.program_id(0), tl.num_programs(0), tl.program_id(1)
    lane0 = tl.arange(0, BLOCK)
    lanes = lanes + tl.full([], 0, tl.int64)
    F = scratch + (way * workers + worker).to(tl.int64) * slots * BLOCK + lane0
    dC += way.to(tl.int64) * count * 6 * lanes
    dstart += way.to(tl.int64) * lanes
    draw += way.to(tl.int64) * readings * PARTS * lanes
    for block in range(worker, (lanes + BLOCK - 1) // BLOCK, workers):
        lane = block * BLOCK + lane0
        _forward(
            knots, clears, places_read, C, dC, start, dstart, raw, draw, F, F,
            count, lanes, lane, lane < lanes, places, PARTS, T, False, BLOCK,
        )  # fmt: skip


@triton.jit
def _gather(at, row, lanes, lane, mask, v, d, T: tl.constexpr, total):
    tl.store(at + row * lanes + lane, v, mask)
    if T:
        tl.store(at + total + row * lanes + lane, d, mask)


@triton.jit(
    do_not_specialize=["count", "lanes", "places", "slots", "readings", "stored"]
)
def there_and_back(
    knots, clears, places_read, C, dC, start, dstart, scratch, raw, draw, bar,
    C_bar, start_bar, count, lanes, places, slots, readings, stored,
    PARTS: tl.constexpr, T: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Walk there and back with one cotangent of raw F (T: of its derivative)."""
    worker, workers, way = tl.program_id(0), tl.num_programs(0), tl.program_id(1)
    lane0 = tl.arange(0, BLOCK)
    lanes = lanes + tl.full([], 0, tl.int64)
    each = 2 * slots + 3 * stored * PARTS * (1 + T)
    F = scratch + (way * workers + worker).to(tl.int64) * each * BLOCK + lane0
    G = F + slots * BLOCK
    kept = G + slots * BLOCK
    total = count * 6 * lanes
    if T:
        dC += way.to(tl.int64) * total
        dstart += way.to(tl.int64) * lanes
    draw += way.to(tl.int64) * readings * PARTS * lanes
    bar += way.to(tl.int64) * readings * PARTS * lanes
    C_bar += way.to(tl.int64) * total * (1 + T)
    start_bar += way.to(tl.int64) * lanes * (1 + T)
    ZG = G + places * PARTS * (1 + T) * BLOCK
    none = tl.full([BLOCK], 0, scratch.dtype.element_ty)
    for block in range(worker, (lanes + BLOCK - 1) // BLOCK, workers):
        lane = block * BLOCK + lane0
        mask = lane < lanes
        _forward(
            knots, clears, places_read, C, dC, start, dstart, raw, draw, F, kept,
            count, lanes, lane, mask, places, PARTS, T, True, BLOCK,
        )  # fmt: skip
        for i in range(slots):
            tl.store(G + i * BLOCK, none)
        tl.debug_barrier()
        for back in range(count):
            j = count - 1 - back
            n = knots + j * 20
            kind = tl.load(n)
            low, size, step = tl.load(n + 2), tl.load(n + 3), tl.load(n + 4)
            base, enter, leave = tl.load(n + 5), tl.load(n + 6), tl.load(n + 7)
            grows, clear, stored_at = tl.load(n + 10), tl.load(n + 14), tl.load(n + 19)
            first_read = tl.load(n + 17)
            for r in range(first_read, first_read + tl.load(n + 18)):
                place = tl.load(places_read + r)
                if place >= 0:
                    fr, dfr, fi, dfi = get(G, place, PARTS, T, BLOCK)
                    at = bar + r * PARTS * lanes + lane
                    x = tl.load(at, mask, 0.0)
                    y = none
                    if PARTS == 2:
                        y = tl.load(at + lanes, mask, 0.0)
                    if T:
                        dfr += x
                        dfi += y
                    else:
                        fr += x
                        fi += y
                    put(G, place, fr, dfr, fi, dfi, PARTS, T, BLOCK)
                    tl.debug_barrier()
            c, dc, s, ds, u, du, g, dg, mr, dmr, mi, dmi = coefs(
                C, dC, j, lanes, lane, mask, T
            )
            sc, dsc, ss, dss, su, dsu = none, none, none, none, none, none
            sg, dsg, sr, dsr, si, dsi = none, none, none, none, none, none
            for i in range(size):
                k = low + i * step
                at = 3 * (stored_at + i)
                ar, dar, ai, dai = get(kept, at, PARTS, T, BLOCK)
                br, dbr, bi, dbi = get(kept, at + 1, PARTS, T, BLOCK)
                zr, dzr, zi, dzi = get(kept, at + 2, PARTS, T, BLOCK)
                yr, dyr, yi, dyi, xr, dxr, xi, dxi, _, _, _, _ = operate(
                    k, grows, enter, u, du, g, dg,
                    mr, dmr, mi, dmi, ar, dar, ai, dai, br, dbr, bi, dbi,
                    zr, dzr, zi, dzi, PARTS, T,
                )  # fmt: skip
                er, der, ei, dei = get(ZG, k, PARTS, T, BLOCK)  # of the new ζ
                v, d = dot(yr, dyr, yi, dyi, er, der, ei, dei, PARTS, T)
                sc += v
                dsc += d
                wr, dwr = pull(c, dc, er, der, T)  # of y
                wi, dwi = pull(c, dc, ei, dei, T)
                if kind == 1:
                    pr, dpr, pi, dpi = get(G, base + k, PARTS, T, BLOCK)
                    qr, dqr, qi, dqi = get(G, base - k, PARTS, T, BLOCK)
                    on = tl.where(k != 0, 1.0, 0.0).to(pr.dtype)
                    if PARTS == 2:
                        qr, dqr, qi, dqi = on * qr, on * dqr, -on * qi, -on * dqi
                    else:
                        qr, dqr = on * leave * qr, on * leave * dqr
                        qi, dqi = qr, dqr
                    Ar, dAr, Ai, dAi = pr + qr, dpr + dqr, pi + qi, dpi + dqi
                    hr, dhr, hi, dhi = pr - qr, dpr - dqr, pi - qi, dpi - dqi
                    v, d = dot(xr, dxr, xi, dxi, hr, dhr, hi, dhi, PARTS, T)
                    sc += v
                    dsc += d
                    v, d = dot(yr, dyr, yi, dyi, hr, dhr, hi, dhi, PARTS, T)
                    ss += 0.5 * v
                    dss += 0.5 * d
                    v, d = dot(xr, dxr, xi, dxi, er, der, ei, dei, PARTS, T)
                    ss -= 2 * v
                    dss -= 2 * d
                    v, d = pull(s, ds, hr, dhr, T)
                    wr += 0.5 * v
                    dwr += 0.5 * d
                    v, d = pull(s, ds, hi, dhi, T)
                    wi += 0.5 * v
                    dwi += 0.5 * d
                    tr, dtr = pull(c, dc, hr, dhr, T)  # of D
                    ti, dti = pull(c, dc, hi, dhi, T)
                    v, d = pull(s, ds, er, der, T)
                    tr -= 2 * v
                    dtr -= 2 * d
                    v, d = pull(s, ds, ei, dei, T)
                    ti -= 2 * v
                    dti -= 2 * d
                    pr, dpr, pi, dpi = Ar + tr, dAr + dtr, Ai + ti, dAi + dti
                    qr, dqr, qi, dqi = Ar - tr, dAr - dtr, Ai - ti, dAi - dti
                    if PARTS == 2:
                        qi = -qi
                        dqi = -dqi
                    else:
                        qr, dqr = enter * qr, enter * dqr
                    v, d = dot(ar, dar, ai, dai, pr, dpr, pi, dpi, PARTS, T)
                    sr += v
                    dsr += d
                    v, d = dot(br, dbr, bi, dbi, qr, dqr, qi, dqi, PARTS, T)
                    sr += v
                    dsr += d
                    if PARTS == 2:
                        v, d = dot(ar, dar, -ai, -dai, pi, dpi, pr, dpr, 2, T)
                        si += v
                        dsi += d
                        v, d = dot(br, dbr, -bi, -dbi, qi, dqi, qr, dqr, 2, T)
                        si += v
                        dsi += d
                    pr, dpr, pi, dpi = unturn(
                        mr, dmr, mi, dmi, pr, dpr, pi, dpi, PARTS, T
                    )
                    qr, dqr, qi, dqi = unturn(
                        mr, dmr, mi, dmi, qr, dqr, qi, dqi, PARTS, T
                    )
                    if k == 0:
                        pr += qr
                        dpr += dqr
                        pi += qi
                        dpi += dqi
                    else:
                        put(G, base - k, qr, dqr, qi, dqi, PARTS, T, BLOCK)
                    put(G, base + k, pr, dpr, pi, dpi, PARTS, T, BLOCK)
                on = tl.where((k == 0) & (grows != 0), 1.0, 0.0).to(zr.dtype)
                if PARTS == 2:
                    sg += on * wi
                    dsg += on * dwi
                else:
                    sg += on * wr
                    dsg += on * dwr
                v, d = dot(zr, dzr, zi, dzi, wr, dwr, wi, dwi, PARTS, T)
                su += v
                dsu += d
                er, der = pull(u, du, wr, dwr, T)
                ei, dei = pull(u, du, wi, dwi, T)
                put(ZG, k, er, der, ei, dei, PARTS, T, BLOCK)
            row = j * 6
            _gather(C_bar, row, lanes, lane, mask, sc, dsc, T, total)
            _gather(C_bar, row + 1, lanes, lane, mask, ss, dss, T, total)
            _gather(C_bar, row + 2, lanes, lane, mask, su, dsu, T, total)
            _gather(C_bar, row + 3, lanes, lane, mask, sg, dsg, T, total)
            _gather(C_bar, row + 4, lanes, lane, mask, sr, dsr, T, total)
            _gather(C_bar, row + 5, lanes, lane, mask, si, dsi, T, total)
            tl.debug_barrier()
            clear_z = clear + tl.load(n + 15)
            for i in range(clear, clear_z):
                put(G, tl.load(clears + i), none, none, none, none, PARTS, T, BLOCK)
            for i in range(clear_z, clear_z + tl.load(n + 16)):
                put(ZG, tl.load(clears + i), none, none, none, none, PARTS, T, BLOCK)
            tl.debug_barrier()
        er, der, ei, dei = get(ZG, 0, PARTS, T, BLOCK)
        if PARTS == 2:
            er, der = ei, dei
        _gather(start_bar, 0, lanes, lane, mask, er, der, T, lanes)
        tl.debug_barrier()
