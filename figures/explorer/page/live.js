"use strict";
/* What needs the server behind the page: a text of yours, a clamp, a note. */

async function post(path, body) {
  const reply = await fetch(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ run: run.number, ...body }) });
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

/* Texts to begin with, from the corpus; a click puts one into the field. */
function exampleChips(area) {
  const texts = run.start.live.examples || [];
  return texts.length ? el("div.examples", {}, el("span.hint", {}, "Try:"), texts.map((text) => el("button.chip", { type: "button", title: visible(text), onclick: () => ((area.value = text), area.focus()) }, cutTo(visible(text.trim()).replace(/ {2,}/g, " "), 36)))) : null;
}

/* A box for subjects with a chat template, ticked where the corpus was read in it; null for others. */
function chatBox(hint) {
  return run.start.live.chat ? el("label.check", {}, el("input", { type: "checkbox", name: "chat", checked: run.start.units.capture?.settings.chat === true }), el("span", {}, hint)) : null;
}

/* ---------------------------------------------------------------- your text */

function drawTextView(panel) {
  const form = panel.querySelector("form.live");
  if (form) {
    if (state.get("text") && form.dataset.text !== state.get("text")) form.elements.text.value = form.dataset.text = state.get("text");
    return;
  }
  if (!run.start.live) {
    replace(panel, el("h2", {}, "Your text"), el("p", {}, "Which features fire on a text of yours needs the subject itself. Serve this run: "), el("p", {}, el("code", {}, `python main.py explore ${run.start.run.name}`)));
    return;
  }
  const text = el("textarea", { name: "text", rows: 4, maxlength: run.start.live.characters, placeholder: "Paste or type a text, then Read", spellcheck: "false" }, state.get("text"));
  const against = el("textarea", { name: "against", rows: 2, maxlength: run.start.live.characters, spellcheck: "false" });
  const fields = [field("Text", text), exampleChips(text), field("Against (optional)", against, "Features that fire on this one too are left out."), chatBox("as a user's message, in the chat template")];
  const read = async (data) => {
    const asked = { text: data.get("text"), chat: data.get("chat") === "on" };
    return { asked, ...(await post("api/text", { ...asked, against: data.get("against") })) };
  };
  const made = liveForm("text-form", fields, "Read", read, readingNodes);
  replace(panel, el("h2", {}, "Your text"), made);
  made.querySelector("form").dataset.text = state.get("text");
}

function readingNodes(reading) {
  const list = el("ul.snippets", {});
  const why = el("div", {});
  let only = null;
  const draw = () => {
    const rows = reading.features.filter((f) => only === null || f.activations[only]).slice(0, 80);
    replace(list, rows.map((f) => readingRow(f, reading.tokens)));
    buttons.forEach((b, i) => b.setAttribute("aria-pressed", i === only));
    replace(why, only !== null && run.start.live.why ? whyPanel(reading.asked, reading.tokens, only) : null);
  };
  const buttons = reading.tokens.map((token, i) => el("button.token-button", { title: "Only features that fire here", onclick: () => { only = only === i ? null : i; draw(); } }, visible(token)));
  draw();
  return [el("h3", {}, `${reading.features.length} features fire`), el("p.hint", {}, `Strongest first, as a share of each one's own maximum. Choose a token to see only what fires on it${run.start.live.why ? ", and to ask why the next one follows" : ""}.`), el("div.token-row.reading-tokens", {}, buttons), why, list];
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
  const prompt = el("textarea", { name: "prompt", rows: 2, maxlength: live.characters, spellcheck: "false" }, live.prompt);
  const fields = [
    rows, el("div.actions", {}, more),
    field(live.chat ? "Message or prompt" : "Prompt", prompt), exampleChips(prompt), chatBox("as a user's message; the assistant answers"),
    el("div.row", {}, field("Tokens", el("input", { name: "tokens", type: "number", min: 1, max: live.tokens, value: 40 })), field("Samples", el("input", { name: "samples", type: "number", min: 1, max: live.samples, value: 2 })),
      field("Temperature", el("input", { name: "temperature", type: "number", min: 0, max: 2, step: 0.1, value: 0.7 })), field("Positions", el("select", { name: "positions" }, ["all", "prompt", "generated"].map((p) => el("option", {}, p))))),
    el("label.check", {}, el("input", { type: "checkbox", name: "next", checked: true }), el("span", {}, "compare the next tokens at each place too")),
  ];
  const send = (data) => post("api/clamp", {
    clamps: [...rows.children].map((row) => row.spoken()).filter(Boolean), prompt: data.get("prompt"), tokens: Number(data.get("tokens")), chat: data.get("chat") === "on",
    samples: Number(data.get("samples")), temperature: Number(data.get("temperature")), positions: data.get("positions"),
    logprobs: data.get("next") === "on" ? Math.min(8, live.logprobs) : 0,
  });
  let followed = state.get("w");
  clampForm.follow = (feature) => { // "Clamp it yourself" on another feature: the first row becomes that one
    if (feature === followed || !rows.isConnected) return;
    followed = feature;
    if (feature) rows.firstChild.choose(feature);
  };
  return liveForm("clamp-form", fields, "Run", send, clampedNodes);
}

