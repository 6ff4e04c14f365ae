"use strict";
/* Shards: each data/NAME.js calls shard(NAME, base64 of gzipped JSON). A <script> loads where fetch does not: from file://. */

const shards = new Map(); // name -> {promise, resolve, reject}

function load(name) {
  if (!shards.has(name)) {
    const entry = {};
    entry.promise = new Promise((resolve, reject) => Object.assign(entry, { resolve, reject }));
    shards.set(name, entry);
    const script = document.createElement("script");
    script.src = `data/${name}.js`;
    script.onerror = () => {
      shards.delete(name); // a later try may find the server again
      entry.reject(new Error(`data/${name}.js could not be loaded.`));
    };
    script.onload = () => script.remove();
    document.head.append(script);
  }
  return shards.get(name).promise;
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

/* ---------------------------------------------------------------- data of the run, filled by main.js */

const run = { start: null, text: null, words: null };

async function loadCard(feature) {
  const size = run.start.size;
  const number = String(Math.floor(feature / size)).padStart(5, "0");
  const [cards, words] = await Promise.all([load(`f-${number}`), load("words")]);
  run.words = words;
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

function groupsOf(feature) {
  return run.start.layers
    .map((layer, i) => ({ layer: i, group: layer.group[feature] }))
    .filter((g) => g.group >= 0)
    .map((g) => ({ ...g, title: run.start.layers[g.layer].titles[g.group] || "" }));
}

function groupTitle(group, title) {
  if (!title) return `unnamed group ${group}`;
  return title === `mixed (${group})` ? `mixed group ${group}` : visible(title);
}

/* The column of scores that map and list use: kind and set of the choice, else the first. */
function scoreColumn(name) {
  const columns = run.start.scores;
  return columns.find((c) => `${c.set}/${c.kind}` === name) || columns.find((c) => c.kind === "simulation") || columns[0] || null;
}

function scoreOf(feature, column) {
  const value = column ? column.value[feature] : null;
  return value === null ? null : value / 1000;
}

function densityOf(feature) {
  return run.start.firings[feature] / run.start.tokens;
}
