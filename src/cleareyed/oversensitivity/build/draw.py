"""Pictures composed from sprites of our own (`sprites.yaml`): flat shapes, drawn large and scaled down."""

import math
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import yaml
from PIL import Image, ImageDraw, ImageFont
from pydantic import Field, model_validator

from cleareyed.errors import InputError
from cleareyed.oversensitivity.build.items import Number, Plan, Point, Put, checked
from cleareyed.recipe import Strict
from cleareyed.tasks.names import unknown

WIDTH, HEIGHT = 120, 90
"""Of a ground, in its own units."""
SCALE = 4
"""Pixels a unit: pictures are 480 x 360."""
OVERSAMPLING = 3
WIDEST_TEXT = 3
"""A text may be so many times as wide as the picture; a wider one would take gigabytes to turn, and shows nothing."""
COLOURS = 96
"""Of the palette that a picture is stored with: flat shapes need few."""
FONT = "DejaVuSans-Bold.ttf"
SIDE = 100
"""Of a sprite's box, in its own units."""
STEPS = 10
"""Pieces of a smooth curve between two of its points."""

Points = list[tuple[float, float]]
Box = tuple[Number, Number, Number, Number]


class Shape(Strict):
    """One shape of a sprite; exactly one of the first five is given."""

    oval: Box | None = None
    box: Box | None = None
    poly: tuple[Point, ...] | None = None
    blob: tuple[Point, ...] | None = None
    line: tuple[Point, ...] | None = None
    round: Annotated[float, Field(ge=0)] = 0.0
    """A box's corners."""
    smooth: bool = False
    """A line through its points in curves."""
    fill: str = "white"
    edge: str = "ink"
    w: Annotated[float, Field(gt=0)] = 1.6

    @model_validator(mode="after")
    def _one_kind(self) -> "Shape":
        given = [name for name in ("oval", "box", "poly", "blob", "line") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError("give exactly one of oval, box, poly, blob, line")
        return self

    def points(self) -> Points:
        """Its outline, in the sprite's units."""
        if self.oval is not None:
            return _arc(self.oval, 0, 360, 64)
        if self.box is not None:
            return _rounded(self.box, self.round)
        if self.blob is not None:
            return _curve(self.blob, closed=True)
        if self.line is not None:
            return _curve(self.line, closed=False) if self.smooth else list(self.line)
        return list(self.poly or ())


class Sprites(Strict):
    """Everything that pictures are made of."""

    colours: dict[str, str]
    grounds: dict[str, tuple[Shape, ...]]
    sprites: dict[str, tuple[Shape, ...]]


def load_sprites(path: Path | None = None) -> Sprites:
    """Our sprites, or those of another file of the same form. InputError naming what is wrong with it."""
    return _shipped() if path is None else _parsed(path.read_text(encoding="utf-8"), str(path))


def draw(plan: Plan, sprites: Sprites, where: str) -> Image.Image:
    """The picture (RGB, 480 x 360). InputError: a ground, sprite or colour that there is none of."""
    scale = SCALE * OVERSAMPLING
    image = Image.new("RGB", (WIDTH * scale, HEIGHT * scale), "white")
    pen = ImageDraw.Draw(image)
    for shape in _named(sprites.grounds, plan.ground, "ground", where):
        _draw_shape(pen, shape, [(x * scale, y * scale) for x, y in shape.points()], scale, sprites, where)
    for put in plan.put:
        if put.sprite is not None:
            unit = put.size / SIDE * scale
            for shape in _named(sprites.sprites, put.sprite, "sprite", where):
                _draw_shape(pen, shape, _placed(shape.points(), put, scale), unit, sprites, where)
        else:
            _draw_text(image, put, scale, sprites, where)
    return image.reduce(OVERSAMPLING)


def save_picture(image: Image.Image, path: Path) -> None:
    """As a PNG with a palette: some ten kilobytes."""
    palette = image.quantize(COLOURS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    path.parent.mkdir(parents=True, exist_ok=True)
    palette.save(path, optimize=True)


def contact_sheet(pictures: Sequence[tuple[str, Image.Image]], columns: int = 6, side: int = 240) -> Image.Image:
    """All pictures with their names on one page."""
    rows = math.ceil(len(pictures) / columns)
    cell = (side, side * HEIGHT // WIDTH + 16)
    page = Image.new("RGB", (columns * cell[0], max(rows, 1) * cell[1]), "white")
    pen = ImageDraw.Draw(page)
    for place, (name, picture) in enumerate(pictures):
        x, y = place % columns * cell[0], place // columns * cell[1]
        small = picture.copy()
        small.thumbnail((cell[0] - 6, cell[1] - 18))
        page.paste(small, (x + 3, y + 2))
        pen.text((x + 4, y + cell[1] - 15), name, fill="black", font=_font(11))
    return page


@cache
def _shipped() -> Sprites:
    return _parsed(files("cleareyed.oversensitivity.build").joinpath("sprites.yaml").read_text("utf-8"), "sprites")


def _parsed(text: str, where: str) -> Sprites:
    try:
        held = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        raise InputError(f"{where}: not YAML ({' '.join(str(error).split())})") from None
    return checked(Sprites, held, where)


def _named(of: dict[str, tuple[Shape, ...]], name: str, what: str, where: str) -> tuple[Shape, ...]:
    if name not in of:
        raise InputError(f"{where}: {unknown(what, name, sorted(of))}")
    return of[name]


def _colour(name: str, sprites: Sprites, where: str) -> str | None:
    if name == "none":
        return None
    if name in sprites.colours:
        return sprites.colours[name]
    if len(name) == 7 and name.startswith("#"):
        return name
    raise InputError(f"{where}: {unknown('colour', name, sorted(sprites.colours))}")


def _placed(points: Points, put: Put, scale: float) -> Points:
    """From the sprite's box to the picture's pixels: mirrored, turned about the middle, scaled, moved."""
    unit, turn = put.size / SIDE, math.radians(put.turn)
    sine, cosine = math.sin(turn), math.cos(turn)
    placed = []
    for x, y in points:
        dx, dy = (x - SIDE / 2) * (-unit if put.flip else unit), (y - SIDE / 2) * unit
        across, down = put.at[0] + dx * cosine - dy * sine, put.at[1] + dx * sine + dy * cosine
        placed.append((across * scale, down * scale))
    return placed


def _draw_shape(pen: Any, shape: Shape, points: Points, unit: float, sprites: Sprites, where: str) -> None:
    fill, edge = _colour(shape.fill, sprites, where), _colour(shape.edge, sprites, where)
    width = max(1, round(shape.w * unit))
    if shape.line is None:
        if fill is not None:
            pen.polygon(points, fill=fill)
        points = [*points, *points[:2]]
    if edge is not None:
        pen.line(points, fill=edge, width=width, joint="curve")
        if shape.line is not None:
            for x, y in (points[0], points[-1]):
                pen.circle((x, y), (width - 1) / 2, fill=edge)


def _draw_text(image: Image.Image, put: Put, scale: float, sprites: Sprites, where: str) -> None:
    font, colour = _font(round(put.size * scale)), _colour(put.fill or "ink", sprites, where)
    text, spacing = str(put.text), put.size * scale * 0.18
    pen = ImageDraw.Draw(image)
    left, top, right, bottom = pen.multiline_textbbox((0, 0), text, font=font, spacing=spacing, align="center")
    size = (math.ceil(right - left) + 4, math.ceil(bottom - top) + 4)
    if max(size) > WIDEST_TEXT * image.width:
        raise InputError(
            f"{where}: text `{text[:20]}...` is {max(size) // image.width} pictures wide; make it smaller"
        )
    mask = Image.new("L", size, 0)
    ImageDraw.Draw(mask).multiline_text(
        (2 - left, 2 - top), text, fill=255, font=font, spacing=spacing, align="center"
    )
    if put.turn:
        mask = mask.rotate(-put.turn, resample=Image.Resampling.BICUBIC, expand=True)
    corner = (round(put.at[0] * scale - mask.width / 2), round(put.at[1] * scale - mask.height / 2))
    image.paste(Image.new("RGB", mask.size, colour or "black"), corner, mask)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans Bold, which comes with matplotlib (free licence)."""
    from matplotlib import get_data_path

    return ImageFont.truetype(str(Path(get_data_path()) / "fonts" / "ttf" / FONT), size)


def _arc(box: Sequence[float], start: float, end: float, pieces: int) -> Points:
    x0, y0, x1, y1 = box
    middle, half = ((x0 + x1) / 2, (y0 + y1) / 2), ((x1 - x0) / 2, (y1 - y0) / 2)
    angles = [math.radians(start + (end - start) * piece / pieces) for piece in range(pieces)]
    return [(middle[0] + half[0] * math.cos(a), middle[1] + half[1] * math.sin(a)) for a in angles]


def _rounded(box: Sequence[float], r: float) -> Points:
    x0, y0, x1, y1 = box
    if not r:
        return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
    r = min(r, (x1 - x0) / 2, (y1 - y0) / 2)
    corners = (
        (x1 - 2 * r, y0, x1, y0 + 2 * r, -90),
        (x1 - 2 * r, y1 - 2 * r, x1, y1, 0),
        (x0, y1 - 2 * r, x0 + 2 * r, y1, 90),
        (x0, y0, x0 + 2 * r, y0 + 2 * r, 180),
    )
    return [point for *corner, start in corners for point in _arc(corner, start, start + 90, 8)]


def _curve(points: Sequence[tuple[float, float]], closed: bool) -> Points:
    """A Catmull-Rom spline through the points."""
    n, curve = len(points), []
    for i in range(n if closed else n - 1):
        near = [j % n if closed else min(max(j, 0), n - 1) for j in range(i - 1, i + 3)]
        (ax, ay), (bx, by), (cx, cy), (dx, dy) = (points[j] for j in near)
        for step in range(STEPS):
            t = step / STEPS
            curve.append((_spline(ax, bx, cx, dx, t), _spline(ay, by, cy, dy, t)))
    return curve if closed else [*curve, points[-1]]


def _spline(a: float, b: float, c: float, d: float, t: float) -> float:
    return 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
