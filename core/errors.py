"""Errors that people see: what was wrong, what the program found, and what to type next.

    ToolError
      NothingFound    exit 1   the command ran, and what was asked for is not there
      UsageError      exit 2   a flag, name, file or setting cannot be used
      NotReady        exit 3   something is missing, stale or busy; as ShardFailed, a worker failed
                               at one shard again and again
      ProviderError   exit 4   the LLM endpoint failed, the budget is spent, or too many
                               requests failed
      Stop            exit 0   nothing is wrong: the command was asked to stop here and to say
                               what it would do

`main` prints such an error as two lines, without a traceback, and exits with its code. Any other
exception is a bug and shows its traceback. An interrupted command exits with 130.
"""

from __future__ import annotations


class ToolError(Exception):
    """`message` says what was wrong and what was found; `next_step` says what to type next."""

    code = 1

    def __init__(self, message: str, next_step: str):
        super().__init__(message)
        self.message = message
        self.next_step = next_step

    def __str__(self) -> str:
        return f"{self.message}\n{self.next_step}"

    def __reduce__(self) -> tuple[type[ToolError], tuple[str, str]]:
        return type(self), (self.message, self.next_step)  # it crosses from workers to the driver


class NothingFound(ToolError):
    """The command ran, and what was asked for is not there."""


class UsageError(ToolError):
    """A flag, name, file or setting cannot be used."""

    code = 2


class NotReady(ToolError):
    """Something is missing, stale or busy."""

    code = 3


class ShardFailed(NotReady):
    """A worker failed to make one shard again and again; the shards that are made stay."""


class ProviderError(ToolError):
    """The LLM endpoint failed, the budget is spent, or too many requests failed."""

    code = 4


class Stop(ToolError):
    """The command was asked to stop here and to say what it would do."""

    code = 0


INTERRUPTED = 130  # exit code
