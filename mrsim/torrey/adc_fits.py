"""Apparent diffusion from signals: polynomials in b and log-linear tensors."""

import torch
from torch import Tensor

from mrsim._check import concrete


def fit_adc(b: Tensor, signals: Tensor, degree: int = 1) -> Tensor:
    r"""Fit log S = c₀ − D b + c₂ b² + … by least squares.

    Args:
        b: b values [s/mm²] (sample,).
        signals: positive signals (..., sample).
        degree: of the polynomial; more for signals further from b = 0.

    Returns:
        (...,) apparent diffusion coefficient [mm²/s].

    Raises:
        ValueError: the samples do not determine the coefficients.

    Reference:
        Jensen et al. 2005 (Magn. Reson. Med. 53:1432), degree 2: kurtosis.

    >>> import torch
    >>> from mrsim import torrey
    >>> b = torch.tensor([0.0, 500.0, 1000.0])
    >>> torrey.fit_adc(b, torch.exp(-1e-3 * b))
    tensor(0.0010)
    """
    if b.ndim != 1 or signals.shape[-1:] != b.shape or len(b) < degree + 1:
        raise ValueError(
            f"fit_adc: b must have shape (sample,) with at least {degree + 1} samples,"
            f" and signals (..., sample); got {tuple(b.shape)}, {tuple(signals.shape)}"
        )
    top = b.detach().abs().amax()
    columns = torch.stack([(b / top) ** k for k in range(degree + 1)], -1)
    return -_least_squares("fit_adc", columns, signals.log())[..., 1] / top


def fit_tensor(b: Tensor, signals: Tensor) -> tuple[Tensor, Tensor]:
    r"""Fit log S = log S₀ − B:D by least squares.

    Args:
        b: b-tensors [s/mm²] (sample, 3, 3), such as `b_tensor` gives.
        signals: positive signals (..., sample).

    Returns:
        (..., 3, 3) diffusion tensor [mm²/s] and (...,) S₀.

    Raises:
        ValueError: the samples do not determine the tensor.

    Reference:
        Basser, Mattiello and Le Bihan 1994 (J. Magn. Reson. B 103:247).

    >>> import torch
    >>> from mrsim import torrey
    >>> u = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 0, 1],
    ...                   [0, 1, 1], [0, 0, 0]])
    >>> b = 1000 * u[:, :, None] * u[:, None]
    >>> signals = torch.exp(-1e-3 * b.diagonal(dim1=1, dim2=2).sum(-1))
    >>> torrey.fit_tensor(b, signals)[0].diagonal()
    tensor([0.0010, 0.0010, 0.0010])
    """
    if b.ndim != 3 or b.shape[1:] != (3, 3) or len(b) < 7:
        raise ValueError(
            f"fit_tensor: b must have shape (sample, 3, 3) with at least 7 samples, got"
            f" {tuple(b.shape)}"
        )
    top = b.detach().abs().amax()
    one, two = torch.triu_indices(3, 3, device=b.device)
    twice = torch.where(one == two, 1.0, 2.0).to(b)
    entries = twice * b[:, one, two] / top
    columns = torch.cat([torch.ones_like(entries[:, :1]), entries], -1)
    made = _least_squares("fit_tensor", columns, signals.log())
    at = torch.zeros(3, 3, dtype=torch.long, device=b.device)
    order = torch.arange(6, device=b.device)
    at = at.index_put((one, two), order).index_put((two, one), order)
    return -made[..., 1:][..., at] / top, made[..., 0].exp()


def _least_squares(where: str, columns: Tensor, values: Tensor) -> Tensor:
    """Solve columns·c = values by QR; refuse (NaN inside transforms) if poor."""
    Q, R = torch.linalg.qr(columns)
    size = R.diagonal().abs()
    poor = size.amin() <= 100 * torch.finfo(size.dtype).eps * size.amax()
    if concrete(columns) and bool(poor):
        raise ValueError(
            f"{where}: the b values do not determine the coefficients; add samples at"
            f" b = 0 or at other b values or directions"
        )
    right = (values @ Q).unsqueeze(-1)
    made = torch.linalg.solve_triangular(R, right, upper=True).squeeze(-1)
    return torch.where(poor, torch.nan, made)
