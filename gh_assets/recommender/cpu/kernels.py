"""The kernels of RecVAE's training, each with the torch operations that it replaces as its reference.

In a network this small, half the time goes into passes over memory between the matrix products. Each kernel does in one
pass what would be five to fifteen operations.

A loop copies an array, because numba takes seconds to compile numpy's assignment. A loop that writes one large array
reads none: where two arrays have the same offset within their pages, each read waits for the write before it (three
times as slow, in one process of two).
"""

import math

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from numba import njit
from torch import Tensor

from gh_assets.recommender.cpu.compilation import OPTIONS
from gh_assets.recommender.cpu.kernel import CHUNKS, Kernel, kernel
from gh_assets.recommender.cpu.llvm_internals import prefetch
from gh_assets.recommender.cpu.number_types import (
    exp,
    fill_normal,
    inline,
    load,
    random_bits,
    real_like,
    store,
    store_upward,
)

MIN_NORMALIZER, MAX_NORMALIZER = 1e-30, 1e37
"""Range in which a sum of exponentials is right: outside, `exp` may have cut one off, or float32 has lost it."""


@inline
def _store_row(out, row):
    for j in range(len(row)):
        out[j] = store(row[j], out[0])


@inline
def _add_rows(row, table, items, low, high):
    """Add stored rows of a table, four at a time: the sum then goes to the cache and back once for them."""
    fours = low + (high - low) // 4 * 4
    for star in range(low, fours, 4):
        a, b, c, d = table[items[star]], table[items[star + 1]], table[items[star + 2]], table[items[star + 3]]
        for j in range(len(row)):
            row[j] += load(a[j]) + load(b[j]) + load(c[j]) + load(d[j])
    for star in range(fours, high):
        a = table[items[star]]
        for j in range(len(row)):
            row[j] += load(a[j])


def _bag_sums(rows: Tensor, weights: Tensor | None, offsets: Tensor) -> Tensor:
    """Sum the rows of each bag, for references; a bag is a range of rows."""
    parts = rows if weights is None else rows * weights[:, None]
    bags = zip(offsets.tolist(), offsets[1:].tolist(), strict=False)
    return torch.stack([parts[low:high].sum(dim=0) for low, high in bags])


# -- the encoder -----------------------------------------------------------------------------------------------------


@kernel("""
    rows of users
    integer: is_first  # the first layer's input is `skipped` alone
    stored users width: product, normed, out
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
    x = a.skipped if a.is_first else a.skipped + a.product + a.bias
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
    stored users width: given  # gradient in the activations without what was skipped
    real users width: skipped  # gradient in what is skipped from here on; changed to that before this layer
    stored users width: slopes, normed
    real users: inverses
    real width: scale
    stored users width: out  # gradient in the product
    real CHUNKS 3 width: sums  # gradients of scale, shift and bias
""")
def layer_backward(a, low, high):
    """Gradients of `layer_forward`."""
    gradients, normed, users, scale = np.empty_like(a.scale), np.empty_like(a.scale), len(a.inverses), a.scale
    width, zero, count = len(scale), real_like(gradients, 0.0), real_like(gradients, len(scale))
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
            _store_row(a.out[user], gradients)
            for j in range(width):
                skipped[j] = gradients[j] if a.is_first else skipped[j] + gradients[j]


@layer_backward.replaces
def _(a):
    gradient = a.given if a.is_last else a.given + a.skipped
    inner = gradient * a.scale
    mean, along = inner.mean(dim=1, keepdim=True), (inner * a.normed).mean(dim=1, keepdim=True)
    out = a.inverses[:, None] * (inner - mean - a.normed * along) * a.slopes
    sums = torch.stack([(gradient * a.normed).sum(dim=0), gradient.sum(dim=0), out.sum(dim=0)])
    skipped = torch.zeros_like(out) if a.is_last else a.skipped
    return {"out": out, "sums": sums, "skipped": out if a.is_first else skipped + out}


# -- the latent vector and the objective -----------------------------------------------------------------------------


@kernel("""
    rows of users
    stored users 2*latent: product  # of the last layer, means first
    real latent: mean_bias, log_variance_bias
    real users latent: noise, z
    real users 2*latent: posterior  # mean and log-variance
    stored users width: query  # its first columns become z
""")
def sample(a, low, high):
    """The reparametrization: z = mean + noise × exp(log-variance / 2)."""
    latent, half = a.z.shape[1], real_like(a.z, 0.5)
    for user in range(low, high):
        product, query, noise, posterior, z = (
            a.product[user],
            a.query[user],
            a.noise[user],
            a.posterior[user],
            a.z[user],
        )
        for j in range(latent):
            mean = load(product[j]) + a.mean_bias[j]
            log_variance = load(product[latent + j]) + a.log_variance_bias[j]
            drawn = mean + noise[j] * exp(half * log_variance)
            posterior[j], posterior[latent + j], z[j] = mean, log_variance, drawn
            query[j] = store(drawn, query[0])


