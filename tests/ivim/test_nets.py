"""Networks: reproducible, bounded, ordered, truly copied, safe on disk."""

import math
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import vmap

from mrsim import ivim
from mrsim.ivim import layers, physics_net
from mrsim.tree import tree_leaves

pytestmark = pytest.mark.xdist_group("nets")  # they share what takes long

B = [0.0, 10.0, 20.0, 60.0, 150.0, 300.0, 500.0, 1000.0]
Q = ivim.Acquisition(b=torch.tensor(B, dtype=torch.float32))
PRIOR = {"f": (0.1, 0.4), "Dp": (0.01, 0.1), "D": (0.0005, 0.002)}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def simulated(count: int, sigma: float, seed: int = 0) -> Any:
    g = seeded(seed)
    u = torch.rand(3, count, generator=g, dtype=torch.float32)
    parts = {
        n: low + (high - low) * x
        for (n, (low, high)), x in zip(PRIOR.items(), u, strict=True)
    }
    truth = ivim.Biexp(S0=torch.ones(count, dtype=torch.float32), **parts)
    clean = vmap(ivim.signal, in_dims=(0, None))(truth, Q)

    def noisy() -> Tensor:
        shape = (*clean.shape, 2)
        n = sigma * torch.randn(shape, generator=g, dtype=torch.float32)
        return torch.hypot(clean + n[..., 0], n[..., 1])

    return noisy(), noisy(), truth


@pytest.fixture(scope="module")
def trained() -> Any:
    x, y, _ = simulated(6000, 0.01)
    return ivim.train_physics(x, Q, seeded(), targets=y, epochs=6, members=3)


@pytest.fixture(scope="module")
def posterior() -> ivim.PosteriorNet:
    return ivim.train_posterior(
        Q,
        seeded(),
        prior=PRIOR,
        sigma=(0.01, 0.1),
        hidden=(64, 64),
        steps=800,
        batch=512,
    )


def rmse(p: Any, truth: Any, name: str) -> Tensor:
    return (getattr(p, name) - getattr(truth, name)).square().mean(-1).sqrt()


# ----------------------------------------------------------------- the layers


def test_layers_are_those_of_torch() -> None:
    weights = layers.initial([7, 5, 3], seeded())
    network = nn.Sequential(nn.Linear(7, 5), nn.ELU(), nn.Linear(5, 3)).float()
    network.load_state_dict(weights)
    x = torch.rand(4, 7, dtype=torch.float32)
    torch.testing.assert_close(layers.layers(weights, "ELU")(weights, x), network(x))
    for name, w in weights.items():
        assert w.abs().amax() <= 1 / math.sqrt(7 if name.startswith("0") else 5)


def test_random_numbers_come_from_the_generator_alone() -> None:
    x, _, _ = simulated(600, 0.01)
    state = torch.get_rng_state()
    one, two, other = (
        ivim.train_physics(x, Q, seeded(s), epochs=2, members=2) for s in (0, 0, 1)
    )
    assert torch.equal(torch.get_rng_state(), state)
    for a, b in zip(
        tree_leaves(one.net.weights), tree_leaves(two.net.weights), strict=True
    ):
        assert torch.equal(a, b)
    assert not torch.equal(one.losses, other.losses)
    assert not torch.equal(one.losses[:, 0], one.losses[:, 1])


# ---------------------------------------------------------------- physics net


def test_outputs_are_bounded_and_ordered_for_any_weights() -> None:
    box = ivim.limits({"S0": (0.7, 1.3), "D": (0.0, 0.1), "Dp": (0.01, 0.2)})
    x = 100 * torch.randn(1000, 4, generator=seeded())
    p = physics_net.decoded(x, "ordered", box)
    for name, (low, high) in box.items():
        assert (p[name] >= low - 1e-9).all()
        assert (p[name] <= high + 1e-9).all()
    assert (p["D"] <= p["Dp"] + 1e-9).all()


def test_the_best_weights_are_a_copy() -> None:
    x, y, _ = simulated(6000, 0.01)
    loud = ivim.train_physics(
        x, Q, seeded(), targets=y, epochs=8, rate=0.05, decay=False, members=3
    )
    best = loud.losses.argmin(0)
    late = best < len(loud.losses) - 1
    assert late.any()
    for name, w in loud.net.weights.items():
        same = (w == loud.last.weights[name]).flatten(1).all(-1)
        assert (same == ~late).all()
        assert not w.requires_grad


