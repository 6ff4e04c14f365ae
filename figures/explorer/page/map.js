"use strict";
/* The map: every feature as a point on a canvas. A full drawing is kept as a picture, and while a hand moves only that picture is
   moved, so panning stays smooth however many points there are. */

const GRID = 65535;
const RAMPS = { // cividis, the end that would vanish on the page left out
  light: ["#cbba69", "#a59c74", "#7f7c75", "#5c6067", "#34486b", "#00204c"],
  dark: ["#3d4d6c", "#5c6067", "#7f7c75", "#a59c74", "#cbba69", "#ffe945"],
};

const map = {
  canvas: null, context: null, width: 0, height: 0,
  centre: [0.5, 0.5], zoom: 1, // centre in map units (0 to 1), zoom 1 shows everything
  picture: null, pending: 0, cost: 0, cells: null, layers: [], families: [],
  hover: null, matches: null, lasso: null, strip: null,

  init(canvas) {
    Object.assign(map, { canvas, context: canvas.getContext("2d"), picture: document.createElement("canvas") });
    const { x, y } = run.start.map;
    map.x = Float32Array.from(x, (v) => (v === null ? NaN : v / GRID));
    map.y = Float32Array.from(y, (v) => (v === null ? NaN : 1 - v / GRID));
    layStrip();
    map.middle = [middleOf(map.x), middleOf(map.y)];
    map.centre = [...map.middle];
    map.buckets();
    map.layers = run.start.layers.map((layer) => anchorsOf(layer));
    map.families = run.start.families ? anchorsOf({ ...run.start.families, group: run.start.families.family }) : [];
    map.readPlace();
    new ResizeObserver(() => map.resize()).observe(canvas);
  },

  /* A coarse grid of the points, for picking. */
  buckets() {
    map.cells = Array.from({ length: 64 * 64 }, () => []);
    map.x.forEach((x, f) => {
      if (!Number.isNaN(x)) map.cells[cell(x) + 64 * cell(map.y[f])].push(f);
    });
  },

  resize() {
    const ratio = devicePixelRatio || 1;
    map.width = map.canvas.clientWidth;
    map.height = map.canvas.clientHeight;
    if (!map.width || !map.height) return;
    for (const canvas of [map.canvas, map.picture]) Object.assign(canvas, { width: map.width * ratio, height: map.height * ratio });
    map.draw();
  },

  /* ------------------------------------------------------------ places */

  scale: () => Math.min(map.width, map.height) * 0.94 * map.zoom,
  toScreen: (x, y) => [(x - map.centre[0]) * map.scale() + map.width / 2, (y - map.centre[1]) * map.scale() + map.height / 2],
  toMap: (x, y) => [(x - map.width / 2) / map.scale() + map.centre[0], (y - map.height / 2) / map.scale() + map.centre[1]],

  readPlace() {
    const [x, y, zoom] = state.get("m").split(",").map(Number);
    if (zoom > 0) Object.assign(map, { centre: [x, y], zoom: Math.max(0.5, Math.min(200, zoom)) });
  },

  savePlace() {
    clearTimeout(map.saving);
    map.saving = setTimeout(() => {
      const whole = map.zoom === 1 && map.centre.every((v, i) => v === map.middle[i]);
      state.set({ m: whole ? "" : [...map.centre.map((v) => v.toFixed(4)), map.zoom.toFixed(2)].join(",") }, true);
    }, 250);
  },

  moveBy(dx, dy) {
    map.centre = [map.centre[0] - dx / map.scale(), map.centre[1] - dy / map.scale()];
    map.moved();
  },

  zoomAt(factor, x = map.width / 2, y = map.height / 2) {
    const before = map.toMap(x, y);
    map.zoom = Math.max(0.5, Math.min(200, map.zoom * factor));
    const after = map.toMap(x, y);
    map.centre = [map.centre[0] + before[0] - after[0], map.centre[1] + before[1] - after[1]];
    map.moved();
  },

  showAll() {
    Object.assign(map, { centre: [...map.middle], zoom: 1 });
    map.moved();
  },

  /* Bring a feature into sight, without a jump when it is there already. */
  reveal(feature) {
    if (Number.isNaN(map.x[feature]) || !map.width) return;
    const [x, y] = map.toScreen(map.x[feature], map.y[feature]);
    if (x < 20 || y < 20 || x > map.width - 20 || y > map.height - 20) map.centre = [map.x[feature], map.y[feature]];
    map.draw();
  },

  moved() {
    map.savePlace();
    if (map.cost < 10) return map.draw();
    clearTimeout(map.pending);
    map.pending = setTimeout(map.draw, 80);
    return requestAnimationFrame(map.blit);
  },

  /* ------------------------------------------------------------ drawing */

  radius() {
    const base = Math.sqrt((map.width * map.height) / run.start.features) * 0.13;
    return Math.min(8, Math.max(1.1, Math.min(4, base)) * map.zoom ** 0.4);
  },

  draw() {
    if (!map.width) return;
    clearTimeout(map.pending);
    const started = performance.now();
    const context = map.picture.getContext("2d");
    const ratio = devicePixelRatio || 1;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, map.width, map.height);
    const colours = mapColours();
    drawPoints(context, colours);
    drawLasso(context, readLasso().map(([x, y]) => map.toScreen(x, y)), true);
    drawSelected(context);
    drawTitles(context);
    Object.assign(map, { drawnCentre: [...map.centre], drawnZoom: map.zoom, cost: performance.now() - started });
    map.blit();
  },

  /* The last drawing, moved and scaled to where the map is now. */
  blit() {
    const context = map.context;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, map.canvas.width, map.canvas.height);
    const ratio = devicePixelRatio || 1;
    const factor = map.zoom / map.drawnZoom;
    const [x, y] = map.toScreen(...map.drawnCentre);
    context.setTransform(factor, 0, 0, factor, (x - (map.width / 2) * factor) * ratio, (y - (map.height / 2) * factor) * ratio);
    context.drawImage(map.picture, 0, 0);
    drawHover(context, ratio);
    if (map.lasso) {
      context.setTransform(ratio, 0, 0, ratio, 0, 0);
      drawLasso(context, map.lasso.map(([px, py]) => map.toScreen(px, py)), false);
    }
  },
};

