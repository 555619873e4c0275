"""What several test files need: a small random checkpoint on disk, and the command line in this process."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tiny import save_plainly, tiny_qwen2_vl
from typer.testing import CliRunner, Result

from cleareyed.cli import app

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen2-VL of a few thousand parameters, as a folder."""
    folder = tmp_path_factory.mktemp("checkpoint") / "model"
    save_plainly(tiny_qwen2_vl(), folder)
    return folder


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run `cleareyed ARGUMENTS` in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CLEAREYED_DATA", raising=False)
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])
