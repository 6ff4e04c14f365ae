"use strict";
/* Why a token follows: what each token and each feature adds to its logit, beside what switching them off was measured to change; and the
   likeliest next tokens without and with a clamp. */

const ABLATED = 8; // firings that are switched off one by one, and as many random ones

/* Steps of a tint, 1 to 3, and which side of 0 a value is on; "" near 0. */
function tint(value, largest) {
  const size = largest > 0 ? Math.ceil((3 * Math.abs(value)) / largest - 0.25) : 0;
  return size > 0 ? `.${value > 0 ? "for" : "against"}${Math.min(3, size)}` : "";
}

const codeOf = (token) => el("code.next", {}, visible(token) || "∅");
const logits = (value) => (value >= 0 ? "+" : "") + fixed(value);

/* ---------------------------------------------------------------- the panel of one token of a text */

/* Asks the server why what stands behind token `at` of a reading follows; `asked` is the text as it was read. */
function whyPanel(asked, tokens, at) {
  const following = tokens[at + 1];
  const against = el("input.against", { name: "against", type: "text", maxlength: 60, autocomplete: "off", spellcheck: "false", placeholder: following === undefined ? "" : "another token", "aria-label": "Rather than this token" });
  const question = following === undefined ? ["After ", codeOf(tokens[at]), ": what follows, and why?"] : ["After ", codeOf(tokens[at]), ": why ", codeOf(following), "?"];
  const fields = [el("p.why-question", {}, question, el("label.rather", {}, el("span", {}, "Rather than"), against))];
  const ask = (data) => post("api/why", { ...asked, at, against: data.get("against"), top: ABLATED });
  const retry = (other) => {
    against.value = other;
    against.form.requestSubmit();
  };
  return el("section.why", {}, liveForm("why-form", fields, "Why this next?", ask, (made) => whyNodes(made, retry)));
}

/* The likeliest next tokens; a click asks why the token follows rather than that one. */
function likeliestNode(made, retry) {
  const chips = made.likeliest.map((l) => (l.token === made.token ? el("span", {}, codeOf(l.token), ` ${percent(l.probability)}`) : el("button.chip", { type: "button", title: "Why not this one?", onclick: () => retry(l.token) }, visible(l.token) || "∅", ` ${percent(l.probability)}`)));
  return el("p.examples.likeliest", {}, el("span.hint", {}, "Likeliest here; choose one to ask why not:"), chips);
}

function whyNodes(made, retry) {
  const about = made.against ? [`. Its logit less that of `, codeOf(made.against), ` is ${logits(made.logit)}`] : `, a logit of ${fixed(made.logit)}`;
  const largest = Math.max(...made.by_token.map(Math.abs));
  const strip = made.tokens.map((token, i) => el(`span.part${tint(made.by_token[i], largest)}`, { "data-says": `${visible(token) || "∅"}  ${logits(made.by_token[i])}` }, visibleLines(token) || "∅"));
  const [strongest, random] = [false, true].map((which) => made.firings.filter((f) => f.random === which));
  const parts = [
    el("p", {}, codeOf(made.token), ` has ${percent(made.probability)} of the probability`, about, "."),
    likeliestNode(made, retry),
    el("div.whole.strip", {}, strip, " ", el("span.faint", {}, "→ "), codeOf(made.token)),
    el("p.legend", {}, el("span", {}, el("span.key.for3", { "aria-hidden": "true" }), "features here speak for it"), el("span", {}, el("span.key.against3", { "aria-hidden": "true" }), "against it")),
  ];
  if (!strongest.length) return [...parts, el("p.faint", {}, "No feature fires in front of it.")];
  return [...parts, el("h4", {}, "The strongest features"), el("p.hint", {}, "Change of the logit when the feature is switched off at that token: predicted by its attribution, and measured."), firingsTable(strongest, made), togetherTable(made),
    random.length ? el("details.provenance", {}, el("summary", {}, "Random features of like size"), firingsTable(random, made)) : null,
    el("details.provenance", {}, el("summary", {}, "Parts of the logit"), partsTable(made)), el("p.hint", {}, "In the terminal: ", el("code", {}, visible(`python main.py why ${run.start.run.name} "…" --at ${made.tokens.length - 1}`)))];
}

/* A bar from the middle of its cell: to the left the logit falls without the feature, so it spoke for the token. */
function changeBar(value, largest) {
  const share = largest > 0 ? Math.min(1, Math.abs(value) / largest) / 2 : 0;
  return el("span.middle", { "aria-hidden": "true" }, el(`span.bar-fill.${value < 0 ? "up" : "down"}`, { style: { width: `${100 * share}%`, marginLeft: `${value < 0 ? 50 - 100 * share : 50}%` } }));
}

