"""The folder that a hub shows a run by: card, numbers, pictures, delta; and sending it there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from efface.errors import BadRequest, MissingInput
from efface.files import write_atomically
from efface.reports.card_text import card_text, eval_results

__all__ = ["HUB_CARD", "RESULTS", "check_repository", "push", "with_names", "write_repository"]

HUB_CARD = "README.md"
RESULTS = ".eval_results/efface.yaml"
_ALONG = ("before_after.png", "intervals.png", "thumbnail.jpg", "delta.safetensors")
"""Files of a run that go along; ``run.json`` stays, since it names places of a machine."""


def with_names(
    values: Mapping[str, Any], *, base_model: str = "", licence: str = "", licence_link: str = ""
) -> dict[str, Any]:
    """Puts what a user says of the base into a card's values.

    Args:
        values: the content of ``card.json``.
        base_model: the base's name on the hub.
        licence: as hubs name it.
        licence_link: where it is written.

    Raises:
        BadRequest: the name is not ``owner/name``.
    """
    if base_model:
        check_repository(base_model)
    told = {"base_model": base_model, "license": licence, "license_link": licence_link}
    given = {name: text for name, text in told.items() if text}
    if licence:
        given.setdefault("license_link", "")
        given["license_name"] = ""
    made = {name: text or None for name, text in given.items()}
    return {**values, "publishing": {**values["publishing"], **made}}


def check_repository(name: str) -> None:
    """Refuses what is no name of a repository.

    Raises:
        BadRequest: it is not ``owner/name``.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise BadRequest(f"'{name}' is no name on the hub ({error}); give owner/name") from error
    if name.count("/") != 1:
        raise BadRequest(f"'{name}' is no name on the hub; give owner/name")


def write_repository(
    folder: Path, run: Path, values: Mapping[str, Any], files: Sequence[Path] = ()
) -> tuple[str, ...]:
    """Writes the files of a repository, all of whose text comes from a card's values.

    Args:
        folder: where to; it is there and empty.
        run: the run's folder.
        values: the content of ``card.json``.
        files: further files to put beside it, such as an exported LoRA.

    Returns:
        The names of the files, in order.

    Raises:
        MissingInput: a file is not there.
        BadRequest: two files have the same name.
    """
    text = json.dumps(values, indent=1, allow_nan=False) + "\n"
    write_atomically(folder / HUB_CARD, card_text(values).encode())
    write_atomically(folder / "card.json", text.encode())
    if results := eval_results(values):
        write_atomically(folder / RESULTS, results.encode())
    for file in (*(run / name for name in _ALONG if (run / name).is_file()), *files):
        if not file.is_file():
            raise MissingInput(f"there is no file {file} to put beside the card")
        if (folder / file.name).exists():
            raise BadRequest(f"{file} has the name of another file there; rename it")
        shutil.copyfile(file, folder / file.name)
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return tuple(path.relative_to(folder).as_posix() for path in found)


def push(folder: Path, repository: str, *, private: bool) -> str:
    """Sends a folder to a repository of the hub, which is made if it is not there.

    Gives the address of the commit. The user's own token is used, as huggingface_hub finds it.

    Raises:
        BadRequest: the hub refused it or cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    interface = HfApi(library_name="efface")
    try:
        interface.create_repo(repository, private=private, exist_ok=True)
        commit = interface.upload_folder(
            repo_id=repository, folder_path=folder, commit_message="Erasure Card and delta"
        )
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise BadRequest(
            f"the hub did not take {repository} ({reason}); log in with: hf auth login"
        ) from error
    return str(commit)
