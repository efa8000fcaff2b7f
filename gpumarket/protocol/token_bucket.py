"""A token bucket in whole numbers, with the clock passed in, so that limits can be replayed."""

_UNIT = 1_000
"""Tokens are counted in thousandths, so that a millisecond refills a whole number of them."""


class TokenBucket:
    """
    Lets `per_second` tokens through in the long run and `burst` of them at once.

    A cost above what is there is granted as a debt, and the caller is told how long to wait:
    a message longer than the burst still passes, only later.
    """

    def __init__(self, *, per_second: int, burst: int, now_ms: int) -> None:
        if per_second <= 0 or burst <= 0:
            raise ValueError("a bucket needs a positive rate and a positive burst")
        self._per_second = per_second
        self._capacity = burst * _UNIT
        self._level = self._capacity
        self._updated_ms = now_ms

    def take(self, cost: int, *, now_ms: int) -> int:
        """Take `cost` tokens, in debt if need be; returns the milliseconds to wait, 0 for none."""
        self._refill(now_ms)
        self._level -= cost * _UNIT
        return 0 if self._level >= 0 else -(self._level // self._per_second)

    def try_take(self, cost: int, *, now_ms: int) -> bool:
        """Take `cost` tokens only if they are there; returns whether they were."""
        self._refill(now_ms)
        if self._level < cost * _UNIT:
            return False
        self._level -= cost * _UNIT
        return True

    def is_full(self, *, now_ms: int) -> bool:
        """Whether nothing of what was taken is still owed, so that the bucket can be forgotten."""
        self._refill(now_ms)
        return self._level >= self._capacity

    def _refill(self, now_ms: int) -> None:
        elapsed_ms = max(0, now_ms - self._updated_ms)
        self._updated_ms = max(self._updated_ms, now_ms)
        self._level = min(self._capacity, self._level + elapsed_ms * self._per_second)
