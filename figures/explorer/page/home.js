"use strict";
/* What stands beside the map while no feature is open: what this run is, how far its labels can be trusted, where to start. */

function drawHome(panel) {
  replace(panel, el("div.home", {}, el("h2", {}, visible(run.start.run.name)), lead(), figures(), bestFeatures(), biggestFamilies(), biggestGroups(), clampList(), keysHelp()));
}

function summaryOf(unit) {
  return run.start.units[unit]?.summary || {};
}

function lead() {
  const { subject, site, corpus } = run.start.run;
  const train = summaryOf("train");
  return el("p.lead", {}, `${thousands(run.start.features)} features of `, el("strong", {}, visible(subject)), ` at ${site}, read on ${thousands(run.start.tokens)} tokens of `, el("strong", {}, visible(corpus)), ` through a ${visible(train.architecture || "sparse")} autoencoder.`);
}

function figure(value, name, title) {
  return el("div.figure", { title: title || null }, el("strong", {}, value), el("span", {}, name));
}

function figures() {
  const evaluate = summaryOf("evaluate");
  const score = Object.entries(run.start.units).filter(([unit, u]) => unit.startsWith("score/") && typeof u.summary.median === "number").map(([unit, u]) => [unit, u.summary]);
  const parts = [];
  if (typeof evaluate.fvu === "number") parts.push(figure(percent(1 - evaluate.fvu), "of the variance explained", "1 − FVU on the test split"));
  if (typeof evaluate.recovered_mean === "number") parts.push(figure(percent(evaluate.recovered_mean), "of the loss recovered", "against mean ablation"));
  if (typeof evaluate.l0 === "number") parts.push(figure(short(evaluate.l0), "features fire on a token"));
  for (const [unit, s] of score) {
    const [, set, kind] = unit.split("/");
    const title = `${unit}: interval ${fixed(s.low)} to ${fixed(s.high)}, null ${fixed(s.null_median)}, ${s.n} features`;
    parts.push(figure(fixed(s.median), `median ${kind} score, ${set} labels${typeof s.null_median === "number" ? `; null ${fixed(s.null_median)}` : ""}`, title));
  }
  return el("div.figures", {}, parts);
}

/* The best labelled features, one of each group, so that the first look is not ten of a kind. */
function bestFeatures() {
  const column = scoreColumn(state.get("k"));
  if (!column || !run.text) return null;
  const seen = new Set();
  const best = [...column.value.keys()].filter((f) => scoreOf(f, column) > 0 && labelOf(f).length <= 60).sort((a, b) => column.value[b] - column.value[a]).filter((f) => {
    const group = groupsOf(f).at(-1)?.group ?? -1;
    return !seen.has(group) && seen.add(group);
  }).slice(0, 8);
  if (!best.length) return null;
  return el("section", {}, el("h3", {}, "Well-labelled features"), el("ul.members", {}, best.map((f) => el("li", {}, featureLink(f), " ", labelNode(labelOf(f)), el("span.faint", {}, ` ${fixed(scoreOf(f, column))}`)))));
}

/* Families with a name, those that come back first, then the largest. */
function biggestFamilies() {
  const known = run.start.families;
  if (!known) return null;
  const sizes = new Map();
  for (const n of known.family) if (n >= 0) sizes.set(n, (sizes.get(n) || 0) + 1);
  const named = [...sizes].filter(([n]) => known.titles[n]).sort((a, b) => known.solid[b[0]] - known.solid[a[0]] || b[1] - a[1]).slice(0, 16);
  if (!named.length) return null;
  const rows = named.map(([n, size]) => el("li", {}, el(known.solid[n] ? "a" : "a.faint", { href: state.link({ v: "list", family: n, p: "" }) }, visible(known.titles[n])), el("span.faint", {}, ` ${size}${known.kinds[n] ? `, ${known.kinds[n]}` : ""}`)));
  return el("section", {}, el("h3", {}, "Families"), el("ul.members.groups", {}, rows));
}

function biggestGroups() {
  const last = run.start.layers.length - 1;
  if (last < 0) return null;
  const layer = run.start.layers[0];
  const sizes = new Map();
  for (const g of layer.group) if (g >= 0) sizes.set(g, (sizes.get(g) || 0) + 1);
  const largest = [...sizes].sort((a, b) => b[1] - a[1]).slice(0, 12);
  const palette = run.start.palette[themeName()];
  const rows = largest.map(([g, n]) => el("li", {}, el("span.pip", { style: { background: palette[layer.hues[g] % palette.length] }, "aria-hidden": "true" }), el("a", { href: state.link({ v: "list", group: `0.${g}`, p: "" }) }, groupTitle(g, layer.titles[g])), el("span.faint", {}, ` ${n}`)));
  return el("section", {}, el("h3", {}, "Largest clusters"), el("ul.members.groups", {}, rows));
}

function clampList() {
  if (!run.start.clamps.length) return null;
  const rows = run.start.clamps.slice(-6).map((c) => el("li", {}, el("a", { href: state.link({ v: "clamp", x: c.number }) }, visible(c.clamps.join(", "))), " ", labelNode(labelOf(c.features[0]))));
  return el("section", {}, el("h3", {}, "Clamps"), el("ul.members", {}, rows));
}

const KEYS = [
  ["/", "search"], ["m, l, t, c", "map, list, text, clamp"], ["arrows", "on the map: to the nearest feature"], ["Enter", "open it"],
  ["[ and ]", "previous and next in the cluster"], ["+, −, 0", "on the map: nearer, farther, everything"], ["Esc", "close"], ["d", "light or dark"],
];

function keysHelp() {
  return el("details.provenance", {}, el("summary", {}, "Keys"), el("dl.keys", {}, KEYS.flatMap(([key, what]) => [el("dt", {}, el("kbd", {}, key)), el("dd", {}, what)])));
}
