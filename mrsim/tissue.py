"""The tissue of one voxel: its free water, and the pools that exchange with it."""

import math
from typing import Literal

from torch import Tensor

from mrsim.tree import neutral, record, static

Lineshape = Literal["superlorentzian", "lorentzian", "gaussian"]


@record
class Exchange:
    """Free pools 1, 2, … that exchange with the tissue's own, pool 0.

    A rate k of pair (i, j) takes magnetisation from pool i to pool j; the way back has
    k·M_i/M_j (detailed balance). Where `directional` is false, i → j has k·f_j and
    j → i has k·f_i. A scalar stands for one pool, or one pair.
    """

    T1: Tensor  # (pool,) longitudinal relaxation times [s]
    T2: Tensor  # (pool,) transverse relaxation times [s]
    f: Tensor  # (pool,) shares of the voxel's M0 [1]; pool 0 has the rest
    k: Tensor  # (pair,) exchange rates [1/s]
    df: Tensor | None = neutral(0.0, like="f")  # (pool,) shift from pool 0 [Hz]
    D: Tensor | None = None  # (pool,) diffusivities [mm²/s]; None: the tissue's D
    v: Tensor | None = None  # (pool,) velocities [mm/s]; None: the tissue's v
    pairs: tuple[tuple[int, int], ...] | None = static(None)  # None: (0, 1), (0, 2), …
    directional: bool = static(default=True)


@record
class Bound:
    """Semisolid pools without transverse magnetisation (magnetisation transfer).

    A rate k takes longitudinal magnetisation from a free pool to the bound one; the way
    back obeys detailed balance as in `Exchange`. Pulses saturate a bound pool, by
    ``program.saturation`` or through its lineshape at ``program.offset``. With T1D the
    pool also has dipolar order (inhomogeneous magnetisation transfer, Varma 2015). A
    scalar stands for one pool.
    """

    f: Tensor  # (pool,) shares of the voxel's M0 [1]
    k: Tensor  # (pool,) exchange rates from the free pool [1/s]
    T1: Tensor  # (pool,) longitudinal relaxation times [s]
    T2: Tensor | None = None  # (pool,) of the lineshape [s], about 10 µs
    T1D: Tensor | None = None  # (pool,) relaxation times of dipolar order [s]
    lineshape: Lineshape = static("superlorentzian")
    partners: tuple[int, ...] | None = static(None)  # the free pools; None: all pool 0
    directional: bool = static(default=True)


@record
class Tissue:
    """Magnetic properties of one voxel; in a batch every leaf has one more axis."""

    T1: Tensor  # () longitudinal relaxation time [s]
    T2: Tensor  # () transverse relaxation time [s]
    M0: Tensor | None = neutral(1.0)  # () equilibrium, all pools [signal units]
    B1: Tensor | None = neutral(1.0)  # () transmit field relative to nominal [1]
    df: Tensor | None = neutral(0.0)  # () off-resonance [Hz]; > 0 turns by e^{+i2πt df}
    D: Tensor | None = neutral(0.0)  # () or (3, 3) diffusivity [mm²/s]
    v: Tensor | None = neutral(0.0)  # () or (3,) velocity along the gradient [mm/s]
    T2p: Tensor | None = neutral(math.inf)  # () T2′ [s], a Lorentzian spread of df
    exchange: Exchange | None = None  # further free pools
    bound: Bound | None = None  # semisolid pools
