"""Compiled contributions against those by torch."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from gh_assets.recommender import RecVAE, RecVAEConfig
from gh_assets.recommender.cpu import leave_one_out
from gh_assets_tests.support.matrices import taste_matrix


@pytest.fixture(scope="module")
def model() -> RecVAE:
    config = RecVAEConfig(epochs=8, hidden_size=64, latent_size=16, learning_rate=2e-3)
    return RecVAE(config).fit(taste_matrix(users=200))


@pytest.mark.parametrize(("left_out", "strongest"), [(64, 24), (6, 3), (1, 1)])
def test_compiled_contributions_equal_those_by_torch(
    model: RecVAE, left_out: int, strongest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    stars = taste_matrix(users=300)[100:]
    no_stars = sp.csr_array((1, stars.shape[1]), dtype=np.float32)
    stars = sp.csr_array(sp.vstack([stars[:70], no_stars, stars[70:]]))
    items, _ = model.recommend(stars, 7)
    monkeypatch.setattr("gh_assets.recommender.models.ablation.ABLATE_ALL", left_out)
    monkeypatch.setattr("gh_assets.recommender.models.ablation.ABLATE_STRONGEST", strongest)
    results = []
    for usable in (True, False):
        monkeypatch.setattr(leave_one_out, "usable", lambda *_, usable=usable: usable)
        results.append((model.contributions(stars, items.clip(0)), model.predict(stars)))
    (compiled, compiled_scores), (expected, expected_scores) = results
    np.testing.assert_allclose(compiled_scores, expected_scores, rtol=1e-4, atol=1e-4 * np.abs(expected_scores).max())
    np.testing.assert_allclose(compiled, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def test_changed_weights_are_copied_again(model: RecVAE) -> None:
    before = model.encoder.compiled()
    assert model.encoder.compiled() is before
    with torch.no_grad():
        model.encoder.mean.bias.add_(1.0)
    after = model.encoder.compiled()
    np.testing.assert_allclose(after.head_bias, before.head_bias + 1.0, rtol=1e-6)
    with torch.no_grad():
        model.encoder.mean.bias.sub_(1.0)


def test_it_is_used_on_one_processor_of_a_cpu_in_float32() -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert leave_one_out.usable(torch.device("cpu"), torch.float32)
        assert not leave_one_out.usable(torch.device("cpu"), torch.float64)
        assert not leave_one_out.usable(torch.device("cuda"), torch.float32)
        torch.set_num_threads(2)
        assert not leave_one_out.usable(torch.device("cpu"), torch.float32)
    finally:
        torch.set_num_threads(threads)
