// Three small plots of up to the last hour. A row covers ten seconds; if two rows are far apart,
// the plot has a gap.

import { count, duration, plural, rate, stretch } from "./words.js";

const WIDTH = 600;
const HEIGHT = 120;
const SPAN_S = 3600;
/**
 * The minimum span of the plots, which otherwise show as much of the last hour as there is data
 * for.
 */
const LEAST_SPAN_S = 600;
const SVG = "http://www.w3.org/2000/svg";

let rows = [];
let everyS = 10;
let spanS = LEAST_SPAN_S;

/** Sets the past as `{ every_s, columns, rows }`. */
export function begin(timeline) {
  everyS = timeline.every_s;
  rows = timeline.rows.map((row) => Object.fromEntries(timeline.columns.map((name, place) => [name, row[place]])));
  draw();
}

/** Adds the current values, at most one row per step. */
export function add(status) {
  const controller = status.controller;
  if (!controller) return;
  const moment = Math.floor(Date.parse(status.at) / 1000);
  const sum = (key) => controller.pools.reduce((all, pool) => all + (pool[key] || 0), 0);
  const row = {
    at: moment,
    arrivals_per_s: sum("arrivals_per_s"),
    done_per_s: sum("done_per_s"),
    backlog: sum("visible") + sum("in_flight"),
    ready: sum("ready"),
    starting: sum("starting"),
    leaving: sum("leaving"),
    desired: sum("desired"),
  };
  const before = rows[rows.length - 1];
  if (before && before.live && moment - before.since < everyS) {
    // Within a step, keep the maximum of rates and of the backlog. Not of workers: one that was
    // starting and is now ready would count twice.
    for (const key of ["arrivals_per_s", "done_per_s", "backlog"]) row[key] = Math.max(row[key], before[key]);
    Object.assign(before, row);
  } else {
    rows.push({ ...row, live: true, since: moment });
  }
  rows = rows.filter((one) => one.at > moment - SPAN_S);
  draw();
}

draw();

function draw() {
  const end = rows.length ? rows[rows.length - 1].at : 0;
  spanS = rows.length ? Math.min(SPAN_S, Math.max(LEAST_SPAN_S, end - rows[0].at)) : LEAST_SPAN_S;
  // Writing a heading makes screen readers read it again.
  const title = `The last ${stretch(spanS)}`;
  if (document.getElementById("past").textContent !== title) document.getElementById("past").textContent = title;
  const x = (row) => WIDTH - ((end - row.at) / spanS) * WIDTH;
  const most = (...keys) => Math.max(0, ...rows.map((row) => keys.reduce((sum, key) => Math.max(sum, row[key]), 0)));
  const latest = rows[rows.length - 1];

  const top = nice(most("arrivals_per_s", "done_per_s"));
  plot("rates", top, [line("arrivals", "arrivals_per_s", x, top), line("done", "done_per_s", x, top)]);
  label("rates", `arrived ${rate(latest?.arrivals_per_s)}, done ${rate(latest?.done_per_s)}; the most was ${rate(most("arrivals_per_s"))}`);

  const jobs = nice(most("backlog"));
  plot("backlogs", jobs, [area("backlog", (row) => [0, row.backlog], x, jobs)]);
  label("backlogs", `${plural(latest?.backlog, "image")} waiting or in flight; the most was ${count(most("backlog"))}`);

  const workers = nice(Math.max(most("desired"), ...rows.map((row) => row.ready + row.starting + row.leaving)));
  const ready = area("ready", (row) => [0, row.ready], x, workers);
  const moving = area("starting", (row) => [row.ready, row.ready + row.starting + row.leaving], x, workers);
  plot("instances", workers, [ready, moving, line("desired", "desired", x, workers)]);
  label("instances", `${count(latest?.ready)} workers are ready and ${count(latest?.desired)} wanted`);
}

/** Returns the next round number. */
function nice(value) {
  if (value <= 1) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value);
}

/** Splits the rows at gaps, and joins the paths of the parts. */
function stretches(path) {
  const parts = [];
  let part = [];
  for (const row of rows) {
    if (part.length && row.at - part[part.length - 1].at > 6.5 * everyS) {
      parts.push(part);
      part = [];
    }
    part.push(row);
  }
  if (part.length) parts.push(part);
  return parts.map(path).join("");
}

const y = (value, top) => (HEIGHT - (value / top) * HEIGHT).toFixed(1);

function line(name, key, x, top) {
  return [name, stretches((part) => part.map((row, place) => `${place ? "L" : "M"}${x(row).toFixed(1)},${y(row[key], top)}`).join(""))];
}

function area(name, range, x, top) {
  const path = (part) => {
    const upper = part.map((row) => `${x(row).toFixed(1)},${y(range(row)[1], top)}`);
    const lower = part.map((row) => `${x(row).toFixed(1)},${y(range(row)[0], top)}`).reverse();
    return `M${upper.join("L")}L${lower.join("L")}Z`;
  };
  return [name, stretches(path)];
}

function plot(id, top, paths) {
  const make = (name, d) => {
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("class", name);
    path.setAttribute("d", d);
    return path;
  };
  const grid = make("grid", `M0,0H${WIDTH}M0,${HEIGHT / 2}H${WIDTH}M0,${HEIGHT}H${WIDTH}`);
  document.getElementById(id).replaceChildren(grid, ...paths.map(([name, d]) => make(name, d)));
  const axis = document.getElementById(id).nextElementSibling;
  const texts = [stretch(spanS) === "hour" ? "an hour ago" : `${duration(spanS)} ago`, `up to ${count(top)}`, "now"];
  axis.replaceChildren(...texts.map((text) => Object.assign(document.createElement("span"), { textContent: text })));
}

function label(id, text) {
  const described = rows.length ? text : "no data";
  document.getElementById(id).setAttribute("aria-label", `Over the last ${stretch(spanS)}: ${described}.`);
}
