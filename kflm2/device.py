"""Device and number format, chosen in this one place."""

import torch

from kflm2.errors import SettingError


def choose_device(name: str = "auto") -> torch.device:
    """Turn `auto`, `cpu`, `cuda` or `cuda:1` into a device; `auto` takes CUDA where there is one.

    Raises:
        SettingError: not a device, or CUDA is asked for and not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise SettingError(f"unknown device {name!r}; choose auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise SettingError(
            f"device {name!r} is not there: {torch.cuda.device_count()} CUDA devices found; use --device cpu"
        )
    return device


def only_device(device: torch.device) -> torch.device:
    """The device of a stage that transformers' Trainer runs, which takes the first GPU it sees.

    Raises:
        SettingError: it is another.
    """
    if device.index:
        raise SettingError(
            f"device {device}: training takes the first GPU it sees; set CUDA_VISIBLE_DEVICES={device.index} instead"
        )
    return device


def llm_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 on CUDA; float32 elsewhere, where bfloat16 is the slower one."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32
