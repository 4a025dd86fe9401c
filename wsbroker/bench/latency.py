"""A histogram of durations, whose size does not depend on how many are counted."""

from typing import Final


class Histogram:
    """Counts durations in nanoseconds with an error of at most 1.6 %: 64 steps for each power of two."""

    STEP_BITS: Final = 6

    def __init__(self) -> None:
        self.counts = [0] * (64 << self.STEP_BITS)
        self.total = 0
        self.highest = 0

    def add_duration(self, value: int, times: int = 1) -> None:
        """Counts a duration in nanoseconds; a negative duration, after a clock was set back, counts as 0."""
        if value > self.highest:
            self.highest = value
        elif value < 0:
            value = 0
        exponent = max(value.bit_length() - self.STEP_BITS - 1, 0)
        self.counts[(exponent << self.STEP_BITS) + (value >> exponent)] += times
        self.total += times

    def percentile_ns(self, percent: float) -> float:
        """Returns the nanoseconds that `percent` of the durations do not exceed; 0 if there are none."""
        wanted = self.total * percent / 100
        seen = 0
        for index, count in enumerate(self.counts):
            seen += count
            if count and seen >= wanted:
                exponent = max((index >> self.STEP_BITS) - 1, 0)
                low = index - (exponent << self.STEP_BITS) << exponent
                return float(min(low + (1 << exponent) // 2, self.highest))
        return float(self.highest)

    def summary_us(self) -> dict[str, float]:
        """Returns p50, p90, p99, p99.9 and max by name, in microseconds."""
        points = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99.9": 99.9}
        summary = {name: round(self.percentile_ns(percent) / 1000, 1) for name, percent in points.items()}
        return {**summary, "max": round(self.highest / 1000, 1)}
