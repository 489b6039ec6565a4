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
from functools import cache
from typing import Any

import llvmlite.binding
import numpy as np
import torch
from llvmlite import ir
from numba import carray, cfunc, njit, types
from numba.extending import intrinsic, overload
from numpy.typing import NDArray
from torch import Tensor

CHUNKS = 32
"""Parts of a batch whose sums are added in the same order whatever the number of threads."""

SMALLEST, LARGEST = 1e-30, 1e37
"""Between them, a sum of exponentials is right: beyond, one of them may have been cut off (see `exp`) or lost."""

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
        parallel, barrier = library.GOMP_parallel, library.GOMP_barrier
        number, count = library.omp_get_thread_num, library.omp_get_num_threads
    except (OSError, AttributeError):
        return None
    if "OpenMP" not in torch.__config__.parallel_info() or torch.version.hip is not None:
        return None
    parallel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    parallel.restype = None
    functions = {"gh_assets_thread": number, "gh_assets_threads": count, "gh_assets_barrier": barrier}
    for name, function in functions.items():
        address = ctypes.cast(function, ctypes.c_void_p).value
        llvmlite.binding.add_symbol(name, address)
    return parallel


_thread = types.ExternalFunction("gh_assets_thread", types.int32())
_threads = types.ExternalFunction("gh_assets_threads", types.int32())
_barrier = types.ExternalFunction("gh_assets_barrier", types.void())

STORED = {torch.bfloat16: types.int16, torch.float32: types.float32, torch.float64: types.float64}


class Bound:
    """A kernel with its arguments, to be run again and again: what they point to may change, where it is may not.

    Binding once is worth it: by the time that a training is back at a kernel, the processor's caches have forgotten
    the interpreter, and a call with ten arguments takes a tenth of a millisecond.

    Attributes
    ----------
    words : ndarray of int64
        The arguments; a number among them may be changed from run to run.
    """

    def __init__(self, address: int, arguments: tuple[int | Tensor, ...]) -> None:
        self.words: NDArray[np.int64] = np.array([_word(argument) for argument in arguments], np.int64)
        self.address, self.pointer = address, self.words.ctypes.data
        self._kept: tuple[object, ...] = arguments
        self._parallel, self._threads = _openmp(), torch.get_num_threads

    def __call__(self) -> None:
        self._parallel(self.address, self.pointer, self._threads(), 0)

    def keep(self, what: tuple[object, ...]) -> None:
        """As long as this is kept."""
        self._kept += what


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

    def bound(self, dtype: torch.dtype, *arguments: int | Tensor) -> Bound:
        """It with its arguments."""
        _openmp()  # before compiling: it also tells the compiler where OpenMP's functions are
        return Bound(self._compiled.get(dtype) or self._compile(dtype), arguments)

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


