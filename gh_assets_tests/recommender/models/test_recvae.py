"""RecVAE: every term against the paper, training, determinism."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from gh_assets.errors import ConfigurationError, InvalidInteractionsError
from gh_assets.recommender import Popularity, RecVAE, RecVAEConfig, evaluate, strong_generalization_split
from gh_assets.recommender.cpu.fused import FusedRecVAE, Plan
from gh_assets.recommender.cpu.llvm_internals import usable
from gh_assets.recommender.engine.bags import Bags
from gh_assets.recommender.engine.run import TrainingRun
from gh_assets.recommender.engine.softmax import SoftmaxOutput
from gh_assets.recommender.gpu.recorded import RecordedSteps
from gh_assets.recommender.models.recvae import composite_prior
from gh_assets_tests.support.matrices import taste_matrix
from gh_assets_tests.support.reference_models import (
    RowWiseAdam,
    dense_encoder,
    dense_loss,
    dense_rows,
    dropped_and_mask,
    exact_bags,
    relative_error,
    with_arbitrary_weights,
)

SMALL = RecVAEConfig(epochs=3, hidden_size=16, latent_size=6, batch_size=40, initialization="random", gamma=0.01)


EXACT = replace(SMALL, precision="float64")

USERS = 75
"""Not a multiple of the batch size: batches differ in size."""


@pytest.fixture
def model() -> RecVAE:
    return with_arbitrary_weights(RecVAE(EXACT))


def fused_plan(model: RecVAE, stars: sp.csr_array) -> tuple[FusedRecVAE, Plan]:
    """For all the stars' users as one batch."""
    if not usable():
        pytest.skip("torch runs on another thread library than GNU OpenMP")
    steps = model.training_run(stars).fused
    assert isinstance(steps, FusedRecVAE)
    steps.refresh()
    steps.output.refresh()
    return steps, steps.plan(np.arange(stars.shape[0]))


def fill(plan: Plan, bags: Bags, dropped: Bags, noise: torch.Tensor, old: torch.Tensor) -> None:
    """Set a step's input instead of drawing it, and the posteriors before it."""
    plan.old[:] = old
    weights = torch.zeros_like(bags.lengths).index_copy(0, dropped.users, dropped.weights)
    given = {"items": bags.items, "weights": weights, "offsets": bags.offsets, "lengths": bags.lengths}
    given |= {"kept": dropped.items, "kept_offsets": dropped.offsets, "noise": noise}
    for name, values in given.items():
        plan.whole[name][: len(values)] = values


