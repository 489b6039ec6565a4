"""RecVAE: a variational autoencoder for top-N recommendation with implicit feedback.

Shenbin, Alekseev, Tutubalina, Malykh & Nikolenko, WSDM 2020, arXiv 1912.11160; equation numbers below are the
paper's. From top to bottom: configuration, encoder, composite prior, the model with its training.

Cost follows the stars where the maths allows: the encoder's first layer is a weighted sum of the embeddings of a
user's items, and the posterior of the old encoder, which a round of encoder steps does not change, is computed once
a round.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, ClassVar, Self

import numpy as np
import scipy.linalg
import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from numpy.typing import NDArray
from torch import Tensor, nn

from gh_assets.errors import ConfigurationError, InvalidInteractionsError
from gh_assets.recommender.base import Recommender
from gh_assets.recommender.interactions import Csr
from gh_assets.recommender.metrics import NDCG_AT, evaluate


@dataclass(frozen=True)
class RecVAEConfig:
    """Everything that decides what is trained."""

    epochs: int = 25  # one epoch: `encoder_passes` over the users for the encoder, one for the decoder
    seed: int = 0
    hidden_size: int = 600  # as published
    latent_size: int = 200  # as published
    dropout: float = 0.5  # share of a user's items hidden from the encoder, on encoder steps only
    gamma: float = 0.005  # KL weight a user is gamma × number of the user's items (eq. 13)
    prior_weights: tuple[float, float, float] = (
        3 / 20,
        3 / 4,
        1 / 10,
    )  # standard normal, old posterior, wide normal
    wide_log_variance: float = 10.0  # of the wide normal
    encoder_passes: int = 3  # alternation 3:1, as published
    batch_size: int = 500
    learning_rate: float = 5e-4
    schedule: str = "cosine"  # or "constant", as published
    initialization: str = "gram"  # item embeddings from the item-item weights of EASE; or "random", as published
    gram_lambda: float = 300.0  # L2 weight of that linear model
    gram_scale: float = 0.4  # spread of those embeddings against random ones; 1 and more overfit within few epochs
    patience: int = 12  # stop after so many epochs without a better validation NDCG@100; best weights are restored
    device: str = "auto"  # "auto": CUDA if there is one

    def __post_init__(self) -> None:
        if abs(sum(self.prior_weights) - 1.0) > 1e-6 or min(self.prior_weights) <= 0:
            raise ConfigurationError(f"The prior's weights {self.prior_weights} must be positive and sum to 1.")
        if self.schedule not in ("cosine", "constant"):
            raise ConfigurationError(f"The schedule {self.schedule!r} is neither 'cosine' nor 'constant'.")
        if self.initialization not in ("gram", "random"):
            raise ConfigurationError(f"The initialization {self.initialization!r} is neither 'gram' nor 'random'.")
        if not 0 <= self.dropout < 1 or self.learning_rate <= 0 or self.gamma < 0:
            raise ConfigurationError("dropout must be in [0, 1), learning_rate above 0, gamma not below 0.")
        for name in ("epochs", "hidden_size", "latent_size", "encoder_passes", "batch_size", "patience"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name} must be at least 1, not {getattr(self, name)}.")


@dataclass(frozen=True)
class Bags:
    """A batch of users as bags of items: the rows of a CSR matrix as torch tensors."""

    items: Tensor  # int64 (stars,): item of each star
    offsets: Tensor  # int64 (users,): where each user's stars begin
    lengths: Tensor  # float32 (users,): number of stars of each user

    @classmethod
    def of(cls, stars: Csr, device: torch.device) -> Bags:
        lengths = np.diff(stars.indptr)
        return cls(
            torch.from_numpy(stars.indices.astype(np.int64)).to(device),
            torch.from_numpy(stars.indptr[:-1].astype(np.int64)).to(device),
            torch.from_numpy(lengths.astype(np.float32)).to(device),
        )

    @property
    def users(self) -> Tensor:
        """The user of each star, int64 (stars,)."""
        return torch.repeat_interleave(torch.arange(len(self.lengths), device=self.items.device), self.lengths.long())

    def input_weights(self) -> Tensor:
        """L2-normalized input: a user with n stars has 1/√n at each."""
        return self.lengths.clamp(min=1).rsqrt()[self.users]


def swish(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


def log_normal_density(x: Tensor, mean: Tensor | float, log_variance: Tensor | float) -> Tensor:
    """Log-density of a normal with diagonal covariance, elementwise."""
    log_variance = torch.as_tensor(log_variance, dtype=x.dtype, device=x.device)
    return -0.5 * (log_variance + math.log(2 * math.pi) + (x - mean) ** 2 / log_variance.exp())


class Encoder(nn.Module):
    """Inference network (figure 2): five layers of swish and layer norm with dense skip connections."""

    def __init__(self, items: int, hidden: int, latent: int) -> None:
        super().__init__()
        self.embeddings = nn.EmbeddingBag(items, hidden, mode="sum")
        bound = 1 / math.sqrt(items)  # what a dense layer on all items would begin with
        nn.init.uniform_(self.embeddings.weight, -bound, bound)
        self.bias = nn.Parameter(torch.empty(hidden).uniform_(-bound, bound))
        self.layers = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(4))
        self.norms = nn.ModuleList(nn.LayerNorm(hidden, eps=0.1) for _ in range(5))
        self.mean = nn.Linear(hidden, latent)
        self.log_variance = nn.Linear(hidden, latent)

    def first_layer(self, bags: Bags, dropout: float = 0.0) -> Tensor:
        """The sum over a user's items of embedding × input weight, with whole items dropped; (users, hidden)."""
        weights = F.dropout(bags.input_weights(), dropout, training=dropout > 0)
        summed: Tensor = self.embeddings(bags.items, bags.offsets, per_sample_weights=weights)
        return summed + self.bias

    def rest(self, first: Tensor) -> tuple[Tensor, Tensor]:
        """From the first layer's sum to mean and log-variance, each (users, latent)."""
        hidden: Tensor = self.norms[0](swish(first))
        skipped = hidden  # the sum of all layers so far
        for layer, norm in zip(self.layers, list(self.norms)[1:], strict=True):
            hidden = norm(swish(layer(hidden) + skipped))
            skipped = skipped + hidden
        return self.mean(hidden), self.log_variance(hidden)

    def forward(self, bags: Bags, dropout: float = 0.0) -> tuple[Tensor, Tensor]:
        return self.rest(self.first_layer(bags, dropout))


