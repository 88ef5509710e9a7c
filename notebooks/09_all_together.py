# %% [markdown]
# # All together: from the axon to the track, and one gradient all the way back
#
# Two bundles cross. The calibre of their axons changes the diffusion signal of
# restricted water (Bloch–Torrey), the signal changes the fibre orientation densities
# that deconvolution finds, and these change where tracks run and what is read along
# them. Every link is a differentiable function, so that one reverse-mode gradient tells
# what each stretch of axons does to a number that is read from tracks.

# %%
import importlib.util
import os

import torch
from torch import Tensor
from torch.func import jacrev, vmap

import mrsim
from mrsim import plot, torrey, tract
from mrsim.units import GAMMA, deg, m, ms, mT, um

FAST = bool(os.environ.get("MRSIM_FAST"))
torch.set_default_dtype(torch.float64)  # noqa: TID251


@mrsim.record
class Axons:
    """The tissue: axons of the arc, section by section, and of the line through it."""

    radius: Tensor  # (section,) of the arc's axons [mm]
    crossing: Tensor  # () radius of the line's axons [mm]
    inside: Tensor  # () share of water within axons [1]
    D: Tensor  # () diffusivity along axons [mm²/s]


SECTIONS, DEGREE = 6, 6
truth = Axons(
    radius=torch.tensor([1.0, 1.0, 2.0, 3.5, 2.0, 1.0]) * um,
    crossing=2.5 * um,
    inside=0.6,
    D=1.7e-3,
)

# %% [markdown]
# ## Axon → signal
# One shell of a strong gradient system. The signal of water in a cylinder is exact
# (multiple propagators), around it a tortuous tensor. Both depend on the angle to the
# axon alone: a few zonal harmonics, the bundle's response.

# %%
gradient = 150 * mT / m
pulse = torrey.PGSE(
    q=GAMMA * gradient, direction=[0.0, 0, 1], delta=10 * ms, Delta=25 * ms
)
b = torrey.b_value(pulse)
ways = tract.hemisphere(45 if FAST else 60)
nodes, weights = torch.tensor(
    [
        [0.0130467, 0.0674683, 0.1602952, 0.2833023, 0.4255628],
        [0.0333357, 0.0747257, 0.1095432, 0.1346334, 0.1477621],
    ]
)
cosines = torch.cat([nodes, 1 - nodes.flip(0)])  # Gauss-Legendre on 0 … 1
weights = torch.cat([weights, weights.flip(0)])


def profile(radius: Tensor, axons: Axons) -> Tensor:
    """Return the signal (cosine,) of a bundle at angles to its axons."""

    def restricted(z: Tensor) -> Tensor:
        way = torch.stack([(1 - z * z).sqrt(), 0 * z, z])
        one = mrsim.replace(pulse, direction=way)
        cylinder = torrey.Cylinder(radius=radius, degree=8)
        return torrey.analytic(cylinder, torrey.Water(D=axons.D), one).real

    within = vmap(restricted)(cosines)
    across = axons.D * (1 - axons.inside)
    outside = torch.exp(-b * (across + (axons.D - across) * cosines**2))
    return axons.inside * within + (1 - axons.inside) * outside


def response(radius: Tensor, axons: Axons) -> Tensor:
    """Return the zonal harmonics (degree,) of a bundle's signal."""
    values = profile(radius, axons) * weights
    return 4 * torch.pi * (values[:, None] * tract.zonal(cosines, DEGREE)).sum(0)


# %% [markdown]
# ## Signal → orientations → tracks
# An arc and a line that cross at 55°, in a slab of 2 mm voxels. Deconvolution takes
# thin axons for granted, as a response from the whole brain would.

# %%
GRID = (20, 20, 3)
affine = torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0]))
affine[:3, 3] = torch.tensor([-19.0, -19.0, -2.0])
index = torch.stack(torch.meshgrid(*map(torch.arange, GRID[:2]), indexing="ij"), -1)
place = (index * 2.0 - 19.0).flatten(0, 1)
centre, bend = torch.tensor([-20.0, -20.0]), 26.0
away = place - centre
angle = torch.atan2(away[:, 1], away[:, 0])
in_arc = (away.norm(dim=-1) - bend).abs() < 4.5
section = (angle / (90 * deg) * SECTIONS).long().clamp(0, SECTIONS - 1)
lean = torch.tensor(80 * deg)
line = torch.stack([lean.cos(), lean.sin()])
middle = centre + bend * torch.tensor([0.5, 0.5]).sqrt()
in_line = ((place - middle) @ torch.stack([-line[1], line[0]])).abs() < 4.5
flat = torch.zeros(len(place), 1)
tangent = torch.cat([-angle.sin()[:, None], angle.cos()[:, None], flat], -1)
across = torch.cat([line, torch.zeros(1)]).expand(len(place), 3)
filled = (in_arc | in_line).nonzero()[:, 0]
share = torch.stack([in_arc, in_line], -1).double()[filled]
share = share / share.sum(-1, keepdim=True)
thin = mrsim.replace(truth, crossing=torch.tensor(0.5 * um))
csd = tract.CSD(directions=ways, response=response(thin.crossing, thin), lmax=DEGREE)
basis = tract.harmonics(ways, DEGREE)


