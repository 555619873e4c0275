"""`cleareyed judge train` and `bench`: fitting the embedded judge, and how far judges agree with labels."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from cleareyed.console import table_console
from cleareyed.oversensitivity.judges.open import open_judge


def train(data_root: Path, to: Path, seed: int) -> None:
    """Choose and fit the embedded judge on all labelled answers and write it to `to`."""
    from rich.progress import Progress

    from cleareyed.oversensitivity.judges.fit import fit_judge, fit_own, material
    from cleareyed.oversensitivity.judges.model import save_model
    from cleareyed.oversensitivity.judges.nested import choose_for_all
    from cleareyed.oversensitivity.judges.sources import xstest

    console = Console(stderr=True)
    labelled = xstest(data_root)
    console.print("reading our own sentences", highlight=False)
    own = fit_own(seed)
    console.print(f"reading {len(labelled):,} labelled answers", highlight=False)
    people = material(own, labelled)
    with Progress(console=console, transient=True) as bar:
        advance = _advance(bar, bar.add_task("folds"))
        choice = choose_for_all(own, people, advance)
    save_model(fit_judge(choice, own, people), to)
    digest = sha256(to.read_bytes()).hexdigest()
    console.print(f"{to}: {to.stat().st_size / 2**20:.1f} MiB, sha256 {digest}", highlight=False)
    console.print(str(choice), highlight=False)


def bench(data_root: Path, pyrit: Sequence[Path], json_path: Path | None, others: Sequence[str] = ()) -> None:
    """Print how far every judge agrees with every labelled set under `data_root`."""
    from rich.progress import Progress

    from cleareyed.oversensitivity.judges.bench import bench as measure

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("folds")
        rows = measure(data_root, pyrit, [open_judge(name) for name in others], _advance(bar, task))
    if json_path is not None:
        json_path.parent.mkdir(parents=True, exist_ok=True)
        json_path.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", "utf-8")
    table = Table(title="Agreement of judges with labels (95 % intervals)", title_justify="left")
    for name in ("labels", "judge", "seen", "n", "complied or not", "three classes", "declined or not", "kappa"):
        table.add_column(name)
    for name in ("macro-F1", "partial", "refusal / capability", "ECE"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            row.labels,
            row.judge,
            row.note,
            str(row.n),
            _share(row.compliance, row.compliance_interval),
            _share(row.three, row.three_interval),
            _share(row.declined, row.declined_interval),
            _share(row.kappa, row.kappa_interval),
            _number(row.macro_f1),
            f"{_number(row.partial_recall)} of {row.partials}" if row.partials else "",
            f"{_number(row.refusal_or_capability)} of {row.refusal_or_capability_n}"
            if row.refusal_or_capability is not None
            else "",
            _number(row.calibration_error),
        )
    table_console().print(table)


def _advance(bar: Any, task: Any) -> Callable[[int, int], None]:
    return lambda done, total: bar.update(task, completed=done, total=total)


def _share(value: float | None, interval: Any) -> str:
    return "" if value is None else f"{value:.3f} ({interval.low:.3f}-{interval.high:.3f})"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
