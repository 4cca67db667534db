// What this page asks its server. The key goes into the Authorization header, and nowhere else.

const MOST_ANSWER = 64 * 1024 * 1024;
const PIECE = 4 * 1024;
const MOST_DOCUMENT = 8 * 1024 * 1024;
const STORED = "confide.key";

/** What a server said instead of an answer: its own words, with the status and OpenAI's `type`, `param` and `code`. */
export class ServerError extends Error {
  constructor(status, error = {}, retryAfter = null) {
    super(typeof error.message === "string" && error.message ? error.message : `The server answered ${status}.`);
    this.status = status;
    this.type = text(error.type);
    this.param = text(error.param);
    this.code = text(error.code);
    this.retryAfter = retryAfter;
  }
}

const text = (value) => (typeof value === "string" && value ? value : null);

// The key -------------------------------------------------------------------------------------------------------------

let key = null;

/** Take a key from the address (`#key=`), out of which it goes at once, or from this tab's storage. */
export function findKey() {
  const given = /^#key=(.+)$/.exec(location.hash);
  if (given) {
    history.replaceState(null, "", location.pathname + location.search);
    key = decoded(given[1]);
  } else {
    key = stored((storage) => storage.getItem(STORED));
  }
}

/** Use this key; keep it in the tab's storage only if that was asked for. */
export function useKey(given, { remember }) {
  key = given;
  stored((storage) => (remember ? storage.setItem(STORED, given) : storage.removeItem(STORED)));
}

/** Whether there is one. */
export function hasKey() {
  return key !== null;
}

function decoded(written) {
  try {
    return decodeURIComponent(written);
  } catch {
    return written;
  }
}

function stored(use) {
  try {
    return use(sessionStorage) ?? null;
  } catch {
    return null; // storage is off in this browser: the key lives as long as the page
  }
}

function headers(more = {}) {
  return key === null ? more : { Authorization: `Bearer ${key}`, ...more };
}

// Documents -----------------------------------------------------------------------------------------------------------

const ALWAYS = { cache: "no-store", credentials: "omit", redirect: "error", referrerPolicy: "no-referrer" };

/** The bytes of a document, exactly as they came. Throws a ServerError. */
export async function document(path, { keyed = false } = {}) {
  const answer = await fetch(path, { ...ALWAYS, headers: keyed ? headers() : {} });
  const bytes = await all(answer, MOST_DOCUMENT);
  if (!answer.ok) throw refusal(answer, bytes);
  return bytes;
}

/** What the server says it serves: `data` of `GET /v1/models`. */
export async function models() {
  const value = JSON.parse(new TextDecoder().decode(await document("/v1/models", { keyed: true })));
  return Array.isArray(value.data) ? value.data : [];
}

async function all(answer, most) {
  const bytes = new Uint8Array(await answer.arrayBuffer());
  if (bytes.length > most) throw new RangeError(`The server sent more than ${most} bytes.`);
  return bytes;
}

/** What a refusal says. */
export function refusal(answer, bytes) {
  return new ServerError(answer.status, errorIn(bytes), answer.headers.get("Retry-After"));
}

function errorIn(bytes) {
  try {
    return JSON.parse(new TextDecoder().decode(bytes)).error ?? {};
  } catch {
    return {};
  }
}

// Chat ----------------------------------------------------------------------------------------------------------------

/** What a request of a chat carries beside what proof needs. */
export function chatHeaders() {
  return headers({ "Content-Type": "application/json", Accept: "text/event-stream" });
}

/** Send one request; the answer's head. Throws a TypeError where the server can't be reached. */
export function post(url, init, signal) {
  return fetch(url, { ...ALWAYS, ...init, method: "POST", signal });
}

/** The pieces of an answer's body, as they are read; large ones cut, so that none takes long. */
export async function* pieces(response) {
  const reader = response.body.getReader();
  let size = 0;
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      size += value.length;
      if (size > MOST_ANSWER) throw new RangeError(`The answer has more than ${MOST_ANSWER} bytes.`);
      for (let at = 0; at < value.length; at += PIECE) yield value.subarray(at, at + PIECE);
    }
  } finally {
    reader.cancel().catch(() => {}); // it may have failed already, which its reader was told
  }
}
