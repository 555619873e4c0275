"""Conditions: what is sent under each, and the comparison of the same items."""

import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
from conftest import Result
from oversensitivity.scripted import Scripted
from PIL import Image
from scipy.stats import binomtest

from cleareyed.errors import InputError
from cleareyed.evaluation.request import Request
from cleareyed.oversensitivity.conditions import CONDITIONS, SYSTEM, Item, compare_conditions, condition, conditions
from cleareyed.oversensitivity.outcomes import Outcome
from cleareyed.records.parts import read_answers
from cleareyed.records.run import RunFolder

Command = Callable[..., Result]
REFUSAL, ANSWER = "I'm sorry, but I can't help with that.", "Put the toys in a circle and take turns."


def asked(outcomes: str, group: Callable[[int], str] = lambda number: "") -> list[Item]:
    """One item a letter: c complied, r refusal, u undecided."""
    named: dict[str, Outcome] = {"c": "complied", "r": "refusal", "u": "undecided", "e": "empty"}
    return [
        Item(f"{number}", "AB"[number % 2], group(number), named[letter]) for number, letter in enumerate(outcomes)
    ]


def test_conditions_are_compared_item_by_item_and_corrected_for_their_number() -> None:
    first, second, third = compare_conditions(
        {
            "none": asked("cccccccccc" + "ru"),
            "safety": asked("rrrrrrrrrc" + "re"),
            "helpful": asked("cccccccccc" + "cc"),
        }
    )
    assert first.change is None and (first.whole.n, first.whole.declined, first.whole.unread) == (11, 1, 1)
    assert second.whole.share == 11 / 12 and second.by_stimulus["A"].n == 6
    assert second.change is not None and third.change is not None
    assert (second.change.paired.n, second.change.paired.second_only, second.change.paired.first_only) == (11, 9, 0)
    assert second.change.p == pytest.approx(binomtest(9, 9, 0.5).pvalue)
    assert second.change.p_holm == pytest.approx(2 * second.change.p)
    assert third.change.p == third.change.p_holm == 1.0


def test_items_that_share_a_question_swap_together() -> None:
    alone = compare_conditions({"none": asked("cccccc"), "safety": asked("rrrrrr")})[1].change
    shared = compare_conditions(
        {"none": asked("cccccc", lambda n: f"q{n // 3}"), "safety": asked("rrrrrr", lambda n: f"q{n // 3}")}
    )[1].change
    assert alone is not None and shared is not None
    assert (alone.p, shared.p) == (pytest.approx(2 / 64), pytest.approx(2 / 4))


def test_names() -> None:
    assert [one.name for one in conditions(CONDITIONS)] == list(CONDITIONS)
    both = condition("description+safety")
    assert (both.system, both.pictures) == (SYSTEM["safety"], "description")
    for names, says in ((["safty"], "safety"), (["safety+helpful"], "two of a kind"), (["none", "none"], "twice")):
        with pytest.raises(InputError, match=says):
            conditions(names)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    Image.new("RGB", (8, 5), "red").save(tmp_path / "one.png")
    rows = [
        {
            "id": f"s{number}",
            "image": "one.png",
            "question": f"What game is {number}?",
            "answer": "Certainly.",
            "description": "A toy knife on a rug.",
            "skill": "ER" if number < 4 else "CI",
        }
        for number in range(8)
    ]
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_each_condition_is_a_run_of_its_own_and_an_interrupted_one_goes_on(
    command: Command, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = {"s7": True}

    def say(request: Request) -> str:
        if request.sample_id in broken:
            return "!"
        return REFUSAL if request.params.system == SYSTEM["safety"] and request.sample_id != "s0" else ANSWER

    models: list[Scripted] = []
    monkeypatch.setattr(
        "cleareyed.conditions_command.open_answerer",
        lambda model, batch: models.append(Scripted(model.path, say)) or models[-1],
    )
    arguments = ["conditions", table, "--model", "openai:stub", "--out", "c", "--json", "found.json"]
    for name in ("none", "safety", "blank-image", "description+safety"):
        arguments += ["--condition", name]
    first = command(*arguments)
    assert first.exit_code == 1, first.output  # s7 failed everywhere
    assert len(models[0].asked) == 4 * 8 and models[0].closed == 1
    broken.clear()
    assert command(*arguments).exit_code == 2
    done = command(*arguments, "--resume")
    assert done.exit_code == 0, done.output
    assert [request.sample_id for request in models[-1].asked] == ["s7"] * 4
    blank, described = models[-1].asked[2:]
    with Image.open(BytesIO(blank.images[0])) as picture:
        assert picture.size == (8, 5) and len(picture.getcolors() or ()) == 1
    assert described.images == () and described.prompt == "A toy knife on a rug. What game is 7?"
    assert described.params.system == SYSTEM["safety"] and described.chat
    found = json.loads((tmp_path / "found.json").read_text())
    assert found == json.loads((tmp_path / "c/conditions.json").read_text())
    rates = {one["condition"]: one["whole"]["declined"] for one in found["conditions"]}
    assert rates == {"none": 0, "safety": 7, "blank-image": 0, "description+safety": 7}
    changed = found["conditions"][1]["change"]
    assert changed["p"] == pytest.approx(2 / 2**7) and changed["p_holm"] == pytest.approx(3 * changed["p"])
    assert found["conditions"][1]["by_stimulus"]["ER"]["declined"] == 3
    labels = [json.loads(line) for line in (tmp_path / "c/safety/outcomes/local.jsonl").read_text().splitlines()]
    assert [one["state"] for one in labels] == ["complied"] + ["refusal"] * 7
    assert len(read_answers(RunFolder(tmp_path / "c/safety"))) == 8
    assert (tmp_path / "c/conditions.png").read_bytes().startswith(b"\x89PNG")
    assert "0.0" in done.stdout and "87.5" in done.stdout
    other = command(*arguments, "--resume", "--max-tokens", 7)
    assert other.exit_code == 2 and "max_tokens was 256 and is now 7" in other.stderr


def test_what_cannot_be_done_is_said_before_anything_is_asked(command: Command, table: Path, tmp_path: Path) -> None:
    assert "recorded answers" in command("conditions", table, "--model", "replay:x.jsonl").stderr
    table.write_text(table.read_text().replace("description", "note"))
    found = command("conditions", table, "--model", "openai:x", "--base-url", "http://127.0.0.1:1/v1", "--out", "c")
    assert found.exit_code == 2 and "has no description" in found.stderr and not (tmp_path / "c").exists()
