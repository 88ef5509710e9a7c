"""Criteria: tckgen's defaults, counts, and what is refused."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import grad

from mrsim import tract

FIELD = tract.Field(
    coefficients=torch.ones(2, 2, 2, 6),
    affine=torch.diag(torch.tensor([2.0, 2, 2.5, 1])),
)
SIZE = 10 ** (1 / 3)


def test_defaults_follow_the_voxel() -> None:
    made = tract.options(FIELD)
    assert float(made.step) == pytest.approx(0.1 * SIZE)
    assert (made.least, made.most, made.order) == (51, 1003, 1)
    assert made.angle == pytest.approx(math.pi / 3)
    slow = tract.options(FIELD, rk4=True)
    assert float(slow.step) == pytest.approx(0.25 * SIZE)
    assert (slow.least, slow.most, slow.order) == (21, 403, 4)
    turned = tract.Field(
        coefficients=FIELD.coefficients,
        affine=FIELD.affine[:, [2, 0, 1, 3]],  # axes in another order
    )
    assert float(tract.options(turned).step) == pytest.approx(0.1 * SIZE)


@pytest.mark.parametrize(
    ("given", "least", "most"),
    [
        ({"step": 0.5, "minlength": 20.0, "maxlength": 60.0}, 41, 123),
        ({"step": 0.3, "minlength": 1.0, "maxlength": 1.0}, 5, 7),
        ({"step": 1.0, "minlength": 0.0, "maxlength": 10.0}, 1, 13),
    ],
)
def test_lengths_become_counts(given: dict[str, float], least: int, most: int) -> None:
    made = tract.options(FIELD, **given)
    assert (made.least, made.most) == (least, most)


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"step": 0.0}, "positive"),
        ({"step": -1.0}, "step must not be negative"),
        ({"lanes": 0}, "lanes must be positive"),
        ({"angle": 60.0}, "rad"),
        ({"angle": 0.0}, "rad"),
        ({"cutoff": math.nan}, "cutoff"),
        ({"maxlength": -3.0}, "maxlength"),
        ({"mask": tract.Regions()}, "give images"),
        ({"mask": tract.Regions(images=torch.ones(1, 2, 2, 2))}, "affine"),
        ({"include": tract.Regions(centres=torch.ones(2, 3))}, "radii"),
        (
            {"exclude": tract.Regions(centres=torch.ones(2, 3), radii=torch.ones(1))},
            r"\(m, 3\)",
        ),
        (
            {"mask": tract.Regions(images=torch.ones(2, 2, 2), affine=torch.eye(4))},
            r"\(n, X, Y, Z\)",
        ),
    ],
)
def test_nonsense_is_refused(given: dict[str, Any], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        tract.options(FIELD, **given)


def test_they_are_made_outside_transforms() -> None:
    def f(x: Tensor) -> Tensor:
        field = tract.Field(coefficients=FIELD.coefficients, affine=x)
        return tract.options(field).step

    with pytest.raises(ValueError, match="outside transforms"):
        grad(f)(FIELD.affine)


def test_a_step_that_is_given_keeps_its_derivative() -> None:
    made = grad(lambda h: 2 * tract.options(FIELD, step=h, minlength=0.0).step)
    assert made(torch.tensor(0.5)) == 2