def test_patience_stops_each_member() -> None:
    x, _, _ = simulated(600, 0.01)
    found = ivim.train_physics(
        x, Q, seeded(), rate=0.1, decay=False, epochs=60, patience=2, members=4
    )
    assert len(found.losses) < 60
    for k in range(4):
        losses = found.losses[:, k]
        stop = next(
            e
            for e in range(len(losses))
            if e - int(losses[: e + 1].argmin()) >= 2 or e == len(losses) - 1
        )
        part = found.net.weights["0.weight"][k]
        if int(losses[: stop + 1].argmin()) == stop:
            assert torch.equal(part, found.last.weights["0.weight"][k])


def test_training_beats_least_squares_in_noise() -> None:
    x, y, _ = simulated(20000, 0.05)
    net = ivim.train_physics(x, Q, seeded(), targets=y, epochs=6).net
    data, _, truth = simulated(2000, 0.05, seed=1)
    made = ivim.physics_params(net, 700 * data)
    plain = ivim.varpro(data, Q, starts=2).params
    for name in ("f", "Dp", "D"):
        assert rmse(made, truth, name) < rmse(plain, truth, name)
    assert abs(made.S0.mean() / 700 - 1) < 0.02


def test_the_setting_of_barbieri() -> None:
    x, _, _ = simulated(6000, 0.01)
    found = ivim.train_physics(
        x, Q, seeded(), members=2, **{**ivim.BARBIERI, "epochs": 3}
    )
    shapes = [tuple(w.shape[1:]) for w in found.net.weights.values()]
    assert shapes == [(7, 7), (7,)] * 3 + [(3, 7), (3,)]
    p = ivim.physics_params(found.net, x)
    assert (p.Dp.mean(-1) >= p.D.mean(-1)).all()
    assert torch.equal(p.S0[0], x[:, 0])
    # labels swapped on purpose are repaired, and no voxel spoils it for the others
    *_, weight, bias = found.net.weights
    order = [1, 0, 2]
    turned = {n: found.net.weights[n][:, order] for n in (weight, bias)}
    mixed = found.net._replace(weights=found.net.weights | turned)
    x[5], x[6, 0] = math.nan, 0.0
    fine = torch.arange(len(x)) > 6
    torch.testing.assert_close(ivim.physics_params(mixed, x).Dp[:, fine], p.Dp[:, fine])


def test_images_keep_their_shape(trained: Any) -> None:
    x, _, _ = simulated(24, 0.01)
    p = ivim.physics_params(trained.net, x.reshape(2, 3, 4, -1))
    assert p.f.shape == (3, 2, 3, 4)
    torch.testing.assert_close(p.f.flatten(1), ivim.physics_params(trained.net, x).f)


# -------------------------------------------------------------- posterior net


def test_the_posterior_is_calibrated(posterior: ivim.PosteriorNet) -> None:
    for sigma in (0.02, 0.08):
        g = seeded(5)
        _, _, truth = simulated(4000, sigma, seed=3)
        clean = vmap(ivim.signal, in_dims=(0, None))(truth, Q)
        y = clean + sigma * torch.randn(clean.shape, generator=g, dtype=torch.float32)
        made = ivim.posterior_estimate(posterior, y, sigma)
        plain = ivim.varpro(y, Q, bounds={"S0": (1.0, 1.0)}, starts=2).params
        for name in ("f", "Dp", "D"):
            wanted = getattr(truth, name)
            assert rmse(made.mean, truth, name) < rmse(plain, truth, name)
            low, high = getattr(made.low, name), getattr(made.high, name)
            inside = ((low <= wanted) & (wanted <= high)).double().mean()
            assert 0.6 < inside < 0.76
            z = (wanted - getattr(made.mean, name)) / getattr(made.sd, name)
            assert 0.85 < z.square().mean().sqrt() < 1.15
        assert (made.mean.S0 == 1).all()


def test_sigma_may_be_a_map(posterior: ivim.PosteriorNet) -> None:
    y, _, _ = simulated(6, 0.05)
    sigma = torch.linspace(0.02, 0.09, 6)
    many = ivim.posterior_estimate(posterior, y.reshape(2, 3, -1), sigma.reshape(2, 3))
    for k in range(6):
        one = ivim.posterior_estimate(posterior, y[k], float(sigma[k]))
        torch.testing.assert_close(many.mean.f.flatten()[k], one.mean.f)
    with pytest.raises(ValueError, match="trained for sigma"):
        ivim.posterior_estimate(posterior, y, 0.5)


