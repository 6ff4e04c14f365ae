"use strict";
/* One feature: the verdict first (labels, scores, what it is), then where it fires, what is near it, what it does, where all this is from. */

const CHIPS = {
  alive: "", rare: "Fires in fewer than 5 documents of the test split: too rare to score", dense: "Fires on over a tenth of the tokens",
  dead: "Never fires on this corpus", isolated: "Its nearest direction is no nearer than chance",
};

async function showFeature(feature, panel) {
  panel.setAttribute("aria-busy", "true");
  let card;
  try {
    card = await loadCard(feature);
  } catch (error) {
    replace(panel, el("p.error", {}, `Feature ${feature} could not be loaded. ${error.message}`));
    return;
  } finally {
    panel.removeAttribute("aria-busy");
  }
  if (state.feature() !== feature) return; // another one was opened meanwhile
  replace(panel, featurePage(card));
  panel.scrollTop = 0;
  map.neighbours = (card.neighbours || []).map((n) => n.feature);
  if (run.start.map) map.draw();
  const first = card.labels[0];
  announce(`Feature ${feature}. ${first ? visible(first.text) : "No label"}.`);
}

function featurePage(card) {
  return [
    featureHead(card),
    verdict(card),
    el(card.measured?.length ? "div.columns.output-wide" : "div.columns", {}, el("section", {}, el("h3", {}, "Activations"), histogramChart(card)), tokensSection(card)),
    snippetSection(card),
    nearSection(card),
    groupSection(card),
    clampSection(card),
    noteSection(card),
    provenanceSection(card),
  ];
}

/* ---------------------------------------------------------------- the verdict */

function featureHead(card) {
  const named = groupPath(card).filter((g) => isNamed(g.title));
  const path = named.flatMap((g, i) => [i ? el("span", { "aria-hidden": "true" }, " › ") : "", el("a", { href: state.link({ v: "list", group: `${g.layer}.${g.group}`, p: "" }) }, visible(g.title))]);
  const family = card.family && card.family.title ? [path.length ? " · " : "", "family ", el("a", { href: state.link({ v: "list", family: card.family.family, p: "" }) }, visible(splitLabel(card.family.title)[0]))] : [];
  const step = (by, text, key) => el("button.quiet", { title: `${text} feature of the same cluster (${key})`, "aria-label": `${text} feature of the same cluster`, onclick: () => stepInGroup(by) }, by < 0 ? "‹" : "›");
  const tools = [starButton(card.feature), copyButton("Copy link", () => location.href, "A link to this page as it stands"), copyButton("Cite", () => citation(card), "Copy a reference: feature, run, subject, site, autoencoder"), el("a.button.quiet", { href: state.link({ v: "compare", vs: state.get("vs") || firstNeighbour(card) }), title: "Put another feature beside it" }, "Compare")];
  return el("header.feature-head", {},
    el("div.crumbs", {}, path, family, path.length || family.length ? "" : el("span.faint", {}, card.groups?.length ? "in a cluster without a name" : "in no cluster")),
    el("div.feature-tools", {}, tools, step(-1, "Previous", "["), step(1, "Next", "]"), el("button.quiet", { title: "Close (Esc)", "aria-label": "Close", onclick: () => openFeature(null) }, "×")));
}

const firstNeighbour = (card) => (card.neighbours?.[0] ?? card.partners?.[0])?.feature ?? "";

/* A reference to a feature that says where its number is from. */
function citation(card) {
  const { name, subject, site, corpus } = run.start.run;
  const key = run.start.units.train?.key;
  const label = card.labels[0] ? `, “${visible(card.labels[0].text)}” (label set ${card.labels[0].set})` : "";
  return `Feature ${card.feature} of ${subject} at ${site}${label}; run ${name}, autoencoder ${key || "unknown"} of ${thousands(run.start.features)} features, corpus ${corpus}. ${location.href}`;
}

function groupPath(card) {
  if (card.groups && card.groups.length) return card.groups;
  return card.cluster && card.cluster.group >= 0 ? [{ layer: 0, ...card.cluster }] : [];
}

function verdict(card) {
  const [first, ...others] = card.labels;
  const chips = [card.status, card.isolated && card.status !== "isolated" ? "isolated" : ""].filter((s) => s && s !== "alive");
  const facts = [`fires on ${percent(card.density)} of tokens`, `${thousands(card.n_firings)} firings in ${thousands(card.n_documents)} documents`, `maximum ${short(card.max)}`];
  return el("div.verdict", {},
    titleOf(card, first),
    el("p.facts", {}, chips.map((c) => el(`span.chip.${c}`, { title: CHIPS[c] || "" }, c)), facts.map((f) => el("span", {}, f))),
    card.labels.map((label) => labelScores(label, others.length > 0)),
    (card.failures || []).map(failureLine),
    (card.notes || []).map((n) => el("p.note", {}, "“", visible(n.text), "” ", el("span.faint", {}, `note, ${visible(String(n.time || "").slice(0, 10))}`))));
}

