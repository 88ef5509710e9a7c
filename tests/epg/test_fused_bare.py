"""Forward over reverse mode as plain torch has it: dual numbers on a tape."""

import torch
from both_paths import on_torch
from cases import TRAIN
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import grad, jvp

from mrsim import Tissue, epg


def _cost(T1: Tensor, T2: Tensor) -> Tensor:
    s = epg.fse(Tissue(T1=T1, T2=T2), TRAIN)
    return s.real.square().sum() + s.imag.square().sum()


def test_hessian_times_vector_by_dual_numbers_on_a_tape() -> None:
    x, v = (torch.tensor(0.9), torch.tensor(0.08)), (torch.tensor(0.3), torch.tensor(2))
    with forward_ad.dual_level():
        duals = [
            forward_ad.make_dual(a.clone().requires_grad_(), b.to(a))
            for a, b in zip(x, v, strict=True)
        ]
        slopes = torch.autograd.grad(_cost(*duals), duals, create_graph=True)
        made = [forward_ad.unpack_dual(slope).tangent for slope in slopes]
    assert all(m is not None for m in made)
    wanted = on_torch(
        jvp, grad(_cost, (0, 1)), x, tuple(b.to(a) for a, b in zip(x, v, strict=True))
    )
    for m, w in zip(made, wanted[1], strict=True):
        torch.testing.assert_close(m.detach(), w, rtol=1e-10, atol=1e-12)
