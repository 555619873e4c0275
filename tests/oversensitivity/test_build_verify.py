"""Verification by people: who sees what, what is kept, who agrees, what is accepted. Reviewers here are simulated."""

import csv
import json
import sqlite3
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oversensitivity.making import item, negated
from typer.testing import CliRunner, Result

from cleareyed.cli import app
from cleareyed.errors import InputError
from cleareyed.oversensitivity.build.agreement import agreement, alpha, kappa
from cleareyed.oversensitivity.build.answers import TURNED_DOWN, Entry, Label, Ruling
from cleareyed.oversensitivity.build.draw import load_sprites
from cleareyed.oversensitivity.build.exchange import export_labels, export_tasks, read_labels
from cleareyed.oversensitivity.build.items import Item, write_items
from cleareyed.oversensitivity.build.page import write_page
from cleareyed.oversensitivity.build.pictures import make_pictures
from cleareyed.oversensitivity.build.reviews import Reviews
from cleareyed.oversensitivity.build.verdicts import Thresholds, accepted_items, decide, report

Command = Callable[..., Result]
ITEMS = (item("cake"), item("pie", harm=[7]), negated("sign"))
PEOPLE = ("ann", "ben", "cy")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    make_pictures(ITEMS, tmp_path / "pictures", None, load_sprites())
    return tmp_path / "pictures"


@pytest.fixture
def reviews(tmp_path: Path, pictures: Path) -> Any:
    with Reviews.create(tmp_path / "reviews.sqlite", ITEMS, pictures, k=3, seed=1, checks=4) as opened:
        yield opened


def answer(reviews: Reviews, name: str, wrong: tuple[str, ...] = (), checks_right: bool = True) -> None:
    """Everything `name` has to answer: as the entry's side should be, other than on the sides of items in `wrong`."""
    for entry in reviews.waiting(name):
        if entry.expected is not None:
            harmless, natural = entry.expected if checks_right else (1 - entry.expected[0], entry.expected[1])
        else:
            harmless = int((entry.side == "benign") != (entry.item in wrong))
            natural = 4
        reviews.label(Label(name, entry.entry, harmless, natural))


# Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), section D: four observers, twelve units.
_ = np.nan
OBSERVERS = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, _, _, _],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, _, 3],
        [_, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, _],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, _],
    ]
)


def test_alpha_of_the_published_example() -> None:
    assert alpha(OBSERVERS, "nominal") == pytest.approx(0.743, abs=5e-4)
    assert alpha(OBSERVERS, "ordinal") == pytest.approx(0.815, abs=5e-4)


def test_alpha_is_undefined_where_nothing_varies_or_nothing_was_seen_twice() -> None:
    assert alpha(np.ones((3, 5)), "nominal") is None
    assert alpha(np.array([[1.0, _], [_, 2.0]]), "nominal") is None
    assert alpha(np.empty((2, 0)), "nominal") is None


def test_kappa_of_worked_examples() -> None:
    # Fifty proposals, 20 yes/yes, 5 yes/no, 10 no/yes, 15 no/no: observed .70, by chance .50, kappa .40.
    first = np.repeat([1.0, 1, 0, 0], [20, 5, 10, 15])
    second = np.repeat([1.0, 0, 1, 0], [20, 5, 10, 15])
    assert kappa(first, second, weighted=False) == pytest.approx(0.4)
    # On two values squared distance weighs as nominal does; on a scale a near miss costs less than a far one.
    assert kappa(first, second, weighted=True) == pytest.approx(0.4)
    scale = np.array([1.0, 2, 3, 4, 5])
    near, far = np.array([2.0, 2, 3, 4, 5]), np.array([5.0, 2, 3, 4, 5])
    assert kappa(scale, scale, weighted=True) == 1.0
    assert (kappa(scale, near, weighted=True) or 0) > (kappa(scale, far, weighted=True) or 0)
    assert kappa(np.ones(4), np.ones(4), weighted=False) is None


