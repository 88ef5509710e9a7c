"""Train a network on simulated voxels to tell their posterior."""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.func import vmap

from mrsim import noise
from mrsim._check import check_positive
from mrsim.ivim import ordered
from mrsim.ivim._limits import Bounds, Box, limits
from mrsim.ivim._signal import signal
from mrsim.ivim.acquisition import Acquisition
from mrsim.ivim.exponential import Biexp
from mrsim.ivim.layers import adam, copy, initial, layers, set_rate
from mrsim.ivim.posterior_net import PosteriorNet, features, told
from mrsim.ivim.voxels import bar

_QUANTILES = (0.15865525393145707, 0.8413447460685429)
_AVERAGE = 0.999  # decay of the running mean of weights
_WARM = 200  # steps
_DRAWS = 20000  # voxels that tell the whitening


def train_posterior(
    acquisition: Acquisition,
    generator: torch.Generator,
    *,
    prior: Bounds,
    sigma: tuple[float, float],
    model: type = Biexp,
    fixed: Mapping[str, float] | None = None,
    coils: int = 0,
    hidden: Sequence[int] = (128, 128, 128),
    steps: int = 15_000,
    batch: int = 1024,
    rate: float = 5e-3,
    progress: bool = False,
) -> PosteriorNet:
    """Train a network on simulated voxels to tell their posterior.

    Voxels are drawn evenly from the prior's box and sigma evenly in its logarithm; the
    loss is the normal −log p of the truth under mean and sd, whose minimum are those of
    the posterior, plus the quantile loss of the 68 % interval. Signals are whitened by
    the covariance of noise-free ones: what is small in them is seen as well.

    Args:
        acquisition: the samples.
        generator: source of weights, voxels and noise.
        prior: name → (lower, upper) of the unknowns, a uniform prior.
        sigma: smallest and largest standard deviation of the noise [units of S0].
        model: the record's class.
        fixed: values of other fields; S0 is 1 unless it has a prior.
        coils: 0 Gaussian noise, 1 Rician.
        hidden: widths of the hidden layers.
        steps: of Adam.
        batch: voxels for a step, new ones each time.
        rate: of Adam, falling to 0 along a half cosine.
        progress: show a progress bar (needs tqdm, extra ``demo``).

    Returns:
        The network, in the acquisition's dtype.

    Raises:
        ValueError: a name is unknown, bounds overlap where they must order
            diffusivities, the noise is of another kind, or steps or batch is not
            positive.

    Reference:
        Papamakarios and Murray 2016, NeurIPS 29; Cranmer 2020, PNAS 117:30055.

    >>> import torch
    >>> from mrsim import ivim
    >>> q = ivim.Acquisition(b=[0.0, 20.0, 200.0, 800.0])
    >>> prior = {"f": (0.0, 0.4), "Dp": (0.01, 0.1), "D": (0.0005, 0.003)}
    >>> g = torch.Generator().manual_seed(0)
    >>> net = ivim.train_posterior(q, g, prior=prior, sigma=(0.01, 0.1), steps=3)
    >>> ivim.posterior_estimate(net, torch.ones(5, 4), 0.05).mean.f.shape
    torch.Size([5])
    """
    check_positive("ivim.train_posterior", steps=steps, batch=batch)
    known = {"S0": 1.0, **(fixed or {})} if "S0" not in prior else dict(fixed or {})
    box = {n: p for n, p in limits(prior, model, known).items() if n in prior}
    if ordered.chain(box) or coils not in (0, 1) or not 0 < sigma[0] <= sigma[1]:
        raise ValueError(
            "ivim.train_posterior: the prior's diffusivities must not overlap, coils be"
            f" 0 or 1 and sigma ascend from above 0, got {box}, {coils} and {sigma}"
        )
    b = acquisition.b
    size = len(b)
    draw = _simulator(acquisition, generator, model, box, known, coils)
    centre, whitening = _whitening(draw(b.new_full((_DRAWS,), 0.0))[0], sigma[0])
    weights = {
        n: w.to(b).requires_grad_()
        for n, w in initial([size + 1, *hidden, 4 * len(box)], generator).items()
    }
    net = PosteriorNet(weights, b, model, box, known, sigma, centre, whitening)
    network = layers(weights, "SiLU")
    optimiser = adam(weights, rate)
    mean = copy(weights)
    low, high = (math.log(s) for s in sigma)
    for step in bar(range(steps), progress):
        level = low + (high - low) * torch.rand(
            batch, generator=generator, dtype=b.dtype
        ).to(b)
        data, truth = draw(level.exp())
        value = _loss(network(weights, features(net, data, level.exp())), truth)
        optimiser.zero_grad()
        value.backward()
        set_rate(optimiser, rate * min(1.0, (step + 1) / _WARM), step / steps)
        optimiser.step()
        share = 1 - min(_AVERAGE, (step + 1) / (step + 10))
        mean = {n: w.lerp(weights[n].detach(), share) for n, w in mean.items()}
    return net._replace(weights=mean)


def _simulator(
    acquisition: Acquisition,
    generator: torch.Generator,
    model: type,
    box: Box,
    known: Mapping[str, float],
    coils: int,
) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Make a function sigma (voxel,) → signals, unknowns in units of the half box."""
    b = acquisition.b
    mapped = vmap(signal, in_dims=(0, None))

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=b.dtype).to(b)

    def draw(sigma: Tensor) -> tuple[Tensor, Tensor]:
        count = len(sigma)
        u = torch.rand(count, len(box), generator=generator, dtype=b.dtype).to(b)
        named = {n: b.new_full((count,), v) for n, v in known.items()}
        for (name, (low, high)), x in zip(box.items(), u.unbind(-1), strict=True):
            named[name] = low + (high - low) * x
        s = mapped(model(**named), acquisition)
        add, channels = (noise.rician, (2,)) if coils else (noise.gaussian, ())
        unit = normal(*s.shape, *channels)
        return add(s, unit, sigma.unsqueeze(-1)), 2 * u - 1

    return draw


def _whitening(clean: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
    """Return the mean of signals and what makes their covariance, with noise, 1."""
    centre = clean.mean(0)
    off = (clean - centre).double()
    values, vectors = torch.linalg.eigh(off.mT @ off / len(off))
    scale = (values.clamp_min(0) + 4 * sigma**2).rsqrt()
    return centre, (vectors * scale).to(clean)


def _loss(made: Tensor, truth: Tensor) -> Tensor:
    mean, log_sd, low, high = told(made)
    likely = ((truth - mean) * torch.exp(-log_sd)).square() / 2 + log_sd
    # the interval must not pull at what it is measured in
    off = (truth - mean.detach()) * torch.exp(-log_sd.detach())
    pins = [
        torch.maximum(q * (off - end), (q - 1) * (off - end))
        for q, end in zip(_QUANTILES, (low, high), strict=True)
    ]
    return likely.mean() + pins[0].mean() + pins[1].mean()
