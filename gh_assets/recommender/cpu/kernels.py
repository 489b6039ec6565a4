"""The kernels of RecVAE's training, each with the torch operations that it replaces as its reference.

In a network this small, half the time goes into passes over memory between the matrix products. Each kernel does in one
pass what would be five to fifteen operations.

A loop copies an array, because numba takes seconds to compile numpy's assignment. A loop that writes one large array
reads none: where two arrays have the same offset within their pages, each read waits for the write before it (three
times as slow, in one process of two).
"""

import math
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from numba import njit
from torch import Tensor

from gh_assets.recommender.cpu.compilation import OPTIONS
from gh_assets.recommender.cpu.kernel import CHUNKS, Kernel, kernel
from gh_assets.recommender.cpu.number_types import exp, inline, load, real_like, store

MIN_NORMALIZER, MAX_NORMALIZER = 1e-30, 1e37
"""Range in which a sum of exponentials is right: outside, `exp` may have cut one off, or float32 has lost it."""


@inline
def _store_row(out, row):
    for j in range(len(row)):
        out[j] = store(row[j], out[0])


@inline
def _add_rows(row, table, items, low, high):
    """Add rows of a table, four at a time: the sum then goes to the cache and back once for them."""
    fours = low + (high - low) // 4 * 4
    for star in range(low, fours, 4):
        a, b, c, d = table[items[star]], table[items[star + 1]], table[items[star + 2]], table[items[star + 3]]
        for j in range(len(row)):
            row[j] += load(a[j]) + load(b[j]) + load(c[j]) + load(d[j])
    for star in range(fours, high):
        a = table[items[star]]
        for j in range(len(row)):
            row[j] += load(a[j])


def _bag_sums(rows: Tensor, offsets: Tensor) -> Tensor:
    """Sum the rows of each bag, for references; a bag is a range of rows."""
    return torch.stack([rows[low:high].sum(dim=0) for low, high in pairwise(offsets.tolist())])


# -- the encoder -----------------------------------------------------------------------------------------------------


@kernel("""
    rows of users
    integer: is_first  # the first layer's input is `skipped` alone
    stored users columns: product, out  # columns behind `width` are left as they are
    stored users width: normed
    real width: bias, scale, shift
    real users width: skipped  # sum of the layers so far; changed
    stored users width: slopes  # of swish
    real users: inverses  # 1 / standard deviation
""")
def layer_forward(a, low, high):
    """Layer norm of swish of (product + bias + skipped), added to what is skipped."""
    row, slopes, scale, shift, bias = np.empty_like(a.bias), np.empty_like(a.bias), a.scale, a.shift, a.bias
    width, zero, one, eps = len(row), real_like(row, 0.0), real_like(row, 1.0), real_like(row, 0.1)
    for user in range(low, high):
        skipped, product = a.skipped[user], a.product[user]
        for j in range(width):
            row[j] = skipped[j] if a.is_first else skipped[j] + load(product[j]) + bias[j]
        total, squares = zero, zero
        for j in range(width):
            x = row[j]
            gate = one / (one + exp(-x))
            slopes[j] = gate * (one + x * (one - gate))
            x *= gate
            row[j] = x
            total += x
            squares += x * x
        mean = total / real_like(row, width)
        inverse = one / math.sqrt(squares / real_like(row, width) - mean * mean + eps)
        a.inverses[user] = inverse
        _store_row(a.slopes[user], slopes)
        for j in range(width):
            row[j] = (row[j] - mean) * inverse
        _store_row(a.normed[user], row)
        for j in range(width):
            row[j] = row[j] * scale[j] + shift[j]
        _store_row(a.out[user], row)
        for j in range(width):
            skipped[j] = row[j] if a.is_first else skipped[j] + row[j]


@layer_forward.replaces
def _(a):
    x = a.skipped if a.is_first else a.skipped + a.product[:, : len(a.bias)] + a.bias
    gate, swish = torch.sigmoid(x), F.silu(x)
    inverses = (swish.var(dim=1, correction=0) + 0.1).rsqrt()
    out = F.layer_norm(swish, a.scale.shape, a.scale, a.shift, eps=0.1)
    normed = (swish - swish.mean(dim=1, keepdim=True)) * inverses[:, None]
    skipped = out if a.is_first else a.skipped + out
    return {
        "out": out,
        "skipped": skipped,
        "normed": normed,
        "inverses": inverses,
        "slopes": gate * (1 + x * (1 - gate)),
    }