@intrinsic
def _fetch(context: Any, address: Any) -> Any:
    """Have a cache line brought here, for it will be read soon."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        byte, flag = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, flag, flag, flag])
        function = builder.module.declare_intrinsic("llvm.prefetch.p0", (), kind)
        builder.call(function, [builder.inttoptr(arguments[0], byte), flag(0), flag(3), flag(1)])
        return context.get_dummy_value()

    return types.void(types.int64), generate


@intrinsic
def _call(context: Any, address: Any, pointer: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        byte = ir.IntType(8).as_pointer()
        kernel = builder.inttoptr(arguments[0], ir.FunctionType(ir.VoidType(), [byte]).as_pointer())
        builder.call(kernel, [builder.inttoptr(arguments[1], byte)])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


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


def halved(pointer: Any, word: Any, rows: Any, width: Any) -> Any:
    """A table whose rows lie in two halves, (rows, 2, width), or whole, (rows, 1, width); see `halve`."""


def joined(upper: Any, lower: Any, j: Any) -> Any:
    """A number of which these are the halves."""


def upper_half(x: Any, like: Any) -> Any:
    """A number as it is stored, if that is rounded."""


def lower_half(x: Any, like: Any) -> Any:
    """What was rounded away."""


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
    nearest = I(power + F(127.5))  # and 127 more: above zero, where cutting off is rounding down
    fraction = power - F(I(nearest - I(127)))
    p = F(1.5403530e-4)
    p = p * fraction + F(1.3333558e-3)
    p = p * fraction + F(9.6181291e-3)
    p = p * fraction + F(5.5504109e-2)
    p = p * fraction + F(2.4022651e-1)
    p = p * fraction + F(6.9314718e-1)
    p = p * fraction + F(1.0)
    return p * _float(I(nearest << I(23)))


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


@overload(halved, inline="always", strict=False)
def _halved(pointer: Any, word: Any, rows: Any, width: Any) -> Any:
    parts = 2 if pointer.dtype == types.int16 else 1
    return lambda pointer, word, rows, width: stored(pointer, word, (rows, parts, width))


@overload(joined, inline="always", strict=False)
def _joined(upper: Any, lower: Any, j: Any) -> Any:
    if upper.dtype == types.int16:
        return lambda upper, lower, j: _float(I((I(upper[j]) << I(16)) + I(lower[j])))
    return lambda upper, lower, j: upper[j]


@inline
def _upper(bits):
    return I((bits + I(0x8000)) >> I(16))


@overload(upper_half, inline="always", strict=False)
def _upper_half(x: Any, like: Any) -> Any:
    if like == types.int16:
        return lambda x, like: np.int16(_upper(_bits(x)))
    return lambda x, like: x


@overload(lower_half, inline="always", strict=False)
def _lower_half(x: Any, like: Any) -> Any:
    if like == types.int16:
        return lambda x, like: np.int16(_bits(x) - (_upper(_bits(x)) << I(16)))
    return lambda x, like: x


# -- what several of them do -----------------------------------------------------------------------------------------


@inline
def _zero(row, width, zero):
    for j in range(width):
        row[j] = zero


@inline
def _sum_of_rows(row, table, items, low, high, width, zero):
    """Into `row`, the sum of the rows of some items of a stored table."""
    _zero(row, width, zero)
    fours = low + (high - low) // 4 * 4
    for star in range(low, fours, 4):  # four at once: the sum goes to the cache and back once for them
        a, b, c, d = items[star], items[star + 1], items[star + 2], items[star + 3]
        for j in range(width):
            row[j] += load(table[a, j]) + load(table[b, j]) + load(table[c, j]) + load(table[d, j])
    for star in range(fours, high):
        a = items[star]
        for j in range(width):
            row[j] += load(table[a, j])


@Kernel
def one_after_the_other(pointer):
    """Several kernels. Words: how many; for each, where its function and its arguments are."""
    word = words(pointer)
    for place in range(word[0]):
        if place > 0:
            _barrier()
        _call(word[1 + 2 * place], word[2 + 2 * place])


def together(*kernels: Bound) -> Bound:
    """Several kernels as one: the threads are called once, and wait for one another between them."""
    every = [word for kernel in kernels for word in (kernel.address, kernel.pointer)]
    whole = one_after_the_other.bound(torch.float32, len(kernels), *every)
    whole.keep(kernels)
    return whole


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

    Words: users, width, whether it is the first layer, whether the last; gradient in the activations but for what was
    skipped (users, width), stored; gradient in what is skipped from here on (users, width), none in the last layer,
    changed to what it is before this layer, in the first layer to that in its input; what was kept on the way there,
    and the scale; out: gradient in the product (users, width), stored, and sums over the users of each chunk
    (CHUNKS, 3, width): gradients of scale, shift, bias.
    """
    word = words(pointer)
    users, width, first, last = word[0], word[1], word[2], word[3]
    given, skipped = stored(pointer, word[4], (users, width)), real(pointer, word[5], (users, width))
    kept, inverses = stored(pointer, word[6], (2, users, width)), real(pointer, word[7], (users,))
    scale, out = real(pointer, word[8], (width,)), stored(pointer, word[9], (users, width))
    sums = real(pointer, word[10], (CHUNKS, 3, width))
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
            if last:
                _zero(skipped[user], width, zero)
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


@Kernel
def sample_again(pointer):
    """The reparametrization from posteriors that are known.

    Words: users, latent; mean and log-variance (users, 2 latent); noise (users, latent); out: z (users, latent), and
    its transpose (latent, users), stored.
    """
    word = words(pointer)
    users, latent = word[0], word[1]
    posteriors, noise = real(pointer, word[2], (users, 2 * latent)), real(pointer, word[3], (users, latent))
    drawn, turned = real(pointer, word[4], (users, latent)), stored(pointer, word[5], (latent, users))
    half, like = number(pointer, 0.5), turned[0, 0]
    thread, threads = _thread(), _threads()
    low, high = thread * users // threads, (thread + 1) * users // threads
    for user in range(low, high):
        for j in range(latent):
            drawn[user, j] = posteriors[user, j] + noise[user, j] * exp(half * posteriors[user, latent + j])
    for j in range(latent):
        for user in range(low, high):
            turned[j, user] = store(drawn[user, j], like)


