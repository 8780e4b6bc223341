// Talks to the server: uploads, results, and the stream of events. The token, where one is wanted, lives in this tab only.

const KEY = "eirs-token";
const wanted = [];

const token = () => sessionStorage.getItem(KEY);

function headers(more, shown) {
  return shown ? { ...more, Authorization: `Bearer ${shown}` } : more;
}

/** Is called when the server wants a token; with what is wrong with the one that it got, if it got one. */
export function onTokenWanted(listener) {
  wanted.push(listener);
}

export function setToken(text) {
  sessionStorage.setItem(KEY, text.trim());
}

/** Whether the answer to a request that showed this token asks for another one. If there is another by now, it is to be tried first. */
function refused(status, text, shown) {
  if (status !== 401 || shown !== token()) return false;
  const why = shown ? problem(status, text) : "";
  wanted.forEach((listener) => listener(why));
  return true;
}

/** What an answer says when it is no result. */
function problem(status, text) {
  try {
    const { detail, title } = JSON.parse(text);
    if (detail || title) return detail || title;
  } catch { /* not ours */ }
  return status === 401 ? "this service needs a token" : `the server answered ${status}`;
}

/**
 * Uploads one image; `onSent` gets the share that is sent.
 * Answers { result } | { pending: path, after: seconds } | { error, again: seconds or undefined } | { locked: true }, when it wants
 * a token that this page has not.
 */
export function upload(file, model, onSent) {
  return new Promise((resolve) => {
    // fetch cannot tell how much of a body has left.
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

/** Asks for a result that was not there yet; answers as `upload`. */
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
  // The server's estimate is for those who count requests; a person wants to see it at once.
  if (status === 202) return { pending: header("location"), after: Math.min(after, 1) };
  const again = status === 401 ? 0 : status === 429 || status === 503 ? after : undefined;
  return { error: problem(status, text), again };
}

/**
 * Follows the server's events. `onEvent(name, data)` hears each, `onState` hears "connecting", "live", "locked" and "lost".
 * Answers a function that tries at once.
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
      } catch { /* it is tried again in any case */ }
      onState(isLocked ? "locked" : failures === 0 ? "connecting" : "lost");
      const pause = Math.min(500 * 2 ** failures, 10_000);
      await new Promise((resolve) => {
        wake = resolve;
        // It may have been asked for while the last try was under way.
        setTimeout(resolve, isAsked ? 0 : pause);
      });
    }
  })();
  addEventListener("online", again);
  return again;
}

/** Longer than the server is ever silent. */
const SILENCE_MS = 15_000;

/** Answers, when it ends, whether that was for lack of a token. */
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
