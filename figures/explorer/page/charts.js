"use strict";
/* Small pictures in SVG; every number in them is also in text beside or inside them. */

/* Counts of the non-zero activations on a logarithmic axis, bars in the colours of the highlight, quantile strata as ticks. */
function histogramChart(card) {
  const { counts, edges } = card.histogram;
  const [width, height, base, top] = [320, 112, 84, edges[edges.length - 1]];
  const tallest = Math.log1p(Math.max(...counts)) || 1;
  const slot = width / counts.length;
  const bars = counts.map((count, i) => {
    const tall = count ? Math.max(2, (Math.log1p(count) / tallest) * (base - 8)) : 0;
    const name = `${short(edges[i])} to ${short(edges[i + 1])}: ${thousands(count)} firings`;
    return svg(`rect.bar.b${step(edges[i + 1], top)}`, { x: i * slot + 0.5, y: base - tall, width: slot - 1, height: tall }, svg("title", {}, name));
  });
  const place = (value) => (value / top) * width;
  const ticks = (card.strata || []).slice(0, -1).map((s) => svg("line.tick", { x1: place(s.low), x2: place(s.low), y1: base, y2: base + 5 }, svg("title", {}, `${s.stratum}: from ${short(s.low)}`)));
  const text = (x, anchor, words) => svg("text", { x, y: base + 20, "text-anchor": anchor }, words);
  const label = `Histogram of ${thousands(card.n_firings)} non-zero activations up to ${short(top)}, counts on a logarithmic scale`;
  return svg("svg.histogram", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label },
    bars, svg("line.axis", { x1: 0, x2: width, y1: base, y2: base }), ticks, text(0, "start", "0"), text(width / 2, "middle", "activation"), text(width, "end", short(top)));
}

/* A score between -0.1 and 1 as a point with its interval, the null as a bar across. */
function scorePlot(score) {
  const [width, height] = [150, 18];
  const x = (value) => ((Math.max(-0.1, Math.min(1, value)) + 0.1) / 1.1) * (width - 8) + 4;
  const parts = [svg("line.axis", { x1: x(-0.1), x2: x(1), y1: 9, y2: 9 }), svg("line.axis", { x1: x(0), x2: x(0), y1: 5, y2: 13 })];
  if (score.low !== null && score.low !== undefined) parts.push(svg("line.interval", { x1: x(score.low), x2: x(score.high), y1: 9, y2: 9 }));
  if (score.null !== null && score.null !== undefined) parts.push(svg("line.null", { x1: x(score.null), x2: x(score.null), y1: 3, y2: 15 }));
  parts.push(svg("circle.point", { cx: x(score.value), cy: 9, r: 4 }));
  return svg("svg.score-plot", { viewBox: `0 0 ${width} ${height}`, width, height, "aria-hidden": "true" }, parts);
}

/* Promoted and suppressed tokens as two lists of bars on one scale. `pairs` is [token, logit, token, logit, ...]. */
function logitList(title, pairs, top, side, about = null) {
  const rows = [];
  for (let i = 0; i < Math.min(pairs.length, 20); i += 2) {
    const share = Math.abs(pairs[i + 1]) / top;
    const text = visible(run.words[pairs[i]]);
    const leading = text.startsWith(" ") ? el("span.space", { "aria-hidden": "true" }, "·") : "";
    rows.push(el("li", {}, el("code.token", { title: text }, leading, text.replace(/^ /, "")), el("span.bar-slot", { "aria-hidden": "true" }, el(`span.bar-fill.${side}`, { style: { width: `${100 * share}%` } })), el("span.number", {}, short(pairs[i + 1]))));
  }
  return el("div", {}, el("h4", { title: about }, title), el("ol.logits", {}, rows));
}

/* ---------------------------------------------------------------- dose and response */

const SHARES = ["own", "distinct", "found"]; // bounded by 0 and 1: no band leaves that
const MEASURES = [
  { key: "target", title: "Log-probability of its own tokens", unit: "those that its direction promotes; nats, change" },
  { key: "own", title: "Its own tokens in what it writes", unit: "share" },
  { key: "kl", title: "KL to the unclamped subject", unit: "nats a token" },
  { key: "loss", title: "Loss on neutral text", unit: "nats a token, change" },
  { key: "perplexity", title: "Perplexity of what it writes", unit: "under the unclamped subject" },
  { key: "distinct", title: "Distinct pairs of words", unit: "share" },
  { key: "found", title: "The feature in what it writes", unit: "read unclamped, share of its maximum" },
];
const CURVES = [
  { key: "", name: "this clamp", style: "own" },
  { key: "random_", name: "random direction of equal length", style: "direction" },
  { key: "feature_", name: "random feature of like density, equal length", style: "other" },
];

