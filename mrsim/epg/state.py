"""The configuration states of one voxel."""

import torch
from torch import Tensor

from mrsim.tree import record


@record
class State:
    """Fourier coefficients of the magnetisation along the gradient.

    M+(z) = Σ_k F_k e^{ikz}, Mz(z) = Σ_k Z_k e^{ikz}; Z_-k = conj(Z_k) is not stored.
    """

    F: Tensor  # (2K+1,) complex, orders -K … K [units of M0]
    Z: Tensor  # (K+1,) complex, orders 0 … K [units of M0]


def equilibrium(M0: Tensor) -> State:
    """Return the state at rest: Z_0 = M0, nothing else.

    Args:
        M0: () equilibrium magnetisation.

    Returns:
        A state of order 0.
    """
    Z = torch.complex(M0, torch.zeros_like(M0))[None]
    return State(F=torch.zeros_like(Z), Z=Z)
