"use strict";
/* Start, and which view stands where. The left pane is map, list, text or clamp; the right one the open feature, or what the run is. */

const VIEWS = { map: "Map", list: "List", text: "Text", clamp: "Clamp", compare: "Compare", runs: "Runs" };
const panes = {};
const narrow = matchMedia("(max-width: 900px)"); // one pane at a time: going to a view leaves the feature

function viewName() {
  const wanted = state.get("v", "map");
  const name = wanted in VIEWS && !(wanted === "runs" && run.start.runs.length < 2) ? wanted : "map";
  return name === "map" && !run.start.map ? "list" : name;
}

function openFeature(feature, focus = false) {
  state.set({ f: feature ?? "" });
  if (focus || feature !== null) panes.feature.focus({ preventScroll: true });
}

function stepInGroup(by) {
  const feature = state.feature();
  if (feature === null) return;
  const own = groupsOf(feature).at(-1);
  const members = own ? groupMembers(own.layer, own.group) : [...run.start.firings.keys()];
  openFeature(members[(members.indexOf(feature) + by + members.length) % members.length]);
}

/* ---------------------------------------------------------------- drawing what changed */

function drawView() {
  const name = viewName();
  for (const view of Object.keys(VIEWS)) {
    document.getElementById(`view-${view}`).hidden = view !== name;
    const tab = document.getElementById(`go-${view}`);
    tab.href = state.link({ v: view === "map" ? "" : view, ...(narrow.matches ? { f: "" } : {}) });
    tab.toggleAttribute("aria-current", view === name);
    if (view === name) tab.setAttribute("aria-current", "page");
  }
  document.getElementById("go-compare").hidden = name !== "compare";
  document.body.classList.toggle("elsewhere", name !== "map");
  document.body.classList.toggle("wide", name === "compare" || name === "runs");
  const panel = document.getElementById(`view-${name}`);
  if (name === "list") drawList(panel);
  if (name === "text") drawTextView(panel);
  if (name === "clamp") drawClampView(panel);
  if (name === "compare") drawCompareView(panel);
  if (name === "runs") drawRunsView(panel);
  if (name === "map") map.resize();
}

function drawFeature() {
  const feature = state.feature();
  document.body.classList.toggle("has-feature", feature !== null);
  document.title = feature === null ? `${run.start.run.name}: features` : `Feature ${feature}, ${run.start.run.name}`;
  if (feature === null) {
    map.neighbours = [];
    drawHome(panes.feature);
  } else {
    showFeature(feature, panes.feature);
    if (run.start.map && viewName() === "map") map.reveal(feature);
  }
}

function render(changed) {
  if (changed.has("r")) return location.reload();
  if (changed.has("q")) applySearch();
  filter.apply();
  if (changed.has("f")) drawFeature();
  if (changed.has("m") && run.start.map) map.readPlace();
  drawView();
  if (changed.has("c") || changed.has("k")) drawLegend();
  drawMapFoot();
  if (["own", "k"].some((n) => changed.has(n)) && state.feature() === null) drawHome(panes.feature);
  return undefined;
}

/* ---------------------------------------------------------------- the map's own controls */

function drawLegend() {
  const how = colouring();
  document.getElementById("colour").value = how;
  const legend = document.getElementById("legend");
  const ends = { density: ["0.01 % of tokens", "30 %"], score: [`${scoreColumn()?.kind ?? "score"} 0`, "1"] }[how];
  const steps = RAMPS[themeName()].map((colour) => el("span", { style: { background: colour } }));
  replace(legend, ends ? [el("span", {}, ends[0]), el("span.ramp-steps", { "aria-hidden": "true" }, steps), el("span", {}, ends[1])] : el("span", {}, how === "family" ? "grey: in no family" : "grey: in no cluster"));
}

/* Below the map: what is filtered, what the places mean, and how far the clusters can be trusted. */
function drawMapFoot() {
  const shown = map.matches;
  const chips = filterChips();
  replace(document.getElementById("map-filters"), chips ? [el("span", {}, `${thousands(shown ? shown.size : run.start.features)} shown`), el("a", { href: state.link({ v: "list", p: "" }) }, "List them"), chips] : null);
  const { verdict } = summaryOf("cluster");
  replace(document.getElementById("caption"), el("strong", { title: visible(verdict || "") }, familySentence(), clusterSentence()), areClustersProven() ? "Distances between far clusters mean nothing." : "So places on the map say little.");
}

