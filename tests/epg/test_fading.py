"""Diffusion and flow inside the torch engine: values, and tangents order by order."""

import playing
import pytest
from cases import BRIEF, DRIFTING, EVERYTHING, PREPARED, SPATIAL, TENSOR
from laws import close

import mrsim
from mrsim import Tissue, epg
from mrsim.tree import replace

DIFFUSING = replace(DRIFTING, v=None)
FLOWING = replace(DRIFTING, D=None, v=DRIFTING.T1 * 5)
BOTH = replace(DRIFTING, v=DRIFTING.T1 * 5)
REPEATED = epg.fisp_program(  # intervals of one kind share what they lose
    epg.FISP(flip=[0.3, 0.6, 0.9, 0.7, 0.4], TR=0.012, TE=0.003, moment=30.0)
)
WORLDS = {
    "repeated": (BOTH, REPEATED),
    "diffusion": (DIFFUSING, PREPARED),
    "flow": (FLOWING, PREPARED),
    "both": (BOTH, PREPARED),
    "pools": (EVERYTHING, BRIEF),
}
VECTORS = {
    "tensor": (replace(TENSOR, v=None), SPATIAL),
    "velocity": (replace(TENSOR, D=None), SPATIAL),
    "vectors": (TENSOR, SPATIAL),
}


@pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)
def test_the_engine_is_the_operators(world: tuple[Tissue, epg.Program]) -> None:
    with epg.use_engine("torch"):
        close(epg.run(*world), playing.signal(*world), 1e-12)


@pytest.mark.parametrize("world", (WORLDS | VECTORS).values(), ids=WORLDS | VECTORS)
def test_tangents_are_those_of_the_value(world: tuple[Tissue, epg.Program]) -> None:
    """Reverse mode differentiates the value; forward mode has rules of its own."""
    wanted = [n for n in ("D", "v") if getattr(world[0], n) is not None]
    wanted += ["moment", "flip"]
    if world[1].clock is None:  # else rows must stay equal
        wanted += ["duration"]
    with epg.use_engine("torch"):
        forward = mrsim.jac(epg.run, *wanted)(*world)
        reverse = mrsim.jac(epg.run, *wanted, mode="reverse")(*world)
    close(forward, reverse, 1e-11)


def test_exchange_leaves_out_what_moves_spins() -> None:
    plain = replace(EVERYTHING, D=None, v=None, B1=None)
    apart = replace(plain.exchange, D=plain.T1 * 1e-3, v=plain.T1)
    moving = replace(EVERYTHING, exchange=apart, T2p=plain.T2)
    state, time = epg.rest(plain), plain.T2
    close(epg.exchange(state, moving, time), epg.exchange(state, plain, time), 1e-15)
    assert epg.rest(Tissue(T1=0.9, T2=0.1)).Z.shape == (1,)
    with pytest.raises((TypeError, ValueError), match=r"epg\.exchange: "):
        epg.exchange(state, mrsim.to(replace(plain, M0=plain.M0[None])), time)
