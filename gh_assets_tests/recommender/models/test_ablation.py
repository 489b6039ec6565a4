"""Contributions of stars: leave one out, and its estimate by gradients."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from gh_assets.recommender import RecVAE, RecVAEConfig
from gh_assets.recommender.models.ablation import mean_gradients
from gh_assets.recommender.models.recvae import Encoder
from gh_assets_tests.support.matrices import taste_matrix


def test_reasons_are_the_stars_whose_removal_costs_most() -> None:
    matrix = taste_matrix(users=200)
    model = RecVAE(RecVAEConfig(epochs=10, hidden_size=64, latent_size=16, learning_rate=2e-3)).fit(matrix)
    weights = model.encoder.embeddings.detach()
    for user in range(10):
        row = matrix[[user]]
        items, _ = model.recommend(row, 1)
        reasons, shares = model.explain(row, items, 3)

        def above_mean(kept: list[int], stars: int = row.nnz, item: int = items[0, 0]) -> float:
            with torch.no_grad():
                first = weights[kept].sum(dim=0, keepdim=True) / stars**0.5 + model.encoder.bias
                scores = model.decoder(model.encoder.rest(first, torch.float32)[0])[0]
            return float(scores[item] - scores.mean())

        own = row.indices.tolist()
        costs = {star: above_mean(own) - above_mean([other for other in own if other != star]) for star in own}
        best = sorted(costs, key=costs.__getitem__, reverse=True)[:3]
        assert reasons[0, 0].tolist() == best
        positive = sum(cost for cost in costs.values() if cost > 0)
        assert shares[0, 0].tolist() == pytest.approx([costs[star] / positive for star in best], rel=1e-3)


def test_gradients_in_several_directions_equal_those_of_autograd() -> None:
    torch.manual_seed(0)
    encoder = Encoder(items=50, hidden=32, latent=8).double()
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, 0, 0.3)
    first, directions = (torch.randn(shape, dtype=torch.float64) for shape in ((3, 32), (3, 5, 8)))
    rows = first[:, None].expand(3, 5, 32).reshape(15, 32).clone().requires_grad_()
    mean, _ = encoder.rest(rows, torch.float64)
    (gradients,) = torch.autograd.grad((mean * directions.reshape(15, 8)).sum(), rows)
    expected = gradients.reshape(3, 5, 32)
    with torch.no_grad():
        result = mean_gradients(encoder, first, directions)
    assert (result - expected).abs().max() <= 1e-12 * expected.abs().max()


def test_of_many_stars_the_strongest_are_ablated_and_the_others_estimated() -> None:
    matrix = taste_matrix(users=200)
    model = RecVAE(RecVAEConfig(epochs=10, hidden_size=64, latent_size=16, learning_rate=2e-3)).fit(matrix)
    stars = np.flatnonzero(np.arange(matrix.shape[1]) % 2 == 0)
    assert len(stars) > 12
    row = sp.csr_array((np.ones(len(stars), np.float32), stars, [0, len(stars)]), shape=(1, matrix.shape[1]))
    items, _ = model.recommend(row, 5)
    every = model.contributions(row, items)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gh_assets.recommender.models.ablation.ABLATE_ALL", 12)
        patch.setattr("gh_assets.recommender.models.ablation.ABLATE_STRONGEST", 8)
        some = model.contributions(row, items)
    exact = np.isclose(every, some, rtol=1e-4, atol=1e-6).all(axis=1)
    assert 8 <= exact.sum() < len(stars)
    assert np.corrcoef(every.ravel(), some.ravel())[0, 1] > 0.9
