# %% [markdown]
# # Gradients through tractography
#
# Fibres cross at 60°, but the orientations that the scanner saw are turned, by up to
# 35° in the middle, as after a faulty correction. From noisy diffusion signals, with
# constrained spherical deconvolution (CSD) and MRtrix's deterministic tracking, tracks
# miss the regions they should reach. Because every step has a derivative, gradient
# descent on the turn itself brings them back.

# %%
import math
import os

import torch
from torch import Tensor
from torch.func import grad, grad_and_value, jvp, vmap

from mrsim import plot, tract
from mrsim.units import deg

FAST = bool(os.environ.get("MRSIM_FAST"))
STEPS = 20 if FAST else 60
generator = torch.Generator().manual_seed(0)
torch.set_default_dtype(torch.float64)  # noqa: TID251

# %% [markdown]
# ## Tissue → DWI
# Two bundles in a slab of 20 × 20 × 3 voxels of 2 mm, 45 directions at b = 3000 s/mm²,
# SNR 30, Rician noise.

# %%
GRID = (20, 20, 3)
affine = torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0]))
affine[:3, 3] = torch.tensor([-19.0, -19.0, -2.0])
ways = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.75**0.5, 0.0]])
across = torch.tensor([[0.0, 1.0, 0.0], [-(0.75**0.5), 0.5, 0.0]])

index = torch.stack(torch.meshgrid(*map(torch.arange, GRID), indexing="ij"), -1)
place = index.double() @ affine[:3, :3].mT + affine[:3, 3]
inside = ((place @ across.mT).abs() < 5).double().flatten(0, 2)
wrong = 35 * deg * (-place[..., :2].square().sum(-1) / 98).exp().flatten()


def turns(angle: Tensor) -> Tensor:
    """Return rotations about z."""
    c, s, zero = angle.cos(), angle.sin(), 0 * angle
    rows = [(c, -s, zero), (s, c, zero), (zero, zero, zero + 1)]
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


voxels = len(inside)
tissue = tract.Fibres(
    orientations=ways @ turns(wrong).mT,
    fractions=0.75 * inside / inside.sum(-1, keepdim=True).clamp_min(1),
    axial=torch.full((voxels,), 1.7e-3),
    radial=torch.full((voxels,), 3e-4),
)
g = tract.hemisphere(45)
scheme = tract.Scheme(b=torch.full((45,), 3000.0), directions=g)
clean = vmap(tract.multi_tensor, in_dims=(0, None))(tissue, scheme)
noise = torch.randn(2, *clean.shape, generator=generator) / 30
dwi = ((clean + noise[0]).square() + noise[1].square()).sqrt()

# %% [markdown]
# ## DWI → FOD → tracks

# %%
axial, radial = tissue.axial[0], tissue.radial[0]
csd = tract.CSD(
    directions=g, response=tract.tensor_response(scheme.b[0], axial, radial), lmax=6
)
filled = inside.any(-1).nonzero()[:, 0]


def fods(dwi: Tensor) -> Tensor:
    """Deconvolve the slab."""
    found = vmap(tract.csd, in_dims=(0, None))(dwi[filled], csd)
    empty = found.new_zeros(voxels, found.shape[-1])
    return empty.index_copy(0, filled, found).reshape(*GRID, -1)


measured = fods(dwi)
options = tract.options(
    tract.Field(coefficients=measured, affine=affine),
    step=1.5,
    angle=45 * deg,
    minlength=2.0,
    maxlength=38.0,
    unidirectional=True,
)
shift = torch.linspace(-3.0, 3.0, 12)[:, None]
seeds = torch.cat([-17 * w + shift * a for w, a in zip(ways, across, strict=True)])
seeds = seeds + torch.tensor([0.0, 0.0, 0.13])
along = ways.repeat_interleave(12, 0)
targets = seeds + 34 * along


def tracks(fod: Tensor) -> tract.Track:
    """Follow all seeds."""
    field = tract.Field(coefficients=fod, affine=affine)
    start = tract.Seed(position=seeds, direction=along)
    return vmap(tract.stream, in_dims=(0, None, None))(start, field, options)


def reached(found: tract.Track) -> float:
    """Return the share of tracks that come within 3 mm of their target."""
    nearest = (found.points - targets[:, None]).norm(dim=-1)
    there = torch.arange(nearest.shape[1]) < found.length[:, None]
    return float((torch.where(there, nearest, math.inf).amin(1) < 3).double().mean())


