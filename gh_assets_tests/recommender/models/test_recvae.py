"""RecVAE: every term against the paper, training, determinism, reasons."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from gh_assets.errors import ConfigurationError, InvalidInteractionsError
from gh_assets.recommender import (
    MultVAE,
    MultVAEConfig,
    Popularity,
    RecVAE,
    RecVAEConfig,
    evaluate,
    strong_generalization_split,
)
from gh_assets.recommender.cpu.fused import FusedRecVAE, Plan
from gh_assets.recommender.cpu.kernels import usable
from gh_assets.recommender.models.autoencoder import Autoencoder, TrainingRun
from gh_assets.recommender.models.recvae import Encoder, composite_prior
from gh_assets.recommender.training.engine import Bags, SoftmaxOutput
from gh_assets_tests.support.matrices import taste_matrix
from gh_assets_tests.support.reference_models import RowWiseAdam, dense_encoder, dense_loss, dense_multvae_loss

SMALL = RecVAEConfig(epochs=3, hidden_size=16, latent_size=6, batch_size=40, initialization="random", gamma=0.01)
EXACT = replace(SMALL, precision="float64")
CPU = torch.device("cpu")


def with_arbitrary_weights(model: Autoencoder) -> Autoencoder:
    """The same on every device."""
    torch.manual_seed(0)
    model.items = 30
    model._build()
    for module in (model.encoder, model.decoder):
        for parameter in module.parameters():
            parameter.data.copy_(torch.randn(parameter.shape, dtype=parameter.dtype) * 0.3)
    return model


@pytest.fixture
def model() -> RecVAE:
    model = with_arbitrary_weights(RecVAE(EXACT))
    assert isinstance(model, RecVAE)
    return model


@pytest.fixture
def stars() -> sp.csr_array:
    rng = np.random.default_rng(1)
    dense = (rng.random((12, 30)) < 0.25).astype(np.float32)
    dense[:, 0] = 1
    return sp.csr_array(dense)


def exact_bags(stars: sp.csr_array) -> Bags:
    return Bags.of(stars, CPU, torch.float64)


def dropped_and_mask(bags: Bags, rate: float, seed: int = 3) -> tuple[Bags, torch.Tensor]:
    """Bags with some items hidden, and the same as a dense mask with its scale."""
    dropped = bags.dropped(rate, torch.Generator().manual_seed(seed))
    mask = torch.zeros((len(bags.lengths), 30), dtype=torch.float64)
    mask[dropped.users, dropped.items] = 1 / (1 - rate)
    return dropped, mask


def fused_plan(model: RecVAE, stars: sp.csr_array) -> tuple[FusedRecVAE, Plan]:
    """For all the stars' users as one batch."""
    if not usable():
        pytest.skip("torch runs on another thread library than GNU OpenMP")
    steps = TrainingRun(model, stars).fused
    assert isinstance(steps, FusedRecVAE)
    steps.refresh()
    steps.output.refresh()
    return steps, steps.plan(np.arange(stars.shape[0]))


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest error, relative to the largest entry."""
    return float((found - expected).abs().max() / expected.abs().max())


def test_the_sparse_encoder_is_the_papers_dense_one(model: RecVAE, stars: sp.csr_array) -> None:
    dense = torch.from_numpy(stars.toarray()).double()
    found = model.encoder(exact_bags(stars), torch.float64)
    for fast, slow in zip(found, dense_encoder(model.encoder, dense), strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("size", [1.0, 300.0], ids=["small logits", "large logits"])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_loss_and_gradients_of_the_encoder_are_the_papers(
    model: RecVAE, stars: sp.csr_array, rate: float, fused: bool, size: float
) -> None:
    model.decoder.bias.data *= size
    dense = torch.from_numpy(stars.toarray()).double()
    bags = exact_bags(stars)
    dropped, mask = dropped_and_mask(bags, rate)
    noise, old_mean, old_log_variance = torch.randn(3, 12, 6, dtype=torch.float64)
    old = torch.cat([old_mean, old_log_variance * 0.5], dim=1)
    if fused:
        steps, plan = fused_plan(model, stars)
        plan.fill(bags, dropped, noise)
        plan.old[:] = old
        loss, first = plan.encoder_gradients(), plan.skipped
        by_parameter = dict(steps.gradients_by_parameter())
        inner = {name: by_parameter.get(parameter) for name, parameter in model.encoder.named_parameters()}
    else:
        output = SoftmaxOutput(model.decoder.weight, model.decoder.bias, torch.float64)
        loss, first = model.encoder_gradients(output, bags, dropped, noise, old, 12)
        inner = {name: parameter.grad for name, parameter in model.encoder.named_parameters()}
        inner["bias"] = first.sum(dim=0)
    inner["embeddings"] = dropped.gradient(first, 30)
    assert model.decoder.weight.grad is None, "the encoder's steps leave the decoder alone"
    model.encoder.zero_grad()
    expected = dense_loss(model, dense, noise, old.chunk(2, dim=1), mask)
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-9)
    for name, parameter in model.encoder.named_parameters():
        assert error(inner[name], parameter.grad) < 1e-9, name


@pytest.mark.parametrize("size", [1.0, 300.0], ids=["small logits", "large logits"])
def test_gradients_of_the_decoder_are_the_papers(model: RecVAE, stars: sp.csr_array, size: float) -> None:
    model.decoder.bias.data *= size
    dense = torch.from_numpy(stars.toarray()).double()
    bags, noise = exact_bags(stars), torch.randn(12, 6, dtype=torch.float64)
    mean, log_variance = model.encoder(bags, torch.float64)
    z = (mean + noise * (0.5 * log_variance).exp()).detach()
    output = SoftmaxOutput(model.decoder.weight, model.decoder.bias, torch.float64)
    weight, bias, likelihood, _ = output.likelihood_gradients(z, bags, -1 / 12)
    only = output.likelihood_gradients(z, bags, -1 / 12, inputs=False)
    assert torch.equal(only[0], weight)
    assert only[2:] == (None, None)
    assert likelihood is not None
    expected = dense_loss(model, dense, noise, None)
    expected.backward()
    assert -float(likelihood.mean()) == pytest.approx(expected.item(), rel=1e-9)
    assert error(weight, model.decoder.weight.grad) < 1e-9
    assert error(bias, model.decoder.bias.grad) < 1e-9
    if usable():
        steps, plan = fused_plan(model, stars)
        plan.fill(bags, bags, noise)
        plan.old[:] = torch.cat([mean, log_variance], dim=1).detach()
        plan.decoder_gradients()
        for gradient, parameter in zip(steps.output_gradients, model.decoder.parameters(), strict=True):
            assert error(gradient, parameter.grad) < 1e-9


@pytest.mark.parametrize("shift", [-200.0, -95.0, 0.0, 80.0, 95.0, 200.0])
def test_exponentials_that_leave_float32_are_noticed(model: RecVAE, stars: sp.csr_array, shift: float) -> None:
    """All logits moved by a number: the softmax does not change, its parts overflow or vanish."""
    rough = with_arbitrary_weights(RecVAE(replace(EXACT, precision="float32")))
    assert isinstance(rough, RecVAE)
    rough._load(model._parameters())
    rough.decoder.bias.data += shift
    bags, noise, old = exact_bags(stars), torch.randn(12, 6, dtype=torch.float64), torch.randn(12, 12).double() * 0.5
    found = []
    for one in (model, rough):
        steps, plan = fused_plan(one, stars)
        plan.fill(bags, bags, noise)
        plan.old[:] = old
        gradients = [torch.tensor(plan.encoder_gradients()).double(), plan.skipped.double().clone()]
        gradients += [gradient.double() for gradient in steps.gradients]
        plan.decoder_gradients()
        found.append([*gradients, *(gradient.double() for gradient in steps.output_gradients)])
    for exact, near in zip(*found, strict=True):
        assert error(near, exact) < 1e-3


@pytest.mark.parametrize("users", [12, 2])
def test_parts_of_a_batch_add_up_to_it(model: RecVAE, stars: sp.csr_array, users: int) -> None:
    """As several processes share it out; with more of them than users, some have none."""
    stars = stars[:users]
    bags = exact_bags(stars)
    dropped, _ = dropped_and_mask(bags, 0.5)
    noise, old = torch.randn(users, 6, dtype=torch.float64), torch.randn(users, 12, dtype=torch.float64) * 0.5

    def gradients(rank: int, count: int) -> list[torch.Tensor]:
        steps, _ = fused_plan(model, stars)
        steps.run.workers.rank, steps.run.workers.count, steps.room, steps.plans = rank, count, None, {}
        plan = steps.plan(np.arange(users))
        plan.fill(bags, dropped, noise)
        plan.old[:] = old[plan.part]
        loss, first = plan.encoder_gradients(), torch.zeros(users, 16, dtype=torch.float64)
        first[plan.part] = plan.skipped
        found = [torch.tensor(loss), first, *(gradient.clone() for _, gradient in steps.gradients_by_parameter())]
        plan.decoder_gradients()
        return [*found, *(gradient.clone() for gradient in steps.output_gradients)]

    parts = [gradients(rank, 5) for rank in range(5)]
    for whole, *some in zip(gradients(0, 1), *parts, strict=True):
        torch.testing.assert_close(torch.stack(some).sum(dim=0), whole, rtol=1e-9, atol=1e-12)


def test_plans_of_several_sizes_share_their_memory_and_do_not_disturb_one_another(model: RecVAE) -> None:
    matrix = sp.csr_array((np.random.default_rng(0).random((60, 30)) < 0.3).astype(np.float32))
    steps, _ = fused_plan(model, matrix)
    steps.room, steps.plans = None, {}
    old = torch.randn(60, 12).double()

    def losses() -> list[float]:
        found = []
        for size in (7, 40, 12, 41):
            batch = np.arange(size)
            plan = steps.plan(batch)
            steps.run.keys = np.random.default_rng(size)
            plan.draw(batch, 0.5)
            plan.old[:] = old[:size]
            found.append(plan.encoder_gradients())
            plan.decoder_gradients()
        return found

    first_time = losses()  # the memory grows on the way
    assert losses() == first_time
    small, large = (steps.plan(np.arange(size)).arrays["kept"] for size in (7, 41))
    assert small.untyped_storage().data_ptr() == large.untyped_storage().data_ptr()


def test_loss_and_gradients_of_mult_vae_are_the_papers(stars: sp.csr_array) -> None:
    config = MultVAEConfig(hidden_size=16, latent_size=6, precision="float64")
    model = with_arbitrary_weights(MultVAE(config))
    assert isinstance(model, MultVAE)
    dense = torch.from_numpy(stars.toarray()).double()
    bags = exact_bags(stars)
    dropped, mask = dropped_and_mask(bags, 0.5)
    noise = torch.randn(12, 6, dtype=torch.float64)
    output = SoftmaxOutput(model.decoder.weight, model.decoder.bias, torch.float64)
    loss, first, weight, bias = model.gradients(output, bags, dropped, noise, 0.2, 12)
    found = {name: parameter.grad for name, parameter in model.encoder.named_parameters()}
    found["bias"], found["embeddings"] = first.sum(dim=0), dropped.gradient(first, 30)
    model.encoder.zero_grad()
    expected = dense_multvae_loss(model, dense, noise, 0.2, mask)
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-9)
    for name, parameter in model.encoder.named_parameters():
        assert error(found[name], parameter.grad) < 1e-9, name
    assert error(weight, model.decoder.weight.grad) < 1e-9
    assert error(bias, model.decoder.bias.grad) < 1e-9


def test_the_prior_is_a_mixture_that_integrates_to_one() -> None:
    """Numerically, over one latent dimension."""
    z = torch.linspace(-900, 900, 400_001, dtype=torch.float64).view(-1, 1)
    old_mean, old_log_variance = torch.full_like(z, 1.5), torch.full_like(z, -1.0)
    density = composite_prior(z, old_mean, old_log_variance, (0.15, 0.75, 0.1), 10.0)[0].exp()
    assert float(torch.trapezoid(density[:, 0], z[:, 0])) == pytest.approx(1.0, abs=1e-4)
    only_old, slope = composite_prior(z, old_mean, old_log_variance, (1e-12, 1 - 2e-12, 1e-12), 10.0)
    peak = int(only_old.argmax())
    assert float(z[peak]) == pytest.approx(1.5, abs=0.01)
    assert abs(float(slope[peak])) < 0.02


def draws(run: TrainingRun, batch: np.ndarray, dropout: float) -> tuple[Bags, torch.Tensor]:
    """What dropout leaves of the users' items, and the noise: as the training draws them."""
    if run.fused is None:
        return run.draw(batch, dropout)[1:]
    assert isinstance(run.fused, FusedRecVAE)
    plan = run.fused.plan(batch)
    plan.draw(batch, dropout)
    names = "kept", "kept_weights", "kept_offsets", "lengths"
    items, weights, offsets, lengths = (plan.arrays[name].clone() for name in names)
    stars = int(offsets[-1])
    return Bags(items[:stars], weights[:stars], offsets, lengths), plan.arrays["noise"].clone()