def fods(axons: Axons) -> Tensor:
    """Return the FOD of every voxel (x, y, coefficient)."""
    radii = torch.cat([axons.radius, axons.crossing[None]])
    kinds = vmap(response, in_dims=(0, None))(radii, axons)
    arc, crossing = kinds[section[filled]], kinds[-1].expand(len(filled), -1)
    one = torch.ones(1)

    def voxel(u: Tensor, v: Tensor, p: Tensor, q: Tensor, w: Tensor) -> Tensor:
        first = tract.convolve(tract.delta_fod(u[None], one, DEGREE), p)
        second = tract.convolve(tract.delta_fod(v[None], one, DEGREE), q)
        return tract.csd(basis @ (w[0] * first + w[1] * second), csd)

    found = vmap(voxel)(tangent[filled], across[filled], arc, crossing, share)
    empty = found.new_zeros(len(place), found.shape[-1])
    return empty.index_copy(0, filled, found).reshape(*GRID[:2], -1)


count = 9 if FAST else 15
start = torch.linspace(-1.8, 2.7, count)[:, None]
begin = torch.tensor(3 * deg)
out = torch.stack([begin.cos(), begin.sin()])
seeds = torch.cat([centre + (bend + start) * out, torch.full((count, 1), 0.1)], -1)
heading = torch.stack([-begin.sin(), begin.cos(), torch.zeros(())]).expand(count, 3)
image = fods(truth)


def field(image: Tensor) -> tract.Field:
    """Return the slab, alike in every slice."""
    deep = image[:, :, None].expand(*GRID, image.shape[-1])
    return tract.Field(coefficients=deep, affine=affine)


options = tract.options(
    field(image), step=1.0, angle=40 * deg, unidirectional=True, maxlength=37.0
)


def follow(image: Tensor) -> tract.Track:
    """Follow the arc from its lower end."""
    seed = tract.Seed(position=seeds, direction=heading)
    return vmap(tract.stream, in_dims=(0, None, None))(seed, field(image), options)


def density(image: Tensor, points: Tensor, ways: Tensor) -> Tensor:
    """Return the FOD's amplitude along tracks: the apparent fibre density."""
    at = (points[..., :2] + 19.0) / 2
    low = at.detach().floor().clamp(0, GRID[0] - 2)
    x, y = (at - low).unbind(-1)
    i, j = low.long().unbind(-1)
    corners = (
        ((1 - x) * (1 - y), image[i, j]), (x * (1 - y), image[i + 1, j]),
        ((1 - x) * y, image[i, j + 1]), (x * y, image[i + 1, j + 1]),
    )  # fmt: skip
    fod = sum(w[..., None] * c for w, c in corners)
    return (fod * tract.harmonics(ways, DEGREE)).sum(-1)


# %% [markdown]
# ## Two numbers of the tracks
# How much fibre they find on their way, and where they end. Both see the tissue only
# through everything above.


# %%
def read(axons: Axons) -> Tensor:
    """Return the mean apparent fibre density, and how far out tracks end [mm]."""
    image = fods(axons)
    found = follow(image)
    held = torch.arange(found.points.shape[1] - 1) < found.length[:, None] - 1
    edges = found.points[:, 1:] - found.points[:, :-1]
    edges = torch.where(held[..., None], edges, torch.tensor([1.0, 0.0, 0.0]))
    middles = (found.points[:, 1:] + found.points[:, :-1]) / 2
    ways = edges / edges.norm(dim=-1, keepdim=True)
    along = density(image, middles, ways)
    last = vmap(tract.ends)(found.points, found.length)[:, 1]
    reach = (last[:, :2] - centre).norm(dim=-1)
    return torch.stack([torch.where(held, along, 0).sum() / held.sum(), reach.mean()])


slopes = jacrev(read)(truth)
parts = {"radius": 5e-4 * um, "crossing": 5e-4 * um, "inside": 1e-6, "D": 2e-9}
flat_truth = {name: getattr(truth, name).reshape(-1) for name in parts}
moves = torch.cat([torch.full_like(flat_truth[n], h) for n, h in parts.items()])
sizes = [len(x) for x in flat_truth.values()]


