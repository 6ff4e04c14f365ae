"use strict";
/* Two features side by side, of one run or of two; and which features of two runs match. */

/* The feature that the open one is held against: {number of its run, feature}, or null. */
function comparedWith() {
  const found = /^(?:(\d+)\.)?(\d+)$/.exec(state.get("vs"));
  if (!found) return null;
  const number = found[1] === undefined ? run.number : Number(found[1]);
  return number < run.start.runs.length ? { number, feature: Number(found[2]) } : null;
}

const sameRun = (other) => other.number === run.number;
const otherName = (other) => (sameRun(other) ? "" : ` of ${visible(run.start.runs[other.number].name)}`);

let compareDrawn = "";

async function drawCompareView(panel) {
  const feature = state.feature();
  const other = comparedWith();
  const key = `${feature} ${other?.number}.${other?.feature} ${themeName()}`;
  if (compareDrawn === key && panel.querySelector(".compare-table")) return;
  compareDrawn = key;
  const head = [el("h2", {}, "Compare two features"), compareForm(feature, other)];
  if (feature === null || !other) {
    replace(panel, head, el("p.hint", {}, "Give two numbers. From a feature's page, Compare puts its nearest direction beside it."));
    return;
  }
  replace(panel, head, el("p.faint", {}, "Loading …"));
  try {
    const theirs = await loadRun(other.number);
    if (other.feature >= theirs.start.features) throw new Error(`That run has features 0 to ${theirs.start.features - 1}.`);
    const [a, b] = await Promise.all([loadCard(feature), loadCard(other.feature, other.number)]);
    if (compareDrawn !== key) return; // others were chosen meanwhile
    replace(panel, head, relationOf(a, b, other), compareTable(a, b, other, theirs));
    announce(`Feature ${feature} beside ${other.feature}${otherName(other)}.`);
  } catch (error) {
    replace(panel, head, el("p.error", {}, error.message));
  }
}

function compareForm(feature, other) {
  const left = el("input", { type: "number", min: 0, max: run.start.features - 1, value: feature ?? "", required: true, "aria-label": "First feature" });
  const right = el("input", { type: "number", min: 0, value: other?.feature ?? "", required: true, "aria-label": "Second feature" });
  const names = run.start.runs.map((r, i) => el("option", { value: i, selected: i === (other?.number ?? run.number) }, visible(r.name)));
  const where = run.start.runs.length > 1 ? el("select", { "aria-label": "Run of the second feature" }, names) : null;
  const send = (event) => {
    event.preventDefault();
    const prefix = where && Number(where.value) !== run.number ? `${where.value}.` : "";
    state.set({ f: left.value, vs: prefix + right.value });
  };
  return el("form.compare-form", { onsubmit: send }, left, el("span", {}, "and"), right, where ? [el("span", {}, "of"), where] : null, el("button", { type: "submit" }, "Compare"), copyButton("Copy link", () => location.href));
}

/* What is known of the two together: cosine, how often they fire on the same token, relations; exact counts where a server answers. */
function relationOf(a, b, other) {
  const line = el("p.relation", {});
  if (!sameRun(other)) {
    load(`match-${other.number}`).then((m) => replace(line, matchSentence(a.feature, b.feature, m)), () => {});
    return line;
  }
  const near = (a.neighbours || []).find((n) => n.feature === b.feature) || (b.neighbours || []).find((n) => n.feature === a.feature);
  const together = (a.partners || []).find((n) => n.feature === b.feature) || (b.partners || []).find((n) => n.feature === a.feature);
  const parts = [near ? `Cosine of their directions ${fixed(near.cosine)}.` : "Neither is among the nearest directions of the other.", together ? `They fire together with phi ${fixed(together.phi)}.` : ""];
  replace(line, parts.filter(Boolean).join(" "));
  if (run.start.live) {
    post("api/pair", { a: a.feature, b: b.feature }).then((p) => replace(line, `Cosine of their directions ${fixed(p.cosine)}. `, pairSentence(p)), () => {});
  }
  return line;
}

function pairSentence(p) {
  return `Both fire on ${thousands(p.n_ab)} tokens${typeof p.phi === "number" ? `; phi ${fixed(p.phi)}` : ""}.`;
}

