/**
 * E2EE v2 of the ACI specification: the client's side of one request. Seal it, and open its answer.
 *
 * Source: E2EE v2, sections 3 to 7; the fields themselves are in `suites.js`. No version of the protocol numbers the fields of
 * a stream; so what can be seen without that is checked here (no field twice, none after its choice has finished, no end before
 * every choice has finished, no answer without an end), and the rest is what the hash in the signed receipt is for.
 */

import { isPublicKey } from "./aci.js";
import { CheckFailed, concat, fromHex, hasLoneSurrogate, hex, utf8 } from "./bytes.js";
import { random as browserRandom } from "./crypto.js";
import { EventReader, withData } from "./events.js";
import { Numeral, parseExactly } from "./jcs.js";
import { arrayIn, encode, readObject, write } from "./json.js";
import { NONCE_SIZE, SUITES, SealError, TAG_SIZE, binding, newPair, openField, sealField, shortest } from "./suites.js";

export { SealError } from "./suites.js";

/** @typedef {import("./json.js").Members} Members */
/** @typedef {import("./suites.js").Path} Path */
/** @typedef {import("./suites.js").Head} Head */
/** @typedef {import("./suites.js").Pair} Pair */
/** @typedef {import("./suites.js").Suite} Suite */
/** @typedef {import("./suites.js").Randomness} Randomness */
/** @typedef {"plain" | "text" | "some text" | "json" | "rest"} Rule  see the fields below */
/** @typedef {{[name: string]: Rule | Shape} | {each: Shape}} Shape */
/**
 * @typedef {object} Terms  What client and server have agreed on for one request.
 * @property {Suite} suite @property {import("./suites.js").Binding} binding @property {string} model  the request's
 * @property {{member: string, answer: Shape}} endpoint
 */

// Which fields are sealed ----------------------------------------------------------------------------------------------

/*
 * Everything that isn't named here is sealed too: "plain" stays as it is, "text" is a string, "some text" one that is left
 * out when empty, "json" any value as compact JSON, "rest" the same unless it is empty.
 */

/** @param {...string} names @returns {Record<string, Rule>} */
const plain = (...names) => Object.fromEntries(names.map((name) => [name, "plain"]));

const TOP = plain("id", "object", "created", "model", "usage", "service_tier", "system_fingerprint", "error");
const CHOICE = plain("index", "finish_reason", "stop_reason", "matched_stop");
/** @type {Record<string, Rule | Shape>} */
const SPOKEN = {
  ...plain("role", "tool_calls", "function_call"),
  reasoning: "text",
  reasoning_content: "text",
  refusal: "text",
  audio: { data: "text", ...plain("id", "expires_at") },
};
/** @type {Shape} */
const CHAT_CHOICE = { ...CHOICE, message: { ...SPOKEN, content: "text" }, delta: { ...SPOKEN, content: "some text" } };
/** @type {Record<string, {member: string, answer: Shape}>} */
const ENDPOINTS = {
  "/v1/chat/completions": { member: "messages", answer: { ...TOP, choices: { each: CHAT_CHOICE } } },
  "/v1/completions": { member: "prompt", answer: { ...TOP, choices: { each: { ...CHOICE, text: "text" } } } },
  "/v1/embeddings": {
    member: "input",
    answer: { ...TOP, data: { each: { ...plain("index", "object"), embedding: "json" } } },
  },
};

/** Whether a path's bodies have sealed fields. @param {string} path */
export function canSeal(path) {
  return Object.hasOwn(ENDPOINTS, path);
}

// A request ------------------------------------------------------------------------------------------------------------

