"""Steady states of programs that are played over and over."""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import jvp, vmap

from mrsim import _remat
from mrsim.epg.blocks import silent
from mrsim.epg.engine import evolve
from mrsim.epg.inputs import checked
from mrsim.epg.program import Layout, Program
from mrsim.epg.state import State
from mrsim.tissue import Tissue
from mrsim.tree import tree_flatten, tree_unflatten

_COLUMNS = 128  # of the map made at a time: bounds the memory of reverse mode


def steady(tissue: Tissue, program: Program) -> State:
    r"""Return the state that a program, played over and over, starts and ends with.

    One playing maps a state x to A·x + b; the steady state solves (1 - A)·x = b. Its
    derivative is implicit, dx = (1 - A)⁻¹ (dA·x + db): nothing is unrolled.

    The orders at the start of a playing are finite in number if the program ends with
    an ideal spoiler or winds up nothing. Otherwise ``program.states`` must say how many
    are kept: what is lost is that of spins that stay in the transverse plane, or in Z
    between pulses, for so many repetitions. Doubling it shows the error.

    Args:
        tissue: the voxel.
        program: one period. RF phases must repeat with it, so quadratic RF spoiling has
            no such steady state.

    Returns:
        The state at the start; ``run(tissue, program, steady(tissue, program))`` is the
        signal.

    Raises:
        TypeError: a field is no floating tensor, or dtypes differ.
        ValueError: shapes or devices do not match, the orders have no end, or the
            tissue has T2′.

    >>> from mrsim import Tissue, epg
    >>> from mrsim.units import deg, ms
    >>> tissue = Tissue(T1=1.0, T2=0.1)
    >>> pair = epg.bssfp_program(epg.BSSFP(flip=[40 * deg] * 2, TR=10 * ms))
    >>> epg.run(tissue, pair, epg.steady(tissue, pair)).abs()
    tensor([0.1564, 0.1564])
    """
    pools = checked("epg.steady", tissue, program)[1]
    if tissue.T2p is not None:
        raise ValueError(
            "epg.steady: no single state has T2p, which is a spread of df; average"
            " the steady states of several df, or play the program often in one run"
        )
    order = _order(program.layout, program.states)
    leaves, structure = tree_flatten((tissue, silent(program)))
    sizes = Sizes(pools.free, pools.count, order, _winding(program.layout))
    value = partial(_value, structure, sizes)
    push = partial(_push, structure, sizes, len(leaves))
    segment = _remat.Segment(value, len(leaves), push=push)
    x = _remat.apply(segment, *(leaf.contiguous() for leaf in leaves))
    return _unpacked(x, sizes)


class Sizes(NamedTuple):
    """What a state holds, and how far orders move in one playing."""

    free: int  # pools with transverse magnetisation
    pools: int  # longitudinal components
    order: int  # the highest
    winding: int


def _value(structure: Any, sizes: Sizes, *leaves: Tensor) -> Tensor:
    return _solved(partial(_step, structure, sizes, leaves), leaves[0], sizes)[0]


def _push(structure: Any, sizes: Sizes, n: int, *inputs: Tensor) -> Tensor:
    """Return the derivative along one tangent, or along many on a leading axis."""
    leaves, moves = inputs[:n], inputs[n:]
    x, inverse = _solved(partial(_step, structure, sizes, leaves), leaves[0], sizes)

    def along(*tangents: Tensor) -> Tensor:
        return jvp(lambda *xs: _step(structure, sizes, xs, x), leaves, tangents)[1]

    if moves[0].ndim == leaves[0].ndim:
        return inverse @ along(*moves)
    return vmap(along)(*moves) @ inverse.mT


def _step(
    structure: Any, sizes: Sizes, leaves: tuple[Tensor, ...], x: Tensor
) -> Tensor:
    """Play once: A·x + b."""
    tissue, program = tree_unflatten(list(leaves), structure)
    return _packed(evolve(tissue, program, _unpacked(x, sizes))[1], sizes)