const MODES = { set: "set it to", max: "raise it to at least", add: "add", scale: "multiply it by", ablate: "switch it off" };

function clampRow(feature, removable) {
  const number = el("input", { type: "number", min: 0, max: run.start.features - 1, value: feature, placeholder: "number", "aria-label": "Feature" });
  const mode = el("select", { "aria-label": "Mode" }, Object.entries(MODES).map(([value, text]) => el("option", { value }, text)));
  const dose = el("input.dose-number", { type: "number", step: "any", value: 2, "aria-label": "Dose" });
  const slide = el("input.dose-slide", { type: "range", min: 0, max: 8, step: 0.25, value: 2, "aria-label": "Dose, as a slider" });
  const unit = el("span.faint", {}, "× its maximum");
  const label = el("p.row-label", {});
  const name = () => replace(label, number.value === "" ? el("span.faint", {}, "Give a feature's number; the search box finds one.") : featureLink(Number(number.value), labelNode(labelOf(Number(number.value)))));
  const show = () => {
    dose.hidden = slide.hidden = mode.value === "ablate";
    unit.textContent = { ablate: "", scale: "× what it is" }[mode.value] ?? "× its maximum";
  };
  mode.addEventListener("change", show);
  number.addEventListener("input", name);
  slide.addEventListener("input", () => (dose.value = slide.value));
  dose.addEventListener("input", () => (slide.value = dose.value));
  name();
  const row = el("div.clamp-row", {}, el("div.clamp-line", {}, number, mode, dose, unit, slide, el("button.quiet", { type: "button", "aria-label": "Leave this feature out", onclick: () => removable() && row.remove() }, "×")), label);
  row.choose = (chosen) => {
    number.value = chosen;
    name();
  };
  row.spoken = () => (number.value === "" ? null : { feature: Number(number.value), mode: mode.value, value: Number(dose.value), relative: !["ablate", "scale"].includes(mode.value) });
  return row;
}

function clampedNodes(record) {
  const words = record.clamps.map((c) => { const [mode, ...rest] = c.split(" "); return `--${mode} ${rest.join(" ")}`; }).join(" ");
  const positions = record.positions === "all" ? "" : ` --positions ${record.positions}`;
  const command = `python main.py clamp ${run.start.run.name} ${words}${positions} --doses 0,0.5,1,2,4 --prompt "…"`;
  return [el("h3", {}, "Result"), el("p", {}, clampNames(record)), experimentNodes(record), keepButton(record), el("p.hint", {}, "To measure doses against controls: ", el("code", {}, visible(command)))];
}

/* Keep what the server has just made, as the command line keeps its clamps. */
function keepButton(record) {
  if (!run.start.live.keeps) return null;
  const said = el("span.hint", { role: "status" }, "Not kept yet.");
  const button = el("button", {
    type: "button",
    onclick: async () => {
      button.disabled = true;
      try {
        const { number } = await post("api/keep", { made: record.made });
        keepShard(`clamp-${String(number).padStart(4, "0")}`, { ...record, number });
        run.start.clamps.push({ number, clamps: record.clamps, features: record.features, prompts: record.prompts.length, doses: false, works: false });
        replace(said, `Kept as experiment ${number}.`);
        drawClampView(document.getElementById("view-clamp"));
      } catch (error) {
        button.disabled = false;
        replace(said, el("span.error", {}, error.message));
      }
    },
  }, "Keep it in the run");
  return el("p.actions", {}, button, said);
}

/* ---------------------------------------------------------------- note */

function noteForm(card) {
  const text = el("input", { name: "text", type: "text", maxlength: 500, autocomplete: "off" });
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
