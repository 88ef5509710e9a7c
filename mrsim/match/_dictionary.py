"""Compressed atoms: simulated when they are needed, and never stored as signals."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from mrsim import shard
from mrsim.match._atoms import Atoms
from mrsim.match._basis import subspace
from mrsim.tree import smooth

_PIECE = 2**10  # atoms simulated at once: what a CPU's caches hold
_REAL = 100.0  # times eps: an imaginary part that is rounding noise


class Dictionary(NamedTuple):
    """A dictionary as a rule: what its atoms are and how they are compressed."""

    f: Callable[..., Tensor]  # f(params, *args) → (sample,) signal of one voxel
    atoms: Atoms
    args: tuple[Any, ...]
    basis: Tensor | None  # (sample, rank); None: signals as they are
    real: bool  # the coefficients of all atoms are real
    lost: float  # largest share of an atom's energy outside the basis [1]
    inflation: dict[str, float]  # unknown → largest var(compressed) / var(whole) [1]


def dictionary(
    f: Callable[..., Tensor],
    atoms: Atoms,
    *args: Any,
    rank: int | None = None,
    unknowns: Sequence[str] = (),
    weight: float = 1.0,
    samples: int = 4096,
) -> Dictionary:
    """Make a dictionary of a simulator's signals.

    Nothing but a sample is simulated yet, to find the basis and to see whether one
    phase makes all coefficients real (as of an echo train without off-resonance), which
    halves the work.

    Args:
        f: the signal of one voxel, ``f(params, *args)``, of shape (sample,).
        atoms: the parameters, as from `grid`, `sobol` or `latin`.
        *args: further arguments of f, such as the sequence.
        rank: number of coefficients kept, see `subspace`; all samples if ``None``.
        unknowns: fields whose Cramér-Rao bound the basis keeps, see `subspace`.
        weight: as for `subspace`.
        samples: as for `subspace`.

    Returns:
        The dictionary; ``lost`` and ``inflation`` tell what the compression costs.

    Raises:
        TypeError: the atoms are a record.
        ValueError: as for `subspace`.

    >>> import mrsim, torch
    >>> from mrsim import match
    >>> decay = lambda tissue, t: (-t / tissue.T2).exp()
    >>> atoms = match.sobol(mrsim.Tissue(T1=1.0, T2=0.1), 64, T2=(0.02, 0.2))
    >>> t = torch.linspace(0.01, 0.2, 20)
    >>> match.coefs(match.dictionary(decay, atoms, t, rank=4), torch.arange(2)).shape
    torch.Size([2, 4])
    """
    lost, inflation, vectors = 0.0, {}, None
    if not isinstance(atoms, Atoms):
        raise TypeError(
            f"match.dictionary: atoms must come from match.grid, sobol, latin or"
            f" listed, got a {type(atoms).__name__}; give match.listed(records)"
        )
    if rank is not None:
        options = {"unknowns": unknowns, "weight": weight, "samples": samples}
        found = subspace(f, atoms, *args, rank=rank, **options)
        vectors, lost, inflation = found
    made = Dictionary(
        f, atoms, args, vectors, real=False, lost=lost, inflation=inflation
    )
    count = min(64, atoms.count)
    some = coefs(made, torch.arange(count) * atoms.count // count)
    if not some.is_complex():
        return made._replace(real=True)
    phase = some.square().sum().sgn().sqrt()
    eps = torch.finfo(some.dtype).eps
    real = (some / phase).imag.abs().max() < _REAL * eps * some.abs().max()
    if vectors is None or not real:
        return made
    return made._replace(basis=vectors / phase.to(torch.complex128), real=True)


def coefs(d: Dictionary, index: Tensor) -> Tensor:
    """Simulate some atoms and compress them.

    Args:
        d: the dictionary.
        index: (n,) which atoms.

    Returns:
        (n, rank), zero for atoms that do not take part.

    >>> import mrsim, torch
    >>> from mrsim import match
    >>> decay = lambda tissue, t: (-t / tissue.T2).exp()
    >>> atoms = match.grid(mrsim.Tissue(T1=1.0, T2=0.1), T2=[0.05, 0.1, 0.2])
    >>> d = match.dictionary(decay, atoms, torch.linspace(0.01, 0.2, 20), rank=2)
    >>> match.coefs(d, torch.tensor([2, 0])).shape
    torch.Size([2, 2])
    """
    piece = _PIECE if index.device.type == "cpu" else 64 * _PIECE
    return torch.cat([_piece(d, part) for part in index.split(piece)])


def _piece(d: Dictionary, index: Tensor) -> Tensor:
    some = d.atoms.at(index)
    here = torch.ones_like(index, dtype=torch.bool)
    if d.atoms.keep is not None:
        here = d.atoms.keep(some).to(index.device)
        here = here | (index == index[0]) if not here.any() else here
        some = d.atoms.at(index[here])
    signal = vmap(d.f, (0, *(None for _ in d.args)))(some, *d.args)
    made = compress(d, signal)
    made = made.real if d.real and made.is_complex() else made
    if d.atoms.keep is None:
        return made
    made = torch.where(d.atoms.keep(some).unsqueeze(1), made, 0.0)
    out = made.new_zeros(len(index), made.shape[1])
    return out.index_put((here.nonzero()[:, 0].to(made.device),), made)


def compress(d: Dictionary, data: Tensor) -> Tensor:
    """Return the coefficients of signals in a dictionary's basis.

    c = s V; what lies outside the basis is dropped.

    Args:
        d: the dictionary.
        data: (…, sample) signals, of any scale and phase.

    Returns:
        (…, rank).

    Raises:
        TypeError: data are whole numbers.

    >>> import mrsim, torch
    >>> from mrsim import match
    >>> decay = lambda tissue, t: (-t / tissue.T2).exp()
    >>> atoms = match.grid(mrsim.Tissue(T1=1.0, T2=0.1), T2=[0.05, 0.1, 0.2])
    >>> t = torch.linspace(0.01, 0.2, 20)
    >>> d = match.dictionary(decay, atoms, t, rank=2)
    >>> match.compress(d, torch.ones(7, 20)).shape
    torch.Size([7, 2])
    """
    if not smooth(data):
        raise TypeError(
            f"match: data must be floating-point or complex, got {data.dtype}; convert"
            f" them with data.float()"
        )
    if d.basis is None:
        return data
    wide = data.is_complex() or d.basis.is_complex()
    basis = d.basis.to(data.device)
    if not wide:
        return data @ basis.to(data.dtype)
    dtype = torch.promote_types(data.dtype, torch.complex32)
    return data.to(dtype) @ basis.to(dtype)


def build(
    d: Dictionary, folder: str | Path, size: int = 2**18, progress: bool = False
) -> shard.Store:
    """Simulate and compress all atoms and keep the coefficients in a folder.

    The work is spread over ranks and survives kills, see `mrsim.shard`; signals are
    never stored. An atom of rank 10 takes 40 bytes (real, float32) to 160.

    Args:
        d: the dictionary.
        folder: where.
        size: atoms in a shard.
        progress: show a progress bar, on rank 0 (needs tqdm, extra ``demo``).

    Returns:
        The store; its leaf is ``coefs``, (atom, rank).

    Raises:
        StoreError: the folder holds another job's results, or the disk is full.

    >>> import mrsim, tempfile, torch
    >>> from mrsim import match, shard
    >>> decay = lambda tissue, t: (-t / tissue.T2).exp()
    >>> atoms = match.sobol(mrsim.Tissue(T1=1.0, T2=0.1), 64, T2=(0.02, 0.2))
    >>> d = match.dictionary(decay, atoms, torch.linspace(0.01, 0.2, 20), rank=4)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     shard.read(match.build(d, folder), "coefs").shape
    torch.Size([64, 4])
    """

    def work(start: int, stop: int) -> dict[str, Tensor]:
        return {"coefs": coefs(d, torch.arange(start, stop))}

    inputs = (d.f, d.args, d.basis, d.real, d.atoms.count, d.atoms.inputs)
    return shard.run(work, d.atoms.count, folder, size, inputs, progress)
