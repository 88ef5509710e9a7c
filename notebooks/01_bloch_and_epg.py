# %% [markdown]
# # The Bloch equation and extended phase graphs, by hand
#
# Everything in MRI relaxometry starts from one equation (Bloch 1946, Phys Rev 70:460).
# In the frame that turns with the transmitter, between pulses,
#
# $$\dot M_{xy} = \left(2\pi i\,\Delta f - \tfrac1{T_2}\right) M_{xy},\qquad
#   \dot M_z = \frac{M_0 - M_z}{T_1},$$
#
# and a pulse that is short compared with everything else is a rotation. This notebook
# plays with it in three pictures of the same physics: one arrow, many arrows
# (isochromats), and the Fourier coefficients of many arrows (extended phase graphs,
# Hennig 1988, J Magn Reson 78:397; Weigel 2015, JMRI 41:266). All three are written by
# hand here and then checked against `mrsim.bloch` and `mrsim.epg`.

# %%
import math

import matplotlib.pyplot as plt
import torch
from torch import Tensor
from torch.func import vmap

import mrsim
from mrsim import bloch, epg, plot
from mrsim.units import deg, ms

torch.set_default_dtype(torch.float64)  # noqa: TID251
plt.rcParams.update(plot.STYLE)

# %% [markdown]
# ## One arrow
# Pulses and waits have closed forms: a right-handed rotation by `flip` about
# (cos φ, sin φ, 0), and a shrinking turn. (mrsim's signs: a 90° pulse about +y tips
# +z to +x; an off-resonance df > 0 turns counter-clockwise.)

# %%


def pulse(M: Tensor, flip: float, phase: float) -> Tensor:
    """Rotate arrows (…, 3) by `flip` about (cos phase, sin phase, 0)."""
    c, s = math.cos(phase), math.sin(phase)
    turn = flip * torch.tensor([[0.0, 0.0, s], [0.0, 0.0, -c], [-s, c, 0.0]])
    return M @ torch.linalg.matrix_exp(turn).mT


def wait(M: Tensor, time: Tensor, angle: Tensor, tissue: mrsim.Tissue) -> Tensor:
    """Let arrows (…, 3) turn by `angle` about z and relax for `time`."""
    c, s, E2 = angle.cos(), angle.sin(), (-time / tissue.T2).exp()
    x, y, z = M.unbind(-1)
    z = 1 + (z - 1) * (-time / tissue.T1).exp()
    return torch.stack([E2 * (c * x - s * y), E2 * (s * x + c * y), z], -1)


rest = torch.tensor([0.0, 0.0, 1.0])
ABOUT_X, ABOUT_Y = 0.0, 90 * deg
tissue = mrsim.Tissue(T1=600 * ms, T2=200 * ms)

df, t = 8.0, torch.linspace(0, 1.5, 1501)
path = wait(pulse(rest, 90 * deg, ABOUT_Y), t, 2 * math.pi * df * t, tissue)

# %% [markdown]
# Is the closed form the solution? The Bloch equation is affine, so that the exponential
# of its 4 × 4 generator solves it without any thought.

# %%
R1, R2, w = 1 / float(tissue.T1), 1 / float(tissue.T2), 2 * math.pi * df
generator = torch.tensor(
    [[-R2, -w, 0, 0], [w, -R2, 0, 0], [0, 0, -R1, R1], [0, 0, 0, 0]]
)
excited = torch.tensor([1.0, 0.0, 0.0, 1.0])
solved = torch.linalg.matrix_exp(generator * t[:, None, None]) @ excited
by_hand_error = float((solved[:, :3] - path).abs().max())
print(f"closed form against the matrix exponential: {by_hand_error:.0e}")

# %%


