"""RecVAE: a variational autoencoder for top-N recommendation with implicit feedback.

Shenbin, Alekseev, Tutubalina, Malykh & Nikolenko, WSDM 2020, arXiv 1912.11160; equation numbers below are the
paper's. From top to bottom: configuration, encoder, composite prior, the model and its epoch.

Cost follows the stars where the maths allows (`engine`), and the posterior of the old encoder, which a round of
encoder steps does not change, is computed once a round: it is also what that round's decoder steps begin with.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from numpy.typing import NDArray
from torch import Tensor, nn

from gh_assets.errors import ConfigurationError
from gh_assets.recommender.cpu import leave_one_out
from gh_assets.recommender.data.interactions import Csr
from gh_assets.recommender.models.autoencoder import Autoencoder, FusedSteps, SparseEncoder, TrainingConfig, TrainingRun
from gh_assets.recommender.training.engine import Bags, SoftmaxOutput, portions

LOG_ROOT_2PI = 0.5 * math.log(2 * math.pi)

LEFT_OUT = 64
"""Stars of a user up to which each is left out to see what it was worth."""

STRONGEST = 24
"""Of users with more, so many are left out: those that the gradient says are worth most."""

SLOPES_AT_ONCE = 32
"""Of so many users together."""

ROWS_AT_ONCE = 512
"""Such rows together."""

USERS_AT_ONCE = 500
"""Users whose posterior is computed at once."""


@dataclass(frozen=True)
class RecVAEConfig(TrainingConfig):
    """Everything that decides what is trained. An epoch: `encoder_passes` over the users, then one for the decoder."""

    gamma: float = 0.005  # KL weight a user is gamma × number of the user's items (eq. 13)
    prior_weights: tuple[float, float, float] = (3 / 20, 3 / 4, 1 / 10)  # standard normal, old posterior, wide normal
    wide_log_variance: float = 10.0  # of the wide normal
    encoder_passes: int = 3  # alternation 3:1, as published

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "prior_weights", tuple(self.prior_weights))  # JSON knows lists only
        if abs(sum(self.prior_weights) - 1.0) > 1e-6 or min(self.prior_weights) <= 0:
            raise ConfigurationError(f"The prior's weights {self.prior_weights} must be positive and sum to 1.")
        if self.gamma < 0:
            raise ConfigurationError("gamma must not be below 0.")
        if self.encoder_passes < 1:
            raise ConfigurationError(f"encoder_passes must be at least 1, not {self.encoder_passes}.")


class Encoder(SparseEncoder):
    """Inference network (figure 2): five layers of swish and layer norm with dense skip connections."""

    def __init__(self, items: int, hidden: int, latent: int) -> None:
        super().__init__(items, hidden)
        self.layers = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(4))
        self.norms = nn.ModuleList(nn.LayerNorm(hidden, eps=0.1) for _ in range(5))
        self.mean = nn.Linear(hidden, latent)
        self.log_variance = nn.Linear(hidden, latent)
        self._kept: tuple[object, leave_one_out.Network] | None = None

    def rest(self, first: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        hidden = self._hidden(first, dtype)
        weight, bias = (
            torch.cat([getattr(self.mean, name), getattr(self.log_variance, name)]) for name in ("weight", "bias")
        )
        both = F.linear(hidden, weight.to(dtype), bias.to(dtype)).to(first.dtype)
        mean, log_variance = both.chunk(2, dim=1)
        return mean, log_variance

    def latent_mean(self, first: Tensor, dtype: torch.dtype) -> Tensor:
        if not torch.is_grad_enabled() and leave_one_out.usable(first.device, dtype):
            return torch.from_numpy(leave_one_out.latent_means(self.network(), first.contiguous().numpy()))
        hidden = self._hidden(first, dtype)
        return F.linear(hidden, self.mean.weight.to(dtype), self.mean.bias.to(dtype)).to(first.dtype)

    def _hidden(self, first: Tensor, dtype: torch.dtype) -> Tensor:
        """The last layer's output."""

        def linear(layer: nn.Module, x: Tensor) -> Tensor:
            assert isinstance(layer, nn.Linear)
            return F.linear(x, layer.weight.to(dtype), layer.bias.to(dtype))

        def activated(norm: nn.Module, x: Tensor) -> Tensor:
            assert isinstance(norm, nn.LayerNorm)
            return F.layer_norm(F.silu(x), norm.normalized_shape, norm.weight.to(dtype), norm.bias.to(dtype), norm.eps)

        first_norm, *norms = self.norms
        hidden = activated(first_norm, first.to(dtype))
        skipped = hidden  # the sum of all layers so far
        for layer, norm in zip(self.layers, norms, strict=True):
            hidden = activated(norm, linear(layer, hidden) + skipped)
            skipped = skipped + hidden
        return hidden

    def forget(self) -> None:
        """Make `network` anew: the weights changed where torch does not see it."""
        self._kept = None

    def network(self) -> leave_one_out.Network:
        """The weights for `leave_one_out`; made again only if they changed."""
        key = tuple((parameter.data_ptr(), parameter._version) for parameter in self.parameters())
        if self._kept is None or self._kept[0] != key:
            layers = [layer for layer in self.layers if isinstance(layer, nn.Linear)]
            norms = [norm for norm in self.norms if isinstance(norm, nn.LayerNorm)]
            with torch.no_grad():
                network = leave_one_out.Network(
                    torch.stack([layer.weight.T for layer in layers]).contiguous().numpy(),
                    torch.stack([layer.bias for layer in layers]).numpy(),
                    torch.stack([norm.weight for norm in norms]).numpy(),
                    torch.stack([norm.bias for norm in norms]).numpy(),
                    self.mean.weight.T.contiguous().numpy(),
                    self.mean.bias.clone().numpy(),
                    norms[0].eps,
                )
            self._kept = key, network
        return self._kept[1]

    def slopes(self, first: Tensor, directions: Tensor) -> Tensor:
        """Gradients of users' means, in many directions at once: the way there is gone once a user, not once each.

        Parameters
        ----------
        first : Tensor, shape (users, hidden)
            The first layer's sums.
        directions : Tensor, shape (users, n, latent)

        Returns
        -------
        Tensor, shape (users, n, hidden)
            Of each user's ``directions @ mean`` in `first`.
        """

        def back_through(norm: nn.Module, x: Tensor, gradients: Tensor) -> Tensor:
            """Of ``norm(swish(x))``."""
            assert isinstance(norm, nn.LayerNorm)
            gate = torch.sigmoid(x)
            swish = x * gate
            centred = swish - swish.mean(dim=-1, keepdim=True)
            scale = (centred.square().mean(dim=-1, keepdim=True) + norm.eps).rsqrt()
            normal = centred * scale
            inner = gradients * norm.weight
            inner = inner - inner.mean(dim=-1, keepdim=True) - normal * (inner * normal).mean(dim=-1, keepdim=True)
            return inner * scale * (gate + swish * (1 - gate))

        inputs = [first[:, None]]
        hidden = self.norms[0](F.silu(inputs[0]))
        skipped = hidden
        for layer, norm in zip(self.layers, self.norms[1:], strict=True):
            inputs.append(layer(hidden) + skipped)
            hidden = norm(F.silu(inputs[-1]))
            skipped = skipped + hidden
        of_hidden = directions @ self.mean.weight
        of_skipped = torch.zeros_like(of_hidden)
        for place in range(len(self.layers), 0, -1):
            layer = self.layers[place - 1]
            assert isinstance(layer, nn.Linear)
            of_input = back_through(self.norms[place], inputs[place], of_hidden)
            of_skipped = of_skipped + of_input
            of_hidden = of_input @ layer.weight + of_skipped
        return back_through(self.norms[0], inputs[0], of_hidden)


