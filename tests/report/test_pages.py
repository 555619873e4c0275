import base64
import io
import json
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from cleareyed.errors import InputError
from cleareyed.recipe import GrpoRecipe, SftRecipe
from cleareyed.records.parts import write_answers
from cleareyed.records.rows import AnswerRow
from cleareyed.records.run import append_metrics, create_run, read_metrics
from cleareyed.report.gallery import LARGEST_PX, inline_png, spread
from cleareyed.report.pages import DEMO_PAIRS, before_and_after, demo_report, measurements, readme_picture, run_report
from cleareyed.report.plots import moving_mean
from cleareyed.report.summary import (
    by_label,
    chance_by_skill,
    length_windows,
    paired_tests,
    run_cost,
    summarise,
    write_summary,
)
from cleareyed.report.table import comparison_table
from cleareyed.report.words import duration, p_value, percent, points, visible
from cleareyed.tasks.task import Sample, Task

SKILLS = ("Count", "Depth", "Distance", "Relation")
ATTACK = "<script>alert(1)</script>"
OPTIMIZER = {"lr": 1e-4}


def picture(index):
    def load():
        return Image.new("RGB", (64, 48), (index * 20 % 256, 120, 90))

    return load


def make_task(count=80):
    return Task(
        name="toy-bench",
        samples=[
            Sample(
                id=f"toy/{index}",
                question=f"Question {index} {ATTACK}",
                answer="left",
                choices=("left", "right") if index % 4 else ("left", "right", "up", "down"),
                images=(picture(index),),
                skill=SKILLS[index % 4],
            )
            for index in range(count)
        ],
    )


def make_rows(task, label, accuracy, step=0, seed=0, group=lambda index: ""):
    rng = np.random.default_rng(seed)
    rows = []
    for index, sample in enumerate(task.samples):
        right, other = bool(rng.random() < accuracy), bool(rng.random() < 0.5)
        answer = "left" if right else ATTACK
        rows.append(
            AnswerRow(
                task=task.name,
                step=step,
                label=label,
                sample_id=sample.id,
                skill=sample.skill,
                group=group(index),
                question=sample.question,
                answer=sample.answer,
                completion=f"<think>{label} sees {ATTACK} \x1b[31m</think><answer>{answer}</answer>",
                tokens=10 + index % 7,
                finish="length" if index % 10 == 0 else "stop",
                extracted={"strict": answer, "any-form": answer},
                correct={"strict": right, "any-form": right or other},
                well_formed=index % 3 > 0,
            )
        )
    return rows


def grpo_metrics(steps=60):
    yield {"step": 0, "validation/accuracy": 0.1, "validation/format_rate": 0.2}
    for step in range(1, steps + 1):
        done = step / steps
        row = {
            "step": step,
            "reward": 0.4 + done,
            "reward/accuracy": 0.2 + 0.5 * done,
            "reward/format": 0.2 + 0.7 * done,
            "accuracy": 0.2 + 0.5 * done,
            "format_rate": 0.2 + 0.7 * done,
            "completion_tokens": 27 - 16 * math.sin(3 * done) + done,
            "completion_tokens_p10": 8.0,
            "completion_tokens_p90": 40.0,
            "share_without_signal": 0.3,
            "share_cut_off": 0.1 * (1 - done),
            "entropy": 1 - 0.6 * done,
            "kl": None,
            "grad_norm": 0.4,
            "seconds/sample": 0.25,
            "seconds/update": 0.125,
            "seconds/total": 0.5,
            "samples": 64 * step,
            "tokens": 1500 * step,
        }
        if step % 20 == 0:
            row |= {"validation/accuracy": 0.1 + 0.5 * done, "validation/format_rate": 0.9}
        yield row


def sft_metrics(steps=60):
    for step in range(1, steps + 1):
        yield {
            "step": step,
            "loss": 2 / step,
            "token_accuracy": 0.6,
            "grad_norm": 1.0,
            "samples": 8 * step,
            "tokens": 30 * step,
            "seconds/total": 0.25,
        }


@pytest.fixture
def demo(tmp_path):
    """A demo's folder with both runs recorded, the task and all answers."""
    task = make_task()
    grpo = create_run(
        tmp_path / "grpo", GrpoRecipe(method="grpo", task={"name": "toy"}, optimizer=OPTIMIZER, steps=60)
    )
    sft = create_run(tmp_path / "sft", SftRecipe(method="sft", task={"name": "toy"}, optimizer=OPTIMIZER, steps=60))
    for run, rows in ((grpo, grpo_metrics()), (sft, sft_metrics())):
        for row in rows:
            append_metrics(run, row)
    rows = make_rows(task, "base", 0.1) + make_rows(task, "base/no-reasoning", 0.3, seed=1)
    rows += make_rows(task, "sft", 0.6, step=60, seed=2) + make_rows(task, "grpo", 0.8, step=60, seed=3)
    return tmp_path, grpo, sft, rows, task