def one_step_at_a_time(config: RecVAEConfig) -> RecVAE:
    """Training as the paper's algorithm 1, dense, by autograd and torch's own Adam, row-wise for the encoder's
    matrices; same batches, same noise."""
    matrix = taste_matrix(users=80)
    model = RecVAE(config)
    model.items = matrix.shape[1]
    torch.manual_seed(config.seed)
    model._build()
    run = TrainingRun(model, matrix)

    def adams(module: torch.nn.Module, row_wise: bool) -> list[RowWiseAdam | torch.optim.Adam]:
        parameters = list(module.parameters())
        rows = [p for p in parameters if row_wise and p.ndim == 2]
        others = [p for p in parameters if not row_wise or p.ndim == 1]
        return [torch.optim.Adam(others), *(RowWiseAdam(p, config.learning_rate) for p in rows)]

    def step(adams: list[RowWiseAdam | torch.optim.Adam]) -> None:
        for adam in adams:
            if isinstance(adam, RowWiseAdam):
                adam.lr = run.learning_rate
                adam.step(adam.table.grad)
            else:
                adam.param_groups[0]["lr"] = run.learning_rate
                adam.step()

    encoder, decoder = adams(model.encoder, row_wise=True), adams(model.decoder, row_wise=False)
    dense = torch.from_numpy(matrix.toarray()).double()
    for epoch in range(1, config.epochs + 1):
        run.begin(epoch)
        with torch.no_grad():
            old = dense_encoder(model.encoder, dense)
        for _ in range(config.encoder_passes):
            for batch in run.batches(80):
                dropped, noise = draws(run, batch, config.dropout)
                mask = torch.zeros((len(batch), model.items), dtype=torch.float64)
                mask[dropped.users, dropped.items] = 1 / (1 - config.dropout)
                model.encoder.zero_grad()
                dense_loss(model, dense[batch], noise, (old[0][batch], old[1][batch]), mask).backward()
                step(encoder)
        for batch in run.batches(80):
            _, noise = draws(run, batch, 0.0)
            model.decoder.zero_grad()
            dense_loss(model, dense[batch], noise, None).backward()
            step(decoder)
    return model


