"""Fused operations of a training on the CPU, compiled by numba and run by torch's own threads.

A network this small is not held up by its matrix products alone: half the time goes into passes over memory for what
lies between them. Each kernel here does in one pass what are five to fifteen operations otherwise.

- They run on the threads of torch's OpenMP library. With threads of their own, two pools would wait for one another
  by spinning, and take more than they give (measured: 19 ms instead of 16 a pass on 2 cores).
- Each is one function for bfloat16, float32 and float64: what is proven in float64 is what trains in bfloat16.
- A loop that writes one large array reads none: where two lie at the same place of their pages, each read waits for
  the write before it (three times as slow, in one process of two).
- Sums over users are taken in `CHUNKS` parts, so that results do not depend on the number of threads.

Where torch has another thread library, `usable` says no, and the engine takes torch's operations.

Arguments of a kernel: sizes first, then arrays, contiguous, "stored" ones in the type of the products (bfloat16 as its
16 bits), others in the type of the sums ("real"): float64 for float64, else float32.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import llvmlite.binding
import numpy as np
import torch
from llvmlite import ir
from numba import carray, cfunc, njit, types
from numba.extending import intrinsic, overload
from torch import Tensor

CHUNKS = 32
"""Parts of a batch whose sums are added in the same order whatever the number of threads."""

BLOCK = 1024
"""Weights that a thread takes at a time: they stay in its first cache from one loop to the next."""

AT_ONCE = 64
"""Rows of a table that a thread takes at a time: some rows have far more work than others."""


@cache
def usable() -> bool:
    """Whether the kernels can run on torch's own threads."""
    return _openmp() is not None


@cache
def _openmp() -> Any:
    """GNU OpenMP as torch has loaded it, and its functions known to the compiler; None where there is none."""
    try:
        library = ctypes.CDLL("libgomp.so.1")  # by this name the loader gives the one that is there already
        parallel, number, count = library.GOMP_parallel, library.omp_get_thread_num, library.omp_get_num_threads
    except (OSError, AttributeError):
        return None
    if "OpenMP" not in torch.__config__.parallel_info() or torch.version.hip is not None:
        return None
    parallel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    parallel.restype = None
    for name, function in (("gh_assets_thread", number), ("gh_assets_threads", count)):
        address = ctypes.cast(function, ctypes.c_void_p).value
        llvmlite.binding.add_symbol(name, address)
    return parallel


_thread = types.ExternalFunction("gh_assets_thread", types.int32())
_threads = types.ExternalFunction("gh_assets_threads", types.int32())

STORED = {torch.bfloat16: types.int16, torch.float32: types.float32, torch.float64: types.float64}


class Kernel:
    """A function that all threads run at once, compiled at its first call for a type and kept on disk.

    Parameters
    ----------
    body : callable
        Of one pointer. What it points to are the arguments as 64-bit words; its type is that of stored numbers.
    """

    def __init__(self, body: Callable[[Any], None]) -> None:
        self.body = body
        self._compiled: dict[torch.dtype, int] = {}
        self._kept: list[Any] = []  # an address is good as long as what it is the address of

    def __call__(self, dtype: torch.dtype, *arguments: int | Tensor) -> None:
        """Run it.

        Parameters
        ----------
        dtype : torch.dtype
            Of stored numbers.
        arguments : int or Tensor
        """
        self.bound(dtype, *arguments)()

    def bound(self, dtype: torch.dtype, *arguments: int | Tensor) -> Callable[[], None]:
        """It with its arguments, for the same ones again and again: what they point to may change, where may not."""
        parallel = _openmp()  # before compiling: it also tells the compiler where OpenMP's functions are
        address = self._compiled.get(dtype) or self._compile(dtype)
        words = np.array([_word(argument) for argument in arguments], np.int64)
        pointer, threads = words.ctypes.data, torch.get_num_threads

        def run(kept: object = (words, arguments)) -> None:
            parallel(address, pointer, threads(), 0)

        return run

    def _compile(self, dtype: torch.dtype) -> int:
        signature = types.void(types.CPointer(STORED[dtype]))
        # As numpy divides: a check for zeros would keep the compiler from using vectors.
        options = {"nopython": True, "fastmath": True, "error_model": "numpy"}
        try:
            compiled = cfunc(signature, cache=True, **options)(self.body)
        except (OSError, RuntimeError):  # nowhere to keep it: a disk that is full or not to be written
            compiled = cfunc(signature, **options)(self.body)
        self._compiled[dtype] = compiled.address
        self._kept.append(compiled)
        return int(compiled.address)


