"""Data sets from the hub: their data files, fetched into the hub's own cache."""

from collections.abc import Sequence
from pathlib import Path

from cleareyed.errors import InputError


def hub_folder(repository: str, files: Sequence[str]) -> tuple[Path, str]:
    """The folder in the cache that holds those files (patterns) of `OWNER/NAME` or `OWNER/NAME@REVISION`, and the
    commit that it is.

    Only data files are fetched, no code. InputError: no such data set or file, or no way to the hub.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    name, _, revision = repository.partition("@")
    try:
        folder = Path(
            snapshot_download(name, repo_type="dataset", revision=revision or None, allow_patterns=list(files))
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = " ".join(str(error).split())[:160]
        raise InputError(
            f"hub:{repository}: cannot be fetched ({reason}); check the name and the way there"
        ) from error
    if not any(next(folder.glob(pattern), None) for pattern in files):
        raise InputError(f"hub:{repository}: holds no {' or '.join(files)}; check the name")
    return folder, folder.name