function matchSentence(feature, theirs, match) {
  if (match.refused) return match.refused;
  const nearest = match.feature[feature];
  const own = nearest === theirs ? "It is its nearest direction there" : `Its nearest direction there is ${nearest}`;
  return `${own}, cosine ${fixed(match.cosine[feature] / 1000)}; by chance ${fixed(match.chance)}.${match.same_site ? "" : " The sites differ, so a cosine says less."}`;
}

function compareTable(a, b, other, theirs) {
  const both = (draw) => [draw(a), inRun(theirs, () => draw(b))];
  const link = (card, own) => (own || sameRun(other) ? featureLink(card.feature, `${card.feature}`) : el("a.feature-link", { href: linkToRun(other.number, card.feature) }, `${card.feature}${otherName(other)}`));
  const rows = [
    ["Feature", [link(a, true), link(b, false)]],
    ["Label", both((c) => (c.labels[0] ? el("p.compare-label", {}, labelParts(c.labels[0].text)) : el("span.faint", {}, "no label")))],
    ["Scores", both(compareScores)],
    ["Fires on", both((c) => `${percent(c.density)} of tokens, ${thousands(c.n_firings)} firings in ${thousands(c.n_documents)} documents`)],
    ["Activations", both(histogramChart)],
    ["Promotes", both((c) => promotedOf(c, sharedTokens(a, b, theirs)))],
    ["Top snippets", both((c) => el("ul.snippets", {}, c.snippets.filter((s) => s.s === "top").slice(0, 6).map((s) => stillSnippet(s, c))))],
    ["Label fails", both((c) => failsOf(c))],
  ];
  return el("div.compare-table", {}, rows.map(([name, cells]) => el("section.compare-row", {}, el("h3", {}, name), cells.map((cell) => el("div.compare-cell", {}, cell)))));
}

function compareScores(card) {
  const label = card.labels[0];
  if (!label || !label.scores.length) return el("span.faint", {}, "not scored");
  return label.scores.filter((s) => s.value !== null).map((s) => el("p.score", {}, el("span", {}, visible(s.kind)), scorePlot(s), el("strong", {}, fixed(s.value))));
}

/* Texts of tokens that both promote. */
function sharedTokens(a, b, theirs) {
  const texts = (card) => card.promoted.filter((_, i) => i % 2 === 0).map((n) => run.words[n]);
  const right = new Set(inRun(theirs, () => texts(b)));
  return new Set(texts(a).filter((t) => right.has(t)));
}

function promotedOf(card, shared) {
  const tokens = card.promoted.filter((_, i) => i % 2 === 0).slice(0, 10).map((n) => run.words[n]);
  if (!tokens.length) return el("span.faint", {}, "not known");
  return el("p.token-list", {}, tokens.map((t) => [el(shared.has(t) ? "code.shared" : "code", { title: shared.has(t) ? "both promote it" : null }, visible(t).replace(/^ /, "·")), " "]));
}

function failsOf(card) {
  const found = card.snippets.filter((s) => s.s === "missed" || s.s === "false_alarm").slice(0, 3);
  return found.length ? el("ul.snippets", {}, found.map((s) => stillSnippet(s, card))) : el("span.faint", {}, "no mistake found");
}

/* A snippet that does not open: its run may not be the page's own. */
function stillSnippet(snippet, card) {
  const { tokens, activations, peak } = unpack(snippet);
  const side = (from, to, marked) => tokenNodes(tokens.slice(from, to), activations.slice(from, to), card.max, marked, onOneLine);
  return el("li.snippet.still", {}, el("div.line", {}, el("span.value", {}, short(activations[peak] || 0)), el("span.before", {}, el("span", {}, side(0, peak, -1))), el("span.behind", {}, side(peak, tokens.length, 0))));
}

/* ---------------------------------------------------------------- several runs */

/* A link to a feature of another run; the page begins anew with that run. */
function linkToRun(number, feature = null) {
  return "#" + new URLSearchParams({ ...(number ? { r: number } : {}), ...(feature === null ? {} : { f: feature }) }).toString();
}

function initRuns() {
  const several = run.start.runs.length > 1;
  document.getElementById("go-runs").hidden = !several;
  if (!several) return;
  const box = el("select", { "aria-label": "Run", onchange: (e) => (location.hash = linkToRun(Number(e.target.value))) }, run.start.runs.map((r, i) => el("option", { value: i, selected: i === run.number }, `${visible(r.name)} ${visible(r.site)}`)));
  replace(document.getElementById("run-name"), box);
}

