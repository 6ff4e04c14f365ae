"""The Hugging Face hub as a place for SAEs: downloads the files of one, and turns the hub's exceptions into errors for a person."""

from __future__ import annotations

import contextlib
import glob
import re
from pathlib import Path

from core.errors import NotReady, UsageError


def parse(spec: str) -> tuple[str, str, str]:
    """(owner/repo, folder or file within it, revision) of `hf:owner/repo[/folder][@revision]`."""
    found = re.fullmatch(r"hf:([\w.-]+/[\w.-]+)(?:/(.+?))?/?(?:@([^@]+))?", spec)
    if not found:
        raise UsageError(
            f"{spec!r} names no repository.",
            "Write hf:owner/repo/folder, and @revision behind it if you need one.",
        )
    return found[1], found[2] or "", found[3] or ""


def fetch(repo: str, paths: list[str], revision: str = "") -> Path:
    """The folder of this machine's cache with those of `paths` that the repository has; only what is missing is downloaded."""
    import huggingface_hub

    with hub_errors(repo, revision):
        return Path(
            huggingface_hub.snapshot_download(
                repo,
                revision=revision or None,
                allow_patterns=[glob.escape(path) for path in paths],
            )
        )


def list_files(repo: str, revision: str = "") -> list[str]:
    """Every file of the repository, or nothing when the hub cannot be asked."""
    import huggingface_hub
    from huggingface_hub.errors import HTTPError

    try:
        return huggingface_hub.list_repo_files(repo, revision=revision or None)
    except (OSError, HTTPError):
        return []


@contextlib.contextmanager
def hub_errors(repo: str, revision: str):
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except GatedRepoError:
        raise NotReady(
            f"{repo} is a gated repository and this machine has no access to it.",
            "Accept its terms on the hub, then set HF_TOKEN and type the command again.",
        ) from None
    except (RepositoryNotFoundError, HFValidationError):
        raise UsageError(
            f"There is no repository {repo!r} on the hub, or it is private.",
            "Check the name; for a private one set HF_TOKEN.",
        ) from None
    except RevisionNotFoundError:
        raise UsageError(
            f"{repo} has no revision {revision!r}.",
            "Leave out @revision, or name a branch, tag or commit that it has.",
        ) from None
    except (LocalEntryNotFoundError, HfHubHTTPError, ConnectionError) as error:
        raise NotReady(
            f"{repo} is not in this machine's cache, and the hub cannot be reached ({type(error).__name__}).",
            "Check the connection, or give a local folder that holds the SAE.",
        ) from None


@contextlib.contextmanager
def subject_errors(name: str):
    """Turn the hub's exceptions into errors for a person."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        yield
    except (
        OSError
    ) as error:  # transformers raises OSError and keeps the hub's own error as its cause
        causes = [error, error.__cause__, error.__context__]
        if any(isinstance(c, GatedRepoError) for c in causes) or "gated repo" in str(error):
            raise NotReady(
                f"{name} is a gated repository and this machine has no access to it.",
                "Accept its terms on the hub, then set HF_TOKEN and type the command again.",
            ) from None
        if any(isinstance(c, LocalEntryNotFoundError) for c in causes) or "couldn't connect" in str(
            error
        ):
            raise NotReady(
                f"{name} is not a folder here, and the hub cannot be reached.",
                "Check the name and the connection, or give a local folder.",
            ) from None
        if any(
            isinstance(c, (RepositoryNotFoundError, HFValidationError)) for c in causes
        ) or "not a local folder" in str(error):
            raise UsageError(
                f"There is no subject {name!r}, neither as a folder here nor on the hub.",
                "Give a folder with config.json and weights, or a hub name such as gpt2.",
            ) from None
        raise UsageError(
            f"The subject {name!r} cannot be loaded: {str(error).splitlines()[0]}",
            "Give a folder with config.json, weights and tokenizer.json, or a hub name such as gpt2.",
        ) from None
    except (ValueError, KeyError) as error:
        raise UsageError(
            f"The subject {name!r} cannot be loaded: {str(error).splitlines()[0]}",
            "Give a causal language model in Hugging Face layout.",
        ) from None