def globe(axes: plt.Axes) -> None:
    """Draw the unit sphere's equator, a meridian and the axes, nothing else."""
    a = torch.linspace(0, 2 * math.pi, 100)
    axes.plot(a.cos(), a.sin(), 0 * a, color="0.8", lw=1)
    axes.plot(a.cos(), 0 * a, a.sin(), color="0.9", lw=1)
    for tip, name in zip(1.15 * torch.eye(3), "xyz", strict=True):
        axes.plot(*zip([0, 0, 0], tip.tolist(), strict=True), color="0.6", lw=1)
        axes.text(*(1.1 * tip).tolist(), name, color="0.4", ha="center", va="center")
    axes.set(xlim=(-1, 1), ylim=(-1, 1), zlim=(-1, 1))
    axes.set_box_aspect((1, 1, 1), zoom=1.3)
    axes.set_axis_off()
    axes.view_init(elev=22, azim=35)


figure = plt.figure(figsize=(15, 6))
space = figure.add_axes((0.0, 0.0, 0.38, 0.9), projection="3d")
globe(space)
dots = space.scatter(*path.T, c=t / ms, s=4, cmap="viridis")
bar = figure.colorbar(dots, cax=figure.add_axes((0.38, 0.2, 0.012, 0.6)))
bar.set_label("time after the pulse [ms]")
figure.text(0.04, 0.925, "Precession and relaxation", weight="bold", size=18)
panel = figure.add_axes((0.55, 0.15, 0.42, 0.74))
panel.plot(t / ms, path[:, 0], label="$M_x$")
panel.plot(t / ms, path[:, :2].norm(dim=-1), label="$|M_{xy}| = e^{-t/T_2}$")
panel.plot(t / ms, path[:, 2], label="$M_z = 1 - e^{-t/T_1}$")
panel.axhline(0, color="0.85", lw=1, zorder=0)
panel.set(xlabel="time after the pulse [ms]", ylabel="magnetisation / $M_0$")
panel.set_title(f"T1 = 600 ms, T2 = 200 ms, {df:.0f} Hz off")
panel.legend(loc="lower right")
figure.savefig("01_one_arrow.png", dpi=100)

# %% [markdown]
# ## Many arrows make an echo
# Spins that precess at different rates lose each other; a 180° pulse about x mirrors
# their phases, the fast ones are now behind, and after as much time again they meet
# (Hahn 1950, Phys Rev 80:580). What T2 took is lost for good: the echo is
# exp(−TE/T2), however wide the spread of frequencies.

# %%
spread = torch.linspace(-12.0, 12.0, 25)  # Hz
tau = torch.tensor(30 * ms)
angle = 2 * math.pi * spread * tau
start = pulse(rest.expand(len(spread), 3), 90 * deg, ABOUT_Y)
apart = wait(start, tau, angle, tissue)
mirrored = pulse(apart, 180 * deg, ABOUT_X)
echo = wait(mirrored, tau, angle, tissue)

hahn = float(echo.mean(0)[:2].norm())
print(f"Hahn echo {hahn:.12f}, exp(-TE/T2) {math.exp(-2 * tau / tissue.T2):.12f}")
print(f"sum before the 180° pulse: {float(apart.mean(0)[:2].norm()):.3f}")

figure = plt.figure(figsize=(16, 4.4))
snaps = {
    "after 90° about y": start,
    "τ later": apart,
    "after 180° about x": mirrored,
    "τ later: the echo": echo,
}
for k, (title, arrows) in enumerate(snaps.items()):
    space = figure.add_axes((0.232 * k, 0.0, 0.232, 0.88), projection="3d")
    globe(space)
    colours = plt.cm.coolwarm(torch.linspace(0, 1, len(arrows)))
    for arrow, colour in zip(arrows, colours, strict=True):
        line = zip([0.0, 0.0, 0.0], arrow.tolist(), strict=True)
        space.plot(*line, color=colour, lw=2)
    figure.text(0.232 * (k + 0.5), 0.92, title, ha="center", weight="bold", size=18)
scale = plt.cm.ScalarMappable(plt.Normalize(-12, 12), "coolwarm")
bar = figure.colorbar(scale, cax=figure.add_axes((0.935, 0.2, 0.009, 0.55)))
bar.set_label("df [Hz]")
figure.savefig("01_spin_echo.png", dpi=100)