function firingsTable(firings, made) {
  const largest = Math.max(...made.firings.map((f) => Math.abs(f.change ?? 0)));
  const rows = firings.map((f) => el("tr", {}, el("td", {}, featureLink(f.feature)), el("td", {}, codeOf(made.tokens[f.position])), el("td.number", {}, logits(-f.attribution)), el("td.number", {}, f.change === null ? "–" : logits(f.change)), el("td.bar-cell", {}, changeBar(f.change ?? 0, largest)), el("td", {}, labelNode(f.label))));
  return el("div.table-holder", {}, el("table.relations.firings", {}, el("thead", {}, el("tr", {}, ["Feature", "On", "Predicted", "Measured", "", "Label"].map((h) => el("th", { scope: "col" }, h)))), el("tbody", {}, rows)));
}

const GROUPS = { strongest: "the strongest", random: "random ones", all: "every firing" };

function togetherTable(made) {
  const rows = made.together.map((t) => el("tr", {}, el("td", {}, GROUPS[t.which]), [thousands(t.firings), logits(t.predicted), logits(t.change)].map((v) => el("td.number", {}, v))));
  const agreed = typeof made.rank_correlation === "number" ? el("p.hint", {}, `Predicted and measured agree at a rank correlation of ${fixed(made.rank_correlation)} over the single ones.`) : null;
  return [el("table.relations.together", {}, el("thead", {}, el("tr", {}, ["Switched off together", "Firings", "Predicted", "Measured"].map((h) => el("th", { scope: "col" }, h)))), el("tbody", {}, rows)), agreed];
}

function partsTable(made) {
  const errors = made.errors.reduce((sum, v) => sum + v, 0);
  const parts = [["features", made.features, `${thousands(made.n_firings)} firings, activation times gradient`], ["errors", errors, "what the autoencoder does not reconstruct"], ["bias", made.bias, "the decoder's bias"], ["skip", made.skip, "the skip connection"], ["first token", made.first, "where no feature counts"], ["rest", made.rest, "constants behind the site, and what is not linear"]];
  return el("table.relations", {}, el("tbody", {}, parts.filter(([name, v]) => v || name !== "skip").map(([name, v, what]) => el("tr", {}, el("td", {}, name), el("td.number", {}, logits(v)), el("td.faint", {}, what)))));
}

/* ---------------------------------------------------------------- next tokens without and with a clamp */

function nextTokensNode(record) {
  const entries = record.next_tokens || [];
  if (!entries.length) return null;
  const several = entries.length > 1;
  return el("section.next-tokens", {}, el("h3", {}, "Next tokens, without and with the clamp"),
    el("p.hint", {}, "The likeliest ones at each place of the clamped text. A tinted token was likelier (orange) or less likely (violet) than without the clamp; choose one to see what else could have stood there."),
    entries.map((entry) => el("article.next-entry", {}, several ? el("p.source", {}, visible(entry.prompt)) : null, nextPicker(entry))));
}

function nextPicker(entry) {
  const holder = el("div", { "aria-live": "polite" });
  const written = entry.written || [];
  if (!written.length) {
    replace(holder, nextTable(entry.tokens, null));
    return holder;
  }
  const changes = written.map((w) => w.clamped - w.baseline);
  const largest = Math.min(5, Math.max(...changes.map(Math.abs)));
  const choose = (i) => {
    buttons.forEach((b, j) => b.setAttribute("aria-pressed", i === j));
    replace(holder, nextTable(written[i].tokens, written[i]));
  };
  const buttons = written.map((w, i) => el(`button.token-button${tint(changes[i], largest)}`, { type: "button", title: `${percent(Math.exp(w.baseline))} without, ${percent(Math.exp(w.clamped))} with the clamp`, onclick: () => choose(i) }, visible(w.token) || "∅"));
  choose(0);
  return [el("div.token-row", {}, buttons), holder];
}

/* A row for each token: its probability without and with the clamp, as bars and numbers, and the change of its logarithm. */
function nextTable(rows, chosen) {
  const shown = chosen && !rows.some((r) => r.id === chosen.id) ? [...rows, chosen] : rows;
  const largest = Math.max(...shown.map((r) => Math.exp(Math.max(r.baseline, r.clamped))));
  const bar = (value, kind) => el("span.bar-slot", { "aria-hidden": "true" }, el(`span.bar-fill.${kind}`, { style: { width: `${(100 * Math.exp(value)) / largest}%` } }));
  const body = [...shown].sort((a, b) => b.clamped - a.clamped).map((r) => {
    const own = chosen && r.id === chosen.id;
    return el("tr", { "aria-current": own ? "true" : null }, el("td", {}, codeOf(r.token), own ? el("span.faint", {}, " written") : null), el("td.bar-cell", {}, bar(r.baseline, "without"), bar(r.clamped, "with")), el("td.number", {}, percent(Math.exp(r.baseline))), el("td.number", {}, percent(Math.exp(r.clamped))), el("td.number", {}, logits(r.clamped - r.baseline)));
  });
  return el("div.table-holder", {}, el("table.relations.next-table", {}, el("thead", {}, el("tr", {}, ["Token", "", "Without", "With", "Nats"].map((h) => el("th", { scope: "col" }, h)))), el("tbody", {}, body)));
}
