"""RecVAE: a variational autoencoder for top-N recommendation with implicit feedback.

Shenbin, Alekseev, Tutubalina, Malykh & Nikolenko, WSDM 2020, arXiv 1912.11160; equation and figure numbers below are
the paper's. From top to bottom: configuration, inference network, composite prior, objective, an epoch.

Notation: x is a user's feedback, z the latent vector, q_φ(z|x) the encoder, p_θ(x|z) the decoder and φ_old the
encoder's parameters before the current round. The posterior by φ_old is computed once per round, and the posterior
that a round's decoder steps begin with is that of the next round's φ_old.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from numpy.typing import NDArray
from torch import Tensor, nn

from gh_assets.errors import ConfigurationError
from gh_assets.recommender.cpu import leave_one_out
from gh_assets.recommender.cpu.compilation import call
from gh_assets.recommender.cpu.torch_internals import Derived
from gh_assets.recommender.data.interactions import Csr
from gh_assets.recommender.engine.adam import AdamStep
from gh_assets.recommender.engine.bags import Bags, SparseEncoder, UserBags, portions
from gh_assets.recommender.engine.run import POSTERIOR_USERS, FusedSteps, TrainingConfig, TrainingRun
from gh_assets.recommender.engine.softmax import SoftmaxOutput
from gh_assets.recommender.gpu.recorded import recorded_steps
from gh_assets.recommender.models.ablation import contributions
from gh_assets.recommender.models.autoencoder import Autoencoder
from gh_assets.recommender.models.base import Scores

MAX_GAMMA, MAX_KL_WEIGHT = 0.005, 0.2
"""Bounds of γ, and of γ times the mean number of items of a user."""

LOG_ROOT_2PI = 0.5 * math.log(2 * math.pi)


@dataclass(frozen=True)
class RecVAEConfig(TrainingConfig):
    """Hyperparameters of RecVAE. An epoch is `encoder_passes` over the users, then one for the decoder."""

    # β′(x) = γ |X_u|: the KL weight is γ × number of the user's items (eq. 13). None: by the mean number of items, see
    # `gamma_for`.
    gamma: float | None = None
    prior_weights: tuple[float, float, float] = (3 / 20, 3 / 4, 1 / 10)  # of N(0, 1), q_φold, wide normal (eq. 12)
    wide_log_variance: float = 10.0  # of the wide normal
    encoder_passes: int = 3  # alternation 3:1, as published

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "prior_weights", tuple(self.prior_weights))  # JSON has lists only
        if abs(sum(self.prior_weights) - 1.0) > 1e-6 or min(self.prior_weights) <= 0:
            raise ConfigurationError(f"The prior's weights {self.prior_weights} must be positive and sum to 1.")
        if self.gamma is not None and self.gamma < 0:
            raise ConfigurationError("gamma must not be below 0.")
        if self.encoder_passes < 1:
            raise ConfigurationError(f"encoder_passes must be at least 1, not {self.encoder_passes}.")

    @property
    def passes(self) -> int:
        return self.encoder_passes + 1

    def settled(self, stars: Csr) -> Self:
        config = super().settled(stars)
        return config if self.gamma is not None else replace(config, gamma=gamma_for(stars))


def gamma_for(stars: Csr) -> float:
    """Return γ for training users: the published value, but less where histories are long.

    The KL weight of a user grows with the user's number of items. Above `MAX_KL_WEIGHT` for a user with the mean number
    of them, too little of a long history remains in the posterior.
    """
    mean = float(stars.nnz / max(1, stars.shape[0]))
    return min(MAX_GAMMA, MAX_KL_WEIGHT / max(1.0, mean))


class Encoder(SparseEncoder):
    """Inference network q_φ(z|x) (figure 2): five layers of swish and layer norm with dense skip connections."""

    def __init__(self, items: int, hidden: int, latent: int) -> None:
        super().__init__(items, hidden)
        self.linears = [nn.Linear(hidden, hidden) for _ in range(4)]
        self.layer_norms = [nn.LayerNorm(hidden, eps=0.1) for _ in range(5)]
        self.layers, self.norms = nn.ModuleList(self.linears), nn.ModuleList(self.layer_norms)
        self.mean = nn.Linear(hidden, latent)
        self.log_variance = nn.Linear(hidden, latent)
        self.compiled = Derived(
            list(self.parameters()), lambda: leave_one_out.network_of(self.linears, self.layer_norms, self.mean)
        )

    def rest(self, first: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        hidden = self._last_hidden(first, dtype)
        weight, bias = (
            torch.cat([getattr(self.mean, name), getattr(self.log_variance, name)]) for name in ("weight", "bias")
        )
        both = F.linear(hidden, weight.to(dtype), bias.to(dtype)).to(first.dtype)
        mean, log_variance = both.chunk(2, dim=1)
        return mean, log_variance

    def latent_mean(self, first: Tensor, dtype: torch.dtype) -> Tensor:
        if not torch.is_grad_enabled() and leave_one_out.usable(first.device, dtype):
            return torch.from_numpy(call(leave_one_out.latent_means, self.compiled(), first.contiguous().numpy()))
        hidden = self._last_hidden(first, dtype)
        return F.linear(hidden, self.mean.weight.to(dtype), self.mean.bias.to(dtype)).to(first.dtype)

    def _last_hidden(self, first: Tensor, dtype: torch.dtype) -> Tensor:
        def linear(layer: nn.Linear, x: Tensor) -> Tensor:
            return F.linear(x, layer.weight.to(dtype), layer.bias.to(dtype))

        def activated(norm: nn.LayerNorm, x: Tensor) -> Tensor:
            return F.layer_norm(F.silu(x), norm.normalized_shape, norm.weight.to(dtype), norm.bias.to(dtype), norm.eps)

        first_norm, *norms = self.layer_norms
        hidden = activated(first_norm, first.to(dtype))
        skipped = hidden  # the sum of all layers so far
        for layer, norm in zip(self.linears, norms, strict=True):
            hidden = activated(norm, linear(layer, hidden) + skipped)
            skipped = skipped + hidden
        return hidden


def composite_prior(
    z: Tensor, old_mean: Tensor, old_log_variance: Tensor, weights: tuple[float, float, float], wide: float
) -> tuple[Tensor, Tensor]:
    """Return the log-density of the composite prior p(z|φ_old, x) (eq. 12) and its gradient in z.

    Elementwise over the latent dimensions, as in the authors' code. The components are a standard normal, the posterior
    q_φold(z|x) and a wide normal.

    Parameters
    ----------
    z, old_mean, old_log_variance : Tensor, shape (users, latent)
    weights : tuple
        Weights of the components.
    wide : float
        Log-variance of the wide normal.

    Returns
    -------
    log_density, gradient : Tensor, shape (users, latent)
    """
    half_squared = 0.5 * z * z
    from_old = z - old_mean
    pull = from_old * torch.exp(-old_log_variance)
    standard = math.log(weights[0]) - LOG_ROOT_2PI - half_squared
    old = math.log(weights[1]) - LOG_ROOT_2PI - 0.5 * (old_log_variance + from_old * pull)
    wide_density = math.log(weights[2]) - LOG_ROOT_2PI - 0.5 * wide - half_squared * math.exp(-wide)
    log_density = torch.logaddexp(torch.logaddexp(standard, old), wide_density)
    gradient = torch.exp(standard - log_density).add_(torch.exp(wide_density - log_density), alpha=math.exp(-wide))
    gradient = gradient.mul_(z).add_(torch.exp(old - log_density).mul_(pull)).neg_()
    return log_density, gradient


class RecVAE(Autoencoder):
    """RecVAE with the recommender interface; see `Autoencoder` for its parameters."""

    name: ClassVar[str] = "recvae"
    config_type: ClassVar[type[TrainingConfig]] = RecVAEConfig
    config: RecVAEConfig
    encoder: Encoder

    def _networks(self) -> tuple[SparseEncoder, nn.Linear]:
        config = self.config
        encoder = Encoder(self.items, config.hidden_size, config.latent_size)
        decoder = nn.Linear(config.latent_size, self.items)
        self._mean_item = Derived([decoder.weight], lambda: decoder.weight.detach().mean(dim=0))
        return encoder, decoder

    # -- the objective -------------------------------------------------------------------------------------------

    def encoder_gradients(
        self, output: SoftmaxOutput, bags: UserBags, dropped: UserBags, noise: Tensor, old: Tensor, users: int | Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the negative objective (eq. 13) and its gradients in the encoder's parameters φ.

        Parameters
        ----------
        output : SoftmaxOutput
            The decoder p_θ(x|z), which stays fixed.
        bags, dropped : UserBags
            The users' items x, and those of them that the encoder sees.
        noise : Tensor, shape (this process's users, latent)
            ε of the reparametrization.
        old : Tensor, shape (this process's users, 2 latent)
            Mean and log-variance of q_φold(z|x).
        users : int or Tensor
            Users of the whole batch: the objective is their mean.

        Returns
        -------
        loss : Tensor without dimensions
        first_gradient : Tensor, shape (this process's users, hidden)
            Gradient in the first layer's sums. The gradients of all later layers are added at the parameters.
        """
        config = self.config
        assert config.gamma is not None, "a run settles it"
        first = self.encoder.first(dropped).requires_grad_()
        mean, log_variance = self.encoder.rest(first, output.dtype)
        with torch.no_grad():
            scaled_noise = noise * (0.5 * log_variance).exp_()
            z = mean + scaled_noise  # z ~ q_φ(z|x)
            log_likelihood, z_gradient = output.likelihood(z, bags)  # log p_θ(x|z)
            old_mean, old_log_variance = old.chunk(2, dim=1)
            log_prior, prior_gradient = composite_prior(  # log p(z|φ_old, x)
                z, old_mean, old_log_variance, config.prior_weights, config.wide_log_variance
            )
            # log q_φ(z|x): given the noise, it depends on the variance alone.
            log_posterior = -0.5 * (log_variance + noise * noise) - LOG_ROOT_2PI
            kl = (log_posterior - log_prior).sum(dim=1)  # one-sample estimate of KL(q_φ(z|x) ‖ p(z|φ_old, x))
            kl_weight = config.gamma / users * bags.lengths  # β′(x) = γ |X_u|, for a mean over the batch
            loss = (kl_weight * kl - log_likelihood / users).sum()
            z_gradient = z_gradient.div_(-users).addcmul_(kl_weight[:, None], prior_gradient, value=-1)
            log_variance_gradient = (0.5 * z_gradient).mul_(scaled_noise).sub_(0.5 * kl_weight[:, None])
        torch.autograd.backward([mean, log_variance], [z_gradient, log_variance_gradient])
        assert first.grad is not None
        return loss, first.grad

    # -- an epoch (algorithm 1) ----------------------------------------------------------------------------------

    def _epoch(self, epoch: int, run: TrainingRun) -> float:
        users = int(run.stars.shape[0])
        old = run.posteriors if run.posteriors is not None else self._posteriors(run)
        loss: float | Tensor = 0.0
        for _ in range(self.config.encoder_passes):
            for batch in run.batches(users):
                loss = loss + len(batch) * self._encoder_step(run, batch, old)
        posteriors = self._posteriors(run)
        for batch in run.batches(users):
            self._decoder_step(run, batch, posteriors)
        run.posteriors = posteriors
        return float(loss) / (users * self.config.encoder_passes)

    def _encoder_step(self, run: TrainingRun, batch: NDArray[np.int64], old: Tensor) -> float | Tensor:
        if run.fused is not None:
            return run.fused.encoder_step(batch, old)
        drawn = run.draw(batch, self.config.dropout)
        return self.update_encoder(run, drawn, _rows(old, batch), len(batch), run.next_step("encoder"))

    def update_encoder(
        self,
        run: TrainingRun,
        drawn: tuple[UserBags, UserBags, Tensor],
        old: Tensor,
        users: int | Tensor,
        step: AdamStep,
    ) -> Tensor:
        """Minimize the negative objective in φ; return it.

        Parameters
        ----------
        run : TrainingRun
        drawn : tuple
            The whole batch: its items, those that dropout left, and noise; see `encoder_gradients`.
        old : Tensor, shape (users, 2 latent)
            Mean and log-variance of q_φold(z|x).
        users : int or Tensor
            Users of the batch; the others of `drawn` have no items.
        step : AdamStep
        """
        bags, dropped, noise = drawn
        low, high = run.workers.part(len(noise))
        parts = bags.part(low, high), dropped.part(low, high), noise[low:high], old[low:high]
        self.encoder.zero_grad()
        loss, first_gradient = self.encoder_gradients(run.output, *parts, users)
        run.step_encoder(dropped, first_gradient, step)
        return loss

    def _decoder_step(self, run: TrainingRun, batch: NDArray[np.int64], posteriors: Tensor) -> None:
        if run.fused is not None:
            run.fused.decoder_step(batch, posteriors)
            return
        bags, _, noise = run.draw(batch, dropout=0.0)
        self.update_decoder(run, (bags, noise), _rows(posteriors, batch), len(batch), run.next_step("decoder"))

    def update_decoder(
        self, run: TrainingRun, drawn: tuple[UserBags, Tensor], posteriors: Tensor, users: int | Tensor, step: AdamStep
    ) -> None:
        """Maximize log p_θ(x|z) in θ, without dropout; see `update_encoder` for the parameters."""
        bags, noise = drawn
        mean, log_variance = posteriors.chunk(2, dim=1)
        z = mean + noise * (0.5 * log_variance).exp()
        low, high = run.workers.part(len(z))
        weight, bias, *_ = run.output.likelihood_gradients(z[low:high], bags.part(low, high), -1 / users, inputs=False)
        run.step_decoder(weight, bias, step)

    @torch.no_grad()
    def _posteriors(self, run: TrainingRun) -> Tensor:
        """Return mean and log-variance of q_φ(z|x) for all users, (users, 2 latent)."""
        if run.fused is not None:
            return run.fused.posteriors()
        shape = run.stars.shape[0], 2 * self.config.latent_size
        posteriors = torch.empty(shape, dtype=self.weight_dtype, device=self.device)
        for start, part in zip(
            range(0, len(posteriors), POSTERIOR_USERS), portions(posteriors, POSTERIOR_USERS), strict=True
        ):
            bags = Bags.of(run.stars[start : start + POSTERIOR_USERS], self.device, self.weight_dtype)
            torch.cat(self.encoder(bags, run.dtype), dim=1, out=part)
        return posteriors

    def fused_steps(self) -> Callable[[TrainingRun], FusedSteps | None] | None:
        if self.device.type == "cuda":
            return partial(recorded_steps, model=self)
        # Imported here because the compiler takes half a second to load, which a recommendation need not wait for.
        from gh_assets.recommender.cpu.llvm_internals import usable

        if self.device.type != "cpu" or not usable():
            return None
        from gh_assets.recommender.cpu.fused import FusedRecVAE, Layers

        config, encoder = self.config, self.encoder
        assert config.gamma is not None, "a run settles it"
        layers = Layers(encoder.linears, encoder.layer_norms, (encoder.mean, encoder.log_variance))
        log_weights = [math.log(weight) - LOG_ROOT_2PI for weight in config.prior_weights]
        prior = dict(zip(("log_standard", "log_old", "log_wide"), log_weights, strict=True))
        prior |= {"wide_log_variance": config.wide_log_variance, "wide_precision": math.exp(-config.wide_log_variance)}
        prior |= {"log_root_2pi": LOG_ROOT_2PI}
        return partial(FusedRecVAE, layers=layers, gamma=config.gamma, prior=prior)

    # -- use -----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def contributions(self, stars: Csr, items: NDArray[np.int64], scores: Scores | None = None) -> NDArray[np.float32]:
        """Return by how much an item's score above the mean item drops without a star; see `ablation`."""
        weight = self.decoder.weight.detach()
        bags = Bags.of(stars, self.device, self.weight_dtype)
        return contributions(self.encoder, self.encoder.compiled, weight, self._mean_item(), bags, items)

    def _weights_changed(self) -> None:
        self._mean_item.forget()
        self.encoder.compiled.forget()


def _rows(table: Tensor, rows: NDArray[np.int64]) -> Tensor:
    return table.index_select(0, torch.from_numpy(rows).to(table.device))