before = tracks(measured)
print(f"before: {reached(before):.0%} of the tracks reach their target")

# %% [markdown]
# ## Correction by gradient descent
# The unknowns are the angles by which FODs turn, on 7 × 7 knots. The loss is how far
# tracks stray from the straight lines to their targets, with a little smoothness.

# %%


def corrected(knots: Tensor) -> Tensor:
    """Turn every FOD by the angle interpolated between knots."""
    angle = torch.nn.functional.interpolate(
        knots[None, None], size=GRID[:2], mode="bilinear", align_corners=True
    )
    turned = vmap(tract.rotate)(
        measured.reshape(-1, GRID[2], measured.shape[-1]), turns(angle.flatten())
    )
    return turned.reshape(measured.shape)


def loss(knots: Tensor) -> tuple[Tensor, tract.Track]:
    """Return the mean squared distance from the lines to the targets [mm²]."""
    found = tracks(corrected(knots))
    even = vmap(lambda p, n: tract.resample(p, n, 20))(found.points, found.length)
    away = even - seeds[:, None]
    side = away - (away * along[:, None]).sum(-1, keepdim=True) * along[:, None]
    rough = knots.diff(dim=0).square().sum() + knots.diff(dim=1).square().sum()
    return side.square().sum(-1).mean() + 0.3 * rough, found


descend = grad_and_value(loss, has_aux=True)
knots, mean, power = torch.zeros(7, 7), torch.zeros(7, 7), torch.zeros(7, 7)
best, history, after = -1.0, [], before
for k in range(STEPS):
    slope, (value, found) = descend(knots)
    history.append(float(value))
    if reached(found) > best:
        best, after = reached(found), found
    mean, power = 0.8 * mean + 0.2 * slope, 0.95 * power + 0.05 * slope.square()
    step = (mean / (1 - 0.8 ** (k + 1))) / (
        power / (1 - 0.95 ** (k + 1))
    ).sqrt().clamp_min(1e-9)
    knots = knots - 0.08 * (1 - k / STEPS) * step
print(
    f"after {STEPS} steps: {best:.0%}, loss {history[0]:.2f} → {min(history):.2f} mm²"
)

# %% [markdown]
# ## What noise does to an end point
# One gradient tells how far noise in the DWI moves the end of a track, a pushforward
# where a given noise map moves it: no repetition of the experiment is needed.

# %%


def end(dwi: Tensor) -> Tensor:
    """Return how far the seventh track ends from its line [mm]."""
    field = tract.Field(coefficients=fods(dwi), affine=affine)
    start = tract.Seed(position=seeds[6], direction=along[6])
    found = tract.stream(start, field, options)
    return (tract.ends(found.points, found.length)[1] - seeds[6]) @ across[0]


sigma = 1 / 30
spread = sigma * float(grad(end)(dwi).norm())
draw = torch.randn(dwi.shape, generator=generator) * sigma
place_now, move = jvp(end, (dwi,), (draw,))
again = end(dwi + 0.01 * draw) - place_now
print(f"sd of the end across the bundle: {spread:.2f} mm")
print(f"1 % of new noise moves it by {float(again):.5f} mm, by jvp {move / 100:.5f}")

# %% [markdown]
# ## Before and after

# %%
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

plt.rcParams.update(plot.STYLE | {"font.size": 12, "axes.titlesize": 13})
figure, panels = plt.subplots(
    1, 2, figsize=(11, 5.4), sharex=True, sharey=True, layout="constrained"
)
for panel, found, title in zip(
    panels,
    (before, after),
    (f"before: {100 * reached(before):.0f} %", f"after: {100 * best:.0f} %"),
    strict=True,
):
    for line, n, w in zip(found.points, found.length, along, strict=True):
        colour = "tab:red" if float(w[1]) < 0.5 else "tab:blue"
        panel.plot(*line[: int(n), :2].T.numpy(), color=colour, lw=1.2)
    panel.plot(*targets[:, :2].T.numpy(), "k.", ms=6, label="targets")
    panel.set(title=f"{title} reach their target", xlabel="x [mm]", aspect="equal")
panels[0].set_ylabel("y [mm]")
panels[0].legend()
figure.savefig("08_tractography.png", dpi=120)

# %%
assert reached(before) < 0.3
assert best >= 0.95
assert min(history) < 0.2 * history[0]
assert abs(float(move / 100 - again)) < 0.1 * abs(float(again)) + 1e-4
