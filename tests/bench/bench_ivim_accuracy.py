"""Accuracy of IVIM estimators and networks. Prints JSON.

    python tests/bench/bench_ivim_accuracy.py accuracy     Gaussian noise, SNR 8 … 100
    python tests/bench/bench_ivim_accuracy.py rician       magnitudes, SNR 8 … 60
    python tests/bench/bench_ivim_accuracy.py posterior    a network and the oracle
    python tests/bench/bench_ivim_accuracy.py seeds        Barbieri's notebook, 10 seeds

Golden data: ``MRSIM_REFERENCE``, by default the small copy in ``tests/reference/data``.
"""

import argparse
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timing import options, report
from torch import Tensor
from torch.func import vmap

from mrsim import ivim
from mrsim.ivim import layers, physics_net

NAMES = ("f", "Dp", "D")
PRIOR = {"f": (0.05, 0.55), "Dp": (0.01, 0.1), "D": (0.0005, 0.003)}


def main() -> None:
    """Run one study and print what it found."""
    parser = options(__doc__)
    parser.add_argument("study", choices=[*STUDIES])
    parser.add_argument("--steps", type=int, default=15_000, help="posterior (15000)")
    parser.add_argument("--epochs", type=int, default=12, help="seeds: ours (12)")
    parser.add_argument("--their-epochs", type=int, default=100, help="seeds, at most")
    parser.add_argument("--net", type=Path, help="posterior network: read or written")
    given = parser.parse_args()
    torch.set_num_threads(1)
    report(STUDIES[given.study](given), given.json)


def arrays(name: str) -> dict[str, np.ndarray]:
    here = Path(__file__).parents[1] / "reference" / "data"
    path = Path(os.environ.get("MRSIM_REFERENCE", here)) / "ivim" / f"{name}.npz"
    with np.load(path) as file:
        return dict(file)


def rounded(x: float, digits: int = 4) -> float:
    return float(f"{float(x):.{digits}g}")


def accuracy(given: argparse.Namespace) -> dict[str, Any]:
    """Compare every estimator with exact least squares, MAP and the oracle."""
    data, known = arrays("noisy_gauss"), arrays("reference_fits")
    net = ivim.load_net(given.net) if given.net else None
    ends = zip(known["bounds_lo"], known["bounds_hi"], strict=True)
    box = dict(zip(known["param_names"].tolist(), ends, strict=True))
    q = ivim.Acquisition(b=torch.tensor(data["b"]))
    out: dict[str, Any] = {}
    for k, snr in enumerate(data["snr"]):
        y = torch.tensor(data["signal"][k]).double()
        truth = torch.tensor(data["truth"][k])
        exact = torch.tensor(known["exact_lsq_cost"][k])
        n = len(exact)
        fits = {
            "varpro, 1 start": ivim.varpro(y, q, bounds=box),
            "varpro, 3 starts": ivim.varpro(y, q, bounds=box, starts=3, iterations=30),
            "least_squares, 1 start": ivim.least_squares(y, q, bounds=box),
            "least_squares, 3 starts": ivim.least_squares(y, q, bounds=box, starts=3),
            "segmented": ivim.segmented(y, q, bounds=box),
            "posterior_mode": ivim.posterior_mode(y, q),
        }
        rows: dict[str, Any] = {}
        for name, fit in fits.items():
            rows[name] = fit_scores(fit, truth)
            if name != "posterior_mode":
                cost = 2 * fit.cost[:n] / exact - 1
                rows[name]["within_1e-3"] = rounded((cost <= 1e-3).double().mean())
            rows[name]["first"] = scores(stacked(fit.params)[:n], truth[:n])
        if net is not None:
            told = ivim.posterior_estimate(net, y, 1 / float(snr))
            parts = [stacked(x).double() for x in (told.mean, told.low, told.high)]
            rows["posterior network"] = scores(parts[0], truth, *parts[1:])
        pair = (known[f"oracle_{x}"][k] for x in ("mean", "sd"))
        mean, sd = (torch.tensor(x).double() for x in pair)
        rows["oracle"] = scores(mean, truth[: len(mean)], mean - sd, mean + sd)
        x = torch.tensor(known["exact_lsq_params"][k])[:, 1:]
        rows["exact least squares"] = {"first": scores(x, truth[:n])}
        out[f"SNR {snr:g}"] = rows
    return out