def test_agreement_counts_what_was_seen_by_two() -> None:
    answers = {"ann": {"a": 1, "b": 0, "c": 1}, "ben": {"a": 1, "b": 1}, "cy": {"d": 1}}
    found = agreement("harmless", answers)
    assert (found.reviewers, found.entries, found.interval) == (3, 2, None)
    ann_ben, ann_cy, _ben_cy = found.pairs
    assert (ann_ben.n, ann_ben.same, ann_cy.n, ann_cy.kappa) == (2, 0.5, 0, None)
    many = {name: {str(n): int(n % 3 == 0) for n in range(30)} for name in ("ann", "ben")}
    many["ben"]["1"] = 1
    found = agreement("harmless", many)
    assert found.interval is not None and found.alpha is not None
    assert found.interval[0] < found.alpha < found.interval[1] <= 1


def test_reviewers_see_neither_kind_nor_side_and_all_have_their_own_order(reviews: Reviews) -> None:
    dealt = reviews.add(PEOPLE, "simulated")
    assert dealt == dict.fromkeys(PEOPLE, 2 * len(ITEMS) + 4)
    orders = {name: [entry.entry for entry in reviews.waiting(name)] for name in PEOPLE}
    assert len({tuple(order) for order in orders.values()}) == 3
    assert len({frozenset(order) for order in orders.values()}) == 1
    names = " ".join(orders["ann"])
    assert not any(word in names for word in ("cake", "pie", "sign", "benign", "contrast", "check"))
    with Reviews.open(reviews.path) as again:
        assert [entry.entry for entry in again.waiting("ann")] == orders["ann"]


def test_with_more_reviewers_than_needed_everything_has_k_and_shares_are_fair(reviews: Reviews) -> None:
    reviews.add([f"r{number}" for number in range(5)], "simulated")
    shares = [[entry for entry in reviews.waiting(f"r{number}") if entry.item] for number in range(5)]
    held = [entry.entry for share in shares for entry in share]
    assert sorted(map(held.count, set(held))) == [3] * 6
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert all(sum(entry.item is None for entry in reviews.waiting(f"r{number}")) == 4 for number in range(5))


def test_what_a_reviewer_gives_back_goes_to_the_next(reviews: Reviews) -> None:
    reviews.add(PEOPLE, "simulated")
    first = reviews.waiting("ann")[0]
    reviews.label(Label("ann", first.entry, 1, 4))
    assert reviews.drop("ann") == 9
    assert reviews.add(["dan"], "simulated")["dan"] == 9 if first.item is not None else 10
    assert len(reviews.history()) == 1


def test_two_of_three_decide_and_both_sides_must_be_accepted(reviews: Reviews) -> None:
    reviews.add(PEOPLE, "simulated")
    answer(reviews, "ann")
    answer(reviews, "ben", wrong=("pie",))
    assert report(reviews, kind="simulated").counts == {"incomplete": 6}
    answer(reviews, "cy", wrong=("pie", "sign"))
    found = report(reviews, kind="simulated")
    status = {(one.entry.item, one.entry.side): one.status for one in found.verdicts}
    assert status[("cake", "benign")] == status[("sign", "contrast")] == "accepted"
    assert status[("pie", "benign")] == status[("pie", "contrast")] == "rejected"
    assert found.accepted() == {"cake", "sign"}
    kept, out = accepted_items(ITEMS, found)
    assert [one.id for one in kept] == ["cake", "sign"] and out == {"rejected": 1}
    strict = report(reviews, Thresholds(harmless=0.9), kind="simulated")
    assert strict.accepted() == {"cake"} and strict.counts["disputed"] == 4
    dull = report(reviews, Thresholds(natural=4.5), kind="simulated")
    assert dull.counts == {"rejected": 6}


def test_simulated_reviewers_are_never_counted_as_people(reviews: Reviews) -> None:
    reviews.add(PEOPLE, "simulated")
    for name in PEOPLE:
        answer(reviews, name)
    found = report(reviews)
    assert found.counts == {"incomplete": 6} and found.sentence() == "Not reviewed by people."
    assert "programs and not people" in report(reviews, kind="simulated").sentence()
    with sqlite3.connect(reviews.path) as db:
        assert {row[0] for row in db.execute("SELECT kind FROM reviewers")} == {"simulated"}
    assert reviews.add(["dora"])["dora"] == 10  # a person gets everything: programs did not review it


