"""Numbers in compiled code: bfloat16, functions with one implementation per type.

See `kernel` for "stored" and "real" numbers.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import overload

from gh_assets.recommender.cpu.compilation import OPTIONS

F, I = np.float32, np.int32  # noqa: E741

inline = njit(forceinline=True, **OPTIONS)


def by_type(implementation: Callable[..., Any]) -> Callable[..., Any]:
    """Make a function of compiled code; `implementation` maps argument types to a body."""

    def function(*arguments: Any) -> Any:
        raise NotImplementedError("Callable from compiled code only.")

    overload(function, jit_options={"forceinline": True, **OPTIONS}, strict=False)(implementation)
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
        return lambda x: I(I(x) << I(16)).view(np.float32)
    return lambda x: x


@inline
def _rounded(x):
    bits = F(x).view(np.int32)
    return np.int16((bits + I(0x7FFF) + ((bits >> I(16)) & I(1))) >> I(16))


@by_type
def store(x, like):
    """Convert a real number to a stored one."""
    if like == types.int16:
        return lambda x, like: _rounded(x)
    return lambda x, like: x


# -- the exponential -------------------------------------------------------------------------------------------------


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
    return p * I(nearest << I(23)).view(np.float32)


@by_type
def exp(x):
    if x == types.float32:
        return lambda x: _fast_exp(x)
    return lambda x: math.exp(x)
