// The page: jobs on the stage and in the queue, the gallery, the viewer, input images, keys and colours.

import { keep, kept, mark, model, offer, offerModels, offerUpscalers, setModel, setSize, setValues, size, values } from "./form.js";
import { InputImage, makePaintable } from "./mask.js";
import * as server from "./server.js";

const HIDDEN = "sdcffi.hidden";
const LOGIN = "sdcffi.login"; // whether the user has logged in; the key itself is in a cookie that no script can read
const THEME = "sdcffi.theme";
const FOLLOWED = 2; // jobs at a time, since a browser opens six connections to a server, of all its tabs
const NARROW = "(max-width: 56rem)";
const PHASES = { load: "Loading the model", lora: "Loading LoRAs", encode: "Encoding", sample: "Generating", upscale: "Upscaling", decode: "Decoding" };
const SHOWN = { // in the viewer, in this order
  prompt: "Prompt", negative_prompt: "Negative prompt", model: "Model", seed: "Seed", size: "Size", steps: "Steps", cfg_scale: "Guidance",
  sampler: "Sampler", scheduler: "Scheduler", loras: "LoRAs", strength: "Strength",
};

const $ = (id) => document.getElementById(id);
const input = new InputImage();
const active = new Map(); // jobs that have not ended, by id, the oldest first
const images = []; // of the gallery, the newest first: {job, image, tile}

// What is said

function say(text) { $("announce").textContent = text; }

function complain(error) {
  $("problem").hidden = false;
  $("problem").firstElementChild.textContent = error.message;
  mark(error.field ?? error.param ?? null);
}

function calm() {
  $("problem").hidden = true;
  $("problem").firstElementChild.textContent = "";
  mark(null);
}

/** A listener that shows what goes wrong. */
const tried = (action) => async (...args) => {
  try {
    await action(...args);
  } catch (error) {
    complain(error);
  }
};

$("problem").querySelector("button").addEventListener("click", () => {
  calm();
  $("prompt").focus();
});

// Jobs

const promptOf = (job) => job.parameters.prompt ?? (job.kind === "upscale" ? "Upscaled image" : "Generated image");

function describe(job) {
  if (job.state === "queued") return job.position > 1 ? `Waiting: ${job.position - 1} before it` : "Waiting";
  const { phase, step, steps, image, images } = job.progress ?? {};
  const name = PHASES[phase] ?? "Starting";
  const where = phase === "sample" ? `Step ${step} of ${steps}` : steps > 1 ? `${name}: ${step} of ${steps}` : name;
  return images > 1 ? `Image ${image} of ${images}: ${where}` : where;
}

const percent = (job) => Math.round(100 * Math.min(1, Math.max(0, job.progress?.fraction ?? 0)));

/** The job on the stage: the running one, else the one that waits longest. */
const current = () => [...active.values()].find((job) => job.state === "running") ?? active.values().next().value;

let shown = null; // the image on the stage, one of `images`
let preview = null; // of the job on the stage

function showStage() {
  const job = current();
  const latest = preview?.id === job?.id ? preview?.image : undefined;
  const source = latest ?? (shown && server.addressOf(shown.image));
  $("stage-empty").hidden = Boolean(source || job);
  $("stage-show").hidden = !source;
  $("stage-show").disabled = Boolean(latest);
  if (source && $("stage-image").getAttribute("src") !== source) $("stage-image").src = source;
  $("stage-image").alt = latest ? `Preview: ${promptOf(job)}` : shown ? altOf(shown) : "";
  $("stage").classList.toggle("busy", Boolean(job));
  $("progress").hidden = !job;
  $("cancel").hidden = !job;
  if (!job) {
    document.title = "sdcffi";
    return;
  }
  const done = percent(job);
  $("progress").setAttribute("aria-valuenow", done);
  $("progress").setAttribute("aria-valuetext", `${done} %, ${describe(job)}`);
  $("progress").firstElementChild.style.transform = `scaleX(${done / 100})`;
  $("stage-text").textContent = `${describe(job)} · ${done} %`;
  document.title = `${done} % · sdcffi`;
}

