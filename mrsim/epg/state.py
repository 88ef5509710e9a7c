"""The configuration states of one voxel."""

import torch
from torch import Tensor

from mrsim.tree import record


@record
class State:
    """Fourier coefficients of the magnetisation along the gradient.

    M+(z) = Σ_k F_k e^{ikz}, Mz(z) = Σ_k Z_k e^{ikz}; Z_-k = conj(Z_k) is not stored.
    With several pools both have a leading axis: F the free pools, Z the free pools, the
    bound pools and, if they have it, the dipolar orders of the bound pools.
    """

    F: Tensor  # (2K+1,) or (free, 2K+1) complex, orders -K … K [units of M0]
    Z: Tensor  # (K+1,) or (component, K+1) complex, orders 0 … K [units of M0]


def equilibrium(M0: Tensor, free: int | None = None) -> State:
    """Return the state at rest: Z_0 = M0, nothing else.

    Args:
        M0: () equilibrium magnetisation, or (component,) of every pool, 0 for dipolar
            orders.
        free: how many of the components are free pools; ``None``: all.

    Returns:
        A state of order 0.

    >>> import torch
    >>> from mrsim import epg
    >>> rest = epg.equilibrium(torch.tensor(1.0))
    >>> rest.Z.real, rest.F.abs()
    (tensor([1.]), tensor([0.]))
    """
    Z = torch.complex(M0, torch.zeros_like(M0))[..., None]
    return State(F=torch.zeros_like(Z if M0.ndim == 0 else Z[:free]), Z=Z)