/* How far the families and the clusters of the map can be trusted, a sentence each. */
function familySentence() {
  const { families, families_null: none, families_come_back: back } = summaryOf("cluster");
  if (!families) return "";
  const cloud = none ? `${thousands(none)} in a matched random cloud` : "none in a matched random cloud";
  return `${thousands(families)} families of near directions, ${cloud}${typeof back === "number" ? `; ${percent(back)} come back in subsamples` : ""}. `;
}

function clusterSentence() {
  const { verdict, verdict_kind: kind, kept } = summaryOf("cluster");
  if (kind === "unstable" && typeof kept === "number") return `Of the clusters only ${percent(kept)} come back. `;
  return verdict ? `${visible(verdict.split(/[:;(]/)[0].trim())}. ` : "";
}

function initMapControls() {
  document.getElementById("colour").addEventListener("change", (e) => state.set({ c: e.target.value }, true));
  document.getElementById("lasso").addEventListener("click", toggleLasso);
  const act = { nearer: () => map.zoomAt(1.5), farther: () => map.zoomAt(1 / 1.5), everything: () => map.showAll() };
  for (const [id, action] of Object.entries(act)) document.getElementById(id).addEventListener("click", action);
  if (!run.start.families) document.querySelector("#colour option[value=family]").remove();
  if (!run.start.scores.length) document.querySelector("#colour option[value=score]").remove();
}

/* ---------------------------------------------------------------- keys, theme */

function setTheme(name) {
  document.documentElement.dataset.theme = name;
  const button = document.getElementById("theme");
  button.setAttribute("aria-label", name === "dark" ? "Light colours" : "Dark colours");
}

function toggleTheme() {
  const name = themeName() === "dark" ? "light" : "dark";
  setTheme(name);
  try {
    localStorage.setItem("theme", name);
  } catch { /* a browser may refuse a page from file:// its storage; the choice then lasts as long as the page */ }
  drawLegend();
  drawFeature();
  drawView();
}

function initTheme() {
  let kept = null;
  try {
    kept = localStorage.getItem("theme");
  } catch { /* as above */ }
  setTheme(kept || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"));
}

function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, textarea, select")) return;
  const go = { m: "map", l: "list", t: "text", c: "clamp" }[event.key];
  if (event.key === "/") document.getElementById("search").focus();
  else if (event.key === "[") stepInGroup(-1);
  else if (event.key === "]") stepInGroup(1);
  else if (event.key === "d") toggleTheme();
  else if (event.key === "s" && state.feature() !== null) panes.feature.querySelector(".star")?.click();
  else if (event.key === "Escape" && state.feature() !== null) openFeature(null);
  else if (go) goTo(go);
  else return;
  event.preventDefault();
}

function goTo(view) {
  state.set({ v: view === "map" ? "" : view });
  (view === "map" && run.start.map ? map.canvas : document.getElementById(`view-${viewName()}`)).focus();
}

/* ---------------------------------------------------------------- start */

async function start() {
  initTheme();
  state.read();
  run.number = /^\d+$/.test(state.get("r")) ? Number(state.get("r")) : 0;
  try {
    run.start = await load("start");
  } catch (error) { // a link to a run that this page does not hold
    if (!run.number) throw error;
    run.number = 0;
    run.start = await load("start");
  }
  panes.feature = document.getElementById("feature");
  const name = document.getElementById("run-name");
  replace(name, visible(run.start.run.name), el("span.faint", {}, ` ${visible(run.start.run.site)}`));
  document.getElementById("theme").addEventListener("click", toggleTheme);
  document.body.classList.toggle("is-live", Boolean(run.start.live));
  if (run.start.map) {
    map.init(document.getElementById("map"));
    initMapInput();
    initMapControls();
  } else {
    document.getElementById("go-map").hidden = true;
  }
  initRuns();
  initSearch();
  initTokenTip();
  addEventListener("keydown", pressed);
  own.recall();
  state.listeners.push(render);
  drawLegend();
  drawMapFoot();
  drawView();
  run.text = await load("text"); // labels follow the first paint
  replace(document.getElementById("view-clamp")); // drawn without labels so far
  if (state.get("q")) run.words = await load("words");
  render(new Set(["q", "f"]));
  document.body.dataset.ready = "true";
}

start().catch((error) => {
  const text = typeof DecompressionStream === "undefined" ? "This browser is too old: it needs DecompressionStream (2023 or newer)." : `The page could not start: ${error.message}`;
  replace(document.getElementById("feature"), el("p.error", { role: "alert" }, text));
});
