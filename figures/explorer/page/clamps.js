"use strict";
/* Clamp experiments: what changed, a slider over the doses with the texts that were written at each, and the curves. */

/* Words and the space behind them, for comparing. */
const pieces = (text) => text.match(/\s+|[\p{L}\p{N}_]+|[^\s\p{L}\p{N}_]/gu) || [];

/* Which pieces of a and of b are not in their longest common subsequence. */
function differences(a, b) {
  const rows = Array.from({ length: a.length + 1 }, () => new Uint16Array(b.length + 1));
  for (let i = a.length - 1; i >= 0; i--) for (let j = b.length - 1; j >= 0; j--) rows[i][j] = a[i] === b[j] ? rows[i + 1][j + 1] + 1 : Math.max(rows[i + 1][j], rows[i][j + 1]);
  const [inA, inB] = [new Array(a.length).fill(true), new Array(b.length).fill(true)];
  for (let i = 0, j = 0; i < a.length && j < b.length;) {
    if (a[i] === b[j]) inA[i++] = inB[j++] = false;
    else if (rows[i + 1][j] >= rows[i][j + 1]) i++;
    else j++;
  }
  return [inA, inB];
}

/* Nodes of a text: neighbouring words that differ share one mark, also across the space between them; a mark ends with its line. */
function markedText(all, differs) {
  const space = (i) => !all[i].trim();
  const marked = all.map((_, i) => (space(i) ? i > 0 && i < all.length - 1 && !all[i].includes("\n") && differs[i - 1] && differs[i + 1] : differs[i]));
  const nodes = [];
  for (let i = 0; i < all.length;) {
    let j = i;
    while (j < all.length && marked[j] === marked[i]) j++;
    const text = visibleLines(all.slice(i, j).join(""));
    nodes.push(marked[i] ? el("mark", {}, text) : text);
    i = j;
  }
  return nodes.length ? nodes : [el("span.faint", {}, "(it wrote nothing)")];
}

/* What was continued: the user's message of a chat, or the end of a prompt; `message` is "" where it was no chat. */
function promptNodes(prompt, message) {
  if (message) return [el("span.speaker", {}, "User"), el("span.prompt", {}, visibleLines(message)), el("span.speaker", {}, "Assistant")];
  const long = prompt.length > MOST_PROMPT;
  return el("span.prompt", { title: long ? visible(prompt) : null }, long ? `… ${visibleLines(prompt.slice(-MOST_PROMPT))}` : visibleLines(prompt));
}

const MOST_PROMPT = 300; // characters; a longer prompt is shown by its end

const sideText = (title, prompt, nodes, kind, message = "") => el(`div.text.${kind}`, {}, el("h4", {}, title), el("div.whole", {}, promptNodes(prompt, message), nodes));

function pairNode(prompt, baseline, clamped, note, message) {
  const [a, b] = [pieces(baseline).slice(0, 400), pieces(clamped).slice(0, 400)];
  const [inA, inB] = differences(a, b);
  return el("article.pair", {}, sideText("Unclamped", prompt, markedText(a, inA), "baseline", message), sideText("Clamped", prompt, markedText(b, inB), "clamped", message), note ? el("p.source", {}, note) : null);
}

function experimentNodes(record, most = Infinity) {
  const pairs = record.prompts.map((prompt, i) => pairNode(prompt, record.baseline[i], record.clamped[i], `seed ${record.seeds?.[i] ?? 0}, temperature ${record.temperature}`, record.message)).slice(0, most);
  return [changedNode(record), USEFUL.map(([entry, ...of]) => (record[entry] ? usefulNode(record[entry], ...of) : null)), doseSlider(record, most), el("div.pairs", {}, pairs), most === Infinity ? nextTokensNode(record) : null, record.doses ? doseCharts(record.doses, confirmedDose(record)) : null];
}

/* ---------------------------------------------------------------- what changed */

