"""The number format in which a machine multiplies matrices fastest, measured rather than guessed from its name."""

import math
import time
from functools import lru_cache

import torch

from gh_assets.errors import ConfigurationError

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}

MIN_BFLOAT16_GAIN = 1.3
"""Speed-up from which bfloat16 is chosen: it has only 8 bits of mantissa."""


def precision(name: str, device: torch.device) -> torch.dtype:
    """Return the dtype of matrix products.

    Parameters
    ----------
    name : {"auto", "float32", "bfloat16", "float64"}
        "auto" measures float32 and bfloat16 on `device`, once per process. With "bfloat16", sums, weights and optimizer
        states stay in float32; "float64" is for tests.

    Raises
    ------
    ConfigurationError
        If the name is unknown.
    """
    if name == "auto":
        return torch.bfloat16 if _bfloat16_gain(str(device)) >= MIN_BFLOAT16_GAIN else torch.float32
    try:
        return PRECISIONS[name]
    except KeyError:
        raise ConfigurationError(f"The precision {name!r} is none of auto, {', '.join(PRECISIONS)}.") from None


def name_of(dtype: torch.dtype) -> str:
    """Return the name that `precision` takes for a dtype."""
    return next(name for name, known in PRECISIONS.items() if known == dtype)


@lru_cache
def _bfloat16_gain(device: str) -> float:
    """Measure how many times faster a product of training's shape is in bfloat16; about 30 ms on a CPU."""
    pairs = {
        dtype: [torch.ones((512, 512), dtype=dtype, device=device) for _ in range(2)]
        for dtype in (torch.float32, torch.bfloat16)
    }
    best = dict.fromkeys(pairs, math.inf)
    # In turns, and the best of each: other load makes a product slower, never faster.
    for _ in range(10):
        for dtype, (left, right) in pairs.items():
            started = time.perf_counter()
            left @ right
            if left.is_cuda:
                torch.cuda.synchronize(left.device)
            best[dtype] = min(best[dtype], time.perf_counter() - started)
    return best[torch.float32] / best[torch.bfloat16]
