from PIL import Image

from cleareyed.tasks.pictures import GREY, PICTURES, with_pictures
from cleareyed.tasks.task import MISSING, Sample, Task

COLUMNS = {"description": " A toy knife. "}
TOYS = Sample("1", "What now?", "play", images=(lambda: Image.new("RGB", (5, 3), "red"),), columns=COLUMNS)
TASK = Task("toys", [TOYS, Sample("2", "Why?", "so", images=TOYS.images)])


def test_a_blank_picture_has_the_size_of_the_samples_own() -> None:
    blank = with_pictures(TASK, "blank").samples[0]
    picture = blank.images[0]()
    assert picture.size == (5, 3) and picture.getcolors() == [(15, GREY)]
    assert (blank.id, blank.question, blank.answer) == ("1", "What now?", "play")


def test_a_description_stands_before_the_question_and_no_picture() -> None:
    described, alone = (with_pictures(TASK, kind).samples[0] for kind in ("description", "none"))  # type: ignore[arg-type]
    assert (described.question, described.images) == ("A toy knife. What now?", ())
    assert (alone.question, alone.images) == ("What now?", ())
    assert with_pictures(TASK, "own") is TASK
    assert with_pictures(TASK, "description").samples[1].missing == "there is no description of its picture"


def test_what_is_not_shown_need_not_be_there() -> None:
    gone = Task("toys", [Sample("1", "What now?", "play", columns={**COLUMNS, MISSING: "picture 1.png is not there"})])
    assert [bool(with_pictures(gone, kind).samples[0].missing) for kind in PICTURES] == [True, True, False, False]
