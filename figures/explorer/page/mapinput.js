"use strict";
/* Hands on the map: mouse, touch and keys. */

function initMapInput() {
  const canvas = map.canvas;
  const pointers = new Map();
  let travelled = 0;
  const place = (event) => [event.offsetX, event.offsetY];
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    if (event.shiftKey || lassoReady()) map.lasso = [map.toMap(...place(event))];
    pointers.set(event.pointerId, place(event));
    travelled = 0;
  });
  canvas.addEventListener("pointermove", (event) => {
    const now = place(event);
    const before = pointers.get(event.pointerId);
    if (!before) return hoverAt(pick(...now), ...now);
    if (map.lasso) {
      map.lasso.push(map.toMap(...now));
      pointers.set(event.pointerId, now);
      travelled += 4;
      return map.blit();
    }
    const others = [...pointers].filter(([id]) => id !== event.pointerId).map(([, p]) => p);
    if (others.length) {
      const spread = (p) => Math.hypot(p[0] - others[0][0], p[1] - others[0][1]);
      map.zoomAt(spread(now) / Math.max(1, spread(before)), (now[0] + others[0][0]) / 2, (now[1] + others[0][1]) / 2);
    } else if ((travelled += Math.hypot(now[0] - before[0], now[1] - before[1])) > 3) {
      map.moveBy(now[0] - before[0], now[1] - before[1]);
    }
    pointers.set(event.pointerId, now);
    return undefined;
  });
  for (const kind of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(kind, (event) => {
      pointers.delete(event.pointerId);
      if (map.lasso) closeLasso();
    });
  }
  canvas.addEventListener("pointerleave", () => hoverAt(null));
  canvas.addEventListener("click", (event) => {
    const found = pick(...place(event), event.pointerType === "touch" ? 24 : 14);
    if (travelled <= 3 && found !== null) openFeature(found);
  });
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    map.zoomAt(1.0015 ** -(event.deltaMode ? 30 * event.deltaY : event.deltaY), ...place(event));
  }, { passive: false });
  canvas.addEventListener("keydown", mapKey);
  canvas.addEventListener("blur", () => hoverAt(null));
}

/* ---------------------------------------------------------------- the lasso */

const lassoReady = () => document.getElementById("lasso").getAttribute("aria-pressed") === "true";

function toggleLasso() {
  const button = document.getElementById("lasso");
  button.setAttribute("aria-pressed", !lassoReady());
  map.canvas.style.cursor = lassoReady() ? "crosshair" : "grab";
}

/* What was drawn becomes a filter of the map and the list; a mere click draws nothing. */
function closeLasso() {
  const corners = thinCorners(map.lasso);
  map.lasso = null;
  if (lassoReady()) toggleLasso();
  if (corners.length > 2) {
    state.set({ z: writeLasso(corners), p: "" });
    announce(`${map.matches?.size ?? 0} features are inside the lasso. The list lists them.`);
  } else map.blit();
}

/* ---------------------------------------------------------------- what is under a hand */

/* The feature nearest to a place on the screen, within `reach` pixels. */
function pick(x, y, reach = 14) {
  const [mx, my] = map.toMap(x, y);
  const far = reach / map.scale();
  let [best, least] = [null, far];
  for (let cy = cell(my - far); cy <= cell(my + far); cy++) {
    for (let cx = cell(mx - far); cx <= cell(mx + far); cx++) {
      for (const f of map.cells[cx + 64 * cy]) {
        const distance = Math.hypot(map.x[f] - mx, map.y[f] - my);
        if (distance < least && (map.matches === null || map.matches.has(f))) [best, least] = [f, distance];
      }
    }
  }
  return best;
}

function hoverAt(feature, x, y) {
  const tip = document.getElementById("tip");
  if (map.hover === feature && feature === null) return;
  map.hover = feature;
  map.blit();
  map.canvas.style.cursor = lassoReady() ? "crosshair" : feature === null ? "grab" : "pointer";
  tip.hidden = feature === null;
  if (feature === null) return;
  replace(tip, el("strong", {}, `${feature} `), labelNode(labelOf(feature)), el("div.faint", {}, tipLine(feature)));
  const [left, top] = x === undefined ? map.toScreen(map.x[feature], map.y[feature]) : [x, y];
  const wide = tip.offsetWidth;
  tip.style.left = `${Math.max(4, Math.min(map.width - wide - 4, left + 14))}px`;
  tip.style.top = `${top + tip.offsetHeight + 24 > map.height ? Math.max(4, top - tip.offsetHeight - 12) : top + 16}px`;
}

function tipLine(feature) {
  const column = scoreColumn();
  const score = scoreOf(feature, column);
  const parts = [score === null ? "no score" : `${column.kind} ${fixed(score)}`, `fires on ${percent(densityOf(feature))}`];
  const group = namedGroup(feature);
  const near = familyTitle(feature) || group?.title;
  if (near) parts.push(visible(splitLabel(near)[0]));
  return parts.join(" · ");
}

/* ---------------------------------------------------------------- keys */

const DIRECTIONS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

function mapKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const direction = DIRECTIONS[event.key];
  if (direction && event.shiftKey) map.moveBy(-60 * direction[0], -60 * direction[1]);
  else if (direction) stepTo(direction);
  else if (event.key === "+" || event.key === "=") map.zoomAt(1.5);
  else if (event.key === "-") map.zoomAt(1 / 1.5);
  else if (event.key === "0") map.showAll();
  else if (event.key === "Enter" && map.hover !== null) openFeature(map.hover);
  else return;
  event.preventDefault();
}

/* Move the keyboard's point to the nearest feature in a direction, at most 45 degrees off it. */
function stepTo([dx, dy]) {
  const from = map.hover ?? state.feature();
  const known = from !== null && !Number.isNaN(map.x[from]);
  const [x, y] = known ? [map.x[from], map.y[from]] : map.centre;
  let [best, least] = [null, Infinity];
  for (let f = 0; f < map.x.length; f++) {
    if (f === from || Number.isNaN(map.x[f]) || (map.matches !== null && !map.matches.has(f))) continue;
    const [ax, ay] = [map.x[f] - x, map.y[f] - y];
    const [along, across] = [ax * dx + ay * dy, Math.abs(ax * dy) + Math.abs(ay * dx)];
    if (known && (along <= 0 || across > along)) continue;
    const distance = Math.hypot(ax, ay) + across;
    if (distance < least) [best, least] = [f, distance];
  }
  if (best === null) return;
  map.reveal(best);
  hoverAt(best);
  announce(`Feature ${best}. ${visible(labelOf(best)) || "No label"}. ${tipLine(best)}`);
}
