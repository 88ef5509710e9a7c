"""A sequence of one's own, in a few lines: the hyperecho."""

import torch
from hypothesis import given, settings, strategies as st
from strategies import angles

from mrsim import Tissue, epg, jac
from mrsim.units import deg, ms


def hyperecho(flip: torch.Tensor, phase: torch.Tensor, esp: float) -> epg.Program:
    middle, none = torch.tensor([180 * deg]), torch.zeros(1)
    flips = torch.cat([middle / 2, flip, middle, -flip.flip(0)])
    phases = torch.cat([none, phase, none, -phase.flip(0)])
    half = torch.tensor([esp / 2])
    waits = torch.cat([half, 2 * half.expand(len(flips) - 2), half])
    excite = epg.Event(pulse=True, quadrant=1, shift=1)
    refocus = epg.Event(pulse=True, shift=2)
    echo = epg.Event(pulse=True, shift=1, read=True)
    layout = (excite, *(refocus,) * (len(flips) - 2), echo)
    return epg.Program(flip=flips, phase=phases, duration=waits, layout=layout)


@settings(max_examples=20)
@given(st.lists(st.tuples(angles, angles), min_size=1, max_size=6))
def test_all_magnetisation_comes_back(pulses: list[tuple[float, float]]) -> None:
    flip, phase = torch.tensor(pulses).T
    program = hyperecho(flip, phase, 10 * ms)
    still = Tissue(T1=torch.tensor(1e9), T2=torch.tensor(1e9))
    assert (epg.run(still, program) - 1).abs().max() < 1e-9
    turned = hyperecho(flip, phase + 0.4, 10 * ms)
    assert len(turned.layout) == 2 * len(pulses) + 2


def test_without_its_middle_it_does_not() -> None:
    flip, phase = torch.tensor([1.0, 0.4, 2.2]), torch.tensor([0.3, 1.1, -0.7])
    program = hyperecho(flip, phase, 10 * ms)
    flips = torch.where(program.flip == 180 * deg, torch.tensor(2.0), program.flip)
    still = Tissue(T1=torch.tensor(1e9), T2=torch.tensor(1e9))
    weak = epg.Program(**{**vars(program), "flip": flips})
    assert epg.run(still, weak).abs() < 0.99


def test_it_has_derivatives_like_any_other() -> None:
    flip, phase = torch.tensor([1.0, 0.4]), torch.tensor([0.3, 1.1])
    program, tissue = hyperecho(flip, phase, 10 * ms), Tissue(T1=1.0, T2=0.1)
    slope, h = jac(epg.run, "T2")(tissue, program).T2, 1e-6
    ahead, behind = (epg.run(Tissue(T1=1.0, T2=0.1 + d), program) for d in (h, -h))
    assert ((ahead - behind) / (2 * h) - slope).abs().max() < 1e-7
