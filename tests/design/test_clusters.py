"""Clusters of maps settle."""

import pytest
import torch

from mrsim.design._tissues import _clusters


@pytest.mark.parametrize("count", [2, 3, 5])
def test_every_voxel_is_in_the_cluster_of_the_nearest_mean(
    count: int, generator: torch.Generator
) -> None:
    x = torch.rand(200, 2, generator=generator).square()
    which = _clusters(x, count)
    assert which.unique().tolist() == list(range(count))
    means = torch.stack([x[which == k].mean(0) for k in range(count)])
    assert torch.equal(torch.cdist(x, means).argmin(1), which)
