"use strict";
/* The list: everything the map shows, as a table with real links; the way through for a keyboard and a screen reader. */

const PAGE = 100;
const COLUMNS = [
  { id: "feature", name: () => "Feature", value: (f) => f },
  { id: "label", name: () => "Label", value: (f) => labelOf(f) || "\uffff" },
  { id: "score", name: scoreHead, value: (f) => scoreOf(f, scoreColumn()), falling: true },
  { id: "density", name: () => "Density", value: densityOf, falling: true },
  { id: "group", name: () => (showsFamilies() ? "Family" : "Cluster"), value: (f) => nearTitle(f) || "\uffff" },
];
const WORTH = { id: "worth", value: (f) => (isUnclear(labelOf(f)) || scoreOf(f, scoreColumn()) === null ? null : worthOf(f, scoreColumn())) };

/* Families stand in the last column where clusters do not come back. */
const showsFamilies = () => Boolean(run.start.families) && !areClustersProven();
const nearTitle = (f) => (showsFamilies() ? familyTitle(f) : namedGroup(f)?.title) || "";

/* What the column of scores shows: the kind, and the label set where there are several. */
function scoreHead() {
  const column = scoreColumn();
  if (!column) return "Score";
  return run.start.sets.length > 1 ? `Score (${columnName(column)})` : `Score (${column.kind})`;
}

function listRows() {
  const shown = filter.apply();
  return sorted(shown ? [...shown] : [...run.start.firings.keys()]);
}

/* Without a choice: what a search ranks, else what its label tells most about. */
function sortName() {
  return state.get("s", state.get("q") ? "" : scoreColumn() ? "-worth" : "feature");
}

function sorted(rows) {
  const name = sortName();
  const column = [...COLUMNS, WORTH].find((c) => c.id === name.replace("-", ""));
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
  const count = el("div.count-row", {}, el("p.count", { role: "status" }, `${thousands(rows.length)} of ${thousands(run.start.features)} features`), filterChips(), copyButton("Copy link", () => location.href, "A link to this list"), sortName() === "-worth" ? el("span.hint", {}, "Rare features with a name and a good score first; a head sorts.") : null);
  const none = el("p.faint.nothing", {}, state.get("mine") ? "Your list is empty. Open a feature and choose ☆." : "No feature is all of this. Take a filter away.");
  replace(panel, el("h2.unseen", {}, "List of features"), filters(), count, rows.length ? table(visibleRows) : none, fallbackNote(visibleRows), pages > 1 ? pager : null);
}

/* Say so where rows show the score of another label set. */
function fallbackNote(rows) {
  const column = scoreColumn();
  const others = new Set(rows.map((f) => scoreFrom(f, column)).filter((c) => c && c !== column).map((c) => c.set));
  return others.size ? el("p.hint", {}, `* scored with ${[...others].map(visible).join(", ")}: ${visible(column.set)} has no score there.`) : null;
}

function table(rows) {
  const column = scoreColumn();
  const current = state.feature();
  const mine = new Set(own.list());
  const body = rows.map((f) => {
    const near = nearTitle(f);
    const score = scoreOf(f, column);
    return el("tr", { "aria-current": f === current ? "true" : null },
      el("td.number", {}, featureLink(f), mine.has(f) ? el("span.starred", { title: "on my list" }, "★") : null),
      el("td.label", {}, el("a.feature-link", { href: state.link({ f }) }, labelNode(labelOf(f))), run.start.status[f] === "alive" ? null : [" ", el(`span.chip.${run.start.status[f]}`, { title: CHIPS[run.start.status[f]] || null }, run.start.status[f])]),
      el("td.number", {}, score === null ? "–" : fixed(score), scoreFrom(f, column) === column ? null : "*"),
      el("td.number", {}, percent(densityOf(f))),
      el("td.group", {}, near ? visible(near) : el("span.faint", {}, "–")));
  });
  return el("div.table-holder", {}, el("table.features", {}, el("thead", {}, el("tr", {}, COLUMNS.map(headCell))), el("tbody", {}, body)));
}

function headCell(column) {
  const current = sortName();
  const direction = current === column.id ? "ascending" : current === `-${column.id}` ? "descending" : null;
  const next = direction ? (direction === "ascending" ? `-${column.id}` : column.id) : (column.falling ? "-" : "") + column.id;
  const mark = { ascending: " ↑", descending: " ↓" }[direction] || "";
  return el("th", { scope: "col", "aria-sort": direction || "none" }, el("button.head", { onclick: () => state.set({ s: next, p: "" }) }, column.name() + mark));
}

/* ---------------------------------------------------------------- filters */

function choice(name, title, options, chosen = state.get(name)) {
  const nodes = options.map(([value, text]) => el("option", { value, selected: value === chosen }, text));
  return el("label", {}, el("span", {}, title), el("select", { onchange: (e) => state.set({ [name]: e.target.value, p: "" }) }, nodes));
}

function filters() {
  const set = run.start.sets.find((s) => s.name === state.get("set")) || run.start.sets[0];
  const kinds = set ? set.kinds.filter(Boolean) : [];
  const states = [...new Set(run.start.status)].sort();
  const column = scoreColumn();
  const fields = [];
  if (run.start.scores.length > 1) fields.push(choice("k", "Score", run.start.scores.map((c) => [`${c.set}/${c.kind}`, columnName(c)]), `${column.set}/${column.kind}`));
  if (run.start.scores.length) fields.push(choice("min", "At least", [["", "any"], ...["0.3", "0.5", "0.7", "0.8", "0.9"].map((v) => [v, v])]));
  if (states.length > 1) fields.push(choice("status", "Status", [["", "any"], ...states.map((s) => [s, s])]));
  if (run.start.sets.length > 1) fields.push(choice("set", "Labels", [["", "any"], ...run.start.sets.map((s) => [s.name, s.name])]));
  if (kinds.length > 1) fields.push(choice("kind", "Kind", [["", "any"], ...kinds.map((k) => [k, k])]));
  if (run.start.layers.length) fields.push(groupChoice());
  if (run.start.families) fields.push(familyChoice());
  if (run.start.failed.length) fields.push(choice("failed", "Failed", [["", "any"], ["1", `only failed (${run.start.failed.length})`]]));
  fields.push(choice("mine", "My list", [["", "all features"], ["1", `only mine (${own.list().length})`]]));
  return el("form.filters", { onsubmit: (e) => e.preventDefault() }, fields);
}

function familyChoice() {
  const options = run.start.families.titles.map((title, n) => [String(n), title]).filter(([, title]) => title).map(([n, title]) => [n, visible(title).slice(0, 60)]);
  const chosen = state.get("family");
  if (chosen && !options.some(([n]) => n === chosen)) options.push([chosen, `family ${chosen}`]);
  return choice("family", "Family", [["", "any"], ...options.sort((a, b) => a[1].localeCompare(b[1]))]);
}

/* Clusters with a name; one without a name only while it is chosen. */
function groupChoice() {
  const chosen = state.get("group");
  const options = run.start.layers.flatMap((layer, i) => Object.entries(layer.titles).filter(([g, title]) => isNamed(title) || `${i}.${g}` === chosen).map(([g, title]) => [`${i}.${g}`, groupTitle(Number(g), title).slice(0, 60)]));
  if (chosen && !options.some(([g]) => g === chosen)) options.push([chosen, groupTitle(chosen.split(".")[1], "")]);
  return choice("group", "Cluster", [["", "any"], ...options.sort((a, b) => a[1].localeCompare(b[1]))]);
}
