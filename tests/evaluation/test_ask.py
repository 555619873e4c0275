"""Asking: every sample once, at the pace the server bears, and an end where there is no hope."""

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from evaluation.stub import Config

from benchmarks.eval_faults import full_disk, hopeless, kills, never_answers, survived, two_processes
from cleareyed.errors import InputError
from cleareyed.evaluation.answers import AskError, Reply
from cleareyed.evaluation.ask import Limits, Summary, ask_all
from cleareyed.evaluation.journal import Journal, read_answers
from cleareyed.evaluation.pace import Pace
from cleareyed.evaluation.request import AskParams, Prepared, Request, request_hash

PARAMS = AskParams(max_tokens=16)
QUICK = Limits(backoff=0.01)


class Scripted:
    """An answerer in memory: what `script` says of a sample's n-th attempt."""

    name = "scripted"
    revision: str | None = None

    def __init__(self, script: Callable[[int, int], Reply | AskError], seconds: float = 0.0) -> None:
        self.script, self.seconds = script, seconds
        self.tries: dict[int, int] = {}
        self.now = self.peak = 0

    def prepare(self, request: Request) -> Prepared:
        if request.prompt == "too large":
            raise AskError("permanent", "image is too large")
        return Prepared(int(request.sample_id), request_hash([request.prompt.encode()]), "scaled")

    async def send(self, prepared: Prepared) -> Reply:
        number = prepared.sent
        self.tries[number] = self.tries.get(number, 0) + 1
        self.now += 1
        self.peak = max(self.peak, self.now)
        await asyncio.sleep(self.seconds)
        self.now -= 1
        found = self.script(number, self.tries[number])
        if isinstance(found, AskError):
            raise found
        return found

    async def close(self) -> None:
        pass


def good(number: int, attempt: int) -> Reply:
    return Reply("answered", f"({number})", "stop", prompt_tokens=3, completion_tokens=2)


def requests(count: int) -> Iterator[Request]:
    for number in range(count):
        yield Request(str(number), f"Q{number}", "", (), True, PARAMS)


def run(answerer: Scripted, path: Path, asked: Iterator[Request], limits: Limits = QUICK, **more: object) -> Summary:
    async def ask() -> Summary:
        with Journal.open(path) as journal:
            return await ask_all(asked, answerer, journal, limits=limits, **more)

    return asyncio.run(ask())


