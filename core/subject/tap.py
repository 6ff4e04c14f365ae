"""Keep what the subject computed at a site, for edits at a later site of the same pass.

An SAE that predicts another site than it reads (a transcoder) needs both at once.
"""

from __future__ import annotations

import contextlib
from types import TracebackType

from torch import Tensor

from core.errors import UsageError
from core.records import Site
from core.subject.subject import Subject


class Tap:
    """The hidden states (R, T, D) at `site` in the pass at hand, within a `with` block.

    It may be entered several times at once; one thread may run the subject.
    """

    def __init__(self, subject: Subject, site: Site) -> None:
        self.subject, self.site = subject, site
        self._seen: Tensor | None = None
        self._depth = 0
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Tap:
        if self._depth == 0:
            self.subject.module(self.site)  # an unknown architecture is run once, without hooks
            self._stack.enter_context(self.subject.hook(self.site, self._see))
        self._depth += 1
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._stack.close()
            self._seen = None

    def _see(self, hidden: Tensor) -> None:
        self._seen = hidden

    @property
    def hidden(self) -> Tensor:
        """What the pass at hand computed; raises UsageError where it did not reach the site yet."""
        if self._seen is None:
            raise UsageError(
                f"The pass has not reached {self.site}, which is read, before the edit.",
                "Edit at a later site than the one that is read.",
            )
        return self._seen