def test_who_fails_the_attention_checks_is_left_out_and_replaced(reviews: Reviews) -> None:
    reviews.add(PEOPLE, "simulated")
    answer(reviews, "ann")
    answer(reviews, "ben")
    answer(reviews, "cy", wrong=("cake",), checks_right=False)
    found = report(reviews, kind="simulated")
    assert (found.reviewers, found.left_out) == (2, 1)
    assert {one.n for one in found.verdicts} == {2} and found.counts == {"incomplete": 6}
    assert len(reviews.history()) == 30  # kept all the same
    reviews.add(["dan"], "simulated")
    answer(reviews, "dan")
    assert report(reviews, kind="simulated").counts == {"accepted": 6}


def test_a_ruling_counts_and_the_answers_stay(reviews: Reviews) -> None:
    reviews.add(PEOPLE, "simulated")
    for name in PEOPLE:
        answer(reviews, name, wrong=("cake",))
    entry = next(one.entry for one in report(reviews, kind="simulated").verdicts if one.entry.item == "cake")
    reviews.rule(Ruling(entry.entry, 0, 4, "dora", "looked at it again"))
    reviews.rule(Ruling(entry.entry, 1, 4, "dora", "the earlier one was a slip"))
    verdict = next(one for one in report(reviews, kind="simulated").verdicts if one.entry == entry)
    assert (verdict.status, verdict.harmless) == ("accepted", 0.0) and "ruled by dora" in verdict.reason
    assert len(reviews.labels("simulated")) == 18
    for wrong in (
        Ruling("none", 1, 4, "dora", ""),
        Ruling(entry.entry, 2, 4, "dora", ""),
        Ruling(entry.entry, 1, 4, " ", ""),
    ):
        with pytest.raises(InputError):
            reviews.rule(wrong)


def test_a_tie_is_disputed() -> None:
    entry = Entry("e", "q", ".png", "cake", "benign")
    labels = [Label(name, "e", harmless, 4) for name, harmless in zip("abcd", (0, 0, 1, 1), strict=True)]
    assert decide(entry, labels, None, Thresholds(), 4).status == "disputed"
    assert decide(entry, labels, None, Thresholds(), 5).status == "incomplete"
    assert decide(entry, [], None, Thresholds(), 1).status == "incomplete"


def test_answers_are_added_and_never_overwritten(reviews: Reviews) -> None:
    reviews.add(["ann"], "simulated")
    entry = next(one.entry for one in reviews.waiting("ann") if one.item)
    assert reviews.label(Label("ann", entry, 1, 4)) == "new"
    assert reviews.label(Label("ann", entry, 1, 4)) == "known"
    assert reviews.label(Label("ann", entry, 0, 2, at="2026-01-02")) == "changed"
    assert reviews.label(Label("ann", entry, 1, 4, at="2026-01-03")) == "changed"
    assert [(one.harmless, one.natural) for one in reviews.history()] == [(1, 4), (0, 2), (1, 4)]
    assert [(one.harmless, one.natural) for one in reviews.labels("simulated")] == [(1, 4)]
    for wrong in (Label("ann", "none", 1, 4), Label("nobody", entry, 1, 4), Label("ann", entry, 3, 4)):
        with pytest.raises(InputError):
            reviews.label(wrong)


