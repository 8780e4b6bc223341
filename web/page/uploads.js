// The images of this page: uploads each, waits for its label, and shows its state.

import { ask, upload } from "./api.js";
import { poolOf } from "./live.js";
import { save } from "./save.js";
import { bytes, percent, plural, waitingFor } from "./words.js";

/**
 * Browsers open at most six connections to a host. One holds the events, and one remains for
 * polling results.
 */
const UPLOADS_AT_ONCE = 4;
const ASKING_AT_ONCE = 2;
/** Maximum number of thumbnails that are shown at once, because more make the page slow. */
const SHOWN = 200;
/**
 * With more images than this, each takes one line, in a part of the page that scrolls separately.
 */
const FEW = 12;
const TRIES = 5;
/** The usual maximum time from the end of a body to its job in the queue. */
const TAKING_IN_MS = 500;

const list = document.getElementById("results");
const summary = document.getElementById("summary");
const more = document.getElementById("more");
const clear = document.getElementById("clear");
const tools = document.getElementById("tools");
const which = document.getElementById("which");

const items = [];
const toSend = [];
const toAsk = [];
let sending = 0;
let asking = 0;
/** True while a token is required: nothing is sent or polled. */
let isLocked = false;
let shown = SHOWN;
let service = null;

/** Adds files, each with its displayed name. Files that cannot be uploaded are listed as failed. */
export function add(files, model) {
  for (const { file, name } of files) {
    const item = { file, name: name || "pasted image", model, state: "waiting", tries: 0 };
    items.push(item);
    if (file.type && !file.type.startsWith("image/")) fail(item, "not an image");
    else if (service && file.size > service.max_image_bytes) fail(item, `larger than ${bytes(service.max_image_bytes)}`);
    else if (file.size === 0) fail(item, "empty file");
    else toSend.push(item);
  }
  show();
  send();
}

/** Updates the texts of waiting images after a change of the service's state. */
export function update(status) {
  service = status;
  const waiting = items.filter((item) => item.state === "queued").sort((one, other) => other.sentAt - one.sentAt);
  const after = {};
  for (const item of waiting) {
    const known = poolOf(item.model);
    if (known && known.pool.visible !== null && item.sentAt + TAKING_IN_MS < known.seenAt) {
      after[item.model] ??= 0;
      const before = known.pool.visible - 1 - after[item.model];
      // Jobs are received in the order in which they arrived, so later images of other clients do
      // not count.
      item.before = Math.max(0, Math.min(item.before ?? before, before));
      after[item.model] += 1;
    }
    write(item);
  }
}

/** Redraws the state of each waiting image. */
export function redraw() {
  for (const item of items) if (item.state === "waiting" || item.state === "queued") write(item);
}

export function lock() {
  isLocked = true;
  redraw();
}

/** Retries everything that waits for a token, because there is a new one. */
export function unlock() {
  if (!isLocked) return;
  isLocked = false;
  // If a large upload is refused, a browser may only see a broken connection, which counted as an
  // attempt.
  for (const item of items) item.tries = 0;
  redraw();
  send();
  lookAfter();
}

function send() {
  while (!isLocked && sending < UPLOADS_AT_ONCE && toSend.length) {
    const item = toSend.shift();
    item.state = "sending";
    item.sent = 0;
    sending += 1;
    write(item);
    upload(item.file, item.model, (share) => {
      item.sent = share;
      if (share >= 1) queued(item);
      write(item);
    }).then((end) => {
      sending -= 1;
      settle(item, end);
      send();
    });
  }
}

function lookAfter() {
  while (!isLocked && asking < ASKING_AT_ONCE && toAsk.length) {
    const item = toAsk.shift();
    asking += 1;
    ask(item.path).then((end) => {
      asking -= 1;
      settle(item, end);
      lookAfter();
    });
  }
}

function queued(item) {
  if (item.state === "queued") return;
  item.state = "queued";
  item.sentAt = Date.now();
  item.before = null;
}

function settle(item, end) {
  if (item.isGone) return;
  if (end.result) {
    item.state = "done";
    // A polled result comes from the store, but it is not a cached one: it was classified for this
    // upload.
    item.result = item.path ? { ...end.result, cached: false } : end.result;
  } else if (end.pending) {
    queued(item);
    item.path = end.pending;
    later(toAsk, item, end.after, lookAfter);
  } else if (end.locked) {
    // The image itself has no error.
    if (!item.path) item.state = "waiting";
    (item.path ? toAsk : toSend).unshift(item);
  } else if (end.again !== undefined && item.tries < TRIES) {
    item.tries += 1;
    item.state = "waiting";
    item.why = end.error;
    later(toSend, item, end.again, send);
  } else {
    fail(item, end.error);
  }
  write(item);
  count();
}

