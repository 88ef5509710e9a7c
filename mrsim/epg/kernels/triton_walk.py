"""The walk over a table on a GPU: one lane a spin, states in a scratch buffer.

A program takes a block of lanes at a time; axis 1 of the grid are tangents, or
cotangents. All accesses of a lane's memory are of one thread: the compiler lays parts
and pools into a thread's registers as long as it cannot know that lanes adjoin in
multiples of 16, which is why strides are never specialised. Barriers hold all the same
between the passes over orders, should another layout be chosen.
"""

# ruff: noqa: ANN001, ANN201, ANN202, FBT003, PLR0915
# Triton reads no annotation but constexpr.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportGeneralTypeIssues=false

import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]

from mrsim.epg.kernels.triton_memory import (
    add_to,
    coefs,
    get,
    keep,
    number,
    only,
    put,
    states,
    wipe,
    wipe_all,
)
from mrsim.epg.kernels.triton_numbers import plus
from mrsim.epg.kernels.triton_orders import back, come, operate


@triton.jit
def _knot(knots, j, form: tl.constexpr):
    """Return a knot's orders, its places, its signs and its wait."""
    n = knots + j * 20
    part = tl.arange(0, form.parts)[:, None, None]
    enter, leave = tl.load(n + 6), tl.load(n + 7)
    if form.parts == 2:  # Q is the conjugate of F
        enter, leave = 1 - 2 * part, 1 - 2 * part
    grows = (tl.load(n + 10) != 0) & (part == form.parts - 1)
    return (
        (tl.load(n + 2), tl.load(n + 3), tl.load(n + 4)),
        (tl.load(n + 5), tl.load(n + 19)),
        (enter, leave, grows),
        tl.load(n + 9),
    )


@triton.jit
def _clear(knots, j, clears, F, Z, form: tl.constexpr):
    n = knots + j * 20
    first, count = tl.load(n + 14), tl.load(n + 15)
    wipe(F, clears, first, count, form)
    wipe(Z, clears, first + count, tl.load(n + 16), form)


@triton.jit
def _forward(
    knots, clears, looks, K, dK, W, dW, start, dstart, raw, draw, F, Z, kept,
    count, lanes, lane, mask, way, form: tl.constexpr, keeps: tl.constexpr,
):  # fmt: skip
    """Walk there with one block of lanes; the first way writes the value."""
    real = start.dtype.element_ty
    part = tl.arange(0, form.parts)[:, None, None]
    pool = tl.arange(0, form.pad)[None, :, None]
    there = (pool < form.free) & mask
    wipe(Z, clears, 0, tl.load(knots + 14), form)
    some = (part == form.parts - 1) & (pool < form.pools) & mask
    rows = pool * lanes + lane + 0 * part
    put(Z, 0, number(start, dstart, rows, some, 0.0, form))
    for j in range(count):
        orders, places, signs, wait = _knot(knots, j, form)
        low, size, step = orders
        base, stored = places
        enter, leave, grows = signs
        _clear(knots, j, clears, F, Z, form)
        tl.debug_barrier()
        C = coefs(K, dK, j, W, dW, wait, lanes, lane, mask, form)
        for i in range(size):
            k = low + i * step
            a, b, z = get(F, base + k, form), get(F, base - k, form), get(Z, k, form)
            if keeps:
                put(kept[0], stored + i, a)
                put(kept[1], stored + i, b)
                put(kept[2], stored + i, z)
            order = k + 0 * lane
            on = (grows & (order == 0)).to(real)
            came = come(C, order.to(real), on, enter, a, b, z, form)
            a, b, z = operate(C, leave, came[5], came[6], came[7], form)
            put(F, base + k, a)
            put(only(F, order != 0), base - k, b)
            put(Z, k, z)
        tl.debug_barrier()
        n = knots + j * 20
        for r in range(tl.load(n + 17), tl.load(n + 17) + tl.load(n + 18)):
            place = tl.load(looks + r)
            if place >= 0:
                f = get(F, place, form)
                out = ((r * form.parts + part) * form.free + pool) * lanes + lane
                tl.store(raw + out, f[0], there & (way + 0 * lane == 0))
                if form.tangents:
                    tl.store(draw + out, f[1], there)
        tl.debug_barrier()


