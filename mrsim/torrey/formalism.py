"""The matrix formalism: signals from matrix exponentials of a basis.

ν' = −(L + T + iγ g(t)·A) ν, ν(0) = Σ_c w_c, S_c = w_c·ν(TE). All matrices are
symmetric, so that a refocused segment has the conjugate propagator and a mirrored one
the transpose: the two pulses of a PGSE need one matrix exponential.
"""

from collections import Counter
from collections.abc import Container
from typing import Any

import torch
from torch import Tensor

from mrsim._check import check_floats, concrete, warn
from mrsim.torrey._action import Range, act, norm_of, quicker, ranges
from mrsim.torrey._fence import constant
from mrsim.torrey.basis import Basis, laplace
from mrsim.torrey.encoding import PGSE, Waveform, profile
from mrsim.torrey.encoding_profile import Pieces, Profile, moments, pieces
from mrsim.torrey.mesh import Nodes, Topology
from mrsim.torrey.water import Water
from mrsim.tree import tree_leaves

_NET = 1e-3  # of the largest moment
_AT_ONCE = 2**27  # bytes of propagators that are held together


def signal(basis: Basis, encoding: Any) -> Tensor:
    """Return the signal of a mesh for one encoding.

    Exact in the encoding for rectangular pulses; curved waveforms take time steps of
    fourth order, see `time_error`.

    Args:
        basis: of `laplace`: complete, or reduced to modes.
        encoding: any encoding.

    Returns:
        () complex signal, as a share of all spins: 1 without gradients and relaxation.

    Raises:
        TypeError: dtypes of the two differ, or ``encoding`` is no encoding.
        ValueError: a field of the encoding has a wrong shape.

    Reference:
        Callaghan 1997 (J Magn Reson 129:74); Li et al. 2020 (NMR Biomed 33:e4353).

    >>> import torch
    >>> from mrsim import torrey
    >>> corners = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]) / 100
    >>> mesh = torrey.make_mesh(corners, [[0, 1, 2, 3]])
    >>> basis = torrey.laplace(*mesh, torrey.Water(D=2e-3))
    >>> pair = torrey.PGSE(q=1e4, direction=[1.0, 0, 0], delta=0.005, Delta=0.02)
    >>> torrey.signal(basis, pair).abs()
    tensor(0.9951)
    """
    return signal_parts(basis, encoding).sum()


def signal_parts(basis: Basis, encoding: Any) -> Tensor:
    """Return the signal of every compartment; their sum is `signal`.

    Args:
        basis: of `laplace`.
        encoding: any encoding.

    Returns:
        (compartment,) complex signals, as shares of all spins.

    Raises:
        TypeError: dtypes of the two differ, or ``encoding`` is no encoding.
    """
    check_floats("torrey.signal", decay=basis.decay, encoding=tree_leaves(encoding)[0])
    made = profile(encoding)
    phase = None
    if isinstance(encoding, Waveform):
        phase = _net_phase(basis, made)
    real, imaginary = (basis.weight @ x for x in _final(basis, pieces(made)).unbind(0))
    parts = torch.complex(real, imaginary)
    return parts if phase is None else phase * parts


def _net_phase(basis: Basis, made: Profile) -> Tensor:
    """Return the phase of the centre that an encoding with a net moment leaves."""
    F, _ = moments(made)
    if concrete(F) and concrete(made.level):
        area = (made.duration[:, None] * made.level.abs()).sum()
        if float(F.norm()) > _NET * float(area):
            warn(
                f"Waveform: the gradients do not refocus, the net moment is"
                f" {float(F.norm()):.3g} rad/mm; vectors are the effective γG, whose"
                f" sign changes with each refocusing pulse"
            )
    turn = (F * basis.centre).sum(-1, keepdim=True)
    return torch.complex(turn.cos(), -turn.sin())


def _final(basis: Basis, made: Pieces) -> Tensor:
    """Play the pieces; return the state at the echo (2, mode), real and imaginary."""
    L = basis.decay
    L = L if basis.relaxation is None else L + basis.relaxation
    start = basis.weight.sum(0)
    nu = torch.stack([start, torch.zeros_like(start)])
    calm = _calm(L, made)
    rests = set() if calm is None else _rests(made)
    norms, bounds = _norms(L, basis.position, made, rests)
    whole = _exponentials(L, basis.position, made, norms.keys() | rests)
    X = basis.position  # states are rows, so that a mirrored play meets no transpose
    S = [torch.cat([A, *B.unbind(0)], -1) for A, B in ((L.mT, X.mT), (L, X))]
    for k, sign, reverse in made.play:
        part = made.segments[k]
        if calm is not None and k in rests:
            nu = _rested(calm, made.duration[part[0]][None], nu)
        elif k in norms:
            for p in reversed(part) if reverse else part:
                time, g = made.duration[p][None], made.vector[p] * sign
                how = (L.mT, time, None) if made.still[p] else (S[reverse], time, g)
                nu = act(nu, *how, bounds.middle, norms[k])
        else:
            nu = _turned(whole[k].mT if reverse else whole[k], nu, sign)
    return nu


