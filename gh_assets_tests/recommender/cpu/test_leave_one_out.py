"""The compiled way to reasons is the same as torch's, and blending as it is defined."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from gh_assets.recommender import RecVAE, RecVAEConfig
from gh_assets.recommender.cpu import leave_one_out
from gh_assets.recommender.cpu.blending import blend
from gh_assets_tests.support.matrices import taste_matrix


@pytest.fixture(scope="module")
def model() -> RecVAE:
    config = RecVAEConfig(epochs=8, hidden_size=64, latent_size=16, learning_rate=2e-3)
    return RecVAE(config).fit(taste_matrix(users=200))


@pytest.mark.parametrize(("left_out", "strongest"), [(64, 24), (6, 3), (1, 1)])
def test_the_compiled_way_gives_what_torch_gives(
    model: RecVAE, left_out: int, strongest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    stars = taste_matrix(users=300)[100:]
    nobody = sp.csr_array((1, stars.shape[1]), dtype=np.float32)
    stars = sp.csr_array(sp.vstack([stars[:70], nobody, stars[70:]]))
    items, _ = model.recommend(stars, 7)
    monkeypatch.setattr("gh_assets.recommender.models.recvae.LEFT_OUT", left_out)
    monkeypatch.setattr("gh_assets.recommender.models.recvae.STRONGEST", strongest)
    found = []
    for usable in (True, False):
        monkeypatch.setattr(leave_one_out, "usable", lambda *_, usable=usable: usable)
        found.append((model._contributions(stars, items.clip(0)), model.predict(stars)))
    (ours, our_scores), (torchs, torch_scores) = found
    np.testing.assert_allclose(our_scores, torch_scores, rtol=1e-4, atol=1e-4 * np.abs(torch_scores).max())
    np.testing.assert_allclose(ours, torchs, rtol=1e-3, atol=1e-4 * np.abs(torchs).max())


def test_weights_that_change_are_taken_over(model: RecVAE) -> None:
    before = model.encoder.network()
    assert model.encoder.network() is before
    with torch.no_grad():
        model.encoder.mean.bias += 1.0
    after = model.encoder.network()
    np.testing.assert_allclose(after.head_bias, before.head_bias + 1.0, rtol=1e-6)
    with torch.no_grad():
        model.encoder.mean.bias -= 1.0


def test_it_is_for_one_processor_of_a_cpu_and_float32() -> None:
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


@settings(max_examples=40, deadline=None)
@given(
    both=arrays.arrays(np.float32, (2, 3, 11), elements=st.floats(-1000, 1000, width=32)),
    weight=st.floats(0, 1, width=32),
    less=arrays.arrays(np.float32, 11, elements=st.floats(-3, 3, width=32)),
)
def test_blending_is_a_sum_of_standardized_scores(both: np.ndarray, weight: float, less: np.ndarray) -> None:
    first, second = both.astype(np.float64)

    def standardized(scores: np.ndarray) -> np.ndarray:
        return (scores - scores.mean(axis=1, keepdims=True)) / np.maximum(scores.std(axis=1, keepdims=True), 1e-12)

    result = both[0].copy()
    spreads = blend(result, both[1].copy(), np.float32(weight), less)
    for place, scores in enumerate((first, second)):
        np.testing.assert_allclose(spreads[place], np.maximum(scores.std(axis=1), 1e-12), rtol=1e-3, atol=1e-3)
    if min(first.std(axis=1).min(), second.std(axis=1).min()) > 1e-2:
        expected = weight * standardized(first) + (1 - weight) * standardized(second) - less
        np.testing.assert_allclose(result, expected, atol=2e-2)