/* The next number above that reads well on an axis. */
function roundUp(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return power * [1, 1.5, 2, 3, 4, 5, 6, 8, 10].find((step) => step * power >= value * 0.999);
}

/* One panel: `rows` are records by dose with KEY, and where known KEY_low and KEY_high, under each curve's prefix. */
function dosePanel(measure, rows, useful) {
  const curves = CURVES.filter((c) => typeof rows[0][c.key + measure.key] === "number");
  if (!curves.length) return null;
  const held = (v) => (typeof v === "number" && SHARES.includes(measure.key) ? Math.max(0, Math.min(1, v)) : v);
  const every = rows.flatMap((r) => curves.flatMap((c) => ["", "_low", "_high"].map((end) => held(r[c.key + measure.key + end])))).filter((v) => typeof v === "number");
  const high = roundUp(Math.max(...every, 0.01));
  const low = Math.min(...every) < -0.04 * high ? -roundUp(-Math.min(...every)) : 0;
  const [width, height, left, right, top, bottom] = [300, 170, 42, 10, 12, 34];
  const doses = rows.map((r) => r.dose);
  const x = (d) => left + ((d - Math.min(...doses)) / (Math.max(...doses) - Math.min(...doses) || 1)) * (width - left - right);
  const y = (v) => top + (1 - (Math.max(low, Math.min(high, v)) - low) / (high - low)) * (height - top - bottom);
  const drawn = curves.flatMap((c) => {
    const at = (r, end) => held(r[c.key + measure.key + end]);
    const known = rows.filter((r) => typeof at(r, "") === "number");
    const path = known.map((r, i) => `${i ? "L" : "M"}${x(r.dose)} ${y(at(r, ""))}`).join("");
    const banded = known.filter((r) => typeof at(r, "_low") === "number");
    const edge = (rs, end) => rs.map((r) => `${x(r.dose)} ${y(at(r, end))}`).join(" ");
    const band = banded.length > 1 ? [svg(`polygon.band.${c.style}`, { points: `${edge(banded, "_high")} ${edge([...banded].reverse(), "_low")}` })] : [];
    const dots = known.map((r) => svg(`circle.dot.${c.style}`, { cx: x(r.dose), cy: y(at(r, "")), r: 3 }, svg("title", {}, `${c.name}, ${short(r.dose)}×: ${short(at(r, ""))}`)));
    return [...band, svg(`path.curve.${c.style}`, { d: path }), ...dots];
  });
  const number = (v) => minus(String(Number(v.toPrecision(3))));
  const ticks = (low < 0 ? [low, 0, high] : [0, high / 2, high]).map((v) => [svg("line.grid", { x1: left, x2: width - right, y1: y(v), y2: y(v) }), svg("text", { x: left - 6, y: y(v) + 4, "text-anchor": "end" }, number(v))]);
  let last = Infinity; // from the right: a label that would touch the one behind it is left out
  const few = [...doses].reverse().filter((d) => last - x(d) > 30 && ((last = x(d)), true));
  const feet = few.map((d) => svg("text", { x: x(d), y: height - bottom + 16, "text-anchor": "middle" }, `${short(d).replace(/\.?0+$/, "")}×`));
  const mark = typeof useful === "number" ? [svg("line.useful", { x1: x(useful), x2: x(useful), y1: top, y2: height - bottom }, svg("title", {}, "useful dose"))] : [];
  const label = `${measure.title} by dose: ` + rows.map((r) => `${short(r.dose)}×: ${short(r[measure.key])}`).join(", ");
  const chart = svg("svg.dose", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label }, ticks.flat(), mark, drawn, feet);
  return el("figure.panel", {}, el("figcaption", {}, el("strong", {}, measure.title), el("span.faint", {}, measure.unit)), chart);
}

/* Two panels say what a clamp does; what it costs stands below, folded. */
function doseCharts(rows, useful) {
  const [main, more] = [MEASURES.slice(0, 2), MEASURES.slice(2)].map((part) => part.map((m) => dosePanel(m, rows, useful)).filter(Boolean));
  const styles = CURVES.filter((c, i) => Object.keys(rows[0]).some((k) => c.key && k.startsWith(c.key)) || i === 0);
  const legend = el("p.legend", {}, styles.map((c) => el("span", {}, el(`span.swatch.${c.style}`, { "aria-hidden": "true" }), c.name)));
  return el("div", {}, legend, el("div.panels", {}, main), el("p.hint", {}, "Dose in multiples of the feature's largest activation; bands are 95 % intervals over prompts or rows."), more.length ? el("details.provenance", {}, el("summary", {}, "What it costs, and what is found again"), el("div.panels", {}, more)) : null);
}