def rician(_: argparse.Namespace) -> dict[str, Any]:
    """Compare least squares and maximum likelihood on magnitudes."""
    data = arrays("noisy_rician")
    q = ivim.Acquisition(b=torch.tensor(data["b"]))
    out: dict[str, Any] = {}
    for k, snr in enumerate(data["snr"]):
        y = torch.tensor(data["signal"][k]).double()
        truth, sigma = torch.tensor(data["truth"][k]), 1 / float(snr)
        guess = float(ivim.noise_level(y, q, coils=1))
        likely = {"starts": 3, "sigma": sigma}
        fits = {
            "varpro": ivim.varpro(y, q, starts=3, iterations=30),
            "maximum_likelihood": ivim.maximum_likelihood(y, q, **likely),
            "same, sigma estimated": ivim.maximum_likelihood(y, q, starts=3),
            "posterior_mode": ivim.posterior_mode(y, q),
        }
        rows = {name: fit_scores(fit, truth) for name, fit in fits.items()}
        out[f"SNR {snr:g}"] = {"sigma_ratio": rounded(guess / sigma)} | rows
    return out


def fit_scores(fit: Any, truth: Tensor) -> dict[str, Any]:
    x = stacked(fit.params)
    sd = fit.covariance.diagonal(dim1=-2, dim2=-1).sqrt()[:, 1:]
    return scores(x, truth, x - sd, x + sd)


def stacked(params: Any) -> Tensor:
    return torch.stack([getattr(params, n) for n in NAMES], -1)


def scores(
    x: Tensor, truth: Tensor, low: Tensor | None = None, high: Tensor | None = None
) -> dict[str, Any]:
    off = x - truth
    out = {}
    for i, name in enumerate(NAMES):
        column = off[:, i][off[:, i].isfinite()]
        out[name] = {
            "bias": rounded(column.mean(), 3),
            "rmse": rounded(column.square().mean().sqrt()),
            "mdae": rounded(column.abs().median(), 3),
        }
        if low is not None and high is not None:
            inside = (low[:, i] <= truth[:, i]) & (truth[:, i] <= high[:, i])
            out[name]["coverage"] = rounded(inside.double().mean(), 3)
    return out


def posterior(given: argparse.Namespace) -> dict[str, Any]:
    """Train the amortised posterior and compare it with the oracle."""
    data, known = arrays("noisy_gauss"), arrays("reference_fits")
    q = ivim.Acquisition(b=torch.tensor(data["b"]).float())
    start = time.process_time()
    net = ivim.train_posterior(
        q,
        torch.Generator().manual_seed(0),
        prior=PRIOR,
        sigma=(1 / 130, 1 / 6.5),
        steps=given.steps,
    )
    out: dict[str, Any] = {"training_cpu_s": round(time.process_time() - start)}
    if given.net:
        ivim.save_net(given.net, net)
    for k, snr in enumerate(data["snr"]):
        truth = torch.tensor(data["truth"][k])
        y = torch.tensor(data["signal"][k])
        told = ivim.posterior_estimate(net, y, 1 / float(snr))
        mean, low, high, sd = (
            stacked(x).double() for x in (told.mean, told.low, told.high, told.sd)
        )
        best = torch.tensor(known["oracle_mean"][k]).double()
        n = len(best)
        rows = {}
        for i, name in enumerate(NAMES):
            off, floor = mean[:n, i] - truth[:n, i], best[:, i] - truth[:n, i]
            inside = (low[:, i] <= truth[:, i]) & (truth[:, i] <= high[:, i])
            within = (mean[:, i] - truth[:, i]).abs() <= sd[:, i]
            ratio = (off.square().mean() / floor.square().mean()).sqrt()
            rows[name] = {
                "rmse_over_oracle": rounded(ratio),
                "coverage_68": rounded(inside.double().mean(), 3),
                "within_one_sd": rounded(within.double().mean(), 3),
            }
        out[f"SNR {snr:g}"] = rows
    return out


