"""How strong an encoding is: b values, net moments and gradients."""

from typing import Any

import torch
from torch import Tensor
from torch.func import vmap

from mrsim._check import concrete, warn
from mrsim.torrey.encoding import Waveform, profile
from mrsim.torrey.encoding_profile import moments
from mrsim.tree import put
from mrsim.units import GAMMA

_STRONGEST = 0.03  # gradient [T/mm]
_NET = 1e-3  # of the largest moment


def b_value(encoding: Any) -> Tensor:
    """Return b = ∫|F|² dt, F = ∫γG, in closed form.

    Args:
        encoding: any encoding.

    Returns:
        () b [s/mm²].

    >>> from mrsim import torrey
    >>> x = torrey.PGSE(q=5000.0, direction=[1.0, 0, 0], delta=0.01, Delta=0.03)
    >>> torrey.b_value(x)  # q² δ² (Δ − δ/3)
    tensor(66.6667)
    """
    return b_tensor(encoding).diagonal().sum()


def b_tensor(encoding: Any) -> Tensor:
    """Return the b tensor of an encoding, B = ∫F Fᵀ dt, in closed form.

    Args:
        encoding: any encoding.

    Returns:
        (3, 3) [s/mm²]; its trace is `b_value`.

    >>> from mrsim import torrey
    >>> x = torrey.PGSE(q=5000.0, direction=[1.0, 0, 0], delta=0.01, Delta=0.03)
    >>> torrey.b_tensor(x).diagonal().round()
    tensor([67.,  0.,  0.])
    """
    return moments(profile(encoding))[1]


def net_moment(encoding: Any) -> Tensor:
    """Return the moment that is left at the end, F(TE) = ∫γG dt.

    Args:
        encoding: any encoding.

    Returns:
        (3,) [rad/mm]; zero where the gradients refocus.

    >>> from mrsim import torrey
    >>> x = torrey.PGSE(q=5000.0, direction=[1.0, 0, 0], delta=0.01, Delta=0.03)
    >>> torrey.net_moment(x)
    tensor([0., 0., 0.])
    """
    return moments(profile(encoding))[0]


def with_b(encoding: Any, b: Tensor | float) -> Any:
    """Scale the gradients of an encoding to a b value.

    The derivative of the gradient strength with respect to b is infinite at b = 0.

    Args:
        encoding: with gradients of any strength but zero.
        b: () wanted [s/mm²].

    Returns:
        The encoding with its ``q`` (or a waveform's ``vectors``) scaled.

    Raises:
        ValueError: b is negative, or the encoding has no gradients to scale.

    >>> from mrsim import torrey
    >>> x = torrey.PGSE(q=1.0, direction=[1.0, 0, 0], delta=0.01, Delta=0.03)
    >>> torrey.b_value(torrey.with_b(x, 1000.0)).round()
    tensor(1000.)
    """
    name = "vectors" if isinstance(encoding, Waveform) else "q"
    old = getattr(encoding, name)
    wanted = torch.as_tensor(b, dtype=old.dtype, device=old.device)
    if concrete(wanted) and bool((wanted < 0).any()):
        raise ValueError(f"with_b: b must not be negative, got {wanted.tolist()} s/mm²")
    ratio = wanted / attenuation("with_b", encoding).diagonal().sum()
    return put(encoding, name, old * ratio.sqrt())


def with_G(encoding: Any, G: Tensor | float) -> Any:
    """Set the gradient strength of an encoding, q = γG of the proton.

    Args:
        encoding: any but a waveform.
        G: () gradient [T/mm]; above 30 T/m a warning asks for the unit.

    Returns:
        The encoding with its ``q`` replaced.

    >>> from mrsim import torrey
    >>> from mrsim.units import m, mT
    >>> x = torrey.PGSE(q=1.0, direction=[1.0, 0, 0], delta=0.01, Delta=0.03)
    >>> torrey.with_G(x, 80 * mT / m).q
    tensor(21401.7754)
    """
    old = encoding.q
    given = torch.as_tensor(G, dtype=old.dtype, device=old.device)
    if concrete(given) and float(given.abs().amax()) >= _STRONGEST:
        warn(
            f"with_G: G = {float(given.abs().amax()):g} T/mm is more than any gradient"
            f" coil makes; write {float(given.abs().amax()):g} * mT / m, or * T / m,"
            f" with mrsim.units"
        )
    return put(encoding, "q", given[None].mul(GAMMA)[0])


def attenuation(where: str, encoding: Any) -> Tensor:
    """Return the b tensor of an encoding that must have one, (3, 3) [s/mm²].

    Raises:
        ValueError: its gradients are zero.
    """
    B = b_tensor(encoding)
    b = B.diagonal().sum()
    if concrete(b) and not b > 0:
        raise ValueError(
            f"{where}: the encoding has b = 0, its gradients or their times are zero;"
            f" give it gradients, of any strength"
        )
    return B


def check_refocused(where: str, encoding: Any, *, needed: bool = False) -> None:
    """Tell of gradients that leave a net moment: `check_moment` of `net_moment`."""
    if isinstance(encoding, Waveform) and concrete(encoding.vectors):
        net = net_moment if encoding.vectors.ndim < 3 else vmap(net_moment)
        check_moment(where, encoding, net(encoding), needed=needed)


def check_moment(where: str, encoding: Any, F: Tensor, *, needed: bool = False) -> None:
    """Warn of gradients that leave a net moment, or refuse them.

    Args:
        where: the function that asks, for messages.
        encoding: one encoding, or a batch; only a `Waveform` can have a net moment.
        F: its net moment (3,) or (encoding, 3) [rad/mm].
        needed: whether what follows has no meaning without refocusing.

    Raises:
        ValueError: there is a net moment, and none is allowed.
    """
    if not isinstance(encoding, Waveform):
        return
    times, vectors = encoding.times, encoding.vectors
    if not (concrete(F) and concrete(times) and concrete(vectors)):
        return
    steps = times.detach().diff(dim=-1)[..., None]
    whole = (steps * vectors.detach()[..., :-1, :].abs()).sum((-1, -2))
    size = F.detach().norm(dim=-1)
    if not bool((size > _NET * whole).any()):
        return
    message = (
        f"Waveform: the gradients do not refocus, the net moment is"
        f" {float(size.max()):.3g} rad/mm; vectors are the effective γG, whose sign"
        f" changes with each refocusing pulse"
    )
    if needed:
        raise ValueError(f"{where} has no meaning without refocusing. {message}")
    warn(message)
