"use strict";
/* Snippets as concordance lines: the peak of each stands in one column, context runs to both sides; opened, a line shows its lines of text,
   and each of its tokens says its value and what else fires there. */

const STEPS = 5; // of the highlight ramp; a step is a fifth of the feature's maximum

function step(value, top) {
  return value > 0 && top > 0 ? Math.min(STEPS, Math.max(1, Math.ceil((STEPS * value) / top))) : 0;
}

/* What a token says when a hand rests on it. */
function tokenWords(token, value, top) {
  return `${visible(token) || "∅"}  ${value ? `${short(value)}, ${percent(top ? value / top : 0)} of the maximum` : "silent"}`;
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
    nodes.push(el(`span.t.a${step(value, top)}${i === peak ? ".peak" : ""}`, { "data-says": tokenWords(token, value, top) }, each(token) || "∅"));
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

function snippetNode(snippet, card) {
  const { tokens, activations, peak } = unpack(snippet);
  const side = (from, to, marked) => tokenNodes(tokens.slice(from, to), activations.slice(from, to), card.max, marked, onOneLine);
  const line = el(
    "summary",
    {},
    el("span.value", {}, activations[peak] ? short(activations[peak]) : "0"),
    el("span.before", {}, el("span", {}, side(0, peak, -1))),
    el("span.behind", {}, side(peak, tokens.length, 0)),
  );
  const details = el("details.snippet", {}, line);
  details.addEventListener("toggle", () => {
    if (details.open && details.children.length === 1) details.append(opened(snippet, { tokens, activations, peak }, card));
  });
  return el("li", {}, details);
}

/* ---------------------------------------------------------------- an open snippet */

function opened(snippet, window, card) {
  const holder = el("div.opened", {});
  const where = `${visible(snippet.d)} · token ${thousands(snippet.o + snippet.k)} · ${snippet.v} split`;
  const draw = (shown, more) => {
    const here = el("div.here", { "aria-live": "polite" });
    const tools = [];
    if (run.start.live && more) tools.push(el("button.quiet.copy", { type: "button", onclick: () => widen(snippet, card, draw) }, "More context"));
    if (run.start.live) tools.push(el("a", { href: state.link({ v: "text", text: shown.tokens.join("").slice(0, 400) }) }, "Try this text"));
    replace(holder, tokenRow(snippet, shown, card, here), el("div.source", {}, el("span", {}, where), tools), here);
  };
  draw(window, true);
  return holder;
}

async function widen(snippet, card, draw) {
  try {
    const shown = await post("api/context", { feature: card.feature, ordinal: snippet.n, around: run.start.live.context });
    draw(shown, false);
  } catch (error) {
    announce(error.message);
  }
}

/* Every token as a button in its lines of text; arrows move between them, Enter or a click asks what else fires. */
function tokenRow(snippet, { tokens, activations, peak }, card, here) {
  const asks = (i) => run.start.live || (i === peak && snippet.h);
  const spans = tokens.map((token, i) => {
    const value = activations[i] || 0;
    return el(`span.t.token.a${step(value, card.max)}${i === peak ? ".peak" : ""}`, { "data-says": tokenWords(token, value, card.max), "data-i": i, role: asks(i) ? "button" : null, tabindex: asks(i) ? (i === peak ? "0" : "-1") : null }, visibleLines(token) || "∅");
  });
  const choose = (i) => asks(i) && showHere(snippet, i - peak, tokens[i], card, here);
  const row = el("div.whole", {
    onclick: (event) => {
      const token = event.target.closest("[data-i]");
      if (token) choose(Number(token.dataset.i));
    },
    onkeydown: (event) => {
      const i = Number(event.target.dataset?.i ?? NaN);
      const move = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (Number.isNaN(i)) return;
      if (move && spans[i + move]?.hasAttribute("tabindex")) spans[i + move].focus();
      else if (event.key === "Enter" || event.key === " ") choose(i);
      else return;
      event.preventDefault();
    },
  }, spans);
  return row;
}

/* What else fires on a token: asked of the server, or kept with the peak of the snippet. */
async function showHere(snippet, offset, token, card, here) {
  let rows;
  try {
    if (run.start.live) {
      const reply = await post("api/here", { ordinal: snippet.n + offset });
      rows = reply.features.slice(0, 12).map((f) => [f.feature, 100 * f.share]);
    } else {
      rows = snippet.h.flatMap((v, i, all) => (i % 2 ? [] : [[v, all[i + 1]]]));
    }
  } catch (error) {
    replace(here, el("p.error", {}, error.message));
    return;
  }
  const others = rows.filter(([f]) => f !== card.feature);
  const items = others.map(([f, share]) => el("li", {}, el("span.bar-slot.share", { "aria-hidden": "true" }, el("span.bar-fill.own", { style: { width: `${Math.min(100, share)}%` } })), el("span.number", {}, `${Math.round(share)} %`), featureLink(f), " ", labelNode(labelOf(f))));
  replace(here, el("h4", {}, "Also fires on ", el("code", {}, visible(token) || "∅")), items.length ? el("ul.here-list", {}, items) : el("p.faint", {}, "Nothing else."), el("p.hint", {}, "As a share of each one's own maximum, the strongest first."));
}

/* ---------------------------------------------------------------- what a token says under a hand */

function initTokenTip() {
  const tip = el("div.token-tip", { hidden: true, "aria-hidden": "true" });
  document.body.append(tip);
  let said = null;
  const say = (token) => {
    said = token;
    tip.hidden = !token;
    if (!token) return;
    tip.textContent = token.dataset.says;
    const box = token.getBoundingClientRect();
    tip.style.left = `${Math.max(4, Math.min(innerWidth - tip.offsetWidth - 4, box.left))}px`;
    tip.style.top = `${box.top > tip.offsetHeight + 8 ? box.top - tip.offsetHeight - 5 : box.bottom + 5}px`;
  };
  for (const kind of ["pointerover", "focusin"]) document.addEventListener(kind, (event) => say(event.target.closest?.("[data-says]")));
  // after a scroll the tip follows its token, if the hand or the focus is still on it
  document.addEventListener("scroll", () => say(said?.matches(":hover, :focus") ? said : null), true);
}

/* The legend of the ramp: what a colour stands for, in the feature's own unit. */
function rampLegend(top) {
  const steps = Array.from({ length: STEPS }, (_, i) => el(`span.a${i + 1}`, { title: `${short((top * i) / STEPS)} to ${short((top * (i + 1)) / STEPS)}` }));
  return el("div.ramp", { role: "img", "aria-label": `Highlight: linear, from 0 to the maximum of ${short(top)}` }, "0", el("span.ramp-steps", {}, steps), short(top));
}

/* ---------------------------------------------------------------- tabs of strata */

const FAILS = {
  strata: { missed: "Fires, and the label does not say so", false_alarm: "The label says it fires, and it is silent" },
  hint: "Where the label fails, on documents that the labeller never saw.",
  none: "No mistake found: a rule is tried on its strongest firings and 5,000 tokens; of a label in free words, mistakes are known where an LLM scored it.",
};

const TABS = [
  { id: "top", name: "Top and failures", strata: { top: "" }, hint: "The largest activations, near copies left out.", also: FAILS },
  {
    id: "quantiles",
    name: "Quantiles",
    strata: { q90: "90–100 %", q70: "70–90 %", q40: "40–70 %", q10: "10–40 %", q0: "0–10 %" },
    hint: "Drawn at random from five strata of the non-zero activations.",
  },
  { id: "random", name: "Random", strata: { firing: "", random: "Any token" }, hint: "Firings drawn at random: what it mostly does." },
  { id: "near", name: "Near misses", strata: { near_miss: "" }, hint: "Silent on the very token that it fires on most.", none: "There is none: it fires wherever that token stands." },
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
    return found.length ? [stratumHead(name, title && whose + title, card), el("ul.snippets", {}, found.map((s) => snippetNode(s, card)))] : [];
  }));
  const nodes = [el("p.hint.tab-hint", {}, tab.hint), ...(parts.length ? parts : [el("p.faint", {}, tab.none)])];
  if (!tab.also || !card.labels.length) return nodes;
  return [...nodes, el("div.fails", {}, el("h4.fails-head", {}, "Where the label fails"), tabPanel({ ...tab.also, also: null }, card))];
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
