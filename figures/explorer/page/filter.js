"use strict";
/* Which features are shown: one choice for the map and the list, all of it in the URL. */

const FILTERS = ["q", "status", "set", "kind", "group", "family", "min", "failed", "mine", "z", "k"];

const filter = {
  key: "",
  shown: null, // a Set of features; null: all

  /* Read the choice from the URL; the map and the list follow. */
  apply() {
    const key = FILTERS.map((name) => state.get(name)).join("\u0000") + (state.get("mine") ? own.list().join() : "") + Boolean(search.hay);
    if (key !== filter.key) {
      filter.key = key;
      filter.shown = filter.compute();
    }
    map.matches = filter.shown;
    return filter.shown;
  },

  compute() {
    const tests = filter.tests();
    if (!tests.length) return null;
    const shown = new Set();
    for (let f = 0; f < run.start.features; f++) if (tests.every((test) => test(f))) shown.add(f);
    return shown;
  },

  tests() {
    const get = (name) => state.get(name);
    const tests = [];
    const column = scoreColumn();
    const set = run.start.sets.find((s) => s.name === get("set")) || run.start.sets[0];
    if (get("q") && search.hay) {
      const found = new Set(search.found);
      tests.push((f) => found.has(f));
    }
    if (get("status")) tests.push((f) => run.start.status[f] === get("status"));
    if (get("set") && set) tests.push((f) => set.kind[f] >= 0);
    if (get("kind") && set) tests.push((f) => set.kind[f] === set.kinds.indexOf(get("kind")));
    if (get("group")) {
      const [layer, group] = get("group").split(".").map(Number);
      tests.push((f) => run.start.layers[layer]?.group[f] === group);
    }
    if (get("family")) tests.push((f) => run.start.families?.family[f] === Number(get("family")));
    if (get("min")) tests.push((f) => scoreOf(f, column) >= Number(get("min")));
    if (get("failed")) {
      const failed = new Set(run.start.failed);
      tests.push((f) => failed.has(f));
    }
    if (get("mine")) {
      const mine = new Set(own.list());
      tests.push((f) => mine.has(f));
    }
    const lasso = run.start.map ? readLasso() : [];
    if (lasso.length) tests.push((f) => isInside(map.x[f], map.y[f], lasso));
    return tests;
  },

  /* The choice in words, each with the change that takes it back. */
  chips() {
    const get = (name) => state.get(name);
    const chips = [];
    const add = (name, text) => get(name) && chips.push([text, { [name]: "", p: "" }]);
    add("q", `holds “${get("q")}”`);
    add("status", get("status"));
    add("set", `labels: ${get("set")}`);
    add("kind", `kind: ${get("kind")}`);
    if (get("group")) {
      const [layer, group] = get("group").split(".").map(Number);
      add("group", groupTitle(group, run.start.layers[layer]?.titles[group]));
    }
    add("family", run.start.families?.titles[Number(get("family"))] || `family ${get("family")}`);
    add("min", `score at least ${get("min")}`);
    add("failed", "only failed");
    add("mine", "my list");
    add("z", "inside the lasso");
    return chips;
  },
};

/* Chips of the choice with a cross each; nothing where everything is shown. */
function filterChips() {
  const chips = filter.chips();
  if (!chips.length) return null;
  const nodes = chips.map(([text, change]) => el("button.chip.filter-chip", { type: "button", "aria-label": `${text}: take this filter away`, onclick: () => state.set(change) }, visible(text), el("span", { "aria-hidden": "true" }, " ×")));
  const everything = Object.fromEntries(chips.flatMap(([, change]) => Object.entries(change)));
  return [nodes, chips.length > 1 ? el("button.chip.filter-chip", { type: "button", onclick: () => state.set(everything) }, "all away") : null];
}

/* ---------------------------------------------------------------- the lasso */

/* The corners of the lasso in map units, from the URL. */
function readLasso() {
  const corners = state.get("z").split("_").map((pair) => pair.split(",").map(Number));
  return corners.length > 2 && corners.every((c) => c.length === 2 && c.every(Number.isFinite)) ? corners : [];
}

const writeLasso = (corners) => corners.map((c) => c.map((v) => v.toFixed(3)).join(",")).join("_");

function isInside(x, y, corners) {
  let inside = false;
  for (let i = 0, j = corners.length - 1; i < corners.length; j = i++) {
    const [[ax, ay], [bx, by]] = [corners[i], corners[j]];
    if (ay > y !== by > y && x < ((bx - ax) * (y - ay)) / (by - ay) + ax) inside = !inside;
  }
  return inside;
}

/* At most `most` of the corners, evenly taken. */
function thinCorners(corners, most = 32) {
  const every = Math.ceil(corners.length / most);
  return corners.filter((_, i) => i % every === 0);
}

/* ---------------------------------------------------------------- a list of one's own */

/* Features that a person keeps: in the URL, so that a link carries them, and in the browser, so that the next visit finds them. */
const own = {
  list() {
    return state.get("own").split("-").filter((t) => /^\d+$/.test(t)).map(Number).filter((f) => f < run.start.features);
  },

  has: (feature) => own.list().includes(feature),

  toggle(feature) {
    const list = own.list();
    const next = list.includes(feature) ? list.filter((f) => f !== feature) : [...list, feature];
    own.keep(next.join("-"));
    state.set({ own: next.join("-"), mine: next.length ? state.get("mine") : "" }, true);
    announce(next.length > list.length ? `Feature ${feature} is on your list.` : `Feature ${feature} is off your list.`);
  },

  place: () => `list of ${run.start.run.name} ${run.start.units.train?.key || ""}`,

  keep(text) {
    try {
      localStorage.setItem(own.place(), text);
    } catch { /* a browser may refuse a page from file:// its storage; the URL holds the list all the same */ }
  },

  /* Without a list in the URL, take the one that the browser kept. */
  recall() {
    if (state.get("own")) return;
    try {
      const kept = localStorage.getItem(own.place());
      if (kept) state.set({ own: kept }, true);
    } catch { /* as above */ }
  },
};

function starButton(feature) {
  const button = el("button.quiet.star", { type: "button", title: "Keep on my list (s)" });
  const draw = () => {
    const kept = own.has(feature);
    button.textContent = kept ? "★" : "☆";
    button.setAttribute("aria-pressed", kept);
    button.setAttribute("aria-label", kept ? "Take off my list" : "Keep on my list");
  };
  button.addEventListener("click", () => {
    own.toggle(feature);
    draw();
  });
  draw();
  return button;
}