@sample.replaces
def _(a):
    posterior = a.product + torch.cat([a.mean_bias, a.log_variance_bias])
    mean, log_variance = posterior.chunk(2, dim=1)
    z = mean + a.noise * (log_variance / 2).exp()
    return {"posterior": posterior, "z": z, "query": z}


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
    own, expected = _bag_sums(a.table[a.items], None, a.offsets), a.parts.sum(dim=0)
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


# -- bags of items ---------------------------------------------------------------------------------------------------


@kernel("""
    threads
    int64 users: batch
    int64 every_user: all_offsets
    int32 every_star: all_items
    int64 3: settings  # key of the random numbers, probability of dropout in 2^-32, size of the noise
    int64 stars: items
    real stars: weights, kept_weights
    int64 users+1: offsets, kept_offsets
    real users: lengths
    int64 stars: kept  # what dropout leaves
    real noise: noise
""")
def draw(a, thread, threads):
    """Bags of some users, what dropout leaves of them, and standard normal noise."""
    key, hidden, size = np.uint64(a.settings[0]), np.uint64(a.settings[1]), a.settings[2]
    if thread == 0:
        _draw_bags(a, key, hidden)
    half, noise = (size + 1) // 2, a.noise[:size]
    begin, end = thread * half // threads, (thread + 1) * half // threads
    # A stream other than that of dropout, by the complement of the key.
    fill_normal(~key, begin, noise[begin:end], noise[half + begin : half + end])


@inline
def _draw_bags(a, key, hidden):
    starts, stars = a.all_offsets, 0
    for user in a.batch:
        stars += starts[user + 1] - starts[user]
    one = real_like(a.weights, 1.0)
    scale = one / (one - real_like(a.weights, hidden) / real_like(a.weights, 4294967296.0))
    stays = np.empty(stars, np.uint8)
    for star in range(stars):
        stays[star] = (random_bits(key, star) >> np.uint64(32)) >= hidden
    a.offsets[0] = 0
    a.kept_offsets[0] = 0
    place, kept_place = 0, 0
    for row in range(len(a.batch)):
        low, high = starts[a.batch[row]], starts[a.batch[row] + 1]
        length = real_like(a.weights, high - low)
        a.lengths[row] = length
        weight = one / math.sqrt(max(length, one))
        for star in range(low, high):
            item = a.all_items[star]
            a.items[place] = item
            a.weights[place] = weight
            a.kept[kept_place] = item
            a.kept_weights[kept_place] = weight * scale
            kept_place += stays[place]
            place += 1
        a.offsets[row + 1] = place
        a.kept_offsets[row + 1] = kept_place


@draw.replaces
def _(a):
    """Without dropout and noise, whose random numbers torch does not have."""
    lengths = a.all_offsets.diff()[a.batch]
    offsets = F.pad(lengths.cumsum(0), (1, 0))
    bags = [a.all_items[a.all_offsets[user] : a.all_offsets[user + 1]] for user in a.batch.tolist()]
    items, weights = torch.cat(bags).long(), lengths.clamp(min=1).double().rsqrt().repeat_interleave(lengths)
    whole = {"items": items, "weights": weights, "offsets": offsets}
    return whole | {"kept": items, "kept_weights": weights, "kept_offsets": offsets, "lengths": lengths.double()}


@kernel("""
    rows of users
    int64 stars: items
    real stars: weights
    int64 users+1: offsets
    real width: start
    stored rows width: table
    real users width: out
""")
def sums_of_rows(a, low, high):
    """`start` plus the weighted sum of each user's rows of a table."""
    items, weights, table, start = a.items, a.weights, a.table, a.start
    row, stars = np.empty_like(start), a.offsets[len(a.out)]
    size, address = table.strides[0], table.ctypes.data
    for user in range(low, high):
        for j in range(len(row)):
            row[j] = start[j]
        begin, end = a.offsets[user], a.offsets[user + 1]
        fours = begin + (end - begin) // 4 * 4
        for star in range(begin, fours, 4):
            for following in range(star + 4, min(star + 8, stars)):
                first = address + items[following] * size
                for line in range(first, first + size, 64):
                    prefetch(line)
            a_, b, c, d = table[items[star]], table[items[star + 1]], table[items[star + 2]], table[items[star + 3]]
            u, v, w, x = weights[star], weights[star + 1], weights[star + 2], weights[star + 3]
            for j in range(len(row)):
                row[j] += u * load(a_[j]) + v * load(b[j]) + w * load(c[j]) + x * load(d[j])
        for star in range(fours, end):
            a_, u = table[items[star]], weights[star]
            for j in range(len(row)):
                row[j] += u * load(a_[j])
        out = a.out[user]
        for j in range(len(row)):
            out[j] = row[j]


