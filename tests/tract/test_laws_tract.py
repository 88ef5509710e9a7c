"""The laws of every public simulator, for streamlines of a few steps."""

from collections.abc import Callable
from typing import Any

import laws
import pytest
import torch
from cases import Case
from torch import Tensor
from torch.func import grad, vmap
from tract.phantoms import AFFINE, curved

import mrsim
from mrsim import tract
from mrsim.tree import put

FIELD = curved(size=2, lmax=2, crossing=0.2)
MIDDLE = AFFINE[:3, :3].sum(1) * 0.5 + AFFINE[:3, 3]
SEED = tract.Seed(
    position=MIDDLE + torch.tensor([0.13, -0.21, 0.17]),
    direction=torch.tensor([0.93, 0.3, 0.2]),
)
# one vertex each way; two by the rule of fourth order
EULER = tract.options(FIELD, step=0.2, minlength=0.0, maxlength=0.0)
RK4 = tract.options(FIELD, step=0.2, minlength=0.0, maxlength=0.0, rk4=True)


def like(record: Any, field: tract.Field) -> Any:
    return mrsim.to(record, field.affine.dtype, field.affine.device)


def of_seed(options: tract.Options) -> Callable[..., Tensor]:
    return lambda seed, field: tract.stream(seed, field, like(options, field)).points


def of_step(options: tract.Options, field: tract.Field) -> Tensor:
    return tract.stream(like(SEED, field), field, options).points


STEP = Case("step", of_step, (EULER, FIELD))
POINT = Case("seed", of_seed(EULER), (SEED, FIELD), silent=("direction",))
FOURTH = Case("rk4", of_step, (RK4, FIELD))
LAWS = [
    laws.one_is_its_slice,
    laws.one_leaf_can_be_mapped,
    laws.forward_is_reverse_is_differences,
    laws.mapped_jacobians_are_loops,
    laws.mapped_once_jacobians_are_loops,
    laws.single_precision_stays,
    laws.hessians_are_right,
    laws.mapped_hessians_are_loops,
    laws.third_derivatives_are_right,
    laws.pure,
    laws.trees_come_back,
    laws.pieces_are_the_whole,
    laws.acquisitions_have_gradients,
    laws.meta_in_meta_out,
    laws.autograd_works_too,
    laws.gradients_commute_with_maps,
    laws.default_precision_does_not_matter,
]
# the others took every leaf of the image again
OF_POINT = [
    laws.one_is_its_slice,
    laws.one_leaf_can_be_mapped,
    laws.single_precision_stays,
    laws.mapped_hessians_are_loops,
    laws.pure,
    laws.trees_come_back,
    laws.meta_in_meta_out,
    laws.gradients_commute_with_maps,
]
OF_FOURTH = [
    laws.mapped_jacobians_are_loops,
    laws.single_precision_stays,
    laws.hessians_are_right,
]
PAIRS = [
    pytest.param(law, case, id=f"{case.name}-{law.__name__}")
    for case, chosen in ((STEP, LAWS), (POINT, OF_POINT), (FOURTH, OF_FOURTH))
    for law in chosen
]


@pytest.mark.parametrize(("law", "case"), PAIRS)
def test_law(law: Callable[[Case], None], case: Case) -> None:
    law(case)


@pytest.mark.parametrize("bad", ["position", "coefficients"])
def test_a_nan_streamline_changes_no_neighbour(bad: str) -> None:
    seeds, fields = laws.stacked(SEED), laws.stacked(FIELD)
    hole = torch.tensor([False, True, False])

    def f(seed: tract.Seed, field: tract.Field) -> Tensor:
        return tract.stream(seed, field, EULER).points

    def slope(seed: tract.Seed, field: tract.Field) -> Any:
        return grad(lambda x: f(seed, x).square().sum())(field)

    broken = [seeds, fields]
    which = 0 if bad == "position" else 1
    x = getattr(broken[which], bad)
    wide = hole.reshape(-1, *(1,) * (x.ndim - 1))
    broken[which] = put(broken[which], bad, torch.where(wide, torch.nan, x))
    for g in (f, slope):
        made = vmap(g)(*broken)
        wanted = vmap(g)(seeds, fields)
        for a, b in zip(
            mrsim.tree.tree_leaves(made), mrsim.tree.tree_leaves(wanted), strict=True
        ):
            assert torch.equal(a[~hole], b[~hole])
    rejected = vmap(lambda s, x: tract.stream(s, x, EULER).length)(*broken)
    assert rejected.tolist()[1] == 0
