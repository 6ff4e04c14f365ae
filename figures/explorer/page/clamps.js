"use strict";
/* Clamp experiments: the two texts with what differs marked, and the doses. */

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
  return nodes;
}

function pairNode(prompt, baseline, clamped, note) {
  const [a, b] = [pieces(baseline).slice(0, 400), pieces(clamped).slice(0, 400)];
  const [inA, inB] = differences(a, b);
  const side = (title, nodes, kind) => el(`div.text.${kind}`, {}, el("h4", {}, title), el("div.whole", {}, el("span.prompt", {}, visibleLines(prompt)), nodes));
  return el("article.pair", {}, side("Baseline", markedText(a, inA), "baseline"), side("Clamped", markedText(b, inB), "clamped"), note ? el("p.source", {}, note) : null);
}

function experimentNodes(record, most = Infinity) {
  const pairs = record.prompts.map((prompt, i) => pairNode(prompt, record.baseline[i], record.clamped[i], `seed ${record.seeds[i]}, temperature ${record.temperature}`)).slice(0, most);
  return [record.doses ? doseCharts(record.doses, record.useful?.dose) : null, USEFUL.map(([entry, key, what]) => (record[entry] ? usefulNode(record[entry], key, what) : null)), el("div.pairs", {}, pairs)];
}

const span = (row, key) => (typeof row[`${key}_low`] === "number" ? ` [${percent(Math.max(0, row[`${key}_low`]))}, ${percent(row[`${key}_high`])}]` : "");

const USEFUL = [["useful", "own", "of the tokens it writes are its own"], ["useful_found", "found", "of its maximum is found again in the text"]];

function usefulNode(useful, key, what) {
  if (useful.dose === null) return el("p.useful", {}, `No dose was useful on the prompts that it was sought on: share ${what}.`);
  return el("p.useful", {}, "Useful dose ", el("strong", {}, `${short(useful.dose)}×`), ` (found on ${useful.sought_on} prompts). On the ${useful.reported_on} others, `,
    el("strong", {}, `${percent(useful[key])} ${what}`), span(useful, key), `; ${percent(useful[`random_${key}`])} along a random direction of equal length, ${percent(useful[`unclamped_${key}`])} unclamped.`);
}

/* ---------------------------------------------------------------- the view */

async function drawClampView(panel) {
  const number = state.get("x");
  const kept = run.start.clamps.map((c) => el("li", { "aria-current": String(c.number) === number ? "true" : null }, el("a", { href: state.link({ x: c.number }) }, visible(c.clamps.join(", "))), " ", labelNode(labelOf(c.features[0]))));
  const shown = el("div.experiment", {});
  const form = run.start.live ? clampForm() : el("p.hint", {}, "To clamp features from this page, serve it: ", el("code", {}, `python main.py explore ${run.start.run.name}`));
  const list = kept.length ? [el("h3", {}, "Kept experiments"), el("ul.members", {}, kept)] : [];
  if (!panel.querySelector(".clamp-form") || number) replace(panel, el("h2", {}, "Clamp"), form, list, shown);
  if (!number) return;
  try {
    const record = await load(`clamp-${number.padStart(4, "0")}`);
    if (state.get("x") === number) replace(shown, experimentHead(record), experimentNodes(record));
    shown.scrollIntoView({ block: "nearest" });
  } catch (error) {
    replace(shown, el("p.error", {}, `There is no experiment ${visible(number)}. ${error.message}`));
  }
}

function experimentHead(record) {
  const names = record.features.map((f, i) => [i ? ", " : "", visible(record.clamps[i]), " ", featureLink(f, visible(record.labels[f] || "no label"))]).flat();
  const where = record.positions && record.positions !== "all" ? ` at ${visible(record.positions)} positions` : "";
  const also = (record.also || []).flatMap((other) => other.clamps.map((c) => `, ${c.mode} ${c.feature}=${short(c.value)} in run ${other.run}`)).map(visible);
  return [el("h3", {}, `Experiment ${record.number}`), el("p", {}, names, also, where), el("p.hint", {}, "Both texts use the same random numbers, so what differs is the clamp. Again: ", el("code", {}, `python main.py clamp ${run.start.run.name} --replay ${record.number}`))];
}
