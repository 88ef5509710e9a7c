"""The series of the exponential against the exponential itself."""

import pytest
import torch

from mrsim.torrey._faber import series

EPS = torch.finfo(torch.float64).eps


@pytest.mark.parametrize(
    ("real", "imaginary"),
    [(0.0, 0.0), (0.0, 60.0), (37.0, 0.0), (37.0, 1.6), (7.0, 90.0), (90.0, 4.0)],
)
def test_a_series_is_the_exponential(real: float, imaginary: float) -> None:
    # a slow and a quick half, turned against each other: an extent that is known
    generator = torch.Generator().manual_seed(3)
    frames = torch.randn(2, 24, 24, generator=generator, dtype=torch.float64)
    one, two = torch.linalg.qr(frames)[0]
    L = (one * torch.linspace(-real, real, 24)) @ one.mT
    X = (two * torch.linspace(-imaginary, imaginary, 24)) @ two.mT
    A = torch.complex(L, X)
    start = one[:, 0].to(A)  # decays least, so that the largest value is in play
    made, nu = series(real, imaginary, EPS), start
    for _ in range(made.steps):
        before, term, total = nu, nu, made.weights[0] * nu
        for k, weight in enumerate(made.weights[1:]):
            new = -(A @ term) / (made.steps * made.radius)
            if k:
                new = new - (1 + (k == 1)) * made.focus * before
            before, term = term, new
            total = total + weight * term
        nu = total
    wanted = torch.matrix_exp(-A) @ start
    assert (nu - wanted).abs().max() <= 1e-12 * torch.tensor(real).exp()


def test_a_segment_takes_the_terms_of_chebyshev() -> None:
    assert series(0.0, 60.0, EPS).work < 110  # Taylor's series takes 20 x 27
    assert series(37.0, 0.0, EPS).work < 60
