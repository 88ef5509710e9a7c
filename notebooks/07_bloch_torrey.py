# %% [markdown]
# # A cell's shape from its diffusion signal
#
# A Bloch–Torrey simulation on a finite-element mesh converges at second order to the
# exact signal, and it is differentiable down to the nodes. So noisy diffusion signals
# (SNR 50) of an ellipsoid are turned back into its three semi-axes, beside the
# Cramér-Rao bound, and then into a mesh whose nodes are all free, from a sphere as the
# start. Data come from a finer mesh than the one fitted.

# %%
import os
import warnings

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from torch import Tensor
from torch.func import vmap

import mrsim
from mrsim import plot, torrey, tract
from mrsim.units import ms, um

FAST = bool(os.environ.get("MRSIM_FAST"))
SIGMA = 1 / 50
MODES = 18 if FAST else 34
torch.set_default_dtype(torch.float64)  # noqa: TID251
plt.rcParams.update(plot.STYLE | {"font.size": 12, "axes.titlesize": 13})
generator = torch.Generator().manual_seed(0)

# %% [markdown]
# ## Convergence
# Signals of a sphere, from meshes of finer and finer elements, against the mesh-free
# solution (a spectral expansion, exact to 1e-8).

# %%
water = torrey.Water(D=2e-3)
train = torrey.PGSE(q=1e5, direction=[1.0, 0, 0], delta=5 * ms, Delta=20 * ms)
strengths = torch.linspace(0.5, 4, 8) * 1e5
sweep = lambda f, over=strengths: torch.stack(  # noqa: E731
    [f(mrsim.replace(train, q=q)).real for q in over]
)
mesh_free = lambda x: torrey.analytic(torrey.Sphere(radius=4 * um), water, x)  # noqa: E731
exact = sweep(mesh_free)
sizes = torch.tensor([1.33, 1.0, 0.8] if FAST else [1.33, 1.0, 0.8, 0.667, 0.571])
errors, curves = [], []
for h in sizes.tolist():
    mesh = torrey.mesh_sphere(4 * um, size=h * um)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a cut that completes a group of equal modes
        basis = torrey.laplace(*mesh, water, modes=60)
    curves.append(sweep(lambda x, basis=basis: torrey.signal(basis, x)))
    errors.append((curves[-1] - exact).abs().max())
errors = torch.stack(errors)
order = float((errors[0] / errors[-1]).log() / (sizes[0] / sizes[-1]).log())
print("largest error / S0:", *(f"{e:.1e}" for e in errors), f"(order {order:.2f})")

figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.4), layout="constrained")
between = torch.linspace(0.5, 4, 71) * 1e5
curve = sweep(mesh_free, between).abs()
left.semilogy(sweep(torrey.b_value, between) / 1e3, curve, "k-", label="mesh-free")
b = sweep(torrey.b_value) / 1e3
for h, curve in zip(sizes.tolist(), curves, strict=True):
    left.semilogy(b, curve.abs(), "o", markersize=4, label=f"elements of {h:g} µm")
left.set(xlabel="b [ms/µm²]", ylabel="|signal| / S0", title="A sphere of 4 µm radius")
left.legend()
right.loglog(sizes, 1e3 * errors, "o-", label="largest error")
second = 1e3 * errors[0] * (sizes / sizes[0]) ** 2
right.loglog(sizes, second, "k--", label="second order")
right.set(xlabel="size of elements [µm]", ylabel="error [‰ of S0]", title="Convergence")
right.set_xticks(sizes, [f"{h:g}" for h in sizes.tolist()], minor=False)
marks = [m for m in (0.2, 0.5, 1, 2, 4) if m > second.min()]
right.set_yticks(marks, [f"{m:g}" for m in marks], minor=False)
right.tick_params(which="minor", labelbottom=False, labelleft=False)
right.legend()
figure.savefig("07_bloch_torrey_convergence.png", dpi=120)

# %% [markdown]
# ## Mesh, water, protocol
# Three shells of q with many directions, each at four diffusion times. The propagators
# of the pulses depend on q alone, so that diffusion times come nearly free.

# %%
directions = tract.hemisphere(6 if FAST else 30)
times = torch.tensor([15.0, 30.0, 50.0, 80.0]) * ms
shells = torch.tensor([0.4, 0.8, 1.2]) / um / (8 * ms)
q = shells.repeat_interleave(len(directions))
ways = directions.repeat(3, 1)