@pytest.mark.parametrize("fused", [True, False])
def test_a_whole_training_is_the_papers_algorithm(monkeypatch: pytest.MonkeyPatch, fused: bool) -> None:
    if not fused:
        monkeypatch.setattr(RecVAE, "_has_fused_steps", False)
    config = replace(EXACT, learning_rate=1e-3)
    fast = RecVAE(config).fit(taste_matrix(users=80))
    slow = one_step_at_a_time(config)
    for name, weights in fast._weights().items():
        np.testing.assert_allclose(weights, slow._weights()[name], rtol=1e-7, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_training_in_fewer_digits_is_near(precision: str) -> None:
    """The same draws, the same steps."""
    matrix = taste_matrix(users=80)
    config = replace(SMALL, epochs=1, learning_rate=1e-3)
    begun = RecVAE(replace(config, learning_rate=1e-30)).fit(matrix)._weights()
    exact, rough = (RecVAE(replace(config, precision=name)).fit(matrix)._weights() for name in ("float32", precision))
    moved = sum(float(((exact[name] - begun[name]) ** 2).sum()) for name in begun)
    away = sum(float(((exact[name] - rough[name]) ** 2).sum()) for name in begun)
    assert moved > 0
    assert (away / moved) ** 0.5 < (1e-6 if precision == "float32" else 0.1)


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


@pytest.mark.parametrize("initialization", ["spectral", "random"])
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


def test_reasons_of_mult_vae_are_what_leaving_a_star_out_costs() -> None:
    """The others count as they did."""
    matrix = taste_matrix(users=100)
    model = MultVAE(MultVAEConfig(epochs=5, hidden_size=32, latent_size=8, learning_rate=5e-3)).fit(matrix)
    items, _ = model.recommend(matrix, 3)
    found = model._contributions(matrix, items)
    assert found.shape == (matrix.nnz, 3)
    for user in range(20):
        row = matrix[[user]]
        bags = Bags.of(row, CPU)

        def scores(bags: Bags) -> torch.Tensor:
            with torch.no_grad():
                mean = model.encoder.latent_mean(model.encoder.first(bags), torch.float32)
                return model.decoder(model.encoder.represent(mean, torch.float32))[0]

        whole = scores(bags)
        np.testing.assert_allclose(whole, model.predict(row)[0], rtol=1e-4, atol=1e-5)
        for star in range(row.nnz):
            rest = torch.arange(row.nnz) != star
            offsets = bags.offsets - torch.tensor([0, 1])
            less = scores(replace(bags, items=bags.items[rest], weights=bags.weights[rest], offsets=offsets))
            lost = (whole - less) - (whole - less).mean()
            expected = lost[torch.from_numpy(items[user])].numpy()
            np.testing.assert_allclose(found[matrix.indptr[user] + star], expected, rtol=1e-3, atol=1e-4)


def test_reasons_are_what_removing_a_star_costs() -> None:
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

        mine = row.indices.tolist()
        costs = {star: above_mean(mine) - above_mean([other for other in mine if other != star]) for star in mine}
        best = sorted(costs, key=costs.__getitem__, reverse=True)[:3]
        assert reasons[0, 0].tolist() == best
        positive = sum(cost for cost in costs.values() if cost > 0)
        assert shares[0, 0].tolist() == pytest.approx([costs[star] / positive for star in best], rel=1e-3)


def test_gradients_in_many_directions_are_those_of_autograd() -> None:
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
        found = encoder.slopes(first, directions)
    assert (found - expected).abs().max() <= 1e-12 * expected.abs().max()


def test_of_many_stars_the_strongest_are_left_out_and_the_others_estimated() -> None:
    matrix = taste_matrix(users=200)
    model = RecVAE(RecVAEConfig(epochs=10, hidden_size=64, latent_size=16, learning_rate=2e-3)).fit(matrix)
    stars = np.flatnonzero(np.arange(matrix.shape[1]) % 2 == 0)
    assert len(stars) > 12
    row = sp.csr_array((np.ones(len(stars), np.float32), stars, [0, len(stars)]), shape=(1, matrix.shape[1]))
    items, _ = model.recommend(row, 5)
    every = model._contributions(row, items)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gh_assets.recommender.models.recvae.LEFT_OUT", 12)
        patch.setattr("gh_assets.recommender.models.recvae.STRONGEST", 8)
        some = model._contributions(row, items)
    exact = np.isclose(every, some, rtol=1e-4, atol=1e-6).all(axis=1)
    assert 8 <= exact.sum() < len(stars)
    assert np.corrcoef(every.ravel(), some.ravel())[0, 1] > 0.9


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"prior_weights": (0.5, 0.5, 0.5)}, "sum to 1"),
        ({"schedule": "step"}, "neither 'cosine' nor 'constant'"),
        ({"initialization": "magic"}, "neither 'spectral' nor 'random'"),
        ({"precision": "int8"}, "none of auto, float32"),
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