@kernel("""
    rows of CHUNKS
    integer: is_first, is_last  # no later layer has written a gradient into `skipped`
    stored users columns: given  # gradient in the activations without what was skipped
    real users width: skipped  # gradient in what is skipped from here on; changed to that before this layer
    stored users width: slopes, normed
    real users: inverses, weights
    real width: scale
    stored users columns: out  # gradient in the product; of the first layer in the sum of rows, times the user's weight
    real CHUNKS 3 width: sums  # gradients of scale, shift and bias
""")
def layer_backward(a, low, high):
    """Gradients of `layer_forward`."""
    gradients, normed, users, scale = np.empty_like(a.scale), np.empty_like(a.scale), len(a.inverses), a.scale
    width, zero, one, count = len(scale), real_like(scale, 0.0), real_like(scale, 1.0), real_like(scale, len(scale))
    for chunk in range(low, high):
        of_scale, of_shift, of_bias = a.sums[chunk, 0], a.sums[chunk, 1], a.sums[chunk, 2]
        of_scale[:] = 0
        of_shift[:] = 0
        of_bias[:] = 0
        for user in range(chunk * users // CHUNKS, (chunk + 1) * users // CHUNKS):
            skipped, given, kept, slopes = a.skipped[user], a.given[user], a.normed[user], a.slopes[user]
            if a.is_last:
                skipped[:] = 0
            inverse = a.inverses[user]
            total, along = zero, zero
            for j in range(width):
                x = load(kept[j])
                gradient = load(given[j]) + skipped[j]
                of_scale[j] += gradient * x
                of_shift[j] += gradient
                gradient *= scale[j]
                gradients[j] = gradient
                normed[j] = x
                total += gradient
                along += gradient * x
            total /= count
            along /= count
            for j in range(width):
                gradient = inverse * (gradients[j] - total - normed[j] * along) * load(slopes[j])
                gradients[j] = gradient
                of_bias[j] += gradient
                skipped[j] += gradient
            factor = a.weights[user] if a.is_first else one
            for j in range(width):
                gradients[j] *= factor
            _store_row(a.out[user], gradients)


@layer_backward.replaces
def _(a):
    given = a.given[:, : len(a.scale)]
    gradient = given if a.is_last else given + a.skipped
    inner = gradient * a.scale
    mean, along = inner.mean(dim=1, keepdim=True), (inner * a.normed).mean(dim=1, keepdim=True)
    out = a.inverses[:, None] * (inner - mean - a.normed * along) * a.slopes
    sums = torch.stack([(gradient * a.normed).sum(dim=0), gradient.sum(dim=0), out.sum(dim=0)])
    skipped = out if a.is_last else a.skipped + out
    return {"out": out * a.weights[:, None] if a.is_first else out, "sums": sums, "skipped": skipped}


# -- the objective --------------------------------------------------------------------------------------------------


@njit(**OPTIONS)  # a function of its own: inlined into a kernel it is not vectorized
def _prior(a, user, start, slopes):
    """Return the product of the mixture's sums and the other terms of -KL for some dimensions; write -KL's slopes."""
    end = start + len(slopes)
    drawn, noise, latent = a.z[user, start:end], a.noise[user, start:end], a.z.shape[1]
    old_means, old_variances = a.old[user, start:end], a.old[user, latent + start : latent + end]
    log_variances = a.posterior[user, latent + start : latent + end]
    log_standard, log_old, log_wide = a.log_standard, a.log_old, a.log_wide
    wide, narrow, root = a.wide_log_variance, a.wide_precision, a.log_root_2pi
    one, half = real_like(slopes, 1.0), real_like(slopes, 0.5)
    product, total = one, one - one
    for j in range(len(slopes)):
        z, e, old_variance = drawn[j], noise[j], old_variances[j]
        away = z - old_means[j]
        pull = away * exp(-old_variance)
        squared = half * z * z
        standard = log_standard - squared
        old = log_old - half * (old_variance + away * pull)
        far = log_wide - half * wide - squared * narrow
        top = max(max(standard, old), far)
        standard, old, far = exp(standard - top), exp(old - top), exp(far - top)
        mixture = standard + old + far
        product *= mixture
        slopes[j] = -((standard + far * narrow) * z + old * pull) / mixture
        total += half * (log_variances[j] + e * e) + top + root
    return product, total


@kernel("""
    rows of CHUNKS
    stored rows width: table  # of the last layer: weight, bias, a one
    int64 stars: items
    int64 users+1: offsets
    stored blocks users width: parts  # Σ exp(logit - shift) × row over the items of each block
    real users: shifts, lengths, losses
    real users latent: z, noise
    real users 2*latent: posterior, old  # mean and log-variance, now and before the step
    number: share, gamma_share  # 1 and gamma, divided by the users of the batch
    number: log_standard, log_old, log_wide  # log-weights of the prior's components, less log √2π
    number: wide_log_variance, wide_precision, log_root_2pi
    stored users 2*latent: gradient
    real CHUNKS 2*latent: sums  # of the gradient
    real CHUNKS: out_of_range  # users whose normalizer is; see `MIN_NORMALIZER`
""")
def objective(a, low, high):
    """RecVAE's negative objective (eq. 13) for each user, and its gradients in mean and log-variance."""
    users, latent, width = a.z.shape[0], a.z.shape[1], a.table.shape[1]
    zero, half, one = real_like(a.z, 0.0), real_like(a.z, 0.5), real_like(a.z, 1.0)
    slopes, own, expected = np.empty_like(a.z[0]), np.empty(width, a.z.dtype), np.empty(width, a.z.dtype)
    for chunk in range(low, high):
        total = a.sums[chunk]
        total[:] = 0
        a.out_of_range[chunk] = zero
        for user in range(chunk * users // CHUNKS, (chunk + 1) * users // CHUNKS):
            mean, z, gradient = a.posterior[user], a.z[user], a.gradient[user]
            own[:] = 0
            _add_rows(own, a.table, a.items, a.offsets[user], a.offsets[user + 1])
            expected[:] = 0
            for block in range(len(a.parts)):
                part = a.parts[block, user]
                for j in range(width):
                    expected[j] += load(part[j])
            length, normalizer = a.lengths[user], expected[latent + 1]
            if not (MIN_NORMALIZER < normalizer < MAX_NORMALIZER):
                a.out_of_range[chunk] += one
            kl_weight, scale = a.gamma_share * length, length / normalizer
            likelihood = own[latent] - length * (math.log(normalizer) + a.shifts[user])
            divergence = zero
            # The logarithm of the mixtures' sums, each between 1 and 3, is taken once for 64 of them.
            for start in range(0, latent, 64):
                product, rest = _prior(a, user, start, slopes[start : min(start + 64, latent)])
                divergence -= rest + math.log(product)
            for j in range(latent):
                likelihood += own[j] * z[j]
                in_z = a.share * (scale * expected[j] - own[j]) - kl_weight * slopes[j]
                slopes[j] = in_z
                gradient[j] = store(in_z, gradient[0])
                total[j] += in_z
            for j in range(latent):
                in_variance = half * slopes[j] * (z[j] - mean[j]) - half * kl_weight
                gradient[latent + j] = store(in_variance, gradient[0])
                total[latent + j] += in_variance
            a.losses[user] = kl_weight * divergence - a.share * likelihood


@objective.replaces
def _(a):
    latent = a.z.shape[1]
    own, expected = _bag_sums(a.table[a.items], a.offsets), a.parts.sum(dim=0)
    normalizer = expected[:, latent + 1]
    z = a.z.clone().requires_grad_()
    (mean, log_variance), (old_mean, old_log_variance) = a.posterior.chunk(2, dim=1), a.old.chunk(2, dim=1)
    log_densities = [
        a.log_standard - z**2 / 2,
        a.log_old - (old_log_variance + (z - old_mean) ** 2 / old_log_variance.exp()) / 2,
        a.log_wide - (a.wide_log_variance + z**2 * a.wide_precision) / 2,
    ]
    log_prior = torch.logsumexp(torch.stack(log_densities), dim=0)
    (prior_gradient,) = torch.autograd.grad(log_prior.sum(), z)
    kl = (-(log_variance + a.noise**2) / 2 - a.log_root_2pi - log_prior.detach()).sum(dim=1)
    likelihood = (own[:, :latent] * a.z).sum(dim=1) + own[:, latent] - a.lengths * (normalizer.log() + a.shifts)
    kl_weight = (a.gamma_share * a.lengths)[:, None]
    in_z = a.share * (expected * (a.lengths / normalizer)[:, None] - own)[:, :latent] - kl_weight * prior_gradient
    gradient = torch.cat([in_z, in_z * (a.z - mean) / 2 - kl_weight / 2], dim=1)
    losses = kl_weight[:, 0] * kl - a.share * likelihood
    outside = ~((normalizer > MIN_NORMALIZER) & (normalizer < MAX_NORMALIZER))
    return {"losses": losses, "gradient": gradient, "sums": gradient.sum(dim=0), "out_of_range": outside.sum()}


# -- tables of rows: users are bags of items ------------------------------------------------------------------------


@kernel("""
    rows of 1
    int64 users: batch
    int64 every_user: all_offsets
    int32 every_star: all_items
    real 1: dropout
    real stars: chances  # uniform between 0 and 1
    int64 stars: items, kept  # all, and those whose chance is at least `dropout`
    int64 users+1: offsets, kept_offsets
    real users: lengths, weights  # of what is kept
""")
def draw(a, low, high):
    """Bags of some users, and what dropout leaves of them; too little work for more than one thread."""
    starts, dropout, one = a.all_offsets, a.dropout[0], real_like(a.dropout, 1.0)
    for _ in range(low, high):
        place, kept_place = 0, 0
        a.offsets[0], a.kept_offsets[0] = 0, 0
        for row in range(len(a.batch)):
            begin, end = starts[a.batch[row]], starts[a.batch[row] + 1]
            a.lengths[row] = real_like(a.lengths, end - begin)
            a.weights[row] = one / (math.sqrt(max(a.lengths[row], one)) * (one - dropout))
            for star in range(begin, end):
                item = a.all_items[star]
                a.items[place] = item
                a.kept[kept_place] = item
                kept_place += a.chances[place] >= dropout
                place += 1
            a.offsets[row + 1], a.kept_offsets[row + 1] = place, kept_place


@draw.replaces
def _(a):
    lengths = a.all_offsets.diff()[a.batch]
    items = torch.cat([a.all_items[a.all_offsets[user] : a.all_offsets[user + 1]] for user in a.batch.tolist()])
    offsets, left = F.pad(lengths.cumsum(0), (1, 0)), a.chances[: len(items)] >= a.dropout
    bags = {"items": items, "offsets": offsets, "kept": items[left]}
    bags["kept_offsets"] = F.pad(left.cumsum(0), (1, 0))[offsets]
    return bags | {"lengths": lengths, "weights": lengths.clamp(min=1).double().rsqrt() / (1 - a.dropout)}


@kernel("""
    rows of users
    int64 stars: items
    int64 users+1: offsets
    real users: weights
    real width: start
    stored rows width: table
    real users width: out
""")
def sums_of_rows(a, low, high):
    """`start` plus the weighted sum of each user's rows of a table."""
    row, start = np.empty_like(a.start), a.start
    for user in range(low, high):
        row[:] = 0
        _add_rows(row, a.table, a.items, a.offsets[user], a.offsets[user + 1])
        weight, out = a.weights[user], a.out[user]
        for j in range(len(row)):
            out[j] = start[j] + weight * row[j]


@sums_of_rows.replaces
def _(a):
    return {"out": a.start + a.weights[:, None] * _bag_sums(a.table[a.items], a.offsets)}


@kernel("""
    rows of 1
    int64 stars: items, row_users  # ascending for each row
    int64 boundaries: offsets
    int64 row_boundaries: row_offsets  # where each row's users begin
""")
def transpose(a, low, high):
    """Users' items as items' users, by counting sort; too little work for more than one thread."""
    items, offsets, place = a.items, a.offsets, a.row_offsets
    for _ in range(low, high):
        place[:] = 0
        for star in range(offsets[-1]):
            place[items[star] + 1] += 1
        total = 0
        for row in range(1, len(place)):
            total += place[row]
            place[row] = total - place[row]
        # Each row's place moves from where its users begin to where they end, which is where the next row's begin.
        for user in range(len(offsets) - 1):
            for star in range(offsets[user], offsets[user + 1]):
                row = items[star] + 1
                a.row_users[place[row]] = user
                place[row] += 1


@transpose.replaces
def _(a):
    users = torch.arange(len(a.offsets) - 1).repeat_interleave(a.offsets.diff())
    counts = torch.bincount(a.items, minlength=len(a.row_offsets) - 1)
    return {"row_users": users[a.items.argsort(stable=True)], "row_offsets": F.pad(counts.cumsum(0), (1, 0))}


@kernel("""
    blocks of rows
    integer: lazy  # rows without users are left out
    int64 rows+1: row_offsets
    int64 stars: row_users
    stored users columns: gradients  # in the users' sums; columns behind `width` are ignored
    real rows width: weight
    stored rows width: first
    stored rows copied: copy  # the copy of the weight is what products and sums see; it may be the weight itself
    real rows: second
    real 5: constants  # 1 - beta1, beta2, step size, 1 / second bias correction, epsilon
""")
def adam_of_rows(a, low, high):
    """Row-wise Adam for a table of which sums of rows have gradients; see `engine.adam.RowAdam`."""
    gradient, moment, constants = np.empty_like(a.weight[0]), np.empty_like(a.weight[0]), a.constants
    fresh, keep, size, correction, eps = constants[0], constants[1], constants[2], constants[3], constants[4]
    width, zero, one = len(gradient), real_like(gradient, 0.0), real_like(gradient, 1.0)
    for row in range(low, high):
        begin, end = a.row_offsets[row], a.row_offsets[row + 1]
        if a.lazy and begin == end:
            continue
        gradient[:] = 0
        _add_rows(gradient, a.gradients, a.row_users, begin, end)
        squares, weight, first = zero, a.weight[row], a.first[row]
        for j in range(width):
            squares += gradient[j] * gradient[j]
        a.second[row] = keep * a.second[row] + (one - keep) * squares / real_like(gradient, width)
        step = size / (math.sqrt(a.second[row] * correction) + eps)
        for j in range(width):
            m = load(first[j])
            moment[j] = m + fresh * (gradient[j] - m)
        _store_row(first, moment)
        for j in range(width):
            gradient[j] = weight[j] - step * moment[j]
        for j in range(width):
            weight[j] = gradient[j]
        _store_row(a.copy[row], gradient)


@adam_of_rows.replaces
def _(a):
    fresh, keep, size, correction, eps = a.constants.tolist()
    gradient = _bag_sums(a.gradients[a.row_users, : a.weight.shape[1]], a.row_offsets)
    first, second = a.first.lerp(gradient, fresh), keep * a.second + (1 - keep) * gradient.square().mean(dim=1)
    weight = a.weight - size * first / ((second * correction).sqrt() + eps)[:, None]
    changed = (a.row_offsets.diff() > 0) | (not a.lazy)
    copy = torch.where(changed[:, None], weight, a.copy[:, : weight.shape[1]])
    first, weight = (torch.where(changed[:, None], *both) for both in ((first, a.first), (weight, a.weight)))
    return {"first": first, "second": torch.where(changed, second, a.second), "weight": weight, "copy": copy}


# -- the softmax over all items --------------------------------------------------------------------------------------


@kernel("""
    rows of size
    stored size: numbers
""")
def exponential(a, low, high):
    """The exponential of many numbers, in place."""
    part = a.numbers[low:high]
    for j in range(len(part)):
        part[j] = store(exp(load(part[j])), part[0])


@exponential.replaces
def _(a):
    return {"numbers": a.numbers.exp()}


@kernel("""
    rows of CHUNKS
    stored items users: logits
    real CHUNKS users: sums
""")
def exponentials(a, low, high):
    """The exponentials of each item's logits, in place, and their sums over the items."""
    items = len(a.logits)
    for chunk in range(low, high):
        total = a.sums[chunk]
        total[:] = 0
        for item in range(chunk * items // CHUNKS, (chunk + 1) * items // CHUNKS):
            logits = a.logits[item]
            for j in range(len(logits)):
                x = exp(load(logits[j]))
                logits[j] = store(x, logits[0])
                total[j] += x


@exponentials.replaces
def _(a):
    return {"logits": a.logits.exp(), "sums": a.logits.exp().sum(dim=0)}


KERNELS = [value for value in globals().values() if isinstance(value, Kernel)]