@sums_of_rows.replaces
def _(a):
    return {"out": a.start + _bag_sums(a.table[a.items], a.weights, a.offsets)}


@kernel("""
    one thread
    int64 stars: items
    int64 boundaries: offsets  # of users; the first is above 0 if there are other users before
    real stars: weights, row_weights
    int64 1: count  # rows that have users
    int64 rows: touched  # these rows, ascending; only the first `count` are written
    int64 rows+1: touched_offsets  # where their users begin
    int64 rows+1: row_offsets  # where every row's users begin
    int64 stars: row_users  # ascending for each row
""")
def transpose(a):
    """Users' items as items' users, by counting sort; too little work for more than one thread."""
    rows, items, offsets, place = len(a.touched), a.items, a.offsets, a.row_offsets
    place[:] = 0
    for star in range(offsets[0], offsets[-1]):
        place[items[star] + 1] += 1
    count, total = 0, 0
    a.touched_offsets[0] = 0
    for row in range(rows):
        more = place[row + 1]
        place[row + 1] = total
        total += more
        a.touched[count] = row
        count += more > 0
        a.touched_offsets[count] = total
    a.count[0] = count
    # Each row's place moves from where its users begin to where they end, which is where the next row's begin.
    for user in range(len(offsets) - 1):
        for star in range(offsets[user], offsets[user + 1]):
            row = items[star] + 1
            a.row_users[place[row]] = user
            a.row_weights[place[row]] = a.weights[star]
            place[row] += 1


@transpose.replaces
def _(a):
    low, high = int(a.offsets[0]), int(a.offsets[-1])
    items, order = a.items[low:high].sort(stable=True)
    users = torch.arange(len(a.offsets) - 1).repeat_interleave(a.offsets.diff())
    touched, counts = torch.unique_consecutive(items, return_counts=True)
    row_counts = torch.bincount(items, minlength=len(a.touched))
    return {
        "count": torch.tensor([len(touched)]),
        "touched": touched,
        "touched_offsets": F.pad(counts.cumsum(0), (1, 0)),
        "row_offsets": F.pad(row_counts.cumsum(0), (1, 0)),
        "row_users": users[order],
        "row_weights": a.weights[low:high][order],
    }


# -- Adam (Kingma & Ba 2015); constants: 1 - beta1, beta2, step size, 1 / second bias correction, epsilon --------------


@inline
def _adam_of_row(weight, first, gradient, moment, second, constants):
    """Step for one row with one second moment, which is returned; `gradient` becomes the changed row."""
    fresh, keep, size, correction, eps = constants[0], constants[1], constants[2], constants[3], constants[4]
    one, squares = real_like(gradient, 1.0), real_like(gradient, 0.0)
    for j in range(len(gradient)):
        squares += gradient[j] * gradient[j]
    v = keep * second + (one - keep) * squares / real_like(gradient, len(gradient))
    step = size / (math.sqrt(v * correction) + eps)
    for j in range(len(gradient)):
        m = load(first[j])
        moment[j] = m + fresh * (gradient[j] - m)
    _store_row(first, moment)
    for j in range(len(gradient)):
        gradient[j] = weight[j] - step * moment[j]
    for j in range(len(gradient)):
        weight[j] = gradient[j]
    return v


def _row_wise(weight: Tensor, first: Tensor, second: Tensor, gradient: Tensor, constants: Tensor) -> dict[str, Tensor]:
    """Row-wise Adam, for references."""
    fresh, keep, size, correction, eps = constants.tolist()
    first = first.lerp(gradient, fresh)
    second = keep * second + (1 - keep) * gradient.square().mean(dim=1)
    return {"first": first, "second": second} | {
        "weight": weight - size * first / ((second * correction).sqrt() + eps)[:, None]
    }


