"use strict";
/* What needs the server behind the page: a text of yours, a clamp, a note. */

async function post(path, body) {
  const reply = await fetch(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
  const value = await reply.json().catch(() => ({ error: `The server answered ${reply.status}.` }));
  if (!reply.ok) throw new Error(value.error || `The server answered ${reply.status}.`);
  return value;
}

/* A form that says what it is doing, what went wrong, and shows what came back. */
function liveForm(kind, fields, button, send, show) {
  const out = el("div.result", {});
  const submit = el("button.primary", { type: "submit" }, button);
  const status = el("p.hint", { role: "status" });
  const form = el(`form.live.${kind}`, {
    onsubmit: async (event) => {
      event.preventDefault();
      submit.disabled = true;
      replace(status, "Running …");
      try {
        const value = await send(new FormData(form));
        replace(status);
        replace(out, show(value));
      } catch (error) {
        replace(status, el("span.error", {}, error.message));
      } finally {
        submit.disabled = false;
      }
    },
  }, fields, el("div.actions", {}, submit, status));
  return el("div", {}, form, out);
}

function field(title, control, hint) {
  return el("label.field", {}, el("span", {}, title), control, hint ? el("span.hint", {}, hint) : null);
}

/* ---------------------------------------------------------------- your text */

function drawTextView(panel) {
  if (panel.querySelector("form.live")) return;
  if (!run.start.live) {
    replace(panel, el("h2", {}, "Your text"), el("p", {}, "Which features fire on a text of yours needs the subject itself. Serve this run: "), el("p", {}, el("code", {}, `python main.py explore ${run.start.run.name}`)));
    return;
  }
  const text = el("textarea", { name: "text", rows: 4, maxlength: run.start.live.characters, required: true, spellcheck: "false" }, state.get("text"));
  const against = el("textarea", { name: "against", rows: 2, maxlength: run.start.live.characters, spellcheck: "false" });
  const fields = [field("Text", text), field("Against (optional)", against, "Features that fire on this one too are left out.")];
  replace(panel, el("h2", {}, "Your text"), liveForm("text-form", fields, "Read", (data) => post("api/text", { text: data.get("text"), against: data.get("against") }), readingNodes));
}

function readingNodes(reading) {
  const list = el("ul.snippets", {});
  let only = null;
  const draw = () => {
    const rows = reading.features.filter((f) => only === null || f.activations[only]).slice(0, 80);
    replace(list, rows.map((f) => readingRow(f, reading.tokens)));
    buttons.forEach((b, i) => b.setAttribute("aria-pressed", i === only));
  };
  const buttons = reading.tokens.map((token, i) => el("button.token-button", { title: "Only features that fire here", onclick: () => { only = only === i ? null : i; draw(); } }, visible(token)));
  draw();
  return [el("h3", {}, `${reading.features.length} features fire`), el("p.hint", {}, "Strongest first, as a share of each one's own maximum. Choose a token to see only what fires on it."), el("div.token-row", {}, buttons), list];
}

function readingRow(f, tokens) {
  const dense = tokens.map((_, i) => f.activations[i] || 0);
  return el("li.reading", {}, el("span.value", {}, percent(f.share)), el("div", {}, el("p", {}, featureLink(f.feature), " ", labelNode(f.label)), el("div.whole", {}, tokenNodes(tokens, dense, f.max, dense.indexOf(Math.max(...dense)), visibleLines))));
}

/* ---------------------------------------------------------------- clamp */

function clampForm() {
  const rows = el("div.clamp-rows", {});
  const add = (feature = "") => rows.append(clampRow(feature, () => rows.children.length > 1));
  add(state.get("w"));
  const more = el("button", { type: "button", onclick: () => add() }, "Another feature");
  const live = run.start.live;
  const fields = [
    rows, el("div.actions", {}, more),
    field("Prompt", el("textarea", { name: "prompt", rows: 2, required: true, maxlength: live.characters, spellcheck: "false" }, live.prompt)),
    el("div.row", {}, field("Tokens", el("input", { name: "tokens", type: "number", min: 1, max: live.tokens, value: 40 })), field("Samples", el("input", { name: "samples", type: "number", min: 1, max: live.samples, value: 2 })),
      field("Temperature", el("input", { name: "temperature", type: "number", min: 0, max: 2, step: 0.1, value: 0.7 })), field("Positions", el("select", { name: "positions" }, ["all", "prompt", "generated"].map((p) => el("option", {}, p))))),
  ];
  const send = (data) => post("api/clamp", {
    clamps: [...rows.children].map((row) => row.spoken()).filter(Boolean), prompt: data.get("prompt"), tokens: Number(data.get("tokens")),
    samples: Number(data.get("samples")), temperature: Number(data.get("temperature")), positions: data.get("positions"),
  });
  return liveForm("clamp-form", fields, "Run", send, clampedNodes);
}

function clampRow(feature, removable) {
  const number = el("input", { type: "number", min: 0, max: run.start.features - 1, value: feature, required: true, "aria-label": "Feature" });
  const mode = el("select", { "aria-label": "Mode" }, ["set", "max", "add", "scale", "ablate"].map((m) => el("option", {}, m)));
  const dose = el("input", { type: "number", step: "any", value: 2, "aria-label": "Dose" });
  const unit = el("span.faint", {}, "× its maximum");
  const label = el("span.row-label", {}, labelNode(labelOf(Number(feature))));
  mode.addEventListener("change", () => {
    dose.hidden = mode.value === "ablate";
    unit.textContent = { ablate: "", scale: "× what it is" }[mode.value] ?? "× its maximum";
  });
  number.addEventListener("input", () => replace(label, labelNode(labelOf(Number(number.value)))));
  const row = el("div.clamp-row", {}, number, mode, dose, unit, label, el("button.quiet", { type: "button", "aria-label": "Leave this feature out", onclick: () => removable() && row.remove() }, "×"));
  row.spoken = () => (number.value === "" ? null : { feature: Number(number.value), mode: mode.value, value: Number(dose.value), relative: !["ablate", "scale"].includes(mode.value) });
  return row;
}

function clampedNodes(record) {
  const words = record.clamps.map((c) => { const [mode, ...rest] = c.split(" "); return `--${mode} ${rest.join(" ")}`; }).join(" ");
  const positions = record.positions === "all" ? "" : ` --positions ${record.positions}`;
  const command = `python main.py clamp ${run.start.run.name} ${words}${positions} --doses 0,0.5,1,2,4 --prompt "…"`;
  return [experimentNodes(record), el("p.hint", {}, "Not kept. To measure doses against controls, and keep it: ", el("code", {}, visible(command)))];
}

/* ---------------------------------------------------------------- note */

function noteForm(card) {
  const text = el("input", { name: "text", type: "text", required: true, maxlength: 500, autocomplete: "off" });
  const kept = el("div", {});
  const show = (note) => {
    text.value = "";
    search.add(note);
    card.notes.push(note);
    kept.append(el("p.note", {}, "“", visible(note.text), "” ", el("span.faint", {}, "kept")));
    return [];
  };
  const fields = [kept, field("What do you think it is?", text, "Kept in the run; `label --labels hand` makes labels of notes, and `score` scores them.")];
  return liveForm("note-form", fields, "Keep the note", (data) => post("api/note", { feature: card.feature, text: data.get("text") }), show);
}
