"""Mult-VAE (Liang, Krishnan, Hoffman & Jebara, WWW 2018, arXiv 1802.05814), trained by the same engine as RecVAE."""

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from numpy.typing import NDArray
from torch import Tensor, nn

from gh_assets.errors import ConfigurationError
from gh_assets.recommender.data.interactions import Csr
from gh_assets.recommender.engine.bags import Bags, SparseEncoder
from gh_assets.recommender.engine.run import TrainingConfig, TrainingRun
from gh_assets.recommender.engine.softmax import SoftmaxOutput
from gh_assets.recommender.models.autoencoder import Autoencoder
from gh_assets.recommender.models.base import Scores


@dataclass(frozen=True)
class MultVAEConfig(TrainingConfig):
    """Hyperparameters of Mult-VAE."""

    max_steps: int = 2500
    learning_rate: float = 1e-3  # as published
    beta: float = 0.2  # final weight of the KL divergence, as published
    annealing: float = 0.5  # share of the training over which it rises from 0

    most_epochs: ClassVar[int] = 60

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.beta < 0 or not 0 < self.annealing <= 1:
            raise ConfigurationError("beta must not be below 0, and annealing must be in (0, 1].")


class Encoder(SparseEncoder):
    """The inference network items → hidden → latent, and the generator's hidden layer."""

    def __init__(self, items: int, hidden: int, latent: int) -> None:
        super().__init__(items, hidden)
        self.posterior = nn.Linear(hidden, 2 * latent)
        self.generator = nn.Linear(latent, hidden)

    def rest(self, first: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        hidden = torch.tanh(first).to(dtype)
        both = F.linear(hidden, self.posterior.weight.to(dtype), self.posterior.bias.to(dtype)).to(first.dtype)
        mean, log_variance = both.chunk(2, dim=1)
        return mean, log_variance

    def represent(self, z: Tensor, dtype: torch.dtype) -> Tensor:
        hidden = F.linear(z.to(dtype), self.generator.weight.to(dtype), self.generator.bias.to(dtype))
        return torch.tanh(hidden.to(z.dtype))


class MultVAE(Autoencoder):
    """Mult-VAE with the recommender interface; see `Autoencoder` for its parameters."""

    name: ClassVar[str] = "multvae"
    config_type: ClassVar[type[TrainingConfig]] = MultVAEConfig
    config: MultVAEConfig
    encoder: Encoder

    def _networks(self) -> tuple[SparseEncoder, nn.Linear]:
        config = self.config
        encoder = Encoder(self.items, config.hidden_size, config.latent_size)
        return encoder, nn.Linear(config.hidden_size, self.items)

    def _epoch(self, epoch: int, run: TrainingRun) -> float:
        users, loss = int(run.stars.shape[0]), 0.0
        batches = -(-users // run.batch_size)
        for number, batch in enumerate(run.batches(users)):
            done = (epoch - 1 + number / batches) / self.config.final_epoch
            kl_weight = self.config.beta * min(1.0, done / self.config.annealing)
            loss += len(batch) * self._step(run, batch, kl_weight)
        return loss / users

    def _step(self, run: TrainingRun, batch: NDArray[np.int64], kl_weight: float) -> float:
        users = len(batch)
        bags, dropped, noise = run.draw(batch, self.config.dropout)
        low, high = run.workers.part(users)
        self.encoder.zero_grad()
        parts = bags.part(low, high), dropped.part(low, high), noise[low:high]
        loss, first_gradient, weight, bias = self.gradients(run.output, *parts, kl_weight, users)
        run.step_encoder(dropped, first_gradient, run.next_step("encoder"))
        run.step_decoder(weight, bias, run.next_step("decoder"))
        return loss

    def gradients(
        self, output: SoftmaxOutput, bags: Bags, dropped: Bags, noise: Tensor, kl_weight: float, users: int
    ) -> tuple[float, Tensor, Tensor, Tensor]:
        """Return the negative ELBO (eq. 6) and its gradients.

        Parameters
        ----------
        output : SoftmaxOutput
            The last layer.
        bags, dropped : Bags
            The users' items, and those of them that the encoder sees.
        noise : Tensor, shape (this process's users, latent)
        kl_weight : float
            The annealed beta.
        users : int
            Users of the whole batch: the objective is their mean.

        Returns
        -------
        loss : float
        first_gradient : Tensor, shape (this process's users, hidden)
            Gradient in the first layer's sums.
        weight_gradient, bias_gradient : Tensor
            Gradients in the last layer. Those between are added at the parameters.
        """
        first = self.encoder.first(dropped).requires_grad_()
        mean, log_variance = self.encoder.rest(first, output.dtype)
        hidden = self.encoder.represent(mean + noise * (0.5 * log_variance).exp(), output.dtype)
        divergence = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum() * (kl_weight / users)
        weight, bias, likelihood, inner = output.likelihood_gradients(hidden.detach(), bags, -1 / users)
        assert likelihood is not None
        torch.autograd.backward([hidden, divergence], [inner, torch.ones_like(divergence)])
        assert first.grad is not None
        return float(divergence.detach() - likelihood.sum() / users), first.grad, weight, bias

    # -- use -----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def contributions(self, stars: Csr, items: NDArray[np.int64], scores: Scores | None = None) -> NDArray[np.float32]:
        """Return by how much an item's score above the mean item drops without a star, the others as they were."""
        bags = Bags.of(stars, self.device, self.weight_dtype)
        decoder, explained = self.decoder.weight, torch.from_numpy(items).to(self.device)
        mean_item = decoder.mean(dim=0)
        first = self.encoder.first(bags)
        contributions = first.new_empty((stars.nnz, items.shape[1]))
        for user, (low, high) in enumerate(pairwise(stars.indptr.tolist())):
            own = slice(low, high)
            per_star = self.encoder.embeddings[bags.items[own]] * bags.weights[own, None]
            mean = self.encoder.latent_mean(torch.cat([first[[user]], first[user] - per_star]), self.weight_dtype)
            hidden = self.encoder.represent(mean, self.weight_dtype)
            contributions[own] = (hidden[0] - hidden[1:]) @ (decoder[explained[user]] - mean_item).T
        result: NDArray[np.float32] = contributions.float().cpu().numpy()
        return result
