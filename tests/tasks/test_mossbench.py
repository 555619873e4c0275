import base64
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from evaluation.stub import Config, serving
from tasks.moss import BENIGN, CONTRAST, item, write_flat, write_pictures, write_repository, write_set
from tasks.public import picture
from typer.testing import Result

from cleareyed.errors import InputError
from cleareyed.eval_plan import plan
from cleareyed.evaluation.models import AskedModel
from cleareyed.oversensitivity.outcomes import Judgement
from cleareyed.recipe import TaskSpec
from cleareyed.scoring.rewards import accuracy
from cleareyed.scoring.rules import OUTCOME_RULES, accuracy_rule
from cleareyed.tasks.catalog import load_task
from cleareyed.tasks.images import picture_bytes
from cleareyed.tasks.mossbench import TASKS, published_metadata
from cleareyed.tasks.prepare import Wanted, prepare
from cleareyed.tasks.task import Sample, Task

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
needs_data = pytest.mark.skipif(not (DATA / "mossbench").is_dir(), reason=f"no {DATA}/mossbench")


def moss(root: Path, name: str = "mossbench", path: str | None = None) -> dict[str, Sample]:
    return {sample.id: sample for sample in load_task(TaskSpec(name=name, path=path), root).samples}


def test_tags_are_decoded_and_items_with_one_question_are_one_group(tmp_path: Path) -> None:
    write_flat(tmp_path / "mossbench")
    task = load_task(TaskSpec(name="mossbench"), tmp_path)
    found = {sample.id: sample for sample in task.samples}
    assert task.rule == "complies"
    assert list(found) == [one["pid"] for one in BENIGN]
    assert [sample.skill for sample in found.values()] == ["ER", "ER", "NH", "NH", "CI", "CI"]
    assert found["1"].columns == {
        "set": "benign",
        "stimulus": "Exaggerated Risk",
        "human": False,
        "child": True,
        "synthetic": True,
        "text_in_image": False,
        "harm": ["General Harm"],
        "description": "Scene 1, described in full.",
        "image_path": "images/1.png",
    }
    assert found["102"].columns["harm"] == ["Harassment"]
    assert found["202"].columns["harm"] == []
    assert found["101"].group == found["102"].group != found["1"].group
    assert {one["pid"]: published_metadata(found[one["pid"]]) for one in BENIGN[:5]} == {
        one["pid"]: one["metadata"] for one in BENIGN[:5]
    }


def test_an_item_without_its_picture_stays_and_says_so(tmp_path: Path) -> None:
    folder = write_flat(tmp_path / "mossbench")
    found = moss(tmp_path)
    assert found["202"].missing == "picture images/202.png is not there"
    assert [sample.id for sample in found.values() if sample.missing] == ["202"]
    assert picture_bytes(found["1"].images[0]) == (folder / "images" / "1.jpg").read_bytes()


def test_the_contrast_set_borrows_benign_pictures_but_never_of_negated_harm(tmp_path: Path) -> None:
    folder = write_flat(tmp_path / "mossbench")
    found = moss(tmp_path, "mossbench_contrast")
    assert load_task(TaskSpec(name="mossbench_contrast"), tmp_path).rule == "declines"
    assert picture_bytes(found["101"].images[0]) == (folder / "contrast_images" / "101.jpg").read_bytes()
    assert picture_bytes(found["1"].images[0]) == (folder / "images" / "1.jpg").read_bytes()
    assert found["102"].missing  # its benign picture is there, and would negate the harm
    assert (found["1"].columns["set"], found["1"].columns["human"]) == ("contrast", None)
    assert published_metadata(found["1"]) == {"over": "type 1"}


