"""Noise of MR signals; the random numbers are an argument, so runs stay pure.

Draw them once, ``unit = torch.randn(*signal.shape, 2)``: the last axis is the real and
the imaginary channel, each with standard deviation sigma after scaling.
"""

from typing import Any

import torch
from torch import Tensor


def gaussian(signal: Tensor, unit: Tensor, sigma: float | Tensor) -> Tensor:
    """Add independent Gaussian noise to every real channel.

    y = s + sigma·(n₁ + i·n₂), and y = s + sigma·n for a real signal.

    Args:
        signal: real or complex, of any shape [signal units].
        unit: standard normal numbers, (*signal, 2) for a complex signal, (*signal,) for
            a real one.
        sigma: standard deviation of each real channel [signal units], () or (*signal,).

    Returns:
        The noisy signal, of the signal's shape and dtype.

    Raises:
        ValueError: the shape of ``unit`` does not fit.

    >>> import torch
    >>> from mrsim import noise
    >>> noise.gaussian(torch.ones(2), torch.tensor([1.0, -1.0]), 0.1)
    tensor([1.1000, 0.9000])
    """
    if not signal.is_complex():
        _check(signal, unit, tuple(signal.shape))
        return signal + sigma * unit
    _check(signal, unit, (*signal.shape, 2))
    return signal + sigma * torch.complex(unit[..., 0], unit[..., 1])


def rician(signal: Tensor, unit: Tensor, sigma: float | Tensor) -> Tensor:
    """Return the magnitude of a signal with Gaussian noise in both channels.

    y = |s + sigma·(n₁ + i·n₂)|, of the Rice distribution with parameters |s| and sigma.

    Args:
        signal: real or complex, of any shape [signal units].
        unit: standard normal numbers (*signal, 2).
        sigma: standard deviation of each real channel [signal units], () or (*signal,).

    Returns:
        The magnitude, real, of the signal's shape.

    Raises:
        ValueError: the shape of ``unit`` does not fit.

    Reference:
        Gudbjartsson and Patz 1995 (Magn Reson Med 34:910).

    >>> import torch
    >>> from mrsim import noise
    >>> noise.rician(torch.tensor([3.0]), torch.tensor([[0.0, 1.0]]), 4.0)
    tensor([5.])
    """
    _check(signal, unit, (*signal.shape, 2))
    imaginary = signal.imag if signal.is_complex() else torch.zeros_like(signal)
    noisy = signal.real + sigma * unit[..., 0]
    return torch.hypot(noisy, imaginary + sigma * unit[..., 1])


def snr2sigma(snr: Any, level: Any = 1.0) -> Any:
    """Convert a signal-to-noise ratio to a standard deviation.

    sigma = level / snr.

    Args:
        snr: signal-to-noise ratio [1]; a ratio of amplitudes, not decibels.
        level: the signal that the ratio refers to [signal units].

    Returns:
        Standard deviation of each real channel [signal units].

    >>> from mrsim import noise
    >>> noise.snr2sigma(50.0, level=2.0)
    0.04
    """
    return level / snr


def _check(signal: Tensor, unit: Tensor, expected: tuple[int, ...]) -> None:
    if tuple(unit.shape) != expected:
        raise ValueError(
            f"noise: unit must have shape {expected} for a {signal.dtype} signal of"
            f" shape {tuple(signal.shape)}, got {tuple(unit.shape)};"
            f" draw it with torch.randn{expected}"
        )
