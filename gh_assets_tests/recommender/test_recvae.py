"""RecVAE: every term against the paper, training, determinism, reasons."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from gh_assets.errors import ConfigurationError, InvalidInteractionsError
from gh_assets.recommender import Popularity, RecVAE, RecVAEConfig, evaluate, strong_generalization_split
from gh_assets.recommender.recvae import Bags, composite_prior
from gh_assets_tests.recommender.matrices import taste_matrix
from gh_assets_tests.recommender.reference import dense_encoder, dense_loss

SMALL = RecVAEConfig(epochs=3, hidden_size=16, latent_size=6, batch_size=40, initialization="random", gamma=0.01)


@pytest.fixture
def model() -> RecVAE:
    """A model in float64 with arbitrary weights."""
    torch.manual_seed(0)
    model = RecVAE(SMALL)
    model.items = 30
    model._build()
    for module in (model.encoder, model.decoder):
        module.double()
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.fixture
def stars() -> sp.csr_array:
    rng = np.random.default_rng(1)
    dense = (rng.random((12, 30)) < 0.25).astype(np.float32)
    dense[:, 0] = 1
    return sp.csr_array(dense)


def bags_of(stars: sp.csr_array) -> Bags:
    bags = Bags.of(stars, torch.device("cpu"))
    return Bags(bags.items, bags.offsets, bags.lengths.double())


def test_the_sparse_encoder_is_the_papers_dense_one(model: RecVAE, stars: sp.csr_array) -> None:
    dense = torch.from_numpy(stars.toarray()).double()
    for fast, slow in zip(model.encoder(bags_of(stars)), dense_encoder(model.encoder, dense), strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("step", ["encoder", "decoder"])
def test_loss_and_gradients_are_the_papers(model: RecVAE, stars: sp.csr_array, step: str) -> None:
    dense = torch.from_numpy(stars.toarray()).double()
    old = None
    if step == "encoder":
        old = (torch.randn(12, 6, dtype=torch.float64), torch.randn(12, 6, dtype=torch.float64) * 0.5)
    torch.manual_seed(5)
    loss = model.loss(bags_of(stars), 0.0, *(old or (None, None)))
    loss.backward()
    parameters = [*model.encoder.parameters(), *model.decoder.parameters()]
    gradients = [parameter.grad.clone() for parameter in parameters]
    for parameter in parameters:
        parameter.grad = None
    torch.manual_seed(5)
    noise = torch.randn(12, 6, dtype=torch.float64)
    expected = dense_loss(model, dense, noise, old)
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-9)
    for fast, parameter in zip(gradients, parameters, strict=True):
        torch.testing.assert_close(fast, parameter.grad, rtol=1e-6, atol=1e-10)


def test_the_prior_is_a_mixture_that_integrates_to_one() -> None:
    """Numerically, over one latent dimension."""
    z = torch.linspace(-900, 900, 400_001, dtype=torch.float64).view(-1, 1)
    old_mean, old_log_variance = torch.full_like(z, 1.5), torch.full_like(z, -1.0)
    density = composite_prior(z, old_mean, old_log_variance, (0.15, 0.75, 0.1), 10.0).exp()
    assert float(torch.trapezoid(density[:, 0], z[:, 0])) == pytest.approx(1.0, abs=1e-4)
    only_old = composite_prior(z, old_mean, old_log_variance, (1e-12, 1 - 2e-12, 1e-12), 10.0)
    peak = float(z[only_old.argmax()])
    assert peak == pytest.approx(1.5, abs=0.01)


def test_dropout_hides_whole_items_on_encoder_steps_only(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []
    original = RecVAE.loss

    def watching(self, bags, dropout, old_mean=None, old_log_variance=None):
        seen.append(dropout)
        assert (old_mean is None) == (dropout == 0.0)
        return original(self, bags, dropout, old_mean, old_log_variance)

    monkeypatch.setattr(RecVAE, "loss", watching)
    matrix = taste_matrix(users=80)
    config = RecVAEConfig(epochs=2, hidden_size=16, latent_size=6, batch_size=40)
    RecVAE(config).fit(matrix)
    # 80 users in batches of 40: three passes for the encoder, then one for the decoder, each round.
    assert seen == ([0.5] * 6 + [0.0] * 2) * 2


def test_encoder_steps_leave_the_decoder_alone_and_the_other_way_round(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = taste_matrix(users=40)
    original = RecVAE._step
    moved: list[tuple[bool, bool]] = []

    def watching(self, optimizer, stars, dropout, *old):
        before = [p.detach().clone() for p in (*self.encoder.parameters(), *self.decoder.parameters())]
        loss = original(self, optimizer, stars, dropout, *old)
        after = [*self.encoder.parameters(), *self.decoder.parameters()]
        changed = [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]
        count = len(list(self.encoder.parameters()))
        moved.append((any(changed[:count]), any(changed[count:])))
        return loss

    monkeypatch.setattr(RecVAE, "_step", watching)
    RecVAE(RecVAEConfig(epochs=1, hidden_size=16, latent_size=6)).fit(matrix)
    assert moved == [(True, False)] * 3 + [(False, True)]


def test_the_same_seed_gives_the_same_weights_and_leaves_the_global_generator_alone() -> None:
    matrix = taste_matrix(users=60)
    torch.manual_seed(123)
    expected = torch.rand(1)
    torch.manual_seed(123)
    first, second = RecVAE(SMALL).fit(matrix), RecVAE(SMALL).fit(matrix)
    assert torch.equal(torch.rand(1), expected)
    for name, array in first._weights().items():
        np.testing.assert_array_equal(array, second._weights()[name])
    other = RecVAE(RecVAEConfig(**{**SMALL.__dict__, "seed": 1})).fit(matrix)
    assert not np.array_equal(other.predict(matrix), first.predict(matrix))


@pytest.mark.parametrize("initialization", ["gram", "random"])
def test_it_learns_tastes(initialization: str) -> None:
    matrix = taste_matrix(users=500)
    split = strong_generalization_split(matrix, seed=1)
    validation, test = (split.validation_fold_in, split.validation_held_out), (split.test_fold_in, split.test_held_out)
    config = RecVAEConfig(
        epochs=25, hidden_size=64, latent_size=16, batch_size=100, learning_rate=2e-3, initialization=initialization
    )
    model = RecVAE(config).fit(split.train, validation)
    popularity = evaluate(Popularity().fit(split.train), *test)
    assert evaluate(model, *test)["ndcg@100"] > 1.5 * popularity["ndcg@100"]
    best = max(row["ndcg@100"] for row in model.history)
    assert evaluate(model, *validation)["ndcg@100"] == pytest.approx(best), "the best weights are restored"


def test_history_has_a_row_an_epoch_and_early_stopping_ends_it() -> None:
    matrix = taste_matrix(users=120)
    split = strong_generalization_split(matrix)
    rows: list[dict[str, float]] = []
    config = RecVAEConfig(epochs=30, hidden_size=16, latent_size=6, patience=2, learning_rate=1e-6)
    model = RecVAE(config, on_epoch=rows.append).fit(split.train, (split.validation_fold_in, split.validation_held_out))
    assert rows == model.history
    assert len(rows) < 30
    assert {"epoch", "seconds", "loss", "ndcg@100", "recall@20", "recall@50"} <= rows[0].keys()


def test_reasons_are_what_removing_a_star_costs() -> None:
    matrix = taste_matrix(users=200)
    model = RecVAE(RecVAEConfig(epochs=10, hidden_size=64, latent_size=16, learning_rate=2e-3)).fit(matrix)
    weights = model.encoder.embeddings.weight.detach()
    for user in range(10):
        row = matrix[[user]]
        items, _ = model.recommend(row, 1)
        reasons, shares = model.explain(row, items, 3)

        def above_mean(kept: list[int], stars: int = row.nnz, item: int = items[0, 0]) -> float:
            with torch.no_grad():
                first = weights[kept].sum(dim=0, keepdim=True) / stars**0.5 + model.encoder.bias
                scores = model.decoder(model.encoder.rest(first)[0])[0]
            return float(scores[item] - scores.mean())

        mine = row.indices.tolist()
        costs = {star: above_mean(mine) - above_mean([other for other in mine if other != star]) for star in mine}
        best = sorted(costs, key=costs.__getitem__, reverse=True)[:3]
        assert reasons[0, 0].tolist() == best
        positive = sum(cost for cost in costs.values() if cost > 0)
        assert shares[0, 0].tolist() == pytest.approx([costs[star] / positive for star in best], rel=1e-3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"prior_weights": (0.5, 0.5, 0.5)}, "sum to 1"),
        ({"schedule": "step"}, "neither 'cosine' nor 'constant'"),
        ({"initialization": "magic"}, "neither 'gram' nor 'random'"),
        ({"dropout": 1.0}, "dropout"),
        ({"epochs": 0}, "epochs must be at least 1"),
    ],
)
def test_a_wrong_configuration_is_one_error(change: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        RecVAEConfig(**change)  # type: ignore[arg-type]


def test_diverging_training_is_one_error() -> None:
    config = RecVAEConfig(epochs=20, hidden_size=16, latent_size=6, learning_rate=1e30)
    with pytest.raises(InvalidInteractionsError, match="diverged in epoch"):
        RecVAE(config).fit(taste_matrix(users=60))
