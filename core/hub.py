"""Download files from the Hugging Face hub, and turn the hub's exceptions into two-line errors."""

from __future__ import annotations

import contextlib
import glob
import re
from collections.abc import Iterator
from pathlib import Path

from core.errors import NotReady, UsageError


def parse(spec: str) -> tuple[str, str, str]:
    """Split `hf:owner/repo[/path][@revision]` into (owner/repo, path within it, revision).

    Raises UsageError for any other form.
    """
    match = re.fullmatch(r"hf:([\w.-]+/[\w.-]+)(?:/(.+?))?/?(?:@([^@]+))?", spec)
    if not match:
        raise UsageError(
            f"{spec!r} names no repository.",
            "Write hf:owner/repo/folder, and @revision after it if you need one.",
        )
    return match[1], match[2] or "", match[3] or ""


def fetch(repo: str, paths: list[str], revision: str = "") -> Path:
    """Download those of `paths` that the repository has; returns their folder in the local cache.

    Files that the cache already holds are not downloaded again. Raises UsageError or NotReady.
    """
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
    """The paths of all files of the repository; empty when the hub does not answer."""
    import huggingface_hub
    from huggingface_hub import errors

    any_http_error: type[Exception] = vars(errors)["HTTPError"]  # the base class of its HTTP client
    try:
        return huggingface_hub.list_repo_files(repo, revision=revision or None)
    except (OSError, any_http_error):
        return []


@contextlib.contextmanager
def hub_errors(repo: str, revision: str) -> Iterator[None]:
    """Context manager: turns exceptions of a download from `repo` into UsageError or NotReady."""
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
        raise _gated(repo) from None
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
            f"{repo} is not in the local cache, and the hub cannot be reached "
            f"({type(error).__name__}).",
            "Check the connection, or give a local folder that holds the SAE.",
        ) from None


@contextlib.contextmanager
def subject_errors(name: str) -> Iterator[None]:
    """Context manager: turns exceptions of loading subject `name` into UsageError or NotReady."""
    try:
        yield
    except OSError as error:
        raise _explain_load_error(name, error) from None
    except (UsageError, NotReady):
        raise
    except Exception as error:  # libraries raise whatever their parsers meet in a damaged file
        if "trust_remote_code" in str(error):
            raise UsageError(
                f"The subject {name!r} comes with code of its own, which is not run unasked.",
                "Read that code; if you trust it, add --trust-remote-code.",
            ) from None
        raise UsageError(
            f"The subject {name!r} cannot be loaded: {first_line(error)}",
            "Give a causal language model in Hugging Face layout, downloaded whole.",
        ) from None


def first_line(error: BaseException) -> str:
    """The first line that an error says, or its name where it says nothing."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "") or (
        type(error).__name__
    )


def _explain_load_error(name: str, error: OSError) -> NotReady | UsageError:
    """The error to show for an OSError of transformers, whose cause is the hub's own error."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    causes, text = (error, error.__cause__, error.__context__), str(error)

    def has_cause(*kinds: type[BaseException]) -> bool:
        return any(isinstance(cause, kinds) for cause in causes)

    if has_cause(GatedRepoError) or "gated repo" in text:
        return _gated(name)
    if has_cause(LocalEntryNotFoundError) or "couldn't connect" in text:
        return NotReady(
            f"{name} is not a folder here, and the hub cannot be reached.",
            "Check the name and the connection, or give a local folder.",
        )
    if has_cause(RepositoryNotFoundError, HFValidationError) or "not a local folder" in text:
        return UsageError(
            f"There is no subject {name!r}, neither as a folder here nor on the hub.",
            "Give a folder with config.json and weights, or a hub name such as gpt2.",
        )
    return UsageError(
        f"The subject {name!r} cannot be loaded: {first_line(error)}",
        "Give a folder with config.json, weights and tokenizer.json, or a hub name such as gpt2.",
    )


def _gated(repo: str) -> NotReady:
    return NotReady(
        f"{repo} is a gated repository and this machine has no access to it.",
        "Accept its terms on the hub, then set HF_TOKEN and type the command again.",
    )