/** Seals requests. */
export class Sealer {
  /**
   * Seal a request, with a new key pair for its answer.
   * @param {import("./types.js").PublicKey} key  from the attested keyset
   * @param {string} path @param {Uint8Array} body  its JSON
   * @param {{now?: number, random?: Randomness}} [options]  `now` in Unix seconds
   * @returns {Promise<{headers: Record<string, string>, body: Uint8Array<ArrayBuffer>, restored: Uint8Array<ArrayBuffer>, opener: Opener}>}
   *     `restored` is the plaintext as the service restores it and as receipts hash it
   * @throws {SealError} CannotSeal: the request has nothing to encrypt, or the endpoint no encryption; BadKey
   */
  static async seal(key, path, body, { now = Math.floor(Date.now() / 1000), random = browserRandom } = {}) {
    if (!canSeal(path)) throw new SealError("CannotSeal", `Encryption is not defined for ${path}.`);
    const suite = Object.hasOwn(SUITES, key.algo) ? SUITES[key.algo] : null;
    if (suite === null || !isPublicKey(key)) throw new SealError("BadKey", "no key that messages can be sealed to");
    const endpoint = ENDPOINTS[path];
    const payload = readRequest(body);
    const model = payload.get("model");
    if (typeof model !== "string") {
      throw new SealError("CannotSeal", "The request names no model that it could be bound to.");
    }
    const recipient = fromHex(key.public_key, "the service's key");
    const pair = await newPair(suite, random);
    const nonce = hex(random(32));
    const terms = { suite, binding: binding(suite.algo, nonce, now), model, endpoint };
    const sealed = await sealFields(endpoint.member, payload, async (at, text) => {
      if (hasLoneSurrogate(text)) throw new SealError("CannotSeal", `${at.join(".")} is no text that UTF-8 can hold.`);
      return sealField(suite, recipient, text, terms.binding.request(model, at), random).catch(() => {
        throw new SealError("BadKey", "the service's key can't be used");
      });
    });
    const headers = {
      "X-E2EE-Version": "2",
      "X-Client-Pub-Key": hex(pair.point),
      "X-Model-Pub-Key": key.public_key,
      "X-E2EE-Nonce": nonce,
      "X-E2EE-Timestamp": String(now),
    };
    return { headers, body: encode(sealed), restored: encode(payload), opener: new Opener(terms, pair) };
  }

  /**
   * What opens an answer, from the parts of its request; for tests, and for who kept them.
   * @param {string} path @param {Omit<Terms, "endpoint">} terms @param {Pair} pair
   */
  static openerOf(path, terms, pair) {
    return new Opener({ ...terms, endpoint: ENDPOINTS[path] }, pair);
  }
}

/** @param {Uint8Array} body */
function readRequest(body) {
  try {
    return readObject(body);
  } catch (wrong) {
    if (wrong instanceof CheckFailed) throw new SealError("CannotSeal", "The request isn't a JSON object.");
    throw wrong;
  }
}

/**
 * A copy with every field sealed, contents as a whole so that not even the kinds of their parts show.
 *
 * Where a string is the JSON of an array, the receiver would restore an array; so `body` itself is changed to say the same as
 * a list with one text part. Afterwards it is what the receiver restores.
 * @param {string} member @param {Members} body @param {(path: Path, text: string) => Promise<string>} seal @returns {Promise<Members>}
 */
async function sealFields(member, body, seal) {
  const sealed = new Map(body);
  const value = body.get(member);
  let done = false;
  if (member === "messages" && Array.isArray(value)) {
    const messages = [];
    for (const [index, message] of value.entries()) messages.push(await sealMessage(message, index, seal));
    sealed.set(member, messages);
    done = messages.some((message, index) => message !== value[index]);
  } else if (Array.isArray(value)) {
    const entries = [];
    for (const [place, entry] of value.entries()) {
      if (typeof entry !== "string") throw new SealError("CannotSeal", "Token ids can't be encrypted; send the text.");
      entries.push(await seal([member, place], entry));
    }
    sealed.set(member, entries);
    done = value.length > 0;
  } else if (member !== "messages" && typeof value === "string") {
    sealed.set(member, await seal([member], value));
    done = true;
  }
  if (!done) throw new SealError("CannotSeal", `The request has no ${member} that can be encrypted.`);
  return sealed;
}

