"""The device of a training and the number format of its matrix products, by what the machine can do."""

import llvmlite.binding
import torch

from gh_assets.errors import ConfigurationError

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}

BFLOAT16_FEATURES = ("amx-bf16", "avx512bf16")
"""Instructions for products in bfloat16, as LLVM names them: with any of them they are several times as fast."""


def precision(name: str, device: torch.device) -> torch.dtype:
    """Return the dtype of matrix products.

    Parameters
    ----------
    name : {"auto", "float32", "bfloat16", "float64"}
        "auto" is bfloat16 where the processor or the GPU has instructions for it, else float32. The same machine
        therefore always trains the same model, however busy it is. With "bfloat16", sums, weights and optimizer states
        stay in float32; "float64" is for tests.

    Raises
    ------
    ConfigurationError
        If the name is unknown.
    """
    if name == "auto":
        return torch.bfloat16 if multiplies_bfloat16(device) else torch.float32
    try:
        return PRECISIONS[name]
    except KeyError:
        raise ConfigurationError(f"The precision {name!r} is none of auto, {', '.join(PRECISIONS)}.") from None


def device_of(name: str) -> torch.device:
    """Return the device of a name; "auto" is CUDA's if there is one, else the CPU.

    Raises
    ------
    ConfigurationError
        If there is no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigurationError(f"{name!r} is no device: give auto, cpu, cuda or cuda:1.") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigurationError(f"There is no GPU with CUDA for the device {name!r}: give auto or cpu.")
    return device


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether a device has instructions for matrix products in bfloat16."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    features = llvmlite.binding.get_host_cpu_features()
    return device.type == "cpu" and any(features.get(name) for name in BFLOAT16_FEATURES)


def name_of(dtype: torch.dtype) -> str:
    """Return the name that `precision` takes for a dtype."""
    return next(name for name, known in PRECISIONS.items() if known == dtype)
