"""What the explorer's page knows, as shards: JSON, gzipped, in base64, inside a classic script that hands it to the page's loader.

`fetch` is refused on file://, and a <script> is not, so this one form works from a folder, from any web server and from `explore`.
Nothing of a corpus stands in a script but as base64, so no text can end it.

    start       the run, the map's points, groups with their titles, columns to sort and filter by: all that the first paint needs
    text        labels of every set, promoted tokens, notes: what the search reads
    words       the distinct texts of the vocabulary, most frequent first; snippets hold their numbers
    f-00012     the cards of 32 features
    clamp-0003  one clamp experiment
"""

from __future__ import annotations

import base64
import gzip
import json
import math
import re
from functools import cached_property
from pathlib import Path

import numpy as np

from autointerp.evidence import DENSE
from autointerp.features import Features
from autointerp.labels.notes import read_notes
from core.clamps.experiments import experiments
from core.errors import UsageError
from figures.style import DARK, LIGHT

SIZE = 32  # features in a shard
SNIPPETS = {"top": 8, "strata": 2, "firing": 4, "near_miss": 3, "failing": 2}
FIRST, SURROGATES = (
    0x5D,
    0x800,
)  # token 0 is U+005D: nothing from there on is escaped in JSON; code points that cannot stand in UTF-8
GRID = 65_535  # the map's coordinates are whole numbers from 0 to this
LONE = re.compile("[\ud800-\udfff]")
PAGE = Path(__file__).parent / "page"


