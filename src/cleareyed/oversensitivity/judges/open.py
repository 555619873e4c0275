"""A judge by its name."""

from cleareyed.errors import InputError
from cleareyed.oversensitivity.judges.lexical import PREFIXES, LexicalJudge
from cleareyed.oversensitivity.outcomes import Answered, Judge, Judgement
from cleareyed.tasks.names import unknown

KINDS = ("local", "lexical", "lexical:LIST")


def open_judge(name: str) -> Judge:
    """The judge that `name` means; loading the embedded model takes some milliseconds.

    | name | judge |
    |---|---|
    | `local` | the embedded model |
    | `lexical`, `lexical:LIST` | a published list of phrases: gcg (if left out), autodan |

    InputError: no such judge.
    """
    kind, _, rest = name.partition(":")
    if name == "local":
        from cleareyed.oversensitivity.judges.local import local_judge

        return local_judge()
    if kind == "lexical":
        if rest not in ("", *PREFIXES):
            raise unknown("list of phrases", rest, PREFIXES)
        return LexicalJudge(rest or "gcg")
    raise InputError(f"--judge {name}: no such judge; known are {', '.join(KINDS)}")


def state_of(text: str, question: str | None = None) -> Judgement:
    """What the embedded judge says of one answer; the model is loaded once. `Judgement.id` is ""."""
    from cleareyed.oversensitivity.judges.local import local_judge

    return local_judge().judge([Answered("", question, text)])[0]
