"""The population stability index of binned counts, its noise, and what to think of it. Pure arithmetic.

PSI = sum over bins of (q - p) ln(q / p), for the shares p of a reference and q of what is seen (Siddiqi, *Credit Risk
Scorecards*, 2006): the two Kullback-Leibler divergences added up. Its customary bounds say nothing of sample sizes.
Without any drift n counts against a reference of m give about (1/n + 1/m) times a chi-squared value of B - 1 degrees of
freedom (Yurdakul, *Statistical Properties of Population Stability Index*, 2018). Events come in clusters, a visitor's
resemble one another, which multiplies that by the design effect (Rao and Scott, *Annals of Statistics*, 1984).
"""

from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

WATCH: Final = 0.1
ACT: Final = 0.25
"""Below the first it is fine, up to the second to be watched, above it to be acted on."""

SMOOTHING: Final = 0.5
"""Added to each count, so that an empty bin has a logarithm (Jeffreys' prior)."""

_Z99: Final = 2.3263478740408408  # standard normal, 99 %

Counts = NDArray[np.int64]
Verdict = Literal["fine", "watch", "act", "too few"]


def psi(reference: Counts, seen: Counts) -> float:
    """Of two [B] counts. Symmetric, 0 for equal shares, without a bound above."""
    return float(parts(reference, seen).sum())


def parts(reference: Counts, seen: Counts) -> NDArray[np.float64]:
    """[B] what each bin adds to PSI, 0 at least."""
    p, q = _shares(reference), _shares(seen)
    return np.asarray((q - p) * np.log(q / p), np.float64)


def noise(reference: Counts, seen: Counts, *, effect: float = 1.0) -> float:
    """What PSI stays below in 99 of 100 samples of these sizes that did not drift; infinite for no sample.

    `effect` is the counts' design effect: how many events stand for one independent draw.
    """
    n, m = int(seen.sum()), int(reference.sum())
    if n == 0 or m == 0:
        return float("inf")
    return effect * _chi_squared_99(len(seen) - 1) * (1 / n + 1 / m)


def least(reference: Counts, *, effect: float = 1.0) -> int:
    """How many counts it takes until noise stays below `WATCH`; the largest integer where the reference is short."""
    room = WATCH / (effect * _chi_squared_99(len(reference) - 1)) - 1 / max(int(reference.sum()), 1)
    return int(np.ceil(1 / room)) if room > 0 else int(np.iinfo(np.int64).max)


def verdict(value: float, noise: float) -> Verdict:
    """By the customary bounds; "too few" where as much may come of chance, or chance alone may exceed `ACT`."""
    if noise > ACT or (noise > WATCH and value <= noise):
        return "too few"
    if value < WATCH:
        return "fine"
    return "watch" if value <= ACT else "act"


def design_effect(counts: NDArray[np.int64]) -> float:
    """[clusters, B] counts: the mean generalised design effect of their sum's shares, at least 1.

    Rao and Scott's first-order correction, with the variance of shares as ratios of cluster totals. 1 means that
    events are as good as independent.
    """
    total = counts.sum(axis=0)
    n, bins = int(total.sum()), counts.shape[1]
    held = total > 0
    if n == 0 or held.sum() < 2:
        return 1.0
    p = total / n
    off = counts - counts.sum(axis=1, keepdims=True) * p  # [clusters, B]
    ratio = (off.astype(np.float64) ** 2).sum(axis=0)[held] / n**2 / (p[held] / n)  # (1 - p) times a bin's own effect
    return max(1.0, float(ratio.sum() / (bins - 1)))


def _shares(counts: Counts) -> NDArray[np.float64]:
    smooth = counts + SMOOTHING
    return np.asarray(smooth / smooth.sum(), np.float64)


def _chi_squared_99(degrees: int) -> float:
    """Its 99th percentile, by Wilson and Hilferty's cube (1931): right to 1 % from 2 degrees on."""
    if degrees < 2:
        return 6.6349  # one degree: the square of the normal's 99.5th percentile
    part = 2 / (9 * degrees)
    return float(degrees * (1 - part + _Z99 * np.sqrt(part)) ** 3)
