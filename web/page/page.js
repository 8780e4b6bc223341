// Connects the parts of the page: inputs for images, the server's events, and the views.

import { follow, onTokenWanted, setToken } from "./api.js";
import * as charts from "./charts.js";
import { dropped, picked, summaryOf } from "./files.js";
import * as live from "./live.js";
import * as uploads from "./uploads.js";
import { bytes, plural } from "./words.js";

const at = (id) => document.getElementById(id);
const STATES = { connecting: "connecting", live: "live", locked: "token needed", lost: "no connection, retrying" };

/** The halves of the page that this server shows: one of them, or both. */
const { half } = document.body.dataset;

const chosen = () => (at("models").hidden ? "" : at("model").value);

function take(given, model) {
  if (!given.images.length && !given.folders) return;
  at("folder-said").textContent = summaryOf(given);
  uploads.add(given.images, model);
}

async function takeFrom(transfer) {
  if (half === "live") return;
  // A choice of another model while a folder is read applies to later images.
  const model = chosen();
  const looking = (files) => {
    if (files) at("folder-said").textContent = `Looking through the folder: ${plural(files, "file")} so far.`;
  };
  take(await dropped(transfer, looking), model);
}

for (const id of ["files", "folder"]) {
  at(id).addEventListener("change", (event) => {
    take(picked(event.target.files), chosen());
    // Allow the same file to be chosen again.
    event.target.value = "";
  });
}
// Phones cannot choose folders.
for (const part of [at("folder"), ...at("folder").labels]) part.hidden = !("webkitdirectory" in at("folder"));
at("clear").addEventListener("click", () => (at("folder-said").textContent = ""));

let depth = 0;
addEventListener("dragenter", (event) => {
  event.preventDefault();
  depth += 1;
  document.body.classList.toggle("dragging", half !== "live");
});
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("dragleave", () => {
  depth -= 1;
  if (depth <= 0) document.body.classList.remove("dragging");
});
addEventListener("drop", (event) => {
  event.preventDefault();
  depth = 0;
  document.body.classList.remove("dragging");
  takeFrom(event.dataTransfer);
});
addEventListener("paste", (event) => takeFrom(event.clipboardData));

const watch = half === "uploads" ? () => () => {} : follow;
const again = watch(
  (name, data) => {
    if (name === "timeline") charts.begin(data);
    if (name !== "status") return;
    hints(data);
    live.show(data);
    charts.add(data);
    uploads.update(data);
  },
  (state) => {
    at("connection").dataset.state = state;
    at("connection").textContent = STATES[state];
    live.connection(state);
    if (state === "live") uploads.unlock();
    uploads.redraw();
  },
);

let models = "";
// Without a status of the service, the page contains what an upload needs.
if (half === "uploads") {
  const known = JSON.parse(document.body.dataset.hints);
  hints(known);
  uploads.update(known);
}

function hints(status) {
  at("limits").textContent = `, up to ${bytes(status.max_image_bytes)} each`;
  if (status.models.join() === models) return;
  models = status.models.join();
  at("models").hidden = status.models.length < 2;
  const before = at("model").value || "default";
  at("model").replaceChildren(...status.models.map((name) => new Option(name, name, false, name === before)));
}

onTokenWanted((why) => {
  uploads.lock();
  // Write only changes, because a screen reader reads out each write.
  if (at("token-why").textContent !== why) at("token-why").textContent = why;
  if (!at("token-form").hidden) return;
  at("token-form").hidden = false;
  at("token").focus();
});
at("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  setToken(at("token").value);
  at("token").value = "";
  at("token-form").hidden = true;
  at("files").focus();
  again();
  uploads.unlock();
});
