// The current state of the service: figures, fleet, decisions. Drawn from each event, which the
// server sends when something changed.

import { count, duration, money, plural, rate } from "./words.js";

const at = (id) => document.getElementById(id);
/** Maximum number of instances that are drawn one by one; the others are counted. */
const MOST_SHOWN = 120;
/** A controller that makes no pass for this many ticks counts as stopped. */
const SILENT_TICKS = 5;

const ORDER = ["ready", "starting", "draining", "drained", "stopping", "stopped"];
const WORDS = { drained: "leaving" };

let last = null;
/**
 * The server's clock minus the browser's, in milliseconds. Ages are computed with the server's
 * clock.
 */
let skew = 0;
/** The time of the last event, by the browser's clock, if the connection is lost. */
let lostAt = null;
let heardAt = null;

export function show(status) {
  last = status;
  heardAt = new Date();
  skew = Date.parse(status.at) - Date.now();
  at("version").textContent = `EIRS ${status.version} on ${status.host}`;
  draw();
}

/** Sets the state of the connection. */
export function connection(state) {
  if (state !== "connecting") lostAt = state === "live" ? null : heardAt;
  if (last) draw();
}

/**
 * Returns the pool of a model, and when the controller observed it, by the browser's clock. Returns
 * null if there is no current data.
 */
export function poolOf(model) {
  const controller = last && last.controller;
  if (lostAt || !controller || isSilent(controller)) return null;
  const pool = controller.pools.find((one) => one.model === (model || "default"));
  return pool ? { pool, seenAt: Date.parse(controller.at) - skew } : null;
}

function isSilent(controller) {
  return (now() - Date.parse(controller.at)) / 1000 > SILENT_TICKS * seconds(controller.tick) + 10;
}

// Ages increase even without events.
setInterval(() => last && draw(), 1000);

const now = () => Date.now() + skew;

function draw() {
  const controller = last.controller;
  notice(controller);
  const pools = controller ? controller.pools : [];
  const known = (key) => pools.map((pool) => pool[key]).filter((value) => value !== null && value !== undefined);
  const sum = (values) => (values.length ? values.reduce((one, other) => one + other, 0) : null);
  const [visible, held] = [sum(known("visible")), sum(known("in_flight"))];
  figure("arrivals", controller && rate(sum(known("arrivals_per_s")) || 0));
  figure("done", controller && rate(sum(known("done_per_s")) || 0));
  figure("backlog", visible === null ? null : count(visible + held), held ? `${count(held)} with workers` : "");
  const [ready, starting, leaving] = ["ready", "starting", "leaving"].map((key) => sum(known(key)) || 0);
  const moving = [starting && `${count(starting)} starting`, leaving && `${count(leaving)} leaving`].filter(Boolean);
  figure("workers", controller && count(ready), moving.join(", ") || (controller ? "ready" : ""));
  const today = pools.map((pool) => pool.today);
  const of = (key) => sum(today.map((usage) => usage[key]).filter((value) => value !== null && value !== undefined));
  const [cost, images, hours] = [of("cost_usd"), of("images"), of("instance_hours")];
  figure("cost", money(cost), hours === null ? "" : `${hours.toFixed(1)} instance hours`);
  figure("cost-1000", cost !== null && images ? money((cost / images) * 1000) : null, images === null ? "" : `${plural(images, "image")} today`);
  fleet(pools);
  decisions(controller ? controller.decisions : []);
}

function figure(id, value, detail = "") {
  const small = document.createElement("small");
  small.textContent = detail;
  at(id).replaceChildren(value || "\u2013", small);
}

