"use strict";
/* The list: everything the map shows, as a table with real links; the way through for a keyboard and a screen reader. */

const PAGE = 100;
const COLUMNS = [
  { id: "feature", name: "Feature", value: (f) => f },
  { id: "label", name: "Label", value: (f) => labelOf(f) || "\uffff" },
  { id: "score", name: "Score", value: (f) => scoreOf(f, scoreColumn(state.get("k"))), falling: true },
  { id: "density", name: "Density", value: densityOf, falling: true },
  { id: "group", name: "Cluster", value: (f) => groupsOf(f).at(-1)?.group ?? Infinity },
];

function listRows() {
  const wanted = { status: state.get("status"), set: state.get("set"), kind: state.get("kind"), group: state.get("group"), family: state.get("family"), min: state.get("min"), failed: state.get("failed") };
  const column = scoreColumn(state.get("k"));
  const set = run.start.sets.find((s) => s.name === wanted.set) || run.start.sets[0];
  const kind = set ? set.kinds.indexOf(wanted.kind) : -1;
  const [layer, group] = wanted.group.split(".").map(Number);
  const failed = wanted.failed ? new Set(run.start.failed) : null;
  const rows = [];
  for (let f = 0; f < run.start.features; f++) {
    if (map.matches && !map.matches.has(f)) continue;
    if (wanted.status && run.start.status[f] !== wanted.status) continue;
    if (wanted.set && set.kind[f] < 0) continue;
    if (wanted.kind && set.kind[f] !== kind) continue;
    if (wanted.group && run.start.layers[layer]?.group[f] !== group) continue;
    if (wanted.family && run.start.families?.family[f] !== Number(wanted.family)) continue;
    if (wanted.min && !(scoreOf(f, column) >= Number(wanted.min))) continue;
    if (failed && !failed.has(f)) continue;
    rows.push(f);
  }
  return sorted(rows);
}

function sorted(rows) {
  const name = state.get("s", state.get("q") ? "" : "feature");
  const column = COLUMNS.find((c) => c.id === name.replace("-", ""));
  if (!column) return search.order(rows);
  const sign = name.startsWith("-") ? -1 : 1;
  const keys = new Map(rows.map((f) => [f, column.value(f)]));
  const compare = (a, b) => (typeof a === "string" ? a.localeCompare(b) : a - b);
  return rows.sort((a, b) => {
    const [x, y] = [keys.get(a), keys.get(b)];
    if (x === null || y === null) return (x === null) - (y === null) || a - b; // no value goes last either way
    return sign * compare(x, y) || a - b;
  });
}

function drawList(panel) {
  const rows = listRows();
  const pages = Math.max(1, Math.ceil(rows.length / PAGE));
  const page = Math.min(pages - 1, Math.max(0, Number(state.get("p", 1)) - 1));
  const visibleRows = rows.slice(page * PAGE, (page + 1) * PAGE);
  const turn = (to, text) => el("button", { disabled: to < 0 || to >= pages, onclick: () => state.set({ p: to ? to + 1 : "" }) }, text);
  const pager = el("nav.pager", { "aria-label": "Pages of the list" }, turn(page - 1, "Previous"), el("span", {}, `${page + 1} of ${pages}`), turn(page + 1, "Next"));
  const count = el("p.count", { role: "status" }, `${thousands(rows.length)} of ${thousands(run.start.features)} features`);
  replace(panel, filters(), count, table(visibleRows), pages > 1 ? pager : null);
}

function table(rows) {
  const column = scoreColumn(state.get("k"));
  const current = state.feature();
  const body = rows.map((f) => {
    const group = groupsOf(f).at(-1);
    const score = scoreOf(f, column);
    return el("tr", { "aria-current": f === current ? "true" : null },
      el("td.number", {}, featureLink(f)),
      el("td.label", {}, featureLink(f, visible(labelOf(f)) || "no label"), run.start.status[f] === "alive" ? null : el(`span.chip.${run.start.status[f]}`, {}, run.start.status[f])),
      el("td.number", {}, score === null ? "–" : fixed(score)),
      el("td.number", {}, percent(densityOf(f))),
      el("td.group", {}, group ? groupTitle(group.group, group.title) : el("span.faint", {}, "none")));
  });
  return el("div.table-holder", {}, el("table.features", {}, el("thead", {}, el("tr", {}, COLUMNS.map(headCell))), el("tbody", {}, body)));
}

function headCell(column) {
  const current = state.get("s", state.get("q") ? "" : "feature");
  const direction = current === column.id ? "ascending" : current === `-${column.id}` ? "descending" : null;
  const next = direction ? (direction === "ascending" ? `-${column.id}` : column.id) : (column.falling ? "-" : "") + column.id;
  const mark = { ascending: " ↑", descending: " ↓" }[direction] || "";
  return el("th", { scope: "col", "aria-sort": direction || "none" }, el("button.head", { onclick: () => state.set({ s: next, p: "" }) }, column.name + mark));
}

/* ---------------------------------------------------------------- filters */

function choice(name, title, options) {
  const chosen = state.get(name);
  const nodes = options.map(([value, text]) => el("option", { value, selected: value === chosen }, text));
  return el("label", {}, el("span", {}, title), el("select", { onchange: (e) => state.set({ [name]: e.target.value, p: "" }) }, nodes));
}

function filters() {
  const set = run.start.sets.find((s) => s.name === state.get("set")) || run.start.sets[0];
  const kinds = set ? set.kinds.filter(Boolean) : [];
  const states = [...new Set(run.start.status)].sort();
  const fields = [];
  if (states.length > 1) fields.push(choice("status", "Status", [["", "any"], ...states.map((s) => [s, s])]));
  if (run.start.sets.length > 1) fields.push(choice("set", "Labels", [["", "any"], ...run.start.sets.map((s) => [s.name, s.name])]));
  if (kinds.length > 1) fields.push(choice("kind", "Kind", [["", "any"], ...kinds.map((k) => [k, k])]));
  if (run.start.scores.length > 1) fields.push(choice("k", "Score", run.start.scores.map((c) => [`${c.set}/${c.kind}`, `${c.kind}, ${c.set}`])));
  if (run.start.scores.length) fields.push(choice("min", "At least", [["", "any"], ...["0.3", "0.5", "0.7", "0.8", "0.9"].map((v) => [v, v])]));
  if (run.start.layers.length) fields.push(groupChoice());
  if (run.start.families) fields.push(familyChoice());
  if (run.start.failed.length) fields.push(choice("failed", "Failed", [["", "any"], ["1", `only failed (${run.start.failed.length})`]]));
  return el("form.filters", { onsubmit: (e) => e.preventDefault() }, fields);
}

function familyChoice() {
  const options = run.start.families.titles.map((title, n) => [String(n), title]).filter(([, title]) => title).map(([n, title]) => [n, visible(title).slice(0, 60)]);
  const chosen = state.get("family");
  if (chosen && !options.some(([n]) => n === chosen)) options.push([chosen, `family ${chosen}`]);
  return choice("family", "Family", [["", "any"], ...options.sort((a, b) => a[1].localeCompare(b[1]))]);
}

function groupChoice() {
  const options = run.start.layers.flatMap((layer, i) => Object.entries(layer.titles).map(([g, title]) => [`${i}.${g}`, groupTitle(Number(g), title).slice(0, 60)]));
  return choice("group", "Cluster", [["", "any"], ...options.sort((a, b) => a[1].localeCompare(b[1]))]);
}