def test_all_are_asked_once_and_never_again(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    first = run(Scripted(good), path, requests(60))
    assert first.states["answered"] == first.asked == 60 and first.reused == 0 and first.stopped is None
    assert (first.prompt_tokens, first.completion_tokens) == (180, 120)
    again = Scripted(good)
    second = run(again, path, requests(80))
    assert second.reused == 60 and second.asked == 20 and set(again.tries) == set(range(60, 80))
    answers = {answer.sample_id: answer for answer in read_answers(path)}
    assert len(answers) == 80
    assert answers["7"].text == "(7)" and answers["7"].attempts == 1 and answers["7"].note == "scaled"
    changed = Scripted(good)
    changed.revision = "other weights"
    assert run(changed, path, requests(80)).reused == 0


def test_errors_that_may_pass_are_tried_again_and_others_are_not(tmp_path: Path) -> None:
    def script(number: int, attempt: int) -> Reply | AskError:
        if number % 10 == 3 and attempt < 3:
            return AskError("transient", "HTTP 500")
        if number % 10 == 4:
            return AskError("permanent", "HTTP 400: no")
        if number % 10 == 5:
            return AskError("transient", "HTTP 500")
        return good(number, attempt)

    answerer = Scripted(script)
    summary = run(answerer, tmp_path / "answers.jsonl", requests(40))
    assert summary.states["answered"] == 32 and summary.states["failed"] == 8
    assert summary.errors == {"permanent": 4, "quota": 0, "throttled": 0, "transient": 8 + 20}
    assert (answerer.tries[3], answerer.tries[4], answerer.tries[5]) == (3, 1, 5)
    answers = {answer.sample_id: answer for answer in read_answers(tmp_path / "answers.jsonl")}
    assert answers["3"].attempts == 3
    assert (answers["4"].state, answers["4"].error, answers["4"].finish) == ("failed", "HTTP 400: no", "permanent")
    retried = run(Scripted(good), tmp_path / "answers.jsonl", requests(40))
    assert retried.reused == 32 and retried.states["answered"] == 8
    assert {answer.state for answer in read_answers(tmp_path / "answers.jsonl")} == {"answered"}


def test_a_picture_that_cannot_be_sent_fails_alone(tmp_path: Path) -> None:
    asked = [Request(str(n), "too large", "", (), True, PARAMS) for n in range(40)]
    summary = run(Scripted(good), tmp_path / "answers.jsonl", iter([*asked, *requests(5)]))
    assert summary.stopped is None and summary.states["failed"] == 40 and summary.states["answered"] == 5


def test_nothing_is_sent_in_a_pause_and_the_pace_is_cut_once(tmp_path: Path) -> None:
    times: list[float] = []

    def script(number: int, attempt: int) -> Reply | AskError:
        times.append(time.monotonic())
        if len(times) <= 10:
            return AskError("throttled", "HTTP 429", 0.3)
        return good(number, attempt)

    summary = run(Scripted(script), tmp_path / "answers.jsonl", requests(30), Limits(start=10, most=40, backoff=0.01))
    assert summary.states["answered"] == 30 and summary.errors["throttled"] == 10
    assert min(times[10:]) - max(times[:10]) > 0.25


def test_the_pace_doubles_then_halves_then_climbs() -> None:
    async def drive() -> None:
        pace = Pace(start=4, most=40)
        tickets = [await pace.enter() for _ in range(4)]
        for _ in range(4):
            pace.grow()
        assert pace.limit == 8
        pace.used = 8
        for ticket in tickets:
            pace.cut(ticket)
        assert pace.limit == 4  # once for all that were in flight together
        pace.used = 4
        pace.grow()
        assert pace.limit == 4.5  # by a twentieth of the most (2) in a round of 4
        pace.used = 0
        pace.grow()
        assert pace.limit == 4.5  # who does not use what he has gets no more

    asyncio.run(drive())


def test_no_more_than_the_most_are_in_flight(tmp_path: Path) -> None:
    answerer = Scripted(good, 0.005)
    summary = run(answerer, tmp_path / "answers.jsonl", requests(400), Limits(start=2, most=25))
    assert answerer.peak == summary.peak == 25


def test_requests_are_drawn_as_places_become_free(tmp_path: Path) -> None:
    ahead: list[int] = []
    answerer = Scripted(good, 0.002)

    def drawn() -> Iterator[Request]:
        for number, request in enumerate(requests(500)):
            ahead.append(number - len(answerer.tries))
            yield request

    run(answerer, tmp_path / "answers.jsonl", drawn(), Limits(start=10, most=10))
    assert len(ahead) == 500 and max(ahead) <= 2


@pytest.mark.parametrize(
    ("error", "said", "most"),
    [
        (AskError("permanent", "HTTP 401", hopeless=True), "HTTP 401", 20),
        (AskError("permanent", "HTTP 400"), "the first 10 samples all failed, the last one with: HTTP 400", 30),
        (AskError("throttled", "HTTP 429", 7200), "asks to wait 7200 s", 30),
    ],
)
def test_a_model_without_hope_is_given_up(tmp_path: Path, error: AskError, said: str, most: int) -> None:
    answerer = Scripted(lambda number, attempt: error)
    summary = run(answerer, tmp_path / "answers.jsonl", requests(500))
    assert summary.stopped is not None and said in summary.stopped
    assert len(answerer.tries) <= most and summary.states["failed"] == len(answerer.tries)


def test_a_quota_that_ends_in_the_middle_stops_the_rest(tmp_path: Path) -> None:
    answerer = Scripted(
        lambda number, attempt: good(number, attempt) if number < 50 else AskError("quota", "no money")
    )
    summary = run(answerer, tmp_path / "answers.jsonl", requests(500))
    assert summary.states["answered"] == 50
    assert summary.stopped == "20 errors in a row that asking again cannot mend, the last one: no money"
    resumed = run(Scripted(good), tmp_path / "answers.jsonl", requests(500))
    assert resumed.reused == 50 and resumed.asked == 450


def test_an_error_of_ours_is_raised_and_what_came_before_is_kept(tmp_path: Path) -> None:
    def script(number: int, attempt: int) -> Reply | AskError:
        if number == 30:
            raise KeyError("a mistake")
        return good(number, attempt)

    with pytest.raises(KeyError, match="a mistake"):
        run(Scripted(script), tmp_path / "answers.jsonl", requests(100), Limits(start=1, most=1))
    assert len(list(read_answers(tmp_path / "answers.jsonl"))) == 30

    def broken() -> Iterator[Request]:
        yield from requests(5)
        raise InputError("row 5: image is broken")

    with pytest.raises(InputError, match="row 5"):
        run(Scripted(good), tmp_path / "other.jsonl", broken())


def test_progress_tells_rate_errors_tokens_and_time_left(tmp_path: Path) -> None:
    shown: list[Summary] = []
    last = run(Scripted(good, 0.1), tmp_path / "a.jsonl", requests(20), Limits(4, 4), total=20, progress=shown.append)
    assert len(shown) >= 2
    half = next(summary for summary in shown if 0 < summary.asked < 20)
    assert half.rate > 0 and half.seconds_left is not None and half.seconds_left > 0 and half.in_flight <= 4
    assert shown[-1].asked == 20 and shown[-1].seconds_left == 0 and shown[-1].completion_tokens == 40
    assert last.states == shown[-1].states


def test_three_kills_lose_nothing_and_ask_nothing_again(tmp_path: Path) -> None:
    found = kills(tmp_path, times=3, count=300, latency=0.02, most=20)
    assert found["passed"], found


@pytest.mark.parametrize("fault", ["error", "reset", "half", "garbage"])
def test_a_bad_server_changes_no_table(tmp_path: Path, fault: str) -> None:
    config = Config(faults={fault: 0.1}, states=True)
    found = survived(tmp_path, config, 100, lambda found, stub: found["errors"]["transient"] > 3)
    assert found["passed"], found


def test_bursts_of_429_are_waited_out(tmp_path: Path) -> None:
    config = Config(latency=0.01, burst=(60, 0.4))
    found = survived(tmp_path, config, 150, lambda found, stub: stub.throttled > 0 and not stub.early)
    assert found["passed"], found


def test_a_silent_server_is_given_up(tmp_path: Path) -> None:
    found = never_answers(tmp_path)
    assert found["passed"], found


def test_a_wrong_key_ends_it_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    found = hopeless(tmp_path, 401, '{"error":{"message":"Incorrect API key provided: sk-abcdef123456"}}')
    assert found["passed"] and found["stopped"] == "HTTP 401: Incorrect API key provided: [redacted]", found


def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    found = full_disk(tmp_path, 120)
    assert found["passed"], found


def test_a_second_process_is_told(tmp_path: Path) -> None:
    found = two_processes(tmp_path)
    assert found["passed"], found
