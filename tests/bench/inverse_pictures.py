"""Before and after: meshes side by side, and signals before and after the fit."""

from pathlib import Path

import matplotlib
import torch
from inverse_signals import DIFFUSION_TIMES, SHELLS, SIGMA
from torch import Tensor

from mrsim import plot
from mrsim.units import ms, um

matplotlib.use("Agg")
import matplotlib.pyplot as plt

_BEFORE, _AFTER = "#8c8c8c", "#0060b0"


def picture(
    folder: Path | None, name: str, meshes: dict, data: Tensor, before: Tensor, after
) -> None:
    """Draw meshes to one scale, and how their signals agree with the data."""
    if folder is None:
        return
    count = len(meshes) + 1
    figure = plt.figure(figsize=(3.6 * count, 3.8), layout="constrained")
    figure.get_layout_engine().set(wspace=0.08)
    reach = max(
        float(nodes.points.detach().abs().amax()) / um for nodes, _ in meshes.values()
    )
    for k, (title, mesh) in enumerate(meshes.items()):
        space = figure.add_subplot(1, count, k + 1, projection="3d")
        plot.mesh(space, *mesh)
        span, ticks = (-reach, reach), (-round(0.7 * reach), 0, round(0.7 * reach))
        space.set(xlim=span, ylim=span, zlim=span, xticks=ticks, yticks=ticks,
                  zticks=ticks)  # fmt: skip
        space.set_title(title, y=0.97)
        space.set_box_aspect((1, 1, 1), zoom=0.85)
        space.view_init(elev=18, azim=-55)
    axes = figure.add_subplot(1, count, count)
    _agreement(axes, data, before, after)
    _save(figure, folder, name)


def _agreement(axes, data: Tensor, before: Tensor, after: Tensor) -> None:
    ends = [float(data.min()), float(data.max())]
    axes.plot(ends, ends, color="black", linewidth=0.8)
    for made, label, colour in ((before, "start", _BEFORE), (after, "found", _AFTER)):
        left = float(((made - data) / SIGMA).square().mean().sqrt())
        axes.scatter(
            data, made, s=5, color=colour, label=f"{label}: residual {left:.2f} σ"
        )
    axes.set(xlabel="measured signal [S0]", ylabel="signal of the mesh [S0]")
    axes.set_aspect("equal")
    axes.set_title("signals")
    axes.legend(loc="upper left", fontsize="small")


def exchange_picture(
    folder: Path | None,
    walk: Tensor,
    true: Tensor,
    covariance: Tensor,
    data: Tensor,
    before: Tensor,
    after: Tensor,
) -> None:
    """Draw the fit's way in the plane of permeability and D, and mean signals."""
    if folder is None:
        return
    figure, (plane, curves) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    unit = torch.tensor([1e3, 1e3])
    at = walk * unit
    plane.plot(*at.T, "o-", color=_BEFORE, label="steps from the start")
    plane.plot(*at[-1], "o", color=_AFTER, label="found")
    turn = torch.linspace(0, 2 * torch.pi, 100)
    round_ = torch.stack([turn.cos(), turn.sin()])
    ring = torch.linalg.cholesky(covariance) @ (2.448 * round_)  # 95 % of a normal
    plane.plot(*((walk[-1, :, None] + ring) * unit[:, None]), color=_AFTER,
               linewidth=0.8, label="95 % by the bound")  # fmt: skip
    plane.plot(*(true * unit), "*", color="#e08a00", markersize=13, label="true")
    plane.set(xlabel="permeability κ [µm/s]", ylabel="D [µm²/ms]")
    plane.legend(fontsize="small")
    shape = (len(SHELLS), -1, len(DIFFUSION_TIMES))
    times = DIFFUSION_TIMES / ms
    for k in range(len(SHELLS)):
        colour = f"C{k}"
        mean = lambda v, k=k: v.reshape(shape)[k].mean(0)  # noqa: E731
        count = data.reshape(shape).shape[1]
        curves.errorbar(times, mean(data), SIGMA / count**0.5, fmt="o", color=colour,
                        markersize=4, label=f"data, shell {k + 1}")  # fmt: skip
        curves.plot(times, mean(before), "--", color=colour)
        curves.plot(times, mean(after), "-", color=colour)
    curves.plot([], [], "k--", label="start")
    curves.plot([], [], "k-", label="found")
    plane.set_title("permeability and D, found together")
    curves.set_title("mean signals of the shells")
    curves.set(xlabel="diffusion time Δ [ms]", ylabel="mean over directions [S0]")
    curves.legend(fontsize="small")
    _save(figure, folder, "permeability")


def _save(figure, folder: Path, name: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(
        folder / f"inverse_{name.replace(' ', '_')}.png", dpi=110, bbox_inches="tight"
    )
    plt.close(figure)
