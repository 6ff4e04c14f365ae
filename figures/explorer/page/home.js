"use strict";
/* What stands beside the map while no feature is open: what this run is, how far its labels can be trusted, where to start. */

const LEAST = 30; // features that a median needs to be shown

function drawHome(panel) {
  const title = el("h2", {}, visible(run.start.run.name));
  replace(panel, el("div.home", {}, title, lead(), verdictSection(), bestFeatures(), ownSection(), biggestFamilies(), clampList(), biggestGroups(), figures(), keysHelp()));
}

function summaryOf(unit) {
  return run.start.units[unit]?.summary || {};
}

function lead() {
  const { subject, site, corpus } = run.start.run;
  const train = summaryOf("train");
  return el("p.lead", {}, `${thousands(run.start.features)} features of `, el("strong", {}, visible(subject)), ` at ${site}, read on ${thousands(run.start.tokens)} tokens of `, el("strong", {}, visible(corpus)), ` through a ${visible(train.architecture || "sparse")} autoencoder.`);
}

/* ---------------------------------------------------------------- how far labels can be trusted */

/* [set, kind, summary] of every kind of score with enough features, the most telling kind first. */
function scoreSummaries() {
  return Object.entries(run.start.units)
    .filter(([unit, u]) => unit.startsWith("score/") && typeof u.summary.median === "number" && u.summary.n >= LEAST)
    .map(([unit, u]) => [...unit.split("/").slice(1), u.summary])
    .sort((a, b) => rankOfKind(a[1]) - rankOfKind(b[1]) || b[2].n - a[2].n);
}

const SAYS = {
  coverage: "of a feature's activity on unseen text is named by its label",
  "simulation-corpus": "correlation of activations with what the label predicts, over all unseen text",
  simulation: "correlation of activations with what the label predicts, on unseen windows",
  detection: "of windows are told right, firing or not, from the label",
  fuzzing: "of marked windows are told right from the label",
};

/* The lead: one kind of score, its null, its control and the gain over it. */
function verdictSection() {
  const all = scoreSummaries();
  const first = all.find(([, kind]) => KIND_ORDER.includes(kind));
  const structure = summaryOf("cluster").verdict;
  if (!first && !structure) return null;
  const parts = [];
  if (first) parts.push(headline(...first));
  else parts.push(el("p", {}, "Too few features could be scored on unseen text: the labels are not proven."));
  if (all.length) parts.push(scoreTable(all));
  if (structure) parts.push(el("p.structure", {}, familySentence() ? [el("strong", {}, "Families. "), familySentence()] : null, el("strong", {}, "Clusters. "), visible(structure)));
  return el("section.verdict-home", {}, el("h3", {}, "How far to trust the labels"), parts);
}

const controlMedians = (set, kind) => run.start.controls.map((c) => [c.what, c.medians[`score/${set}/${kind}`]]).filter(([, median]) => typeof median === "number");

/* What labels gain over each control: at like density where that is known, else the difference of the medians. */
function gainsOf(set, kind, median) {
  const known = run.start.controls.map((c) => [c.what, kind === "coverage" ? c.gains?.[set] : undefined]).filter(([, gain]) => typeof gain === "number");
  return known.length ? known.map(([what, gain]) => [what, gain, true]) : controlMedians(set, kind).map(([what, value]) => [what, median - value, false]);
}

function headline(set, kind, s) {
  const form = kind === "coverage" ? percent : fixed; // a share, or a correlation or an area
  const against = [];
  if (typeof s.null_median === "number") against.push(el("span", {}, el("span.null-mark", { "aria-hidden": "true" }), `${form(s.null_median)} for another feature's label`));
  for (const [what, median] of controlMedians(set, kind)) against.push(el("span", {}, el("span.control-mark", { "aria-hidden": "true" }), `${form(median)} for the ${visible(what)}`));
  for (const [what, gain, like] of gainsOf(set, kind, s.median)) against.push(el("strong", {}, `gain ${gain >= 0 ? "+" : ""}${form(gain)}${run.start.controls.length > 1 ? ` over the ${visible(what)}` : ""}${like ? " at like density" : ""}`));
  const interval = typeof s.low === "number" ? `, ${form(s.low)} to ${form(s.high)}` : "";
  const none = run.start.controls.length ? null : el("p.hint", {}, "No control stands beside it. Make one: ", el("code", {}, visible(`python main.py control ${run.start.run.name}`)));
  return el("div.headline", {}, el("strong.big", {}, form(s.median)), el("div", {}, el("p", {}, `${SAYS[kind] || kind} (${visible(set)} labels, median of ${thousands(s.n)} features${interval}).`), el("p.against", {}, against), none));
}