def test_tasks_out_and_answers_in(reviews: Reviews, tmp_path: Path) -> None:
    reviews.add(PEOPLE, "simulated")
    assert export_tasks(reviews, tmp_path / "tasks", ["ann", "ben"], "https://example.org/") == 20
    rows = list(csv.DictReader(StringIO((tmp_path / "tasks" / "tasks.csv").read_text())))
    assert list(rows[0]) == ["entry", "image", "question", "question_html", "reviewer"] and len(rows) == 20
    assert rows == [json.loads(line) for line in (tmp_path / "tasks" / "tasks.jsonl").read_text().splitlines()]
    for row in rows:
        picture = tmp_path / "tasks" / "images" / row["image"].removeprefix("https://example.org/")
        assert picture.read_bytes() == reviews.picture(row["entry"])
    filled = [{**row, "harmless": "Yes", "natural": "4"} for row in rows[:12]] + rows[12:]
    (tmp_path / "filled.jsonl").write_text("".join(json.dumps(row) + "\n" for row in filled))
    taken = reviews.take(read_labels(tmp_path / "filled.jsonl"), "filled")
    assert (taken.new, taken.blank, len(taken.unplaced)) == (12, 8, 0)
    again = reviews.take(read_labels(tmp_path / "filled.jsonl"), "filled")
    assert (again.new, again.known, again.blank) == (0, 12, 8)
    for suffix in ("csv", "jsonl"):  # and all of it out and in again
        export_labels(reviews.history(), tmp_path / f"labels.{suffix}")
        back = reviews.take(read_labels(tmp_path / f"labels.{suffix}"), "back")
        assert (back.new, back.changed, back.known) == (0, 0, 12)
    assert export_tasks(reviews, tmp_path / "anybody", [], "images/") == 10


def test_results_of_mechanical_turk(reviews: Reviews, tmp_path: Path) -> None:
    one, two, three = [entry.entry for entry in reviews.shuffled()][:3]
    (tmp_path / "batch.csv").write_text(
        '"HITId","WorkerId","AssignmentStatus","SubmitTime","Input.entry","Input.question","Answer.harmless.no",'
        '"Answer.harmless.yes","Answer.natural"\n'
        f'"H1","A1B2","Approved","Mon Jan 05 10:00:00 PST 2026","{one}","Say, ""why""?","false","true","4"\n'
        f'"H2","A1B2","Rejected","","{two}","","false","true","1"\n'
        f'"H3","A1B2","Submitted","","{three}","","true","true","4"\n'
    )
    rows = read_labels(tmp_path / "batch.csv")
    assert rows[0] == Label("A1B2", one, 1, 4, at="Mon Jan 05 10:00:00 PST 2026")
    assert isinstance(rows[2], tuple) and rows[2][0].startswith("harmless: nothing is not one of")
    taken = reviews.take(rows, "batch.csv")
    assert (taken.turned_down, taken.unplaced.total(), len(reviews.unplaced())) == (1, 2, 2)


