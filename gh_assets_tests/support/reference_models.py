"""RecVAE, Mult-VAE and row-wise Adam as the papers write them, on dense rows: one function per formula."""

import math
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from gh_assets.recommender import Recommender
from gh_assets.recommender.engine.adam import AdamStep
from gh_assets.recommender.engine.bags import Bags
from gh_assets.recommender.models.autoencoder import Autoencoder
from gh_assets.recommender.models.multvae import MultVAE
from gh_assets.recommender.models.recvae import Encoder, RecVAE
from gh_assets_tests.support.matrices import random_stars


def dense_encoder(encoder: Encoder, x: Tensor, visible: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Figure 2 of the paper, each layer written out, for dense rows x of ones and zeros.

    `visible` is the dropout's mask, already scaled.
    """

    def swish(value: Tensor) -> Tensor:
        return value / (1 + torch.exp(-value))

    def norm(value: Tensor, index: int) -> Tensor:
        layer = encoder.layer_norms[index]
        mean = value.mean(dim=1, keepdim=True)
        variance = ((value - mean) ** 2).mean(dim=1, keepdim=True)
        return (value - mean) / torch.sqrt(variance + 0.1) * layer.weight + layer.bias

    def dense(value: Tensor, index: int) -> Tensor:
        layer = encoder.linears[index]
        return value @ layer.weight.T + layer.bias

    normalized = x / torch.sqrt((x**2).sum(dim=1, keepdim=True))
    if visible is not None:
        normalized = normalized * visible
    h1 = norm(swish(normalized @ encoder.embeddings + encoder.bias), 0)
    h2 = norm(swish(dense(h1, 0) + h1), 1)
    h3 = norm(swish(dense(h2, 1) + h1 + h2), 2)
    h4 = norm(swish(dense(h3, 2) + h1 + h2 + h3), 3)
    h5 = norm(swish(dense(h4, 3) + h1 + h2 + h3 + h4), 4)
    return (
        h5 @ encoder.mean.weight.T + encoder.mean.bias,
        h5 @ encoder.log_variance.weight.T + encoder.log_variance.bias,
    )


def normal_density(z: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    return torch.exp(-((z - mean) ** 2) / (2 * variance)) / torch.sqrt(2 * math.pi * variance)


def dense_loss(
    model: RecVAE, x: Tensor, noise: Tensor, old: tuple[Tensor, Tensor] | None, visible: Tensor | None = None
) -> Tensor:
    """Negative objective of eq. 13 for a batch, mean over users, with given noise of the reparametrization."""
    mean, log_variance = dense_encoder(model.encoder, x, visible)
    z = mean + noise * torch.sqrt(torch.exp(log_variance))
    logits = z @ model.decoder.weight.T + model.decoder.bias
    probabilities = torch.exp(logits) / torch.exp(logits).sum(dim=1, keepdim=True)
    objective = (x * torch.log(probabilities)).sum(dim=1)
    if old is not None:
        one, wide = torch.ones_like(z), torch.full_like(z, math.exp(10.0))
        prior = (
            3 / 20 * normal_density(z, 0 * z, one)
            + 3 / 4 * normal_density(z, old[0], torch.exp(old[1]))
            + 1 / 10 * normal_density(z, 0 * z, wide)
        )
        posterior = normal_density(z, mean, torch.exp(log_variance))
        divergence = (torch.log(posterior) - torch.log(prior)).sum(dim=1)
        assert model.config.gamma is not None
        objective = objective - model.config.gamma * x.sum(dim=1) * divergence
    return -objective.mean()


def dense_multvae_loss(model: MultVAE, x: Tensor, noise: Tensor, beta: float, visible: Tensor) -> Tensor:
    """Negative ELBO of Liang et al. 2018, eq. 6, mean over users."""
    encoder: Any = model.encoder
    normalized = x / torch.sqrt((x**2).sum(dim=1, keepdim=True)) * visible
    hidden = torch.tanh(normalized @ encoder.embeddings + encoder.bias)
    both = hidden @ encoder.posterior.weight.T + encoder.posterior.bias
    mean, log_variance = both[:, : both.shape[1] // 2], both[:, both.shape[1] // 2 :]
    z = mean + noise * torch.sqrt(torch.exp(log_variance))
    inner = torch.tanh(z @ encoder.generator.weight.T + encoder.generator.bias)
    logits = inner @ model.decoder.weight.T + model.decoder.bias
    likelihood = (x * torch.log_softmax(logits, dim=1)).sum(dim=1)
    divergence = 0.5 * (torch.exp(log_variance) + mean**2 - 1 - log_variance).sum(dim=1)
    loss: Tensor = -(likelihood - beta * divergence).mean()
    return loss


class RowWiseAdam:
    """Adam (Kingma & Ba 2015, algorithm 1) whose second moment is one a row: the mean over it of squared gradients.

    With `lazy`, rows without a gradient stay as they are, and so do their moments.
    """

    def __init__(self, table: Tensor, lr: float, lazy: bool = False) -> None:
        self.table, self.lr, self.lazy, self.steps = table, lr, lazy, 0
        self.m, self.v = torch.zeros_like(table), torch.zeros_like(table[:, :1])

    @torch.no_grad()
    def step(self, gradient: Tensor) -> None:
        self.steps += 1
        changed = (gradient != 0).any(dim=1, keepdim=True) if self.lazy else torch.ones_like(self.v, dtype=torch.bool)
        self.m = torch.where(changed, 0.9 * self.m + 0.1 * gradient, self.m)
        self.v = torch.where(changed, 0.999 * self.v + 0.001 * (gradient**2).mean(dim=1, keepdim=True), self.v)
        away = self.m / (1 - 0.9**self.steps) / (torch.sqrt(self.v / (1 - 0.999**self.steps)) + 1e-8)
        self.table -= torch.where(changed, self.lr * away, torch.zeros_like(away))


Model = TypeVar("Model", bound=Autoencoder)


def with_arbitrary_weights(model: Model) -> Model:
    """Build a model for 30 items with fixed random weights, the same on every device."""
    torch.manual_seed(0)
    model.build(30)
    for module in (model.encoder, model.decoder):
        for parameter in module.parameters():
            parameter.data.copy_(torch.randn(parameter.shape, dtype=parameter.dtype) * 0.3)
    return model


def dense_rows(stars: sp.csr_array) -> Tensor:
    return torch.from_numpy(stars.toarray()).double()


def exact_bags(stars: sp.csr_array) -> Bags:
    return Bags.of(stars, torch.device("cpu"), torch.float64)


def dropped_and_mask(bags: Bags, rate: float, seed: int = 3) -> tuple[Bags, torch.Tensor]:
    """Return bags with hidden items, and the same dropout as a scaled dense mask."""
    dropped = bags.dropped(rate, torch.Generator().manual_seed(seed))
    mask = torch.zeros((len(bags.lengths), 30), dtype=torch.float64)
    mask[dropped.users, dropped.items] = 1 / (1 - rate)
    return dropped, mask


def relative_error(actual: torch.Tensor | None, expected: torch.Tensor | None) -> float:
    """Return the largest error relative to the largest entry."""
    assert actual is not None
    assert expected is not None
    return float((actual - expected).abs().max() / expected.abs().max())


class Chance(Recommender):
    """A model with random scores."""

    name = "chance"

    def _fit(self, stars: sp.csr_array, validation: object) -> None: ...

    def score(self, stars: sp.csr_array) -> np.ndarray:
        scores: np.ndarray = np.random.default_rng(stars.nnz).random(stars.shape, np.float32)
        return scores

    def weights(self) -> dict[str, np.ndarray]:
        return {}

    def restore(self, weights: dict[str, np.ndarray]) -> None: ...


def assert_row_wise(make: Callable[[torch.Tensor], Any], lazy: bool) -> None:
    """Assert that the optimizer takes the reference's steps, and if lazy leaves other rows unchanged."""
    torch.manual_seed(0)
    table = torch.randn(900, 7, dtype=torch.float64)
    expected = table.clone()
    adam, reference = make(table), RowWiseAdam(expected, 0.01, lazy)
    for number in range(1, 9):
        stars = random_stars(number, 12, 700)
        stars = sp.csr_array((stars.data, stars.indices, stars.indptr), shape=(12, 900))  # no user has the last 200
        bags, sum_gradients, before = exact_bags(stars), torch.randn(12, 7, dtype=torch.float64), table.clone()
        reference.step(bags.gradient(sum_gradients, 900))
        adam.step(bags, sum_gradients, AdamStep(0.01, number))
        torch.testing.assert_close(table, expected, rtol=1e-9, atol=1e-9)
        if lazy:
            assert torch.unique((table != before).nonzero()[:, 0]).tolist() == torch.unique(bags.items).tolist()
        assert torch.equal(table[700:], before[700:])