class Shards:
    """The shards of one run, each made when it is asked for. `live` says that a server stands behind the page."""

    def __init__(self, features: Features, live: dict | None = None):
        self.features, self.live = features, live
        self.n_features = features.postings.n_features

    def names(self) -> list[str]:
        parts = [f"f-{i:05d}" for i in range(-(-self.n_features // SIZE))]
        return [
            "start",
            "text",
            "words",
            *parts,
            *(f"clamp-{record['number']:04d}" for record in experiments(self.features.run)),
        ]

    def prepared(self) -> Shards:
        """Itself, when all that shards share has been made: before processes part."""
        self.features.prepare(SNIPPETS)
        self._character  # noqa: B018 - made once
        return self

    def script(self, name: str) -> bytes:
        """The script of one shard; raises UsageError for a name that is none."""
        data = json.dumps(
            self._value(name), separators=(",", ":"), allow_nan=False, ensure_ascii=False
        )
        data = LONE.sub(
            lambda found: f"\\u{ord(found[0]):04x}", data
        )  # half a pair has no UTF-8, and JSON can write it
        packed = base64.b64encode(gzip.compress(data.encode(), 9, mtime=0)).decode()
        return f'shard("{name}","{packed}")\n'.encode()

    def _value(self, name: str):
        kind, _, number = name.partition("-")
        if name in ("start", "text", "words"):
            return getattr(self, name)()
        if number.isdecimal() and kind == "f" and int(number) * SIZE < self.n_features:
            start = int(number) * SIZE
            return [
                self.compact(card)
                for card in self.features.cards(SNIPPETS, start, min(start + SIZE, self.n_features))
            ]
        if number.isdecimal() and kind == "clamp":
            for record in experiments(self.features.run):
                if record["number"] == int(number):
                    return short(record)
        raise UsageError(
            f"The explorer has no shard {name!r}.", "See `names` for those that it has."
        )

    # ------------------------------------------------------------ the first paint

    def start(self) -> dict:
        run, features = self.features.run, self.features
        return {
            "run": {"name": Path(run.name).name, "subject": Path(run.settings.subject).name, "site": run.settings.site, "corpus": Path(run.settings.corpus).name},
            "features": self.n_features, "tokens": features.postings.n_tokens, "size": SIZE,
            "firings": features.postings.n_firings.tolist(), "map": self._map(), "status": self._status(),
            "layers": [{"group": layer.group.tolist(), "titles": named(layer.titles), "families": named(layer.families)} for layer in features.layers],
            "scores": self._scores(), "sets": self._sets(), "failed": sorted({int(f) for f in features.failures["feature"]}),
            "units": {unit: self._unit(unit) for unit in run.committed()},
            "clamps": [summary_of(record) for record in experiments(run)],
            "palette": {"light": LIGHT["palette"], "dark": DARK["palette"]}, "live": self.live,
        }  # fmt: skip

    def _map(self) -> dict | None:
        """Whole-number coordinates of every feature; null where it has no place."""
        table = self.features.clusters
        if table is None:
            return None
        table = table.reindex(range(self.n_features))
        span = max(float(np.ptp(table[axis].dropna())) for axis in "xy") or 1.0
        low = {axis: table[axis].min() for axis in "xy"}
        return {
            axis: [
                None if np.isnan(v) else round((v - low[axis]) / span * GRID) for v in table[axis]
            ]
            for axis in "xy"
        }

    def _status(self) -> list[str]:
        """alive, dense, dead or isolated."""
        n_firings = self.features.postings.n_firings
        table = self.features.clusters
        isolated = set() if table is None else set(table.index[table["status"] == "isolated"])
        dense = n_firings > DENSE * self.features.postings.n_tokens
        return [
            "dead" if not n else "dense" if d else "isolated" if f in isolated else "alive"
            for f, (n, d) in enumerate(zip(n_firings, dense, strict=True))
        ]

    def _sets(self) -> list[dict]:
        """Label sets, the one whose text comes first foremost, with the kinds of their labels by feature."""
        out = []
        for name, rows in self.features.labels.groupby("set", sort=False):
            kinds = dict(zip(rows["feature"], rows["kind"], strict=True))
            every = sorted(set(kinds.values()))
            out.append(
                {
                    "name": name,
                    "kinds": every,
                    "kind": [
                        every.index(kinds[f]) if f in kinds else -1 for f in range(self.n_features)
                    ],
                }
            )
        return out

    def _scores(self) -> list[dict]:
        """Scores of every set and kind in thousandths, null where undefined."""
        out = []
        for (name, kind), rows in (
            self.features.scores.groupby(["set", "kind"]) if len(self.features.scores) else ()
        ):
            values = (
                rows.drop_duplicates("feature")
                .set_index("feature")["value"]
                .astype(float)
                .reindex(range(self.n_features))
            )
            out.append(
                {
                    "set": name,
                    "kind": kind,
                    "value": [None if np.isnan(v) else round(1000 * v) for v in values],
                }
            )
        return out

    def _unit(self, unit: str) -> dict:
        manifest = self.features.run.manifest(unit)
        return {
            "key": manifest.key[:12],
            "seconds": manifest.seconds,
            "settings": short(manifest.settings),
            "summary": short(manifest.summary),
        }

    # ------------------------------------------------------------ what follows

    def text(self) -> dict:
        """Labels {set: [text of every feature]}, numbers of the five most promoted tokens of every feature, notes."""
        labels = {}
        for name, rows in self.features.labels.groupby("set", sort=False):
            texts = dict(zip(rows["feature"], rows["text"], strict=True))
            labels[name] = [texts.get(f, "") for f in range(self.n_features)]
        effects = self.features.effects
        promoted = (
            None
            if effects is None
            else [
                [self._number[t] for t in tokens[:5]]
                for tokens in effects["promoted"].reindex(range(self.n_features))
            ]
        )
        return {"labels": labels, "promoted": promoted, "notes": read_notes(self.features.run.path)}

    def words(self) -> list[str]:
        return list(self._number)

    @cached_property
    def _number(self) -> dict[str, int]:
        """Distinct texts of tokens, the most frequent first, and their numbers: small numbers make small shards."""
        vocabulary, counts = self.features.tokens.vocabulary, self.features.postings.token_counts
        ordered = [vocabulary[i] for i in np.argsort(-counts[: len(vocabulary)], kind="stable")]
        if (
            effects := self.features.effects
        ) is not None:  # some of its tokens may stand nowhere in the corpus
            ordered += [
                text
                for side in ("promoted", "suppressed")
                for texts in effects[side]
                for text in texts
            ]
        return {text: i for i, text in enumerate(dict.fromkeys(ordered))}

    def compact(self, card: dict) -> dict:
        """A card with tokens as numbers, activations as [place, value, place, value, ...] and numbers of four digits. Labels of other
        features are left to the page, which has them all."""
        pairs = lambda rows: [
            v for row in rows for v in (self._number[row["token"]], short(row["logit"]))
        ]
        snippets = [
            {"s": s["stratum"], "v": s["split"], "d": s["document"], "o": s["start"], "k": s["peak"], "t": self.packed(s["tokens"]),
             "a": [v for i, a in enumerate(s["activations"]) if a for v in (i, short(a, 3))]} | ({"l": s["set"]} if "set" in s else {})
            for s in card["snippets"]
        ]  # fmt: skip
        known = {
            k: short(v) for k, v in card.items() if k not in ("snippets", "promoted", "suppressed")
        }
        for relation in ("neighbours", "partners"):
            if relation in known:
                known[relation] = [
                    {k: v for k, v in row.items() if k != "label"} for row in known[relation]
                ]
        return known | {
            "promoted": pairs(card["promoted"]),
            "suppressed": pairs(card["suppressed"]),
            "snippets": snippets,
        }

    def packed(self, texts: list[str]) -> str | list[str]:
        """Numbers of tokens as one character each, from U+005D on and round the surrogates: a quarter less than digits after gzip. A
        snippet with a text that no token has (a character put together from several tokens) stays a list of texts."""
        try:
            return "".join([self._character[text] for text in texts])
        except KeyError:
            return list(texts)

    @cached_property
    def _character(self) -> dict[str, str]:
        return {
            text: chr(n + FIRST + (SURROGATES if n + FIRST >= 0xD800 else 0))
            for text, n in self._number.items()
        }


def short(value, digits: int = 4):
    """`value` with every number cut to so many significant digits; NaN and infinities become None."""
    if isinstance(value, (float, np.floating)):
        return float(f"{value:.{digits}g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {k: short(v, digits) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [short(v, digits) for v in value]
    return int(value) if isinstance(value, np.integer) else value


def named(table: dict[int, object]) -> dict[str, object]:
    return {
        str(int(k)): int(v) if isinstance(v, (int, np.integer)) else v for k, v in table.items()
    }


def summary_of(record: dict) -> dict:
    """What a list of experiments shows of one."""
    return {
        "number": record["number"],
        "clamps": record["clamps"],
        "features": record["features"],
        "prompts": len(record["prompts"]),
        "doses": "doses" in record,
    }