def test_every_layout_gives_the_same_items(tmp_path: Path) -> None:
    write_repository(tmp_path / "mossbench")
    flat = tmp_path / "flat"
    write_flat(flat)
    write_pictures(flat / "images", ["202"], "webp")
    write_pictures(flat / "contrast_images", ["102"])
    hub = tmp_path / "hub" / "mossbench"
    write_set(hub / "information.csv", BENIGN)
    write_pictures(hub / "images", [one["pid"] for one in BENIGN])
    write_set(hub / "contrast_information.csv", CONTRAST)
    write_pictures(hub / "contrast_images", ["101", "102"])
    for name in TASKS:
        first = moss(tmp_path, name)
        for other in (moss(tmp_path, name, "flat"), moss(tmp_path / "hub", name)):
            assert list(other) == list(first)
            for key, sample in first.items():
                assert (other[key].columns, other[key].group) == (sample.columns, sample.group)
                assert not other[key].missing
                assert other[key].images[0]().size == (12, 8)
    write_set(tmp_path / "mossbench_contrast" / "information.json", CONTRAST[:1])
    assert list(moss(tmp_path, "mossbench_contrast")) == ["1"]  # a folder of its own comes first


def test_parquet_by_config_holds_its_pictures(tmp_path: Path) -> None:
    write_repository(tmp_path / "mossbench")
    for config, items in (("oversensitivity", BENIGN), ("contrast", CONTRAST)):
        rows: list[dict[str, Any]] = [
            {**one, "decoded_image": {"bytes": picture("red"), "path": "1.png"}} for one in items
        ]
        rows[0]["decoded_image"] = None
        file = tmp_path / "hub" / "mossbench" / config / "train-00000-of-00001.parquet"
        file.parent.mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows), file)
    for name in TASKS:
        first, other = moss(tmp_path, name), moss(tmp_path / "hub", name)
        assert list(other) == list(first)
        for key, sample in list(first.items())[1:]:
            assert (other[key].columns, other[key].group) == (sample.columns, sample.group)
            assert picture_bytes(other[key].images[0]) == picture("red")
        assert other["1"].missing


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metadata": {"over": "type 4"}}, "pid 1: field `metadata.over`: input should be 'ER', 'NH' or 'CI'"),
        ({"metadata": {"over": "type 1", "harm": [9]}}, r"field `metadata.harm.0`: .* 7"),
        ({"metadata": {"over": "type 1", "human": "some"}}, "field `metadata.human`"),
        ({"question": "  "}, "field `question`: is blank; correct it"),
        ({"pid": "7"}, "pid 1: its field `pid` is 7"),
        ({"image": None}, "field `image`"),
    ],
)
def test_malformed_items_are_named(tmp_path: Path, change: dict[str, object], message: str) -> None:
    file = write_flat(tmp_path / "mossbench") / "information.json"
    file.write_text(json.dumps({"1": {**BENIGN[0], **change}, "2": BENIGN[1]}))
    with pytest.raises(InputError, match=message):
        moss(tmp_path)
    found = prepare("mossbench", str(file.parent), tmp_path / "out", wanted=Wanted(leave_out_bad=True))
    assert (found.samples, found.left_out) == (1, {"bad row": 1})


def test_an_open_quote_in_the_csv_swallows_no_items(tmp_path: Path) -> None:
    folder = tmp_path / "mossbench"
    folder.mkdir()
    (folder / "information.csv").write_text('pid,image,question,over\n1,1.png,"Why?,type 1\n2,2.png,How?,type 2\n')
    with pytest.raises(InputError, match=r"information\.csv"):
        moss(tmp_path)


def test_pids_that_occur_twice_are_named_and_can_be_left_out(tmp_path: Path) -> None:
    file = write_flat(tmp_path / "mossbench") / "information.json"
    first, again = json.dumps(BENIGN[0]), json.dumps({**BENIGN[0], "question": "Another?"})
    file.write_text(f'{{"1": {first}, "1": {again}, "2": {json.dumps(BENIGN[1])}}}')
    with pytest.raises(InputError, match="pid 1: the pid has been used before"):
        moss(tmp_path)
    found = prepare("mossbench", str(file.parent), tmp_path / "out", wanted=Wanted(leave_out_bad=True))
    assert (found.samples, len(found.bad_rows)) == (2, 1)
    assert moss(tmp_path / "out")["1"].question == BENIGN[0]["question"]


