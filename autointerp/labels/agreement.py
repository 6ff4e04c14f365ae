"""Do two sets of labels say the same? The correlation of what they predict, for labels in the language of rules."""

from __future__ import annotations

import numpy as np
import pandas as pd

from autointerp.rules import language as rules
from autointerp.rules.annotations import Annotations
from core.errors import NotReady
from core.records import SPLITS
from core.run import Run
from core.text.tokens import Tokens


def agreement(run: Run, first: str, second: str) -> pd.DataFrame:
    """feature, first, second (texts), correlation of every feature that both sets label, over all tokens of the test split.

    The correlation is NaN where either label predicts the same everywhere ("unclear" does). Raises NotReady when a label is in free words.
    """
    one, two = (
        pd.read_parquet(run.folder(f"label/{name}") / "labels.parquet").set_index("feature")["text"]
        for name in (first, second)
    )
    tokens = Tokens(run.folder("capture"))
    corpus, ordinals = Annotations.from_tokens(tokens), np.flatnonzero(tokens.in_split(SPLITS[-1]))
    rows = []
    for feature in one.index.intersection(two.index):
        a, b = (predicted(text, corpus, ordinals) for text in (one[feature], two[feature]))
        known = a.std() > 0 and b.std() > 0
        rows.append(
            {
                "feature": int(feature),
                "first": one[feature],
                "second": two[feature],
                "correlation": float(np.corrcoef(a, b)[0, 1]) if known else np.nan,
            }
        )
    return pd.DataFrame(rows, columns=["feature", "first", "second", "correlation"])


def predicted(text: str, corpus: Annotations, ordinals: np.ndarray) -> np.ndarray:
    rule = rules.read_rule(text)
    if rule is None:
        raise NotReady(
            f"{text!r} is in free words and predicts nothing by itself.",
            "Compare sets whose labels are in the language of rules.",
        )
    return rules.predict(rule, corpus, ordinals)