def _rows(table: Tensor, which: NDArray[np.int64]) -> Tensor:
    return table.index_select(0, torch.from_numpy(which).to(table.device))


def composite_prior(
    z: Tensor, old_mean: Tensor, old_log_variance: Tensor, weights: tuple[float, float, float], wide: float
) -> tuple[Tensor, Tensor]:
    """Log-density of the composite prior (eq. 12) and its gradient in z.

    Elementwise over the latent dimensions, as in the authors' code. Components: a standard normal, the posterior of
    the encoder as it was a round ago, and a wide normal.

    Parameters
    ----------
    z, old_mean, old_log_variance : Tensor, shape (users, latent)
    weights : tuple
        Of the components.
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
    """RecVAE with the recommender interface.

    See `Autoencoder` for its parameters.
    """

    name: ClassVar[str] = "recvae"
    config_type: ClassVar[type[TrainingConfig]] = RecVAEConfig
    config: RecVAEConfig
    encoder: Encoder
    _kept_mean: tuple[tuple[int, int], Tensor | None] = ((0, 0), None)

    def _networks(self) -> tuple[SparseEncoder, nn.Linear]:
        config = self.config
        self._kept_mean = (0, 0), None
        encoder = Encoder(self.items, config.hidden_size, config.latent_size)
        return encoder, nn.Linear(config.latent_size, self.items)

    def _weights_changed(self) -> None:
        self._kept_mean = (0, 0), None
        self.encoder.forget()

    @property
    def _has_fused_steps(self) -> bool:
        if self.device.type != "cpu":
            return False
        # Imported here because the kernels' compiler takes half a second to load, which a recommendation need not
        # wait for.
        from gh_assets.recommender.cpu.kernels import usable

        return usable()

    def _fused_steps(self, run: TrainingRun) -> FusedSteps:
        from gh_assets.recommender.cpu.fused import FusedRecVAE

        return FusedRecVAE(self, run)

    # -- training ------------------------------------------------------------------------------------------------

    def _epoch(self, epoch: int, run: TrainingRun) -> float:
        users = int(run.stars.shape[0])
        posteriors = run.posteriors if run.posteriors is not None else self._posteriors(run)
        loss = 0.0
        for _ in range(self.config.encoder_passes):
            for batch in run.batches(users):
                loss += len(batch) * self._encoder_step(run, batch, posteriors)
        posteriors = self._posteriors(run)
        for batch in run.batches(users):
            self._decoder_step(run, batch, posteriors)
        run.posteriors = posteriors
        return loss / (users * self.config.encoder_passes)

    def _encoder_step(self, run: TrainingRun, batch: NDArray[np.int64], posteriors: Tensor) -> float:
        if run.fused is not None:
            return run.fused.encoder_step(batch, posteriors)
        users = len(batch)
        bags, dropped, noise = run.draw(batch, self.config.dropout)
        low, high = run.workers.part(users)
        parts = bags.part(low, high), dropped.part(low, high), noise[low:high]
        self.encoder.zero_grad()
        loss, first_gradient = self.encoder_gradients(run.output, *parts, _rows(posteriors, batch[low:high]), users)
        run.step_encoder(dropped, first_gradient)
        return loss

    def _decoder_step(self, run: TrainingRun, batch: NDArray[np.int64], posteriors: Tensor) -> None:
        if run.fused is not None:
            run.fused.decoder_step(batch, posteriors)
            return
        bags, _, noise = run.draw(batch, dropout=0.0)
        mean, log_variance = _rows(posteriors, batch).chunk(2, dim=1)
        z = mean + noise * (0.5 * log_variance).exp()
        low, high = run.workers.part(len(batch))
        weight, bias, *_ = run.output.likelihood_gradients(
            z[low:high], bags.part(low, high), -1 / len(batch), inputs=False
        )
        run.step_decoder(weight, bias)

    def encoder_gradients(
        self,
        output: SoftmaxOutput,
        bags: Bags,
        dropped: Bags,
        noise: Tensor,
        old: Tensor,
        users: int,
    ) -> tuple[float, Tensor]:
        """Negative objective (eq. 13) and its gradients in the encoder's parameters, the decoder being fixed.

        Parameters
        ----------
        output : SoftmaxOutput
            The decoder.
        bags, dropped : Bags
            What the users have, and what of it the encoder sees.
        noise : Tensor, shape (users here, latent)
            Of the reparametrization.
        old : Tensor, shape (users here, 2 latent)
            Mean and log-variance by the encoder of a round ago.
        users : int
            In the whole batch: the objective is their mean.

        Returns
        -------
        loss : float
        first_gradient : Tensor, shape (users here, hidden)
            In the first layer's sums. The gradients of all that follows are added at the parameters.
        """
        first = self.encoder.first(dropped).requires_grad_()
        mean, log_variance = self.encoder.rest(first, output.dtype)
        with torch.no_grad():
            scaled_noise = noise * (0.5 * log_variance).exp_()
            z = mean + scaled_noise
            likelihood, z_gradient = output.likelihood(z, bags)
            old_mean, old_log_variance = old.chunk(2, dim=1)
            prior, prior_gradient = composite_prior(
                z, old_mean, old_log_variance, self.config.prior_weights, self.config.wide_log_variance
            )
            # One-sample estimate of KL(q || prior), weighted by the user's number of items. Seen from the noise, the
            # posterior's density depends on the variance alone.
            kl_weights = self.config.gamma / users * bags.lengths
            divergence = (-0.5 * (log_variance + noise * noise) - prior - LOG_ROOT_2PI).sum(dim=1)
            z_gradient = z_gradient.div_(-users).addcmul_(kl_weights[:, None], prior_gradient, value=-1)
            log_variance_gradient = (0.5 * z_gradient).mul_(scaled_noise).sub_(0.5 * kl_weights[:, None])
            loss = (kl_weights * divergence - likelihood / users).sum()
        torch.autograd.backward([mean, log_variance], [z_gradient, log_variance_gradient])
        assert first.grad is not None
        return float(loss), first.grad

    @torch.no_grad()
    def _posteriors(self, run: TrainingRun) -> Tensor:
        """Mean and log-variance of all users, (users, 2 latent)."""
        if run.fused is not None:
            return run.fused.posteriors()
        posteriors = torch.empty(
            (run.stars.shape[0], 2 * self.config.latent_size), dtype=self._exact, device=self.device
        )
        for start, part in zip(
            range(0, len(posteriors), USERS_AT_ONCE), portions(posteriors, USERS_AT_ONCE), strict=True
        ):
            bags = Bags.of(run.stars[start : start + USERS_AT_ONCE], self.device, self._exact)
            torch.cat(self.encoder(bags, run.dtype), dim=1, out=part)
        return posteriors

    # -- use -----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _contributions(self, stars: Csr, items: NDArray[np.int64]) -> NDArray[np.float32]:
        """Leave one out: what an item's score above the mean item's loses without a star, the others as they were.

        Of users with very many stars only the strongest by gradient × input are left out one by one; the others count
        what the gradient says.
        """
        bags = Bags.of(stars, self.device, self._exact)
        embeddings, wanted = self.encoder.embeddings.detach(), torch.from_numpy(items).to(self.device)
        decoder = self.decoder.weight.detach()
        mean_item = self._mean_item()
        first = self.encoder.first(bags)
        if leave_one_out.usable(self.device, self._exact):
            numbers = (bags.weights, embeddings, first, decoder, mean_item)
            weights, table, sums, output, middle = (tensor.contiguous().numpy() for tensor in numbers)
            starts, places = stars.indptr.astype(np.int64), stars.indices.astype(np.int64)
            network = self.encoder.network()
            found: NDArray[np.float32] = leave_one_out.contributions(
                network, starts, places, weights, table, sums, items, output, middle, LEFT_OUT, STRONGEST
            )
            return found
        contributions = first.new_empty((stars.nnz, items.shape[1]))
        left_out: list[tuple[int, Tensor]] = []
        waiting = 0
        many = np.flatnonzero(np.diff(stars.indptr) > LEFT_OUT).tolist()
        slopes: dict[int, Tensor] = {}
        for some in (many[start : start + SLOPES_AT_ONCE] for start in range(0, len(many), SLOPES_AT_ONCE)):
            gradients = self.encoder.slopes(first[some], decoder[wanted[some]] - mean_item)
            slopes |= zip(some, gradients, strict=True)
        for user, (low, high) in enumerate(pairwise(stars.indptr.tolist())):
            places = torch.arange(low, high, device=self.device)
            if user in slopes:
                estimate = (embeddings[bags.items[low:high]] * bags.weights[low:high, None]) @ slopes[user].T
                contributions[low:high] = estimate
                places = low + estimate.amax(dim=1).topk(STRONGEST).indices
            left_out.append((user, places))
            waiting += len(places)
            if waiting >= ROWS_AT_ONCE:
                self._leave_out(left_out, first, bags, wanted, contributions)
                left_out, waiting = [], 0
        if left_out:
            self._leave_out(left_out, first, bags, wanted, contributions)
        result: NDArray[np.float32] = contributions.float().cpu().numpy()
        return result

    def _leave_out(
        self,
        left_out: Sequence[tuple[int, Tensor]],
        first: Tensor,
        bags: Bags,
        wanted: Tensor,
        contributions: Tensor,
    ) -> None:
        """What leaving each star out takes away from the wanted items' scores, for some users together."""
        users = torch.tensor([user for user, _ in left_out], device=self.device)
        places = torch.cat([chosen for _, chosen in left_out])
        counts = [len(chosen) for _, chosen in left_out]
        owners = torch.repeat_interleave(users, torch.tensor(counts, device=self.device))
        per_star = self.encoder.embeddings[bags.items[places]] * bags.weights[places, None]
        means = self.encoder.latent_mean(torch.cat([first[users], first[owners] - per_star]), self._exact)
        mean_item = self._mean_item()
        whole, without = means[: len(users)], torch.split(means[len(users) :], counts)
        for row, ((user, chosen), rest) in enumerate(zip(left_out, without, strict=True)):
            directions = self.decoder.weight[wanted[user]] - mean_item
            contributions[chosen] = (whole[row] - rest) @ directions.T

    def _mean_item(self) -> Tensor:
        """The mean of the decoder's rows; worked out again only if they changed."""
        weight = self.decoder.weight.detach()
        key = weight.data_ptr(), weight._version
        kept, mean = self._kept_mean
        if kept != key or mean is None:
            mean = weight.mean(dim=0)
            self._kept_mean = key, mean
        return mean