/* Whether the lower bound of a measure is above every control that is known, and 0, on prompts that did not choose the dose. */
function isConfirmed(useful, key) {
  if (!useful || typeof useful.dose !== "number" || typeof useful[`${key}_low`] !== "number") return false;
  const controls = ["random_", "feature_", "unclamped_"].map((c) => useful[c + key]).filter((v) => typeof v === "number");
  return useful[`${key}_low`] > Math.max(0, ...controls);
}

function confirmedDose(record) {
  const found = USEFUL.find(([entry, key]) => isConfirmed(record[entry], key));
  return found ? record[found[0]].dose : null;
}

/* The dose to tell of: a confirmed one, else 1, else the one nearest to 1. */
function tellingRow(record) {
  const wanted = confirmedDose(record) ?? 1;
  const rows = (record.doses || []).filter((r) => r.dose > 0);
  return rows.sort((a, b) => Math.abs(a.dose - wanted) - Math.abs(b.dose - wanted))[0] || null;
}

/* First of all: what the clamp did against a random direction of equal length. */
function changedNode(record) {
  const row = tellingRow(record);
  if (!row || typeof row.target !== "number") return null;
  const change = `its own tokens become ${Math.abs(row.target).toFixed(1)} nats ${row.target >= 0 ? "likelier" : "less likely"}`;
  const random = typeof row.random_target === "number" ? ` (a random direction: ${signed(row.random_target)})` : "";
  const found = typeof row.found === "number" ? `; the unclamped subject finds ${percent(Math.max(0, row.found))} of its maximum again in the text${typeof row.random_found === "number" ? ` (${percent(Math.max(0, row.random_found))})` : ""}` : "";
  return el("p.changed", {}, el("strong", {}, `At ${short(row.dose)}× its maximum: `), change, random, found, ".");
}

const span = (row, key) => (typeof row[`${key}_low`] === "number" ? ` [${percent(Math.max(0, row[`${key}_low`]))}, ${percent(Math.min(1, row[`${key}_high`]))}]` : "");

const USEFUL = [["useful", "own", "by its own tokens", "of the tokens it writes are its own"], ["useful_found", "found", "by what is found again", "of its maximum is found again in the text"]];

function usefulNode(useful, key, by, what) {
  if (useful.dose === null) return el("p.useful", {}, `No useful dose ${by}: on ${useful.sought_on} prompts none beat its controls in readable text.`);
  const report = [`on the ${useful.reported_on} others ${percent(useful[key] ?? 0)}`, span(useful, key), ` ${what}`, `; ${percent(useful[`random_${key}`] ?? 0)} along a random direction of equal length, ${percent(useful[`unclamped_${key}`] ?? 0)} unclamped.`];
  if (!isConfirmed(useful, key)) return el("p.useful", {}, `No useful dose ${by}: ${short(useful.dose)}× looked best on ${useful.sought_on} prompts and is not confirmed, `, report);
  return el("p.useful", {}, `Useful dose ${by}: `, el("strong", {}, `${short(useful.dose)}×`), `, found on ${useful.sought_on} prompts and confirmed: `, report);
}

/* ---------------------------------------------------------------- the slider */

