"""Simulators under torch.compile and torch.export: the same numbers, or a refusal."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import mrsim
from mrsim import Tissue, epg, ivim, torrey, tract
from mrsim.tree import tree_map
from mrsim.units import deg, ms, um

pytestmark = [
    pytest.mark.xdist_group("compile"),  # they share what takes long
    pytest.mark.filterwarnings("ignore"),  # torch's, of what it cannot look into
]

WAYS = tract.hemisphere(20)
SHELL = tract.Scheme(b=torch.full((20,), 2500.0), directions=WAYS)
FIBRES = tract.Fibres(
    axial=1.7e-3, radial=3e-4, orientations=[[1.0, 0.2, 0.1]], fractions=[0.9]
)
MODELS = {
    "ivim": (
        ivim.signal,
        ivim.Biexp(f=0.1, Dp=0.02, D=1e-3),
        ivim.Acquisition(b=[0.0, 10.0, 100.0, 800.0]),
    ),
    "ivim kurtosis": (
        ivim.signal,
        ivim.Simplified(f=0.1, D=1e-3, K=0.8),
        ivim.Acquisition(b=[0.0, 300.0, 800.0]),
    ),
    "fibres": (tract.multi_tensor, FIBRES, SHELL),
}
TISSUE = Tissue(T1=950 * ms, T2=100 * ms, B1=0.9)
TRAIN = epg.FSE(flip=[120 * deg, 100 * deg], esp=8 * ms)


class Module(torch.nn.Module):
    """What torch.export takes."""

    def __init__(self, f: Callable[..., Tensor]) -> None:
        super().__init__()
        self.f = f

    def forward(self, *args: Any) -> Tensor:
        return self.f(*args)


@pytest.fixture(autouse=True)
def _fresh() -> None:
    torch._dynamo.reset()


def exported(f: Callable[..., Tensor], *args: Any) -> Callable[..., Tensor]:
    return torch.export.export(Module(f), args).module()


def compiled(f: Callable[..., Tensor], **options: Any) -> Callable[..., Tensor]:
    return torch.compile(f, backend="aot_eager", **options)


@pytest.mark.parametrize("name", MODELS)
def test_closed_forms_compile(name: str) -> None:
    f, *args = MODELS[name]
    whole = name == "fibres"  # the others ask for fields of classes: a graph break
    torch.testing.assert_close(compiled(f, fullgraph=whole)(*args), f(*args))


@pytest.mark.parametrize("name", MODELS)
def test_closed_forms_are_exported_as_functions_of_their_inputs(name: str) -> None:
    f, params, protocol = MODELS[name]
    made = exported(f, params, protocol)
    other = tree_map(lambda x: 1.07 * x, params)
    torch.testing.assert_close(made(other, protocol), f(other, protocol))


def test_extended_phase_graphs_are_exported_on_the_torch_path() -> None:
    made = exported(epg.fse, TISSUE, TRAIN)
    other = mrsim.replace(TISSUE, T2=torch.tensor(0.05), B1=torch.tensor(1.1))
    faster = mrsim.replace(TRAIN, esp=torch.tensor(0.006))
    torch.testing.assert_close(made(other, faster), epg.fse(other, faster))


def test_bloch_torrey_refuses_an_export_that_would_fix_its_steps() -> None:
    nodes, topology = torrey.mesh_sphere(5 * um, size=4 * um)
    basis = torrey.laplace(nodes, topology, torrey.Water(D=2e-3), modes=8)
    pulse = torrey.PGSE(q=4e4, direction=[1.0, 0.0, 0.0], delta=5 * ms, Delta=20 * ms)
    with pytest.raises(Exception, match="data-dependent"):
        exported(torrey.signal, basis, pulse)
