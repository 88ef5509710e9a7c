"""A phantom's T2 map and a train's flips, recovered from images by gradient descent.

A phantom of three discs is imaged by a 8-echo train of unknown refocusing flips, in
linear and centric order, through two coils, with noise. From the two images gradient
descent (torch's L-BFGS on gradients of torch.func) finds T2 in every voxel and the
flips together, the best of 16 random trains to start from: others end in other minima.
Prints JSON and writes ``bench-image.png``: truth, image, recovered map.

Run it with ``python tests/bench/bench_image.py``; --size for a larger phantom.
"""

import time
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from timing import options, report
from torch import Tensor
from torch.func import grad_and_value

import mrsim
from mrsim import Tissue, epg, image, plot
from mrsim.units import deg, ms

STARTS = 16
FLIPS = torch.tensor([150.0, 130, 120, 115, 110, 105, 100, 95], dtype=torch.float64)


def phantom(size: int) -> Tissue:
    """Three discs of T2 in a larger one; nothing outside."""
    x = (torch.arange(size, dtype=torch.float64) - size // 2) / (size / 2)
    grid = torch.stack(torch.meshgrid(x, x, indexing="ij"))

    def disc(a: float, b: float, radius: float) -> Tensor:
        centre = grid.new_tensor([a, b])[:, None, None]
        return ((grid - centre).square().sum(0) < radius**2).double()

    T2 = 0.06 + 0.06 * disc(-0.3, -0.25, 0.22) - 0.02 * disc(0.35, -0.2, 0.2)
    T2 = T2 + 0.1 * disc(0.05, 0.4, 0.18)
    return Tissue(T1=T2.new_tensor(1.0), T2=T2, M0=disc(0.0, 0.0, 0.85))


def recovered(size: int, noise: float, steps: int) -> dict[str, Any]:
    maps = phantom(size)
    inside = maps.M0 > 0
    x = torch.linspace(-1, 1, size, dtype=torch.float64)
    left = torch.complex(1.2 - 0.6 * x[:, None] + 0 * x, 0.4 * x + 0 * x[:, None])
    coils = torch.stack([left, left.flip(0)])
    orders = (image.linear(size, 8), image.centric(size, 8))
    readouts = [image.Readout(order=o, coils=coils) for o in orders]
    truth = epg.FSE(flip=FLIPS * deg, esp=FLIPS.new_tensor(8 * ms))

    def samples(T2: Tensor, flip: Tensor) -> Tensor:
        tissue, seq = mrsim.replace(maps, T2=T2), mrsim.replace(truth, flip=flip)
        signal = image.echoes(epg.fse, tissue, seq)
        return torch.stack([image.kspace(signal, r) for r in readouts])

    clean = samples(maps.T2, truth.flip)
    unit = torch.randn(
        *clean.shape, 2, generator=torch.Generator().manual_seed(0), dtype=x.dtype
    )
    target = clean + noise * clean.abs().max() * torch.view_as_complex(unit)

    def misfit(u: tuple[Tensor, Tensor]) -> Tensor:
        T2 = torch.where(inside, u[0].exp(), 0.06)
        return torch.view_as_real(samples(T2, u[1]) - target).square().sum()

    g = torch.Generator().manual_seed(1)
    draws = (80 + 90 * torch.rand(STARTS, len(FLIPS), generator=g).double()) * deg
    draws = draws.sort(1, descending=True).values  # trains begin high
    logs = torch.full_like(maps.T2, 0.07).log()
    before = time.process_time()
    tried = [descend(misfit, logs, flip, steps // 5) for flip in draws]
    _, *best, _ = min(tried, key=lambda t: t[0])
    last, logs, flip, more = descend(misfit, *best, steps)
    found = torch.where(inside, logs.exp(), 0.0)
    error = (found / maps.T2 - 1)[inside].abs()
    pictures = [image.reconstruct(target[k], readouts[k]).abs() for k in (0, 1)]
    draw(maps.T2 * inside, pictures[0], found, inside, flip)
    return {
        "voxels": int(inside.sum()),
        "unknowns": int(inside.sum()) + len(flip),
        "noise_of_k_space_maximum": noise,
        "starts": STARTS,
        "evaluations": sum(t[-1] for t in tried) + more,
        "cpu_seconds": round(time.process_time() - before, 2),
        "misfit": last,
        "misfit_of_the_truth": float(misfit((maps.T2.log(), truth.flip))),
        "misfits_of_the_starts": sorted(round(t[0], 6) for t in tried),
        "median_error_of_T2": float(error.median()),
        "largest_error_of_T2": float(error.max()),
        "largest_error_of_flips_deg": float((flip / deg - FLIPS).abs().max()),
    }


def descend(
    misfit: Any, logs: Tensor, flip: Tensor, steps: int
) -> tuple[float, Tensor, Tensor, int]:
    """Return the misfit reached, log T2, flips, and how many gradients it took."""
    moving = [logs.clone().requires_grad_(), flip.clone().requires_grad_()]
    solver = torch.optim.LBFGS(
        moving,
        max_iter=steps,
        history_size=30,
        line_search_fn="strong_wolfe",
        tolerance_grad=0.0,
        tolerance_change=1e-14,
    )
    values: list[float] = []

    def closure() -> Tensor:
        slopes, value = grad_and_value(misfit)(tuple(x.detach() for x in moving))
        for x, slope in zip(moving, slopes, strict=True):
            x.grad = slope
        values.append(float(value))
        return value

    solver.step(closure)
    return values[-1], moving[0].detach(), moving[1].detach(), len(values)


def draw(T2: Tensor, picture: Tensor, found: Tensor, inside: Tensor, flip: Any) -> Any:
    figure = Figure(figsize=(15, 4), layout="constrained")
    axes = figure.subplots(1, 4)
    style = {"vmin": 0.0, "vmax": 0.17, "cmap": "viridis"}
    shown = plot.picture(axes[0], T2, inside, "T2, truth [s]", **style)
    plot.picture(axes[1], picture, inside, "image, linear order", cmap="gray")
    plot.picture(axes[2], found, inside, "T2, recovered [s]", **style)
    figure.colorbar(shown, ax=axes[2], shrink=0.8)
    axes[3].plot(FLIPS.tolist(), "ko", label="truth")
    axes[3].plot((flip / deg).tolist(), "-", color="#0060b0", label="recovered")
    axes[3].set(xlabel="pulse", ylabel="flip angle [°]")
    axes[3].legend()
    figure.savefig(Path("bench-image.png"), dpi=110)


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--size", type=int, default=48)
    parser.add_argument("--noise", type=float, default=1e-5)
    parser.add_argument("--steps", type=int, default=400)
    given = parser.parse_args()
    torch.set_num_threads(1)
    report(recovered(given.size, given.noise, given.steps), given.json)


if __name__ == "__main__":
    main()