def composite_prior(
    z: Tensor, old_mean: Tensor, old_log_variance: Tensor, weights: tuple[float, float, float], wide: float
) -> Tensor:
    """Log-density of the composite prior (eq. 12), elementwise over the latent dimensions, as in the authors' code.

    Components: a standard normal, the posterior of the encoder as it was a round ago, and a wide normal.
    """
    components = torch.stack(
        [
            log_normal_density(z, 0.0, 0.0),
            log_normal_density(z, old_mean, old_log_variance),
            log_normal_density(z, 0.0, wide),
        ]
    )
    log_weights = z.new_tensor(weights).log().view(3, 1, 1)
    return torch.logsumexp(components + log_weights, dim=0)


class RecVAE(Recommender):
    """RecVAE with the recommender interface.

    Parameters
    ----------
    config : RecVAEConfig, optional
    on_epoch : callable, optional
        Called with the row of `history` after each epoch.
    """

    name: ClassVar[str] = "recvae"

    def __init__(
        self, config: RecVAEConfig | None = None, on_epoch: Callable[[dict[str, float]], None] | None = None
    ) -> None:
        super().__init__()
        self.config = config or RecVAEConfig()
        self.on_epoch = on_epoch
        wanted = self.config.device
        if wanted == "auto":
            wanted = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = torch.device(wanted)

    def _build(self) -> None:
        config = self.config
        self.encoder = Encoder(self.items, config.hidden_size, config.latent_size).to(self.device)
        self.decoder = nn.Linear(config.latent_size, self.items).to(self.device)

    # -- training ------------------------------------------------------------------------------------------------

    def _fit(self, stars: Csr, validation: tuple[Csr, Csr] | None) -> None:
        config = self.config
        stars = stars[np.flatnonzero(np.diff(stars.indptr))]  # a user without stars has nothing to teach
        if stars.shape[0] < 1:
            raise InvalidInteractionsError("The training matrix has no user with a star.")
        stars.data[:] = 1.0  # implicit feedback: starred or not
        # The global generator is left as it was found: a notebook's other draws must not depend on us.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self._build()
            if config.initialization == "gram":
                self._initialize_from_gram(stars)
            self._train(stars, validation)

    def _train(self, stars: Csr, validation: tuple[Csr, Csr] | None) -> None:
        config = self.config
        rng = np.random.default_rng(config.seed)
        encoder_adam = torch.optim.Adam(self.encoder.parameters(), lr=config.learning_rate)
        decoder_adam = torch.optim.Adam(self.decoder.parameters(), lr=config.learning_rate)
        self.history = []
        best_score, best_epoch, best_weights = -math.inf, 0, None
        for epoch in range(1, config.epochs + 1):
            started = time.perf_counter()
            rate = config.learning_rate
            if config.schedule == "cosine":
                rate *= 0.5 * (1 + math.cos(math.pi * (epoch - 1) / config.epochs))
            for optimizer in (encoder_adam, decoder_adam):
                optimizer.param_groups[0]["lr"] = rate
            old_mean, old_log_variance = self._posteriors(stars)
            losses = []
            self.decoder.requires_grad_(False)  # encoder steps need the gradient in z, not in the decoder
            for _ in range(config.encoder_passes):
                for users in self._batches(stars, rng):
                    losses.append(
                        self._step(
                            encoder_adam,
                            stars[users],
                            config.dropout,
                            old_mean[users],
                            old_log_variance[users],
                        )
                    )
            self.decoder.requires_grad_(True)
            self.encoder.requires_grad_(False)
            for users in self._batches(stars, rng):
                self._step(decoder_adam, stars[users], 0.0)
            self.encoder.requires_grad_(True)
            row = {"epoch": float(epoch), "learning_rate": rate, "loss": float(np.mean(losses))}
            row["seconds"] = time.perf_counter() - started
            if not math.isfinite(row["loss"]):
                raise InvalidInteractionsError(
                    f"Training diverged in epoch {epoch} (loss {row['loss']}): lower the learning rate."
                )
            if validation is not None:
                row |= evaluate(self, *validation)
                row["validation_seconds"] = time.perf_counter() - started - row["seconds"]
                if row[f"ndcg@{NDCG_AT}"] > best_score:
                    best_score, best_epoch, best_weights = (
                        row[f"ndcg@{NDCG_AT}"],
                        epoch,
                        self._weights(copy=True),
                    )
            self.history.append(row)
            if self.on_epoch is not None:
                self.on_epoch(row)
            if validation is not None and epoch - best_epoch >= config.patience:
                break
        if best_weights is not None:
            self._restore(best_weights)

    def _batches(self, stars: Csr, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
        order = rng.permutation(stars.shape[0])
        # Batches of equal size: a last one of two users would move the weights as far as one of five hundred.
        yield from np.array_split(order, -(-len(order) // self.config.batch_size))

    def _step(
        self,
        optimizer: torch.optim.Optimizer,
        stars: Csr,
        dropout: float,
        old_mean: Tensor | None = None,
        old_log_variance: Tensor | None = None,
    ) -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = self.loss(Bags.of(stars, self.device), dropout, old_mean, old_log_variance)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return float(loss.detach())

    def loss(
        self,
        bags: Bags,
        dropout: float,
        old_mean: Tensor | None = None,
        old_log_variance: Tensor | None = None,
    ) -> Tensor:
        """Negative of the objective (eq. 13), mean over the users of a batch.

        Without an old posterior only the likelihood is left: the objective of the decoder's steps (algorithm 1).
        """
        mean, log_variance = self.encoder(bags, dropout)
        z = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
        # Multinomial log-likelihood (eq. 3): the log-softmax of the user's own items.
        logits = self.decoder(z)
        chosen = logits[bags.users, bags.items].sum() - (torch.logsumexp(logits, dim=1) * bags.lengths).sum()
        objective = chosen / len(mean)
        if old_mean is not None and old_log_variance is not None:
            prior = composite_prior(
                z, old_mean, old_log_variance, self.config.prior_weights, self.config.wide_log_variance
            )
            # One-sample estimate of KL(q || prior), weighted by the user's number of items.
            divergence = (log_normal_density(z, mean, log_variance) - prior).sum(dim=1)
            objective = objective - (self.config.gamma * bags.lengths * divergence).mean()
        negative: Tensor = -objective
        return negative

    @torch.no_grad()
    def _posteriors(self, stars: Csr) -> tuple[Tensor, Tensor]:
        parts = [
            self.encoder(Bags.of(stars[start : start + 2000], self.device)) for start in range(0, stars.shape[0], 2000)
        ]
        return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])

    @torch.no_grad()
    def _initialize_from_gram(self, stars: Csr) -> None:
        """Begin with item embeddings that already know which items go together.

        The item-item weights B of EASE (Steck 2019) are factorized as B ≈ U S Vᵀ; √S·U becomes the encoder's item
        embeddings and √S·V the decoder's rows, at `gram_scale` times the spread of random ones. The idea is that of
        ImplicitSLIM (Shenbin & Nikolenko, ICLR 2024), in its plainest form.
        """
        gram = (stars.T @ stars).toarray().astype(np.float32)
        gram[np.diag_indices(self.items)] += self.config.gram_lambda
        precision = scipy.linalg.inv(gram, overwrite_a=True, check_finite=False)
        weights = -precision / np.diag(precision)
        np.fill_diagonal(weights, 0.0)
        rank = min(self.config.latent_size, self.items - 1)
        if rank < 1:
            return
        left, values, right = torch.svd_lowrank(torch.from_numpy(weights), q=rank, niter=4)
        scale = values.clamp(min=0).sqrt()
        for parameter, factors in ((self.encoder.embeddings.weight, left), (self.decoder.weight, right)):
            known = factors * scale
            known = known * (self.config.gram_scale * parameter.std() / known.std().clamp(min=1e-12)).cpu()
            parameter[:, :rank] = known.to(self.device)

    # -- use -----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _predict(self, stars: Csr) -> NDArray[np.float32]:
        mean, _ = self.encoder(Bags.of(stars, self.device))
        scores: NDArray[np.float32] = self.decoder(mean).cpu().numpy()
        return scores

    @torch.no_grad()
    def _contributions(self, stars: Csr, items: NDArray[np.int64]) -> NDArray[np.float32]:
        """Leave one out: what an item's score above the mean item's loses without a star, the others as they were."""
        bags = Bags.of(stars, self.device)
        first = self.encoder.first_layer(bags)
        per_star = self.encoder.embeddings.weight[bags.items] * bags.input_weights()[:, None]
        users = bags.users
        with_all, _ = self.encoder.rest(first)
        without, _ = self.encoder.rest(first[users] - per_star)
        lost = with_all[users] - without
        above_mean = self.decoder.weight - self.decoder.weight.mean(dim=0)
        wanted = torch.from_numpy(items).to(self.device)
        contributions = lost.new_empty((len(lost), items.shape[1]))
        for user, (low, high) in enumerate(pairwise(stars.indptr.tolist())):
            contributions[low:high] = lost[low:high] @ above_mean[wanted[user]].T
        result: NDArray[np.float32] = contributions.cpu().numpy()
        return result

    def _weights(self, copy: bool = False) -> dict[str, NDArray[Any]]:
        tensors = {f"encoder.{key}": value for key, value in self.encoder.state_dict().items()}
        tensors |= {f"decoder.{key}": value for key, value in self.decoder.state_dict().items()}
        arrays = {key: value.detach().cpu().numpy() for key, value in tensors.items()}
        return {key: value.copy() for key, value in arrays.items()} if copy else arrays

    def _restore(self, weights: dict[str, NDArray[Any]]) -> None:
        with torch.random.fork_rng(devices=[]):
            self._build()
        for prefix, module in (("encoder.", self.encoder), ("decoder.", self.decoder)):
            module.load_state_dict(
                {
                    key.removeprefix(prefix): torch.from_numpy(value)
                    for key, value in weights.items()
                    if key.startswith(prefix)
                }
            )

    def _config(self) -> dict[str, Any]:
        return asdict(self.config)

    @classmethod
    def _from_config(cls, config: dict[str, Any]) -> Self:
        return cls(RecVAEConfig(**{**config, "prior_weights": tuple(config["prior_weights"]), "device": "auto"}))
