"""How far a measured share may be from the true one."""

from __future__ import annotations

from math import sqrt

Z95 = 1.959963984540054  # the 97.5 % quantile of the normal distribution


def wilson(right: float, n: int, z: float = Z95) -> tuple[float, float]:
    """Wilson's score interval of a share: ``right`` successes among ``n`` trials, both ends in [0, 1]. Raises
    ValueError: ``n`` below 1, or ``right`` outside [0, n]."""
    if n < 1 or not 0 <= right <= n:
        raise ValueError(f"a share needs 0 <= right <= n and n >= 1, got right={right}, n={n}")
    share, weight = right / n, z * z / n
    middle = (share + weight / 2) / (1 + weight)
    half = z * sqrt(share * (1 - share) / n + weight / n / 4) / (1 + weight)
    # Rounding would leave the ends of 0 and n successes just beside 0 and 1.
    low = 0.0 if right == 0 else max(0.0, middle - half)
    high = 1.0 if right == n else min(1.0, middle + half)
    return low, high
