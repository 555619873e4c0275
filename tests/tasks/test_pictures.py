import pytest
from PIL import Image

from cleareyed.errors import InputError
from cleareyed.tasks.pictures import GREY, with_pictures
from cleareyed.tasks.task import Sample, Task

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
    with pytest.raises(InputError, match="sample 2: has no description"):
        list(with_pictures(TASK, "description").samples)
