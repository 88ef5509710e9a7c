"""Steady states of programs that end with fewer orders than they might have."""

import torch

from mrsim import Tissue, epg


def test_gradients_that_meet_no_magnetisation_add_no_orders() -> None:
    tissue = Tissue(T1=0.3, T2=0.06, M0=1.2)
    program = epg.Program(
        flip=[0.5, 0.0],
        duration=[0.02, 0.03],
        layout=(epg.Event(pulse=True, read=True, spoil=True), epg.Event(shift=2)),
    )
    rest = epg.steady(tissue, program)
    left, lost = (-torch.tensor([0.05, 0.02]) / torch.tensor([0.3, 0.06])).exp()
    cos, sin = torch.tensor(0.5).cos(), torch.tensor(0.5).sin()
    before = 1.2 * (1 - left) / (1 - left * cos)
    torch.testing.assert_close(rest.Z.real[0], before, rtol=1e-12, atol=0)
    assert rest.F.abs().max() == rest.Z[1:].abs().max() == 0
    made = epg.run(tissue, program, rest)
    wanted = torch.complex(0 * sin, -before * sin * lost)[None]
    torch.testing.assert_close(made, wanted, rtol=1e-12, atol=1e-14)
