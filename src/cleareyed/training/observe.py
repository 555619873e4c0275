"""How training tells a person what it is doing."""

from collections.abc import Mapping
from typing import Protocol


class Observer(Protocol):
    def status(self, what: str, done: int, total: int) -> None:
        """`done` of `total` parts of the present work, e.g. ("sample", 12, 64)."""

    def step(self, step: int, total: int, metrics: Mapping[str, float]) -> None:
        """Step `step` of `total` is done and recorded; step 0 is the validation before the first update."""


class Silent:
    """An observer that keeps quiet."""

    def status(self, what: str, done: int, total: int) -> None:
        pass

    def step(self, step: int, total: int, metrics: Mapping[str, float]) -> None:
        pass


silent = Silent()