def test_the_sparse_encoder_equals_the_dense_encoder_of_the_paper(model: RecVAE, stars: sp.csr_array) -> None:
    dense = dense_rows(stars)
    result = model.encoder(exact_bags(stars), torch.float64)
    for fast, slow in zip(result, dense_encoder(model.encoder, dense), strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("size", [1.0, 300.0], ids=["small logits", "large logits"])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_loss_and_gradients_of_the_encoder_equal_those_of_the_paper(
    model: RecVAE, stars: sp.csr_array, rate: float, fused: bool, size: float
) -> None:
    model.decoder.bias.data *= size
    dense = dense_rows(stars)
    bags = exact_bags(stars)
    dropped, mask = dropped_and_mask(bags, rate)
    noise, old_mean, old_log_variance = torch.randn(3, 12, 6, dtype=torch.float64)
    old = torch.cat([old_mean, old_log_variance * 0.5], dim=1)
    if fused:
        steps, plan = fused_plan(model, stars)
        fill(plan, bags, dropped, noise, old)
        loss, first = torch.tensor(plan.encoder_gradients(), dtype=torch.float64), plan.first_gradient
        inner = {name: gradient[..., : steps.width] for name, gradient in steps.gradients.items()}
        first = first[:, : steps.width]
        dropped = replace(dropped, weights=torch.ones_like(dropped.weights))  # the gradient is that times the weights
    else:
        output = SoftmaxOutput(model.decoder.weight, model.decoder.bias, torch.float64)
        loss, first = model.encoder_gradients(output, bags, dropped, noise, old, 12)
        inner = {name: parameter.grad for name, parameter in model.encoder.named_parameters()}
        inner["bias"] = first.sum(dim=0)
    inner["embeddings"] = dropped.gradient(first, 30)
    assert model.decoder.weight.grad is None, "the encoder's steps do not change the decoder"
    model.encoder.zero_grad()
    expected = dense_loss(model, dense, noise, (old_mean, old_log_variance * 0.5), mask)
    torch.autograd.backward(expected)
    assert float(loss) == pytest.approx(expected.item(), rel=1e-9)
    for name, parameter in model.encoder.named_parameters():
        assert relative_error(inner[name], parameter.grad) < 1e-9, name


@pytest.mark.parametrize("size", [1.0, 300.0], ids=["small logits", "large logits"])
def test_gradients_of_the_decoder_equal_those_of_the_paper(model: RecVAE, stars: sp.csr_array, size: float) -> None:
    model.decoder.bias.data *= size
    dense = dense_rows(stars)
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
    torch.autograd.backward(expected)
    assert -float(likelihood.mean()) == pytest.approx(expected.item(), rel=1e-9)
    assert relative_error(weight, model.decoder.weight.grad) < 1e-9
    assert relative_error(bias, model.decoder.bias.grad) < 1e-9
    if usable():
        steps, plan = fused_plan(model, stars)
        fill(plan, bags, bags, noise, torch.cat([mean, log_variance], dim=1).detach())
        plan.decoder_gradients()
        for gradient, parameter in zip(steps.output_gradients, model.decoder.parameters(), strict=True):
            assert relative_error(gradient, parameter.grad) < 1e-9


@pytest.mark.parametrize("shift", [-200.0, -95.0, 0.0, 80.0, 95.0, 200.0])
def test_exponentials_beyond_float32_are_shifted(model: RecVAE, stars: sp.csr_array, shift: float) -> None:
    """A shift of all logits leaves the softmax unchanged, but its exponentials overflow or vanish."""
    rough = with_arbitrary_weights(RecVAE(replace(EXACT, precision="float32")))
    rough.load_tensors(model.tensors())
    rough.decoder.bias.data += shift
    bags, noise, old = exact_bags(stars), torch.randn(12, 6, dtype=torch.float64), torch.randn(12, 12).double() * 0.5
    results = []
    for one in (model, rough):
        steps, plan = fused_plan(one, stars)
        fill(plan, bags, bags, noise, old)
        gradients = [torch.tensor(plan.encoder_gradients()).double(), plan.first_gradient.double().clone()]
        gradients += [gradient.double() for gradient in steps.hidden_gradients]
        plan.decoder_gradients()
        results.append([*gradients, *(gradient.double() for gradient in steps.output_gradients)])
    for exact, near in zip(*results, strict=True):
        assert relative_error(near, exact) < 1e-3


@pytest.mark.parametrize("users", [12, 2])
def test_parts_of_a_batch_add_up_to_it(model: RecVAE, stars: sp.csr_array, users: int) -> None:
    """As several processes share it; with more processes than users, some have none."""
    stars = stars[:users]
    bags = exact_bags(stars)
    dropped, _ = dropped_and_mask(bags, 0.5)
    noise, old = torch.randn(users, 6, dtype=torch.float64), torch.randn(users, 12, dtype=torch.float64) * 0.5

    def gradients(rank: int, count: int) -> list[torch.Tensor]:
        steps, _ = fused_plan(model, stars)
        steps.run.workers.rank, steps.run.workers.count, steps.room, steps.plans = rank, count, None, {}
        plan = steps.plan(np.arange(users))
        fill(plan, bags, dropped, noise, old[plan.part])
        loss, first = plan.encoder_gradients(), torch.zeros(users, 16, dtype=torch.float64)
        first[plan.part] = plan.first_gradient[:, :16]
        result = [torch.tensor(loss), first, *(gradient.clone() for gradient in steps.gradients.values())]
        plan.decoder_gradients()
        return [*result, *(gradient.clone() for gradient in steps.output_gradients)]

    parts = [gradients(rank, 5) for rank in range(5)]
    for whole, *some in zip(gradients(0, 1), *parts, strict=True):
        torch.testing.assert_close(torch.stack(some).sum(dim=0), whole, rtol=1e-9, atol=1e-12)


def test_plans_of_several_sizes_share_memory_without_interference(model: RecVAE) -> None:
    matrix = sp.csr_array((np.random.default_rng(0).random((60, 30)) < 0.3).astype(np.float32))
    steps, _ = fused_plan(model, matrix)
    steps.room, steps.plans = None, {}
    old = torch.randn(60, 12).double()

    def losses() -> list[float]:
        result = []
        for size in (7, 40, 12, 41):
            batch = np.arange(size)
            plan = steps.plan(batch)
            steps.run.generator.manual_seed(size)
            plan.draw(batch, 0.5)
            plan.old[:] = old[:size]
            result.append(plan.encoder_gradients())
            plan.decoder_gradients()
        return result

    first_time = losses()  # the memory grows on the way
    assert losses() == first_time
    small, large = (steps.plan(np.arange(size)).whole["kept"] for size in (7, 41))
    assert small.untyped_storage().data_ptr() == large.untyped_storage().data_ptr()


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
    """Draw the users' items after dropout, and the noise, as the training does."""
    if run.fused is None:
        return run.draw(batch, dropout)[1:]
    if isinstance(run.fused, RecordedSteps):
        run.fused.fill(batch)
        _, dense, noise = run.fused.draw(dropout)
        users, items = dense.matrix.nonzero(as_tuple=True)
        offsets = torch.searchsorted(users, torch.arange(len(batch) + 1))
        return Bags(items, dense.weights[users], offsets, dense.lengths[: len(batch)]), noise[: len(batch)]
    assert isinstance(run.fused, FusedRecVAE)
    plan = run.fused.plan(batch)
    plan.draw(batch, dropout)
    names = "kept", "weights", "kept_offsets", "lengths"
    items, weights, offsets, lengths = (plan.whole[name].clone() for name in names)
    bags = Bags(items[: int(offsets[-1])], weights.repeat_interleave(offsets.diff()), offsets, lengths)
    return bags, plan.whole["noise"].clone()


def one_step_at_a_time(config: RecVAEConfig) -> RecVAE:
    """Training as the paper's algorithm 1, dense, by autograd and torch's own Adam, row-wise for the encoder's
    matrices; same batches, same noise."""
    matrix = taste_matrix(users=USERS)
    model = RecVAE(config)
    torch.manual_seed(config.seed)
    model.build(matrix.shape[1])
    run = model.training_run(matrix)

    def adams(module: torch.nn.Module, row_wise: bool) -> list[RowWiseAdam | torch.optim.Adam]:
        parameters = list(module.parameters())
        rows = [p for p in parameters if row_wise and p.ndim == 2]
        others = [p for p in parameters if not row_wise or p.ndim == 1]
        return [torch.optim.Adam(others), *(RowWiseAdam(p, config.learning_rate) for p in rows)]

    def step(adams: list[RowWiseAdam | torch.optim.Adam]) -> None:
        for adam in adams:
            if isinstance(adam, RowWiseAdam):
                assert adam.table.grad is not None
                adam.lr = run.learning_rate
                adam.step(adam.table.grad)
            else:
                adam.param_groups[0]["lr"] = run.learning_rate
                adam.step()

    encoder, decoder = adams(model.encoder, row_wise=True), adams(model.decoder, row_wise=False)
    dense = dense_rows(matrix)
    for epoch in range(1, config.final_epoch + 1):
        run.begin_epoch(epoch)
        with torch.no_grad():
            old = dense_encoder(model.encoder, dense)
        for _ in range(config.encoder_passes):
            for batch in run.batches(USERS):
                dropped, noise = draws(run, batch, config.dropout)
                mask = torch.zeros((len(batch), model.items), dtype=torch.float64)
                mask[dropped.users, dropped.items] = 1 / (1 - config.dropout)
                model.encoder.zero_grad()
                torch.autograd.backward(dense_loss(model, dense[batch], noise, (old[0][batch], old[1][batch]), mask))
                step(encoder)
        for batch in run.batches(USERS):
            _, noise = draws(run, batch, 0.0)
            model.decoder.zero_grad()
            torch.autograd.backward(dense_loss(model, dense[batch], noise, None))
            step(decoder)
    return model


@pytest.mark.parametrize("steps", ["compiled", "of operations", "recorded"])
def test_a_whole_training_equals_algorithm_1_of_the_paper(monkeypatch: pytest.MonkeyPatch, steps: str) -> None:
    if steps == "of operations":
        monkeypatch.setattr(RecVAE, "fused_steps", lambda model: None)
    elif steps == "recorded":  # on a CPU, they are called
        monkeypatch.setattr(RecVAE, "fused_steps", lambda model: partial(RecordedSteps, model=model))
    config = replace(EXACT, learning_rate=1e-3)
    fast = RecVAE(config).fit(taste_matrix(users=USERS))
    slow = one_step_at_a_time(config)
    for name, weights in fast.weights().items():
        np.testing.assert_allclose(weights, slow.weights()[name], rtol=1e-7, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_training_in_lower_precision_is_close(precision: str) -> None:
    """The same draws, the same steps."""
    matrix = taste_matrix(users=80)
    config = replace(SMALL, epochs=1, learning_rate=1e-3)
    begun = RecVAE(replace(config, learning_rate=1e-30)).fit(matrix).weights()
    exact, rough = (RecVAE(replace(config, precision=name)).fit(matrix).weights() for name in ("float32", precision))
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
    for name, array in first.weights().items():
        np.testing.assert_array_equal(array, second.weights()[name])
    other = RecVAE(RecVAEConfig(**{**SMALL.__dict__, "seed": 1})).fit(matrix)
    assert not np.array_equal(other.predict(matrix), first.predict(matrix))


@pytest.mark.parametrize("initialization", ["spectral", "random"])
def test_tastes_are_learned(initialization: str) -> None:
    matrix = taste_matrix(users=500)
    split = strong_generalization_split(matrix, seed=1)
    config = RecVAEConfig(
        epochs=25, hidden_size=64, latent_size=16, batch_size=100, learning_rate=2e-3, initialization=initialization
    )
    model = RecVAE(config).fit(split.train, split.validation)
    popularity = evaluate(Popularity().fit(split.train), *split.test)
    assert evaluate(model, *split.test)["ndcg@100"] > 1.5 * popularity["ndcg@100"]
    best = max(row["ndcg@100"] for row in model.history)
    assert evaluate(model, *split.validation)["ndcg@100"] == pytest.approx(best), "the best weights are restored"


def test_history_has_one_row_per_epoch_and_ends_with_early_stopping() -> None:
    matrix = taste_matrix(users=120)
    split = strong_generalization_split(matrix)
    rows: list[dict[str, float]] = []
    config = RecVAEConfig(epochs=30, hidden_size=16, latent_size=6, patience=2, learning_rate=1e-6)
    model = RecVAE(config, on_epoch=rows.append).fit(split.train, split.validation)
    assert rows == model.history
    assert len(rows) < 30
    assert {"epoch", "seconds", "loss", "ndcg@100", "recall@20", "recall@50"} <= rows[0].keys()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prior_weights": (0.5, 0.5, 0.5)}, "sum to 1"),
        ({"schedule": "step"}, "neither 'cosine' nor 'constant'"),
        ({"initialization": "magic"}, "neither 'spectral' nor 'random'"),
        ({"precision": "int8"}, "none of auto, float32"),
        ({"dropout": 1.0}, "dropout"),
        ({"epochs": 0}, "epochs must be at least 1"),
    ],
)
def test_an_invalid_configuration_is_rejected(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        RecVAEConfig(**change)  # type: ignore[arg-type]


def test_a_diverging_training_raises_an_error() -> None:
    config = RecVAEConfig(epochs=20, hidden_size=16, latent_size=6, learning_rate=1e30)
    with pytest.raises(InvalidInteractionsError, match="diverged in epoch"):
        RecVAE(config).fit(taste_matrix(users=60))


@pytest.mark.parametrize(
    ("users", "items_each", "batch_size", "gamma", "epochs"),
    [
        (40, 10, 20, 0.005, 25),
        (160, 38, 40, 0.005, 25),
        (160, 145, 40, 0.2 / 145, 25),
        (8000, 3, 500, 0.005, 25),
        (100_000, 1, 500, 0.005, 25),
        (311_000, 1, 500, 0.005, 8),
        (6_000_000, 1, 500, 0.005, 1),
    ],
)
def test_values_that_are_left_to_the_data_fit_users_and_histories(
    users: int, items_each: int, batch_size: int, gamma: float, epochs: int
) -> None:
    stars = sp.csr_array(np.ones((users, items_each), np.float32))
    settled = RecVAEConfig().settled(stars)
    assert settled.batch_size == batch_size
    assert settled.gamma == pytest.approx(gamma)
    assert settled.epochs == epochs
    given = RecVAEConfig(batch_size=7, gamma=0.3, epochs=30)
    assert given.settled(stars) == given


def test_a_second_training_of_a_model_fits_its_own_data() -> None:
    model = RecVAE(RecVAEConfig(epochs=1, hidden_size=16, latent_size=6))
    sizes = [model.fit(taste_matrix(users=users)).config.batch_size for users in (60, 200)]
    assert sizes == [20, 50]