@Kernel
def add_chunks(pointer):
    """Sums over chunks: too little work for more than one thread.

    Words: tables, their size; the tables of each chunk (tables, CHUNKS, size); out: (tables, size).
    """
    if _thread() != 0:
        return
    word = words(pointer)
    tables, size = word[0], word[1]
    parts, out = real(pointer, word[2], (tables, CHUNKS, size)), real(pointer, word[3], (tables, size))
    for table in range(tables):
        _zero(out[table], size, number(pointer, 0.0))
        for chunk in range(CHUNKS):
            for j in range(size):
                out[table, j] += parts[table, chunk, j]


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

    Words: users, latent, width, rows, stars, blocks; the last layer's table (rows, width), stored, the bias behind the
    row and a one behind that; items (stars,), where each user's begin (users + 1,); Σ exp(logit - shift) × row over the
    items of each block (blocks, users, width), stored; shifts and numbers of stars (users,); mean, log-variance, z and
    noise (users, latent); mean and log-variance of the old posterior (users, 2 latent); numbers (8,): 1 / users of the
    batch, gamma / users of the batch, the three log-weights of the prior less log √2π, log-variance of the wide normal,
    its precision, log √2π; out: the loss (users,), the gradients (users, 2 latent), stored, and over the users of each
    chunk: their sums (CHUNKS, 2 latent), and how many have a normalizer that is no good (CHUNKS,), see `LARGEST`.
    """
    word = words(pointer)
    users, latent, width, rows, stars, blocks = word[0], word[1], word[2], word[3], word[4], word[5]
    table, items = stored(pointer, word[6], (rows, width)), whole(word[7], (stars,))
    offsets, parts = whole(word[8], (users + 1,)), stored(pointer, word[9], (blocks, users, width))
    shifts, lengths = real(pointer, word[10], (users,)), real(pointer, word[11], (users,))
    means, log_variances = real(pointer, word[12], (users, latent)), real(pointer, word[13], (users, latent))
    drawn, noise = real(pointer, word[14], (users, latent)), real(pointer, word[15], (users, latent))
    olds, numbers = real(pointer, word[16], (users, 2 * latent)), real(pointer, word[17], (8,))
    losses, out = real(pointer, word[18], (users,)), stored(pointer, word[19], (users, 2 * latent))
    sums, useless = real(pointer, word[20], (CHUNKS, 2 * latent)), real(pointer, word[21], (CHUNKS,))
    zero, half, like = number(pointer, 0.0), number(pointer, 0.5), out[0, 0]
    share, gamma = numbers[0], numbers[1]
    slopes, own, expected = np.empty_like(drawn[0]), np.empty(width, drawn.dtype), np.empty(width, drawn.dtype)
    thread, threads = _thread(), _threads()
    for chunk in range(thread * CHUNKS // threads, (thread + 1) * CHUNKS // threads):
        total = sums[chunk]
        _zero(total, 2 * latent, zero)
        useless[chunk] = zero
        for user in range(chunk * users // CHUNKS, (chunk + 1) * users // CHUNKS):
            _sum_of_rows(own, table, items, offsets[user], offsets[user + 1], width, zero)
            _zero(expected, width, zero)
            for block in range(blocks):
                for j in range(width):
                    expected[j] += load(parts[block, user, j])
            length, normalizer = lengths[user], expected[latent + 1]
            if not (SMALLEST < normalizer < LARGEST):
                useless[chunk] += share / share
            kl_weight = gamma * length
            scale = length / normalizer
            likelihood = own[latent] - length * (math.log(normalizer) + shifts[user])
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
                likelihood += own[j] * drawn[user, j]
                in_z = share * (scale * expected[j] - own[j]) - kl_weight * slopes[j]
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

    Words: users, all users, all stars, size of the noise; a random 64-bit number; what dropout hides, in 2^-32; which
    users (users,); where all users' begin (all users + 1,); all items (all stars,), in 32 bits; out: the users' items
    (stars,), what they weigh (stars,), where each user's begin (users + 1,), their numbers (users,); the same
    of what is kept, but for the numbers; standard normal noise (size,).
    """
    word = words(pointer)
    users, size, key, hidden = word[0], word[3], U(word[4]), U(word[5])
    thread, threads = _thread(), _threads()
    if thread == 0:
        which, starts, all_items = whole(word[6], (users,)), whole(word[7], (word[1] + 1,)), short(word[8], (word[2],))
        stars = 0
        for user in range(users):
            stars += starts[which[user] + 1] - starts[which[user]]
        items, weights = whole(word[9], (stars,)), real(pointer, word[10], (stars,))
        offsets, lengths = whole(word[11], (users + 1,)), real(pointer, word[12], (users,))
        kept, kept_weights = whole(word[13], (stars,)), real(pointer, word[14], (stars,))
        kept_offsets = whole(word[15], (users + 1,))
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
    noise, many, mine = real(pointer, word[16], (size,)), max(threads - 1, 1), max(thread - 1, 0)
    begin, end = mine * half // many, (mine + 1) * half // many
    # Another stream than that of dropout: from the other end.
    _normals(~key, begin, noise[begin:end], noise[half + begin : half + end])