# %% [markdown]
# ## From arrows to phase graphs
# A gradient winds the arrows into a helix along z. A pulse splits helices into others,
# never into anything else, so the Fourier coefficients
#
# $$M_+(z) = \sum_k F_k\,e^{ikz},\qquad M_z(z) = \sum_k Z_k\,e^{ikz}$$
#
# are a complete and tiny description: a pulse mixes F_k, F*_{−k} and Z_k, a gradient
# moves F_k to F_{k+1}, relaxation shrinks all. That is the extended phase graph. Below,
# the same three pulses and gradients act on 32 arrows along z and, through the
# operators of `mrsim.epg`, on Fourier coefficients.

# %%
gap = torch.tensor(12 * ms)
pulses = [(90 * deg, ABOUT_Y), (60 * deg, ABOUT_X), (110 * deg, ABOUT_X)]

z = 2 * math.pi * torch.arange(32) / 32
arrows = rest.expand(32, 3)
state = epg.equilibrium(torch.tensor(1.0))
for flip, phase in pulses:
    arrows = wait(pulse(arrows, flip, phase), gap, z, tissue)
    state = epg.rf(state, torch.tensor(flip), torch.tensor(phase))
    state = epg.relax(state, tissue.T1, tissue.T2, torch.tensor(1.0), gap)
    state = epg.shift(state, 1)

K = state.Z.shape[-1] - 1
orders = torch.arange(-K, K + 1)
F = torch.fft.fft(torch.complex(arrows[:, 0], arrows[:, 1]))[orders] / 32
Z = torch.fft.fft(arrows[:, 2])[: K + 1] / 32
operator_error = float(torch.cat([(F - state.F).abs(), (Z - state.Z).abs()]).max())
print(f"orders -{K} … {K}: FFT of the arrows against operators: {operator_error:.0e}")

figure, panels = plt.subplots(1, 2, figsize=(15, 5), layout="constrained")
for y, name in zip(arrows.T, ("$M_x$", "$M_y$", "$M_z$"), strict=True):
    panels[0].plot(z / (2 * math.pi), y, ".-", label=name)
panels[0].set(xlabel="position [wavelength of one gradient]", ylabel="M / $M_0$")
panels[0].set_title("32 arrows after three pulses …")
panels[0].legend(ncols=3, loc="lower left")
panels[0].set_ylim(-1.25, 0.95)
panels[1].bar(orders - 0.2, state.F.abs(), 0.4, label="$|F_k|$")
panels[1].bar(orders[K:] + 0.2, state.Z.abs(), 0.4, label="$|Z_k|$")
panels[1].set(xlabel="order k", ylabel="amplitude / $M_0$")
panels[1].set_title("… are a handful of Fourier coefficients")
panels[1].set_xticks(orders)
panels[1].legend()
figure.savefig("01_arrows_to_orders.png", dpi=100)

# %% [markdown]
# ## The phase graph of a short train
# Drawn over time, the coefficients are a graph: transverse orders climb while the
# gradient is on, longitudinal ones wait (and only decay with T1), and each time a line
# crosses k = 0 there is an echo. (`plot.phase_graph` follows the states that
# `epg.evolve` returns.) A train of 120° pulses keeps a good part of its signal in
# stimulated pathways, which wait in Z.

# %%
train = epg.FSE(flip=[120 * deg] * 5, esp=10 * ms)
program = epg.fse_program(train)

figure, panels = plt.subplots(
    2, 1, figsize=(15, 9), height_ratios=(1, 2.2), sharex=True, layout="constrained"
)
plot.sequence(panels[0], program)
lines = plot.phase_graph(panels[1], tissue, program, floor=1e-2)
panels[0].set(xlabel="", title="A train of 120° pulses, 10 ms apart …")
panels[1].set(ylabel="order k [half echo spacings]")
panels[1].set_title("… and all it does: $F_k$ solid, $Z_k$ dashed, echoes as circles")
figure.colorbar(lines, ax=panels[1], label="$|F_k|$, $|Z_k|$ / $M_0$", pad=0.01)
figure.savefig("01_phase_graph.png", dpi=100)

