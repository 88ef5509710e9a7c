"""How sequences are played: again and again, or across a slice."""

from functools import lru_cache

from torch import Tensor
from torch.func import vmap

from mrsim.epg._checks import check_whole
from mrsim.epg.blocks import concat, silent
from mrsim.epg.engine import run
from mrsim.epg.program import Layout, Program
from mrsim.epg.steady import steady
from mrsim.tissue import Tissue
from mrsim.tree import replace


def repeated(
    where: str, tissue: Tissue, program: Program, repeats: int | None
) -> Tensor:
    """Play a program several times from equilibrium; return the last signal.

    Args:
        where: the function that asks, for the message.
        tissue: the voxel.
        program: one period.
        repeats: how often; ``None`` for the steady state.

    Returns:
        (reading,) complex signal of the last playing.

    Raises:
        ValueError: repeats is no such number.
    """
    if repeats is None:
        if _only_fids(program.layout):
            tissue = _starred(tissue)
        return run(tissue, program, steady(tissue, program))
    check_whole(where, "repeats", repeats)
    if repeats > 1:
        program = concat(*(silent(program),) * (repeats - 1), program)
    return run(tissue, program)


@lru_cache
def _only_fids(layout: Layout) -> bool:
    """Tell whether no pulse meets transverse magnetisation: all is FID."""
    fresh = layout[-1].spoil
    for event in layout:
        if event.pulse and not fresh:
            return False
        fresh = (fresh and not event.pulse) or event.invert or event.spoil
    return True


def _starred(tissue: Tissue) -> Tissue:
    """Put T2′ into T2, which is exact for free induction decays."""
    if tissue.T2p is None:
        return tissue
    rate, exchange = 1 / tissue.T2p, tissue.exchange
    if exchange is not None:
        exchange = replace(exchange, T2=1 / (1 / exchange.T2 + rate))
    T2 = 1 / (1 / tissue.T2 + rate)
    return replace(tissue, T2=T2, T2p=None, exchange=exchange)


def averaged(tissue: Tissue, program: Program, profile: Tensor | None) -> Tensor:
    """Return the mean signal of positions across a slice.

    Args:
        tissue: the voxel.
        program: the sequence.
        profile: (position,) flip angles relative to the nominal one.

    Returns:
        (reading,) complex signal, Σ_j S(B1·profile_j) / positions.
    """
    if profile is None:
        return run(tissue, program)

    def at(share: Tensor) -> Tensor:
        B1 = share if tissue.B1 is None else share * tissue.B1
        return run(replace(tissue, B1=B1), program)

    return vmap(at)(profile).mean(0)