function showQueue() {
  const waiting = [...active.values()].filter((job) => job !== current());
  $("queue").hidden = !waiting.length;
  $("queue").replaceChildren(...waiting.map((job) => {
    const row = document.createElement("li");
    const text = document.createElement("span");
    const button = Object.assign(document.createElement("button"), { type: "button", className: "quiet", textContent: "Cancel" });
    text.textContent = promptOf(job);
    button.setAttribute("aria-label", `Cancel: ${text.textContent}`);
    button.addEventListener("click", () => cancel(job));
    row.append(text, button);
    return row;
  }));
}

function start(job) {
  active.set(job.id, job);
  followNext();
  showStage();
  showQueue();
}

const followed = new Set(); // ids

function followNext() {
  for (const job of active.values()) {
    if (followed.size >= FOLLOWED) return;
    if (followed.has(job.id)) continue;
    followed.add(job.id);
    server.follow(job.id, (event, data) => hear(job, event, data));
  }
}

function hear(job, event, data) {
  if (event === "progress") {
    const before = percent(job);
    job.state = "running";
    job.progress = data;
    if (Math.floor(percent(job) / 25) > Math.floor(before / 25)) say(`${describe(job)}, ${percent(job)} percent`);
  } else if (event === "preview") {
    if (job === current()) preview = { id: job.id, image: data.image };
  } else if (event !== "image") { // images are shown with the job, once that has finished
    Object.assign(job, data);
    if (server.hasEnded(job)) end(job);
    else showQueue();
  }
  showStage();
}

function end(job) {
  const focused = document.activeElement === $("cancel");
  if (!active.delete(job.id)) return; // it is known already
  followed.delete(job.id);
  followNext();
  if (preview?.id === job.id) preview = null;
  if (job.state === "finished") {
    add(job);
    shown = images[0] ?? null;
    const seconds = job.ended - job.started;
    const count = job.images.length === 1 ? "One image" : `${job.images.length} images`;
    $("stage-text").textContent = [`${count} in ${seconds.toFixed(1)} seconds`, ...(job.warnings ?? [])].join(" · ");
    say(`Finished: ${count}`);
  } else if (job.state === "cancelled") {
    $("stage-text").textContent = "Cancelled";
    say("Cancelled");
  } else {
    $("stage-text").textContent = "";
    complain(new Error(server.sentence(job.error?.message ?? "the job failed")));
  }
  showQueue();
  showStage();
  if (focused && $("cancel").hidden) $("generate").focus();
}

const cancel = tried(async (job) => hear(job, "cancelled", await server.cancel(job.id)));

async function submit(kind, name, parameters) {
  calm();
  const job = await server.submit({ kind, model: name, parameters, previews: true });
  start(job);
  say(active.size > 1 ? "Added to the queue" : "Started");
  if (matchMedia(NARROW).matches) $("stage").scrollIntoView({ block: "start" });
}

let submitting = false; // a second click on Generate is not a second job

const generate = tried(async () => {
  if (submitting) return;
  const parameters = values();
  if (input.given) {
    [parameters.width, parameters.height] = size();
    parameters.init_image = dataOf(input.image(...size()));
    parameters.strength = $("strength").valueAsNumber;
    if (input.masked) parameters.mask_image = dataOf(input.mask(...size()));
  }
  submitting = true;
  $("generate").setAttribute("aria-disabled", "true");
  try {
    await submit("generate", model(), parameters);
  } finally {
    submitting = false;
    $("generate").removeAttribute("aria-disabled");
  }
});

const dataOf = (canvas) => canvas.toDataURL("image/png");

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  generate();
});
$("cancel").addEventListener("click", () => cancel(current()));

// Gallery

const hidden = new Set(kept(HIDDEN, []));
const altOf = ({ job, image }) => promptOf(job) + (image.seed == null ? "" : `, seed ${image.seed}`);

