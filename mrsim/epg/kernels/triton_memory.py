"""What the walk on a GPU reads and writes: states, coefficients, and their cotangents.

A store is (pointers, what lies between two, what lies before a derivative, mask).
"""

# ruff: noqa: ANN001, ANN201, D103, DOC201, FBT003, RET505
# Triton reads no annotation but constexpr.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportGeneralTypeIssues=false

import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]

from mrsim.epg.kernels.triton_numbers import scaled, total

# ------------------------------------------------------------------------------- states


@triton.jit
def states(at, lane, width, between, pools: tl.constexpr, form: tl.constexpr):
    """Return a store of states of some pools."""
    part = tl.arange(0, form.parts)[:, None, None]
    pool = tl.arange(0, form.pad)[None, :, None]
    p = at + (part * pools + pool) * width + lane
    some = (pool < pools) & (part >= 0) & (lane >= 0)
    return p, between, form.parts * pools * width, some


@triton.jit
def get(store, i, form: tl.constexpr):
    at, between, onward, mask = store
    p = at + i * between
    if form.tangents:
        return (tl.load(p, mask, 0.0), tl.load(p + onward, mask, 0.0))
    else:
        return (tl.load(p, mask, 0.0),)


@triton.jit
def put(store, i, x):
    at, between, onward, mask = store
    p = at + i * between
    tl.store(p, x[0], mask)
    if len(x) == 2:
        tl.store(p + onward, x[1], mask)


@triton.jit
def only(store, some):
    """Return a store that is read and written only if `some`."""
    at, between, onward, mask = store
    return at, between, onward, mask & some


@triton.jit
def wipe(store, places, first, count, form: tl.constexpr):
    """Write zeros to listed places."""
    at, between, onward, mask = store
    none = tl.full(at.shape, 0, at.dtype.element_ty)
    for i in range(first, first + count):
        p = at + tl.load(places + i) * between
        tl.store(p, none, mask)
        if form.tangents:
            tl.store(p + onward, none, mask)


@triton.jit
def wipe_all(store, count, form: tl.constexpr):
    at, between, onward, mask = store
    none = tl.full(at.shape, 0, at.dtype.element_ty)
    for i in range(count):
        tl.store(at + i * between, none, mask)
        if form.tangents:
            tl.store(at + i * between + onward, none, mask)


# ------------------------------------------------------------------------- coefficients


@triton.jit
def number(value, moved, at, mask, other: tl.constexpr, form: tl.constexpr):
    """Read a coefficient; `other` (of no derivative) where it is masked."""
    if form.tangents:
        return (tl.load(value + at, mask, other), tl.load(moved + at, mask, 0.0))
    else:
        return (tl.load(value + at, mask, other),)


@triton.jit
def add_to(bars, onward, at, mask, x):
    """Add a cotangent to what others have left of it."""
    p = bars + at
    tl.store(p, tl.load(p, mask, 0.0) + x[0], mask)
    if len(x) == 2:
        tl.store(p + onward, tl.load(p + onward, mask, 0.0) + x[1], mask)


@triton.jit
def matrix(first, pools: tl.constexpr, form: tl.constexpr):
    """Return the rows of a matrix over some pools, and which of its block are those."""
    i = tl.arange(0, form.pad)
    to, source = i[None, :, None, None], i[None, None, :, None]
    return first + to * pools + source, (to < pools) & (source < pools)


@triton.jit
def crossing(first, form: tl.constexpr):
    """Return the rows that couple bound pools and their dipolar orders, as a matrix."""
    i = tl.arange(0, form.pad)
    to, source = i[None, :, None, None], i[None, None, :, None]
    half: tl.constexpr = (form.pools - form.free) // 2
    far = (to - source == half) | (source - to == half)
    inside = (to >= form.free) & (source >= form.free)
    rows = first + to - form.free + 0 * source
    return rows, far & inside & (to < form.pools) & (source < form.pools)


@triton.jit
def saturated(first, form: tl.constexpr):
    """Return the rows of what a knot leaves of pools that are not free."""
    pool = tl.arange(0, form.pad)[None, :, None]
    return first + pool - form.free, (pool >= form.free) & (pool < form.pools)


