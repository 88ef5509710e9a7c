"""The matrix formalism: signals from matrix exponentials of a basis.

ν' = −(L + T + iγ g(t)·A) ν, ν(0) = Σ_c w_c, S_c = w_c·ν(TE). All matrices are
symmetric, so that a refocused segment has the conjugate propagator and a mirrored one
the transpose: the two pulses of a PGSE need one matrix exponential. Where a play is
the mirrored conjugate of itself about its middle, P = Eᴴ C E, a single compartment
needs one half of it: S = yᴴ C y, y = E ν(0).
"""

from typing import Any

import torch
from torch import Tensor

from mrsim._check import check_floats
from mrsim.torrey._playing import mirrored, played, prepare
from mrsim.torrey._strength import check_moment
from mrsim.torrey.basis import Basis, laplace
from mrsim.torrey.encoding import PGSE, Waveform, profile
from mrsim.torrey.encoding_profile import Pieces, Profile, moments, pieces
from mrsim.torrey.mesh import Nodes, Topology
from mrsim.torrey.water import Water
from mrsim.tree import tree_leaves


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

    >>> import torch
    >>> from mrsim import torrey
    >>> corners = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]) / 100
    >>> mesh = torrey.make_mesh(corners, [[0, 1, 2, 3]])
    >>> basis = torrey.laplace(*mesh, torrey.Water(D=2e-3))
    >>> pair = torrey.PGSE(q=1e4, direction=[1.0, 0, 0], delta=0.005, Delta=0.02)
    >>> torrey.signal_parts(basis, pair).abs()
    tensor([0.9951])
    """
    check_floats("torrey.signal", decay=basis.decay, encoding=tree_leaves(encoding)[0])
    made = profile(encoding)
    phase = None
    if isinstance(encoding, Waveform):
        phase = _net_phase(basis, encoding, made)
    parts = _echo(basis, pieces(made))
    return parts if phase is None else phase * parts


def _net_phase(basis: Basis, encoding: Waveform, made: Profile) -> Tensor:
    """Return the phase of the centre that an encoding with a net moment leaves."""
    F = moments(made)[0]
    check_moment("torrey.signal", encoding, F)
    turn = (F * basis.centre).sum(-1, keepdim=True)
    return torch.complex(turn.cos(), -turn.sin())


def _echo(basis: Basis, made: Pieces) -> Tensor:
    """Return w·ν(TE) of every compartment."""
    play, half = made.play, len(made.play) // 2
    start = basis.weight.sum(0)
    nu = torch.stack([start, torch.zeros_like(start)])
    if len(basis.weight) > 1 or not mirrored(made):
        last = played(prepare(basis, made, play), made, play, nu)
        real, imaginary = (basis.weight @ x for x in last.unbind(0))
        return torch.complex(real, imaginary)
    tools = prepare(basis, made, play[: len(play) - half])
    nu = played(tools, made, play[:half], nu)
    real = (nu * played(tools, made, play[half : len(play) - half], nu)).sum()[None]
    return torch.complex(real, torch.zeros_like(real))


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
    """Return `simulate` of a pair of rectangular pulses.

    Args:
        nodes: positions [mm].
        topology: connectivity.
        water: properties of the water.
        encoding: the pair.

    Returns:
        () complex signal, as a share of all spins.

    >>> import torch
    >>> from mrsim import torrey
    >>> corners = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]) / 100
    >>> mesh = torrey.make_mesh(corners, [[0, 1, 2, 3]])
    >>> pair = torrey.PGSE(q=1e4, direction=[1.0, 0, 0], delta=0.005, Delta=0.02)
    >>> torrey.pgse(*mesh, torrey.Water(D=2e-3), pair).abs()
    tensor(0.9951)
    """
    return simulate(nodes, topology, water, encoding)