# %% [markdown]
# ## Phase graphs are isochromats
# `epg.run` walks the graph, `bloch.run` turns arrows; both take the same `Program`.
# With more arrows than twice the largest order their average is exact, so the two agree
# to rounding, for any flips and phases. (With fewer arrows it is not: that is how a
# Bloch simulation with too few spins fails, and why orders are the better coordinates.)

# %%
generator = torch.Generator().manual_seed(1)
random = epg.FSE(
    flip=math.pi * torch.rand(24, generator=generator),
    phase=math.pi * torch.rand(24, generator=generator),
    esp=8 * ms,
)
off = mrsim.replace(tissue, df=torch.tensor(11.0), B1=torch.tensor(0.9))
twins = [run(off, epg.fse_program(random)) for run in (epg.run, bloch.run)]
twin_error = float((twins[0] - twins[1]).abs().max())
few = bloch.run(off, epg.fse_program(random), spins=16)
print(f"24 random pulses: EPG against 97 arrows {twin_error:.0e},", end=" ")
print(f"against 16 arrows {float((few - twins[0]).abs().max()):.2f}")

# %% [markdown]
# ## Three pulses, five echoes
# Three pulses α₁, α₂, α₃ at 0, τ₁ and τ₁ + τ₂ make five echoes, each from one pathway
# of the graph (Hahn 1950; Weigel 2015):
#
# | echo | at | amplitude without relaxation |
# |---|---|---|
# | primary, of pulses 1 and 2 | 2τ₁ | sin α₁ sin²(α₂/2) |
# | stimulated | 2τ₁ + τ₂ | ½ sin α₁ sin α₂ sin α₃ |
# | of the primary, refocused | 2τ₂ | sin α₁ sin²(α₂/2) sin²(α₃/2) |
# | of pulses 2 and 3 | τ₁ + 2τ₂ | cos α₁ sin α₂ sin²(α₃/2) |
# | of pulses 1 and 3 | 2(τ₁ + τ₂) | sin α₁ cos²(α₂/2) sin²(α₃/2) |
#
# All decay with T2 while transverse; the stimulated echo waits out τ₂ along z and loses
# only exp(−τ₂/T1) there, and pulse 2 finds what T1 has brought back. A `Program` of
# one's own takes one row for each event.

# %%
flips = torch.tensor([70.0, 80.0, 100.0]) * deg
tau1, tau2 = 10 * ms, 30 * ms
layout = (
    epg.Event(pulse=True, shift=1),
    epg.Event(pulse=True, shift=1, read=True),  # primary
    *(epg.Event(shift=1),) * 2,
    epg.Event(pulse=True, shift=1, read=True),  # stimulated
    *(epg.Event(shift=1, read=True),) * 3,  # the three others
)
rows = torch.tensor([i for i, event in enumerate(layout) if event.pulse])
three = epg.Program(
    flip=torch.zeros(len(layout)).index_copy(0, rows, flips),
    duration=torch.full((len(layout),), tau1),
    layout=layout,
)
found = epg.run(tissue, three).abs()

T1, T2 = float(tissue.T1), float(tissue.T2)
times = torch.tensor([2 * tau1, 2 * tau1 + tau2, 2 * tau2, tau1 + 2 * tau2, 80 * ms])
S, C = flips.sin(), flips.cos()
s2, c2 = (flips / 2).sin().square(), (flips / 2).cos().square()
grown = 1 - (1 - C[0]) * math.exp(-tau1 / T1)  # Mz that pulse 2 finds
decay = (-times / T2).exp()
told = torch.stack(
    [
        S[0] * s2[1] * decay[0],
        S[0] * S[1] * S[2] / 2 * math.exp(-2 * tau1 / T2 - tau2 / T1),
        S[0] * s2[1] * s2[2] * decay[2],
        grown * S[1] * s2[2] * math.exp(-2 * tau2 / T2),
        S[0] * c2[1] * s2[2] * decay[4],
    ]
)
names = ("primary", "stimulated", "refocused", "2 and 3", "1 and 3")
for name, time, a, b in zip(names, times / ms, found, told, strict=True):
    print(f"{name:>10} at {time:3.0f} ms: {a:.6f} by EPG, {b:.6f} by hand")
