// The form: its values as parameters of a request, from the parameters of an image, and kept from visit to visit.

const KEPT = "sdcffi.form";
const NUMBERS = ["width", "height", "steps", "cfg_scale", "batch_count"];
const CHOICES = ["sampler", "scheduler"];
const SIDE = 512; // the engine's own

const $ = (id) => document.getElementById(id);
const form = $("form");
const fields = form.elements;

let schema = {}; // of every parameter of the chosen model, by name
let loras = []; // names

/** What the browser keeps under a name, or `usual`. */
export function kept(name, usual) {
  try {
    return JSON.parse(localStorage.getItem(name)) ?? usual;
  } catch {
    return usual; // the storage is off, or what is in it is damaged
  }
}

/** Keep something for the next visit. */
export function keep(name, value) {
  try {
    localStorage.setItem(name, JSON.stringify(value));
  } catch {
    // The storage is off or full: it is forgotten.
  }
}

/** A value that the user has to mend. */
export class FieldError extends Error {
  constructor(field, message) {
    super(message);
    this.field = field;
  }
}

/** Fill a select with names. What is chosen stays, also where it is not among them. */
function fill(select, names, chosen = select.value) {
  const first = [...select.options].filter((option) => option.value === "");
  const missing = chosen && !names.includes(chosen) ? [new Option(`${chosen} (not on this server)`, chosen)] : [];
  select.replaceChildren(...first, ...names.map((name) => new Option(name, name)), ...missing);
  select.value = chosen;
  if (select.selectedIndex < 0) select.selectedIndex = 0;
}

const namesIn = (select) => [...select.options].map((option) => option.value).filter(Boolean);

/** Show the models of the server. */
export function offerModels(models) {
  fill(fields.model, models.map(({ name }) => name), fields.model.value || models.find((model) => model.default).name);
}

/** Show the upscaling networks of the server. */
export const offerUpscalers = (names) => fill($("upscaler"), names);

/** Show what a model takes: its LoRAs, and the schema of its parameters. */
export function offer(names, { properties }) {
  loras = names;
  schema = properties;
  for (const { select } of loraRows()) fill(select, loras);
  $("lora-add").hidden = !loras.length;
  $("lora-none").hidden = Boolean(loras.length);
  for (const name of CHOICES) fill(fields[name], schema[name].examples);
  for (const name of NUMBERS) fields[name].placeholder = schema[name].default ?? "";
  show();
}

// LoRAs

const loraRows = () => [...$("lora-rows").children].map((row) => ({
  select: row.querySelector("select"),
  strength: row.querySelector("input"),
  more: JSON.parse(row.dataset.more), // strengths of parts, from an image; there are no fields for them
}));

function addLora({ name = loras[0], strength = 1, ...more } = {}) {
  const row = $("lora-row").content.cloneNode(true).firstElementChild;
  const select = row.querySelector("select");
  fill(select, loras, name);
  row.querySelector("input").value = strength;
  row.dataset.more = JSON.stringify(more);
  row.querySelector("button").addEventListener("click", () => {
    const next = row.nextElementSibling ?? row.previousElementSibling;
    row.remove();
    (next?.querySelector("button") ?? $("lora-add")).focus();
    save();
  });
  $("lora-rows").append(row);
  return select;
}

$("lora-add").addEventListener("click", () => {
  addLora().focus();
  save();
});

// Values

/** Width and height of the result. */
export const size = () => [fields.width, fields.height].map((field) => field.valueAsNumber || Number(field.placeholder) || SIDE);

/** The name of the model. */
export const model = () => fields.model.value;

function otherValues() {
  try {
    const values = JSON.parse(fields.others.value || "{}");
    if (values && typeof values === "object" && !Array.isArray(values)) return values;
  } catch {
    // It is refused below.
  }
  throw new FieldError(fields.others, 'Other parameters must be JSON, such as {"clip_skip": 2}.');
}