/** Shows the problems of the service as a whole. */
function notice(controller) {
  const sentences = [];
  if (lostAt) return void tell([`No connection to the server since ${lostAt.toLocaleTimeString()}: the data below is old.`]);
  if (last.draining) sentences.push("This server is shutting down.");
  if (!controller) {
    sentences.push("No controller is running on this host: no data about the fleet here.");
  } else {
    if (isSilent(controller)) {
      const since = new Date(controller.at).toLocaleTimeString();
      sentences.push(`No news from the controller since ${since}: the data about the fleet is old.`);
    }
    sentences.push(...controller.policy_errors, ...controller.problems);
    if (controller.operator_error) sentences.push(controller.operator_error);
  }
  tell(sentences);
}

function tell(sentences) {
  const box = at("controller");
  const text = sentences.join("\n");
  box.hidden = !text;
  // Write only changes, because a screen reader reads out each write.
  if (box.textContent !== text) box.textContent = text;
}

/** Parses a duration as in the settings, such as `1m 30s`. */
function seconds(text) {
  const units = { ms: 0.001, s: 1, m: 60, h: 3600, day: 86400, days: 86400 };
  return [...String(text).matchAll(/(\d+)\s*([a-z]+)/g)].reduce((sum, [, number, unit]) => sum + number * (units[unit] || 0), 0);
}

function fleet(pools) {
  if (!pools.length) return;
  at("fleet").replaceChildren(...pools.map(drawPool));
}

function drawPool(pool) {
  const box = document.createElement("div");
  box.className = "pool";
  const title = line("why", "");
  const name = document.createElement("strong");
  name.textContent = pool.name;
  title.append(name, `: ${pool.reason}${pool.paused ? " (paused)" : ""}`);
  const instances = [...pool.instances].sort((one, other) => ORDER.indexOf(one.state) - ORDER.indexOf(other.state));
  const chips = document.createElement("ul");
  chips.setAttribute("aria-label", `instances of ${pool.name}`);
  const stopped = instances.filter((instance) => instance.state === "stopped" && !trouble(instance));
  const shown = instances.filter((instance) => !stopped.includes(instance)).slice(0, MOST_SHOWN);
  chips.append(...shown.map(chip));
  const hidden = instances.length - stopped.length - shown.length;
  if (hidden) chips.append(chipOf("ready", `and ${count(hidden)} more`));
  if (stopped.length) chips.append(chipOf("stopped", `${count(stopped.length)} stopped`));
  box.append(title, chips);
  for (const instance of instances.filter(trouble).slice(0, 5)) {
    box.append(line("error", `${instance.id}: ${trouble(instance)}`));
  }
  return box;
}

function trouble(instance) {
  if (instance.cordoned) return "cordoned";
  if (instance.refused) return `refused to ${instance.refused.verb}: ${instance.refused.error}`;
  return instance.crashes > 0 ? instance.last_error || "crashed" : "";
}

function chip(instance) {
  const word = WORDS[instance.state] || instance.state;
  const held = instance.in_flight > 0 ? `, ${plural(instance.in_flight, "image")}` : "";
  const made = chipOf(instance.state, `${instance.id} ${word} ${duration((now() - Date.parse(instance.since)) / 1000)}${held}`);
  made.classList.toggle("trouble", trouble(instance) !== "");
  return made;
}

function chipOf(state, text) {
  const made = document.createElement("li");
  made.dataset.state = state;
  made.textContent = text;
  return made;
}

function line(className, text) {
  const made = document.createElement("p");
  made.className = className;
  made.textContent = text;
  return made;
}

function decisions(all) {
  if (!all.length) return;
  const latest = [...all].reverse();
  at("decisions").replaceChildren(
    ...latest.map((decision) => {
      const entry = document.createElement("li");
      const time = document.createElement("time");
      time.dateTime = decision.at;
      time.textContent = new Date(decision.at).toLocaleTimeString();
      const done = decision.actions.length ? ` \u2192 ${decision.actions.join(", ")}` : "";
      const paused = decision.paused ? " (paused, not done)" : "";
      entry.append(time, ` ${decision.pool}: ${decision.reason}${done}${paused}`);
      return entry;
    }),
  );
}
