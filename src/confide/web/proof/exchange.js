/**
 * One request to a verified service, its answer, and the receipt that the service signed about both.
 *
 * In the order in which it happens: the request is sealed, where requests are; the answer's head names the same keyset, and
 * encryption where the request was encrypted; every byte of the answer is hashed as it came off the wire, then opened, then
 * given on; the receipt is fetched and checked against both hashes (ACI 7 and 9.3).
 */

import { CheckFailed, Named, concat, utf8 } from "./bytes.js";
import { EventReader } from "./events.js";
import { readObject } from "./json.js";
import { cited, parseReceipt, verifyReceipt } from "./receipt.js";
import { SealError, Sealer, canSeal } from "./seal.js";
import { Sha256 } from "./sha256.js";
import { Ledger } from "./verdict.js";

/** @typedef {import("./types.js").Attested} Attested */
/** @typedef {import("./types.js").Answer} Answer */
/** @typedef {import("./types.js").Kept} Kept */
/** @typedef {{fetch?: typeof fetch, now?: number, wait?: (seconds: number) => Promise<void>}} Finish */

const KEYSET_HEADER = "x-aci-keyset-digest";
const MOST_SESSIONS = 8;
/** Seconds before a receipt that isn't there yet is asked for again: some services store theirs a little later. */
const WAITS = [0, 0.2, 0.5, 1];
const TRANSIENT = [0, 404, 429, 500, 502, 503];

/** An answer has no good proof: it isn't what the service sent, or was cut off. */
export class ProofFailed extends Named {}

/** One POST. Make it with {@link Exchange.open}. */
export class Exchange {
  #attested;
  #path;
  #model;
  #hashed;
  #opener;
  #headers;
  #hash = new Sha256();
  /** @type {Uint8Array[]} */
  #wire = [];
  #events = new EventReader();
  #isStream = false;
  #isDone = false;
  /** @type {string | null} */
  #receiptId = null;
  /** @type {Error | null} */
  #failure = null;

  /**
   * @param {Attested} attested @param {string} path @param {Uint8Array} body @param {Record<string, string>} headers
   * @param {Awaited<ReturnType<typeof Sealer.seal>> | null} sealed
   */
  constructor(attested, path, body, headers, sealed) {
    this.#attested = attested;
    this.#path = path;
    this.#model = modelIn(body);
    this.#hashed = sealed?.restored ?? body;
    this.#opener = sealed?.opener ?? null;
    this.#headers = headers;
    /** Where it goes. */
    this.url = `${attested.baseUrl}${path}`;
    /** Whether the request is encrypted to the workload. */
    this.sealed = sealed !== null;
    /** What `fetch` takes beside the URL. It goes nowhere else, whatever the service answers. */
    this.init = {
      method: "POST",
      headers: { "Content-Type": "application/json", ...headers, ...sealed?.headers },
      body: concat(sealed?.body ?? body),
      redirect: /** @type {"error"} */ ("error"),
    };
  }

  /**
   * Prepare a request: sealed where the verification found a key to seal it to (`attested.sealKey`).
   * @param {Attested} attested
   * @param {string} path  as "/v1/chat/completions"
   * @param {string | Uint8Array} body  the JSON of the request, whose bytes are sent as they are, or sealed
   * @param {{headers?: Record<string, string>, now?: number, random?: (size: number) => Uint8Array}} [options]  headers:
   *     Authorization, for instance; the receipt is fetched with them too
   * @returns {Promise<Exchange>} @throws {SealError} it can't be sealed, so it must not be sent
   */
  static async open(attested, path, body, { headers = {}, ...options } = {}) {
    const bytes = typeof body === "string" ? utf8(body) : body;
    const sealed = attested.sealKey ? await Sealer.seal(attested.sealKey, path, bytes, options) : null;
    return new Exchange(attested, path, bytes, headers, sealed);
  }