# -- bags of items ---------------------------------------------------------------------------------------------------


@Kernel
def sums_of_halved_rows(pointer):
    """For each user a row and the weighted sum of the rows of the user's items, of their upper halves alone.

    Words: users, width, rows; items (stars,), weights (stars,), where each user's begin (users + 1,); the row to begin
    with (width,); the table (rows, width), in halves; out: (users, width).
    """
    word = words(pointer)
    users, width, rows = word[0], word[1], word[2]
    offsets, start = whole(word[5], (users + 1,)), real(pointer, word[6], (width,))
    stars = offsets[users]
    items, weights = whole(word[3], (stars,)), real(pointer, word[4], (stars,))
    table, out = halved(pointer, word[7], rows, width), real(pointer, word[8], (users, width))
    row, size = np.empty_like(start), table.strides[0]
    thread, threads = _thread(), _threads()
    for user in range(thread * users // threads, (thread + 1) * users // threads):
        for j in range(width):
            row[j] = start[j]
        low, high = offsets[user], offsets[user + 1]
        fours = low + (high - low) // 4 * 4
        for star in range(low, fours, 4):
            for following in range(star + 4, min(star + 8, stars)):
                address = word[7] + items[following] * size
                for line in range(address, address + size // table.shape[1], 64):
                    _fetch(line)
            a, b = table[items[star], 0], table[items[star + 1], 0]
            c, d = table[items[star + 2], 0], table[items[star + 3], 0]
            u, v, w, x = weights[star], weights[star + 1], weights[star + 2], weights[star + 3]
            for j in range(width):
                row[j] += u * load(a[j]) + v * load(b[j]) + w * load(c[j]) + x * load(d[j])
        for star in range(fours, high):
            a, u = table[items[star], 0], weights[star]
            for j in range(width):
                row[j] += u * load(a[j])
        for j in range(width):
            out[user, j] = row[j]


@Kernel
def halve(pointer):
    """Lay each row of a table down in two halves, in its own place.

    The first half is the row in stored numbers, which is all that a sum reads; the second one is what was rounded away.
    Both together are the row, to the last bit.

    Words: rows, width; the table (rows, width), changed.
    """
    word = words(pointer)
    rows, width = word[0], word[1]
    table, halves = real(pointer, word[2], (rows, width)), halved(pointer, word[2], rows, width)
    thread, threads = _thread(), _threads()
    row, like = np.empty_like(table[0]), halves[0, 0, 0]
    for place in range(thread * rows // threads, (thread + 1) * rows // threads):
        for j in range(width):
            row[j] = table[place, j]
        for j in range(width):
            halves[place, 0, j] = upper_half(row[j], like)
        for j in range(width):
            halves[place, -1, j] = lower_half(row[j], like)


@Kernel
def join(pointer):
    """Undo `halve`."""
    word = words(pointer)
    rows, width = word[0], word[1]
    table, halves = real(pointer, word[2], (rows, width)), halved(pointer, word[2], rows, width)
    thread, threads = _thread(), _threads()
    row = np.empty_like(table[0])
    for place in range(thread * rows // threads, (thread + 1) * rows // threads):
        for j in range(width):
            row[j] = joined(halves[place, 0], halves[place, -1], j)
        for j in range(width):
            table[place, j] = row[j]


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


@inline
def _adam_of_row(upper, lower, first, gradient, moment, second, width, numbers):
    """One step for one row of a table, in halves, of its first moments, stored, and its second moment, given back.

    Where the gradient was, there is the changed row.
    """
    fresh, keep, size, correction, eps = numbers[0], numbers[1], numbers[2], numbers[3], numbers[4]
    one, squares = fresh / fresh, fresh - fresh
    for j in range(len(gradient)):
        squares += gradient[j] * gradient[j]
    v = keep * second + (one - keep) * squares / width
    step = size / (math.sqrt(v * correction) + eps)
    for j in range(len(gradient)):
        m = load(first[j])
        moment[j] = m + fresh * (gradient[j] - m)
    for j in range(len(gradient)):
        first[j] = store(moment[j], first[0])
    for j in range(len(gradient)):
        gradient[j] = joined(upper, lower, j) - step * moment[j]
    for j in range(len(gradient)):
        upper[j] = upper_half(gradient[j], upper[0])
    for j in range(len(gradient)):
        lower[j] = lower_half(gradient[j], lower[0])
    return v


@Kernel
def adam_of_rows(pointer):
    """Row-wise Adam for a table's rows of which the gradient is a weighted sum of users' rows; see `engine.RowAdam`.

    Words: how many rows to change (1,), width, rows of the table, users; which rows (rows to change,); where the users
    of each begin (rows to change + 1,); the users (stars,), weights (stars,), the users' gradients (users, width);
    changed: the table (rows of the table, width), in halves, its first moments, stored, and its rows' second moments
    (rows of the table,); numbers (5,): 1 - beta1, beta2, step size, 1 / second bias correction, epsilon.
    """
    word = words(pointer)
    count, width, rows, users = whole(word[0], (1,))[0], word[1], word[2], word[3]
    which, offsets = whole(word[4], (count,)), whole(word[5], (count + 1,))
    who, weights = whole(word[6], (offsets[count],)), real(pointer, word[7], (offsets[count],))
    gradients, table = real(pointer, word[8], (users, width)), halved(pointer, word[9], rows, width)
    first, second = stored(pointer, word[10], (rows, width)), real(pointer, word[11], (rows,))
    numbers, zero = real(pointer, word[12], (5,)), number(pointer, 0.0)
    gradient, moment = np.empty_like(gradients[0]), np.empty_like(gradients[0])
    size = number(pointer, width)
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
            second[row] = _adam_of_row(
                table[row, 0], table[row, -1], first[row], gradient, moment, second[row], size, numbers
            )


@Kernel
def adam_of_parts(pointer):
    """Adam for several parameters at once, row-wise for those whose gradient is stored.

    Words: parts; numbers (5,) as in `adam_of_rows`; for each part (parts, 7): its rows and width, and where there lie
    gradient, parameter, its two moments and its copy. With a copy, which is stored, gradient and first moments are too,
    and there is one second moment a row. 0 instead of a copy: there is none. Parameters and moments are changed, the
    copy is written.
    """
    word = words(pointer)
    parts, numbers, table = word[0], real(pointer, word[1], (5,)), whole(word[2], (word[0], 7))
    thread, threads = _thread(), _threads()
    for part in range(parts):
        rows, width, copied = table[part, 0], table[part, 1], table[part, 6] != 0
        weights, copy = real(pointer, table[part, 3], (rows, width)), stored(pointer, table[part, 6], (rows, width))
        given, plain = stored(pointer, table[part, 2], (rows, width)), real(pointer, table[part, 2], (rows, width))
        first, plain_first = (
            stored(pointer, table[part, 4], (rows, width)),
            real(pointer, table[part, 4], (rows, width)),
        )
        second, plain_second = real(pointer, table[part, 5], (rows,)), real(pointer, table[part, 5], (rows, width))
        if not copied:
            if part % threads == thread:  # each a whole thread's, and by turns: they are small
                for row in range(rows):
                    _adam(weights[row], plain_first[row], plain_second[row], plain[row], numbers)
            continue
        gradient, moment, like = np.empty_like(weights[0]), np.empty_like(weights[0]), given[0, 0]
        size = number(pointer, width)
        for row in range(thread * rows // threads, (thread + 1) * rows // threads):
            for j in range(width):
                gradient[j] = load(given[row, j])
            second[row] = _adam_of_row(
                weights[row], weights[row], first[row], gradient, moment, second[row], size, numbers
            )
            for j in range(width):
                copy[row, j] = store(gradient[j], like)


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
def exponential(pointer):
    """exp of many numbers, in place. Words: how many; they (count,), stored."""
    word = words(pointer)
    count, numbers = word[0], stored(pointer, word[1], (word[0],))
    like = numbers[0]
    thread, threads = _thread(), _threads()
    part = numbers[thread * count // threads : (thread + 1) * count // threads]
    for j in range(len(part)):
        part[j] = store(exp(load(part[j])), like)


@Kernel
def weigh(pointer):
    """What items' exponentials are multiplied with for the likelihood's gradient in the last layer's rows.

    Words: users, inputs, width; sums of exponentials (CHUNKS, users); numbers of stars (users,); z (users, inputs); the
    scale (1,); out: normalizers (users,); z × -scale × stars / normalizer (users, width), stored, the factor behind it.
    """
    word = words(pointer)
    users, inputs, width = word[0], word[1], word[2]
    sums, lengths = real(pointer, word[3], (CHUNKS, users)), real(pointer, word[4], (users,))
    z, scale = real(pointer, word[5], (users, inputs)), real(pointer, word[6], (1,))[0]
    normalizers, out = real(pointer, word[7], (users,)), stored(pointer, word[8], (users, width))
    zero, like = number(pointer, 0.0), out[0, 0]
    thread, threads = _thread(), _threads()
    for user in range(thread * users // threads, (thread + 1) * users // threads):
        normalizer = zero
        for chunk in range(CHUNKS):
            normalizer += sums[chunk, user]
        normalizers[user] = normalizer
        factor = -scale * lengths[user] / normalizer
        for j in range(inputs):
            out[user, j] = store(z[user, j] * factor, like)
        out[user, inputs] = store(factor, like)
        for j in range(inputs + 1, width):
            out[user, j] = store(zero, like)


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
def adam_of_output(pointer):
    """Adam for the last layer, and its table anew.

    Words: items, inputs, width; gradients of weight (items, inputs) and bias (items,); changed: the weight and its two
    moments (items, inputs), the bias and its two (items,); numbers (5,) as in `adam_of_rows`; out: the table (items,
    width), stored, of which the first columns are the weight and the next one is the bias.
    """
    word = words(pointer)
    items, inputs, width, shape = word[0], word[1], word[2], (word[0], word[1])
    gradient, bias_gradient = real(pointer, word[3], shape), real(pointer, word[4], (items,))
    weight, first, second = real(pointer, word[5], shape), real(pointer, word[6], shape), real(pointer, word[7], shape)
    bias, bias_first = real(pointer, word[8], (items,)), real(pointer, word[9], (items,))
    bias_second, numbers = real(pointer, word[10], (items,)), real(pointer, word[11], (5,))
    table = stored(pointer, word[12], (items, width))
    like = table[0, 0]
    thread, threads = _thread(), _threads()
    low, high = thread * items // threads, (thread + 1) * items // threads
    _adam(bias[low:high], bias_first[low:high], bias_second[low:high], bias_gradient[low:high], numbers)
    for item in range(low, high):
        changed = weight[item]
        _adam(changed, first[item], second[item], gradient[item], numbers)
        for j in range(inputs):
            table[item, j] = store(changed[j], like)
        table[item, inputs] = store(bias[item], like)


@Kernel
def turn_around(pointer):
    """Users' items turned around, by counting; it is too little work for more than one thread.

    Words: users, rows; items (stars,); where the users' begin (users + 1,), the first one's not at 0 if there are other
    users before; weights (stars,); out: how many rows have users (1,); which (rows,), and where each one's users begin
    (rows + 1,), of which so many are filled; where every row's begin (rows + 1,); users (stars,), ascending for each
    row; their weights (stars,).
    """
    if _thread() != 0:
        return
    word = words(pointer)
    users, rows = word[0], word[1]
    offsets = whole(word[3], (users + 1,))
    begin, stars = offsets[0], offsets[users]
    items, weights = whole(word[2], (stars,)), real(pointer, word[4], (stars,))
    found, which, starts = whole(word[5], (1,)), whole(word[6], (rows,)), whole(word[7], (rows + 1,))
    place, who, ordered = whole(word[8], (rows + 1,)), whole(word[9], (stars,)), real(pointer, word[10], (stars,))
    for row in range(rows + 1):
        place[row] = 0
    for star in range(begin, stars):
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