class Page(HTMLParser):
    """The page's tags, attributes, and text outside of styles."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.text, self._open = [], [], [], []
        self.feed(text)
        self.words = " ".join(" ".join(self.text).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag == "style":
            self._open.append(tag)

    def handle_endtag(self, tag):
        if tag == "style":
            self._open.pop()

    def handle_data(self, data):
        if not self._open:
            self.text.append(data)


def test_demo_report_holds_every_section_and_the_numbers_of_the_summary(demo):
    folder, grpo, sft, rows, task = demo
    summaries = summarise(rows)
    tests = paired_tests(by_label(rows), DEMO_PAIRS)
    write_summary(folder / "summary.json", summaries, {"tests": tests})
    written = json.loads((folder / "summary.json").read_text())
    page = Page(demo_report(folder, grpo, sft, rows, task, notes=["A note."]).read_text())

    for heading in ("Accuracy", "Curves over training", "before and after", "What it cost", "Settings", "A note."):
        assert heading in page.words
    for panel in ("Reward by function", "Format", "Completion length", "Entropy", "Gradient norm", "Supervised loss"):
        assert panel in page.words
    assert "Not recorded: KL." in page.words
    for label in ("base", "base/no-reasoning", "sft", "grpo"):
        one = written[label]
        parts = [one, *one["by_skill"].values()]
        cells = [
            f"{percent(part['accuracy'])} {percent(part['interval'][0])} to {percent(part['interval'][1])}"
            for part in parts
        ]
        cells += [percent(one["accuracy_any_form"]), percent(one["format_rate"]), percent(one["share_cut_off"])]
        assert " ".join([*cells, f"{one['mean_tokens']:.1f}", str(one["n"])]) in page.words
    for test in written["tests"]:
        low, high = test["interval"]
        cells = [points(test["difference"]), points(low), "to", points(high), p_value(test["p"])]
        cells += [str(test["first_only"]), str(test["second_only"])]
        assert " ".join(cells) in page.words
    assert "3,840 90,000 30.0 s" in page.words  # GRPO's samples, tokens, time
    assert "480 1,800 15.0 s" in page.words


def test_nothing_sampled_reaches_the_page_as_markup(demo):
    folder, grpo, sft, rows, task = demo
    text = demo_report(folder, grpo, sft, rows, task, notes=[ATTACK]).read_text()
    page = Page(text)
    assert "<script" not in text.lower()
    assert not {"script", "iframe", "object", "link", "think", "answer"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert ATTACK in page.words  # shown as text
    assert "\x1b" not in text
    policy = next(value for name, value in page.attributes if name == "content" and "default-src" in value)
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_the_page_needs_nothing_from_elsewhere_and_its_ten_samples_carry_their_images(demo):
    folder, grpo, sft, rows, task = demo
    text = demo_report(folder, grpo, sft, rows, task).read_text()
    page = Page(text)
    sources = [value for name, value in page.attributes if name == "src"]
    assert len(sources) == 10
    for source in sources:
        image = Image.open(io.BytesIO(base64.b64decode(source.removeprefix("data:image/png;base64,"))))
        assert (image.format, image.size) == ("PNG", (64, 48))
    links = [value for name, value in page.attributes if name in ("href", "xlink:href", "action", "data", "poster")]
    assert links and all(link.startswith("#") for link in links)
    assert not re.search(r"url\((?!#)", text) and "@import" not in text
    shown = [rows[at] for at in spread([SKILLS.index(row.skill) for row in rows[:80]], 10)]
    right = {(row.label, row.sample_id): row.correct["strict"] for row in rows}
    marks = re.findall(r"(✓ right|✗ wrong)", page.words)
    expected = [right[label, row.sample_id] for row in shown for label in ("base", "sft", "grpo")]
    assert [mark == "✓ right" for mark in marks] == expected
    ids = re.findall(r'\sid="([^"]*)"', re.sub(r"<defs>.*?</defs>", "", text, flags=re.DOTALL))
    assert len(ids) == len(set(ids))


def test_demo_report_names_the_answers_it_lacks(demo):
    folder, grpo, sft, rows, task = demo
    with pytest.raises(InputError, match="no answers labelled grpo"):
        demo_report(folder, grpo, sft, [row for row in rows if row.label != "grpo"], task)
    assert not (folder / "report.html").exists()


def test_run_report_from_records_with_groups(tmp_path):
    task = make_task()
    run = create_run(tmp_path / "r", GrpoRecipe(method="grpo", task={"name": "toy"}, optimizer=OPTIMIZER, steps=60))
    for row in grpo_metrics():
        append_metrics(run, row)
    rows = []
    for label, accuracy, step in (("base", 0.3, 0), ("grpo", 0.7, 60)):
        rows += make_rows(task, label, accuracy, step, seed=step, group=lambda index: f"g{index // 4}")
        write_answers(run, rows[-80:])
    page = Page(run_report(run, task).read_text())
    assert "bootstrap over groups of samples" in page.words
    assert "Always saying the most frequent answer (“left”) would score 100.0 %" in page.words
    assert "Base → GRPO" in page.words
    summary = summarise(rows)["grpo"]
    low, high = summary["interval"]
    assert f"{percent(summary['accuracy'])} {percent(low)} to {percent(high)}" in page.words
    assert len([1 for name, _ in page.attributes if name == "src"]) == 10

    without = Page(run_report(run).read_text())
    assert "image not shown" in without.words and "img" not in without.tags
    assert "Guessing among the choices" not in without.words


def test_run_report_of_a_run_that_has_only_begun_says_so(tmp_path):
    run = create_run(tmp_path / "r", SftRecipe(method="sft", task={"name": "toy"}, optimizer=OPTIMIZER, steps=5))
    page = Page(run_report(run).read_text())
    assert "No answers were recorded" in page.words
    assert "No metrics were recorded" in page.words


def test_validation_answers_are_compared_only_where_nothing_else_was_measured(tmp_path):
    task = make_task()
    run = create_run(tmp_path / "r", SftRecipe(method="sft", task={"name": "toy"}, optimizer=OPTIMIZER, steps=60))
    for step, accuracy in ((0, 0.2), (30, 0.5), (60, 0.8)):
        write_answers(run, make_rows(task, "validation", accuracy, step, seed=step))
    page = Page(run_report(run, task).read_text())
    assert "validation, step 0 → validation, step 60" in page.words and "step 30" not in page.words
    write_answers(run, make_rows(task, "sft", 0.7, 60))
    assert "validation, step" not in Page(run_report(run, task).read_text()).words


def test_a_run_that_only_measured_shows_no_training(tmp_path):
    task = make_task()
    run = create_run(tmp_path / "r", SftRecipe(method="sft", task={"name": "toy"}, optimizer=OPTIMIZER, steps=60))
    run.recipe.write_text("method: eval\nmodel: {path: tiny-base}\nmeasure: [{task: {name: toy}}]\n")
    write_answers(run, make_rows(task, "models/tiny-base", 0.4))
    page = Page(run_report(run, task, rule="any-form").read_text())
    assert "Measured on toy-bench." in page.words and "models/tiny-base" in page.words
    assert "What it cost" not in page.words and "Curves" not in page.words
    links = [value for name, value in page.attributes if name == "href" and value.startswith("#")]
    targets = [value for name, value in page.attributes if name == "id"]
    assert set(links) <= {f"#{target}" for target in targets}


def test_summary_by_hand():
    task = make_task(8)
    rows = make_rows(task, "m", 0.5)
    found = summarise(rows)["m"]
    assert found["accuracy"] == sum(row.correct["strict"] for row in rows) / 8
    assert found["accuracy_any_form"] == sum(row.correct["any-form"] for row in rows) / 8
    assert found["format_rate"] == 5 / 8
    assert found["mean_tokens"] == sum(row.tokens for row in rows) / 8
    assert found["n"] == 8 and [part["n"] for part in found["by_skill"].values()] == [2, 2, 2, 2]
    assert found["interval"][0] < found["accuracy"] < found["interval"][1]


def test_summary_refuses_what_it_cannot_count():
    rows = make_rows(make_task(8), "m", 0.5)
    with pytest.raises(InputError, match="sample 'toy/0' is answered twice"):
        summarise(rows + rows[:1])
    with pytest.raises(InputError, match=r"not judged under rule 'paper-eval'; choose one of any-form, strict"):
        summarise(rows, "paper-eval")


def test_summary_file_is_whole_or_not_there(tmp_path):
    with pytest.raises(ValueError, match="given twice"):
        write_summary(tmp_path / "s.json", {"base": {}}, {"base": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_summary(tmp_path / "s.json", {"base": {"accuracy": math.nan}}, {})
    assert list(tmp_path.iterdir()) == []


def test_paired_tests_use_only_shared_samples():
    task = make_task(40)
    first, second = make_rows(task, "a", 0.3, seed=1), make_rows(task, "b", 0.9, seed=2)[10:]
    (test,) = paired_tests(by_label(first + second), [("a", "b"), ("a", "nobody")])
    assert test["n"] == 30
    expected = sum(row.correct["strict"] for row in second) - sum(row.correct["strict"] for row in first[10:])
    assert test["difference"] == pytest.approx(expected / 30)
    assert test["second_only"] - test["first_only"] == expected


def test_before_and_after_are_paired_under_the_same_prompt():
    task = make_task(4)
    labels = (("base", 0), ("base/no-reasoning", 0), ("grpo", 9), ("grpo/no-reasoning", 9))
    rows = [row for label, step in labels for row in make_rows(task, label, 0.5, step)]
    answers = measurements(list(by_label(rows).values()))
    assert before_and_after(answers) == [("base", "grpo"), ("base/no-reasoning", "grpo/no-reasoning")]
    del answers["base/no-reasoning"]
    assert before_and_after(answers) == [("base", "grpo"), ("base", "grpo/no-reasoning")]
    assert before_and_after({"base": answers["base"]}) == []


def test_a_label_measured_twice_is_split_by_step():
    task = make_task(4)
    labels = (("grpo", 20), ("base", 0), ("grpo", 10))
    found = [by_label(make_rows(task, label, 0.5, step))[label] for label, step in labels]
    assert list(measurements(found)) == ["base", "grpo, step 10", "grpo, step 20"]


def test_chance_leaves_out_parts_with_open_questions():
    samples = [*make_task(8).samples, Sample(id="open", question="?", answer="2", skill="Open")]
    found = chance_by_skill(samples)
    assert found == {"Count": 0.25, "Depth": 0.5, "Distance": 0.5, "Relation": 0.5}


def test_cost_and_length_windows():
    rows = list(grpo_metrics(60))
    cost = run_cost(rows)
    assert (cost["steps"], cost["samples"], cost["tokens"], cost["seconds"]) == (60, 3840, 90000, 30.0)
    assert cost["seconds_by_phase"] == {"sample": 15.0, "update": 7.5}
    assert run_cost([])["seconds"] is None
    first, lowest, last = length_windows(rows)
    assert (first["from"], first["to"], last["from"], last["to"]) == (1, 20, 41, 60)
    lengths = [row["completion_tokens"] for row in rows[1:]]
    assert lowest["mean_tokens"] == pytest.approx(min(np.mean(lengths[at : at + 20]) for at in range(41)))
    assert lowest["interval"][0] <= lowest["mean_tokens"] <= lowest["interval"][1]
    assert length_windows(rows[:10]) == []


def test_console_table(demo):
    *_, rows, _ = demo
    summary = summarise(rows)
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(comparison_table({**summary, "tests": [], "cost": {"grpo": {}}}))
    text = console.export_text()
    for one in summary.values():
        low, high = one["interval"]
        assert f"{percent(one['accuracy'])} ({100 * low:.0f}-{100 * high:.0f})" in text
    for skill in SKILLS:
        assert skill in text


def test_readme_picture_is_drawn_from_the_folder(demo):
    folder, _, _, rows, task = demo
    write_summary(folder / "summary.json", summarise(rows), {"chance": chance_by_skill(task.samples)})
    image = Image.open(readme_picture(folder, folder / "docs" / "demo.png"))
    assert image.format == "PNG" and image.width > 1000
    assert len(image.convert("RGB").getcolors(1 << 24)) > 50


def test_gallery_spreads_over_skills_and_list():
    rows = make_rows(make_task(80), "m", 0.5)
    skills = [SKILLS.index(row.skill) for row in rows]
    chosen = [rows[at] for at in spread(skills, 10)]
    assert sorted(sum(row.skill == skill for row in chosen) for skill in SKILLS) == [2, 2, 3, 3]
    assert len({row.sample_id for row in chosen}) == 10
    assert len(spread(skills[:3], 10)) == 3


def test_large_images_are_scaled_down():
    image = Image.new("RGB", (2 * LARGEST_PX, LARGEST_PX))
    data = base64.b64decode(inline_png(image).split(",")[1])
    assert Image.open(io.BytesIO(data)).size == (LARGEST_PX, LARGEST_PX // 2)
    assert image.size == (2 * LARGEST_PX, LARGEST_PX)


def test_words():
    assert (percent(0.6128), percent(None), points(0.0163), points(-0.02)) == ("61.3", "–", "+1.6", "-2.0")  # noqa: RUF001
    assert (p_value(0.0004), p_value(0.0312)) == ("< 0.001", "0.031")
    assert (duration(7.25), duration(61), duration(7300)) == ("7.2 s", "1 min 1 s", "2 h 1 min")
    assert visible("a\nb\x00\u202ec") == "a\nb\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}c"
    assert moving_mean([1.0, 3.0, 5.0], 2) == [1.0, 2.0, 4.0]


def test_metrics_survive_the_round_trip_through_the_run(demo):
    _, grpo, *_ = demo
    assert length_windows(read_metrics(grpo)) == length_windows(list(grpo_metrics()))
