"""Pictures of scenes, drawn at three times the size and averaged down."""

from PIL import Image, ImageDraw

from cleareyed.tasks.scenes.world import CELLS, RADII, SIDE, Scene, Thing

OVER = 3
RGB = {
    "red": (214, 39, 40),
    "green": (34, 150, 60),
    "blue": (40, 80, 220),
    "yellow": (245, 220, 40),
    "purple": (140, 50, 170),
    "orange": (250, 130, 20),
    "cyan": (40, 210, 220),
    "white": (250, 250, 250),
}
Colour = tuple[int, int, int]


def _shade(colour: Colour, factor: float) -> Colour:
    return (
        min(255, int(colour[0] * factor)),
        min(255, int(colour[1] * factor)),
        min(255, int(colour[2] * factor)),
    )


def _box(column: float, row: float, half_width: float, half_height: float) -> tuple[float, float, float, float]:
    return column - half_width, row - half_height, column + half_width, row + half_height


def _draw_thing(draw: ImageDraw.ImageDraw, thing: Thing, column: float, row: float, radius: float) -> None:
    """Draw an object whose middle projects to (column, row) with `radius`, all in large pixels."""
    body = RGB[thing.colour]
    light, dark, edge = _shade(body, 1.25), _shade(body, 0.72), _shade(body, 0.45)
    flat = 0.38  # how far circles on the floor are squeezed
    r = radius
    draw.ellipse(_box(column + 0.2 * r, row + 0.8 * r, 1.05 * r, 0.5 * r), fill=(70, 70, 70))
    if thing.shape == "ball":
        draw.ellipse(_box(column, row, r, r), fill=body, outline=edge, width=2)
        draw.ellipse(_box(column - 0.32 * r, row - 0.36 * r, 0.3 * r, 0.24 * r), fill=light)
    elif thing.shape == "cube":
        s = 0.86 * r
        draw.rectangle((column - s, row - 0.35 * r, column + s, row + s), fill=body, outline=edge, width=2)
        top = [(column - s, row - 0.35 * r), (column - 0.62 * s, row - r), (column + 0.62 * s, row - r)]
        draw.polygon([*top, (column + s, row - 0.35 * r)], fill=light, outline=edge, width=2)
    elif thing.shape == "cone":
        draw.ellipse(_box(column, row + 0.6 * r, r, flat * r), fill=dark, outline=edge, width=2)
        draw.polygon([(column - r, row + 0.6 * r), (column, row - 1.15 * r), (column + r, row + 0.6 * r)], fill=body)
        draw.line(
            [(column - r, row + 0.6 * r), (column, row - 1.15 * r), (column + r, row + 0.6 * r)], fill=edge, width=2
        )
    elif thing.shape == "cylinder":
        w = 0.6 * r
        draw.ellipse(_box(column, row + 0.85 * r, w, 0.26 * r), fill=body, outline=edge, width=2)
        draw.rectangle((column - w, row - 0.95 * r, column + w, row + 0.85 * r), fill=body)
        for side in (-w, w):
            draw.line([(column + side, row - 0.95 * r), (column + side, row + 0.85 * r)], fill=edge, width=2)
        draw.ellipse(_box(column, row - 0.95 * r, w, 0.26 * r), fill=light, outline=edge, width=2)
    else:
        width = max(3, round(0.42 * r))
        draw.ellipse(_box(column, row, r, r), outline=edge, width=width)
        draw.ellipse(_box(column, row, r - 2, r - 2), outline=body, width=width - 3)


def render(scene: Scene) -> Image.Image:
    """An RGB picture of SIDE x SIDE pixels; far objects are drawn first."""
    big = SIDE * OVER
    image = Image.new("RGB", (big, big), scene.wall)
    draw = ImageDraw.Draw(image)
    project = scene.camera.project

    def corner(x: float, z: float) -> tuple[float, float]:
        column, row, _ = project(x, 0.0, z)
        return column * OVER, row * OVER

    edge = 0.8
    far = CELLS + edge
    draw.polygon([corner(-edge, -edge), corner(-edge, far), corner(far, far), corner(far, -edge)], fill=scene.floor)
    if scene.lines:
        for k in range(0, CELLS + 1, 2):
            draw.line([corner(k, -edge), corner(k, far)], fill=_shade(scene.floor, 0.9), width=2)
            draw.line([corner(-edge, k), corner(far, k)], fill=_shade(scene.floor, 0.9), width=2)
    for thing in sorted(scene.things, key=lambda t: -t.z):
        column, row, scale = project(thing.x, RADII[thing.size], thing.z)
        _draw_thing(draw, thing, column * OVER, row * OVER, scale * RADII[thing.size] * OVER)
    return image.reduce(OVER)
