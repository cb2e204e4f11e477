"""The device that a load test scores on. Knows torch alone."""

from worker.errors import SettingError


def of(name: str) -> str:
    """`cpu` or `cuda` for `--device`; `auto` is CUDA where there is one. Raises `SettingError` where there is none."""
    import torch

    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise SettingError("--device is 'cuda', but torch finds no CUDA device; use 'auto' or 'cpu'")
    return ("cuda" if there else "cpu") if name == "auto" else name


def shown(device: str) -> str:
    """Its name, for people."""
    import torch

    return torch.cuda.get_device_name() if device == "cuda" else "CPU"
