"use strict";
/* Search as you type over numbers, labels of every set, promoted tokens and notes. Every word must stand somewhere. */

const search = {
  hay: null, // of every feature, in lower case
  found: [],

  build() {
    if (search.hay || !run.text || !run.words) return;
    const { labels, promoted, notes } = run.text;
    const sets = Object.values(labels);
    search.hay = Array.from({ length: run.start.features }, (_, f) => [...sets.map((texts) => texts[f]), ...(promoted ? promoted[f].map((i) => run.words[i]) : []), familyTitle(f)].join(" ").toLowerCase());
    for (const note of notes) search.hay[note.feature] += " " + note.text.toLowerCase();
  },

  add(note) {
    run.text.notes.push(note);
    if (search.hay) search.hay[note.feature] += " " + note.text.toLowerCase();
  },

  /* Features that hold every word; a bare number finds that feature first. */
  run(query) {
    search.build();
    const words = query.toLowerCase().split(/\s+/).filter(Boolean);
    if (!words.length || !search.hay) return [];
    const number = /^\d+$/.test(query.trim()) ? Number(query) : -1;
    const hits = [];
    for (let f = 0; f < search.hay.length; f++) if (f === number || words.every((w) => search.hay[f].includes(w))) hits.push(f);
    return search.order(hits, number, words);
  },

  /* Number first, then features whose first label holds the words, then by score. */
  order(rows, number = -1, words = state.get("q").toLowerCase().split(/\s+/).filter(Boolean)) {
    const column = scoreColumn();
    const rank = (f) => (f === number ? 4 : 0) + (words.every((w) => labelOf(f).toLowerCase().includes(w)) ? 2 : 0) + (scoreOf(f, column) ?? -1);
    const keys = new Map(rows.map((f) => [f, rank(f)]));
    return rows.sort((a, b) => keys.get(b) - keys.get(a) || a - b);
  },
};

const SHOWN = 12;

function initSearch() {
  const input = document.getElementById("search");
  const box = document.getElementById("results");
  let active = -1;
  const options = () => [...box.querySelectorAll("[role=option]")];
  const close = () => {
    box.hidden = true;
    active = -1;
    input.setAttribute("aria-expanded", "false");
    input.removeAttribute("aria-activedescendant");
  };
  const mark = (i) => {
    active = i;
    options().forEach((option, j) => option.setAttribute("aria-selected", j === i));
    if (i >= 0) input.setAttribute("aria-activedescendant", `result-${i}`);
    options()[i]?.scrollIntoView({ block: "nearest" });
  };
  const open = () => {
    if (!state.get("q")) return close();
    box.hidden = false;
    input.setAttribute("aria-expanded", "true");
    replace(box, results());
    return mark(search.found.length ? 0 : -1);
  };
  input.addEventListener("input", () => {
    state.set({ q: input.value.trim() ? input.value : "", p: "" }, true);
    open();
  });
  input.addEventListener("focus", async () => {
    run.words = await load("words");
    if (state.get("q")) applySearch();
    filter.apply();
    open();
  });
  input.addEventListener("blur", () => setTimeout(close, 150));
  input.addEventListener("keydown", (event) => {
    const count = options().length;
    if (event.key === "ArrowDown" && count) mark((active + 1) % count);
    else if (event.key === "ArrowUp" && count) mark((active - 1 + count) % count);
    else if (event.key === "Enter" && active >= 0) {
      const feature = Number(options()[active].dataset.feature);
      close();
      openFeature(feature, true);
    } else if (event.key === "Escape" && !box.hidden) close();
    else if (event.key === "Escape") {
      input.value = "";
      state.set({ q: "" }, true);
      input.blur();
    } else return;
    event.preventDefault();
    event.stopPropagation();
  });
  box.addEventListener("mousedown", (event) => {
    const option = event.target.closest("[role=option]");
    if (option) openFeature(Number(option.dataset.feature), true);
  });
}

function results() {
  const column = scoreColumn();
  const rows = search.found.slice(0, SHOWN).map((f, i) =>
    el("li", { role: "option", id: `result-${i}`, "data-feature": f }, el("span.number", {}, String(f)), labelNode(labelOf(f)), el("span.number.faint", {}, scoreOf(f, column) === null ? "" : fixed(scoreOf(f, column)))));
  const left = search.found.length - rows.length;
  const foot = !search.found.length ? "Nothing holds all of these words." : left > 0 ? `and ${thousands(left)} more: see the list or the map` : "";
  return foot ? [...rows, el("li.faint.foot", { role: "presentation" }, foot)] : rows;
}

/* Take the query from the URL: what it finds stays bright on the map and is what the list lists. */
function applySearch() {
  const query = state.get("q");
  const input = document.getElementById("search");
  if (document.activeElement !== input) input.value = query;
  search.found = query ? search.run(query) : [];
}
