"""Bloch–Torrey: diffusion signals of meshes, differentiable down to the nodes."""

from mrsim.torrey._analytic import (
    analytic as analytic,
    analytic_error as analytic_error,
    analytic_layers as analytic_layers,
    analytic_rates as analytic_rates,
)
from mrsim.torrey._axon import Axon as Axon, axon as axon
from mrsim.torrey._ball import Ball as Ball, ball as ball
from mrsim.torrey._directions import directions as directions, shells as shells
from mrsim.torrey._ellipsoid import Ellipsoid as Ellipsoid, ellipsoid as ellipsoid
from mrsim.torrey._gaussian_phase import gaussian_phase as gaussian_phase
from mrsim.torrey._hadc import hadc as hadc
from mrsim.torrey._karger import (
    exchange_rates as exchange_rates,
    free_diffusion as free_diffusion,
    karger as karger,
)
from mrsim.torrey._mesh_box import mesh_box as mesh_box, mesh_slab as mesh_slab
from mrsim.torrey._mesh_cylinder import (
    cylinder_chart as cylinder_chart,
    mesh_axon as mesh_axon,
    mesh_cylinder as mesh_cylinder,
)
from mrsim.torrey._mesh_sphere import (
    mesh_ellipsoid as mesh_ellipsoid,
    mesh_sphere as mesh_sphere,
    sphere_chart as sphere_chart,
)
from mrsim.torrey._neuron import (
    Capsules as Capsules,
    example_neuron as example_neuron,
    mesh_neuron as mesh_neuron,
    neuron_distance as neuron_distance,
)
from mrsim.torrey._optimise_mesh import (
    Optimised as Optimised,
    optimise_mesh as optimise_mesh,
)
from mrsim.torrey._recover import Recovered as Recovered, recover as recover
from mrsim.torrey._short_pulse import (
    short_pulse as short_pulse,
    short_pulse_limit as short_pulse_limit,
)
from mrsim.torrey._short_time import (
    short_time as short_time,
    surface_tensors as surface_tensors,
)
from mrsim.torrey._signals import (
    signal_bytes as signal_bytes,
    signals as signals,
    time_error as time_error,
)
from mrsim.torrey._stepping import (
    count_steps as count_steps,
    stepped as stepped,
    stepped_error as stepped_error,
    stepped_parts as stepped_parts,
)
from mrsim.torrey._strength import (
    b_tensor as b_tensor,
    b_value as b_value,
    net_moment as net_moment,
    with_b as with_b,
    with_G as with_G,
)
from mrsim.torrey._surface_distance import surface_distance as surface_distance
from mrsim.torrey.adc_fits import fit_adc as fit_adc, fit_tensor as fit_tensor
from mrsim.torrey.apparent import (
    apparent_diffusion as apparent_diffusion,
    apparent_exponent as apparent_exponent,
    apparent_tensor as apparent_tensor,
    gaussian as gaussian,
)
from mrsim.torrey.assembly import Blocks as Blocks, assemble as assemble
from mrsim.torrey.basis import (
    Basis as Basis,
    laplace as laplace,
    laplace_modes as laplace_modes,
)
from mrsim.torrey.chart import Chart as Chart
from mrsim.torrey.encoding import (
    PGSE as PGSE,
    CosOGSE as CosOGSE,
    DoublePGSE as DoublePGSE,
    SinOGSE as SinOGSE,
    Trapezoid as Trapezoid,
    Waveform as Waveform,
    profile as profile,
)
from mrsim.torrey.formalism import (
    pgse as pgse,
    signal as signal,
    signal_parts as signal_parts,
    simulate as simulate,
)
from mrsim.torrey.geometry import Cylinder as Cylinder, Slab as Slab, Sphere as Sphere
from mrsim.torrey.mesh import (
    Nodes as Nodes,
    Topology as Topology,
    compartment_volumes as compartment_volumes,
    corners as corners,
    make_mesh as make_mesh,
    volumes as volumes,
)
from mrsim.torrey.metric import smooth_metric as smooth_metric
from mrsim.torrey.quality import (
    Quality as Quality,
    mesh_quality as mesh_quality,
    orient as orient,
)
from mrsim.torrey.regularise import (
    distortion as distortion,
    relax_inside as relax_inside,
    surface_laplacian as surface_laplacian,
    volume_change as volume_change,
    willmore as willmore,
)
from mrsim.torrey.water import Water as Water