/* The number, then the name of the label large and its rule below; a long label without a name stays small enough to read. */
function titleOf(card, label) {
  const number = el("span.number-badge", {}, `${card.feature}`);
  if (!label) return el("h2", { tabindex: "-1", id: "feature-title" }, number, el("span.faint", {}, "no label"));
  const [name, rest] = splitLabel(label.text);
  const long = name.length > 80 ? ".long" : "";
  return [el(`h2${long}`, { tabindex: "-1", id: "feature-title" }, number, el(isUnclear(name) && rest ? "em.faint" : "span", {}, ruleNodes(name))), rest ? el("p.rule", { title: visible(rest) }, ruleNodes(rest)) : null];
}

/* Why something has no value, in words; what is already said below a label is not said twice. */
const WORDS = {
  too_rare: "it fires in too few test documents", constant: "the label predicts the same everywhere", names_no_token: "the label names no token of the corpus",
  no_rivals: "no other feature is near enough to be confused with it", unparsable: "the answers could not be read", misaligned: "the answers did not keep to the text",
};

function reasonOf(text) {
  const [kind, ...message] = String(text || "unknown").split(": ");
  return visible(message.join(": ")) || WORDS[kind] || visible(kind.replaceAll("_", " "));
}

function failureLine(f) {
  const [stage, set, kind] = f.unit.split("/");
  if (stage === "score" && run.start.sets.some((s) => s.name === set)) return null; // the label's own line says it
  const what = stage === "label" ? `No ${set} label` : `No ${[kind, set].filter(Boolean).join(" score of ")}`;
  return el("p.failure", {}, `${visible(what)}: ${reasonOf(f.message ? `${f.kind}: ${f.message}` : f.kind)}.`);
}

/* One label set: its name, its text where there are several, and a line for each kind of score. */
function labelScores(label, several) {
  const kind = label.kind ? `${label.set}, ${label.kind}` : label.set;
  const valued = label.scores.filter((s) => s.value !== null);
  const covered = valued.find((s) => s.kind === "coverage");
  const scores = label.scores.length ? [...valued.map(scoreLine), ...withoutValue(label.scores)] : [el("p.score.faint", {}, "not scored")];
  const confidence = label.confidence === null ? "" : `confidence ${fixed(label.confidence)}${label.evidence ? `, from ${thousands(label.evidence)} ${label.evidence > 1 ? "firings" : "firing"}` : ""}`;
  return el("div.label-set", {}, el("p", {}, el("span.set-name", {}, visible(kind)), several ? el("span", {}, labelParts(label.text), " ") : "", el("span.faint", {}, confidence), covered ? el("span", {}, ` ${visible(coverageText(covered))}`) : ""), scores);
}

/* Kinds without a value, a line for each reason. */
function withoutValue(scores) {
  const reasons = new Map();
  for (const s of scores.filter((one) => one.value === null)) {
    const reason = reasonOf(s.undefined).replace(/(held-out documents|documents of the (test sample|panel))/, "documents of the test split");
    reasons.set(reason, [...(reasons.get(reason) || []), visible(s.kind)]);
  }
  return [...reasons].map(([reason, kinds]) => el("p.no-value", {}, `No value for ${kinds.join(", ")}: `, el("span.faint", {}, `${reason}.`)));
}

/* How much of the feature's activity the label names, and how much more than the labels of each control at like density. */
function coverageText(score) {
  const gains = Object.entries(score.gains || {}).filter(([, gain]) => gain !== null);
  const over = gains.map(([name, gain]) => `${gain < 0 ? "" : "+"}${percent(gain)} over the ${name}`).join(", ");
  return `Names ${score.estimated ? "about " : ""}${percent(score.value)} of the feature's activity${over ? `; ${over}` : ""}`;
}

function scoreLine(score) {
  const few = score.n_documents > 0 && score.n_documents < 30;
  const span = score.low === null || score.low === undefined ? el("span.faint", { title: few ? `It fires in ${score.n_documents} documents of the test split; an interval needs 30.` : "No interval is estimated for this kind of score." }, few ? "needs 30 docs" : "no interval") : el("span", {}, `[${fixed(score.low)}, ${fixed(score.high)}]`);
  const nothing = score.null === null || score.null === undefined ? "" : el("span.faint", {}, el("span.null-mark", { "aria-hidden": "true" }), `null ${fixed(score.null)}`);
  return el("p.score", {}, el("span", {}, visible(score.kind)), scorePlot(score), el("strong", {}, fixed(score.value)), span, nothing, score.n_documents ? el("span.faint", {}, `${score.n_documents} documents`) : "");
}

function tokensSection(card) {
  if (!card.promoted.length) return el("section", {}, el("h3", {}, "Output"), el("p.faint", {}, "Not known: this run has no effects."));
  const largest = (...lists) => Math.max(...lists.flat().filter((v, i) => i % 2).map(Math.abs));
  const top = largest(card.promoted, card.suppressed);
  const clamped = card.measured?.length ? logitList("Under a clamp", card.measured, largest(card.measured), "own", "Measured: log-probability under a clamp at a multiple of its maximum, beyond what clamps of other features do; nats") : null;
  const lists = [clamped, logitList("Promotes", card.promoted, top, "up", "By its direction alone: logits, beyond what directions have in common"), logitList("Suppresses", card.suppressed, top, "down", "By its direction alone")];
  return el("section.output", {}, el("h3", {}, "Output tokens"), el(clamped ? "div.two.three" : "div.two", {}, lists));
}

