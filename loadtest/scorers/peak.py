"""What the device can do at most: a large matrix product, in the precision that is compared with it."""

import time
from typing import Final

import torch

_SIDES: Final = {"cpu": (256, 512, 1024, 2048), "cuda": (8192,)}
_PRODUCT_S: Final = 0.2
"""Larger ones are tried as long as one takes less: without bfloat16 of its own a processor may take a minute."""
_AT_ONCE: Final = {"cpu": 1, "cuda": 16}
"""Products between two waits: after each a device would stand still until it hears of the next."""


class Peak:
    """Takes turns like a scorer."""

    def __init__(self, *, dtype: torch.dtype, device: torch.device) -> None:
        self._at_once = _AT_ONCE[device.type]
        for side in _SIDES[device.type]:
            self._left = torch.randn(side, side, dtype=dtype, device=device)
            self._right = torch.randn(side, side, dtype=dtype, device=device)
            self._product = torch.empty_like(self._left)
            self._flops = 2.0 * side**3
            if 8 * self._flops / self.rate(0.05) > _PRODUCT_S:
                break

    def rate(self, seconds: float) -> float:
        """Floating-point operations a second, over about so long."""
        done, begin = 0, time.perf_counter()
        with torch.inference_mode():
            while True:
                for _ in range(self._at_once):
                    torch.matmul(self._left, self._right.T, out=self._product)  # as a layer's weights lie
                float(self._product[0, 0])  # waits for the device
                done += self._at_once
                took = time.perf_counter() - begin
                if took >= seconds:
                    return done * self._flops / took
