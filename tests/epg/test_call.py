"""A kernel that fails gives no answer."""

import pytest
import torch
from cases import PLAIN, TRAIN
from torch import Tensor

from mrsim import epg
from mrsim.epg.kernels import call
from mrsim.tree import replace

if epg.engine_info().path != "fused":
    pytest.skip("no compiled kernel here", allow_module_level=True)


def test_a_kernel_without_memory_gives_no_signal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(call, "kernel", lambda *_: lambda _address: 1)
    with pytest.raises(MemoryError, match="do not fit into memory"):
        epg.fse(PLAIN, TRAIN)


def test_a_derivative_whose_kernel_cannot_be_built_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The disk may be full by the time that a gradient is asked for."""
    found = call.kernel

    def kernel(physics: call.Physics, variant: call.Variant = call._FORWARD) -> object:
        return "the disk is full" if variant.back else found(physics, variant)

    def cost(T2: Tensor) -> Tensor:
        return epg.fse(replace(PLAIN, T2=T2), TRAIN).real.sum()

    monkeypatch.setattr(call, "kernel", kernel)
    assert cost(PLAIN.T2).isfinite()
    with pytest.raises(RuntimeError, match="epg: the disk is full"):
        torch.func.grad(cost)(PLAIN.T2)
