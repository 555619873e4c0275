"""The world of scenes: objects on a floor of ten by ten cells, seen by a camera.

A place on the floor is (x, z): x counts cells from left to right, z from near to far, both in 0..10. The camera
stands in front of the floor, looks at its middle and does not turn, so x is also the order in the image.
"""

import math
from dataclasses import dataclass

import numpy as np

COLOURS = ("red", "green", "blue", "yellow", "purple", "orange", "cyan", "white")
SHAPES = ("cube", "ball", "cone", "cylinder", "ring")
PLURALS = {"cube": "cubes", "ball": "balls", "cone": "cones", "cylinder": "cylinders", "ring": "rings"}
RADII = {"small": 0.72, "large": 0.98}  # cells
CELLS = 10
COLUMNS = "abcdefghij"
SIDE = 96  # pixels of the square image

HELD_OUT = frozenset((colour, SHAPES[i % len(SHAPES)]) for i, colour in enumerate(COLOURS))
"""Pairs of colour and shape that only the bench shows: one for each colour."""
TRAIN_PAIRS = tuple((c, s) for c in COLOURS for s in SHAPES if (c, s) not in HELD_OUT)
BENCH_PAIRS = tuple(sorted(HELD_OUT))

CLEARANCE = 0.9
"""Two objects' discs in the image are at least this share of the sum of their radii apart: hardly any occlusion."""


@dataclass(frozen=True)
class Thing:
    """One object: what it looks like and where it stands."""

    colour: str
    shape: str
    size: str
    x: float  # cells, 0 (left) to 10 (right)
    z: float  # cells, 0 (near) to 10 (far)

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"

    @property
    def cell(self) -> tuple[int, int]:
        return int(self.x), int(self.z)

    @property
    def column(self) -> str:
        """The cell's column as a letter, a (left) to j (right), as on a chess board."""
        return COLUMNS[int(self.x)]

    @property
    def row(self) -> str:
        """The cell's row as a digit, 0 (near) to 9 (far)."""
        return str(int(self.z))

    @property
    def place(self) -> str:
        return f"{self.column} {self.row}"


@dataclass(frozen=True)
class Camera:
    """A pinhole camera over the middle of the floor, looking at the floor's centre."""

    height: float  # cells above the floor
    distance: float  # cells in front of the floor's near edge
    shift: tuple[float, float]  # pixels by which the whole image is moved

    @property
    def pitch(self) -> float:
        return math.atan2(self.height, self.distance + CELLS / 2)

    @property
    def focal(self) -> float:
        """Pixels; set so that the floor's near edge spans 84 of the image's 96 pixels."""
        depth = self.height * math.sin(self.pitch) + self.distance * math.cos(self.pitch)
        return 84 * depth / CELLS

    def project(self, x: float, y: float, z: float) -> tuple[float, float, float]:
        """Image column and row in pixels, and pixels per cell, of a point `y` cells above place (x, z)."""
        down, ahead = self.height - y, self.distance + z
        depth = down * math.sin(self.pitch) + ahead * math.cos(self.pitch)
        rise = down * math.cos(self.pitch) - ahead * math.sin(self.pitch)
        scale = self.focal / depth
        return SIDE / 2 + self.shift[0] + scale * (x - CELLS / 2), SIDE / 2 + self.shift[1] + scale * rise, scale

    def range_to(self, thing: Thing) -> float:
        """Distance in cells from the camera to the middle of an object."""
        return math.hypot(thing.x - CELLS / 2, self.distance + thing.z, self.height - RADII[thing.size])


@dataclass(frozen=True)
class Scene:
    """Everything that a picture shows."""

    things: tuple[Thing, ...]
    camera: Camera
    floor: tuple[int, int, int]  # RGB
    wall: tuple[int, int, int]  # RGB
    lines: bool  # whether the floor shows a faint grid


@dataclass(frozen=True)
class Kind:
    """What distinguishes the scenes of one split from another's."""

    things: tuple[int, int]  # fewest and most objects
    heights: tuple[float, float]
    distances: tuple[float, float]
    brightness: tuple[int, int]
    lines: bool
    held_out: float  # share of objects drawn from the held-out pairs


TRAIN = Kind(
    things=(3, 6), heights=(19.0, 25.0), distances=(11.0, 15.0), brightness=(140, 225), lines=False, held_out=0.0
)
BENCH = Kind(
    things=(4, 7), heights=(25.5, 28.0), distances=(15.5, 18.0), brightness=(110, 138), lines=True, held_out=0.4
)


def draw_looks(
    rng: np.random.Generator, kind: Kind, count: int, repeat: str | None, times: int
) -> list[tuple[str, str]]:
    """Colour and shape of `count` objects, all different pairs but where `repeat` has to occur `times` times.

    `repeat` is a colour or a shape that exactly `times` objects have; None leaves all pairs different and free.
    """
    looks: list[tuple[str, str]] = []
    while len(looks) < count:
        pairs = BENCH_PAIRS if rng.random() < kind.held_out else TRAIN_PAIRS
        look = pairs[rng.integers(len(pairs))]
        if look in looks:
            continue
        if repeat is not None and (repeat in look) != (len(looks) < times):
            continue
        looks.append(look)
    return looks


def draw_scene(rng: np.random.Generator, kind: Kind, repeat: str | None = None, times: int = 0) -> Scene:
    """A random scene in which no two objects look alike and none hides another."""
    low, high = kind.things
    count = max(int(rng.integers(low, high + 1)), times)
    looks = draw_looks(rng, kind, count, repeat, times)
    camera = Camera(
        height=float(rng.uniform(*kind.heights)),
        distance=float(rng.uniform(*kind.distances)),
        shift=(float(rng.uniform(-2, 2)), float(rng.uniform(0, 4))),
    )
    order = rng.permutation(count)
    things: list[Thing] = []
    discs: list[tuple[float, float, float]] = []
    while len(things) < count:
        colour, shape = looks[order[len(things)]]
        size = "small" if rng.random() < 0.5 else "large"
        thing = Thing(colour, shape, size, float(rng.uniform(0.4, 9.6)), float(rng.uniform(0.2, 9.8)))
        column, row, scale = camera.project(thing.x, RADII[size], thing.z)
        radius = scale * RADII[size]
        if all(math.hypot(column - c, row - r) >= CLEARANCE * (radius + o) for c, r, o in discs):
            things.append(thing)
            discs.append((column, row, radius))
    base = int(rng.integers(*kind.brightness))
    floor = tuple(int(np.clip(base + d, 0, 255)) for d in rng.integers(-14, 15, 3))
    wall = tuple(int(np.clip(base * 0.72 + d, 0, 255)) for d in rng.integers(-20, 21, 3))
    return Scene(tuple(things), camera, (floor[0], floor[1], floor[2]), (wall[0], wall[1], wall[2]), kind.lines)
