// The page: where images come from, and who hears of what the server says.

import { follow, onTokenWanted, setToken } from "./api.js";
import * as charts from "./charts.js";
import { dropped, picked, said } from "./files.js";
import * as live from "./live.js";
import * as uploads from "./uploads.js";
import { bytes, plural } from "./words.js";

const at = (id) => document.getElementById(id);
const STATES = { connecting: "connecting", live: "live", locked: "token needed", lost: "no connection, retrying" };

/** What this server shows of the page: both halves, or one. */
const { half } = document.body.dataset;

const chosen = () => (at("models").hidden ? "" : at("model").value);

function take(given, model) {
  if (!given.images.length && !given.folders) return;
  at("folder-said").textContent = said(given);
  uploads.add(given.images, model);
}

async function takeFrom(transfer) {
  if (half === "live") return;
  // Who changes the choice while a folder is read means what comes next.
  const model = chosen();
  const looking = (files) => {
    if (files) at("folder-said").textContent = `Looking through the folder: ${plural(files, "file")} so far.`;
  };
  take(await dropped(transfer, looking), model);
}

for (const id of ["files", "folder"]) {
  at(id).addEventListener("change", (event) => {
    take(picked(event.target.files), chosen());
    // The same file may be chosen once more.
    event.target.value = "";
  });
}
// Phones have no folders to choose.
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
    uploads.tell(data);
  },
  (state) => {
    at("connection").dataset.state = state;
    at("connection").textContent = STATES[state];
    live.connection(state);
    if (state === "live") uploads.unlock();
    uploads.retell();
  },
);

let models = "";
// Without a status of the service, the page itself has what an upload needs.
if (half === "uploads") {
  const known = JSON.parse(document.body.dataset.hints);
  hints(known);
  uploads.tell(known);
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
  // A screen reader says it when it changed, and not with each try.
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