let runsDrawn = "";

async function drawRunsView(panel) {
  const others = run.start.runs.map((_, i) => i).filter((i) => i !== run.number);
  const wanted = others.includes(Number(state.get("o", others[0]))) ? Number(state.get("o", others[0])) : others[0];
  const key = `${wanted} ${themeName()} ${Boolean(run.text)}`; // drawn anew when the labels have come
  if (runsDrawn === key && panel.querySelector(".matches")) return;
  runsDrawn = key;
  replace(panel, el("h2", {}, "Runs of this page"), runsTable(), el("p.faint", {}, "Loading …"));
  try {
    const [match, theirs] = await Promise.all([load(`match-${wanted}`), loadRun(wanted)]);
    if (runsDrawn === key) replace(panel, el("h2", {}, "Runs of this page"), runsTable(), el("div.matches", {}, matchesOf(match, wanted, theirs, others)));
  } catch (error) {
    replace(panel, el("p.error", {}, error.message));
  }
}

function runsTable() {
  const rows = run.start.runs.map((r, i) => el("tr", { "aria-current": i === run.number ? "true" : null }, el("td", {}, i === run.number ? el("strong", {}, visible(r.name)) : el("a", { href: linkToRun(i) }, visible(r.name))), [r.subject, r.site, r.corpus].map((v) => el("td", {}, visible(v)))));
  return el("table.relations", {}, el("thead", {}, el("tr", {}, ["Run", "Subject", "Site", "Corpus"].map((h) => el("th", { scope: "col" }, h)))), el("tbody", {}, rows));
}

const MOST_ROWS = 20;
const CLOSE = 700; // thousandths of a cosine from which a feature counts as found again

function matchesOf(match, number, theirs, others) {
  const name = visible(run.start.runs[number].name);
  const pick = others.length > 1 ? el("label.match-choice", {}, "Matched with ", el("select", { onchange: (e) => state.set({ o: e.target.value }) }, others.map((i) => el("option", { value: i, selected: i === number }, visible(run.start.runs[i].name))))) : null;
  if (match.refused) return [pick, el("p", {}, match.refused)];
  const known = match.cosine.map((c, f) => [f, c]).filter(([, c]) => c !== null);
  const close = known.filter(([, c]) => c >= CLOSE).length;
  const alive = known.filter(([f]) => run.start.status[f] !== "dead");
  const [again, lost] = [alive.filter(([, c]) => c >= CLOSE), alive.filter(([, c]) => c < CLOSE)].map((rows, i) => rows.sort((a, b) => (i ? a[1] - b[1] : b[1] - a[1])));
  const section = (title, rows, none) => [el("h3", {}, title), rows.length ? table(rows.slice(0, MOST_ROWS)) : el("p.faint", {}, none), rows.length > MOST_ROWS ? el("p.hint", {}, `and ${thousands(rows.length - MOST_ROWS)} more`) : null];
  const proven = run.start.units[`compare/${run.start.runs[number].name}`]?.summary.there?.null;
  const chance = typeof proven?.mean === "number" ? `random directions of equal covariance reach ${fixed(proven.mean)} on average` : `by chance ${fixed(match.chance)}`;
  const table = (rows) => el("table.relations", {}, el("thead", {}, el("tr", {}, ["Feature", "Label", "Cosine", `Nearest in ${name}`, "Its label"].map((h) => el("th", { scope: "col" }, h)))), el("tbody", {}, rows.map(([f, c]) => {
    const there = match.feature[f];
    return el("tr", {}, el("td", {}, featureLink(f)), el("td", {}, labelNode(labelOf(f))), el("td.number", {}, fixed(c / 1000)), el("td", {}, el("a.feature-link", { href: state.link({ v: "compare", f, vs: `${number}.${there}` }) }, `${there}`)), el("td", {}, inRun(theirs, () => labelNode(labelOf(there)))));
  })));
  return [pick, el("p", {}, `${percent(close / Math.max(1, known.length))} of ${thousands(known.length)} features have a direction in ${name} at a cosine of 0.7 or more; ${chance}.${match.same_site ? "" : " The sites differ, so a cosine says less."}`),
    section("Found again", again, "None."), section("Not found there", lost, "Every feature is found again.")];
}
