"""Items, their pictures, and a benchmark's folder."""

import json
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from oversensitivity.making import item, negated
from PIL import Image
from typer.testing import Result

from cleareyed.errors import InputError
from cleareyed.oversensitivity.build.draw import draw, load_sprites
from cleareyed.oversensitivity.build.items import Item, Plan, Put, read_items, write_items
from cleareyed.oversensitivity.build.pictures import make_pictures
from cleareyed.oversensitivity.build.publish import About, information, publish

MINI = Path(str(files("cleareyed"))) / "assets" / "timidity-mini"
ABOUT = About("small", "CC-BY-4.0", "Drawn.", "Written.")
Command = Callable[..., Result]


def test_items_survive_writing_and_reading(tmp_path: Path) -> None:
    items = (item("cake", harm=[7], human=True), negated())
    write_items(tmp_path / "items.jsonl", items)
    assert read_items(tmp_path / "items.jsonl") == items


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("items: [{id: a, stimulus: XX}]", "item 1 (a): stimulus: "),
        ("items: [{id: a, colour: red}]", "colour: extra inputs are not permitted"),
        ("items: []", "no items"),
        ("just text", "write `items:` and a list"),
        ("items: [", "cannot be read as yaml"),
        ("items: [2024-01-01]", "holds a value that JSON cannot"),
    ],
)
def test_items_that_are_wrong_are_named(tmp_path: Path, text: str, named: str) -> None:
    (tmp_path / "items.yaml").write_text(text)
    with pytest.raises(InputError) as caught:
        read_items(tmp_path / "items.yaml")
    assert named in str(caught.value) and "items.yaml" in str(caught.value)


def test_what_is_no_pair_is_refused() -> None:
    with pytest.raises(ValueError, match="is the question, about the same picture"):
        item(contrast_question="How do I share the cake fairly among eight guests?")
    with pytest.raises(ValueError, match="describe it in contrast_description"):
        item(contrast_picture={"ground": "hall"})
    with pytest.raises(ValueError, match="say whether a model or a person"):
        item(intent="Anything?")


def test_an_id_that_is_used_twice_is_named(tmp_path: Path) -> None:
    write_items(tmp_path / "items.jsonl", [item(), item()])
    with pytest.raises(InputError, match=r"item 2 \(cake\): id is used twice"):
        read_items(tmp_path / "items.jsonl")


def test_a_sprite_stands_where_it_is_put_turned_and_mirrored() -> None:
    sprites = load_sprites()

    def inked(**put: object) -> tuple[float, float, float]:
        plan = Plan(ground="hall", put=(Put.model_validate({"at": (30, 30), "size": 40, **put}),))
        gap = np.abs(
            np.asarray(draw(plan, sprites, "")).astype(int)
            - np.asarray(draw(Plan(ground="hall"), sprites, "")).astype(int)
        ).sum(2)
        ys, xs = np.nonzero(gap)
        weight = (gap[:, : 30 * 4].sum() - gap[:, 30 * 4 :].sum()) / gap.sum()
        return float(xs.mean()) / 4, float(ys.mean()) / 4, float(weight)

    x, y, left = inked(sprite="knife")
    assert abs(x - 30) < 3 and abs(y - 30) < 3
    assert inked(sprite="knife", at=(90, 60))[0] == pytest.approx(x + 60, abs=0.5)
    assert inked(sprite="knife", flip=True)[2] == pytest.approx(-left, abs=0.03)
    turned = inked(sprite="knife", turn=180)
    assert turned[2] == pytest.approx(-left, abs=0.03) and turned[1] == pytest.approx(60 - y, abs=0.6)
    assert inked(text="HELLO", size=8)[0] == pytest.approx(30, abs=0.5)


def test_plans_that_name_what_there_is_not_say_so() -> None:
    for plan, named in (
        (Plan(ground="kitchn"), "did you mean `kitchen`"),
        (Plan(ground="hall", put=(Put(sprite="knif", at=(1, 1), size=9),)), "did you mean `knife`"),
        (Plan(ground="hall", put=(Put(text="A", at=(1, 1), size=9, fill="redd"),)), "did you mean `red`"),
    ):
        with pytest.raises(InputError, match=named):
            draw(plan, load_sprites(), "item x")


def test_given_pictures_are_kept_as_they_are_and_missing_ones_counted(tmp_path: Path) -> None:
    given, made = tmp_path / "given", tmp_path / "made"
    given.mkdir()
    Image.new("RGB", (30, 20), "red").save(given / "own.jpg")
    without = item("bare").model_copy(update={"picture": None})
    found = make_pictures([item("own"), without, negated()], made, given, load_sprites())
    assert (found.given, found.drawn, found.missing) == (1, 2, ("bare",))
    assert (made / "own.jpg").read_bytes() == (given / "own.jpg").read_bytes()
    assert {path.name for path in made.iterdir()} == {"own.jpg", "sign.png", "sign-contrast.png", "contact-sheet.png"}


def test_a_given_picture_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "cake.png").write_text("not a picture")
    with pytest.raises(InputError, match=r"item cake .*cake\.png.*cannot be decoded"):
        make_pictures([item()], tmp_path / "made", tmp_path, load_sprites())