def _rests(made: Pieces) -> set[int]:
    """Return the segments in which nothing turns."""
    return {k for k, part in enumerate(made.segments) if made.still[part[0]]}


def _calm(L: Tensor, made: Pieces) -> tuple[Tensor, Tensor] | None:
    """Return eigenvalues and eigenvectors of a constant L, for the rests."""
    if not any(made.still) or not constant(L) or not L.isfinite().all():
        return None  # equal eigenvalues have no derivatives
    values, vectors = torch.linalg.eigh(L)
    return values, vectors


def _rested(calm: tuple[Tensor, Tensor], time: Tensor, nu: Tensor) -> Tensor:
    """Return exp(−τL) ν."""
    values, vectors = calm
    return ((nu @ vectors) * (-time * values).exp()) @ vectors.mT


def _norms(
    L: Tensor, X: Tensor, made: Pieces, rests: set[int]
) -> tuple[dict[int, float], Range]:
    """Return the norms of those segments that had better act than be exponentiated.

    Those in ``rests`` are left out.
    """
    bounds = ranges(L, X)
    norms: dict[int, float] = {}
    if L.is_meta:
        return norms, bounds
    plays = Counter(step.segment for step in made.play)
    large = sum(2 - x for x in made.still) * len(L) ** 2 * L.element_size() > _AT_ONCE
    for k, part in enumerate(made.segments):
        if k in rests:
            continue
        span = slice(part[0], part[-1] + 1)
        norm = norm_of(bounds, made.duration[span], made.vector[span])
        if large or quicker(norm, plays[k], len(L), L.dtype):
            norms[k] = norm
    return norms, bounds


def _exponentials(
    L: Tensor, X: Tensor, made: Pieces, acting: Container[int]
) -> dict[int, Tensor]:
    """Return the propagators of all segments that do not act, exp(−τ(L + i g·X))."""
    chosen = [k for k in range(len(made.segments)) if k not in acting]
    moving = [p for k in chosen for p in made.segments[k] if not made.still[p]]
    stack: dict[int, Tensor] = {}
    if moving:
        tau = torch.stack([made.duration[p] for p in moving])[:, None, None]
        g = torch.stack([made.vector[p] for p in moving])
        turn = torch.einsum("pa,aij->pij", g, X)
        made_all = torch.matrix_exp(torch.complex(-tau * L, -tau * turn))
        stack = dict(zip(moving, made_all.unbind(0), strict=True))
    whole: dict[int, Tensor] = {}
    for k in chosen:
        part = made.segments[k]
        if made.still[part[0]]:
            whole[k] = torch.matrix_exp(-made.duration[part[0]][None, None] * L)
        else:
            whole[k] = _product([stack[p] for p in part])
    return whole


def _product(factors: list[Tensor]) -> Tensor:
    """Multiply propagators in the order of time."""
    made = factors[0]
    for E in factors[1:]:
        made = E @ made
    return made


def _turned(E: Tensor, nu: Tensor, sign: int) -> Tensor:
    """Multiply with a propagator, or with its conjugate where the sign is negative."""
    if not E.is_complex():
        return (E @ nu.mT).mT
    real, imaginary = nu.unbind(0)
    made = E @ torch.complex(real, sign * imaginary)
    return torch.stack([made.real, sign * made.imag])


def simulate(nodes: Nodes, topology: Topology, water: Water, encoding: Any) -> Tensor:
    """Return the signal of the complete finite-element model for one encoding.

    Every derivative of any order exists. For many encodings, or a large mesh, find
    the basis once by `laplace` and map `signal` over encodings.

    Args:
        nodes: positions [mm].
        topology: connectivity.
        water: properties of the water.
        encoding: any encoding.

    Returns:
        () complex signal, as a share of all spins.

    Raises:
        MemoryError: the mesh is too large for the complete model.

    >>> import torch
    >>> from mrsim import torrey
    >>> corners = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]) / 100
    >>> nodes, topology = torrey.make_mesh(corners, [[0, 1, 2, 3]])
    >>> pair = torrey.PGSE(q=1e4, direction=[1.0, 0, 0], delta=0.005, Delta=0.02)
    >>> torrey.simulate(nodes, topology, torrey.Water(D=2e-3), pair).abs()
    tensor(0.9951)
    """
    return signal(laplace(nodes, topology, water), encoding)


def pgse(nodes: Nodes, topology: Topology, water: Water, encoding: PGSE) -> Tensor:
    """Return `simulate` of a pair of rectangular pulses: a () complex signal."""
    return simulate(nodes, topology, water, encoding)
