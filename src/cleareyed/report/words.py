"""How numbers and text are written in tables and pages."""

import unicodedata

TITLES = {
    "base": "Base",
    "base/no-reasoning": "Base, asked without reasoning",
    "sft": "SFT",
    "grpo": "GRPO",
}
MISSING = "–"  # noqa: RUF001


def title_of(label: str) -> str:
    return TITLES.get(label, label)


def percent(share: float | None) -> str:
    """A fraction in 0..1 as per cent with one decimal, without the sign: 0.613 is "61.3"."""
    return MISSING if share is None else f"{100 * share:.1f}"


def percent_range(low: float, high: float) -> str:
    return f"{percent(low)} to {percent(high)}"


def share_in(share: float, low: float, high: float) -> str:
    """A share in per cent and its interval in whole ones, for tables that have to fit a terminal: `46.3 (40-53)`."""
    return f"{percent(share)} ({100 * low:.0f}-{100 * high:.0f})"


def points(difference: float) -> str:
    """A difference of shares in percentage points, with its sign."""
    return f"{100 * difference:+.1f}"


def points_range(low: float, high: float) -> str:
    return f"{points(low)} to {points(high)}"


def number(value: float | None, decimals: int = 0) -> str:
    return MISSING if value is None else f"{value:,.{decimals}f}"


def p_value(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def duration(seconds: float | None) -> str:
    if seconds is None:
        return MISSING
    if seconds < 60:
        return f"{seconds:.1f} s"
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours} h {rest // 60} min" if hours else f"{rest // 60} min {rest % 60} s"


def visible(text: str) -> str:
    """Text as sampled, with characters that hide or reorder other text (controls, bidi marks) shown as U+FFFD."""
    return "".join(
        char if char in "\n\t" or unicodedata.category(char) not in ("Cc", "Cf", "Cs") else "\N{REPLACEMENT CHARACTER}"
        for char in text
    )
