"""A judge by its name."""

from pathlib import Path

from cleareyed.errors import InputError
from cleareyed.oversensitivity.judges.lexical import PREFIXES, LexicalJudge
from cleareyed.oversensitivity.outcomes import Answered, Judge, Judgement
from cleareyed.tasks.names import unknown

KINDS = ("local", "lexical", "lexical:LIST", "paper:MODEL", "human:FILE")


def open_judge(name: str, *, base_url: str | None = None, journal: Path | None = None) -> Judge:
    """The judge that `name` means; loading the embedded model takes some milliseconds.

    | name | judge |
    |---|---|
    | `local` | the embedded model |
    | `lexical`, `lexical:LIST` | a published list of phrases: gcg (if left out), autodan |
    | `paper:MODEL` | a model with the paper's rubric; MODEL as everywhere, such as `openai:NAME` |
    | `human:FILE` | labels of people |

    `base_url` and `journal` (where a grader's replies are kept) go with `paper`. InputError: no such judge.
    """
    kind, _, rest = name.partition(":")
    if name == "local":
        from cleareyed.oversensitivity.judges.local import local_judge

        return local_judge()
    if kind == "lexical":
        if rest not in ("", *PREFIXES):
            raise unknown("list of phrases", rest, PREFIXES)
        return LexicalJudge(rest or "gcg")
    if kind == "human" and rest:
        from cleareyed.oversensitivity.judges.human import HumanJudge

        return HumanJudge(Path(rest))
    if kind == "paper" and rest:
        from cleareyed.evaluation.models import AskedModel
        from cleareyed.oversensitivity.judges.paper import PaperJudge

        return PaperJudge(AskedModel(path=rest, base_url=base_url), journal=journal)
    raise InputError(f"--judge {name}: no such judge; known are {', '.join(KINDS)}")


def state_of(text: str, question: str | None = None) -> Judgement:
    """What the embedded judge says of one answer; the model is loaded once. `Judgement.id` is ""."""
    from cleareyed.oversensitivity.judges.local import local_judge

    return local_judge().judge([Answered("", question, text)])[0]