/* ---------------------------------------------------------------- what is near */

function relationTable(rows, value, head) {
  return el("table.relations", {}, el("thead", {}, el("tr", {}, ["Feature", head, "Label"].map((h) => el("th", { scope: "col" }, h)))),
    el("tbody", {}, rows.map((r) => el("tr", {}, el("td", {}, featureLink(r.feature)), el("td.number", {}, fixed(value(r))), el("td", {}, labelNode(r.label || labelOf(r.feature)))))));
}

function neighbourSection(card) {
  const rows = card.neighbours || [];
  return el("section", {}, el("h3", {}, "Nearest directions"), rows.length ? relationTable(rows, (r) => r.cosine, "Cosine") : el("p.faint", {}, "Not known: this run has no clusters."));
}

function partnerSection(card) {
  const rows = card.partners || [];
  return rows.length ? el("section", {}, el("h3", {}, "Fires together with"), relationTable(rows, (r) => r.phi, "phi")) : null;
}

function nearSection(card) {
  const partners = partnerSection(card);
  return partners ? el("div.columns.even", {}, neighbourSection(card), partners) : neighbourSection(card);
}

function groupMembers(layer, group) {
  const members = [];
  run.start.layers[layer].group.forEach((g, f) => g === group && members.push(f));
  return members;
}

/* Members of the feature's family, else of its finest cluster: the named one, or the three best labelled of one without a name. */
function groupSection(card) {
  const column = scoreColumn();
  const byScore = (a, b) => (scoreOf(b, column) ?? -1) - (scoreOf(a, column) ?? -1);
  const item = (f) => el("li", {}, featureLink(f), " ", labelNode(labelOf(f)));
  if (card.family && card.family.members.length > 1) {
    const members = card.family.members.map((m) => m.feature).filter((f) => f !== card.feature).sort(byScore);
    const about = [card.family.title ? visible(card.family.title) : "A family without a name", card.family.kind, card.family.solid ? "comes back in subsamples" : "does not come back in subsamples"];
    return el("section", {}, el("h3", {}, "Its family"), el("p.hint", {}, `${about.filter(Boolean).join("; ")}.`), el("ul.members.clipped", {}, members.slice(0, 8).map(item)));
  }
  const own = groupPath(card).at(-1);
  if (!own) return null;
  const members = groupMembers(own.layer, own.group).filter((f) => f !== card.feature).sort(byScore);
  const title = isNamed(own.title) ? `${visible(own.title)}: ${members.length + 1} features, the best labelled first.` : `A cluster of ${members.length + 1} without a name; its best labelled members:`;
  return el("section", {}, el("h3", {}, "Also in this cluster"), el("p.hint", {}, title), el("ul.members.clipped", {}, members.slice(0, isNamed(own.title) ? 8 : 3).map(item)));
}

/* ---------------------------------------------------------------- what it does, notes, where from */

function clampSection(card) {
  const kept = run.start.clamps.filter((c) => c.features.includes(card.feature));
  const holder = el("div", {});
  const shown = kept.findLast((c) => c.works) || kept.at(-1);
  if (shown) load(`clamp-${String(shown.number).padStart(4, "0")}`).then((record) => replace(holder, experimentNodes(record, 1)), () => {});
  const live = run.start.live ? el("p", {}, el("a", { href: state.link({ v: "clamp", w: card.feature, x: "" }) }, "Clamp it yourself")) : null;
  const more = shown ? el("p", {}, el("a", { href: state.link({ v: "clamp", x: shown.number }) }, "The whole experiment")) : null;
  const command = `python main.py clamp ${run.start.run.name} --set ${card.feature}=2x --prompt "…" --doses 0,1,2,4`;
  const none = kept.length || run.start.live ? null : el("p.faint", {}, "Not clamped yet: ", el("code", {}, command));
  return el("section", {}, el("h3", {}, "When it is turned up"), holder, more, live, none);
}

function noteSection(card) {
  return run.start.live ? el("section", {}, el("h3", {}, "Note"), noteForm(card)) : null;
}

function provenanceSection(card) {
  const units = ["capture", "train", "index", "effects", "cluster", ...card.labels.map((l) => `label/${l.set}`), ...card.labels.flatMap((l) => l.scores.map((s) => `score/${l.set}/${s.kind}`))];
  const rows = units.filter((u) => run.start.units[u]).map((u) => el("tr", {}, el("td", {}, visible(u)), el("td", {}, el("code", {}, run.start.units[u].key)), el("td.faint", {}, settingsText(run.start.units[u].settings))));
  return el("details.provenance", {}, el("summary", {}, "Where this is from"), el("table.relations", {}, el("tbody", {}, rows)));
}

function settingsText(settings) {
  return visible(Object.entries(settings).filter(([, v]) => v !== "").map(([k, v]) => `${k} ${v}`).join(", "));
}