@kernel("""
    blocks of a.count[0]
    int64 1: count
    int64 rows: touched  # the rows to change, `count` of them
    int64 rows+1: touched_offsets
    int64 stars: row_users
    real stars: row_weights
    real users_in_batch width: gradients  # in the users' weighted sums
    real rows width: weight
    stored rows width: copy, first  # the copy is what sums see; it may be the weight itself
    real rows: second
    real 5: constants
""")
def adam_of_rows(a, low, high):
    """Row-wise Adam for a table of which only weighted sums of rows have gradients; see `engine.adam.RowAdam`."""
    gradient, moment = np.empty_like(a.gradients[0]), np.empty_like(a.gradients[0])
    users, weights = a.row_users, a.row_weights
    for k in range(low, high):
        row = a.touched[k]
        gradient[:] = 0
        begin, end = a.touched_offsets[k], a.touched_offsets[k + 1]
        twos = begin + (end - begin) // 2 * 2
        for star in range(begin, twos, 2):  # two at once: the sum goes to the cache and back once for them
            one, other = a.gradients[users[star]], a.gradients[users[star + 1]]
            weight, other_weight = weights[star], weights[star + 1]
            for j in range(len(gradient)):
                gradient[j] += weight * one[j] + other_weight * other[j]
        for star in range(twos, end):
            one, weight = a.gradients[users[star]], weights[star]
            for j in range(len(gradient)):
                gradient[j] += weight * one[j]
        a.second[row] = _adam_of_row(a.weight[row], a.first[row], gradient, moment, a.second[row], a.constants)
        copy = a.copy[row]
        for j in range(len(gradient)):
            copy[j] = store_upward(gradient[j], copy[0])


@adam_of_rows.replaces
def _(a):
    rows, offsets = a.touched[: a.count], a.touched_offsets[: a.count + 1]
    gradient = _bag_sums(a.gradients[a.row_users], a.row_weights, offsets)
    changed = _row_wise(a.weight[rows], a.first[rows], a.second[rows], gradient, a.constants)
    changed["copy"] = changed["weight"]
    return {name: getattr(a, name).index_copy(0, rows, values) for name, values in changed.items()}


@kernel("""
    rows of rows
    stored rows width: gradient, first
    real rows width: weight
    real rows: second
    stored rows width: copy  # the weight as products see it
    real 5: constants
""")
def adam_of_matrix(a, low, high):
    """Row-wise Adam for a matrix."""
    gradient, moment = np.empty_like(a.weight[0]), np.empty_like(a.weight[0])
    for row in range(low, high):
        stored_gradient = a.gradient[row]
        for j in range(len(gradient)):
            gradient[j] = load(stored_gradient[j])
        a.second[row] = _adam_of_row(a.weight[row], a.first[row], gradient, moment, a.second[row], a.constants)
        _store_row(a.copy[row], gradient)


@adam_of_matrix.replaces
def _(a):
    changed = _row_wise(a.weight, a.first, a.second, a.gradient, a.constants)
    return changed | {"copy": changed["weight"]}


@kernel("""
    rows of size
    real size: gradient, weight, first, second
    real 5: constants
""")
def adam_of_vector(a, low, high):
    """Adam."""
    weights, first, second, gradients = a.weight[low:high], a.first[low:high], a.second[low:high], a.gradient[low:high]
    fresh, keep, size, correction, eps = a.constants[0], a.constants[1], a.constants[2], a.constants[3], a.constants[4]
    rare = real_like(weights, 1.0) - keep
    for j in range(len(gradients)):
        g = gradients[j]
        m = first[j] + fresh * (g - first[j])
        v = keep * second[j] + rare * g * g
        first[j] = m
        second[j] = v
        weights[j] -= size * m / (math.sqrt(v * correction) + eps)


@adam_of_vector.replaces
def _(a):
    fresh, keep, size, correction, eps = a.constants.tolist()
    first, second = a.first.lerp(a.gradient, fresh), keep * a.second + (1 - keep) * a.gradient**2
    weight = a.weight - size * first / ((second * correction).sqrt() + eps)
    return {"first": first, "second": second, "weight": weight}


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


@kernel("""
    blocks of items
    stored items width: expected  # by the weight, then by the bias
    int64 items+1: row_offsets
    int64 stars: row_users
    real users_here inputs: z
    number: scale
    real items inputs: weight
    real items: bias
""")
def output_gradient(a, low, high):
    """The gradient of the likelihood in the last layer: observed minus expected sums of the users' z."""
    row = np.empty_like(a.z[0])
    for item in range(low, high):
        row[:] = 0
        begin, end = a.row_offsets[item], a.row_offsets[item + 1]
        for star in range(begin, end):
            z = a.z[a.row_users[star]]
            for j in range(len(row)):
                row[j] += z[j]
        weight, expected = a.weight[item], a.expected[item]
        for j in range(len(row)):
            weight[j] = a.scale * row[j] + load(expected[j])
        a.bias[item] = a.scale * real_like(row, end - begin) + load(expected[len(row)])


@output_gradient.replaces
def _(a):
    inputs = a.z.shape[1]
    weight = a.scale * _bag_sums(a.z[a.row_users], None, a.row_offsets) + a.expected[:, :inputs]
    return {"weight": weight, "bias": a.scale * a.row_offsets.diff().double() + a.expected[:, inputs]}


KERNELS = [value for value in globals().values() if isinstance(value, Kernel)]