def _word(argument: int | Tensor) -> int:
    if isinstance(argument, Tensor):
        if not argument.is_contiguous():
            raise ValueError("A kernel reads memory as it lies: its arrays must be contiguous.")
        return argument.data_ptr()
    return argument


# -- what kernels are written in -------------------------------------------------------------------------------------


@intrinsic
def _bits(context: Any, x: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.int32(types.float32), generate


@intrinsic
def _float(context: Any, x: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), generate


@intrinsic
def _pointer(context: Any, address: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], ir.IntType(8).as_pointer())

    return types.voidptr(types.int64), generate


@intrinsic
def _untyped(context: Any, pointer: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.IntType(8).as_pointer())

    return types.voidptr(pointer), generate


inline = njit(inline="always", fastmath=True, error_model="numpy")


@inline
def words(pointer):
    """The arguments."""
    return carray(_untyped(pointer), 32, np.int64)


@inline
def whole(word, shape):
    """An array of 64-bit integers."""
    return carray(_pointer(word), shape, np.int64)


@inline
def short(word, shape):
    """An array of 32-bit integers."""
    return carray(_pointer(word), shape, np.int32)


def stored(pointer: Any, word: Any, shape: Any) -> Any:
    """An array of stored numbers."""


def real(pointer: Any, word: Any, shape: Any) -> Any:
    """An array of the sums' type."""


def number(pointer: Any, value: Any) -> Any:
    """A number of the sums' type."""


def exp(x: Any) -> Any:
    """The exponential."""


def load(x: Any) -> Any:
    """A stored number as one of the sums' type."""


def store(x: Any, like: Any) -> Any:
    """A number as it is stored."""


def _real(pointer: Any) -> Any:
    return np.float64 if pointer.dtype == types.float64 else np.float32


@overload(stored, inline="always", strict=False)
def _stored(pointer: Any, word: Any, shape: Any) -> Any:
    kind = {types.int16: np.int16, types.float32: np.float32, types.float64: np.float64}[pointer.dtype]
    return lambda pointer, word, shape: carray(_pointer(word), shape, kind)


@overload(real, inline="always", strict=False)
def _real_array(pointer: Any, word: Any, shape: Any) -> Any:
    kind = _real(pointer)
    return lambda pointer, word, shape: carray(_pointer(word), shape, kind)


@overload(number, inline="always", strict=False)
def _number(pointer: Any, value: Any) -> Any:
    kind = _real(pointer)
    return lambda pointer, value: kind(value)


F, I = np.float32, np.int32  # noqa: E741


@inline
def _fast_exp(x):
    """exp in float32 to (2.5 + |x|)·1e-7: 2 to the whole part by its bits, to the fraction by its Taylor series."""
    x = min(max(x, F(-87.0)), F(88.0))
    power = x * F(1.4426950408889634)
    nearest = math.floor(power + F(0.5))
    fraction = F(power - nearest)
    p = F(1.5403530e-4)
    p = p * fraction + F(1.3333558e-3)
    p = p * fraction + F(9.6181291e-3)
    p = p * fraction + F(5.5504109e-2)
    p = p * fraction + F(2.4022651e-1)
    p = p * fraction + F(6.9314718e-1)
    p = p * fraction + F(1.0)
    return p * _float(I((I(nearest) + I(127)) << I(23)))


@overload(exp, inline="always", strict=False)
def _exp(x: Any) -> Any:
    if x == types.float32:
        return lambda x: _fast_exp(x)
    return lambda x: math.exp(x)


@overload(load, inline="always", strict=False)
def _load(x: Any) -> Any:
    if x == types.int16:
        return lambda x: _float(I(x) << I(16))
    return lambda x: x


@inline
def _rounded(x):
    bits = _bits(x)
    return np.int16((bits + I(0x7FFF) + ((bits >> I(16)) & I(1))) >> I(16))


@overload(store, inline="always", strict=False)
def _store(x: Any, like: Any) -> Any:
    if like == types.int16:
        return lambda x, like: _rounded(x)
    return lambda x, like: x


# -- the network -----------------------------------------------------------------------------------------------------