def _solved(
    step: Callable[[Tensor], Tensor], like: Tensor, sizes: Sizes
) -> tuple[Tensor, Tensor]:
    """Return the fixed point of a step x → A·x + b, and (1 - A)⁻¹."""
    orders, probes = _coloured(sizes)
    order, probe = (torch.tensor(x, device=like.device) for x in (orders, probes))
    b = step(torch.zeros_like(like.expand(len(orders))))
    ways = torch.arange(max(probes) + 1, device=like.device)[:, None] == probe
    moved = vmap(step, out_dims=1, chunk_size=_COLUMNS)(ways.to(like.dtype))
    near = (order[:, None] - order).abs() <= sizes.winding
    A = (moved - b[:, None])[:, probe] * near.to(like.dtype)
    eye = torch.eye(len(orders), dtype=like.dtype, device=like.device)
    inverse, _ = torch.linalg.inv_ex(eye - A)  # lu_solve: wrong in vmap(hessian)
    return inverse @ b, inverse


@lru_cache
def _coloured(sizes: Sizes) -> tuple[list[int], list[int]]:
    """Return each unknown's order |k|, and the probe that finds its column of the map.

    One playing takes |k| to |k| ± winding at most, so columns of orders that lie
    further apart share a probe: a few playings find the map of many orders.
    """
    free, pools, top, winding = sizes
    found: list[tuple[int, str, int, bool]] = []  # |k|, part, pool, side
    for part in ("F re", "F im"):
        for pool in range(free):
            found += [(abs(k), part, pool, k < 0) for k in range(-top, top + 1)]
    for part in ("Z re", "Z im"):
        for pool in range(pools):
            first = part == "Z im"  # Z0 is real
            found += [(k, part, pool, False) for k in range(first, top + 1)]
    apart = min(2 * winding + 1, top + 1)
    keys = [(k % apart, *which) for k, *which in found]
    numbers = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    return [k for k, *_ in found], [numbers[key] for key in keys]


def _packed(state: State, sizes: Sizes) -> Tensor:
    """Flatten a state to real numbers; orders above the highest are dropped."""
    free, pools, order, _ = sizes
    F, Z = state.F.reshape(free, -1), state.Z.reshape(pools, -1)
    missing = max(order + 1 - Z.shape[1], 0)
    if missing:
        F, Z = _padded(F, missing, missing), _padded(Z, 0, missing)
    middle = F.shape[1] // 2
    F, Z = F[:, middle - order : middle + order + 1], Z[:, : order + 1]
    parts = F.real, F.imag, Z.real, Z.imag[:, 1:]
    return torch.cat([part.flatten() for part in parts])


def _padded(x: Tensor, before: int, after: int) -> Tensor:
    none = torch.zeros_like(x[:, :1])
    return torch.cat([none.expand(-1, before), x, none.expand(-1, after)], 1)


def _unpacked(x: Tensor, sizes: Sizes) -> State:
    free, pools, order, _ = sizes
    f, z = free * (2 * order + 1), pools * (order + 1)
    a, b, c, d = x.split([f, f, z, x.shape[0] - 2 * f - z])
    d = d.reshape(pools, order)
    d = torch.cat([torch.zeros_like(c[:pools, None]), d], 1)
    F = torch.complex(a, b).reshape(free, -1)
    Z = torch.complex(c.reshape(pools, -1), d)
    return State(F=F, Z=Z) if pools > 1 else State(F=F[0], Z=Z[0])


@lru_cache
def _order(layout: Layout, states: int | None) -> int:
    """Return the highest order at the start of each playing."""
    after = max((i + 1 for i, e in enumerate(layout) if e.spoil), default=0)
    most = _winding(layout[after:])
    if not after and most:
        if states is None:
            raise ValueError(
                "epg.steady: the program winds up new orders each time it is played;"
                " say how many to keep with replace(program, states=...), or end it"
                " with an ideal spoiler"
            )
        return states - 1
    return most if states is None else min(most, states - 1)


def _winding(layout: Layout) -> int:
    """Return the orders that a layout adds: shifts between operations may cancel."""
    total, net = 0, 0
    for event in layout:
        if not isinstance(event.shift, int):
            raise ValueError(
                "epg.steady: orders with three axes cannot be handed from one playing"
                " to the next; use shifts along one axis"
            )
        if event.pulse or event.invert:
            total, net = total + abs(net), 0
        net += event.shift
    return total + abs(net)
