"""Intravoxel incoherent motion: signals, likelihoods, protocols, fits."""

from mrsim.fit.bessel import bessel_ratio as bessel_ratio, log_i0 as log_i0
from mrsim.fit.likelihood import (
    gaussian as gaussian,
    noncentral_chi as noncentral_chi,
    rician as rician,
)
from mrsim.ivim._allocate import allocate as allocate
from mrsim.ivim._grid_posterior import (
    Posterior as Posterior,
    grid_posterior as grid_posterior,
)
from mrsim.ivim._learn_prior import learn_prior as learn_prior
from mrsim.ivim._least_squares import least_squares as least_squares
from mrsim.ivim._limits import LIMITS as LIMITS, limits as limits
from mrsim.ivim._maximum_likelihood import maximum_likelihood as maximum_likelihood
from mrsim.ivim._noise_level import noise_level as noise_level
from mrsim.ivim._optimise import Optimum as Optimum, optimise as optimise
from mrsim.ivim._osipi import osipi as osipi
from mrsim.ivim._posterior_mode import posterior_mode as posterior_mode
from mrsim.ivim._segmented import segmented as segmented
from mrsim.ivim._signal import signal as signal
from mrsim.ivim._train_physics import (
    BARBIERI as BARBIERI,
    Trained as Trained,
    train_physics as train_physics,
)
from mrsim.ivim._train_posterior import train_posterior as train_posterior
from mrsim.ivim._varpro import varpro as varpro
from mrsim.ivim.acquisition import (
    Acquisition as Acquisition,
    check as check,
    check_data as check_data,
)
from mrsim.ivim.anisotropic import (
    DTI as DTI,
    Shells as Shells,
    shells as shells,
    spherical_mean as spherical_mean,
)
from mrsim.ivim.bounds import crlb as crlb, fisher as fisher
from mrsim.ivim.expectation import information as information, moments as moments
from mrsim.ivim.exponential import (
    Biexp as Biexp,
    Simplified as Simplified,
    Triexp as Triexp,
)
from mrsim.ivim.flow import (
    Ballistic as Ballistic,
    Diffusive as Diffusive,
    Intermediate as Intermediate,
)
from mrsim.ivim.net_files import load_net as load_net, save_net as save_net
from mrsim.ivim.physics_net import (
    PhysicsNet as PhysicsNet,
    physics_params as physics_params,
)
from mrsim.ivim.posterior_net import (
    Estimate as Estimate,
    PosteriorNet as PosteriorNet,
    posterior_estimate as posterior_estimate,
)
from mrsim.ivim.prior import Prior as Prior
from mrsim.ivim.protocol import (
    Protocol as Protocol,
    relative_sd as relative_sd,
    sensitivity as sensitivity,
)