def moved(step: Tensor) -> Tensor:
    """Return both numbers of a tissue that differs by a step in all its values."""
    steps = dict(zip(parts, step.split(sizes), strict=True))
    values = {
        n: getattr(truth, n) + x.view_as(getattr(truth, n)) for n, x in steps.items()
    }
    return read(Axons(**values))


up, down = vmap(moved)(torch.cat([moves.diag(), -moves.diag()])).chunk(2)
differences = (up - down) / (2 * moves[:, None])  # (value, number)
exact = torch.cat([getattr(slopes, n).reshape(2, -1) for n in parts], 1).mT
groups = [SECTIONS + 1, 1, 1]  # radii, share, diffusivity
off = (exact - differences).abs().split(groups)
most = [e.abs().amax(0) for e in exact.split(groups)]
worst = torch.stack([(o / m).amax(0) for o, m in zip(off, most, strict=True)]).amax(0)
mean, reach = read(truth)
print(
    f"fibre density along tracks {float(mean):.3f}, they end {float(reach):.2f} mm out"
)
for name in ("radius", "crossing"):
    shown = [f"{float(x):.1e}" for x in (getattr(slopes, name)[0] * um).reshape(-1)]
    print(f"d density / d {name} [1/µm]: {', '.join(shown)}")
print(f"differences agree to {worst[0]:.1e} (density), {worst[1]:.1e} (end)")

# %% [markdown]
# ## The whole chain in one picture

# %%
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

plt.rcParams.update(plot.STYLE | {"font.size": 12, "axes.titlesize": 13})
found = follow(image)
bundle = tract.ragged(found)
ways_of = torch.zeros_like(bundle.points)
ways_of[:-1] = bundle.points[1:] - bundle.points[:-1]
ways_of[bundle.offsets[1:] - 1] = ways_of[bundle.offsets[1:] - 2]
ways_of = ways_of / ways_of.norm(dim=-1, keepdim=True)
shades = density(image, bundle.points, ways_of)
figure = plt.figure(figsize=(15, 9), layout="constrained")
upper, lower = figure.subfigures(2, 1, height_ratios=(1.25, 1))
panels = upper.subplots(1, 2, width_ratios=(1, 1.25))
panel = panels[0]
for kind, radius in enumerate((0.5, 2.0, 3.5, 5.0)):
    curve = profile(torch.tensor(radius * um), truth)
    colour = plt.get_cmap("plasma")(kind / 4)
    panel.plot(torch.acos(cosines) / deg, curve, color=colour, label=f"{radius} µm")
panel.set(xlabel="angle to the axons [°]", ylabel="signal / S0")
panel.set_title(f"Axon → signal, b = {float(b):.0f} s/mm²")
panel.legend(title="radius")
panel = panels[1]
calibre = torch.full((len(place),), torch.nan)
calibre[in_line] = truth.crossing
calibre[in_arc] = truth.radius[section[in_arc]]
shown = calibre.reshape(GRID[:2]).mT / um
extent = (-20, 20, -20, 20)
back = panel.imshow(shown, origin="lower", extent=extent, cmap="Greys", vmin=0, vmax=6)
upper.colorbar(back, ax=panel, label="axon radius [µm]", shrink=0.85, pad=0.01)
scale = {"cmap": "plasma", "limits": (float(shades.min()), 1.2 * float(shades.max()))}
lines = plot.streamlines(panel, bundle, shades, plane="xy", width=2.2, **scale)
upper.colorbar(lines, ax=panel, label="apparent fibre density", shrink=0.85)
panel.set(xlim=(-20, 14), ylim=(-20, 14), title="Signal → orientations → tracks")
panels = lower.subplots(1, 2)
names = [f"arc {k + 1}" for k in range(SECTIONS)] + ["line"]
titles = ("d density / d radius [1/µm]", "d end / d radius [mm/µm]")
for k, (panel, title) in enumerate(zip(panels, titles, strict=True)):
    made, checked = exact[: SECTIONS + 1, k] * um, differences[: SECTIONS + 1, k] * um
    panel.bar(names, made, color="#0060b0", label="one reverse-mode gradient")
    panel.plot(names, checked, "o", color="#e08a00", label="central differences")
    panel.axhline(0, color="0.6", linewidth=1)
    panel.set_title(title)
    panel.legend()
figure.savefig("09_all_together.png", dpi=100)
if importlib.util.find_spec("plotly"):
    plot.streamlines_html(
        "09_tracks.html", bundle, shades, title="Apparent fibre density along tracks"
    )

# %%
assert bool((found.length > 30).all())
assert worst[0] < 1e-5
assert worst[1] < 1e-4
assert float(exact[:SECTIONS, 0].abs().min()) > 0
assert float(exact[:, 1].abs().max()) > 0
