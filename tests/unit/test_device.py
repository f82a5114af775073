"""Which device a name means."""

import pytest
import torch

from kflm2.device import choose_device
from kflm2.errors import SettingError


@pytest.mark.parametrize("name", ["mps", "meta", "cpu:x", "gpu", ""])
def test_a_device_that_nothing_runs_on_is_refused(name: str) -> None:
    with pytest.raises(SettingError, match=r"unknown device .*; choose auto, cpu, cuda or cuda:N"):
        choose_device(name)


def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(SettingError, match="CUDA devices found; use --device cpu"):
        choose_device("cuda:99")
    assert choose_device("cpu") == torch.device("cpu")
