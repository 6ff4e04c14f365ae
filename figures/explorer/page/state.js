"use strict";
/* The URL is the state: everything after # is a query string, and every view is drawn from it.

    v view (map, list, text, clamp, compare, runs)   f open feature    q search    c colour of the map
    m x,y,zoom of the map             s sort of the list, - for falling     p page of the list
    t tab of the snippets             x clamp experiment   w feature to clamp
    r run   vs feature that f is compared with, RUN.FEATURE for one of another run   o the run that it is matched with
    own 3-17-99: a list of one's own  k column of scores
    set kind group family status min failed mine z (corners of a lasso): filters of the map and the list */

const state = {
  values: {},
  listeners: [],

  read() {
    state.values = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
  },

  get(name, fallback = "") {
    return state.values[name] ?? fallback;
  },

  feature() {
    const value = state.values.f;
    return /^\d+$/.test(value ?? "") && Number(value) < run.start.features ? Number(value) : null;
  },

  merged(changes) {
    const values = { ...state.values };
    for (const [name, value] of Object.entries(changes)) {
      if (value === null || value === "" || value === undefined) delete values[name];
      else values[name] = String(value);
    }
    return values;
  },

  link(changes) {
    return "#" + new URLSearchParams(state.merged(changes)).toString();
  },

  /* Change the URL; `quiet` replaces the entry in the history (typing, panning) instead of adding one. */
  set(changes, quiet = false) {
    const link = state.link(changes);
    if (link === location.hash || (link === "#" && !location.hash)) return;
    history[quiet ? "replaceState" : "pushState"](null, "", link);
    state.changed();
  },

  changed() {
    const before = state.values;
    state.read();
    const names = new Set([...Object.keys(before), ...Object.keys(state.values)].filter((n) => before[n] !== state.values[n]));
    for (const listener of state.listeners) listener(names);
  },
};

addEventListener("popstate", () => state.changed()); // also fired when a person edits the part after #
addEventListener("hashchange", () => state.changed());
