"""Choice of the device and of the floating-point format."""

from typing import Literal

import torch

from kflm2.errors import SettingError

Precision = Literal["auto", "float32", "mixed", "bfloat16"]


def choose_device(name: str = "auto") -> torch.device:
    """Turn `auto`, `cpu`, `cuda` or `cuda:1` into a device; `auto` is CUDA where it is available.

    Raises:
        SettingError: not a device, or a CUDA device that is not available.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device: torch.device | None = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise SettingError(f"unknown device {name!r}; choose auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise SettingError(
            f"device {name!r} is not there: {torch.cuda.device_count()} CUDA devices found; use --device cpu"
        )
    return device


def only_device(device: torch.device) -> torch.device:
    """Check the device of a stage that uses transformers' Trainer, which always takes the first visible GPU.

    Raises:
        SettingError: it is another GPU.
    """
    if device.index:
        raise SettingError(
            f"device {device}: training takes the first GPU it sees; set CUDA_VISIBLE_DEVICES={device.index} instead"
        )
    return device


def llm_dtype(device: torch.device) -> torch.dtype:
    """Of an LLM that is trained or prompted: bfloat16 on CUDA, float32 elsewhere."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def choose_precision(name: Precision, device: torch.device) -> Precision:
    """Turn the precision `auto` of hidden states into the fastest one that is accurate on the device.

    Returns:
        float32; bfloat16, on CUDA; mixed, on a CPU with instructions for bfloat16: linear maps in bfloat16, all else in
        float32. With all in bfloat16 the states would lose accuracy that a CPU need not lose.
    """
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bfloat16"
    # torch before 2.9 cannot tell
    has = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return "mixed" if has.get("avx512_bf16") or has.get("amx_bf16") else "float32"
