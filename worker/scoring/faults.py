"""What a device's errors mean: too little memory, or a device that computes nothing any more. Knows torch alone."""

from typing import Final

import torch

_OUT_OF_MEMORY: Final = 2
"""cudaErrorMemoryAllocation, which all but torch's own allocator raise as any other error of the device."""

_SHORT: Final = ("DefaultCPUAllocator", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


def exhausted(error: BaseException) -> bool:
    """Whether there was too little memory: a smaller batch may do."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return getattr(error, "error_code", None) == _OUT_OF_MEMORY or any(text in str(error) for text in _SHORT)


def lost(error: BaseException, place: torch.device) -> bool:
    """Whether nothing will compute there any more: what breaks CUDA's context breaks it for the whole process.

    Other errors of a CUDA device, one in a capture for instance, pass; so the device is asked.
    """
    if exhausted(error) or not (isinstance(error, torch.AcceleratorError) or "CUDA error" in str(error)):
        return False
    return not _computes(place)


def _computes(place: torch.device) -> bool:
    if place.type != "cuda":
        return False
    try:
        torch.cuda.synchronize(place)
        torch.zeros(1, device=place).item()
    except RuntimeError as error:
        return exhausted(error)
    return True