/* Isolated features have no neighbours, so their place means nothing: they stand in a strip below, and the others fill the pane. */
function layStrip() {
  const features = [...map.x.keys()].filter((f) => !Number.isNaN(map.x[f]));
  const [alone, others] = [features.filter((f) => run.start.status[f] === "isolated"), features.filter((f) => run.start.status[f] !== "isolated")];
  if (alone.length < 10 || others.length < 10) return;
  const [xs, ys] = [others.map((f) => map.x[f]), others.map((f) => map.y[f])];
  const [left, top] = [Math.min(...xs), Math.min(...ys)];
  const [wide, tall] = [Math.max(...xs) - left || 1, Math.max(...ys) - top || 1];
  const scale = Math.min(1 / wide, 0.88 / tall);
  const shift = (1 - wide * scale) / 2;
  for (const f of others) {
    map.x[f] = (map.x[f] - left) * scale + shift;
    map.y[f] = (map.y[f] - top) * scale;
  }
  const rows = Math.max(1, Math.min(5, Math.round(Math.sqrt(alone.length / 16))));
  const columns = Math.ceil(alone.length / rows);
  const start = tall * scale + 0.055;
  alone.sort((a, b) => map.x[a] - map.x[b]).forEach((f, i) => {
    map.x[f] = (Math.floor(i / rows) + 0.5) / columns;
    map.y[f] = start + (i % rows) * 0.016;
  });
  map.strip = { count: alone.length, y: start - 0.022 };
}

const cell = (v) => Math.max(0, Math.min(63, Math.floor(v * 64)));