def test_nan_stays_in_its_voxel(posterior: ivim.PosteriorNet, trained: Any) -> None:
    y, _, _ = simulated(3, 0.05)
    good = ivim.posterior_estimate(posterior, y, 0.05).mean.f
    y[1, 2] = math.nan
    found = ivim.posterior_estimate(posterior, y, 0.05).mean.f
    assert found[1].isnan()
    torch.testing.assert_close(found[[0, 2]], good[[0, 2]])
    assert ivim.physics_params(trained.net, y).f[:, [0, 2]].isfinite().all()


def test_other_models_and_rician_noise() -> None:
    q = ivim.Acquisition(
        b=torch.tensor([0.0, 200.0, 400.0, 800.0], dtype=torch.float32)
    )
    net = ivim.train_posterior(
        q,
        seeded(),
        prior={"S0": (0.8, 1.2), "f": (0.0, 0.4), "D": (2e-4, 3e-3)},
        sigma=(0.02, 0.02),
        model=ivim.Simplified,
        coils=1,
        hidden=(32, 32),
        steps=200,
        batch=256,
    )
    made = ivim.posterior_estimate(net, torch.tensor([[1.0, 0.6, 0.5, 0.3]]), 0.02)
    assert isinstance(made.mean, ivim.Simplified)
    assert 0.8 < made.mean.S0 < 1.2


# --------------------------------------------------------------------- files


def test_files_hold_no_code(
    trained: Any, posterior: ivim.PosteriorNet, tmp_path: Path
) -> None:
    y, _, _ = simulated(5, 0.05)
    ivim.save_net(tmp_path / "a.pt", trained.net)
    ivim.save_net(tmp_path / "b.pt", posterior)
    one, two = ivim.load_net(tmp_path / "a.pt"), ivim.load_net(tmp_path / "b.pt")
    made, wanted = (ivim.physics_params(n, y) for n in (one, trained.net))
    assert torch.equal(made.Dp, wanted.Dp)
    made, wanted = (ivim.posterior_estimate(n, y, 0.05) for n in (two, posterior))
    assert torch.equal(made.sd.f, wanted.sd.f)

    torch.save({"kind": "PhysicsNet", "weights": {}}, tmp_path / "c.pt")
    with pytest.raises(ValueError, match="holds no network"):
        ivim.load_net(tmp_path / "c.pt")

    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "touched",))

    torch.save({"kind": Evil()}, tmp_path / "d.pt")
    with pytest.raises(ValueError, match="UnpicklingError") as refused:
        ivim.load_net(tmp_path / "d.pt")
    assert isinstance(refused.value.__cause__, pickle.UnpicklingError)
    assert not (tmp_path / "touched").exists()


# ----------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"outputs": "relu"}, "'ordered' or 'abs'"),
        ({"batch": 1000}, "at least"),
        ({"batch": 0}, "batch must be positive"),
        ({"epochs": 0}, "epochs must be positive"),
        ({"patience": 0}, "patience must be"),
        ({"targets": torch.ones(300, 7, dtype=torch.float32)}, "shape of data"),
        ({"bounds": {"f": (1.0, 0.0)}}, "lower ≤ upper"),
    ],
)
def test_bad_training_is_explained(change: dict[str, Any], message: str) -> None:
    x, _, _ = simulated(300, 0.01)
    with pytest.raises(ValueError, match=message):
        ivim.train_physics(x, Q, seeded(), **change)


def test_bad_data_are_explained(posterior: ivim.PosteriorNet) -> None:
    x, _, _ = simulated(300, 0.01)
    x[3, 4] = math.nan
    with pytest.raises(ValueError, match="leave these voxels out"):
        ivim.train_physics(x, Q, seeded())
    x[3] = 0.0
    with pytest.raises(ValueError, match="b = 0 is 0"):
        ivim.train_physics(x, Q, seeded())
    with pytest.raises(ValueError, match="last axis"):
        ivim.posterior_estimate(posterior, x[:, :4], 0.05)
    wide = {"D": (0.0, 0.05), "Dp": (0.01, 0.1)}
    with pytest.raises(ValueError, match="must not overlap"):
        ivim.train_posterior(Q, seeded(), prior=wide, sigma=(0.1, 0.1))