/** The parameters of a request, but for images. */
export function values() {
  for (const field of fields) {
    if (!field.willValidate || field.checkValidity()) continue;
    const name = field.labels[0].innerText.trim();
    const why = field.validity.valueMissing && field === fields.prompt ? "write what to generate" : field.validationMessage;
    throw new FieldError(field, `${name}: ${why}`.replace(/[.]?$/, "."));
  }
  const result = { prompt: fields.prompt.value, ...otherValues() };
  for (const name of NUMBERS) if (fields[name].value) result[name] = fields[name].valueAsNumber;
  for (const name of ["negative_prompt", ...CHOICES]) if (fields[name].value) result[name] = fields[name].value;
  if (!fields.random.checked && fields.seed.value) result.seed = fields.seed.valueAsNumber;
  const adapters = loraRows().map(({ select, strength, more }) => ({ name: select.value, strength: strength.valueAsNumber, ...more }));
  return adapters.length ? { ...result, loras: adapters } : result;
}

/** Show the parameters of an image; those that it does not have are set back. */
export function setValues({ prompt, negative_prompt, seed, strength, loras: adapters, ...rest }) {
  fields.prompt.value = prompt ?? "";
  fields.negative_prompt.value = negative_prompt ?? "";
  fields.random.checked = !(seed >= 0);
  fields.seed.value = seed >= 0 ? seed : "";
  fields.strength.value = strength ?? schema.strength?.default ?? fields.strength.defaultValue;
  for (const name of NUMBERS) fields[name].value = rest[name] ?? "";
  for (const name of CHOICES) fill(fields[name], namesIn(fields[name]), rest[name] ?? "");
  $("lora-rows").replaceChildren();
  for (const adapter of adapters ?? []) addLora(adapter);
  const others = Object.entries(rest).filter(([name]) => name in schema && !NUMBERS.includes(name) && !CHOICES.includes(name));
  fields.others.value = others.length ? JSON.stringify(Object.fromEntries(others)) : "";
  $("more").open ||= Boolean(fields.others.value || fields.sampler.value || fields.scheduler.value);
  form.dispatchEvent(new Event("input"));
}

/** Choose a model. */
export function setModel(name) {
  fields.model.value = name;
  fields.model.dispatchEvent(new Event("change", { bubbles: true }));
}

/** Set width and height. */
export function setSize([width, height]) {
  fields.width.value = width;
  fields.height.value = height;
  form.dispatchEvent(new Event("input"));
}

/** Mark a field as wrong, and go there. A text is looked up as a parameter's name; null marks none. */
export function mark(wrong) {
  for (const field of form.querySelectorAll("[aria-invalid]")) {
    field.removeAttribute("aria-invalid");
    field.removeAttribute("aria-errormessage");
  }
  const field = typeof wrong === "string" ? fields[wrong.split(/[.[]/)[0]] : wrong;
  if (!field?.willValidate) return;
  field.closest("details")?.setAttribute("open", "");
  field.setAttribute("aria-invalid", "true");
  field.setAttribute("aria-errormessage", "problem");
  field.focus();
}

// From visit to visit

function save() {
  const named = [...fields].filter((field) => field.name).map((field) => [field.name, field.type === "checkbox" ? field.checked : field.value]);
  const adapters = loraRows().map(({ select, strength, more }) => ({ name: select.value, strength: strength.value, ...more }));
  keep(KEPT, { ...Object.fromEntries(named), loras: adapters, more: $("more").open });
}

function restore() {
  const state = kept(KEPT, {});
  for (const [name, value] of Object.entries(state)) {
    const field = fields[name];
    if (field?.name !== name) continue;
    if (field.type === "checkbox") field.checked = value;
    else if (field instanceof HTMLSelectElement) fill(field, namesIn(field), value);
    else field.value = value;
  }
  for (const adapter of state.loras ?? []) addLora(adapter);
  $("more").open = Boolean(state.more);
}

function show() {
  fields.seed.disabled = fields.random.checked;
  $("strength-value").value = fields.strength.valueAsNumber.toFixed(2);
}

$("swap").addEventListener("click", () => setSize([fields.height.value, fields.width.value]));
form.addEventListener("input", () => {
  show();
  save();
});
$("more").addEventListener("toggle", save);
restore();
show();