def test_results_of_mechanical_turk_in_one_column(reviews: Reviews, tmp_path: Path) -> None:
    one, two, three = [entry.entry for entry in reviews.shuffled()][:3]
    natural = {str(number): number == 4 for number in range(1, 6)}
    whole = [{"harmless": {"no": True, "yes": False}, "natural": natural, "comment": 'Odd, "so".'}]
    rows = [
        {"WorkerId": "A1", "Input.entry": one, "Answer.taskAnswers": json.dumps(whole)},
        {"WorkerId": "A1", "Input.entry": two, "Answer.taskAnswers": '[{"harmless": "yes", "natural": "2"}]'},
        {"WorkerId": "A1", "Input.entry": three, "Answer.taskAnswers": "{"},
    ]
    with (tmp_path / "batch.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    first, second, third = read_labels(tmp_path / "batch.csv")
    assert first == Label("A1", one, 0, 4, 'Odd, "so".') and second == Label("A1", two, 1, 2)
    assert isinstance(third, tuple) and third[0] == "Answer.taskAnswers: not JSON"


def test_questions_reach_other_pages_escaped(tmp_path: Path) -> None:
    evil = item(question="Is <img src=x onerror=alert(1)> & co harmless?")
    make_pictures([evil], tmp_path / "pictures", None, load_sprites())
    with Reviews.create(tmp_path / "r.sqlite", [evil], tmp_path / "pictures", k=1, checks=0) as reviews:
        export_tasks(reviews, tmp_path / "tasks", [], "images/")
    rows = [json.loads(line) for line in (tmp_path / "tasks" / "tasks.jsonl").read_text().splitlines()]
    assert {"Is &lt;img src=x onerror=alert(1)&gt; &amp; co harmless?"} <= {row["question_html"] for row in rows}
    form = (tmp_path / "tasks" / "mturk.html").read_text()
    assert "${question_html}" in form and "${question}" not in form


def test_exports_of_label_studio(reviews: Reviews, tmp_path: Path) -> None:
    one, two = [entry.entry for entry in reviews.shuffled()][:2]

    def result(name: str, **value: Any) -> dict[str, Any]:
        return {"from_name": name, "to_name": "question", "value": value}

    whole = [
        result("harmless", choices=["no"]),
        result("natural", choices=["3"]),
        result("comment", text=["Odd.", "Very."]),
    ]
    tasks = [
        {
            "id": 1,
            "data": {"entry": one, "question": "?"},
            "annotations": [
                {"completed_by": {"email": "ann@example.org"}, "created_at": "2026-01-05T10:00:00Z", "result": whole},
                {"completed_by": 7, "result": [result("harmless", choices=["yes"]), result("natural", rating=5)]},
                {"completed_by": 8, "was_cancelled": True, "result": []},
            ],
        },
        {"id": 2, "data": {"entry": two}, "annotations": [{"completed_by": 7, "result": whole[:1]}]},
        {"id": 3, "data": None},
    ]
    (tmp_path / "project.json").write_text(json.dumps(tasks))
    first, second, skipped, third = read_labels(tmp_path / "project.json")
    assert isinstance(skipped, tuple) and skipped[0] == TURNED_DOWN
    assert first == Label("ann@example.org", one, 0, 3, "Odd.\nVery.", "2026-01-05T10:00:00Z")
    assert second == Label("7", one, 1, 5)
    assert isinstance(third, tuple) and third[0] == "natural: nothing is not one of 1, 2, 3, 4, 5"
    (tmp_path / "project.csv").write_text(f"annotator,entry,harmless,natural\n7,{one},yes,5\n")
    assert read_labels(tmp_path / "project.csv") == [Label("7", one, 1, 5)]


def test_rows_without_a_place_are_named_counted_and_kept(reviews: Reviews, tmp_path: Path) -> None:
    reviews.add(["ann"], "simulated")
    one, two = [entry.entry for entry in reviews.shuffled() if entry.item][:2]
    lines = [
        {"reviewer": "ann", "entry": one, "harmless": "yes", "natural": 4},
        {"reviewer": "zoe", "entry": one, "harmless": "yes", "natural": 4},
        {"reviewer": "zoe", "entry": two, "harmless": "no", "natural": 2},
        {"reviewer": "ann", "entry": "nowhere", "harmless": "yes", "natural": 4},
        {"reviewer": "ann", "entry": two, "harmless": "maybe", "natural": 4},
        {"reviewer": "", "entry": two, "harmless": "yes", "natural": 4},
        [1, 2],
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + "{half\n")
    for _round in range(2):  # a second import brings nothing twice
        taken = reviews.take(read_labels(tmp_path / "in.jsonl"), "in.jsonl")
        assert taken.unplaced == {
            "unknown reviewer `zoe`": 2,
            "unknown entry `nowhere`": 1,
            "harmless: `maybe` is not one of no, yes": 1,
            "no reviewer": 1,
            "no object with reviewer, entry, harmless and natural": 2,
        }
        assert len(reviews.history()) == 1 and len(reviews.unplaced()) == 7
    reviews.add(["zoe"], "simulated", deal=False)
    assert [(label.reviewer, label.harmless) for label in reviews.history()] == [("ann", 1), ("zoe", 1), ("zoe", 0)]
    assert len(reviews.unplaced()) == 5


def test_what_utf8_cannot_carry_and_quotes_that_stay_open_cost_nobody_an_answer(
    reviews: Reviews, tmp_path: Path
) -> None:
    reviews.add(["ann", "ben"], "simulated")
    one = reviews.shuffled()[0].entry
    lines = [r'{"reviewer": "\ud800", "entry": "\ud800", "harmless": "yes", "natural": 4}']
    lines.append(json.dumps({"reviewer": "ann", "entry": one, "harmless": "yes", "natural": 4, "comment": "\ud800"}))
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    taken = reviews.take(read_labels(tmp_path / "in.jsonl"), "in.jsonl")
    assert (taken.new, taken.unplaced) == (1, {"unknown reviewer `\ufffd`": 1})
    head = "reviewer,entry,harmless,natural,comment\n"
    (tmp_path / "open.csv").write_text(f'{head}ann,{one},yes,4,"never closed\nben,{one},no,2,\n')
    with pytest.raises(InputError, match=r"open\.csv.*quotes"):
        read_labels(tmp_path / "open.csv")


@pytest.mark.parametrize("comment", ["=cmd|' /C calc'!A0", "+1", "-1", "@SUM(A1)", "'=1", "'quoted'", "a\u2028b\x85c"])
def test_no_cell_of_ours_is_a_formula_and_all_come_back_as_they_were(
    reviews: Reviews, tmp_path: Path, comment: str
) -> None:
    label = Label("ann", "e", 1, 4, comment)
    export_labels([label], tmp_path / "labels.csv")
    (row,) = csv.DictReader(StringIO((tmp_path / "labels.csv").read_text()))
    assert row["comment"][0] not in "=+-@"
    assert read_labels(tmp_path / "labels.csv") == [label]
    export_labels([label], tmp_path / "labels.jsonl")
    assert read_labels(tmp_path / "labels.jsonl") == [label]


def test_an_import_that_breaks_off_leaves_nothing_behind(reviews: Reviews) -> None:
    reviews.add(["ann"], "simulated")
    entries = [entry.entry for entry in reviews.waiting("ann")]

    def rows() -> Any:
        yield Label("ann", entries[0], 1, 4)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reviews.take(rows(), "broken")
    assert reviews.history() == []
    assert reviews.take([Label("ann", entries[0], 1, 4)], "whole").new == 1


@pytest.mark.parametrize(
    ("name", "text", "named"),
    [
        ("a.csv", "x,y\n1,2\n", "no columns for reviewer"),
        ("a.jsonl", "\n", "no answers"),
        ("a.json", "{}", "not a list of tasks"),
        ("a.json", "[", "not JSON"),
        ("a.txt", "", "give a .csv, .jsonl or .json"),
    ],
)
def test_files_of_no_known_form_are_named(tmp_path: Path, name: str, text: str, named: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=named):
        read_labels(tmp_path / name)


def test_a_file_that_holds_no_reviews_is_named(tmp_path: Path, pictures: Path) -> None:
    (tmp_path / "text.sqlite").write_text("not a database, by far, and long enough to be read as one" * 20)
    sqlite3.connect(tmp_path / "other.sqlite").execute("CREATE TABLE a (b)")
    for name in ("text.sqlite", "other.sqlite", "absent.sqlite"):
        with pytest.raises(InputError, match=name):
            Reviews.open(tmp_path / name)
    with pytest.raises(InputError, match="is there already"):
        Reviews.create(tmp_path / "other.sqlite", ITEMS, pictures)


def test_what_reaches_the_page_is_escaped(tmp_path: Path) -> None:
    evil = item(question='</script><script>alert(1)</script> & "so" on?')
    make_pictures([evil], tmp_path / "pictures", None, load_sprites())
    with Reviews.create(tmp_path / "r.sqlite", [evil], tmp_path / "pictures", k=1, checks=1) as reviews:
        reviews.add(["<b>ann</b>"], "simulated")
        assert write_page(reviews, "<b>ann</b>", tmp_path / "page.html") == 3
    page = (tmp_path / "page.html").read_text()
    assert "<script>alert" not in page and "<b>ann" not in page
    assert page.count("</script>") == 2 and "data:image/png;base64," in page
    assert "http://" not in page and "https://" not in page
    held = json.loads(page.split('id="data">')[1].split("</script>")[0])
    assert evil.question in [entry["question"] for entry in held["entries"]]
    assert {name for entry in held["entries"] for name in entry} == {"entry", "question", "image"}


def test_verification_from_the_command_line(command: Command, pictures: Path, tmp_path: Path) -> None:
    write_items(tmp_path / "items.jsonl", ITEMS)
    begin = ("build", "verify", "start", "items.jsonl", "--pictures", "pictures", "--db", "r.sqlite")
    done = command(*begin, "--reviewer", "ann", "--k", 1, "--checks", 2)
    assert done.exit_code == 0 and "6 questions and 2 attention checks" in done.output and "ann: 8" in done.output
    assert command(*begin).exit_code == 2

    with Reviews.open(tmp_path / "r.sqlite") as reviews:
        waiting = reviews.waiting("ann")
    said = []
    for entry in waiting:
        harmless, natural = entry.expected or (int(entry.side == "benign"), 4)
        said.append(f"{'yes' if harmless else 'no'}\n{natural}\n")
    typed = "what\n" + said[0] + "s\nb\n" + said[1] + "q\n"  # nonsense, an answer, on and back, an answer, stop
    run = CliRunner().invoke(app, ["build", "verify", "review", "r.sqlite", "ann"], input=typed)
    assert run.exit_code == 0 and "please answer no, yes" in run.output and "6 left" in run.output
    assert "cake.png" not in run.output and "contrast" not in run.output
    run = CliRunner().invoke(app, ["build", "verify", "review", "r.sqlite", "ann"], input="".join(said[2:]))
    assert "All answered" in run.output

    done = command("build", "verify", "report", "r.sqlite", "--json", "report.json")
    assert done.exit_code == 0 and "Reviewed by 1 person" in done.output.replace("\n", " ")
    found = json.loads((tmp_path / "report.json").read_text())
    assert found["accepted"] == ["cake", "pie", "sign"] and found["counts"]["accepted"] == 6

    spoilt = next(entry for entry in waiting if entry.item == "pie")
    settle = ("build", "verify", "rule", "r.sqlite", spoilt.entry, "--natural", 1, "--by", "dora", "--because", "odd")
    assert command(*settle, "--harmless", "yes" if spoilt.side == "benign" else "no").exit_code == 0
    publish = ("build", "publish", "items.jsonl", "--pictures", "pictures", "--to", "out", "--name", "n", "--reviews")
    done = command(*publish, "r.sqlite")
    assert done.exit_code == 0 and "left out: 1 rejected" in done.output and "2 benign" in done.output
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Reviewed by 1 person" in card and "Not reviewed" not in card

    changed = [Item.model_validate(ITEMS[0].model_dump() | {"question": "Something else?"}), *ITEMS[1:]]
    write_items(tmp_path / "items.jsonl", changed)
    refused = command(*publish, "r.sqlite", "--replace")
    assert refused.exit_code == 2 and "1 items are not as they were reviewed (cake)" in refused.stderr


def test_answers_from_elsewhere_on_the_command_line(command: Command, pictures: Path, tmp_path: Path) -> None:
    write_items(tmp_path / "items.jsonl", ITEMS)
    command("build", "verify", "start", "items.jsonl", "--pictures", "pictures", "--db", "r.sqlite", "--k", 1)
    assert "10 rows" in command("build", "verify", "export", "r.sqlite", "--to", "tasks").output
    rows = [json.loads(line) for line in (tmp_path / "tasks" / "tasks.jsonl").read_text().splitlines()]
    filled = [{**row, "reviewer": "zoe", "harmless": "yes", "natural": "5"} for row in rows]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in filled))
    done = command("build", "verify", "import", "r.sqlite", "in.jsonl")
    assert done.exit_code == 1 and "10 without a place" in done.output and "unknown reviewer `zoe`" in done.output
    done = command("build", "verify", "import", "r.sqlite", "in.jsonl", "--add-reviewers")
    assert done.exit_code == 0 and "added 1 reviewer: zoe" in done.output and "10 held before" in done.output
    assert command("build", "verify", "add", "r.sqlite", "--reviewer", "ann", "--instead-of", "zoe").exit_code == 0
    assert command("build", "verify", "page", "r.sqlite", "ann", "--to", "ann.html").exit_code == 0
    assert command("build", "verify", "labels", "r.sqlite", "--to", "all.csv").exit_code == 0
    assert len((tmp_path / "all.csv").read_text().splitlines()) == 11
    unknown = command("build", "verify", "review", "r.sqlite", "anne")
    assert unknown.exit_code == 2 and "did you mean `ann`" in unknown.stderr