function add(job) {
  for (const image of [...job.images].reverse()) {
    if (hidden.has(image.id)) continue;
    const tile = document.createElement("li");
    const button = Object.assign(document.createElement("button"), { type: "button" });
    const entry = { job, image, tile };
    const picture = Object.assign(new Image(), { src: server.addressOf(image), alt: altOf(entry), loading: "lazy", width: image.width, height: image.height });
    button.append(picture);
    button.addEventListener("click", () => view(entry));
    tile.append(button);
    images.unshift(entry);
    $("gallery").prepend(tile);
  }
  $("gallery-empty").hidden = images.length > 0;
}

function hide(entry) {
  hidden.add(entry.image.id);
  keep(HIDDEN, [...hidden]);
  images.splice(images.indexOf(entry), 1);
  entry.tile.remove();
  $("gallery-empty").hidden = images.length > 0;
  if (shown === entry) {
    shown = images[0] ?? null;
    $("stage-text").textContent = "";
    showStage();
  }
}

$("stage-show").addEventListener("click", () => shown && view(shown));

// Viewer: an image of the gallery, or a file of the user's

let viewed = null; // {entry or null, name, blob, alt}, and once they are read {parameters, model}

const view = tried(async (entry) => {
  const blob = await server.file(entry.image);
  await open({ entry, blob, name: `${entry.image.id}.${entry.image.media_type.split("/").at(-1)}`, alt: altOf(entry) });
});

const viewFile = tried((file) => open({ entry: null, blob: file, name: file.name, alt: file.name }));

async function open(image) {
  calm();
  const note = $("viewer-note");
  viewed = image;
  const mine = image;
  URL.revokeObjectURL($("viewer-image").src);
  $("viewer-image").src = URL.createObjectURL(viewed.blob);
  $("viewer-image").alt = viewed.alt;
  $("viewer-title").textContent = viewed.entry ? "Image" : viewed.name;
  $("viewer-list").replaceChildren();
  note.textContent = "Reading how it was made…";
  const place = images.indexOf(viewed.entry);
  $("viewer-previous").hidden = $("viewer-next").hidden = place < 0;
  $("viewer-previous").disabled = place <= 0;
  $("viewer-next").disabled = place === images.length - 1;
  $("viewer-remove").hidden = !viewed.entry;
  $("viewer-download").hidden = !viewed.entry;
  $("viewer-download").href = viewed.entry ? server.addressOf(viewed.entry.image) : "";
  $("viewer-download").download = viewed.name;
  $("viewer-upscaling").hidden = !$("upscaler").options.length;
  $("viewer-reuse").disabled = true;
  if (!$("viewer").open) $("viewer").showModal();
  try {
    const { parameters, model: from, warnings } = await server.read(mine.blob);
    if (mine !== viewed) return;
    Object.assign(viewed, { parameters, model: from });
    note.textContent = warnings.map(server.sentence).join(" ");
    const { width, height } = parameters;
    list({ ...parameters, model: from, size: width && height ? `${width}x${height}` : "" }, mine.entry?.job.loras ?? []);
    $("viewer-reuse").disabled = false;
  } catch (error) {
    if (mine === viewed) note.textContent = error.message;
  }
}

/** List parameters; `reports` say how each LoRA was applied. */
function list(parameters, reports) {
  const text = {
    loras: (adapters) => adapters.map(({ name, strength }) => {
      const report = reports.find(({ path }) => path === name);
      return `${name} ${strength}${report ? ` (${report.applied} of ${report.total} tensors)` : ""}`;
    }).join(", "),
  };
  for (const [name, label] of Object.entries(SHOWN)) {
    const value = parameters[name] ?? "";
    if (value === "" || value.length === 0) continue;
    const [term, detail] = [document.createElement("dt"), document.createElement("dd")];
    term.textContent = label;
    detail.textContent = (text[name] ?? String)(value);
    $("viewer-list").append(term, detail);
  }
}

