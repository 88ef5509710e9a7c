"""Many signals of one basis in bounded memory, and how exact they are in time."""

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap

from mrsim._remat import remat
from mrsim.torrey._memory import available
from mrsim.torrey._plausible import check_encoding
from mrsim.torrey._strength import check_refocused
from mrsim.torrey.basis import Basis
from mrsim.torrey.encoding import profile
from mrsim.torrey.encoding_profile import pieces
from mrsim.torrey.formalism import signal
from mrsim.tree import put, tree_leaves, tree_map

_COPIES = 8  # matrices alive at once in an exponential of one
_CACHE = 2**23  # bytes of matrices of one kind that stay near a processor
_FEWEST = 128


def signals(basis: Basis, encodings: Any, memory: int = 2**30) -> Tensor:
    """Return the signals of a batch of encodings in bounded memory.

    The same as ``vmap(torrey.signal, (None, 0))``, in chunks that fit; derivatives
    recompute each chunk and stay in the same memory.

    Args:
        basis: of `laplace`.
        encodings: a batch, every leaf with a first axis (encoding, …).
        memory: bytes that one chunk may take.

    Returns:
        (encoding,) complex signals.

    Raises:
        MemoryError: one encoding alone takes more than ``memory`` or than there is.
        ValueError: an encoding has impossible times.

    >>> from mrsim import torrey
    >>> corners = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]) / 100
    >>> mesh = torrey.make_mesh(corners, [[0, 1, 2, 3]])
    >>> basis = torrey.laplace(*mesh, torrey.Water(D=2e-3))
    >>> pair = torrey.PGSE(q=1e4, direction=[1.0, 0, 0], delta=0.005, Delta=0.02)
    >>> u = torrey.directions(5, dtype=torch.float32)
    >>> torrey.signals(basis, torrey.shells(pair, [500.0, 900.0], u)).shape
    torch.Size([10])
    """
    check_encoding(encodings)
    check_refocused("signals", encodings)
    count = len(tree_leaves(encodings)[0])
    one = signal_bytes(basis, tree_map(lambda x: x[0], encodings))
    left = available(basis.decay.device)
    if one > memory or (left is not None and one > left):
        raise MemoryError(
            f"signals: one encoding takes about {one / 2**30:.2f} GiB with"
            f" {len(basis.decay)} modes, but {min(memory, left or memory) / 2**30:.2f}"
            f" GiB are given; take fewer modes or time steps, or more memory"
        )
    chunk = max(1, memory // one)
    mapped = vmap(signal, (None, 0), chunk_size=_together(basis.decay))
    if chunk >= count:
        return mapped(basis, encodings)
    frugal = remat(mapped)
    made = [
        frugal(basis, tree_map(lambda x, i=i: x[i : i + chunk].clone(), encodings))
        for i in range(0, count, chunk)
    ]
    return torch.cat(made)


def _together(L: Tensor) -> int | None:
    """Return how many signals are quickest together; ``None``: all."""
    if L.device.type != "cpu":
        return None
    return max(_FEWEST, _CACHE // (L.numel() * L.element_size()))


def signal_bytes(basis: Basis, encoding: Any) -> int:
    """Return about how many bytes the signal of one encoding takes.

    Args:
        basis: of `laplace`.
        encoding: one encoding, or one of a batch.

    Returns:
        Bytes of the matrices that are held at once.

    >>> import torch
    >>> from mrsim import torrey
    >>> mesh = torrey.mesh_box([6e-3, 6e-3, 6e-3], (2, 2, 2))
    >>> water = torrey.Water(D=torch.tensor(2e-3).double())
    >>> basis = torrey.laplace(*mesh, water, modes=9)
    >>> pair = torrey.PGSE(q=1e4, direction=[1.0, 0, 0], delta=0.005, Delta=0.02)
    >>> torrey.signal_bytes(basis, pair)
    15552
    """
    made = pieces(profile(encoding))
    moving = sum(2 - still for still in made.still)
    side = len(basis.decay)
    return _COPIES * moving * side * side * basis.decay.element_size()


def time_error(basis: Basis, encoding: Any) -> Tensor:
    """Estimate the error of a signal that comes from its time steps.

    |S(steps) − S(2 steps)| · 16/15, by the fourth order of the scheme; 0 for
    rectangular pulses, which take no steps.

    Args:
        basis: of `laplace`.
        encoding: one encoding.

    Returns:
        () estimate, as a share of all spins.

    >>> from mrsim import torrey
    >>> corners = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]) / 100
    >>> mesh = torrey.make_mesh(corners.double(), [[0, 1, 2, 3]])
    >>> basis = torrey.laplace(*mesh, torrey.Water(D=torch.tensor(2e-3).double()))
    >>> f = torch.tensor([9e3, 0.02, 0.025], dtype=torch.float64)
    >>> x = torrey.CosOGSE(q=f[0], direction=f * 0 + 0.5, delta=f[1], Delta=f[2])
    >>> bool(torrey.time_error(basis, x) < 1e-6)
    True
    """
    if not hasattr(encoding, "steps"):
        return torch.zeros_like(basis.amount)
    finer = put(encoding, "steps", 2 * profile(encoding).steps)
    made = partial(signal, basis)
    apart = made(encoding) - made(finer)
    return torch.hypot(apart.real, apart.imag)[None].mul(16 / 15)[0]
