"use strict";
/* Text becomes nodes, never markup: everything here goes through textContent. */

const UNSEEN = /[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Cn}]/gu; // control, format (bidi), lone surrogates, private, unassigned

function shown(character) {
  if (character === "\n") return "↵";
  if (character === "\t") return "→";
  return "\\u" + character.codePointAt(0).toString(16).padStart(4, "0");
}

/* The text on one line, what cannot be seen made visible. */
function visible(text) {
  return String(text).replace(UNSEEN, shown);
}

/* The same with its line ends kept. */
function visibleLines(text) {
  return String(text).replace(UNSEEN, (c) => (c === "\n" ? "\n" : shown(c)));
}

/* A new element: el("p.note", {title: "x", onclick: f}, "text", node, ...). Strings become text nodes. */
function el(kind, properties = {}, ...children) {
  const [tag, ...classes] = kind.split(".");
  const node = document.createElement(tag);
  if (classes.length) node.className = classes.join(" ");
  fill(node, properties, children);
  return node;
}

function svg(kind, properties = {}, ...children) {
  const [tag, ...classes] = kind.split(".");
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  if (classes.length) node.setAttribute("class", classes.join(" "));
  fill(node, properties, children);
  return node;
}

function fill(node, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "style") Object.assign(node.style, value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((c) => c !== null && c !== undefined && c !== ""));
}

function replace(node, ...children) {
  node.replaceChildren(...children.flat(Infinity).filter((c) => c !== null && c !== undefined && c !== ""));
}

const cutTo = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);

/* ---------------------------------------------------------------- numbers */

const thousands = (n) => Math.round(n).toLocaleString("en-US");
const minus = (text) => text.replace(/^-(?=[0.]*( %)?$)/, "").replace("-", "−"); // what rounds to 0 has no sign

function fixed(value, digits = 2) {
  return value === null || value === undefined ? "–" : minus(value.toFixed(digits));
}

function short(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  return minus(size >= 1000 ? thousands(value) : size >= 100 ? value.toFixed(0) : size >= 10 ? value.toFixed(1) : size >= 0.1 || size === 0 ? value.toFixed(2) : value.toPrecision(2));
}

function percent(share) {
  const value = 100 * Math.abs(share);
  return (share < 0 ? "−" : "") + (value === 0 ? "0" : value >= 10 ? value.toFixed(0) : value >= 1 ? value.toFixed(1) : value >= 0.01 ? value.toFixed(2) : value.toPrecision(1)) + " %";
}

/* ---------------------------------------------------------------- pieces used by several views */

function featureLink(feature, text) {
  return el("a.feature-link", { href: state.link({ f: feature }) }, text ?? String(feature));
}

/* The text of a label with one spelling of white space: ↵ for a line end, · for each of several spaces, as in snippets. */
function visibleLabel(text) {
  return visible(text.replaceAll("\\n", "↵").replaceAll("\\t", "→")).replace(/ {2,}/g, (spaces) => (spaces.length > 6 ? `·×${spaces.length}` : "·".repeat(spaces.length)));
}

const isUnclear = (text) => /^unclear\b/.test(text);

/* A label: its name in front, the rule behind it fainter. */
function labelParts(text) {
  if (!text) return el("span.faint", {}, "no label");
  const [name, rest] = splitLabel(text);
  if (!rest) return ruleNodes(text);
  return [el(isUnclear(name) ? "em.faint" : "span.label-name", {}, visibleLabel(name)), el("span.faint", {}, ": ", ruleNodes(rest))];
}

/* The clauses of a rule; those that say where the feature fires weakly stand behind, in words instead of a mark. */
function ruleNodes(text) {
  const weak = (clause) => / \(weak\)$/.test(clause);
  const clauses = clausesOf(text);
  const strong = clauses.filter((c) => !weak(c)).map(visibleLabel);
  const others = clauses.filter(weak).map((c) => visibleLabel(c.replace(/ \(weak\)$/, "")));
  if (!others.length) return strong.join("; ");
  return [strong.join("; "), el("span.faint", { title: "Predicted at 0.4 where the rest of the label is at 1" }, `${strong.length ? "; " : ""}weakly ${others.join("; ")}`)];
}

/* A label by its first clause; how many others there are stands behind it, and they show on hover. */
function labelNode(text) {
  if (!text) return el("span.faint", {}, "no label");
  const [first, ...others] = clausesOf(text);
  const more = others.length ? el("span.faint", {}, ` (+${others.length})`) : "";
  return el("span.label-text", { title: others.length ? visible(text) : null }, labelParts(others.length ? first.replace(/ \(weak\)$/, "") : first), more);
}

/* A button that copies a text; where the browser gives no clipboard (a page from file://), a field to copy from appears. */
function copyButton(name, text, title) {
  const button = el("button.quiet.copy", { type: "button", title: title || null }, name);
  const said = (word) => {
    button.textContent = word;
    announce(word);
    setTimeout(() => (button.textContent = name), 1500);
  };
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text());
      said("Copied");
    } catch {
      showCopy(button, text(), said);
    }
  });
  return button;
}

function showCopy(button, text, said) {
  const area = el("textarea.copy-field", { rows: 2, readonly: true, "aria-label": "Copy this text", onblur: () => area.remove() }, text);
  button.after(area);
  area.select();
  let done = false;
  try {
    done = document.execCommand("copy");
  } catch { /* then the person copies by hand */ }
  if (done) {
    area.remove();
    said("Copied");
  }
}

/* The clauses of a label: a rule's stand behind semicolons outside quotes, those of free words before "or:" and "weak:". */
function clausesOf(text) {
  const parts = [];
  let start = 0;
  for (const cut of text.matchAll(/; (?=or: |weak: |["']|anything|digits|an? |words |indentation|punctuation)/g)) {
    if ((text.slice(0, cut.index).split('"').length - 1) % 2) continue;
    parts.push(text.slice(start, cut.index));
    start = cut.index + 2;
  }
  return [...parts, text.slice(start)];
}

function announce(text) {
  document.getElementById("announcer").textContent = text;
}