@triton.jit
def coefs(K, dK, j, W, dW, wait, lanes, lane, mask, form: tl.constexpr):
    """Read the coefficients of knot j and of the wait before it.

    Row by row a knot has c, s, re and (of two parts) im of its turn, c of bound pools
    and dipolar orders, and what couples these; a wait the matrices that carry F (and
    their imaginary parts) and relax η, regrowth, and polynomials of loss and turn.
    """
    knot = j * form.knot_rows
    c = number(K, dK, knot * lanes + lane, mask, 0.0, form)
    s = number(K, dK, (knot + 1) * lanes + lane, mask, 0.0, form)
    re = number(K, dK, (knot + 2) * lanes + lane, mask, 0.0, form)
    im, M_im, X, loss, turn = re, re, re, (re, re, re), (re, re)
    if form.parts == 2:
        im = number(K, dK, (knot + 3) * lanes + lane, mask, 0.0, form)
    if form.pools > form.free:
        pool = tl.arange(0, form.pad)[None, :, None]
        rows, there = saturated(knot + 2 + form.parts, form)
        some = there & (form.bound > 0) & mask
        kept = number(K, dK, rows * lanes + lane, some, 1.0, form)
        if form.tangents:
            c = (
                tl.where(pool < form.free, c[0], kept[0]),
                tl.where(pool < form.free, c[1], kept[1]),
            )
        else:
            c = (tl.where(pool < form.free, c[0], kept[0]),)
    if form.bound == 2:
        rows, there = crossing(knot + 2 + form.parts + form.pools - form.free, form)
        X = number(K, dK, rows * lanes + lane, there & mask, 0.0, form)
    at = wait * form.wait_rows
    rows, there = matrix(at, form.free, form)
    M = number(W, dW, rows * lanes + lane, there & mask, 0.0, form)
    if form.shifted:
        rows += form.free * form.free
        M_im = number(W, dW, rows * lanes + lane, there & mask, 0.0, form)
    at += (1 + form.shifted) * form.free * form.free
    rows, there = matrix(at, form.pools, form)
    U = number(W, dW, rows * lanes + lane, there & mask, 0.0, form)
    at += form.pools * form.pools
    rows = at + tl.arange(0, form.pad)[None, :, None]
    there = rows < at + form.pools
    g = number(W, dW, rows * lanes + lane, there & mask, 0.0, form)
    at += form.pools
    if form.motion:
        loss = (
            number(W, dW, at * lanes + lane, mask, 0.0, form),
            number(W, dW, (at + 1) * lanes + lane, mask, 0.0, form),
            number(W, dW, (at + 2) * lanes + lane, mask, 0.0, form),
        )
        if form.parts == 2:
            turn = (
                number(W, dW, (at + 3) * lanes + lane, mask, 0.0, form),
                number(W, dW, (at + 4) * lanes + lane, mask, 0.0, form),
            )
    return c, s, re, im, M, M_im, U, g, X, loss, turn


@triton.jit
def keep(
    bars, K_bar, far_k, j, W_bar, far_w, wait, lanes, lane, mask, form: tl.constexpr
):
    """Add cotangents of what `coefs` has read to those of other knots and blocks."""
    c, s, re, im, M, M_im, U, g, X, loss, turn = bars
    knot = j * form.knot_rows
    pool = tl.arange(0, form.pad)[None, :, None]
    add_to(K_bar, far_k, knot * lanes + lane, mask, free_total(c, pool, form))
    add_to(K_bar, far_k, (knot + 1) * lanes + lane, mask, s)
    add_to(K_bar, far_k, (knot + 2) * lanes + lane, mask, re)
    if form.parts == 2:
        add_to(K_bar, far_k, (knot + 3) * lanes + lane, mask, im)
    if form.bound:
        rows, there = saturated(knot + 2 + form.parts, form)
        add_to(K_bar, far_k, rows * lanes + lane, there & mask, c)
    if form.bound == 2:
        rows, there = crossing(knot + 2 + form.parts + form.pools - form.free, form)
        add_to(K_bar, far_k, rows * lanes + lane, there & mask, X)
    at = wait * form.wait_rows
    rows, there = matrix(at, form.free, form)
    add_to(W_bar, far_w, rows * lanes + lane, there & mask, M)
    if form.shifted:
        rows += form.free * form.free
        add_to(W_bar, far_w, rows * lanes + lane, there & mask, M_im)
    at += (1 + form.shifted) * form.free * form.free
    rows, there = matrix(at, form.pools, form)
    add_to(W_bar, far_w, rows * lanes + lane, there & mask, U)
    at += form.pools * form.pools
    rows = at + pool
    add_to(W_bar, far_w, rows * lanes + lane, (pool < form.pools) & mask, g)
    at += form.pools
    if form.motion:
        add_to(W_bar, far_w, at * lanes + lane, mask, loss[0])
        add_to(W_bar, far_w, (at + 1) * lanes + lane, mask, loss[1])
        add_to(W_bar, far_w, (at + 2) * lanes + lane, mask, loss[2])
        if form.parts == 2:
            add_to(W_bar, far_w, (at + 3) * lanes + lane, mask, turn[0])
            add_to(W_bar, far_w, (at + 4) * lanes + lane, mask, turn[1])


@triton.jit
def free_total(x, pool, form: tl.constexpr):
    """Sum over the pools that the flip angle turns."""
    return total(scaled((pool < form.free).to(x[0].dtype), x), 1, True)
