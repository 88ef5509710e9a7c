"""Networks in files that hold tensors, numbers and names only, and can run no code."""

from pathlib import Path
from typing import Any

import torch

from mrsim.ivim.exponential import Biexp, Simplified, Triexp
from mrsim.ivim.flow import Ballistic, Diffusive, Intermediate
from mrsim.ivim.physics_net import PhysicsNet
from mrsim.ivim.posterior_net import PosteriorNet

_MODELS = (Biexp, Simplified, Triexp, Diffusive, Ballistic, Intermediate)


def save_net(path: str | Path, net: PhysicsNet | PosteriorNet) -> None:
    """Write a network to a file of tensors, numbers and names.

    Args:
        path: the file.
        net: of either kind.

    >>> import tempfile, torch
    >>> from mrsim import ivim
    >>> q = ivim.Acquisition(b=[0.0, 200.0, 400.0, 800.0])
    >>> y, g = torch.rand(128, 4) + 1, torch.Generator().manual_seed(0)
    >>> net = ivim.train_physics(y, q, g, epochs=1).net
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     ivim.save_net(folder + "/net.pt", net)
    ...     again = ivim.load_net(folder + "/net.pt")
    >>> again.b
    tensor([  0., 200., 400., 800.])
    """
    content = net._asdict() | {"kind": type(net).__name__}
    if isinstance(net, PosteriorNet):
        content["model"] = net.model.__name__
    torch.save(content, path)


def load_net(path: str | Path) -> Any:
    """Read a network that `save_net` wrote; a file can run no code.

    Args:
        path: the file.

    Returns:
        The `PhysicsNet` or `PosteriorNet`.

    Raises:
        ValueError: the file is missing, damaged or holds no such network.

    >>> import tempfile, torch
    >>> from mrsim import ivim
    >>> q = ivim.Acquisition(b=[0.0, 200.0, 400.0, 800.0])
    >>> g = torch.Generator().manual_seed(0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     net = ivim.train_physics(torch.rand(128, 4) + 1, q, g, epochs=1).net
    ...     ivim.save_net(folder + "/net.pt", net)
    ...     type(ivim.load_net(folder + "/net.pt")).__name__
    'PhysicsNet'
    """
    try:
        content = torch.load(path, weights_only=True)
    except Exception as e:  # torch lets errors of zip, pickle and its own through
        raise ValueError(
            f"ivim.load_net: {path} is missing or damaged ({type(e).__name__}); write"
            f" it with ivim.save_net"
        ) from e
    kinds = {k.__name__: k for k in (PhysicsNet, PosteriorNet)}
    kind = kinds.get(content.pop("kind", "")) if isinstance(content, dict) else None
    if kind is None or set(content) != set(kind._fields):
        raise ValueError(
            f"ivim.load_net: {path} holds no network of mrsim; write it with"
            f" ivim.save_net"
        )
    if kind is PosteriorNet:
        models = {m.__name__: m for m in _MODELS}
        content["model"] = models[content["model"]]
    return kind(**content)