/** @param {any} message @param {number} index @param {(path: Path, text: string) => Promise<string>} seal */
async function sealMessage(message, index, seal) {
  if (!(message instanceof Map) || (message.get("content") ?? null) === null) return message;
  const given = message.get("content");
  if (typeof given === "string" && arrayIn(given) !== null) {
    message.set("content", [
      new Map([
        ["type", "text"],
        ["text", given],
      ]),
    ]);
  }
  const content = message.get("content");
  if (typeof content !== "string" && !Array.isArray(content)) {
    throw new SealError("CannotSeal", `messages[${index}].content is neither a string nor a list.`);
  }
  const text = typeof content === "string" ? content : write(content);
  return new Map(message).set("content", await seal(["messages", index, "content"], text));
}

// An answer ------------------------------------------------------------------------------------------------------------

const DROPPED = Symbol("a member that is left out");

/** Opens one answer: a whole body, or a stream in pieces of any size. After a failure every call fails. */
export class Opener {
  #terms;
  #pair;
  #events = new EventReader();
  #seen = new Set();
  #unfinished = new Set();
  #finished = new Set();
  #error = false;
  #ended = false;
  #failed = false;

  /** @param {Terms} terms @param {Pair} pair */
  constructor(terms, pair) {
    this.#terms = terms;
    this.#pair = pair;
  }