def signals(nodes: torrey.Nodes, topology: torrey.Topology, modes: int) -> Tensor:
    """Return the signals of the protocol, as shares of all spins."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a cut that completes a group of equal modes
        basis = torrey.laplace(nodes, topology, water, modes=modes)

    def pair(q: Tensor, u: Tensor) -> Tensor:
        def wait(t: Tensor) -> Tensor:
            delta = torch.tensor(8 * ms)
            encoding = torrey.PGSE(q=q, direction=u, delta=delta, Delta=t)
            return torrey.signal(basis, encoding).real

        return vmap(wait)(times)

    return vmap(pair)(q, ways).flatten()


true = torrey.Ellipsoid(axes=torch.tensor([3.5, 4.5, 6.0]) * um)
fine, fine_topology = torrey.mesh_ellipsoid(true.axes, size=(1.9 if FAST else 1.3) * um)
clean = signals(fine, fine_topology, 2 * MODES)
data = clean + SIGMA * torch.randn(clean.shape, generator=generator)
print(f"{len(fine.points)} nodes made {len(data)} signals,", end=" ")
print(f"from {float(clean.min()):.3f} to {float(clean.max()):.3f}")

# %% [markdown]
# ## Three semi-axes, with their bound

# %%
chart, topology = torrey.sphere_chart((2,) if FAST else (3,))


def model(shape: torrey.Ellipsoid) -> Tensor:
    """Return the signals of an ellipsoid."""
    return signals(torrey.ellipsoid(chart, shape), topology, MODES)


first = torrey.Ellipsoid(axes=torch.tensor([4.3, 4.6, 5.0]) * um)
fit = torrey.recover(model, "axes", sigma=SIGMA)(data, first)
sd = fit.covariance.diagonal().sqrt()
for name, made, bound, wanted in zip(
    "abc", fit.params.axes, sd, true.axes, strict=True
):
    print(f"{name} = {made / um:.3f} ± {bound / um:.3f} µm (true {wanted / um:.1f} µm)")

# %% [markdown]
# ## Free nodes
# Every node of a sphere may move. Elements resist distortion, which becomes infinite
# before one turns over, and steps are smooth (a Sobolev gradient).

# %%
start = torrey.ball(chart, torrey.Ball(radii=4.5 * um))
start = torrey.Nodes(points=start.points * torch.tensor([0.97, 1.0, 1.03]))


def loss(nodes: torrey.Nodes) -> Tensor:
    """Return the mean squared residual, in units of the noise, and the distortion."""
    misfit = (signals(nodes, topology, MODES) - data) / SIGMA
    return misfit.square().mean() + 0.5 * torrey.distortion(nodes, topology, start)


found = torrey.optimise_mesh(
    loss,
    start,
    metric=torrey.smooth_metric(start, topology, length=5 * um),
    iterations=12 if FAST else 30,
)


def size(nodes: torrey.Nodes) -> Tensor:
    """Return semi-axes from second moments, which no turn of the mesh changes."""
    each = torrey.volumes(nodes, topology)
    middle = torrey.corners(nodes, topology).mean(1)
    centre = (each[:, None] * middle).sum(0) / each.sum()
    away = torrey.corners(nodes, topology) - centre
    whole = away.sum(1)
    # ∫ x xᵀ over a tetrahedron: V (Σ xᵢxᵢᵀ + s sᵀ) / 20
    part = torch.einsum("eia,eib->eab", away, away) + whole[:, :, None] * whole[:, None]
    moment = (each[:, None, None] * part).sum(0) / (20 * each.sum())
    return (5 * torch.linalg.eigvalsh(moment)).sqrt()


print(f"loss {float(found.history[0]):.2f} → {float(found.loss):.2f};", end=" ")
print("free nodes: semi-axes", (size(found.params) / um).numpy().round(2), "µm")
quality = torrey.mesh_quality(found.params, topology)
print(f"worst radius ratio {float(quality.radius_ratio.min()):.2f}")

# %% [markdown]
# ## Which waiting time tells most?
# The bound itself is differentiable in the protocol: its slope with respect to the
# diffusion time says which way to go.

# %%


def one(shape: torrey.Ellipsoid, pair: torrey.PGSE) -> Tensor:
    """Return three signals along the axes."""
    basis = torrey.laplace(torrey.ellipsoid(chart, shape), topology, water, modes=18)
    u = torch.eye(3)
    return vmap(lambda u: torrey.signal(basis, mrsim.replace(pair, direction=u)))(
        u
    ).real


pulse = torrey.PGSE(
    q=0.6 / um / (8 * ms), direction=[1.0, 0, 0], delta=8 * ms, Delta=30 * ms
)
bound_of = mrsim.crlb(one, "axes", sigma=SIGMA)
log_bound = lambda p: bound_of(true, p).axes.log().sum()  # noqa: E731
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    slope = torch.func.grad(log_bound)(pulse)
print(f"d log bound / dΔ = {float(slope.Delta) / 1e3:.4f} per ms")

# %% [markdown]
# ## Before and after

# %%
figure = plt.figure(figsize=(16, 4.4), layout="constrained")
figure.get_layout_engine().set(wspace=0.08)
panels = (
    ("start", start, topology),
    ("free nodes", found.params, topology),
    ("true", fine, fine_topology),
)
for k, (title, nodes, connectivity) in enumerate(panels):
    space = figure.add_subplot(1, 4, k + 1, projection="3d")
    plot.mesh(space, nodes, connectivity)
    span, ticks = (-6.5, 6.5), (-5, 0, 5)
    space.set(xlim=span, ylim=span, zlim=span, xticks=ticks, yticks=ticks, zticks=ticks)
    space.set_box_aspect((1, 1, 1), zoom=0.85)
    space.set_title(title, y=0.97)
axes = figure.add_subplot(1, 4, 4)
axes.plot([0, 1], [0, 1], color="black", linewidth=0.8)
for title, nodes, colour in (
    ("start", start, "#8c8c8c"),
    ("free nodes", found.params, "#0060b0"),
):
    axes.scatter(data, signals(nodes, topology, MODES), s=6, color=colour, label=title)
axes.set(xlabel="measured signal / S0", ylabel="signal of the mesh / S0")
axes.set_title("Signals at SNR 50")
axes.legend()
figure.savefig("07_bloch_torrey_shape.png", dpi=120)

# %%
assert order > 1.6
assert float(errors[-1]) < 0.01
assert ((fit.params.axes / true.axes - 1).abs() < (0.06 if FAST else 0.03)).all()
assert ((fit.params.axes - true.axes).abs() < 4 * sd + 0.01 * true.axes).all()
assert float(found.loss) < 0.3 * float(found.history[0])
assert ((size(found.params) / true.axes - 1).abs() < (0.12 if FAST else 0.06)).all()
assert float(quality.volume.min()) > 0
assert abs(float(slope.Delta)) > 0
