// Formats numbers and times for people. Nothing here accesses the page.

const numbers = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

/** Formats a count, or a dash if it is unknown. */
export function count(value) {
  return value === null || value === undefined ? "\u2013" : numbers.format(value);
}

export function plural(number, noun) {
  return `${count(number)} ${noun}${number === 1 ? "" : "s"}`;
}

/** Formats a rate per second, or per minute if it is low. */
export function rate(perSecond) {
  if (!(perSecond > 0)) return "0/s";
  if (perSecond >= 10) return `${count(Math.round(perSecond))}/s`;
  if (perSecond >= 1) return `${perSecond.toFixed(1)}/s`;
  return `${(perSecond * 60).toFixed(perSecond >= 1 / 6 ? 0 : 1)}/min`;
}

/** Formats a duration: 8 s, 3 min, 2 h 5 min. */
export function duration(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 90) return `${whole} s`;
  const minutes = Math.floor(whole / 60);
  if (minutes < 90) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours} h ${minutes % 60} min` : `${Math.floor(hours / 24)} days`;
}

export function money(usd) {
  if (usd === null || usd === undefined) return "\u2013";
  if (usd === 0) return "$0";
  if (usd < 0.0001) return "< $0.0001";
  return usd < 0.01 ? `$${usd.toPrecision(2)}` : `$${usd.toFixed(2)}`;
}

export function bytes(size) {
  const mib = size / 1024 / 1024;
  return mib >= 1 ? `${numbers.format(mib)} MiB` : `${numbers.format(Math.max(1, size / 1024))} KiB`;
}

/** Formats a share between 0 and 1. */
export function percent(share) {
  const value = share * 100;
  return value >= 99.95 || value === 0 ? `${value.toFixed(0)} %` : `${value.toFixed(value < 10 ? 1 : 0)} %`;
}

/** Formats the span of the plots, to follow "the last". */
export function stretch(seconds) {
  const minutes = Math.floor(seconds / 60);
  return minutes >= 59 ? "hour" : `${minutes} minutes`;
}

/**
 * Returns the state of an uploaded image without a label. `pool` is null if the state of its
 * workers is unknown; `before` is the approximate number of images before it, or null if the queue
 * was not observed since it arrived.
 */
export function waitingFor(pool, before) {
  if (!pool) return "waiting for its label";
  // The image was observed in the queue, which is now empty, so a worker has it.
  if (before !== null && pool.visible === 0 && pool.in_flight > 0) return "classifying";
  if (!pool.ready) {
    const delay = pool.learnt && pool.learnt.start_delay_s;
    if (pool.starting) return delay > 2 ? `starting a worker (usually ${duration(delay)})` : "starting a worker";
    return pool.paused ? "waiting: the pool is paused" : "waiting for a worker";
  }
  return before > 0 ? `waiting behind about ${plural(before, "image")}` : "waiting for its label";
}
