"""Apparent diffusion of a mesh, to second order in the gradient."""

from typing import Any

import torch
from torch import Tensor

from mrsim._check import check_floats
from mrsim.torrey._strength import attenuation, check_refocused
from mrsim.torrey.basis import Basis
from mrsim.torrey.encoding import Waveform, profile
from mrsim.torrey.encoding_profile import Pieces, echo_time, moments, order, pieces


def apparent_exponent(basis: Basis, encoding: Any) -> Tensor:
    r"""Return E = −log S to second order in the gradient, without relaxation.

    E = ∫∫_{s<t} g(t)ᵀ Aᵀ e^{−Λ(t−s)} A g(s) ds dt, where the columns of A are the
    coordinates in the basis: h' = −Λh + A g, E' = gᵀAᵀh, by matrix exponentials of
    (1, h, E). Surfaces should not relax: the loss at g = 0 is no part of it.

    Args:
        basis: of `laplace`.
        encoding: any refocused encoding.

    Returns:
        () E, so that the Gaussian approximation of the signal is e^{−E}.

    Raises:
        ValueError: the encoding does not refocus.

    Reference:
        Li et al. 2020 (NMR Biomed 33:e4353), equations 23–29; Haddar et al. 2018
        (Comm Math Sci 16:1763).

    >>> from mrsim import torrey
    >>> corners = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]) / 100
    >>> mesh = torrey.make_mesh(corners, [[0, 1, 2, 3]])
    >>> basis = torrey.laplace(*mesh, torrey.Water(D=2e-3))
    >>> x = torrey.PGSE(q=0.0, direction=[1.0, 0, 0], delta=0.01, Delta=0.03)
    >>> torrey.apparent_exponent(basis, x).abs()
    tensor(0.)
    """
    check_refocused("apparent_exponent", encoding, needed=True)
    wave = profile(encoding)
    check_floats("apparent_exponent", decay=basis.decay, time=wave.duration)
    played = pieces(wave)
    turned = _coordinates(basis) @ played.vector.double().mT  # (mode, piece)
    made = _second(basis.decay.double(), turned[:, None, :], played)
    return made[0, 0].to(basis.decay.dtype)


def apparent_tensor(basis: Basis, encoding: Any) -> Tensor:
    r"""Return the effective diffusion tensor that an encoding sees.

    D = Σₙ jₙ aₙ aₙᵀ with aₙ the mean coordinates of a mode and jₙ the encoding's
    weight of its decay rate: the response to any direction of the encoding's gradient.

    Args:
        basis: of `laplace`; its relaxation is ignored.
        encoding: any but a waveform, with a gradient that is not zero and keeps its
            direction; the direction does not matter.

    Returns:
        (3, 3) symmetric [mm²/s].

    Raises:
        ValueError: the gradient of the encoding turns.

    Reference:
        Li et al. 2020 (NMR Biomed 33:e4353), equation 29.

    >>> from mrsim import torrey
    >>> corners = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]) / 100
    >>> mesh = torrey.make_mesh(corners, [[0, 1, 2, 3]])
    >>> basis = torrey.laplace(*mesh, torrey.Water(D=2e-3))
    >>> x = torrey.PGSE(q=5e4, direction=[1.0, 0, 0], delta=0.01, Delta=0.03)
    >>> bool(torrey.apparent_tensor(basis, x)[0, 0] < 2e-3)
    True
    """
    if (
        isinstance(encoding, Waveform)
        or getattr(encoding, "direction2", None) is not None
    ):
        raise ValueError(
            "apparent_tensor: the gradient must keep its direction; use"
            " apparent_diffusion for waveforms and for two directions"
        )
    check_floats("apparent_tensor", decay=basis.decay, q=encoding.q)
    wave = profile(encoding)
    played = pieces(wave)
    u = encoding.direction.double()
    along = played.vector.double() @ u / (u * u).sum()
    turned = _coordinates(basis)[:, :, None] * along
    made = _second(basis.decay.double(), turned, played)
    b = moments(wave)[1].diagonal().sum().double() / (u * u).sum()
    return ((made + made.mT) / (2 * b)).to(basis.decay.dtype)


def apparent_diffusion(basis: Basis, encoding: Any) -> Tensor:
    """Return the apparent diffusion coefficient E/b of a mesh, see `apparent_exponent`.

    Args:
        basis: of `laplace`; its relaxation is ignored.
        encoding: any encoding with b > 0.

    Returns:
        () [mm²/s].

    Raises:
        ValueError: the encoding has no gradients, or does not refocus.

    >>> from mrsim import torrey
    >>> corners = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]) / 100
    >>> mesh = torrey.make_mesh(corners, [[0, 1, 2, 3]])
    >>> basis = torrey.laplace(*mesh, torrey.Water(D=2e-3))
    >>> x = torrey.PGSE(q=5e4, direction=[1.0, 0, 0], delta=0.01, Delta=0.03)
    >>> bool(torrey.apparent_diffusion(basis, x) < 2e-3)
    True
    """
    B = attenuation("apparent_diffusion", encoding)
    return apparent_exponent(basis, encoding) / B.diagonal().sum()


def gaussian(basis: Basis, encoding: Any) -> Tensor:
    """Return the Gaussian approximation of the signal, S = S(g = 0) e^{−E}.

    Args:
        basis: of `laplace`.
        encoding: any refocused encoding.

    Returns:
        () real signal, as a share of all spins.

    Raises:
        ValueError: the encoding does not refocus.

    Reference:
        Li et al. 2020 (NMR Biomed 33:e4353), equation 30.

    >>> from mrsim import torrey
    >>> corners = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]) / 100
    >>> mesh = torrey.make_mesh(corners, [[0, 1, 2, 3]])
    >>> basis = torrey.laplace(*mesh, torrey.Water(D=2e-3))
    >>> x = torrey.PGSE(q=5e4, direction=[1.0, 0, 0], delta=0.01, Delta=0.03)
    >>> made, exact = torrey.gaussian(basis, x), torrey.signal(basis, x).real
    >>> bool((made - exact).abs() < 0.02)
    True
    """
    kept = torch.exp(-apparent_exponent(basis, encoding))
    rates = basis.decay  # surfaces may relax
    if basis.relaxation is not None:
        rates = rates + basis.relaxation
    start = basis.weight.sum(0)
    left = torch.matrix_exp(-echo_time(profile(encoding))[None, None] * rates)
    return kept * (start @ left @ start)


def _coordinates(basis: Basis) -> Tensor:
    """Return x of all spins in the basis, about the centre (mode, 3)."""
    return (basis.position @ basis.weight.sum(0)).mT.double()


def _second(decay: Tensor, turned: Tensor, played: Pieces) -> Tensor:
    """Return ∫∫_{s<t} a(t)ᵀ e^{−Λ(t−s)} a(s) of a(t) (mode, column, piece).

    Returns:
        (column, column).
    """
    modes, columns, _ = turned.shape
    size = columns + modes + columns
    tau = played.duration.double()
    rows = torch.eye(size, dtype=decay.dtype, device=decay.device)
    first, inside, last = rows.split([columns, modes, columns], 1)
    steady = -inside @ decay @ inside.mT
    source = inside @ turned.movedim(2, 0) @ first.mT
    gather = last @ turned.movedim(2, 0).mT @ inside.mT
    made = torch.matrix_exp(tau[:, None, None] * (steady + source + gather))
    state = first
    flip = 1 - 2 * inside.sum(1, keepdim=True)  # the modes change their sign
    for k, sign in order(played):
        state = made[k] @ state if sign > 0 else flip * (made[k] @ (flip * state))
    return last.mT @ state