const signed = (value) => (value >= 0 ? "+" : "") + fixed(value);

function scoreTable(all) {
  const named = run.start.controls.some((c) => Object.values(c.medians).some((m) => typeof m === "number"));
  const head = ["Kind", "Labels", "Median", "Null", ...(named ? ["Control", "Gain"] : []), "Features"];
  const rows = all.map(([set, kind, s]) => {
    const control = controlMedians(set, kind)[0];
    const extra = named ? [control ? fixed(control[1]) : "–", control ? signed(s.median - control[1]) : "–"] : [];
    return el("tr", {}, [el("td", {}, kind), el("td", {}, visible(set)), ...[fixed(s.median), fixed(s.null_median), ...extra, thousands(s.n)].map((v) => el("td.number", {}, v))]);
  });
  return el("details.provenance.scores", {}, el("summary", {}, all.length > 1 ? `All ${all.length} kinds of score` : "The one kind of score with enough features"), el("table.relations", {}, el("thead", {}, el("tr", {}, head.map((h) => el("th", { scope: "col" }, h)))), el("tbody", {}, rows)));
}

/* ---------------------------------------------------------------- key figures of the autoencoder */

function figure(value, name, title) {
  return el("div.figure", { title: title || null }, el("strong", {}, value), el("span", {}, name));
}

function figures() {
  const evaluate = summaryOf("evaluate");
  const parts = [];
  if (typeof evaluate.fvu === "number") parts.push(figure(percent(1 - evaluate.fvu), "of the variance explained", "1 − FVU on the test split"));
  if (typeof evaluate.recovered_mean === "number") parts.push(figure(percent(evaluate.recovered_mean), "of the loss recovered", "against mean ablation"));
  if (typeof evaluate.l0 === "number") parts.push(figure(short(evaluate.l0), "features fire on a token"));
  return parts.length ? el("section", {}, el("h3", {}, "The autoencoder"), el("div.figures", {}, parts)) : null;
}

/* ---------------------------------------------------------------- where to start */

/* Whether a label is of a kind that is no list of tokens. */
function saysMore(feature) {
  const set = run.start.sets.find((s) => s.kind[feature] >= 0);
  const kind = set ? set.kinds[set.kind[feature]] : "";
  return kind && !["token", "unclear"].includes(kind);
}

/* How much a label tells: the score times the bits that a firing is worth, so that what is rare and well described leads and not what fires
   everywhere; labels with a name before others, and those before lists of tokens. */
function worthOf(feature, column) {
  const bits = -Math.log2(Math.max(densityOf(feature), 1e-4));
  const named = splitLabel(labelOf(feature))[1] ? 200 : saysMore(feature) ? 100 : 0;
  return scoreOf(feature, column) * bits + named;
}

/* The features to begin with, one of each cluster, so that the first look is not ten of a kind. */
function bestFeatures() {
  const column = scoreColumn();
  if (!column || !run.text) return null;
  const seen = new Set();
  const good = [...column.value.keys()].filter((f) => scoreOf(f, column) > 0.3 && ["alive", "isolated"].includes(run.start.status[f]) && !isUnclear(labelOf(f)) && shortName(f).length <= 70);
  const order = new Map(good.map((f) => [f, worthOf(f, column)]));
  const best = good.sort((a, b) => order.get(b) - order.get(a)).filter((f) => {
    const group = groupsOf(f).at(-1)?.group ?? -f - 1;
    const name = shortName(f);
    return !seen.has(group) && !seen.has(name) && seen.add(group) && seen.add(name);
  }).slice(0, 10);
  if (!best.length) return null;
  const rows = best.map((f) => el("li", {}, featureLink(f), " ", labelNode(labelOf(f)), el("span.faint.number", {}, ` ${fixed(scoreOf(f, column))}`)));
  return el("section", {}, el("h3", {}, "Start with these"), el("p.hint", {}, `Names first; the number is ${columnName(column)}. Rare features that are well described lead.`), el("ul.members.clipped", {}, rows));
}

