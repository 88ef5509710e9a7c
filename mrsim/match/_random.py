"""Random designs of a dictionary whose every atom follows from its index alone."""

import torch
from torch import Tensor

from mrsim.match._atoms import Atoms, Keep, drawn

_BITS = torch.quasirandom.SobolEngine.MAXBIT
_FIELD = 0x9E3779B97F4A7C15  # 2⁶⁴ / golden ratio


def sobol(
    base: object,
    count: int,
    log: tuple[str, ...] = (),
    keep: Keep | None = None,
    seed: int = 0,
    **ranges: tuple[float, float],
) -> Atoms:
    """Spread atoms evenly over ranges by a scrambled Sobol sequence.

    More atoms are a refinement: the first ones stay. At most 2³⁰ of them.

    Args:
        base: one voxel's record; fields not named keep its value.
        count: how many.
        log: fields that are spread evenly in their logarithm.
        keep: tells which take part, such as ``lambda t: t.T2 <= t.T1``.
        seed: of the scrambling.
        **ranges: field → smallest and largest value [the field's unit].

    Returns:
        The atoms.

    Raises:
        ValueError: a range does not fit, or there are more atoms than the sequence has.

    Reference:
        Sobol 1967; Joe and Kuo 2008 (SIAM J Sci Comput 30:2635).

    >>> import mrsim
    >>> from mrsim import match
    >>> base = mrsim.Tissue(T1=1.0, T2=0.1)
    >>> match.sobol(base, 1000, log=("T1",), T1=(0.1, 5.0), T2=(0.01, 0.3)).count
    1000
    """
    if count > 2**_BITS:
        raise ValueError(
            f"match: a Sobol sequence has 2**{_BITS} points, asked for {count}; take"
            f" match.latin or match.grid"
        )
    engine = torch.quasirandom.SobolEngine(len(ranges), scramble=True, seed=seed)
    directions, first = engine.sobolstate, engine.shift

    def unit(index: Tensor) -> Tensor:
        gray = index ^ (index >> 1)
        x = first.to(index).expand(len(index), -1)
        for bit in range(_BITS):
            here = ((gray >> bit) & 1).bool().unsqueeze(1)
            x = torch.where(here, x ^ directions[:, bit].to(index), x)
        return (x.double() + 0.5) / 2**_BITS

    return drawn(base, count, ranges, log, unit, keep, ("sobol", seed))


def latin(
    base: object,
    count: int,
    log: tuple[str, ...] = (),
    keep: Keep | None = None,
    seed: int = 0,
    **ranges: tuple[float, float],
) -> Atoms:
    """Draw a random Latin hypercube: each of ``count`` slices of a range has one atom.

    The slices are shuffled by a Feistel cipher, so that no shuffled list is ever made
    and 1e10 atoms cost no memory.

    Args:
        base: one voxel's record; fields not named keep its value.
        count: how many.
        log: fields that are spread evenly in their logarithm.
        keep: tells which take part.
        seed: of the random numbers.
        **ranges: field → smallest and largest value [the field's unit].

    Returns:
        The atoms.

    Raises:
        ValueError: a range does not fit.

    Reference:
        McKay 1979 (Technometrics 21:239); Black and Rogaway 2002 (CT-RSA, 114).

    >>> import mrsim, torch
    >>> from mrsim import match
    >>> atoms = match.latin(mrsim.Tissue(T1=1.0, T2=0.1), 4, T2=(0.0, 0.4))
    >>> (atoms.at(torch.arange(4)).T2 / 0.1).floor().sort().values
    tensor([0., 1., 2., 3.])
    """

    def unit(index: Tensor) -> Tensor:
        columns = [
            (shuffled(index, count, seed, k) + uniform(index, seed, k)) / count
            for k in range(len(ranges))
        ]
        return torch.stack(columns, 1)

    return drawn(base, count, ranges, log, unit, keep, ("latin", count, seed))


def uniform(index: Tensor, seed: int, stream: int) -> Tensor:
    """Return a random number in [0, 1) that belongs to an index."""
    return (mixed(index, 2 * stream + 1, seed) >> 11 & (1 << 53) - 1).double() / 2**53


def shuffled(index: Tensor, count: int, seed: int, stream: int) -> Tensor:
    """Return the place of an index in a random order of 0 … count - 1."""
    half = max(1, (max(1, count - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    x, outside = index, torch.ones_like(index, dtype=torch.bool)
    while outside.any():
        # the cipher shuffles 4**half places: walk on to one below count
        left, right = x >> half, x & mask
        for turn in range(6):
            key = mixed(right, 2 * (8 * stream + turn), seed)
            left, right = right, left ^ (key >> 20 & mask)
        x = torch.where(outside, left << half | right, x)
        outside = x >= count
    return x


def mixed(x: Tensor, stream: int, seed: int) -> Tensor:
    """Return 64 random bits that belong to an integer (splitmix64, Steele 2014)."""
    start = _signed(_FIELD * (stream + 1) + 0xD1B54A32D192ED03 * (seed + 1))
    x = x.long() * _signed(_FIELD) + start
    x = (x ^ (x >> 30 & (1 << 34) - 1)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> 27 & (1 << 37) - 1)) * _signed(0x94D049BB133111EB)
    return x ^ (x >> 31 & (1 << 33) - 1)


def _signed(x: int) -> int:
    return (x + 2**63) % 2**64 - 2**63
