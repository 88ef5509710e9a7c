"""The few directions that the signals of a dictionary, or what they tell, lie in."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from mrsim.match._atoms import Atoms
from mrsim.transform import value_and_jac
from mrsim.tree import tree_leaves

_CHUNK = 256
_CHECKED = 1024


class Basis(NamedTuple):
    """An orthonormal basis V of signals: coefficients are s V, signals c Vᴴ."""

    vectors: Tensor  # (sample, rank), columns of norm 1, the most important first
    lost: float  # largest share of an atom's energy that it misses [1]
    inflation: dict[str, float]  # unknown → largest var(compressed) / var(whole) [1]


def subspace(
    f: Callable[..., Tensor],
    atoms: Atoms,
    *args: Any,
    rank: int,
    unknowns: Sequence[str] = (),
    weight: float = 1.0,
    samples: int = 4096,
) -> Basis:
    """Find the directions that hold most of the energy of the signals of atoms.

    V are the leading eigenvectors of Σ sᴴs / |s|² over atoms, summed up in pieces so
    that no signal is stored. With ``unknowns`` they also keep the Cramér-Rao bound: the
    sum gains weight·uᵢᴴuᵢ of unit length along the part of ∂s/∂θᵢ that is orthogonal to
    s, i·s and all other derivatives. The bound of θᵢ is 1/|that part|².

    Args:
        f: the signal of one voxel, ``f(params, *args)``, of shape (sample,).
        atoms: the dictionary's parameters.
        *args: further arguments of f.
        rank: number of directions.
        unknowns: fields whose bounds are kept; amplitude and phase are unknown too.
        weight: of each derivative against the signal.
        samples: how many atoms, evenly spaced in their index, are looked at; all if
            there are not more.

    Returns:
        The basis, with what it loses over (at most 1024 of) these atoms.

    Raises:
        ValueError: rank is not within 1 … samples of the signal.

    Reference:
        McGivney 2014 (IEEE TMI 33:2311); Mao, Flassbeck and Assländer 2023
        (arXiv:2305.00326) for the bound.

    >>> import mrsim, torch
    >>> from mrsim import match
    >>> decay = lambda tissue, t: (-t / tissue.T2).exp()
    >>> atoms = match.sobol(mrsim.Tissue(T1=1.0, T2=0.1), 64, T2=(0.02, 0.2))
    >>> t = torch.linspace(0.01, 0.2, 20)
    >>> match.subspace(decay, atoms, t, rank=4).lost < 1e-4
    True
    """
    gram = torch.zeros((), dtype=torch.float64)
    for s, columns in _pieces(f, atoms, args, unknowns, min(samples, atoms.count)):
        rows = torch.cat([s[:, None], weight**0.5 * duals(s, columns)], 1).flatten(0, 1)
        gram = gram.to(rows.device) + rows.mH @ rows
    if not gram.ndim or not 1 <= rank <= len(gram):
        raise ValueError(
            f"match: rank must lie in 1 … {len(gram) if gram.ndim else 0}, the samples"
            f" of a signal, got {rank}; and atoms.keep must keep some atoms"
        )
    if gram.is_complex() and gram.imag.abs().max() < 1e-9 * gram.real.abs().max():
        gram = gram.real
    vectors = torch.linalg.eigh(gram)[1].flip(1)[:, :rank]
    lost, worst = 0.0, dict.fromkeys(unknowns, 1.0)
    count = min(samples, atoms.count, _CHECKED)
    for s, columns in _pieces(f, atoms, args, unknowns, count):
        wide = vectors.to(s.dtype)
        lost = max(lost, float((1 - (s @ wide).abs().square().sum(1)).max()))
        ratio = variances(s @ wide, columns @ wide) / variances(s, columns)
        for k, name in enumerate(unknowns):
            worst[name] = max(worst[name], float(ratio[:, k].nan_to_num().max()))
    return Basis(vectors, lost, worst)


def _pieces(
    f: Callable[..., Tensor],
    atoms: Atoms,
    args: tuple[Any, ...],
    unknowns: Sequence[str],
    count: int,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield signals (n, sample) and derivatives (n, unknown, sample) of norm 1."""
    dims = (0, *(None for _ in args))
    for start in range(0, count, _CHUNK):
        index = torch.arange(start, min(count, start + _CHUNK)) * atoms.count // count
        some = atoms.at(index)
        if atoms.keep is not None:
            some = atoms.at(index[atoms.keep(some).to(index.device)])
        if not len(tree_leaves(some)[0]):
            continue
        if not unknowns:
            s = _wide(vmap(f, dims)(some, *args))
            yield _unit(s), s[:, None][:, :0]
            continue
        s, made = vmap(value_and_jac(f, *unknowns), dims)(some, *args)
        columns = torch.stack([getattr(made, n) for n in unknowns], 1)
        yield _unit(_wide(s)), _unit(_wide(columns))


def duals(s: Tensor, columns: Tensor) -> Tensor:
    """Return each derivative's part orthogonal to signal and other derivatives.

    Args:
        s: (n, sample) signals.
        columns: (n, unknown, sample) their derivatives, of norm 1.

    Returns:
        (n, unknown, sample) of norm 1; zero where nothing is left.
    """
    rows = _real_rows(s, columns)
    inverse, _ = torch.linalg.inv_ex(rows @ rows.mT)
    flat = _unit((inverse @ rows)[:, : columns.shape[1]].nan_to_num(0.0, 0.0, 0.0))
    if not s.is_complex():
        return flat
    return torch.view_as_complex(flat.reshape(*columns.shape, 2).contiguous())


def variances(s: Tensor, columns: Tensor) -> Tensor:
    """Return the bounds of the unknowns when amplitude and phase are unknown too.

    Args:
        s: (n, sample) signals.
        columns: (n, unknown, sample) their derivatives.

    Returns:
        (n, unknown) for noise of standard deviation 1.
    """
    rows = _real_rows(s, columns)
    inverse, _ = torch.linalg.inv_ex(rows @ rows.mT)
    return inverse.diagonal(dim1=1, dim2=2)[:, : columns.shape[1]]


def _real_rows(s: Tensor, columns: Tensor) -> Tensor:
    """Stack derivatives, signal and, if it is complex, i times it, as real rows."""
    if not s.is_complex():
        return torch.cat([columns, s[:, None]], 1)
    rows = torch.cat([columns, s[:, None], 1j * s[:, None]], 1)
    return torch.view_as_real(rows.resolve_conj()).flatten(2)


def _unit(x: Tensor) -> Tensor:
    size = x.abs().square().sum(-1, keepdim=True).sqrt()
    return x / torch.where(size > 0, size, 1.0)


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.complex128 if x.is_complex() else torch.float64)