  /**
   * The plaintext of a body that isn't streamed.
   * @param {Uint8Array} body @returns {Promise<Uint8Array<ArrayBuffer>>}
   * @throws {SealError}
   */
  async whole(body) {
    return this.#step(async () => {
      this.#ended = true;
      return this.#opened(body);
    });
  }

  /**
   * The plaintext of the events that these bytes complete.
   * @param {Uint8Array} data @returns {Promise<Uint8Array<ArrayBuffer>>}
   * @throws {SealError}
   */
  async feed(data) {
    return this.#step(async () => {
      const out = [];
      for (const event of this.#events.feed(data)) out.push(await this.#event(event));
      return concat(...out);
    });
  }

  /**
   * Ask whether the answer is complete, when the connection has ended. Whoever reads a stream must ask.
   * @throws {SealError} it isn't
   */
  end() {
    if (this.#failed) throw new SealError("Forged", "The answer has failed before.");
    if (!(this.#ended || this.#error) || this.#events.pending) {
      this.#failed = true;
      throw new SealError("Truncated", "The stream stopped before its end.");
    }
  }

  /** @template T @param {() => Promise<T>} make @returns {Promise<T>} */
  async #step(make) {
    if (this.#failed) throw new SealError("Forged", "The answer has failed before.");
    this.#failed = true; // until the step is complete
    let made;
    try {
      made = await make();
    } catch (wrong) {
      if (wrong instanceof SealError) throw wrong;
      throw new SealError("Forged", "The answer isn't well-formed.");
    }
    this.#failed = false;
    return made;
  }

  /** @param {import("./events.js").Event} event @returns {Promise<Uint8Array>} */
  async #event(event) {
    if (event.data === null) return event.raw;
    if (this.#ended) throw new SealError("Forged", "Data follows the end of the stream.");
    if (!event.isDone) return withData(event, await this.#opened(event.data));
    if (this.#unfinished.size && !this.#error) {
      throw new SealError("Truncated", "The stream ended before all of its choices had finished.");
    }
    this.#ended = true;
    return withData(event, utf8("[DONE]"));
  }

  /** @param {Uint8Array} text */
  async #opened(text) {
    const answer = readObject(text);
    const [id, model] = ["id", "model"]
      .map((name) => answer.get(name))
      .map((one) => (typeof one === "string" ? one : ""));
    this.#error ||= (answer.get("error") ?? null) !== null;
    this.#checkOrder(answer.get("choices"));
    await this.#replace(this.#terms.endpoint.answer, answer, { id, model }, []);
    return encode(answer);
  }

  /** @param {any} choices */
  #checkOrder(choices) {
    for (const [place, choice] of (Array.isArray(choices) ? choices : []).entries()) {
      if (!(choice instanceof Map)) throw new SealError("Forged", "A choice isn't an object.");
      const name = nameOf(choice, place, -Infinity);
      if (this.#finished.has(name)) throw new SealError("Forged", `Choice ${name} goes on after it has finished.`);
      this.#unfinished.add(name);
      if ((choice.get("finish_reason") ?? null) === null) continue;
      this.#unfinished.delete(name);
      this.#finished.add(name);
    }
  }

  /**
   * Open every member that isn't plain or null, in place.
   * @param {any} shape @param {Members} node @param {Head} head @param {Path} path
   */
  async #replace(shape, node, head, path) {
    for (const [name, value] of [...node]) {
      const rule = Object.hasOwn(shape, name) ? shape[name] : "rest";
      if (value === null || rule === "plain") continue;
      const opened = await this.#replaced(rule, value, head, [...path, name]);
      if (opened === DROPPED) node.delete(name);
      else node.set(name, opened);
    }
  }

  /** @param {any} rule @param {any} value @param {Head} head @param {Path} path @returns {Promise<any>} */
  async #replaced(rule, value, head, path) {
    if (rule.each && Array.isArray(value)) {
      const entries = [];
      for (const [place, entry] of value.entries())
        entries.push(await this.#entry(rule.each, place, entry, head, path));
      return entries;
    }
    if (typeof rule !== "string" && !rule.each && value instanceof Map) {
      await this.#replace(rule, value, head, path);
      return value;
    }
    return this.#field(head, path, typeof rule === "string" ? /** @type {Rule} */ (rule) : "rest", value);
  }

  /** @param {Shape} shape @param {number} place @param {any} entry @param {Head} head @param {Path} path */
  async #entry(shape, place, entry, head, path) {
    if (entry instanceof Map) {
      await this.#replace(shape, entry, head, [...path, nameOf(entry, place, 0)]);
      return entry;
    }
    const opened = await this.#field(head, [...path, place], "rest", entry);
    return opened === DROPPED ? null : opened;
  }

  /** @param {Head} head @param {Path} path @param {Rule} rule @param {any} value */
  async #field(head, path, rule, value) {
    if (rule === "some text" && value === "") return value;
    if (rule === "rest" && !this.#looksSealed(value)) return isEmpty(value) ? value : DROPPED;
    if (typeof value !== "string") throw new SealError("Forged", `${path.join(".")} isn't encrypted.`);
    const plaintext = await this.#open(value, head, path);
    return rule === "text" || rule === "some text" ? plaintext : parseExactly(utf8(plaintext));
  }

  /** @param {string} value @param {Head} head @param {Path} path */
  async #open(value, head, path) {
    const { suite, binding: bound, model } = this.#terms;
    const opened = await openField(suite, this.#pair, value, bound.response(model, head, path)).catch(() => {
      throw new SealError("Forged", `${path.join(".")} isn't what the service encrypted for this request.`);
    });
    const rest = value.slice(2 * suite.size).toLowerCase(); // a point can be written in two ways
    const unique = rest.slice(0, 2 * NONCE_SIZE) + rest.slice(-2 * TAG_SIZE);
    if (this.#seen.has(unique)) throw new SealError("Forged", `${path.join(".")} repeats a field.`);
    this.#seen.add(unique);
    return opened;
  }

  /** @param {any} value */
  #looksSealed(value) {
    return typeof value === "string" && value.length >= shortest(this.#terms.suite) && /^[0-9a-f]*$/.test(value);
  }
}

/**
 * How an entry of a list is called: by its `index`, or else by its place.
 * @param {Members} entry @param {number} place @param {number} least
 */
function nameOf(entry, place, least) {
  const index = entry.get("index");
  return index instanceof Numeral && index.isInteger && index.value >= least ? index.value : place;
}

/** @param {any} value */
function isEmpty(value) {
  return value === "" || (Array.isArray(value) && !value.length) || (value instanceof Map && !value.size);
}