const step = (by) => {
  const next = images[images.indexOf(viewed?.entry) + by];
  if (viewed?.entry && next) view(next);
};

$("viewer-previous").addEventListener("click", () => step(-1));
$("viewer-next").addEventListener("click", () => step(1));
$("viewer").addEventListener("keydown", (event) => {
  if (event.target instanceof HTMLSelectElement) return;
  if (event.key === "ArrowLeft") step(-1);
  if (event.key === "ArrowRight") step(1);
});
$("viewer-reuse").addEventListener("click", () => {
  if (viewed.model) setModel(viewed.model);
  setValues(viewed.parameters);
  $("viewer").close();
  $("prompt").focus();
  say("The parameters are in the form");
});
$("viewer-input").addEventListener("click", tried(async () => {
  const { blob } = viewed;
  $("viewer").close();
  await setInput(blob);
}));
$("viewer-upscale").addEventListener("click", tried(async () => {
  const { blob } = viewed;
  $("viewer").close();
  await submit("upscale", $("upscaler").value, { image: await dataUrl(blob) });
}));
$("viewer-remove").addEventListener("click", () => {
  const { entry } = viewed;
  const next = images[images.indexOf(entry) + 1] ?? images[images.indexOf(entry) - 1];
  hide(entry);
  if (next) view(next);
  else $("viewer").close();
  say("Removed from the gallery");
});

const dataUrl = (blob) => new Promise((done, fail) => {
  const reader = new FileReader();
  reader.addEventListener("load", () => done(reader.result));
  reader.addEventListener("error", () => fail(new Error("The file cannot be read. Choose it again.")));
  reader.readAsDataURL(blob);
});

// Input image and mask

async function setInput(blob) {
  calm();
  const [width, height] = size();
  await input.set(blob);
  setSize(input.goodSize(width * height));
  $("mask-open").focus();
  say("Input image set");
}

function showInput() {
  $("input-none").hidden = input.given;
  $("input-some").hidden = !input.given;
  if (!input.given) return;
  const [width, height] = size();
  input.show($("input-canvas"), width, height);
  $("input-canvas").setAttribute("aria-label", input.masked ? "Input image with a mask" : "Input image");
  $("input-about").textContent = `${input.sides.join("x")}, used at ${width}x${height}${input.masked ? ", only the painted part changes" : ""}`;
  $("mask-open").textContent = input.masked ? "Change the mask" : "Paint a mask";
  $("mask-remove").hidden = !input.masked;
}

const drawMask = makePaintable({
  canvas: $("mask-canvas"),
  brush: $("brush"),
  erases: () => document.querySelector("[name=tool]:checked").value === "erase",
  input,
  size,
});

input.addEventListener("change", () => { if (!$("mask").open) showInput(); });
$("form").addEventListener("input", showInput);
$("mask").addEventListener("close", showInput);
$("input-remove").addEventListener("click", () => {
  input.remove();
  $("input-file").focus();
});
$("mask-remove").addEventListener("click", () => {
  input.clear();
  $("mask-open").focus();
});
$("mask-open").addEventListener("click", () => {
  $("mask").showModal();
  drawMask();
});
$("mask-undo").addEventListener("click", () => input.undo());
$("mask-clear").addEventListener("click", () => input.clear());
$("mask").addEventListener("keydown", (event) => {
  const by = { "[": -5, "]": 5 }[event.key];
  if (by) {
    $("brush").value = $("brush").valueAsNumber + by;
    $("brush").dispatchEvent(new Event("input"));
  }
  if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "z") {
    event.preventDefault();
    input.undo();
  }
});
const showBrush = () => { $("brush-value").value = $("brush").value; };
$("brush").addEventListener("input", showBrush);

// Files: chosen, dragged in, pasted

function choose(field, use) {
  field.addEventListener("change", () => {
    const [file] = field.files;
    field.value = ""; // so that the same file can be chosen again
    if (file) use(file);
  });
}
choose($("input-file"), tried(setInput));
choose($("open-file"), viewFile);