@triton.jit(
    do_not_specialize=[
        "count", "waits", "lanes", "places", "orders", "readings", "width",
        "first",
    ]
)  # fmt: skip
def there(
    knots, clears, looks, K, dK, W, dW, start, dstart, scratch, raw, draw,
    count, waits, lanes, places, orders, readings, width, first, form: tl.constexpr,
):  # fmt: skip
    """Walk there: raw F at the readings, and its derivative along one tangent."""
    worker, workers, way = tl.program_id(0), tl.num_programs(0), tl.program_id(1)
    lane0 = tl.arange(0, form.block)[None, None, :]
    lanes, width, way64 = lanes.to(tl.int64), width.to(tl.int64), way.to(tl.int64)
    size: tl.constexpr = (1 + form.tangents) * form.parts
    f, z = size * form.free * width, size * form.pools * width
    at = scratch + (way64 * workers + worker) * (places * f + orders * z)
    F = states(at, lane0, width, f, form.free, form)
    Z = states(at + places * f, lane0, width, z, form.pools, form)
    dK += way64 * count * form.knot_rows * lanes
    dW += way64 * waits * form.wait_rows * lanes
    dstart += way64 * form.pools * lanes
    draw += way64 * readings * form.parts * form.free * lanes
    for block in range(worker, (lanes + form.block - 1) // form.block, workers):
        lane = first + block * form.block + lane0
        _forward(
            knots, clears, looks, K, dK, W, dW, start, dstart, raw, draw, F, Z, (),
            count, lanes, lane, lane < lanes, way, form, False,
        )  # fmt: skip


@triton.jit
def _none(real: tl.constexpr, form: tl.constexpr):
    """Return cotangents of coefficients, all zero."""
    one = tl.full([1, 1, form.block], 0, real)
    pools = tl.full([1, form.pad, form.block], 0, real)
    square = tl.full([1, form.pad, form.pad, form.block], 0, real)
    if form.tangents:
        a, b, c = (one, one), (pools, pools), (square, square)
    else:
        a, b, c = (one,), (pools,), (square,)
    M_im, X = a, a
    if form.shifted:
        M_im = c
    if form.bound == 2:
        X = c
    return b, a, a, a, c, M_im, c, b, X, (a, a, a), (a, a)


@triton.jit(
    do_not_specialize=[
        "count", "waits", "lanes", "places", "orders", "readings", "width",
        "first", "stored",
    ]
)  # fmt: skip
def there_and_back(
    knots, clears, looks, K, dK, W, dW, start, dstart, scratch, raw, draw, bar,
    K_bar, W_bar, start_bar,
    count, waits, lanes, places, orders, readings, width, first, stored,
    form: tl.constexpr,
):  # fmt: skip
    """Walk there and back with a cotangent of raw F (and of its derivative)."""
    worker, workers, way = tl.program_id(0), tl.num_programs(0), tl.program_id(1)
    real = scratch.dtype.element_ty
    lane0 = tl.arange(0, form.block)[None, None, :]
    lanes, width, way64 = lanes.to(tl.int64), width.to(tl.int64), way.to(tl.int64)
    size: tl.constexpr = (1 + form.tangents) * form.parts
    f, z = size * form.free * width, size * form.pools * width
    half, each = places * f + orders * z, 2 * f + z
    at = scratch + (way64 * workers + worker) * (2 * half + stored * each)
    F = states(at, lane0, width, f, form.free, form)
    Z = states(at + places * f, lane0, width, z, form.pools, form)
    G = states(at + half, lane0, width, f, form.free, form)
    ZG = states(at + half + places * f, lane0, width, z, form.pools, form)
    at += 2 * half
    kept = (
        states(at, lane0, width, each, form.free, form),
        states(at + f, lane0, width, each, form.free, form),
        states(at + 2 * f, lane0, width, each, form.pools, form),
    )
    far_k, far_w = count * form.knot_rows * lanes, waits * form.wait_rows * lanes
    seen = readings * form.parts * form.free * lanes
    copies: tl.constexpr = 1 + form.tangents
    dK += way64 * far_k
    dW += way64 * far_w
    dstart += way64 * form.pools * lanes
    draw += way64 * seen
    bar += way64 * seen * copies
    K_bar += way64 * far_k * copies
    W_bar += way64 * far_w * copies
    start_bar += way64 * form.pools * lanes * copies
    for block in range(worker, (lanes + form.block - 1) // form.block, workers):
        lane = first + block * form.block + lane0
        mask = lane < lanes
        _forward(
            knots, clears, looks, K, dK, W, dW, start, dstart, raw, draw, F, Z, kept,
            count, lanes, lane, mask, way, form, True,
        )  # fmt: skip
        wipe_all(G, places, form)
        wipe_all(ZG, orders, form)
        tl.debug_barrier()
        for later in range(count):
            j = count - 1 - later
            _unlook(knots + j * 20, looks, G, bar, seen, lanes, lane, mask, form)
            window, at_knot, signs, wait = _knot(knots, j, form)
            base, stored_at = at_knot
            enter, leave, grows = signs
            C = coefs(K, dK, j, W, dW, wait, lanes, lane, mask, form)
            sums = _none(real, form)
            for i in range(window[1]):
                k = window[0] + i * window[2]
                a = get(kept[0], stored_at + i, form)
                b = get(kept[1], stored_at + i, form)
                c = get(kept[2], stored_at + i, form)
                order = k + 0 * lane
                on, zero = (grows & (order == 0)).to(real), (order == 0).to(real)
                n = order.to(real)
                came = come(C, n, on, enter, a, b, c, form)
                a, b, c = (
                    get(G, base + k, form),
                    get(G, base - k, form),
                    get(ZG, k, form),
                )
                sums, a, b, c = back(
                    C, sums, n, zero, on, enter, leave, came, a, b, c, form
                )
                put(G, base + k, a)
                put(only(G, order != 0), base - k, b)
                put(ZG, k, c)
            keep(sums, K_bar, far_k, j, W_bar, far_w, wait, lanes, lane, mask, form)
            tl.debug_barrier()
            _clear(knots, j, clears, G, ZG, form)
            tl.debug_barrier()
        _unstart(ZG, start_bar, lanes, lane, mask, form)
        tl.debug_barrier()


@triton.jit
def _unlook(n, looks, G, bar, seen, lanes, lane, mask, form: tl.constexpr):
    """Add the readings' cotangents to those of F."""
    part = tl.arange(0, form.parts)[:, None, None]
    pool = tl.arange(0, form.pad)[None, :, None]
    for r in range(tl.load(n + 17), tl.load(n + 17) + tl.load(n + 18)):
        place = tl.load(looks + r)
        if place >= 0:
            at = ((r * form.parts + part) * form.free + pool) * lanes + lane
            there = (pool < form.free) & mask
            more = number(bar, bar + seen, at, there, 0.0, form)
            put(G, place, plus(get(G, place, form), more))
            tl.debug_barrier()


@triton.jit
def _unstart(ZG, start_bar, lanes, lane, mask, form: tl.constexpr):
    part = tl.arange(0, form.parts)[:, None, None]
    pool = tl.arange(0, form.pad)[None, :, None]
    some = (part == form.parts - 1) & (pool < form.pools) & mask
    rows = pool * lanes + lane
    add_to(start_bar, form.pools * lanes, rows + 0 * part, some, get(ZG, 0, form))
