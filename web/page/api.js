// The client of the server's API: uploads, results, and the stream of events. The token, if one is
// needed, is kept in this tab only.

const KEY = "eirs-token";
const wanted = [];

const token = () => sessionStorage.getItem(KEY);

function headers(more, shown) {
  return shown ? { ...more, Authorization: `Bearer ${shown}` } : more;
}

/**
 * Registers a listener that is called when the server requires a token. It gets the reason why the
 * previous token was refused, or an empty string if none was sent.
 */
export function onTokenWanted(listener) {
  wanted.push(listener);
}

export function setToken(text) {
  sessionStorage.setItem(KEY, text.trim());
}

/**
 * Returns whether the server refused the token `shown` of this request. If the token has changed
 * since, returns false, so that the new one is tried first.
 */
function refused(status, text, shown) {
  if (status !== 401 || shown !== token()) return false;
  const why = shown ? problem(status, text) : "";
  wanted.forEach((listener) => listener(why));
  return true;
}

/** Returns the error message of a response. */
function problem(status, text) {
  try {
    const { detail, title } = JSON.parse(text);
    if (detail || title) return detail || title;
  } catch { /* not JSON */ }
  return status === 401 ? "this service needs a token" : `the server answered ${status}`;
}

/**
 * Uploads one image; calls `onSent` with the share of the body that was sent. Resolves to
 * { result }, { pending: path, after: seconds }, { error, again: seconds or undefined }, or
 * { locked: true } if the server requires a token that this page does not have.
 */
export function upload(file, model, onSent) {
  return new Promise((resolve) => {
    // fetch does not report the progress of an upload.
    const request = new XMLHttpRequest();
    const query = new URLSearchParams({ wait: "2s", top: "5", ...(model ? { model } : {}) });
    const shown = token();
    request.open("POST", `/upload?${query}`);
    for (const [name, value] of Object.entries(headers({ Accept: "application/json" }, shown))) request.setRequestHeader(name, value);
    request.upload.onprogress = (event) => event.lengthComputable && onSent(event.loaded / event.total);
    request.onload = () => resolve(answer(request.status, request.responseText, (name) => request.getResponseHeader(name), shown));
    request.onerror = () => resolve({ error: "the server cannot be reached", again: 2 });
    const form = new FormData();
    form.append("myfile", file, file.name || "pasted image");
    request.send(form);
  });
}

/** Asks for a pending result; resolves to the same values as `upload`. */
export async function ask(path) {
  const shown = token();
  try {
    const response = await fetch(path, { headers: headers({ Accept: "application/json" }, shown), cache: "no-store" });
    const text = await response.text();
    const end = answer(response.status, text, (name) => response.headers.get(name), shown);
    return end.again === undefined ? end : { pending: path, after: end.again };
  } catch {
    return { pending: path, after: 2 };
  }
}

function answer(status, text, header, shown) {
  if (refused(status, text, shown)) return { locked: true };
  const after = Number(header("retry-after")) || 1;
  if (status === 200) {
    try {
      return { result: JSON.parse(text) };
    } catch {
      return { error: "the server's response cannot be read" };
    }
  }
  // The server's estimate is for clients with a limited rate; a person expects the result at once.
  if (status === 202) return { pending: header("location"), after: Math.min(after, 1) };
  const again = status === 401 ? 0 : status === 429 || status === 503 ? after : undefined;
  return { error: problem(status, text), again };
}

/**
 * Follows the server's events. Calls `onEvent(name, data)` for each, and `onState` with
 * "connecting", "live", "locked" or "lost". Returns a function that reconnects at once.
 */
export function follow(onEvent, onState) {
  let wake = () => {};
  let isAsked = false;
  const again = () => {
    isAsked = true;
    wake();
  };
  (async () => {
    for (let failures = 0; ; failures += 1) {
      isAsked = false;
      let isLocked = false;
      try {
        isLocked = await read(onEvent, () => {
          failures = 0;
          onState("live");
        });
      } catch { /* retried below */ }
      onState(isLocked ? "locked" : failures === 0 ? "connecting" : "lost");
      const pause = Math.min(500 * 2 ** failures, 10_000);
      await new Promise((resolve) => {
        wake = resolve;
        // A reconnect may have been requested during the last attempt.
        setTimeout(resolve, isAsked ? 0 : pause);
      });
    }
  })();
  addEventListener("online", again);
  return again;
}

/** Longer than the server's interval between keep-alives. */
const SILENCE_MS = 15_000;

/** Reads events until the stream ends. Resolves to whether it ended for lack of a token. */
async function read(onEvent, onOpen) {
  const stop = new AbortController();
  let timer;
  const alive = () => {
    clearTimeout(timer);
    timer = setTimeout(() => stop.abort(), SILENCE_MS);
  };
  alive();
  const shown = token();
  try {
    // EventSource cannot send a token.
    const response = await fetch("/events", { headers: headers({ Accept: "text/event-stream" }, shown), cache: "no-store", signal: stop.signal });
    if (!response.ok) return refused(response.status, await response.text(), shown);
    onOpen();
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return false;
      alive();
      text += value;
      const events = text.split("\n\n");
      text = events.pop();
      for (const event of events) dispatch(event, onEvent);
    }
  } finally {
    clearTimeout(timer);
    stop.abort();
  }
}

function dispatch(event, onEvent) {
  let name = "message";
  let data = "";
  for (const line of event.split("\n")) {
    if (line.startsWith("event: ")) name = line.slice(7);
    if (line.startsWith("data: ")) data += line.slice(6);
  }
  if (data) onEvent(name, JSON.parse(data));
}
