"""Streamlines: MRtrix's deterministic tracking vertex for vertex, differentiable."""

from mrsim.tract._csd import (
    CSD as CSD,
    MSMT as MSMT,
    Tissues as Tissues,
    csd as csd,
    deconvolve as deconvolve,
    deconvolve_tissues as deconvolve_tissues,
    msmt as msmt,
)
from mrsim.tract._density import (
    connectome as connectome,
    density as density,
    parcel_weights as parcel_weights,
)
from mrsim.tract._options import Options as Options, options as options
from mrsim.tract._rotate import (
    axes as axes,
    rotate as rotate,
    to_image as to_image,
    to_scanner as to_scanner,
)
from mrsim.tract._sampled import sample_cone as sample_cone, transport as transport
from mrsim.tract._stream import Seed as Seed, Track as Track, stream as stream
from mrsim.tract._tracks import (
    Tracks as Tracks,
    downsample as downsample,
    ragged as ragged,
    selected as selected,
    tracks as tracks,
    tracks_in_chunks as tracks_in_chunks,
)
from mrsim.tract.basis import (
    Basis as Basis,
    convert as convert,
    degree as degree,
    harmonics as harmonics,
    terms as terms,
    zonal as zonal,
)
from mrsim.tract.dwi_tensor import (
    Diffusion as Diffusion,
    fa as fa,
    fit_tensor as fit_tensor,
    md as md,
    principal as principal,
)
from mrsim.tract.fibres import (
    Fibres as Fibres,
    delta_fod as delta_fod,
    multi_tensor as multi_tensor,
)
from mrsim.tract.field import (
    Field as Field,
    Regions as Regions,
    Signals as Signals,
    Vectors as Vectors,
)
from mrsim.tract.frame import coherence as coherence, warn_of_frame as warn_of_frame
from mrsim.tract.losses import (
    average_minimum as average_minimum,
    bundle_distance as bundle_distance,
    curvature as curvature,
    endpoint_distance as endpoint_distance,
    ends as ends,
    hausdorff as hausdorff,
    length as length,
    mdf as mdf,
    resample as resample,
)
from mrsim.tract.polynomial import amplitude as amplitude
from mrsim.tract.response import (
    convolution as convolution,
    convolve as convolve,
    kernel as kernel,
    tensor_response as tensor_response,
)
from mrsim.tract.response_estimate import (
    Response as Response,
    Responses as Responses,
    fibre_response as fibre_response,
    fit_response as fit_response,
    tissue_responses as tissue_responses,
)
from mrsim.tract.rules import REASONS as REASONS
from mrsim.tract.scheme import (
    Scheme as Scheme,
    shells as shells,
    weighted as weighted,
)
from mrsim.tract.seeds import (
    grid_seeds as grid_seeds,
    random_seeds as random_seeds,
    sphere_seeds as sphere_seeds,
)
from mrsim.tract.soft import conditioning as conditioning, soft_weights as soft_weights
from mrsim.tract.sphere import hemisphere as hemisphere