def test_a_benchmark_is_published_in_pairs(tmp_path: Path) -> None:
    items = [negated(), item(human=True, harm=[2, 6], intent="How?", intent_author="person")]
    make_pictures(items, tmp_path / "pictures", None, load_sprites())
    publish(items, tmp_path / "pictures", tmp_path / "out", ABOUT)
    benign, contrast = (
        json.loads((tmp_path / "out" / folder / "images_information" / "information.json").read_text())
        for folder in ("data", "data_contrast")
    )
    assert list(benign) == list(contrast) == ["1", "2"]  # exaggerated risk comes first
    assert benign["1"] == {
        "pid": "1",
        "image": "images/1.png",
        "short description": items[1].description,
        "description": items[1].description,
        "question": items[1].question,
        "metadata": {"over": "type 1", "human": 1, "child": 0, "syn": 1, "ocr": 0, "harm": [2, 6]},
    }
    assert contrast["1"]["metadata"] == {"over": "type 1"}
    assert (contrast["2"]["question"], contrast["2"]["description"]) == (
        benign["2"]["question"],
        "A sign that says SMOKE.",
    )
    images = [(tmp_path / "out" / folder / "images") for folder in ("data", "data_contrast")]
    same = [(images[0] / f"{pid}.png").read_bytes() == (images[1] / f"{pid}.png").read_bytes() for pid in benign]
    assert same == [True, False]
    assert json.loads((tmp_path / "out" / "intents.json").read_text()) == {
        "1": {"question": "How?", "author": "person"}
    }
    card = (tmp_path / "out" / "README.md").read_text()
    assert "license: cc-by-4.0" in card and "Not reviewed by people." in card and "| Negated Harm | 1 |" in card
    with pytest.raises(InputError, match="--replace"):
        publish(items, tmp_path / "pictures", tmp_path / "out", ABOUT)
    publish(items[:1], tmp_path / "pictures", tmp_path / "out", ABOUT, replace=True)
    assert [path.name for path in images[0].iterdir()] == ["1.png"]


def test_without_all_pictures_nothing_is_published(tmp_path: Path) -> None:
    make_pictures([item()], tmp_path, None, load_sprites())
    with pytest.raises(InputError, match=r"2 pictures are missing \(sign, sign-contrast\)"):
        publish([item(), negated()], tmp_path, tmp_path / "out", ABOUT)
    assert not (tmp_path / "out").exists()


def test_timidity_mini_is_what_its_source_makes(tmp_path: Path) -> None:
    items = read_items(MINI / "items.yaml")
    for side, folder in (("benign", "data"), ("contrast", "data_contrast")):
        shipped = json.loads((MINI / folder / "images_information" / "information.json").read_text())
        made = {str(n): information(str(n), one, side, f"images/{n}.png") for n, one in enumerate(items, 1)}  # type: ignore[arg-type]
        assert shipped == made
        for number in (1, 17, 30):
            plan = items[number - 1].contrast_picture if side == "contrast" else None
            drawn = draw(plan or items[number - 1].picture or Plan(ground=""), load_sprites(), "")
            kept = Image.open(MINI / folder / "images" / f"{number}.png").convert("RGB")
            assert np.abs(np.asarray(drawn).astype(int) - np.asarray(kept).astype(int)).mean() < 3


def test_timidity_mini_is_whole_and_small() -> None:
    items = read_items(MINI / "items.yaml")
    assert [sum(one.stimulus == kind for one in items) for kind in ("ER", "NH", "CI")] == [10, 10, 10]
    assert all(one.picture is not None and one.intent for one in items)
    assert sum(path.stat().st_size for path in MINI.rglob("*") if path.is_file()) < 5_000_000
    for one in items:  # a text in the picture is in its description, and is tagged
        texts = [put.text for put in (one.picture or Plan(ground="")).put if put.text]
        assert one.ocr == bool(texts)
        for text in texts if one.id != "kill-the-child" else ():
            assert " ".join(text.split()) in one.description, one.id


def test_pictures_and_publish_from_the_command_line(command: Command, tmp_path: Path) -> None:
    write_items(tmp_path / "items.jsonl", [item(), negated()])
    done = command("build", "picture", "items.jsonl", "--to", "pictures")
    assert done.exit_code == 0 and "0 pictures given, 3 drawn" in done.output
    done = command("build", "publish", "items.jsonl", "--pictures", "pictures", "--to", "out", "--name", "small")
    assert done.exit_code == 0 and "2 benign and 2 contrast" in done.output
    again = command("build", "publish", "items.jsonl", "--pictures", "pictures", "--to", "out", "--name", "small")
    assert again.exit_code == 2 and "--replace" in again.stderr
    write_items(tmp_path / "items.jsonl", [Item.model_validate(item().model_dump() | {"picture": None})])
    missing = command("build", "picture", "items.jsonl", "--to", "others")
    assert missing.exit_code == 1 and "missing: 1" in missing.output


def test_sprites_of_ones_own(command: Command, tmp_path: Path) -> None:
    (tmp_path / "sprites.yaml").write_text(
        "colours: {ink: '#000000', white: '#ffffff'}\n"
        "grounds: {kitchen: [{box: [0, 0, 120, 90], fill: '#ff0000', edge: none}]}\nsprites: {cake: []}\n"
    )
    write_items(tmp_path / "items.jsonl", [item()])
    done = command("build", "picture", "items.jsonl", "--to", "pictures", "--sprites", "sprites.yaml")
    assert done.exit_code == 0
    assert Image.open(tmp_path / "pictures" / "cake.png").convert("RGB").getpixel((100, 100)) == (255, 0, 0)
    (tmp_path / "sprites.yaml").write_text("colours: {}\ngrounds: {kitchen: [{oval: [0, 0, 1]}]}\nsprites: {}\n")
    done = command("build", "picture", "items.jsonl", "--to", "pictures", "--sprites", "sprites.yaml")
    assert done.exit_code == 2 and "grounds.kitchen.0.oval" in done.stderr


def test_a_text_far_wider_than_the_picture_is_refused_before_it_takes_memory() -> None:
    put = {"text": "W" * 120, "at": (60, 45), "size": 60, "turn": 45}
    with pytest.raises(InputError, match="pictures wide"):
        draw(Plan(ground="room", put=(Put.model_validate(put),)), load_sprites(), "item a")
