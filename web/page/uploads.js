// The images of this page: each goes up, waits for its label, and shows what becomes of it.

import { ask, upload } from "./api.js";
import { poolOf } from "./live.js";
import { save } from "./save.js";
import { bytes, percent, plural, waitingFor } from "./words.js";

/** A browser opens six connections to a host; one of them holds the events, and one is for asking after results. */
const UPLOADS_AT_ONCE = 4;
const ASKING_AT_ONCE = 2;
/** A page of more thumbnails is slow; the others are shown when asked for. */
const SHOWN = 200;
/** More images than these are a line each, in a part of the page that scrolls by itself. */
const FEW = 12;
const TRIES = 5;
/** From the end of a body to its job in the queue, at most, as a rule. */
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
/** A token is wanted: until there is another one, nothing is sent or asked. */
let isLocked = false;
let shown = SHOWN;
let service = null;

/** Takes files in, each with the name that is shown; what is no image is said, and not sent. */
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

/** The state of the service has changed, and with it the text of a waiting image. */
export function tell(status) {
  service = status;
  const waiting = items.filter((item) => item.state === "queued").sort((one, other) => other.sentAt - one.sentAt);
  const after = {};
  for (const item of waiting) {
    const known = poolOf(item.model);
    if (known && known.pool.visible !== null && item.sentAt + TAKING_IN_MS < known.seenAt) {
      after[item.model] ??= 0;
      const before = known.pool.visible - 1 - after[item.model];
      // Images are taken in the order in which they came: those of others that came later do not count.
      item.before = Math.max(0, Math.min(item.before ?? before, before));
      after[item.model] += 1;
    }
    write(item);
  }
}

/** Shows again what each image waits for. */
export function retell() {
  for (const item of items) if (item.state === "waiting" || item.state === "queued") write(item);
}

export function lock() {
  isLocked = true;
  retell();
}

/** There is another token, and it is tried with everything that waits for one. */
export function unlock() {
  if (!isLocked) return;
  isLocked = false;
  // Of a large upload that is refused a browser may only see that it was cut off.
  for (const item of items) item.tries = 0;
  retell();
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
    // A result that was asked for until it was there comes from the store like a repeated one, but this image was waited for.
    item.result = item.path ? { ...end.result, cached: false } : end.result;
  } else if (end.pending) {
    queued(item);
    item.path = end.pending;
    later(toAsk, item, end.after, lookAfter);
  } else if (end.locked) {
    // Nothing is wrong with the image.
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
  // However many there are, none that failed is overlooked.
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

/** What is known of each image that is done with. */
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
  // Where it is too long, the folder gives way first.
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