  /**
   * Look at the head of the answer: whether there is something to check. Refusals (status 400 and more) are not sealed, and
   * go on as they are.
   * @param {Response} response @returns {boolean} @throws {ProofFailed} there can be no proof of this answer
   */
  answered(response) {
    return this.#remembered(() => {
      const found = response.headers.get(KEYSET_HEADER);
      const expected = this.#attested.established?.keyset_digest;
      if (found !== null && expected && found !== expected) {
        throw new ProofFailed(`the service names the keyset ${found}, and ${expected} was verified: verify again`);
      }
      if (response.status < 200 || (response.status >= 300 && response.status < 400)) {
        throw new ProofFailed(`the service answered ${response.status}, and this page goes nowhere else`);
      }
      if (response.status >= 400) return false;
      if (this.sealed && response.headers.get("x-e2ee-applied")?.toLowerCase() !== "true") {
        throw new ProofFailed("the service answered in clear to an encrypted request");
      }
      this.#receiptId = response.headers.get("x-receipt-id");
      if (!this.#receiptId) throw new ProofFailed("the service gave an answer that has no receipt");
      const type = response.headers.get("content-type") ?? "";
      this.#isStream = type.split(";")[0].trim().toLowerCase() === "text/event-stream";
      return true;
    });
  }

  /**
   * Take bytes off the wire, in pieces of any size; give what may be shown (opened, where it was sealed). Of an answer that
   * doesn't stream nothing is given before {@link finish}.
   * @param {Uint8Array} data @returns {Promise<Uint8Array<ArrayBuffer>>} @throws {ProofFailed} it isn't the answer
   */
  async feed(data) {
    this.#hash.update(data);
    this.#wire.push(data.slice());
    if (!this.#isStream) return new Uint8Array();
    try {
      this.#isDone = this.#events.feed(data).some((event) => event.isDone) || this.#isDone;
      return this.#opener ? await this.#opener.feed(data) : concat(data);
    } catch (wrong) {
      throw this.#fail(wrong);
    }
  }

  /**
   * When the wire's last byte was fed: the rest of the plaintext, and what the receipt says. What is wrong with the proof is
   * in `findings` and `problem`; it doesn't reject.
   * @param {Finish} [options] @returns {Promise<Answer & {rest: Uint8Array}>}
   */
  async finish(options = {}) {
    /** @type {Uint8Array} */
    let rest = new Uint8Array();
    try {
      rest = await this.#rest();
    } catch (wrong) {
      this.#fail(wrong);
    }
    return { ...(await this.#answer(options)), rest };
  }

  /**
   * What is known of an exchange that the user stopped: the receipt is about the bytes that the service wrote, of which the
   * last may not have come.
   * @param {Finish} [options] @returns {Promise<Answer & {rest: Uint8Array}>}
   */
  async stopped(options = {}) {
    return { ...(await this.#answer(options)), rest: new Uint8Array() };
  }

  /** The end of the answer, if it is complete. */
  async #rest() {
    if (!this.#isStream) {
      const body = concat(...this.#wire);
      return this.#opener ? this.#opener.whole(body) : body;
    }
    this.#opener?.end();
    if (this.#events.pending || (!this.#isDone && canSeal(this.#path))) {
      throw new ProofFailed("the stream stopped before its end");
    }
    return new Uint8Array();
  }

  /** @param {Finish} options @returns {Promise<Answer>} */
  async #answer({ fetch: get = fetch, now, wait = waited }) {
    /** @type {Kept} */
    const kept = {
      id: this.#receiptId ?? "",
      sealed: this.sealed,
      model: this.#model,
      request: this.#hashed,
      response: concat(...this.#wire),
      receipt: null,
      sessions: {},
    };
    const ask = (/** @type {string} */ path) => this.#fetched(get, wait, path);
    try {
      if (this.#receiptId) {
        kept.receipt = await ask(`/v1/aci/receipts/${encodeURIComponent(this.#receiptId)}`);
        kept.sessions = await this.#sessions(kept.receipt, ask);
      }
    } catch (wrong) {
      this.#fail(wrong);
    }
    const answer = await checkAnswer(this.#attested, kept, { now, responseDigest: this.#hash.digest() });
    if (answer.receipt && answer.receipt.receipt_id !== this.#receiptId) {
      this.#fail(new ProofFailed("the service gave another receipt than the one that the answer names"));
    }
    if (!this.#failure) return answer;
    return { ...answer, ok: false, consistent: false, problem: this.#failure.message };
  }

  /**
   * The sessions that an aggregator's receipt cites; a receipt that can't be read cites none.
   * @param {Uint8Array} receipt @param {(path: string) => Promise<Uint8Array>} ask
   */
  async #sessions(receipt, ask) {
    /** @type {Record<string, Uint8Array>} */
    const found = {};
    if (this.#attested.established?.serving === "direct") return found;
    let ids;
    try {
      ids = cited(parseReceipt(receipt));
    } catch (wrong) {
      if (wrong instanceof CheckFailed) return found;
      throw wrong;
    }
    for (const id of ids.slice(0, MOST_SESSIONS)) found[id] = await ask(`/v1/aci/sessions/${id}`);
    return found;
  }

  /**
   * A part of a proof, which may come a little late.
   * @param {typeof fetch} get @param {(seconds: number) => Promise<void>} wait @param {string} path
   */
  async #fetched(get, wait, path) {
    let status = 0;
    for (const seconds of WAITS) {
      if (seconds) await wait(seconds);
      const response = await get(`${this.#attested.baseUrl}${path}`, {
        headers: this.#headers,
        cache: "no-store",
        redirect: "error",
      }).catch(() => null);
      if (response?.status === 200) return new Uint8Array(await response.arrayBuffer());
      status = response?.status ?? 0;
      if (!TRANSIENT.includes(status)) break;
    }
    throw new ProofFailed(`a part of the proof can't be had: the service answered ${status || "nothing"}`);
  }

  /** @template T @param {() => T} make @returns {T} */
  #remembered(make) {
    try {
      return make();
    } catch (wrong) {
      throw this.#fail(wrong);
    }
  }

  /** Keep the first failure: no answer is good after it. @param {unknown} wrong @returns {Error} */
  #fail(wrong) {
    const isOurs = wrong instanceof SealError || wrong instanceof CheckFailed;
    const named = isOurs ? new ProofFailed(`the answer is not what the service sent: ${wrong.message}`) : wrong;
    const failure = named instanceof Error ? named : new Error(String(named));
    this.#failure ??= failure;
    return failure;
  }
}

/** @param {number} seconds @returns {Promise<void>} */
const waited = (seconds) => new Promise((done) => void setTimeout(done, 1000 * seconds));

/** @param {Uint8Array} body @returns {string | null} */
function modelIn(body) {
  try {
    const model = readObject(body).get("model");
    return typeof model === "string" ? model : null;
  } catch (wrong) {
    if (wrong instanceof CheckFailed) return null;
    throw wrong;
  }
}

/**
 * Check a receipt against the bytes of its exchange, without any network.
 * @param {Attested} attested @param {Kept} kept
 * @param {{now?: number, subject?: string, responseDigest?: string}} [options]  `now` in Unix seconds; `responseDigest` where
 *     the response was hashed as it came
 * @returns {Promise<Answer>}
 */
export async function checkAnswer(attested, kept, options = {}) {
  const { now = Math.floor(Date.now() / 1000), subject = "", responseDigest } = options;
  const { established, context, verdict } = attested;
  const ledger = new Ledger();
  const digest = (/** @type {Uint8Array | null} */ bytes) => bytes && new Sha256().update(bytes).digest();
  /** @type {{receipt: any, good: boolean}} */
  let read = { receipt: null, good: false };
  if (established && kept.receipt) {
    read = await verifyReceipt(ledger, { ...context, now }, established, kept.receipt, {
      requestDigest: digest(kept.request),
      responseDigest: responseDigest ?? digest(kept.response),
      model: kept.model,
      sessions: kept.sessions,
      subject,
    });
  } else {
    const why = established ? "no receipt was kept" : "the report establishes no keys";
    await ledger.group("receipt", (checks) => checks.skip(1, why), subject);
  }
  return {
    ok: read.good && verdict.ok,
    consistent: read.good,
    development: verdict.development,
    findings: ledger.findings,
    receipt: read.receipt,
    problem: null,
    kept,
  };
}
