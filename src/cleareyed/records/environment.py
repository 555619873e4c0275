"""What a run ran on: versions, machine and commit, without anything that names a person or a place."""

import datetime
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import cleareyed

PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "pillow", "pyarrow", "pydantic")


def describe_environment(seed: int | None) -> dict[str, Any]:
    """Versions, processor, seed, commit and the present time (UTC), fit for `environment.json`.

    Leaves out on purpose: host and user names, paths and environment variables. Torch's threads and the accelerator
    are None in a process that has not imported torch, which is then not imported for this.
    """
    torch: Any = sys.modules.get("torch")
    return {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seed": seed,
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in ("cleareyed", *PACKAGES)},
        "system": platform.system(),
        "release": platform.release(),
        "machine": platform.machine(),
        "cpu_count": os.cpu_count(),
        "torch_threads": torch.get_num_threads() if torch else None,
        "accelerator": torch.cuda.get_device_name() if torch and torch.cuda.is_available() else None,
        "commit": _commit(),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> dict[str, Any] | None:
    """The commit this package's source is checked out at; None if it is installed outside its repository."""
    source = Path(cleareyed.__file__).resolve()

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(source.parent), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", source.name)  # fails in a repository that merely contains the environment
        return {"id": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return None