const carriesFiles = (event) => event.dataTransfer?.types.includes("Files");
let inside = 0; // how many elements deep the dragged file is in the page
document.addEventListener("dragenter", (event) => {
  if (!carriesFiles(event)) return;
  inside += 1;
  $("dropping").hidden = false;
});
document.addEventListener("dragleave", (event) => {
  if (!carriesFiles(event)) return;
  inside -= 1;
  $("dropping").hidden = inside > 0 ? $("dropping").hidden : true;
});
document.addEventListener("dragover", (event) => { if (carriesFiles(event)) event.preventDefault(); });
document.addEventListener("drop", (event) => {
  inside = 0;
  $("dropping").hidden = true;
  if (!carriesFiles(event)) return;
  event.preventDefault();
  take(event.dataTransfer.files[0], $("input").contains(event.target));
});
document.addEventListener("paste", (event) => {
  const [file] = event.clipboardData?.files ?? [];
  if (file) take(file, true);
});

function take(file, asInput) {
  if (!file || document.querySelector("dialog:modal:not(#viewer)")) return;
  if (asInput) tried(setInput)(file);
  else viewFile(file);
}

// Log in

let loggingIn = null; // the promise of the dialog that is open

server.onLogin(() => {
  loggingIn ??= new Promise((done) => {
    $("login-problem").textContent = "";
    $("login").returnValue = "";
    $("login").addEventListener("close", () => {
      const good = $("login").returnValue === "good";
      loggingIn = null;
      keep(LOGIN, good);
      showLogin(!good);
      done(good);
    }, { once: true });
    $("login").showModal();
  });
  return loggingIn;
});
$("login-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  try {
    await server.logIn($("key").value);
    $("key").value = "";
    $("login").close("good");
  } catch (error) {
    $("login-problem").textContent = error.message;
    $("key").select();
  }
});
$("login-close").addEventListener("click", () => $("login").close());
$("logout").addEventListener("click", tried(async () => {
  await server.logOut();
  keep(LOGIN, false);
  location.reload();
}));

function showLogin(needed) {
  $("login-open").hidden = !needed;
  $("logout").hidden = !kept(LOGIN, false);
}
$("login-open").addEventListener("click", () => load());

// Keys and colours

document.addEventListener("keydown", (event) => {
  if (event.isComposing || document.querySelector("dialog:modal")) return;
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    generate();
  } else if (event.key === "Escape" && current() && !(event.target instanceof HTMLSelectElement)) {
    cancel(current());
  }
});

function setTheme(theme) {
  $("theme").value = theme;
  if (theme) document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
}
$("theme").addEventListener("change", () => {
  setTheme($("theme").value);
  keep(THEME, $("theme").value);
});

// Begin

const showModel = tried(async () => {
  const name = model();
  const [loras, parameters] = await Promise.all([server.loras(name), server.parameters(name)]);
  if (name === model()) offer(loras, parameters);
});

async function showJobs() {
  const jobs = (await server.jobs()).sort((a, b) => a.created - b.created);
  const known = new Set([...active.keys(), ...images.map(({ job }) => job.id)]);
  for (const job of jobs.filter(({ id }) => !known.has(id))) {
    if (!server.hasEnded(job)) start(job);
    else if (job.state === "finished") add(job);
  }
  const ids = new Set(jobs.flatMap((job) => job.images.map((image) => image.id)));
  keep(HIDDEN, [...hidden].filter((id) => ids.has(id)));
  shown ??= images[0] ?? null;
  showStage();
}

const load = tried(async () => {
  calm();
  offerModels(await server.models());
  await Promise.all([showModel(), showJobs(), server.upscalers().then(offerUpscalers)]);
  showInput();
});

$("model").addEventListener("change", showModel);

setTheme(kept(THEME, ""));
showLogin(false);
showBrush();
showInput();
load();
