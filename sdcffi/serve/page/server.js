// What the server is asked, and what it answers: requests, jobs and their events.

const ENDED = new Set(["finished", "failed", "cancelled"]);
const EVENTS = ["queued", "started", "progress", "preview", "image", ...ENDED];
const TRIES = 3; // of a job whose answer was lost: its key makes it the same job
const GONE = new Set([401, 403, 404]); // answers after which asking for a job again is no use
const LONGEST_PAUSE = 30; // seconds

/** An answer that is an error, or none at all (status 0). */
export class ServerError extends Error {
  constructor(status, message, param = null) {
    super(message);
    this.status = status;
    this.param = param;
  }
}

let login = () => Promise.resolve(false);

/** Say what is called when the server asks for a key; it returns a promise of whether the user has logged in. */
export const onLogin = (ask) => { login = ask; };

const address = (path) => new URL(path, document.baseURI);
const pause = (seconds) => new Promise((done) => setTimeout(done, 1000 * seconds));

/** Ask the server; return the answer once it is a good one. */
export async function ask(path, { method = "GET", json, body, headers = {} } = {}) {
  for (;;) {
    const answer = await answerOf(path, {
      method,
      headers: { ...headers, ...(json === undefined ? {} : { "Content-Type": "application/json" }) },
      body: json === undefined ? body : JSON.stringify(json),
    });
    if (answer.ok) return answer;
    if (answer.status !== 401 || path === "api/login" || !(await login())) throw await errorOf(answer);
  }
}

async function answerOf(path, options) {
  try {
    return await fetch(address(path), options);
  } catch {
    throw new ServerError(0, "The server does not answer. Check that it runs and that you are connected, then try again.");
  }
}

/** A text with a capital and a full stop. */
export const sentence = (text) => text[0].toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");

async function errorOf(answer) {
  if (answer.status === 401 && !answer.url.endsWith("/api/login")) return new ServerError(401, "This server needs a key. Log in to use it.");
  const { error } = await answer.json().catch(() => ({}));
  let message = sentence(error?.message || `The server answered ${answer.status} ${answer.statusText}`.trim());
  const wait = Number(answer.headers.get("Retry-After"));
  if (wait > 0) message = message.replace(/[.]$/, ` (in about ${Math.ceil(wait)} seconds).`);
  return new ServerError(answer.status, message, error?.param ?? null);
}

const json = async (path, options) => (await ask(path, options)).json();

const of = (model) => `?${new URLSearchParams({ model })}`;

export const models = async () => (await json("api/models")).models;
export const upscalers = async () => (await json("api/upscalers")).upscalers;
export const jobs = async () => (await json("api/jobs")).jobs;
export const loras = async (model) => (await json(`api/loras${of(model)}`)).loras;

/** The schema of the parameters for a model, with its defaults. */
export const parameters = (model) => json(`api/parameters${of(model)}`);

export const logIn = (key) => ask("api/login", { method: "POST", json: { key } });
export const logOut = () => ask("api/logout", { method: "POST" });
export const cancel = (id) => json(`api/jobs/${id}`, { method: "DELETE" });
export const file = async (image) => (await ask(addressOf(image))).blob();

/** The address of an image's file. */
export const addressOf = (image) => address(`api/images/${image.id}`).href;

/** How an image file was made: {parameters, model, warnings}. */
export const read = (blob) => json("api/read", { method: "POST", body: blob });

/** Submit a job. */
export async function submit(request) {
  const bytes = crypto.getRandomValues(new Uint8Array(16)); // randomUUID is missing without HTTPS
  const key = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  for (let tries = 1; ; tries++) {
    try {
      return await json("api/jobs", { method: "POST", json: request, headers: { "Idempotency-Key": key } });
    } catch (error) {
      if (error.status !== 0 || tries === TRIES) throw error;
      await pause(tries);
    }
  }
}

/** Whether a job has ended. */
export const hasEnded = (job) => ENDED.has(job.state);

/** Follow a job until it has ended: `tell(event, data)` is called for each event; of the last one, data is the job. */
export function follow(id, tell) {
  const source = new EventSource(address(`api/jobs/${id}/events`));
  for (const name of EVENTS) {
    source.addEventListener(name, (event) => {
      if (ENDED.has(name)) source.close();
      tell(name, JSON.parse(event.data));
    });
  }
  source.addEventListener("error", () => {
    if (source.readyState === EventSource.CLOSED) watch(id, tell); // else the browser connects again by itself
  });
}

/** Follow a job by asking for it: what the server or the network says in between does not end the job. */
async function watch(id, tell) {
  for (let seconds = 1; ; await pause(seconds)) {
    let job;
    try {
      job = await json(`api/jobs/${id}`);
    } catch (error) {
      if (GONE.has(error.status)) return tell("failed", { id, state: "failed", images: [], error: { message: error.message } });
      seconds = Math.min(2 * seconds, LONGEST_PAUSE);
      continue;
    }
    if (hasEnded(job)) return tell(job.state, job);
    if (job.progress) tell("progress", job.progress);
    seconds = 1;
  }
}