function ownSection() {
  const list = own.list();
  if (!list.length) return null;
  const rows = list.slice(0, 12).map((f) => el("li", {}, featureLink(f), " ", labelNode(labelOf(f))));
  return el("section", {}, el("h3", {}, "My list"), el("ul.members.clipped", {}, rows),
    el("p.tools", {}, el("a", { href: state.link({ v: "list", mine: 1, p: "" }) }, `All ${list.length} in the list`), copyButton("Copy link", () => location.href, "A link that carries this list")));
}

/* Families with a name, those that come back first, then the largest. */
function biggestFamilies() {
  const known = run.start.families;
  if (!known) return null;
  const sizes = new Map();
  for (const n of known.family) if (n >= 0) sizes.set(n, (sizes.get(n) || 0) + 1);
  const named = [...sizes].filter(([n]) => known.titles[n]).sort((a, b) => known.solid[b[0]] - known.solid[a[0]] || b[1] - a[1]).slice(0, 16);
  if (!named.length) return null;
  const rows = named.map(([n, size]) => el("li", {}, el(known.solid[n] ? "a" : "a.faint", { href: state.link({ v: "list", family: n, p: "" }), title: visible(known.titles[n]) }, visible(known.titles[n])), el("span.faint", {}, ` ${size}${known.kinds[n] ? `, ${known.kinds[n]}` : ""}`)));
  return el("section", {}, el("h3", {}, "Families of near directions"), el("ul.members.groups.clipped", {}, rows));
}

/* Clusters with a name; nothing where none has one. */
function biggestGroups() {
  const found = run.start.layers.flatMap((layer, i) => {
    const sizes = new Map();
    for (const g of layer.group) if (g >= 0) sizes.set(g, (sizes.get(g) || 0) + 1);
    return [...sizes].filter(([g]) => isNamed(layer.titles[g])).map(([g, n]) => ({ i, g, n, title: layer.titles[g], hue: layer.hues[g] }));
  });
  const seen = new Set();
  const largest = found.sort((a, b) => b.n - a.n).filter((c) => !seen.has(c.title) && seen.add(c.title)).slice(0, 12);
  if (!largest.length) return null;
  const palette = run.start.palette[themeName()];
  const rows = largest.map((c) => el("li", {}, el("span.pip", { style: { background: c.hue === undefined ? css("--noise") : palette[c.hue % palette.length] }, "aria-hidden": "true" }), el("a", { href: state.link({ v: "list", group: `${c.i}.${c.g}`, p: "" }) }, visible(c.title)), el("span.faint", {}, ` ${c.n}`)));
  return el("section", {}, el("h3", {}, "Clusters that come back"), el("ul.members.groups.clipped", {}, rows));
}

/* Kept clamps; those whose useful dose was confirmed on other prompts first. */
function clampList() {
  if (!run.start.clamps.length) return null;
  const rows = [...run.start.clamps].sort((a, b) => b.works - a.works || b.number - a.number).slice(0, 6).map((c) => el("li", {}, el("a", { href: clampLink(c) }, visible(c.clamps.join(", "))), " ", labelNode(labelOf(c.features[0])), el("span.faint", {}, c.works ? " works" : "")));
  return el("section", {}, el("h3", {}, "Clamps"), el("ul.members.clipped", {}, rows));
}

const KEYS = [
  ["/", "search"], ["m, l, t, c", "map, list, text, clamp"], ["arrows", "on the map: to the nearest feature"], ["Enter", "open it"],
  ["[ and ]", "previous and next in the cluster"], ["+, −, 0", "on the map: nearer, farther, everything"], ["shift and drag", "on the map: lasso"], ["s", "keep the open feature on my list"], ["Esc", "close"], ["d", "light or dark"],
];

function keysHelp() {
  return el("details.provenance", {}, el("summary", {}, "Keys"), el("dl.keys", {}, KEYS.flatMap(([key, what]) => [el("dt", {}, el("kbd", {}, key)), el("dd", {}, what)])));
}