function middleOf(values) {
  let [low, high] = [Infinity, -Infinity];
  for (const v of values) [low, high] = [Math.min(low, v || low), Math.max(high, v || high)];
  return low <= high ? (low + high) / 2 : 0.5;
}

/* The points of one layer's groups: size and the member nearest to the middle of each, largest group first. */
function anchorsOf(layer) {
  const members = new Map();
  layer.group.forEach((g, f) => {
    if (g < 0 || Number.isNaN(map.x[f])) return;
    if (!members.has(g)) members.set(g, []);
    members.get(g).push(f);
  });
  const median = (values) => values.sort((a, b) => a - b)[Math.floor(values.length / 2)];
  const all = [...members].map(([group, every]) => ({
    group, size: every.length, x: median(every.map((f) => map.x[f])), y: median(every.map((f) => map.y[f])), title: layer.titles[group] || "", solid: layer.solid?.[group],
  }));
  return all.sort((a, b) => b.size - a.size);
}

/* ---------------------------------------------------------------- colours */

function themeName() {
  return document.documentElement.dataset.theme;
}

function css(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

/* Whether the clusters of the map come back; families are proved apart from them. */
function areClustersProven() {
  const kind = summaryOf("cluster").verdict_kind;
  return kind === undefined || !["none", "unstable"].includes(kind);
}

/* Clusters that come back while the map is far, families near, and everywhere when clusters do not come back or have no name. */
function titleAnchors() {
  const suits = Math.min(map.layers.length - 1, map.zoom < 2 ? 0 : map.zoom < 5 ? 1 : 2);
  const named = map.layers.findIndex((anchors, i) => i >= suits && anchors.some((a) => isNamed(a.title)));
  const clusters = named < 0 ? [] : map.layers[named];
  const families = map.families.filter((a) => a.title);
  return (families.length && (map.zoom >= 2 || !clusters.length || !areClustersProven()) ? families : clusters).filter((a) => isNamed(a.title));
}

const FEW = 5; // named families from which on they colour the map

/* What the colours mean where the URL does not say: the clusters when they come back, else families with names, else the score. */
function colouring() {
  const families = map.families.filter((a) => a.title).length >= FEW ? "family" : "";
  return state.get("c", (areClustersProven() ? "group" : families) || (run.start.scores.length ? "score" : "group"));
}

/* A colour for every feature, null for one without a value. */
function mapColours() {
  const how = colouring();
  if (how === "group") {
    const layer = run.start.layers[0];
    const palette = run.start.palette[themeName()];
    return (f) => (layer && layer.group[f] >= 0 ? palette[layer.hues[layer.group[f]] % palette.length] : null);
  }
  if (how === "family") {
    const palette = run.start.palette[themeName()];
    const family = run.start.families?.family;
    return (f) => (family && family[f] >= 0 ? palette[family[f] % palette.length] : null);
  }
  const ramp = RAMPS[themeName()];
  const column = scoreColumn();
  const share = how === "score" ? (f) => scoreOf(f, column) : (f) => (run.start.firings[f] ? (Math.log10(densityOf(f)) + 4) / 3.5 : null);
  return (f) => {
    const value = share(f);
    return value === null ? null : ramp[Math.max(0, Math.min(ramp.length - 1, Math.floor(value * ramp.length)))];
  };
}

/* ---------------------------------------------------------------- what is drawn */

function drawPoints(context, colourOf) {
  const none = css("--noise");
  const faded = map.matches !== null;
  const piles = new Map(); // colour -> features in sight; what has no colour lies lowest, what matches the search highest
  const [left, top] = map.toMap(-10, -10);
  const [right, bottom] = map.toMap(map.width + 10, map.height + 10);
  for (let f = 0; f < map.x.length; f++) {
    const [x, y] = [map.x[f], map.y[f]];
    if (!(x >= left && x <= right && y >= top && y <= bottom)) continue;
    const colour = faded && !map.matches.has(f) ? "" : colourOf(f) || none;
    if (!piles.has(colour)) piles.set(colour, []);
    piles.get(colour).push(f);
  }
  const order = [...piles.keys()].sort((a, b) => rank(a, none) - rank(b, none));
  for (const colour of order) {
    const plain = colour === "" || colour === none;
    const radius = map.radius() * (plain ? 0.7 : 1) * (faded && colour ? 1.25 : 1);
    context.globalAlpha = colour === "" ? 0.28 : plain ? 0.75 : 0.92;
    stamp(context, piles.get(colour), colour || none, radius);
  }
  context.globalAlpha = 1;
}

const rank = (colour, none) => (colour === "" ? 0 : colour === none ? 1 : 2);

/* Small points as squares, larger ones as copies of one disc: both several times faster than a path for each. */
function stamp(context, features, colour, radius) {
  const scale = map.scale();
  const [dx, dy] = [map.width / 2 - map.centre[0] * scale, map.height / 2 - map.centre[1] * scale];
  context.fillStyle = colour;
  if (radius < 1.5) {
    for (const f of features) context.fillRect(map.x[f] * scale + dx - radius, map.y[f] * scale + dy - radius, 2 * radius, 2 * radius);
    return;
  }
  const disc = document.createElement("canvas");
  const ratio = devicePixelRatio || 1;
  const size = Math.ceil(radius + 1);
  disc.width = disc.height = 2 * size * ratio;
  const pen = disc.getContext("2d");
  pen.scale(ratio, ratio);
  pen.fillStyle = colour;
  pen.strokeStyle = css("--page");
  pen.lineWidth = 0.6;
  pen.beginPath();
  pen.arc(size, size, radius, 0, 2 * Math.PI);
  pen.fill();
  pen.stroke();
  for (const f of features) context.drawImage(disc, map.x[f] * scale + dx - size, map.y[f] * scale + dy - size, 2 * size, 2 * size);
}

function drawSelected(context) {
  const feature = state.feature();
  if (feature === null || Number.isNaN(map.x[feature])) return;
  const [x, y] = map.toScreen(map.x[feature], map.y[feature]);
  context.strokeStyle = css("--faint");
  context.lineWidth = 1;
  for (const other of map.neighbours || []) {
    if (Number.isNaN(map.x[other])) continue;
    context.beginPath();
    context.moveTo(x, y);
    context.lineTo(...map.toScreen(map.x[other], map.y[other]));
    context.stroke();
  }
  ring(context, x, y, map.radius() + 4);
}

function ring(context, x, y, radius) {
  for (const [colour, width] of [[css("--page"), 5], [css("--ink"), 2]]) {
    context.strokeStyle = colour;
    context.lineWidth = width;
    context.beginPath();
    context.arc(x, y, radius, 0, 2 * Math.PI);
    context.stroke();
  }
}

function drawHover(context, ratio) {
  if (map.hover === null) return;
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  ring(context, ...map.toScreen(map.x[map.hover], map.y[map.hover]), map.radius() + 3);
}

/* ---------------------------------------------------------------- titles */

function drawTitles(context) {
  const taken = [[0, 0, map.width - 60, 40], [map.width - 56, 0, map.width, 172], [0, map.height - 46, map.width, map.height]]; // the controls and the caption
  const most = Math.round(Math.min(40, (map.width * map.height) / 26000));
  let written = 0;
  if (map.strip) {
    const [, y] = map.toScreen(0, map.strip.y);
    writeTitle(context, [`${thousands(map.strip.count)} isolated features`], map.width / 2, y, 11.5, taken, "--faint");
  }
  for (const anchor of map.matches === null ? titleAnchors() : []) {
    if (written >= most) break;
    const [x, y] = map.toScreen(anchor.x, anchor.y);
    if (x < 0 || y < 0 || x > map.width || y > map.height) continue;
    written += writeTitle(context, wrapTitle(visibleLabel(splitLabel(anchor.title)[0])), x, y, anchor.size > 40 || map.zoom > 2 ? 13 : 12, taken, anchor.solid === false ? "--faint" : "--ink");
  }
  drawFeatureLabels(context, taken);
}

const DENSE_VIEW = 400; // features in sight from which on their labels are not tried

/* Near enough, features carry their own labels: the best scored first, as many as find room. */
function drawFeatureLabels(context, taken) {
  if (!run.text || (map.zoom < 2.5 && map.matches === null)) return;
  const [left, top] = map.toMap(0, 0);
  const [right, bottom] = map.toMap(map.width, map.height);
  const shown = [];
  for (let f = 0; f < map.x.length && shown.length <= DENSE_VIEW * 4; f++) {
    if (map.matches !== null && !map.matches.has(f)) continue;
    if (map.x[f] >= left && map.x[f] <= right && map.y[f] >= top && map.y[f] <= bottom && labelOf(f) && !isUnclear(labelOf(f))) shown.push(f);
  }
  const few = map.matches !== null ? 60 : DENSE_VIEW;
  if (!shown.length || (map.zoom < 2.5 && shown.length > few)) return;
  const column = scoreColumn();
  shown.sort((a, b) => (scoreOf(b, column) ?? -1) - (scoreOf(a, column) ?? -1));
  let written = 0;
  for (const f of shown.slice(0, DENSE_VIEW)) {
    const [x, y] = map.toScreen(map.x[f], map.y[f]);
    const name = visibleLabel(clausesOf(shortName(f))[0].replace(/ \(weak\)$/, "")).trim();
    written += writeTitle(context, [name.length > 30 ? `${name.slice(0, 29)}…` : name], x, y + map.radius() + 9, 11, taken, "--ink", 400);
    if (written >= 70) break;
  }
}

/* The lasso: its area tinted once it is closed. */
function drawLasso(context, corners, closed) {
  if (corners.length < 2) return;
  context.beginPath();
  corners.forEach(([x, y], i) => (i ? context.lineTo(x, y) : context.moveTo(x, y)));
  if (closed) context.closePath();
  context.strokeStyle = css("--accent");
  context.lineWidth = 1.5;
  context.setLineDash([5, 4]);
  context.stroke();
  context.setLineDash([]);
  if (!closed) return;
  context.globalAlpha = 0.07;
  context.fillStyle = css("--accent");
  context.fill();
  context.globalAlpha = 1;
}

function wrapTitle(text) {
  const cut = text.length > 44 ? text.slice(0, 43) + "…" : text;
  if (cut.length <= 22) return [cut];
  const spaces = [...cut.matchAll(/ /g)].map((m) => m.index);
  if (!spaces.length) return [cut.slice(0, 26)];
  const at = spaces.reduce((a, b) => (Math.abs(b - cut.length / 2) < Math.abs(a - cut.length / 2) ? b : a));
  return [cut.slice(0, at), cut.slice(at + 1)];
}

/* Write centred lines unless something stands there already; 1 when they are written, else 0. */
function writeTitle(context, lines, x, y, size, taken, colour, weight = 600) {
  context.font = `${weight} ${size}px ${css("--sans")}`;
  context.textAlign = "center";
  context.textBaseline = "middle";
  const wide = Math.max(...lines.map((line) => context.measureText(line).width)) + 8;
  const tall = lines.length * size * 1.2 + 4;
  const inside = Math.max(wide / 2 + 2, Math.min(map.width - wide / 2 - 2, x));
  const box = [inside - wide / 2, y - tall / 2, inside + wide / 2, y + tall / 2];
  if (taken.some((t) => box[0] < t[2] && box[2] > t[0] && box[1] < t[3] && box[3] > t[1])) return 0;
  taken.push(box);
  lines.forEach((line, i) => {
    const at = y + (i - (lines.length - 1) / 2) * size * 1.2;
    context.lineJoin = "round";
    context.lineWidth = 4;
    context.strokeStyle = css("--page");
    context.strokeText(line, inside, at);
    context.fillStyle = css(colour);
    context.fillText(line, inside, at);
  });
  return 1;
}
