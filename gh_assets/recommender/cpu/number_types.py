"""Numbers in compiled code: bfloat16, functions with one implementation per type, random numbers.

See `kernel` for "stored" and "real" numbers.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import overload

from gh_assets.recommender.cpu.compilation import OPTIONS
from gh_assets.recommender.cpu.llvm_internals import bits_of, float_of

F, I = np.float32, np.int32  # noqa: E741

inline = njit(inline="always", **OPTIONS)


def by_type(implementation: Callable[..., Any]) -> Callable[..., Any]:
    """Make a function of compiled code; `implementation` maps argument types to a body."""

    def function(*arguments: Any) -> Any:
        raise NotImplementedError("Callable from compiled code only.")

    overload(function, inline="always", strict=False)(implementation)
    return function


@by_type
def real_like(array, value):
    """A number in the type of a real array."""
    kind = np.float64 if array.dtype == types.float64 else np.float32
    return lambda array, value: kind(value)


# -- bfloat16 --------------------------------------------------------------------------------------------------------


@by_type
def load(x):
    """Convert a stored number to a real one."""
    if x == types.int16:
        return lambda x: float_of(I(x) << I(16))
    return lambda x: x


@inline
def _rounded(x):
    bits = bits_of(x)
    return np.int16((bits + I(0x7FFF) + ((bits >> I(16)) & I(1))) >> I(16))


@by_type
def store(x, like):
    """Convert a real number to a stored one."""
    if like == types.int16:
        return lambda x, like: _rounded(x)
    return lambda x, like: x


@by_type
def store_upward(x, like):
    """Convert a real number to a stored one, rounded away from zero where it lies halfway between two."""
    if like == types.int16:
        return lambda x, like: np.int16((bits_of(x) + I(0x8000)) >> I(16))
    return lambda x, like: x


# -- functions -------------------------------------------------------------------------------------------------------


@inline
def _fast_exp(x):
    """exp in float32 to (2.5 + |x|)·1e-7: the integer power of 2 by its bits, the fraction by its Taylor series."""
    x = min(max(x, F(-87.0)), F(88.0))
    power = x * F(1.4426950408889634)
    nearest = I(power + F(127.5))  # 127 more, so that it is positive and truncation rounds down
    fraction = power - F(I(nearest - I(127)))
    p = F(1.5403530e-4)
    p = p * fraction + F(1.3333558e-3)
    p = p * fraction + F(9.6181291e-3)
    p = p * fraction + F(5.5504109e-2)
    p = p * fraction + F(2.4022651e-1)
    p = p * fraction + F(6.9314718e-1)
    p = p * fraction + F(1.0)
    return p * float_of(I(nearest << I(23)))


@by_type
def exp(x):
    if x == types.float32:
        return lambda x: _fast_exp(x)
    return lambda x: math.exp(x)


@inline
def fast_log(x):
    """log in float32, x above 0: the mantissa, between √½ and √2, by its series in (m-1)/(m+1)."""
    bits = bits_of(x)
    power = F((bits >> I(23)) - I(127))
    m = float_of(I((bits & I(0x7FFFFF)) | I(0x3F800000)))
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


# -- random numbers --------------------------------------------------------------------------------------------------

U = np.uint64


@inline
def random_bits(key, number):
    """The number-th 64 bits of SplitMix64 (Steele, Lea & Flood, OOPSLA 2014) with the seed `key`."""
    x = U(key) + (U(number) + U(1)) * U(0x9E3779B97F4A7C15)
    x = (x ^ (x >> U(30))) * U(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> U(27))) * U(0x94D049BB133111EB)
    return x ^ (x >> U(31))


@inline
def two_normals(bits):
    """Two independent standard normal numbers from 64 random bits (Box & Muller 1958), in float32.

    30 bits are the angle within a quarter of the circle, 2 bits the quarter, 32 bits the distance.
    """
    chance = (F(I(bits >> U(33))) + F(0.5)) * F(4.656613e-10)
    distance = math.sqrt(F(-2.0) * fast_log(chance))
    angle = (F(I(bits & U(0x3FFFFFFF))) - F(536870912.0)) * F(1.4629181e-9)
    quarter = I((bits >> U(30)) & U(3))
    squared = angle * angle
    sine = angle * (F(1.0) + squared * (F(-1.6666667e-1) + squared * (F(8.3333310e-3) + squared * F(-1.9840874e-4))))
    cosine = F(1.0) + squared * (
        F(-0.5) + squared * (F(4.1666667e-2) + squared * (F(-1.3888889e-3) + squared * F(2.4801587e-5)))
    )
    swapped = (quarter & I(1)) != I(0)
    one, other = (sine, cosine) if swapped else (cosine, sine)
    sign = F(-1.0) if quarter >= I(2) else F(1.0)
    other_sign = F(-1.0) if (quarter == I(1)) | (quarter == I(2)) else F(1.0)
    return distance * one * sign, distance * other * other_sign


@njit(**OPTIONS)  # a function of its own: inlined into a kernel it is not vectorized
def fill_normal(key, begin, some, others):
    """Fill two arrays with standard normal numbers; the second may be one shorter."""
    for j in range(len(others)):
        some[j], others[j] = two_normals(random_bits(key, begin + j))
    for j in range(len(others), len(some)):
        some[j] = two_normals(random_bits(key, begin + j))[0]
