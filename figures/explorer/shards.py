"""What the explorer's page knows, as shards: JSON, gzipped, in base64, inside a classic script.

A browser refuses `fetch` on file://, but not a <script>. So this one form works from a folder, from
any web server and from `explore`. Text of a corpus stands in a script only as base64, so no text
can end the script.

    start       the run, the map's points, clusters with their titles, columns to sort and filter
                by: all that the first paint needs
    text        labels of every set, promoted tokens, notes: what the search reads
    words       the distinct texts of the vocabulary, most frequent first; snippets hold numbers
    f-00012     the cards of 32 features
    clamp-0003  one clamp experiment

The page calls a cluster a group, a level a layer.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from autointerp.card import Card
from autointerp.evidence import DENSE, VALUE_OF
from autointerp.features import Features
from autointerp.labels.notes import read_notes
from autointerp.rules.language import UNCLEAR
from core.clamps.experiments import experiments
from core.errors import UsageError
from core.firings.postings import maxima
from figures.explorer.about import (
    describe_controls,
    describe_run,
    describe_unit,
    shorten,
    summarise_clamp,
)
from figures.style import DARK, LIGHT

SIZE = 32  # features in a shard
SNIPPETS = {"top": 8, "strata": 2, "firing": 4, "near_miss": 3, "failing": 2}
FEW = {"top": 3, "strata": 1, "firing": 1, "near_miss": 1, "failing": 1}  # of a small page
FIRST = 0x5D  # code point of token 0: JSON escapes nothing from there on
SURROGATES = 0x800  # code points that cannot stand in UTF-8, from U+D800 on
GRID = 65_535  # the map's coordinates are whole numbers from 0 to this
HALF_PAIR = re.compile("[\ud800-\udfff]")
PROMOTED = 5  # tokens that a clamp makes likelier, and promoted ones, that the search reads
OTHERS = 8  # features that fire on the peak of a snippet, as shares of their maxima
MOST_READ = 2e10  # firings that are read for them in one export; a larger run goes without
# parts of a card that `compact` packs itself
OWN_FORM = ("snippets", "measured", "promoted", "suppressed")
PAGE = Path(__file__).parent / "page"


class Shards:
    """The shards of one run, each made when it is asked for.

    `live` says what the server behind the page allows; None for a static site. `about` describes
    every run of the page, and `number` says which of them this is. A `small` page has FEW snippets,
    and where no label of a feature is clear only its strongest.
    """

    def __init__(
        self,
        features: Features,
        live: dict | None = None,
        about: list[dict] | None = None,
        number: int = 0,
        small: bool = False,
    ):
        self.features, self.live, self.number, self.small = features, live, number, small
        self.snippets = FEW if small else SNIPPETS
        self.about = about or [describe_run(features.run)]
        self.prefix = f"r{number}-" if number else ""
        self.n_features = features.postings.n_features

    def names(self) -> list[str]:
        """The names of all shards."""
        parts = [f"f-{i:05d}" for i in range(-(-self.n_features // SIZE))]
        clamps = [f"clamp-{record.number:04d}" for record in experiments(self.features.run)]
        return ["start", "text", "words", *parts, *clamps]

    def prepare(self) -> None:
        """Compute what all shards share, so that processes forked later do not repeat it."""
        self.features.cards.prepare(self.snippets)
        self._character, self._maxima  # noqa: B018 - made once

    def script(self, name: str) -> bytes:
        """The script of one shard. Raises UsageError for a name that the run has no shard of."""
        return pack_script(self.prefix + name, self._value(name))

    def _value(self, name: str) -> Any:
        kind, _, number = name.partition("-")
        if name in ("start", "text", "words"):
            return getattr(self, name)()
        if number.isdecimal() and kind == "f" and int(number) * SIZE < self.n_features:
            start = int(number) * SIZE
            end = min(start + SIZE, self.n_features)
            walk = self.features.cards.walk(self.snippets, start, end)
            cards = [self.compact(card) for card in walk]
            return self.with_others(cards)
        if number.isdecimal() and kind == "clamp":
            for record in experiments(self.features.run):
                if record.number == int(number):
                    return shorten(record.to_dict())
        raise UsageError(
            f"The explorer has no shard {name!r}.", "See `names` for those that it has."
        )

    # ------------------------------------------------------------ the first paint

    def start(self) -> dict:
        """All that the page needs before it shows anything."""
        run, features = self.features.run, self.features
        failed = sorted({int(f) for f in features.failures["feature"]})
        return {
            "run": describe_run(run),
            "runs": self.about,
            "number": self.number,
            "controls": describe_controls(features),
            "features": self.n_features,
            "tokens": features.postings.n_tokens,
            "size": SIZE,
            "firings": features.postings.n_firings.tolist(),
            "map": self._map(),
            "status": self._status(),
            "layers": [
                {
                    "group": level.cluster.tolist(),
                    "titles": with_text_keys(level.titles),
                    "hues": with_text_keys(level.hues),
                }
                for level in features.levels
            ],
            "families": self._families(),
            "scores": self._scores(),
            "sets": self._sets(),
            "failed": failed,
            "units": {unit: describe_unit(run, unit) for unit in run.committed()},
            "clamps": [summarise_clamp(record) for record in experiments(run)],
            "palette": {"light": LIGHT["palette"], "dark": DARK["palette"]},
            "live": self.live,
        }

    def _families(self) -> dict | None:
        """family of every feature, and the name and kind of each family; null where there are none.

        A name that is not solid (its family does not come back) is marked.
        """
        known = self.features.families
        if not len(known):
            return None
        return {
            "family": self.features.family_of.tolist(),
            "titles": known["title"].tolist(),
            "solid": [bool(solid) for solid in known["solid"]],
            "kinds": known["kind"].tolist(),
        }

    def _map(self) -> dict | None:
        """Whole-number coordinates of every feature; null where it has no place."""
        table = self.features.clusters
        if table is None:
            return None
        table = table.reindex(range(self.n_features))
        span = max(float(np.ptp(table[axis].dropna())) for axis in "xy") or 1.0
        return {axis: to_grid(table[axis], span) for axis in "xy"}

    def _status(self) -> list[str]:
        """alive, dense, dead or isolated."""
        n_firings = self.features.postings.n_firings
        status = np.full(self.n_features, "alive", object)
        if (table := self.features.clusters) is not None:
            status[table.index[table["status"] == "isolated"]] = "isolated"
        status[n_firings > DENSE * self.features.postings.n_tokens] = "dense"
        status[n_firings == 0] = "dead"
        return status.tolist()

    def _sets(self) -> list[dict]:
        """Label sets, best first, with the kinds of their labels by feature."""
        sets = []
        for name, rows in self.features.labels.groupby("set", sort=False):
            kinds = dict(zip(rows["feature"], rows["kind"], strict=True))
            every = sorted(set(kinds.values()))
            number = {kind: i for i, kind in enumerate(every)}
            by_feature = [number[kinds[f]] if f in kinds else -1 for f in range(self.n_features)]
            sets.append({"name": name, "kinds": every, "kind": by_feature})
        return sets

    def _scores(self) -> list[dict]:
        """Scores of every set and kind in thousandths, null where undefined."""
        table, scores = self.features.scores, []
        if not len(table):
            return []
        for (name, kind), rows in table.groupby(["set", "kind"]):
            first = rows.drop_duplicates("feature").set_index("feature")["value"]
            values = first.astype(float).reindex(range(self.n_features))
            thousandths = [None if np.isnan(v) else round(1000 * v) for v in values]
            scores.append({"set": name, "kind": kind, "value": thousandths})
        return scores

    # ------------------------------------------------------------ what follows

    def text(self) -> dict:
        """labels {set: [text of every feature]}, notes, and promoted: by feature the numbers of
        tokens that a clamp makes likelier or its direction promotes.
        """
        labels = {}
        for name, rows in self.features.labels.groupby("set", sort=False):
            texts = dict(zip(rows["feature"], rows["text"], strict=True))
            labels[name] = [texts.get(f, "") for f in range(self.n_features)]
        effects, promoted = self.features.evidence.effects, None
        if effects is not None:
            every = self.features.evidence
            promoted = [
                list(
                    dict.fromkeys(
                        self._number[effect.token]
                        for side in (every.measured(f), every.promoted(f))
                        for effect in side[:PROMOTED]
                    )
                )
                for f in range(self.n_features)
            ]
        return {"labels": labels, "promoted": promoted, "notes": read_notes(self.features.run.path)}

    def words(self) -> list[str]:
        """Distinct texts of tokens in the order of their numbers."""
        return list(self._number)

    @cached_property
    def _number(self) -> dict[str, int]:
        """Distinct texts of tokens and their numbers, the most frequent first: small numbers make
        small shards. Some promoted tokens stand nowhere in the corpus; they come last."""
        vocabulary, counts = self.features.tokens.vocabulary, self.features.postings.token_counts
        ordered = [vocabulary[i] for i in np.argsort(-counts[: len(vocabulary)], kind="stable")]
        effects = self.features.evidence.effects
        if effects is not None:
            for side in (side for side in VALUE_OF if side in effects):
                ordered += [text for texts in effects[side] for text in texts]
        return {text: i for i, text in enumerate(dict.fromkeys(ordered))}

    def compact(self, card: Card) -> dict:
        """A card with tokens as numbers and numbers of four digits.

        Labels of other features are left to the page, which has them all.
        """
        known = {k: shorten(v) for k, v in card.to_dict().items() if k not in OWN_FORM}
        for relation in ("neighbours", "partners"):
            rows = known[relation]
            known[relation] = [{k: v for k, v in row.items() if k != "label"} for row in rows]
        return known | {
            "measured": self._pairs(card.measured, "change"),
            "promoted": self._pairs(card.promoted),
            "suppressed": self._pairs(card.suppressed),
            "snippets": [self._compact_snippet(snippet) for snippet in self._choose_snippets(card)],
        }

    def _choose_snippets(self, card: Card) -> list[dict]:
        """The snippets of a card that the page shows."""
        clear = any(not label["text"].startswith(UNCLEAR) for label in card.labels)
        if clear or not self.small:
            return card.snippets
        return [snippet for snippet in card.snippets if snippet["stratum"] == "top"]

    def _pairs(self, rows: list[dict], value: str = "logit") -> list:
        """[number of a token, logit, number, logit, ...]"""
        return [v for row in rows for v in (self._number[row["token"]], shorten(row[value]))]

    def _compact_snippet(self, snippet: dict) -> dict:
        """A snippet under keys of one letter; activations are [place, value, place, value, ...]."""
        activations = enumerate(snippet["activations"])
        compact = {
            "s": snippet["stratum"],
            "v": snippet["split"],
            "d": snippet["document"],
            "o": snippet["start"],
            "k": snippet["peak"],
            "n": snippet["ordinal"],
            "t": self.pack(snippet["tokens"]),
            "a": [v for i, a in activations if a for v in (i, shorten(a, 3))],
        }
        return compact | ({"l": snippet["set"]} if "set" in snippet else {})

    def with_others(self, cards: list[dict]) -> list[dict]:
        """Add what else fires on the peak of each snippet: [feature, percent of its maximum, ...].

        A page with a server asks for any token instead.
        """
        postings, snippets = self.features.postings, [s for card in cards for s in card["snippets"]]
        reads = float(postings.n_firings.sum()) * self.n_features / SIZE
        if self.live is not None or reads > MOST_READ or not snippets:
            return cards
        ordinals, features, values = postings.firings_at(np.array([s["n"] for s in snippets]))
        shares = values / np.maximum(self._maxima[features], 1e-12)
        starts = {
            int(n): int(i) for n, i in zip(*np.unique(ordinals, return_index=True), strict=True)
        }
        ends = np.r_[np.flatnonzero(np.diff(ordinals)) + 1, len(ordinals)]
        for snippet in snippets:
            if (start := starts.get(snippet["n"])) is None:
                continue
            end = int(ends[np.searchsorted(ends, start, side="right")])
            strongest = start + np.argsort(-shares[start:end], kind="stable")[:OTHERS]
            snippet["h"] = [
                v for i in strongest for v in (int(features[i]), round(100 * float(shares[i])))
            ]
        return cards

    @cached_property
    def _maxima(self) -> np.ndarray:
        """(F,) the largest activation of every feature, 0 where it never fires."""
        largest: np.ndarray = maxima(self.features.run, self.n_features)
        return largest

    def pack(self, texts: list[str]) -> str | list[str]:
        """Numbers of tokens as one character each, from U+005D on and without surrogates.

        That is a quarter less than digits after gzip. A snippet with a text that no token has (a
        character that several tokens make up together) stays a list of texts.
        """
        try:
            return "".join([self._character[text] for text in texts])
        except KeyError:
            return list(texts)

    @cached_property
    def _character(self) -> dict[str, str]:
        return {text: to_character(number) for text, number in self._number.items()}


def pack_script(name: str, value: Any) -> bytes:
    """The script of a shard that holds `value`.

    JSON can hold half of a surrogate pair, which UTF-8 cannot; it is escaped.
    """
    text = json.dumps(value, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    text = HALF_PAIR.sub(lambda half: f"\\u{ord(half[0]):04x}", text)
    packed = base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode()
    return f'shard("{name}","{packed}")\n'.encode()


def to_character(number: int) -> str:
    point = number + FIRST
    return chr(point + (SURROGATES if point >= 0xD800 else 0))


def to_grid(values: pd.Series, span: float) -> list[int | None]:
    """Coordinates as whole numbers, `span` (the larger extent of both axes) as GRID."""
    low = values.min()
    return [None if np.isnan(v) else round((v - low) / span * GRID) for v in values]


def with_text_keys(table: dict[int, Any]) -> dict[str, Any]:
    """The table with keys and values that JSON can hold."""
    return {str(int(k)): shorten(v) for k, v in table.items()}
