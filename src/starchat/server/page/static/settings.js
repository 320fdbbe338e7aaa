// The settings: a form → the options that a request has. Kept for the next conversation.

import { element } from "./element.js";
import { keepText, textOf } from "./store.js";

const KEPT = ["localStorage", "starchat.settings"];
const THEME = ["localStorage", "starchat.theme"];
const form = document.getElementById("settings-form");
const dialog = document.getElementById("settings");
let parameters = [];
let onChange = () => {};

/** Make the form of what the server offers; `changed` is called after each change. */
export function setUp(offered, changed) {
  parameters = offered;
  onChange = changed;
  const sampling = document.getElementById("sampling");
  sampling.querySelectorAll(".parameter").forEach((old) => old.remove());
  for (const { name, meaning, kind, default: value } of parameters) {
    const isText = kind === "texts";
    const input = element(isText ? "textarea" : "input", { id: `option-${name}`, name, ...(isText ? { rows: 2 } : { type: "number" }) });
    if (!isText) {
      input.step = kind === "number" ? "any" : 1;
      input.placeholder = value ?? "";
    }
    input.setAttribute("aria-describedby", `option-${name}-meaning`);
    sampling.append(element("div", { className: `parameter${isText ? " tall" : ""}` },
      element("label", { htmlFor: `option-${name}` }, name.replaceAll("_", " ")), input,
      element("p", { id: `option-${name}-meaning`, className: "faint" }, isText ? `${meaning} One in a line.` : meaning)));
  }
  show(kept());
}

/** Return the settings of a new conversation: those that were used last. */
export function kept() {
  try {
    return JSON.parse(textOf(...KEPT)) ?? {};
  } catch {
    return {};
  }
}

/** Show the settings of a conversation. */
export function show(settings) {
  for (const field of fields()) field.value = settings[field.name] ?? "";
  update();
}

/** Return the settings as texts, by the names of their fields; without those that are empty. */
export function read() {
  return Object.fromEntries(fields().filter((field) => field.value.trim()).map((field) => [field.name, field.value]));
}

/** Return the options of a request; throws, with the form open, where one cannot be read. */
export function options() {
  const settings = read();
  const asked = {};
  for (const { name, kind } of parameters) {
    checkNumber(form.elements[name]);
    if (!(name in settings)) continue;
    asked[name] = kind === "texts" ? lines(settings[name]) : Number(settings[name]);
  }
  const kind = settings.constraint;
  if (kind) {
    const text = settings.constraint_text ?? "";
    const problem = !text.trim() && "Write the constraint here, or choose none.";
    if (problem) fail("constraint-text", problem);
    asked[kind] = kind === "json_schema" ? json("constraint-text", text) : kind === "choice" ? lines(text) : text;
  }
  if (settings.tools) {
    asked.tools = json("tools", settings.tools);
    if (!Array.isArray(asked.tools)) fail("tools", "Expected a list: [{\"name\": …}].");
    if (settings.tool_choice) asked.tool_choice = settings.tool_choice;
  }
  return asked;
}

export function open() {
  dialog.showModal();
}

function checkNumber(field) {
  if (!field.validity.badInput) return; // its value is "" then, as if nothing was written
  if (!dialog.open) open();
  field.reportValidity();
  throw new Error("expected a number");
}

function json(id, text) {
  try {
    return JSON.parse(text);
  } catch (error) {
    return fail(id, `This is no JSON: ${error.message}`);
  }
}

function fail(id, problem) {
  const shown = document.getElementById(id === "tools" ? "tools-error" : "constraint-error");
  shown.textContent = problem;
  shown.hidden = false;
  const field = document.getElementById(id);
  field.setAttribute("aria-invalid", "true");
  if (!dialog.open) open();
  field.focus();
  throw new Error(problem);
}

function update() {
  const kind = document.getElementById("constraint").value;
  document.getElementById("constraint-text").hidden = !kind;
  for (const id of ["constraint", "tools"]) document.getElementById(`${id}-error`).hidden = true;
  form.querySelectorAll("[aria-invalid]").forEach((field) => field.removeAttribute("aria-invalid"));
}

function fields() {
  return [...form.elements].filter((field) => field.name && field.name !== "theme");
}

function lines(text) {
  return text.split("\n").filter((line) => line.trim());
}

function keep() {
  keepText(...KEPT, JSON.stringify(read()));
  onChange(read());
}

form.addEventListener("input", () => {
  update();
  keep();
});

document.getElementById("defaults").addEventListener("click", () => {
  show({});
  keep();
});

const theme = document.getElementById("theme");
theme.value = textOf(...THEME) ?? "";
setTheme();
theme.addEventListener("change", () => {
  keepText(...THEME, theme.value);
  setTheme();
});

function setTheme() {
  document.documentElement.dataset.theme = theme.value;
}