@Kernel
def layer_forward(pointer):
    """Layer norm of swish of (product + bias + skipped), added to what is skipped.

    Words: users, width, whether it is the first layer (which is given by `skipped` alone); product (users, width),
    stored; bias (width,); skipped (users, width), changed; scale and shift of the norm (width,); out: what the way back
    needs, the swish's slope and the normed numbers (2, users, width), stored, and 1/deviation (users,); the
    activations (users, width), stored.
    """
    word = words(pointer)
    users, width, first = word[0], word[1], word[2]
    product = stored(pointer, word[3], (users, width))
    bias, skipped = real(pointer, word[4], (width,)), real(pointer, word[5], (users, width))
    scale, shift = real(pointer, word[6], (width,)), real(pointer, word[7], (width,))
    kept, inverses = stored(pointer, word[8], (2, users, width)), real(pointer, word[9], (users,))
    out = stored(pointer, word[10], (users, width))
    zero, one, eps = number(pointer, 0.0), number(pointer, 1.0), number(pointer, 0.1)
    like = out[0, 0]
    row, slopes = np.empty_like(bias), np.empty_like(bias)
    thread, threads = _thread(), _threads()
    for user in range(thread * users // threads, (thread + 1) * users // threads):
        if first:
            for j in range(width):
                row[j] = skipped[user, j]
        else:
            for j in range(width):
                row[j] = skipped[user, j] + load(product[user, j]) + bias[j]
        total, squares = zero, zero
        for j in range(width):
            x = row[j]
            gate = one / (one + exp(-x))
            slopes[j] = gate * (one + x * (one - gate))
            x *= gate
            row[j] = x
            total += x
            squares += x * x
        mean = total / number(pointer, width)
        inverse = one / math.sqrt(squares / number(pointer, width) - mean * mean + eps)
        inverses[user] = inverse
        for j in range(width):
            kept[0, user, j] = store(slopes[j], like)
        for j in range(width):
            row[j] = (row[j] - mean) * inverse
        for j in range(width):
            kept[1, user, j] = store(row[j], like)
        for j in range(width):
            row[j] = row[j] * scale[j] + shift[j]
        for j in range(width):
            out[user, j] = store(row[j], like)
        if first:
            for j in range(width):
                skipped[user, j] = row[j]
        else:
            for j in range(width):
                skipped[user, j] += row[j]


@Kernel
def layer_backward(pointer):
    """The gradients of `layer_forward`.

    Words: users, width, whether it is the first layer; gradient in the activations but for what was skipped (users,
    width), stored; gradient in what is skipped from here on (users, width), changed to what it is before this layer,
    in the first layer to that in its input; what was kept on the way there, and the scale; out: gradient in the product
    (users, width), stored, and sums over the users of each chunk (CHUNKS, 3, width): gradients of scale, shift, bias.
    """
    word = words(pointer)
    users, width, first = word[0], word[1], word[2]
    given, skipped = stored(pointer, word[3], (users, width)), real(pointer, word[4], (users, width))
    kept, inverses = stored(pointer, word[5], (2, users, width)), real(pointer, word[6], (users,))
    scale, out = real(pointer, word[7], (width,)), stored(pointer, word[8], (users, width))
    sums = real(pointer, word[9], (CHUNKS, 3, width))
    zero, count = number(pointer, 0.0), number(pointer, width)
    like = out[0, 0]
    gradients, normed = np.empty_like(scale), np.empty_like(scale)
    thread, threads = _thread(), _threads()
    for chunk in range(thread * CHUNKS // threads, (thread + 1) * CHUNKS // threads):
        of_scale, of_shift, of_bias = sums[chunk, 0], sums[chunk, 1], sums[chunk, 2]
        for j in range(width):
            of_scale[j] = zero
            of_shift[j] = zero
            of_bias[j] = zero
        for user in range(chunk * users // CHUNKS, (chunk + 1) * users // CHUNKS):
            inverse = inverses[user]
            total, along = zero, zero
            for j in range(width):
                x = load(kept[1, user, j])
                gradient = load(given[user, j]) + skipped[user, j]
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
                gradient = inverse * (gradients[j] - total - normed[j] * along) * load(kept[0, user, j])
                gradients[j] = gradient
                of_bias[j] += gradient
            for j in range(width):
                out[user, j] = store(gradients[j], like)
            if first:
                for j in range(width):
                    skipped[user, j] = gradients[j]
            else:
                for j in range(width):
                    skipped[user, j] += gradients[j]


@Kernel
def sample(pointer):
    """The reparametrization: z = mean + noise × exp(log-variance / 2).

    Words: users, latent, width; product (users, 2 latent), stored, means first, their bias (latent,) and that of the
    log-variances (latent,); noise (users, latent); out: mean, log-variance, z (users, latent), and z as the first
    columns of (users, width), stored.
    """
    word = words(pointer)
    users, latent, width = word[0], word[1], word[2]
    product = stored(pointer, word[3], (users, 2 * latent))
    mean_bias, variance_bias = real(pointer, word[4], (latent,)), real(pointer, word[5], (latent,))
    noise, means = real(pointer, word[6], (users, latent)), real(pointer, word[7], (users, latent))
    log_variances, drawn = real(pointer, word[8], (users, latent)), real(pointer, word[9], (users, latent))
    query = stored(pointer, word[10], (users, width))
    half, like = number(pointer, 0.5), query[0, 0]
    thread, threads = _thread(), _threads()
    for user in range(thread * users // threads, (thread + 1) * users // threads):
        for j in range(latent):
            mean = load(product[user, j]) + mean_bias[j]
            log_variance = load(product[user, latent + j]) + variance_bias[j]
            z = mean + noise[user, j] * exp(half * log_variance)
            means[user, j] = mean
            log_variances[user, j] = log_variance
            drawn[user, j] = z
            query[user, j] = store(z, like)


@njit(fastmath=True, error_model="numpy")
def _prior(drawn, log_variances, noise, old_means, old_variances, numbers, slopes):
    """For some dimensions of a user: the product of the mixture's sums, the other terms of -KL, and its slopes in z."""
    log_standard, log_old, log_wide = numbers[2], numbers[3], numbers[4]
    wide, narrow, root = numbers[5], numbers[6], numbers[7]
    one = narrow / narrow
    half = one / (one + one)
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


@Kernel
def objective(pointer):
    """RecVAE's negative objective (eq. 13) a user and its gradients in mean and log-variance.

    Words: users, latent, width; Σ exp(logit) × row over all items and the user's own rows, both (users, width) with
    the bias behind the row and a one behind that; log-normalizers and numbers of stars (users,); mean, log-variance,
    z and noise (users, latent); mean and log-variance of the old posterior (users, 2 latent); numbers (8,): 1 / users
    of the batch, gamma / users of the batch, the three log-weights of the prior less log √2π, log-variance of the wide
    normal, its precision, log √2π; out: the loss (users,), the gradients (users, 2 latent), stored, and their sums over
    the users of each chunk (CHUNKS, 2 latent).
    """
    word = words(pointer)
    users, latent, width = word[0], word[1], word[2]
    expected, own = real(pointer, word[3], (users, width)), real(pointer, word[4], (users, width))
    normalizers, lengths = real(pointer, word[5], (users,)), real(pointer, word[6], (users,))
    means, log_variances = real(pointer, word[7], (users, latent)), real(pointer, word[8], (users, latent))
    drawn, noise = real(pointer, word[9], (users, latent)), real(pointer, word[10], (users, latent))
    olds, numbers = real(pointer, word[11], (users, 2 * latent)), real(pointer, word[12], (8,))
    losses, out = real(pointer, word[13], (users,)), stored(pointer, word[14], (users, 2 * latent))
    sums = real(pointer, word[15], (CHUNKS, 2 * latent))
    zero, half, like = number(pointer, 0.0), number(pointer, 0.5), out[0, 0]
    share, gamma = numbers[0], numbers[1]
    slopes = np.empty_like(drawn[0])
    thread, threads = _thread(), _threads()
    for chunk in range(thread * CHUNKS // threads, (thread + 1) * CHUNKS // threads):
        total = sums[chunk]
        for j in range(2 * latent):
            total[j] = zero
        for user in range(chunk * users // CHUNKS, (chunk + 1) * users // CHUNKS):
            length = lengths[user]
            kl_weight = gamma * length
            scale = length / expected[user, latent + 1]
            likelihood = own[user, latent] - length * normalizers[user]
            divergence = zero
            old_means, old_variances = olds[user, :latent], olds[user, latent:]
            # The logarithm of each mixture's sum, which is between 1 and 3, is taken once for 64 of them.
            for start in range(0, latent, 64):
                end = min(start + 64, latent)
                product, away = _prior(
                    drawn[user, start:end],
                    log_variances[user, start:end],
                    noise[user, start:end],
                    old_means[start:end],
                    old_variances[start:end],
                    numbers,
                    slopes[start:end],
                )
                divergence -= away + math.log(product)
            for j in range(latent):
                likelihood += own[user, j] * drawn[user, j]
                in_z = share * (scale * expected[user, j] - own[user, j]) - kl_weight * slopes[j]
                slopes[j] = in_z
                out[user, j] = store(in_z, like)
                total[j] += in_z
            for j in range(latent):
                in_variance = half * slopes[j] * (drawn[user, j] - means[user, j]) - half * kl_weight
                out[user, latent + j] = store(in_variance, like)
                total[latent + j] += in_variance
            losses[user] = kl_weight * divergence - share * likelihood


# -- random numbers --------------------------------------------------------------------------------------------------

U = np.uint64


@inline
def _random(key, number):
    """64 random bits: the number-th of SplitMix64 (Steele, Lea & Flood, OOPSLA 2014) that begins at `key`."""
    x = U(key) + (U(number) + U(1)) * U(0x9E3779B97F4A7C15)
    x = (x ^ (x >> U(30))) * U(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> U(27))) * U(0x94D049BB133111EB)
    return x ^ (x >> U(31))


@inline
def _fast_log(x):
    """The natural logarithm in float32, x above 0: of the mantissa, between √½ and √2, by its series in (m-1)/(m+1)."""
    bits = _bits(x)
    power = F((bits >> I(23)) - I(127))
    m = _float(I((bits & I(0x7FFFFF)) | I(0x3F800000)))
    large = m > F(1.4142135)
    m = m * F(0.5) if large else m
    power = power + F(1.0) if large else power
    y = (m - F(1.0)) / (m + F(1.0))
    squared = y * y
    p = F(0.22222222)
    p = p * squared + F(0.28571429)
    p = p * squared + F(0.4)
    p = p * squared + F(0.66666667)
    p = p * squared + F(2.0)
    return power * F(0.6931472) + y * p


@inline
def _two_normals(bits):
    """Two independent standard normal numbers of 64 random bits (Box & Muller 1958), in float32.

    30 bits are the place within a quarter of the circle, 2 bits which quarter, 32 bits the distance.
    """
    chance = (F(I(bits >> U(33))) + F(0.5)) * F(4.656613e-10)
    distance = math.sqrt(F(-2.0) * _fast_log(chance))
    angle = (F(I(bits & U(0x3FFFFFFF))) - F(536870912.0)) * F(1.4629181e-9)
    quarter = I((bits >> U(30)) & U(3))
    squared = angle * angle
    sine = angle * (F(1.0) + squared * (F(-1.6666667e-1) + squared * (F(8.3333310e-3) + squared * F(-1.9840874e-4))))
    cosine = F(1.0) + squared * (
        F(-0.5) + squared * (F(4.1666667e-2) + squared * (F(-1.3888889e-3) + squared * F(2.4801587e-5)))
    )
    turned = (quarter & I(1)) != I(0)
    one, other = (sine, cosine) if turned else (cosine, sine)
    sign = F(-1.0) if quarter >= I(2) else F(1.0)
    other_sign = F(-1.0) if (quarter == I(1)) | (quarter == I(2)) else F(1.0)
    return distance * one * sign, distance * other * other_sign


@njit(fastmath=True, error_model="numpy")  # of its own: within a kernel it gets no vectors
def _normals(key, begin, some, others):
    """Standard normal numbers; the second array may be one shorter."""
    for j in range(len(others)):
        some[j], others[j] = _two_normals(_random(key, begin + j))
    for j in range(len(others), len(some)):
        some[j] = _two_normals(_random(key, begin + j))[0]


@Kernel
def draw(pointer):
    """Bags of some users, what dropout leaves of them, and noise for them.

    The first thread makes the bags, the others the noise, or the only one both.

    Words: users, all users, all stars, stars of these users, size of the noise; a random 64-bit number; what dropout
    hides, in 2^-32; which users (users,); where all users' begin (all users + 1,); all items (all stars,), in 32 bits;
    out: the users' items (stars,), what they weigh (stars,), where each user's begin (users + 1,), their numbers
    (users,); the same of what is kept, but for the numbers; standard normal noise (size,).
    """
    word = words(pointer)
    users, stars, size, key, hidden = word[0], word[3], word[4], U(word[5]), U(word[6])
    thread, threads = _thread(), _threads()
    if thread == 0:
        which, starts, all_items = whole(word[7], (users,)), whole(word[8], (word[1] + 1,)), short(word[9], (word[2],))
        items, weights = whole(word[10], (stars,)), real(pointer, word[11], (stars,))
        offsets, lengths = whole(word[12], (users + 1,)), real(pointer, word[13], (users,))
        kept, kept_weights = whole(word[14], (stars,)), real(pointer, word[15], (stars,))
        kept_offsets = whole(word[16], (users + 1,))
        one = number(pointer, 1.0)
        scale = one / (one - number(pointer, hidden) / number(pointer, 4294967296.0))
        stays = np.empty(stars, np.uint8)
        for star in range(stars):
            stays[star] = (_random(key, star) >> U(32)) >= hidden
        offsets[0] = 0
        kept_offsets[0] = 0
        place, kept_place = 0, 0
        for user in range(users):
            low, high = starts[which[user]], starts[which[user] + 1]
            length = number(pointer, high - low)
            lengths[user] = length
            weight = one / math.sqrt(max(length, one))
            for star in range(low, high):
                item = all_items[star]
                items[place] = item
                weights[place] = weight
                kept[kept_place] = item
                kept_weights[kept_place] = weight * scale
                kept_place += stays[place]
                place += 1
            offsets[user + 1] = place
            kept_offsets[user + 1] = kept_place
    if thread == 0 and threads > 1:
        return
    half = (size + 1) // 2
    noise, many, mine = real(pointer, word[17], (size,)), max(threads - 1, 1), max(thread - 1, 0)
    begin, end = mine * half // many, (mine + 1) * half // many
    # Another stream than that of dropout: from the other end.
    _normals(~key, begin, noise[begin:end], noise[half + begin : half + end])


# -- bags of items ---------------------------------------------------------------------------------------------------


@Kernel
def sums_of_stored_rows(pointer):
    """For each user the sum of the rows of the user's items.

    Words: users, width, rows, stars; items (stars,), where each user's begin (users + 1,); the table (rows, width),
    stored; out: (users, width).
    """
    word = words(pointer)
    users, width, rows, stars = word[0], word[1], word[2], word[3]
    items, offsets = whole(word[4], (stars,)), whole(word[5], (users + 1,))
    table, out = stored(pointer, word[6], (rows, width)), real(pointer, word[7], (users, width))
    row, zero = np.empty_like(out[0]), number(pointer, 0.0)
    thread, threads = _thread(), _threads()
    for user in range(thread, users, threads):
        _zero(row, width, zero)
        low, high = offsets[user], offsets[user + 1]
        fours = low + (high - low) // 4 * 4
        for star in range(low, fours, 4):
            a, b, c, d = items[star], items[star + 1], items[star + 2], items[star + 3]
            for j in range(width):
                row[j] += load(table[a, j]) + load(table[b, j]) + load(table[c, j]) + load(table[d, j])
        for star in range(fours, high):
            a = items[star]
            for j in range(width):
                row[j] += load(table[a, j])
        for j in range(width):
            out[user, j] = row[j]


@inline
def _zero(row, width, zero):
    for j in range(width):
        row[j] = zero


@inline
def _adam(table, first, second, gradient, numbers):
    """One step for one row of a table and of its moments."""
    fresh, keep, size, correction, eps = numbers[0], numbers[1], numbers[2], numbers[3], numbers[4]
    rare = fresh / fresh - keep
    for j in range(len(gradient)):
        g = gradient[j]
        m = first[j] + fresh * (g - first[j])
        v = keep * second[j] + rare * g * g
        first[j] = m
        second[j] = v
        table[j] -= size * m / (math.sqrt(v * correction) + eps)


@Kernel
def adam_of_rows(pointer):
    """Row-wise Adam for a table's rows of which the gradient is a weighted sum of users' rows; see `engine.RowAdam`.

    Words: rows to change, width, rows of the table, users; which rows (rows to change,); where the users of each begin
    (rows to change + 1,); the users (stars,), weights (stars,), the users' gradients (users, width); changed: the table
    (rows of the table, width), its first moments, stored, and its rows' second moments (rows of the table,); numbers
    (5,): 1 - beta1, beta2, step size, 1 / second bias correction, epsilon.
    """
    word = words(pointer)
    count, width, rows, users = word[0], word[1], word[2], word[3]
    which, offsets = whole(word[4], (count,)), whole(word[5], (count + 1,))
    who, weights = whole(word[6], (offsets[count],)), real(pointer, word[7], (offsets[count],))
    gradients, table = real(pointer, word[8], (users, width)), real(pointer, word[9], (rows, width))
    first, second = stored(pointer, word[10], (rows, width)), real(pointer, word[11], (rows,))
    numbers, zero = real(pointer, word[12], (5,)), number(pointer, 0.0)
    fresh, keep, size, correction, eps = numbers[0], numbers[1], numbers[2], numbers[3], numbers[4]
    rare, like = number(pointer, 1.0) - keep, first[0, 0]
    gradient, moment = np.empty_like(gradients[0]), np.empty_like(gradients[0])
    thread, threads = _thread(), _threads()
    for block in range(thread * AT_ONCE, count, threads * AT_ONCE):
        for k in range(block, min(block + AT_ONCE, count)):
            row = which[k]
            _zero(gradient, width, zero)
            low, high = offsets[k], offsets[k + 1]
            twos = low + (high - low) // 2 * 2
            for star in range(low, twos, 2):  # two at once: the sum goes to the cache and back once for them
                user, other = who[star], who[star + 1]
                weight, other_weight = weights[star], weights[star + 1]
                for j in range(width):
                    gradient[j] += weight * gradients[user, j] + other_weight * gradients[other, j]
            for star in range(twos, high):
                user, weight = who[star], weights[star]
                for j in range(width):
                    gradient[j] += weight * gradients[user, j]
            squares = zero
            for j in range(width):
                squares += gradient[j] * gradient[j]
            v = keep * second[row] + rare * squares / number(pointer, width)
            second[row] = v
            step = size / (math.sqrt(v * correction) + eps)
            for j in range(width):
                m = load(first[row, j])
                moment[j] = m + fresh * (gradient[j] - m)
            for j in range(width):
                first[row, j] = store(moment[j], like)
            for j in range(width):
                table[row, j] -= step * moment[j]


@Kernel
def adam_of_parts(pointer):
    """Adam for several parameters at once.

    Words: parts; numbers (5,) as in `adam_of_rows`; for each part (parts, 6): its size and where there lie gradient,
    parameter, its two moments and its copy, which is stored, as gradient and first moment are then. 0 instead of a
    copy: there is none. Parameters and moments are changed, the copy is written.
    """
    word = words(pointer)
    parts, numbers, table = word[0], real(pointer, word[1], (5,)), whole(word[2], (word[0], 6))
    any_part = real(pointer, table[0, 2], (BLOCK,))
    gradients, moments = np.empty_like(any_part), np.empty_like(any_part)
    thread, threads = _thread(), _threads()
    turn = thread
    for part in range(parts):
        count, copied = table[part, 0], table[part, 5] != 0
        weights, second = real(pointer, table[part, 2], (count,)), real(pointer, table[part, 4], (count,))
        given, plain = stored(pointer, table[part, 1], (count,)), real(pointer, table[part, 1], (count,))
        first, plain_first = stored(pointer, table[part, 3], (count,)), real(pointer, table[part, 3], (count,))
        copy = stored(pointer, table[part, 5], (count,))
        like = given[0]
        # Threads take blocks in turn across parts: small parameters would all be the first one's otherwise.
        for start in range(0, count, BLOCK):
            turn -= 1
            if turn >= 0:
                continue
            turn = threads - 1
            end = min(start + BLOCK, count)
            changed = weights[start:end]
            if not copied:
                _adam(changed, plain_first[start:end], second[start:end], plain[start:end], numbers)
                continue
            gradient, moment = gradients[: end - start], moments[: end - start]
            some, kept, out = given[start:end], first[start:end], copy[start:end]
            for j in range(len(gradient)):
                gradient[j] = load(some[j])
            for j in range(len(gradient)):
                moment[j] = load(kept[j])
            _adam(changed, moment, second[start:end], gradient, numbers)
            for j in range(len(gradient)):
                kept[j] = store(moment[j], like)
            for j in range(len(gradient)):
                out[j] = store(changed[j], like)


# -- the softmax over all items ----------------------------------------------------------------------------------------


@Kernel
def exponentials(pointer):
    """exp of each item's logits, in place, and their sums over the items of each chunk.

    Words: items, users; logits (items, users), stored, changed; out: sums (CHUNKS, users).
    """
    word = words(pointer)
    items, users = word[0], word[1]
    logits, sums = stored(pointer, word[2], (items, users)), real(pointer, word[3], (CHUNKS, users))
    zero, like = number(pointer, 0.0), logits[0, 0]
    thread, threads = _thread(), _threads()
    for chunk in range(thread * CHUNKS // threads, (thread + 1) * CHUNKS // threads):
        total = sums[chunk]
        _zero(total, users, zero)
        for item in range(chunk * items // CHUNKS, (chunk + 1) * items // CHUNKS):
            for j in range(users):
                x = exp(load(logits[item, j]))
                logits[item, j] = store(x, like)
                total[j] += x


@Kernel
def output_gradient(pointer):
    """The gradient of the likelihood in the last layer's rows: what the users have less what was expected.

    Words: items, inputs, width, users; what was expected (items, width), stored, the bias's behind the row's; where
    each item's users begin (items + 1,); the users (stars,); their z (users, inputs); the scale (1,); out: gradients
    of weight (items, inputs) and bias (items,).
    """
    word = words(pointer)
    items, inputs, width, users = word[0], word[1], word[2], word[3]
    expected, offsets = stored(pointer, word[4], (items, width)), whole(word[5], (items + 1,))
    who, z = whole(word[6], (offsets[items],)), real(pointer, word[7], (users, inputs))
    scale = real(pointer, word[8], (1,))[0]
    weight, bias = real(pointer, word[9], (items, inputs)), real(pointer, word[10], (items,))
    zero = number(pointer, 0.0)
    row = np.empty_like(z[0])
    thread, threads = _thread(), _threads()
    for block in range(thread * AT_ONCE, items, threads * AT_ONCE):
        for item in range(block, min(block + AT_ONCE, items)):
            _zero(row, inputs, zero)
            for star in range(offsets[item], offsets[item + 1]):
                user = who[star]
                for j in range(inputs):
                    row[j] += z[user, j]
            for j in range(inputs):
                weight[item, j] = scale * row[j] + load(expected[item, j])
            count = number(pointer, offsets[item + 1] - offsets[item])
            bias[item] = scale * count + load(expected[item, inputs])


@Kernel
def turn_around(pointer):
    """Users' items turned around, by counting; it is too little work for more than one thread.

    Words: users, rows, stars; items (stars,); where the users' begin (users + 1,); weights (stars,); out: how many
    rows have users (1,); which (rows,), and where each one's users begin (rows + 1,), of which so many are filled;
    where every row's begin (rows + 1,); users (stars,), ascending for each row; their weights (stars,).
    """
    if _thread() != 0:
        return
    word = words(pointer)
    users, rows, stars = word[0], word[1], word[2]
    items, offsets, weights = whole(word[3], (stars,)), whole(word[4], (users + 1,)), real(pointer, word[5], (stars,))
    found, which, starts = whole(word[6], (1,)), whole(word[7], (rows,)), whole(word[8], (rows + 1,))
    place, who, ordered = whole(word[9], (rows + 1,)), whole(word[10], (stars,)), real(pointer, word[11], (stars,))
    for row in range(rows + 1):
        place[row] = 0
    for star in range(stars):
        place[items[star] + 1] += 1
    count, total = 0, 0
    starts[0] = 0
    for row in range(rows):
        more = place[row + 1]
        place[row + 1] = total
        total += more
        which[count] = row
        count += more > 0
        starts[count] = total
    found[0] = count
    # Each row's place goes from where its users begin to where they end, which is where the next row's begin.
    for user in range(users):
        for star in range(offsets[user], offsets[user + 1]):
            row = items[star] + 1
            who[place[row]] = user
            ordered[place[row]] = weights[star]
            place[row] += 1


@dataclass(frozen=True)
class Turned:
    """Users' items turned around.

    Attributes
    ----------
    found : Tensor of int64, shape (items that have users,)
        Which they are, ascending.
    offsets : Tensor of int64, shape (items that have users + 1,)
        Where each one's users begin.
    of_all : Tensor of int64, shape (rows + 1,)
        Where every item's users begin.
    users : Tensor of int64, shape (stars,)
        Ascending for each item.
    weights : Tensor, shape (stars,)
        In the same order.
    """

    found: Tensor
    offsets: Tensor
    of_all: Tensor
    users: Tensor
    weights: Tensor


def by_item(items: Tensor, offsets: Tensor, weights: Tensor, rows: int) -> Turned:
    """Turn users' items around.

    Parameters
    ----------
    items : Tensor of int64, shape (stars,)
    offsets : Tensor of int64, shape (users + 1,)
        Where each user's begin.
    weights : Tensor, shape (stars,)
    rows : int
        Number of items there are.
    """
    stars = len(items)
    sizes = [1, rows, rows + 1, rows + 1, stars]
    count, found, starts, of_all, users = torch.split(items.new_empty(sum(sizes)), sizes)
    ordered = torch.empty_like(weights)
    turn_around(
        weights.dtype,
        len(offsets) - 1,
        rows,
        stars,
        items,
        offsets,
        weights,
        count,
        found,
        starts,
        of_all,
        users,
        ordered,
    )
    touched = int(count)
    return Turned(found[:touched], starts[: touched + 1], of_all, users, ordered)