def seeds(given: argparse.Namespace) -> dict[str, Any]:
    """Train ten networks of Barbieri 2020 and ten of ours for their image."""
    image = arrays("seed_image")
    q = ivim.Acquisition(b=torch.tensor(image["b"]).float())
    members, count = 10, 100_000
    out: dict[str, Any] = {}
    x, _ = notebook(q, count, 0.01, 0.01)
    start = time.process_time()
    options = {**ivim.BARBIERI, "epochs": given.their_epochs, "members": members}
    theirs = ivim.train_physics(x, q, torch.Generator().manual_seed(0), **options)
    out["Barbieri"] = {"cpu_s": round(time.process_time() - start), **loss(theirs)}
    for k, sigma in enumerate(image["sigma"]):
        level = float(sigma) / 1500
        y = torch.tensor(image["dwi"][k])
        x, targets = notebook(q, count, level, 2 * level)
        start = time.process_time()
        ours = ivim.train_physics(
            x,
            q,
            torch.Generator().manual_seed(0),
            targets=targets,
            epochs=given.epochs,
            members=members,
        )
        spent = round(time.process_time() - start)
        rows: dict[str, Any] = {"ours": {"cpu_s": spent, **loss(ours)}}
        plain = ivim.varpro(y.double(), ivim.Acquisition(b=q.b.double()), starts=3)
        single = ivim.Biexp(
            **{n: getattr(plain.params, n).unsqueeze(0) for n in ("S0", *NAMES)}
        )
        rows["least squares"] = image_scores(single, image)
        rows["ours"] |= image_scores(ivim.physics_params(ours.net, y), image)
        for kind in ("net", "last"):
            raw = getattr(theirs, kind)
            rows[f"Barbieri, {kind}"] = image_scores(ivim.physics_params(raw, y), image)
            rows[f"Barbieri, {kind}"]["swapped"] = swapped(raw, y)
        rows["ours"]["swapped"] = swapped(ours.net, y)
        out[f"SNR {1 / level:g}"] = rows
    return out


def notebook(
    q: ivim.Acquisition, count: int, low: float, high: float
) -> tuple[Tensor, Tensor]:
    """Return pairs of magnitudes as the notebook simulates them, S0 = 1."""
    g = torch.Generator().manual_seed(1)
    u = torch.rand(4, count, generator=g)
    p = ivim.Biexp(
        S0=torch.ones(count),
        Dp=0.01 + 0.09 * u[0],
        D=0.0005 + 0.0015 * u[1],
        f=0.1 + 0.3 * u[2],
    )
    clean = vmap(ivim.signal, in_dims=(0, None))(p, q)
    sigma = (low * (high / low) ** u[3]).unsqueeze(-1)
    both = [sigma * torch.randn(2, *clean.shape, generator=g) for _ in range(2)]
    first, second = (torch.hypot(clean + n[0], n[1]) for n in both)
    return first, second


def loss(trained: ivim.Trained) -> dict[str, Any]:
    losses = trained.losses
    jumps = losses[1:] / losses[:-1]
    return {
        "epochs": len(losses),
        "largest_jump": rounded(jumps.amax(), 3),
        "largest_jump_after_10": rounded(jumps[10:].amax(), 3),
        "best_loss": [rounded(x, 3) for x in losses.amin(0)],
    }


def swapped(net: Any, y: Tensor) -> int:
    """Count the members whose labels are swapped on the image, before any repair."""
    x = y.reshape(-1, y.shape[-1])
    first = x[:, physics_net.unweighted(net.b)].mean(-1, keepdim=True)
    shown = physics_net.seen(x / first, net.b, net.outputs)
    run = vmap(layers.layers(net.weights, "ELU"), in_dims=(0, None))
    p = physics_net.decoded(run(net.weights, shown), net.outputs, net.box)
    return int((p["Dp"].mean(-1) < p["D"].mean(-1)).sum())


def image_scores(params: Any, image: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return the median and the range over members of the RMSE on the image."""
    out = {}
    for name in NAMES:
        off = getattr(params, name).double() - torch.tensor(image[name])
        rmse = off.square().mean((-2, -1)).sqrt()
        out[name] = [rounded(v) for v in (rmse.median(), rmse.amin(), rmse.amax())]
    return out


STUDIES = {
    "accuracy": accuracy,
    "rician": rician,
    "posterior": posterior,
    "seeds": seeds,
}

if __name__ == "__main__":
    main()
