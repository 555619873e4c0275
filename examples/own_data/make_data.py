"""Draw a small data set of your own: pictures of a few shapes, and a JSONL file with questions about them.

    python examples/own_data/make_data.py [FOLDER]

FOLDER (default: `data` beside this file) then holds `train.jsonl`, `val.jsonl` and `images/`. Only Pillow is needed.
"""

import json
import random
import sys
from pathlib import Path

from PIL import Image, ImageDraw

COLOURS = {"red": "#d62728", "blue": "#1f77b4", "green": "#2ca02c", "yellow": "#e7c000", "purple": "#7b3fa0"}
SHAPES = ("circle", "square")
SIDE = 96
RADIUS = 11


def draw(things: list[tuple[str, str, int, int]]) -> Image.Image:
    image = Image.new("RGB", (SIDE, SIDE), "#dcdcdc")
    pen = ImageDraw.Draw(image)
    for colour, shape, x, y in things:
        box = (x - RADIUS, y - RADIUS, x + RADIUS, y + RADIUS)
        (pen.ellipse if shape == "circle" else pen.rectangle)(box, fill=COLOURS[colour])
    return image


def row(rng: random.Random, image: str) -> tuple[dict[str, object], Image.Image]:
    """One question with its picture: two or three shapes of different colours, side by side."""
    colours = rng.sample(sorted(COLOURS), rng.choice((2, 3)))
    step = SIDE // len(colours)
    things = [
        (colour, rng.choice(SHAPES), step * place + step // 2, rng.randint(RADIUS + 4, SIDE - RADIUS - 4))
        for place, colour in enumerate(colours)
    ]
    if rng.random() < 0.5:
        first, second = rng.sample(range(len(things)), 2)
        question = f"Is the {colours[first]} shape left or right of the {colours[second]} shape?"
        answer, choices, skill = ("left" if first < second else "right"), ["left", "right"], "Relation"
    else:
        shape = rng.choice(SHAPES)
        question = f"How many {shape}s are in the image?"
        answer, choices, skill = str(sum(thing[1] == shape for thing in things)), ["0", "1", "2", "3"], "Count"
    data = {"image": image, "question": question, "answer": answer, "choices": choices, "skill": skill}
    return data | {"colours": colours}, draw(things)


def main(folder: Path) -> None:
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for split, number, seed in (("train", 48, 1), ("val", 24, 2)):
        rng = random.Random(seed)
        lines = []
        for index in range(number):
            data, image = row(rng, f"images/{split}-{index:03d}.png")
            image.save(folder / str(data["image"]))
            lines.append(json.dumps(data))
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"wrote {folder / 'train.jsonl'} and {folder / 'val.jsonl'}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "data")
