"use strict";
/* Snippets as concordance lines: the peak of each stands in one column, context runs to both sides; opened, a line shows its lines of text. */

const STEPS = 5; // of the highlight ramp; a step is a fifth of the feature's maximum

function step(value, top) {
  return value > 0 && top > 0 ? Math.min(STEPS, Math.max(1, Math.ceil((STEPS * value) / top))) : 0;
}

/* Nodes of some tokens: one span for each token that fires, plain text for what lies between. `each` makes a token's text visible. */
function tokenNodes(tokens, activations, top, peak, each) {
  const nodes = [];
  let plain = "";
  tokens.forEach((token, i) => {
    const value = activations[i] || 0;
    if (!value && i !== peak) {
      plain += each(token);
      return;
    }
    if (plain) nodes.push(plain);
    plain = "";
    nodes.push(el(`span.t.a${step(value, top)}${i === peak ? ".peak" : ""}`, { "data-value": value }, each(token) || "∅"));
  });
  return plain ? [...nodes, plain] : nodes;
}

/* One line: a line end becomes ↵ with the indentation behind it left out, so that words fill the line. */
const onOneLine = (text) => visible(text.replace(/\n[ \t]*/g, "\n")).replace(/ {3,}/g, "  ");

function unpack(snippet) {
  const tokens = unpackTokens(snippet.t);
  const activations = new Array(tokens.length).fill(0);
  for (let i = 0; i < snippet.a.length; i += 2) activations[snippet.a[i]] = snippet.a[i + 1];
  return { tokens, activations, peak: snippet.k };
}

function snippetNode(snippet, top) {
  const { tokens, activations, peak } = unpack(snippet);
  const side = (from, to, marked) => tokenNodes(tokens.slice(from, to), activations.slice(from, to), top, marked, onOneLine);
  const line = el(
    "summary",
    {},
    el("span.value", {}, activations[peak] ? short(activations[peak]) : "0"),
    el("span.before", {}, el("span", {}, side(0, peak, -1))),
    el("span.behind", {}, side(peak, tokens.length, 0)),
  );
  const details = el("details.snippet", {}, line);
  details.addEventListener("toggle", () => {
    if (details.open && details.children.length === 1) details.append(...whole(snippet, tokens, activations, top));
  });
  return el("li", {}, details);
}

function whole(snippet, tokens, activations, top) {
  const where = `${visible(snippet.d)} · token ${thousands(snippet.o + snippet.k)} · ${snippet.v} split`;
  return [el("div.whole", {}, tokenNodes(tokens, activations, top, snippet.k, visibleLines)), el("div.source", {}, where)];
}

/* The legend of the ramp: what a colour stands for, in the feature's own unit. */
function rampLegend(top) {
  const steps = Array.from({ length: STEPS }, (_, i) => el(`span.a${i + 1}`, { title: `${short((top * i) / STEPS)} to ${short((top * (i + 1)) / STEPS)}` }));
  return el("div.ramp", { role: "img", "aria-label": `Highlight: linear, from 0 to the maximum of ${short(top)}` }, "0", el("span.ramp-steps", {}, steps), short(top));
}

/* ---------------------------------------------------------------- tabs of strata */

const TABS = [
  { id: "top", name: "Top", strata: { top: "" }, hint: "The largest activations, near copies left out." },
  {
    id: "quantiles",
    name: "Quantiles",
    strata: { q90: "90–100 %", q70: "70–90 %", q40: "40–70 %", q10: "10–40 %", q0: "0–10 %" },
    hint: "Drawn at random from five strata of the non-zero activations.",
  },
  { id: "random", name: "Random", strata: { firing: "", random: "Any token" }, hint: "Firings drawn at random: what it mostly does." },
  { id: "near", name: "Near misses", strata: { near_miss: "" }, hint: "Silent on the very token that it fires on most.", none: "There is none: it fires wherever that token stands." },
  {
    id: "fails",
    name: "Label fails",
    strata: { missed: "Fires, and the label does not say so", false_alarm: "The label says it fires, and it is silent" },
    hint: "On documents that the labeller never saw.",
    none: "None found. A rule is tried on its strongest firings and 5,000 tokens; of a label in free words, mistakes are known where an LLM scored it.",
  },
];

function stratumHead(name, title, card) {
  const known = (card.strata || []).find((s) => s.stratum === name);
  if (!title) return null;
  const share = known ? ` of the firings · from ${short(known.low)} · ${percent(known.mass)} of the activation mass` : "";
  return el("h4.stratum", {}, title, el("span.faint", {}, share));
}

/* The strata of a tab, one below the other; where labels fail, for each label set that does. */
function tabPanel(tab, card) {
  const sets = [...new Set(card.snippets.filter((s) => s.s in tab.strata).map((s) => s.l))];
  const parts = sets.flatMap((set) => Object.entries(tab.strata).flatMap(([name, title]) => {
    const found = card.snippets.filter((s) => s.s === name && s.l === set);
    const whose = set && card.labels.length > 1 ? `${visible(set)}: ` : "";
    return found.length ? [stratumHead(name, title && whose + title, card), el("ul.snippets", {}, found.map((s) => snippetNode(s, card.max)))] : [];
  }));
  return [el("p.hint.tab-hint", {}, tab.hint), ...(parts.length ? parts : [el("p.faint", {}, tab.none)])];
}

function snippetSection(card) {
  if (!card.snippets.length) return el("p.faint", {}, "It never fires on this corpus.");
  let chosen = TABS.find((tab) => tab.id === state.get("t")) || TABS[0];
  const panel = el("div", { role: "tabpanel", id: "snippets", tabindex: "-1" });
  const buttons = TABS.map((tab) => el("button.tab", { role: "tab", "aria-controls": "snippets", onclick: () => choose(tab) }, tab.name));
  function draw() {
    buttons.forEach((button, i) => {
      button.setAttribute("aria-selected", TABS[i] === chosen);
      button.tabIndex = TABS[i] === chosen ? 0 : -1;
    });
    replace(panel, tabPanel(chosen, card));
  }
  function choose(tab) {
    chosen = tab;
    state.set({ t: tab === TABS[0] ? "" : tab.id }, true);
    draw();
  }
  function arrows(event) {
    const move = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!move) return;
    event.preventDefault();
    choose(TABS[(TABS.indexOf(chosen) + move + TABS.length) % TABS.length]);
    buttons[TABS.indexOf(chosen)].focus();
  }
  draw();
  const bar = el("div.tabs", { role: "tablist", "aria-label": "Snippets", onkeydown: arrows }, buttons);
  return el("section", {}, el("div.tab-bar", {}, bar, rampLegend(card.max)), panel);
}