echo_error = float((found - told).abs().max())

# %% [markdown]
# What would the scanner see between the echoes? Thousands of isochromats with a broad
# spread of frequencies, one program read on a fine time grid, `vmap` over df:
# after each pulse there is a free induction decay, then the echoes rise where the graph
# says.

# %%
fine = 0.25 * ms
steps = round(90 * ms / fine)
at = [round(x / fine) for x in (0.0, tau1, tau1 + tau2)]
seen = tuple(epg.Event(pulse=i in at, read=True) for i in range(steps))
dense = epg.Program(
    flip=torch.zeros(steps).index_copy(0, torch.tensor(at), flips),
    duration=torch.full((steps,), fine),
    layout=seen,
    clock=(0,) * steps,
)
lines = torch.linspace(-1000, 1000, 1601)[:-1]
weights = (-0.5 * (lines / 250).square()).exp()
voxels = mrsim.grid(tissue, df=lines)
each = vmap(epg.run, in_dims=(0, None))(voxels, dense)
signal = (weights[:, None] * each).sum(0) / weights.sum()
clock = fine * torch.arange(1, steps + 1)
at_echo = signal.abs()[[round(float(x) / fine) - 1 for x in times]]
scan_error = float((at_echo - found).abs().max())

figure, panel = plt.subplots(figsize=(15, 5.5), layout="constrained")
panel.plot(clock / ms, signal.abs(), color="0.35", lw=1.6, label="isochromats")
panel.plot(times / ms, found, "o", ms=11, color="C1", label="phase graph")
for name, time, a in zip(names, times / ms, found, strict=True):
    panel.annotate(
        name, (time, a), (0, 14), textcoords="offset points", ha="center", color="C1"
    )
for k, i in enumerate(at):
    panel.axvline(i * fine / ms, color="C0", lw=3, alpha=0.4)
    panel.text(
        i * fine / ms + 0.6, 0.93, f"{flips[k] / deg:.0f}°", color="C0", va="top"
    )
panel.set(xlabel="time [ms]", ylabel="|signal| / $M_0$", ylim=(0, 1.0), xlim=(-1, 90))
panel.set_title("Three pulses, five echoes: 1600 isochromats and five pathways")
panel.legend(loc="upper right")
figure.savefig("01_three_pulses.png", dpi=100)

# %% [markdown]
# ## And a derivative
# Pathways know what they depend on: the stimulated echo, which waited along z, has the
# derivative S τ₂/T1² with respect to T1; the three echoes that pulse 1 made and that
# never did have none; and that of pulses 2 and 3 shrinks with T1, since less has come
# back for pulse 2. `mrsim.jac` differentiates any program by field name.

# %%
slope = mrsim.jac(lambda v: epg.run(v, three).abs(), "T1")(tissue).T1
print("d|S|/dT1 [1/s]:", [round(x, 4) for x in slope.tolist()])
print(f"by hand, stimulated: {float(told[1]) * tau2 / T1**2:.4f}")

# %%
assert by_hand_error < 1e-9
assert abs(hahn - math.exp(-2 * tau / tissue.T2)) < 1e-12
assert operator_error < 1e-14
assert twin_error < 1e-13
assert float((few - twins[0]).abs().max()) > 0.01
assert echo_error < 1e-14
assert scan_error < 2e-3
assert abs(float(slope[1]) - float(told[1]) * tau2 / T1**2) < 1e-12
assert float(slope[[0, 2, 4]].abs().max()) < 1e-14

# %% [markdown]
# **Try next**: 180° instead of 120° in the train (which lines of the graph vanish?);
# 90°–90°–90°, where the stimulated echo is largest; `epg.Event(shift=-1)` for a
# gradient echo; `mrsim.Tissue(D=...)` with `moment=`, where high orders pay for their
# winding; and the hyperecho in the docstring of `mrsim.epg.blocks`.
