// What the page asks the server: JSON and streams of events, with the key that the server wants.

import { keepText, textOf } from "./store.js";

const KEY = ["sessionStorage", "starchat.key"];
let askForKey = async () => null;
let asking = null; // the user, for a key

/** What the server, or the way to it, answered instead. */
export class ServerError extends Error {
  constructor(message, { status = 0, code = null, param = null } = {}) {
    super(message);
    Object.assign(this, { status, code, param });
  }
}

/** Set what asks the user for a key; it is given whether one was refused. */
export function onKeyWanted(ask) {
  askForKey = ask;
}

/** Return whether there is a key to send. */
export function hasKey() {
  return textOf(...KEY) !== null;
}

/** Return the answer to a request; a body makes it a POST. Asks for a key where one is wanted. */
export async function ask(path, body, signal) {
  for (;;) {
    const key = textOf(...KEY);
    const headers = key ? { Authorization: `Bearer ${inBytes(key)}` } : {};
    const options = { headers, signal, cache: "no-store" };
    if (body !== undefined) {
      headers["Content-Type"] = "application/json";
      Object.assign(options, { method: "POST", body: JSON.stringify(body) });
    }
    let response;
    try {
      response = await fetch(`ui/${path}`, options);
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ServerError("The server cannot be reached. Does it still run?");
    }
    if (response.ok) return response;
    if (response.status !== 401) throw await errorOf(response);
    if (textOf(...KEY) !== key) continue; // given meanwhile
    asking ??= askForKey(key !== null).finally(() => { asking = null; });
    const given = await asking;
    if (given === null) throw await errorOf(response);
    keepText(...KEY, given);
  }
}

/** Return a text as a header can have it: fetch() refuses letters beyond Latin 1. */
function inBytes(text) {
  return String.fromCharCode(...new TextEncoder().encode(text));
}

/** Yield the data of each event of a stream; fail where it ends before its last one. */
export async function* events(response) {
  let rest = "";
  let ended = false;
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        if (!line.startsWith("data: ") || line === "data: [DONE]") continue;
        const data = JSON.parse(line.slice(6));
        if (data.error) throw new ServerError(data.error.message, data.error);
        ended = data.end !== undefined;
        yield data;
      }
    }
  } catch (error) {
    if (error.name === "AbortError" || error instanceof ServerError) throw error;
    throw new ServerError("The connection broke off.");
  } finally {
    reader.cancel().catch(() => {});
  }
  if (!ended) throw new ServerError("The connection ended before the reply did.");
}

async function errorOf(response) {
  let error = {};
  try {
    error = (await response.json()).error ?? {};
  } catch {
    // no JSON: a proxy's page
  }
  const message = error.message ?? `The server answered ${response.status}.`;
  return new ServerError(message, { ...error, status: response.status });
}
