"""Numbers of the walk on a GPU (see `mrsim.epg.kernels.triton_walk`).

A number is a tuple of a value and, where a tangent is carried, its derivative: blocks
of shape (part, pool, lane) that are broadcast against each other, with one part for
real numbers or re and im, and pools padded by zeros to a power of two. A matrix of
numbers over pools has shape (1, to, from, lane). `pulled` is the transpose of a
product: the way back on such numbers is the reverse mode of the forward mode.
"""

# ruff: noqa: ANN001, ANN201, ANN202, D103, FBT003, RET505
# Triton reads no annotation but constexpr, and wants a return in each branch of what it
# decides while compiling.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false

import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]


@triton.jit
def plus(a, b):
    if len(a) == 1:
        return (a[0] + b[0],)
    else:
        return (a[0] + b[0], a[1] + b[1])


@triton.jit
def minus(a, b):
    if len(a) == 1:
        return (a[0] - b[0],)
    else:
        return (a[0] - b[0], a[1] - b[1])


@triton.jit
def scaled(k, a):
    """Multiply a number by what has no derivative."""
    if len(a) == 1:
        return (k * a[0],)
    else:
        return (k * a[0], k * a[1])


@triton.jit
def times(a, x):
    if len(a) == 1:
        return (a[0] * x[0],)
    else:
        return (a[0] * x[0], a[0] * x[1] + a[1] * x[0])


@triton.jit
def pulled(a, y):
    """Return the cotangent of x from the cotangent y of a·x."""
    if len(a) == 1:
        return (a[0] * y[0],)
    else:
        return (a[0] * y[0] + a[1] * y[1], a[0] * y[1])


@triton.jit
def _sum(x, axis: tl.constexpr, keep: tl.constexpr):
    # not tl.sum: that is made for a card, if triton was imported before an interpreter
    return tl.reduce(x, axis, tl.standard._sum_combine, keep_dims=keep)


@triton.jit
def total(a, axis: tl.constexpr, keep: tl.constexpr):
    if len(a) == 1:
        return (_sum(a[0], axis, keep),)
    else:
        return (_sum(a[0], axis, keep), _sum(a[1], axis, keep))


@triton.jit
def by_source(x):
    """Lay states along the columns of a matrix over pools."""
    if len(x) == 1:
        return (x[0][:, None, :, :],)
    else:
        return (x[0][:, None, :, :], x[1][:, None, :, :])


@triton.jit
def by_target(x):
    if len(x) == 1:
        return (x[0][:, :, None, :],)
    else:
        return (x[0][:, :, None, :], x[1][:, :, None, :])


@triton.jit
def mixed(m, x):
    """Multiply a matrix and states."""
    return total(times(m, by_source(x)), 2, False)


@triton.jit
def unmixed(m, y):
    """Return the cotangent of x from the cotangent y of m·x."""
    return total(pulled(m, by_target(y)), 1, False)


@triton.jit
def outer(x, y):
    """Return the cotangent of m from the cotangent y of m·x."""
    return total(pulled(by_source(x), by_target(y)), 0, True)


@triton.jit
def each_pool(x, y):
    """Return the cotangent of a real factor of each pool, from that y of a·x."""
    return total(pulled(x, y), 0, True)


@triton.jit
def dotted(x, y):
    """Return the cotangent of a real factor of all pools, from that y of a·x."""
    return total(each_pool(x, y), 1, True)


@triton.jit
def _quarter(x):
    part = tl.arange(0, 2)
    turn = (part[:, None] - part[None, :]).to(x.dtype)  # re' = -im, im' = re
    return _sum(turn[:, :, None, None] * x[None, :, :, :], 1, False)


@triton.jit
def quarter(x):
    """Multiply states of two parts by i."""
    if len(x) == 1:
        return (_quarter(x[0]),)
    else:
        return (_quarter(x[0]), _quarter(x[1]))


@triton.jit
def turned(re, im, x, PARTS: tl.constexpr):
    """Multiply states by re + i·im, numbers of one part each."""
    y = times(re, x)
    if PARTS == 2:
        y = plus(y, times(im, quarter(x)))
    return y


@triton.jit
def unturned(re, im, y, PARTS: tl.constexpr):
    """Return the cotangent of x from the cotangent y of (re + i·im) x."""
    x = pulled(re, y)
    if PARTS == 2:
        x = minus(x, pulled(im, quarter(y)))
    return x


@triton.jit
def _lifted(f, slope, x):
    if len(x) == 1:
        return (f,)
    else:
        return (f, slope * x[1])


@triton.jit
def wave(loss, turn, PARTS: tl.constexpr):
    """Return re and im of e^{-loss - i turn}."""
    size = tl.exp(-loss[0])
    real = _lifted(size, -size, loss)
    if PARTS == 1:
        return real, real
    else:
        c, s = tl.cos(turn[0]), tl.sin(turn[0])
        re, im = _lifted(c, -s, turn), _lifted(-s, -c, turn)
        return times(real, re), times(real, im)