/* Texts at every dose, kept when the doses were measured: nothing is computed, so it works from a folder too. */
function doseSlider(record, most) {
  const texts = (record.dose_texts || []).slice(0, most === 1 ? 1 : Infinity);
  if (!texts.length) return null;
  const doses = texts[0].doses.map((d) => d.dose);
  const at = Math.max(0, doses.indexOf(tellingRow(record)?.dose ?? doses.at(-1)));
  const slider = el("input", { type: "range", min: 0, max: doses.length - 1, step: 1, value: at, "aria-label": "Dose" });
  const said = el("output.dose-said", {});
  const holder = el("div.dose-texts", {});
  const marks = el("div.dose-marks", { "aria-hidden": "true" }, doses.map((d) => el("span", {}, `${short(d).replace(/\.?0+$/, "")}×`)));
  const draw = () => {
    const i = Number(slider.value);
    const row = (record.doses || []).find((r) => r.dose === doses[i]);
    slider.setAttribute("aria-valuetext", `${short(doses[i])} times the maximum`);
    replace(said, el("strong", {}, `${short(doses[i])}× its maximum`), row && typeof row.target === "number" ? el("span.faint", {}, `  own tokens ${signed(row.target)} nats, random ${signed(row.random_target ?? 0)}`) : null);
    replace(holder, texts.map((t) => {
      const [a, b] = [pieces(t.baseline).slice(0, 300), pieces(t.doses[i].clamped).slice(0, 300)];
      const r = pieces(t.doses[i].random).slice(0, 300);
      return el("article.pair.three", {}, sideText("Unclamped", t.prompt, markedText(a, a.map(() => false)), "baseline"), sideText("Clamped", t.prompt, markedText(b, differences(a, b)[1]), "clamped"), sideText("Random direction, equal length", t.prompt, markedText(r, differences(a, r)[1]), "random"));
    }));
  };
  slider.addEventListener("input", draw);
  draw();
  return el("section.slider", {}, el("h3", {}, "Turn it up"), el("div.dose-row", {}, el("div.dose-scale", {}, slider, marks), said), holder, el("p.hint", {}, "Texts after prompts that did not choose a dose, with the same random numbers; what differs from the unclamped text is marked."));
}

/* ---------------------------------------------------------------- the view */

async function drawClampView(panel) {
  const number = state.get("x");
  const kept = run.start.clamps.map((c) => el("li", { "aria-current": String(c.number) === number ? "true" : null }, el("a", { href: clampLink(c) }, visible(c.clamps.join(", "))), " ", labelNode(labelOf(c.features[0])), el("span.faint", {}, c.works ? " works" : "")));
  if (!panel.querySelector(".clamp-page")) {
    const form = run.start.live ? clampForm() : el("p.hint", {}, "To clamp features from this page, serve it: ", el("code", {}, `python main.py explore ${run.start.run.name}`));
    replace(panel, el("div.clamp-page", {}, el("h2", {}, "Clamp"), form, el("div.kept", {}), el("div.experiment", {})));
  }
  clampForm.follow?.(state.get("w"));
  replace(panel.querySelector(".kept"), kept.length ? [el("h3", {}, "Kept experiments"), el("ul.members.clipped", {}, kept)] : run.start.live ? null : el("p.faint", {}, "No experiment was kept."));
  const shown = panel.querySelector(".experiment");
  if (!number) {
    replace(shown);
    return;
  }
  if (shown.dataset.number === `${number} ${themeName()}` && shown.children.length) return;
  try {
    const record = await load(`clamp-${number.padStart(4, "0")}`);
    if (state.get("x") !== number) return;
    shown.dataset.number = `${number} ${themeName()}`;
    replace(shown, experimentHead(record), experimentNodes(record));
    shown.scrollIntoView({ block: "nearest" });
  } catch (error) {
    replace(shown, el("p.error", {}, `There is no experiment ${visible(number)}. ${error.message}`));
  }
}

/* A kept experiment; where there is room its feature stands beside it. */
const clampLink = (c) => state.link({ v: "clamp", x: c.number, ...(narrow.matches ? { f: "" } : { f: c.features[0] }) });

/* Names of the clamped features, each a link to its page. */
function clampNames(record) {
  return record.features.map((f, i) => [i ? ", " : "", visible(record.clamps[i]), " ", el("a.feature-link", { href: state.link({ f }) }, labelNode(record.labels[f] || ""))]).flat();
}

function experimentHead(record) {
  const where = record.positions && record.positions !== "all" ? ` at ${visible(record.positions)} positions` : "";
  const also = (record.also || []).flatMap((other) => other.clamps.map((c) => `, ${c.mode} ${c.feature}=${short(c.value)} in run ${other.run}`)).map(visible);
  return [el("h3", {}, `Experiment ${record.number}`), el("p", {}, clampNames(record), also, where), el("p.hint", {}, "Both texts use the same random numbers, so what differs is the clamp. Again: ", el("code", {}, `python main.py replay ${run.start.run.name} ${record.number}`))];
}
