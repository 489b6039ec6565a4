"""Mult-VAE: every term against the paper, reasons."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from gh_assets.recommender import MultVAE, MultVAEConfig
from gh_assets.recommender.engine.bags import Bags
from gh_assets.recommender.engine.softmax import SoftmaxOutput
from gh_assets_tests.support.matrices import taste_matrix
from gh_assets_tests.support.reference_models import (
    dense_multvae_loss,
    dense_rows,
    dropped_and_mask,
    exact_bags,
    relative_error,
    with_arbitrary_weights,
)

CPU = torch.device("cpu")


def test_loss_and_gradients_equal_those_of_the_paper(stars: sp.csr_array) -> None:
    config = MultVAEConfig(hidden_size=16, latent_size=6, precision="float64")
    model = with_arbitrary_weights(MultVAE(config))
    dense = dense_rows(stars)
    bags = exact_bags(stars)
    dropped, mask = dropped_and_mask(bags, 0.5)
    noise = torch.randn(12, 6, dtype=torch.float64)
    output = SoftmaxOutput(model.decoder.weight, model.decoder.bias, torch.float64)
    loss, first, weight, bias = model.gradients(output, bags, dropped, noise, 0.2, 12)
    result = {name: parameter.grad for name, parameter in model.encoder.named_parameters()}
    result["bias"], result["embeddings"] = first.sum(dim=0), dropped.gradient(first, 30)
    model.encoder.zero_grad()
    expected = dense_multvae_loss(model, dense, noise, 0.2, mask)
    torch.autograd.backward(expected)
    assert loss == pytest.approx(expected.item(), rel=1e-9)
    for name, parameter in model.encoder.named_parameters():
        assert relative_error(result[name], parameter.grad) < 1e-9, name
    assert relative_error(weight, model.decoder.weight.grad) < 1e-9
    assert relative_error(bias, model.decoder.bias.grad) < 1e-9


def test_contributions_are_the_loss_of_score_without_a_star() -> None:
    """The weights of the other stars do not change."""
    matrix = taste_matrix(users=100)
    model = MultVAE(MultVAEConfig(epochs=5, hidden_size=32, latent_size=8, learning_rate=5e-3)).fit(matrix)
    items, _ = model.recommend(matrix, 3)
    result = model.contributions(matrix, items)
    assert result.shape == (matrix.nnz, 3)
    for user in range(20):
        row = matrix[[user]]
        bags = Bags.of(row, CPU)

        def scores(bags: Bags) -> torch.Tensor:
            with torch.no_grad():
                mean = model.encoder.latent_mean(model.encoder.first(bags), torch.float32)
                decoded: torch.Tensor = model.decoder(model.encoder.represent(mean, torch.float32))[0]
                return decoded

        whole = scores(bags)
        np.testing.assert_allclose(whole, model.predict(row)[0], rtol=1e-4, atol=1e-5)
        for star in range(row.nnz):
            rest = torch.arange(row.nnz) != star
            offsets = bags.offsets - torch.tensor([0, 1])
            less = scores(replace(bags, items=bags.items[rest], weights=bags.weights[rest], offsets=offsets))
            lost = (whole - less) - (whole - less).mean()
            expected = lost[torch.from_numpy(items[user])].numpy()
            np.testing.assert_allclose(result[matrix.indptr[user] + star], expected, rtol=1e-3, atol=1e-4)


def test_many_users_need_fewer_epochs() -> None:
    stars = taste_matrix(users=100)
    config = MultVAEConfig(batch_size=20, max_steps=17, hidden_size=8, latent_size=4)
    model = MultVAE(config).fit(stars)
    assert model.config.epochs == len(model.history) == 3, "5 batches each"
    assert model.history[-1]["learning_rate"] < 0.5 * config.learning_rate, "the schedule ends with the training"
    assert config.settled(stars[:20]).epochs == 17
    assert replace(config, max_steps=1).settled(stars).epochs == 1
    assert replace(config, epochs=9).settled(stars).epochs == 9, "what was asked for"
