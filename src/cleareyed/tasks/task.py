"""What is asked: samples, and the task that holds them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

from PIL import Image

MISSING = "missing"
"""The column of a sample that cannot be asked, because a picture of it is not there: says which."""

LoadImage = Callable[[], Image.Image]
"""Gives an RGB image when called. Pictures are loaded (or rendered) when needed, never kept in a sample."""


@dataclass(frozen=True)
class Sample:
    """One question about zero or more images, with its gold answer."""

    id: str
    """Unique within the task and stable over time."""
    question: str
    """The text asked, choices included where the task asks with choices."""
    answer: str
    """The gold answer; equal to one of `choices` if there are any."""
    choices: tuple[str, ...] = ()
    """The candidate answers, in the order of their letters A, B, ...; empty for an open question."""
    images: tuple[LoadImage, ...] = ()
    skill: str = ""
    """The part of the task this sample counts towards ("Count", "Depth", ...); empty if the task has one part."""
    group: str = ""
    """Samples with the same group are resampled together in intervals; empty means the sample stands alone."""
    columns: Mapping[str, Any] = field(default_factory=dict)
    """Further columns of the data row, handed to reward functions by name."""

    @property
    def missing(self) -> str:
        """Why the sample cannot be asked; empty if it can. It stays in its task, so that it is counted."""
        return str(self.columns.get(MISSING) or "")


@dataclass(frozen=True)
class Task:
    """A set of samples, defined once for evaluation and as an environment for reinforcement."""

    name: str
    samples: Sequence[Sample]
    """May be lazy: items are made when indexed, and the same index always gives the same sample."""
    rule: str = "strict"
    """The accuracy rule this task is judged by unless a recipe names another (`cleareyed.scoring.rules`)."""


@dataclass(frozen=True)
class Made(Sequence[Sample]):
    """Samples that are made when they are indexed, and not kept."""

    size: int
    make: Callable[[int], Sample]
    """The sample at an index in 0..size-1, always the same."""

    def __len__(self) -> int:
        return self.size

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        places = range(self.size)[index]
        return self.make(places) if isinstance(places, int) else [self.make(place) for place in places]
