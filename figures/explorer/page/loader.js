"use strict";
/* Shards: each data/NAME.js calls shard(NAME, base64 of gzipped JSON). A <script> loads where fetch does not: from file://. */

const shards = new Map(); // name -> {promise, resolve, reject}

/* Shards of the first run have plain names; those of run 1 begin with r1-. */
const prefixOf = (number) => (number ? `r${number}-` : "");

function load(name, number = run.number) {
  const full = prefixOf(number) + name;
  if (!shards.has(full)) {
    const entry = {};
    entry.promise = new Promise((resolve, reject) => Object.assign(entry, { resolve, reject }));
    shards.set(full, entry);
    const script = document.createElement("script");
    script.src = `data/${full}.js`;
    script.onerror = () => {
      shards.delete(full); // a later try may find the server again
      entry.reject(new Error(`data/${full}.js could not be loaded.`));
    };
    script.onload = () => script.remove();
    document.head.append(script);
  }
  return shards.get(full).promise;
}

async function shard(name, packed) {
  const entry = shards.get(name);
  try {
    const bytes = Uint8Array.from(atob(packed), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    entry.resolve(JSON.parse(await new Response(stream).text()));
  } catch (error) {
    entry.reject(error);
  }
}

/* Remember a shard that the page holds already, so that it is not asked for. */
function keepShard(name, value) {
  shards.set(prefixOf(run.number) + name, { promise: Promise.resolve(value) });
}

/* ---------------------------------------------------------------- data of the run, filled by main.js */

const run = { number: 0, start: null, text: null, words: null };

/* What is known of another run of the page. */
async function loadRun(number) {
  if (number === run.number) return { ...run, words: await load("words") };
  const [start, text, words] = await Promise.all(["start", "text", "words"].map((name) => load(name, number)));
  return { number, start, text, words };
}

/* Draw with another run in the place of the page's own; `draw` must not wait for anything. */
function inRun(other, draw) {
  const kept = { ...run };
  Object.assign(run, other);
  try {
    return draw();
  } finally {
    Object.assign(run, kept);
  }
}

async function loadCard(feature, number = run.number) {
  const size = (await load("start", number)).size;
  const part = String(Math.floor(feature / size)).padStart(5, "0");
  const [cards, words] = await Promise.all([load(`f-${part}`, number), load("words", number)]);
  if (number === run.number) run.words = words;
  return cards[feature % size];
}

/* Texts of a snippet's tokens: a list as it stands, or one character for each token's number. */
function unpackTokens(packed) {
  if (typeof packed !== "string") return packed;
  return Array.from(packed, (c) => {
    const code = c.codePointAt(0);
    return run.words[code - 0x5d - (code >= 0xe000 ? 0x800 : 0)];
  });
}

function labelOf(feature) {
  if (!run.text) return "";
  for (const set of run.start.sets) {
    const text = run.text.labels[set.name][feature];
    if (text) return text;
  }
  return "";
}

/* A label as [name, what follows]: the name in front of a rule, else the whole label. */
function splitLabel(text) {
  const found = /^([^":]{2,60}): (.+)$/su.exec(text);
  return found ? [found[1], found[2]] : [text, ""];
}

const shortName = (feature) => splitLabel(labelOf(feature))[0];

function groupsOf(feature) {
  return run.start.layers
    .map((layer, i) => ({ layer: i, group: layer.group[feature] }))
    .filter((g) => g.group >= 0)
    .map((g) => ({ ...g, title: run.start.layers[g.layer].titles[g.group] || "" }));
}

const isNamed = (title) => Boolean(title) && !title.startsWith("mixed (");

/* The finest cluster of a feature that has a name, or null. */
function namedGroup(feature) {
  return groupsOf(feature).filter((g) => isNamed(g.title)).pop() || null;
}

function groupTitle(group, title) {
  return isNamed(title) ? visible(title) : `cluster ${group}, without a name`;
}

function familyTitle(feature) {
  const known = run.start.families;
  return known && known.family[feature] >= 0 ? known.titles[known.family[feature]] : "";
}

/* ---------------------------------------------------------------- scores */

const KIND_ORDER = ["coverage", "simulation-corpus", "simulation", "detection", "fuzzing"];
const countKnown = (column) => column.value.reduce((n, v) => n + (v !== null), 0);
const rankOfKind = (kind) => (KIND_ORDER.indexOf(kind) + 1 || KIND_ORDER.length + 1);

/* The column of scores that map and list use: that of the URL, else the first kind, of the label set with the most of them. */
function scoreColumn(name = state.get("k")) {
  const columns = run.start.scores;
  const chosen = columns.find((c) => `${c.set}/${c.kind}` === name);
  if (chosen) return chosen;
  const filled = columns.filter((c) => (c.known ??= countKnown(c)) > 0);
  return filled.sort((a, b) => rankOfKind(a.kind) - rankOfKind(b.kind) || b.known - a.known)[0] || columns[0] || null;
}

const columnName = (column) => `${column.kind}, ${column.set}`;

/* Where a feature's score is from: the column, or the same kind of another label set where the column has none. */
function scoreFrom(feature, column) {
  if (!column || column.value[feature] !== null) return column;
  return run.start.scores.find((c) => c.kind === column.kind && c.value[feature] !== null) || column;
}

function scoreOf(feature, column) {
  const from = scoreFrom(feature, column);
  return from && from.value[feature] !== null ? from.value[feature] / 1000 : null;
}

function densityOf(feature) {
  return run.start.firings[feature] / run.start.tokens;
}