def test_preparing_keeps_what_is_missing_and_counts_pictures_that_are_none(tmp_path: Path) -> None:
    folder = write_flat(tmp_path / "mossbench")
    (folder / "images" / "2.jpg").write_text("<html>not found</html>")
    with pytest.raises(InputError, match=r"pid 2.*image cannot be decoded"):
        prepare("mossbench", str(folder), tmp_path / "out")
    found = prepare("mossbench", str(folder), tmp_path / "out", wanted=Wanted(leave_out_bad=True))
    assert (found.samples, len(found.bad_rows)) == (5, 1)
    assert found.missing == {"202": "picture images/202.png is not there"}
    again = moss(tmp_path / "out")
    assert (again["1"].columns, again["1"].group) == (moss(tmp_path)["1"].columns, moss(tmp_path)["1"].group)
    assert again["202"].missing
    assert load_task(TaskSpec(name="mossbench"), tmp_path / "out").rule == "complies"


def test_a_folder_without_the_set_is_told_what_belongs_there(tmp_path: Path) -> None:
    (tmp_path / "mossbench").mkdir()
    with pytest.raises(InputError, match=r"holds no information\.json"):
        moss(tmp_path)
    write_set(tmp_path / "mossbench" / "information.json", BENIGN)
    with pytest.raises(InputError, match=r"holds no contrast_information\.json"):
        moss(tmp_path, "mossbench_contrast")  # the benign file is not taken for it
    with pytest.raises(InputError, match="field `split` does not apply"):
        load_task(TaskSpec(name="mossbench", split="test"), tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        prepare("mossbench", str(tmp_path / "none"), tmp_path / "out")


def check_gold(task: Task) -> None:
    rule = accuracy_rule(task.rule)
    for sample in task.samples:
        verdict = rule(sample.answer, sample)
        assert verdict.correct, (sample.id, verdict)
        assert not rule("", sample).correct or task.rule == "declines"
    assert task.rule in OUTCOME_RULES


def test_gold_answers_score_one_and_the_other_sets_do_not(tmp_path: Path) -> None:
    write_repository(tmp_path / "mossbench")
    benign, contrast = (load_task(TaskSpec(name=name), tmp_path) for name in TASKS)
    check_gold(benign)
    check_gold(contrast)
    assert not any(accuracy_rule("complies")(contrast.samples[0].answer, sample).correct for sample in benign.samples)
    assert not any(accuracy_rule("declines")(benign.samples[0].answer, sample).correct for sample in contrast.samples)


def test_complies_is_a_reward_and_sees_the_question(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["Sure. Put the blocks in a row and take turns.", "I'm sorry, but I can't help with that.", " "]
    rewards = accuracy(
        ["p"] * 3, texts, answer=["-"] * 3, question=["What game can be played with these?"] * 3, rule="complies"
    )
    assert rewards == [1.0, 0.0, 0.0]
    verdict = accuracy_rule("complies")(texts[1], Sample("1", "What game?", "-"))
    assert verdict.extracted == "refusal"
    shown = []

    def judge(text: str, question: str | None = None) -> Judgement:
        shown.append((text, question))
        return Judgement("", "capability", 1.0, "")

    monkeypatch.setattr("cleareyed.oversensitivity.judges.open.state_of", judge)
    assert accuracy(["p"], ["Yes."], answer=["-"], question=["May I?"], rule="complies") == [0.0]
    assert accuracy_rule("declines")("Yes.", Sample("1", "", "-")).correct
    assert shown == [("Yes.", "May I?"), ("Yes.", None)]


def test_the_papers_protocol_is_the_usual_one_and_samples_by_provider() -> None:
    def asked(model: str, **named: object) -> tuple[object, ...]:
        (spec,) = plan(TaskSpec(name="mossbench"), AskedModel(path=model), **named).measure  # type: ignore[arg-type]
        return spec.protocol, spec.prompt, spec.max_tokens, spec.temperature, spec.top_p, spec.seed, spec.system

    assert asked("openai:NAME") == ("paper", "instruct-no-reasoning", 4096, 0.0, 1.0, 42, None)
    assert asked("anthropic:NAME") == ("paper", "instruct-no-reasoning", 1024, 0.0, None, None, None)
    assert asked("google:NAME") == ("paper", "instruct-no-reasoning", 8192, 1.0, 0.95, None, None)
    assert asked("tiny-base") == ("paper", "bare", 1000, 0.0, None, None, None)
    assert asked("google:NAME", temperature=0.0, max_tokens=50)[2:4] == (50, 0.0)
    assert plan(TaskSpec(name="mossbench_contrast"), AskedModel(path="tiny-base")).rules == ("declines",)
    with pytest.raises(InputError, match="unknown protocol of task `mossbench`"):
        plan(TaskSpec(name="mossbench"), AskedModel(path="tiny-base"), protocol="lmms-eval")


def test_a_model_is_not_asked_what_lacks_its_picture(tmp_path: Path, command: Callable[..., Result]) -> None:
    write_flat(tmp_path / "mossbench")
    found = command("eval", "mossbench", "--model", "tiny-base", "--max-tokens", "2", "--data-root", tmp_path)
    assert found.exit_code == 1, found.output  # 5 of 6 is less than the coverage wanted
    assert "5 of 6 samples judged" in found.output and "1 not asked" in found.output
    assert "The pictures of 1 sample are not there" in found.output and "202" in found.output
    lines = (tmp_path / "runs" / "eval-mossbench-tiny-base" / "journal.jsonl").read_text().splitlines()
    assert {json.loads(line)["sample_id"] for line in lines} == {"1", "2", "101", "102", "201"}


@needs_data
def test_the_real_sets_hold_what_the_paper_counts() -> None:
    task = load_task(TaskSpec(name="mossbench"), DATA)
    check_gold(task)
    assert Counter(sample.skill for sample in task.samples) == {"ER": 100, "NH": 100, "CI": 100}
    missing = [sample.id for sample in task.samples if sample.missing]
    assert missing == ["21", "72", "186", "191", "192", "203", "208", "218", "234", "245", "247"]
    tags = {name: sum(sample.columns[name] for sample in task.samples) for name in ("human", "child", "synthetic")}
    assert tags == {"human": 178, "child": 90, "synthetic": 61}
    harms = Counter(harm for sample in task.samples for harm in sample.columns["harm"])
    assert (harms["General Harm"], harms["Illegal act"], harms["Cybercrime"]) == (121, 78, 3)
    by_stimulus = {skill: {one.group for one in task.samples if one.skill == skill} for skill in ("ER", "NH", "CI")}
    assert {skill: len(groups) for skill, groups in by_stimulus.items()} == {"ER": 97, "NH": 45, "CI": 97}
    contrast = load_task(TaskSpec(name="mossbench_contrast"), DATA)
    check_gold(contrast)
    assert Counter(sample.skill for sample in contrast.samples) == {"ER": 100, "NH": 44, "CI": 100}
    assert [sample.id for sample in contrast.samples if sample.missing and sample.skill == "NH"] == ["191"]


def test_a_hosted_model_is_asked_the_bare_question_with_its_picture(
    tmp_path: Path, command: Callable[..., Result]
) -> None:
    folder = tmp_path / "mossbench"
    write_set(folder / "information.json", [item(1, 1, "What is sample s1?"), item(2, 1, "What is sample s2?")])
    write_pictures(folder / "images", ["1"])
    (folder / "images" / "2.png").write_text("<html>not found</html>")
    with serving(Config()) as stub:
        asked = ("eval", "mossbench", "--model", "openai:stub", "--base-url", stub.url, "--out", "run")
        refused = command(*asked, "--data-root", tmp_path)
        assert refused.exit_code == 2 and not stub.seen
        said = " ".join(refused.output.split())
        assert "sample 2: " in said and "2.png): image cannot be decoded" in said and "save it anew" in said
        (folder / "images" / "2.png").unlink()  # missing pictures are not asked about, and counted
        found = command(*asked, "--data-root", tmp_path, "--min-coverage", 0.5)
        assert found.exit_code == 0, found.output
        body = json.loads(stub.last.partition(b"\r\n\r\n")[2])
    (message,) = body["messages"]  # no system prompt
    assert message["role"] == "user"
    assert [part["text"] for part in message["content"] if part["type"] == "text"] == ["What is sample s1?"]
    (shown,) = [part for part in message["content"] if part["type"] == "image_url"]
    sent = base64.b64decode(shown["image_url"]["url"].partition(",")[2])
    assert sent == (folder / "images" / "1.png").read_bytes()
    assert (body["temperature"], body["top_p"], body["seed"]) == (0, 1, 42)
    text = " ".join(found.output.split())
    assert "1 of 2 samples judged" in text and "1 not asked" in text, text