function later(queue, item, seconds, next) {
  setTimeout(() => {
    if (item.isGone) return;
    queue.push(item);
    next();
  }, seconds * 1000);
}

function fail(item, why) {
  item.state = "failed";
  item.why = why;
  // Images that failed are always shown.
  if (!item.entry) show();
}

function show() {
  items.forEach((item, place) => {
    if (item.entry || (place >= shown && item.state !== "failed")) return;
    list.append(make(item));
    write(item);
  });
  const hidden = items.length - list.children.length;
  more.hidden = hidden === 0;
  more.textContent = `Show ${plural(Math.min(hidden, SHOWN), "image")} more`;
  count();
}

more.addEventListener("click", () => {
  shown += SHOWN;
  show();
});

clear.addEventListener("click", () => {
  for (const item of items) {
    item.isGone = true;
    if (item.preview) URL.revokeObjectURL(item.preview);
  }
  items.length = 0;
  toSend.length = 0;
  toAsk.length = 0;
  shown = SHOWN;
  list.replaceChildren();
  show();
  document.getElementById("files").focus();
});

which.addEventListener("change", () => {
  list.dataset.which = which.value;
});

for (const kind of ["csv", "json"]) document.getElementById(`save-${kind}`).addEventListener("click", () => save(rows(), kind));

/** Returns the rows of all images that are done or failed. */
function rows() {
  const settled = items.filter((item) => item.state === "done" || item.state === "failed");
  return settled.map(({ name, state, result, why }) => {
    if (state === "failed") return { name, error: why };
    const { label, confidence, model, id, top } = result;
    return { name, label, confidence, model, id, top };
  });
}

function count() {
  const of = (state) => items.filter((item) => item.state === state).length;
  const [done, failed] = [of("done"), of("failed")];
  clear.hidden = items.length === 0;
  tools.hidden = done + failed === 0;
  list.classList.toggle("many", items.length > FEW);
  if (!items.length) summary.textContent = "";
  else if (done + failed < items.length) summary.textContent = `${done + failed} of ${plural(items.length, "image")} done`;
  else summary.textContent = `${plural(done, "image")} labelled${failed ? `, ${failed} failed` : ""}`;
}

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function make(item) {
  const entry = element("li");
  item.entry = entry;
  if (item.file.type && item.file.type.startsWith("image/")) {
    const picture = element("img");
    item.preview = URL.createObjectURL(item.file);
    picture.src = item.preview;
    picture.alt = "";
    picture.loading = "lazy";
    picture.addEventListener("error", () => picture.replaceWith(element("div", "blank")));
    entry.append(picture);
  } else {
    entry.append(element("div", "blank"));
  }
  const body = element("div", "body");
  const title = element("div", "name");
  title.title = item.name;
  // If the name is too long, the folder is shortened first.
  const folder = item.name.slice(0, item.name.lastIndexOf("/") + 1);
  if (folder) title.append(element("span", "folder", folder));
  title.append(element("span", "file", item.name.slice(folder.length)));
  item.part = element("div");
  body.append(title, item.part);
  entry.append(body);
  return entry;
}

function write(item) {
  if (!item.part) return;
  item.entry.dataset.state = item.state === "done" || item.state === "failed" ? item.state : "open";
  if (item.state === "done") return void item.part.replaceChildren(...labelled(item.result));
  if (item.state === "failed") return void item.part.replaceChildren(element("div", "error", item.why));
  if (item.state === "sending") {
    const bar = element("progress");
    bar.max = 1;
    bar.value = item.sent;
    bar.setAttribute("aria-label", "uploaded");
    return void item.part.replaceChildren(element("div", "state", "uploading"), bar);
  }
  item.part.replaceChildren(element("div", "state", stateOf(item)));
}

function stateOf(item) {
  if (isLocked && (item.state === "waiting" || item.path)) return "waiting for a token";
  if (item.state === "waiting") return item.why ? `waiting: ${item.why}` : "waiting to upload";
  const known = poolOf(item.model);
  return waitingFor(known && known.pool, item.before);
}

function labelled(result) {
  const label = element("div", "label", result.label);
  if (result.cached) {
    const badge = element("span", "badge", "cached");
    badge.title = "the same image was classified before";
    label.append(" ", badge);
  }
  label.append(" ", element("span", "sure", percent(result.confidence)));
  const guesses = element("ul", "guesses");
  for (const guess of result.top) {
    const row = element("li");
    const bar = element("div", "bar");
    bar.style.setProperty("--share", (guess.confidence * 100).toFixed(1));
    row.append(element("span", "", guess.label), element("span", "of", percent(guess.confidence)), bar);
    guesses.append(row);
  }
  return [label, guesses];
}
