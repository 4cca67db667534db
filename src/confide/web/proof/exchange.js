/** One request to a verified service, its answer, and the receipt that the service signed about both. */

/** An answer has no good proof: it isn't what the service sent, or was cut off. */
export class ProofFailed extends Error {}

/** One POST. Make it with {@link Exchange.open}. */
export class Exchange {
  /** Where it goes. @type {string} */
  url = "";
  /** What `fetch` takes beside the URL: method, headers, body. @type {{method: string, headers: Record<string, string>, body: Uint8Array<ArrayBuffer>}} */
  init = { method: "POST", headers: {}, body: new Uint8Array() };
  /** Whether the request is encrypted to the workload. */
  sealed = false;

  /**
   * Prepare a request: sealed where the service and the browser can.
   * @param {import("./types.js").Attested} attested
   * @param {string} path  as "/v1/chat/completions"
   * @param {string | Uint8Array} body  the JSON of the request, whose bytes are sent as they are, or sealed
   * @param {{headers?: Record<string, string>, now?: () => number}} [options]  headers: Authorization, for instance
   * @returns {Promise<Exchange>}
   */
  static async open(attested, path, body, options = {}) {
    throw new Error(`not made yet: ${attested} ${path} ${body} ${options}`);
  }

  /**
   * Look at the head of the answer. Whether there is something to check; refusals (status 400 and more) have no receipt
   * that must be looked for, and their body is not sealed.
   * @param {Response} response @returns {boolean} @throws {ProofFailed} there can be no proof of this answer
   */
  answered(response) {
    throw new Error(`not made yet: ${response}`);
  }

  /**
   * Take bytes off the wire, in pieces of any size; give what may be shown (opened, where it was sealed). Of an answer
   * that doesn't stream nothing is given before `finish`.
   * @param {Uint8Array} data @returns {Promise<Uint8Array<ArrayBuffer>>} @throws {ProofFailed} it isn't the answer
   */
  async feed(data) {
    return new Uint8Array(data);
  }

  /**
   * When the wire's last byte was fed: the rest of the plaintext, and what the receipt says. Never rejects: what is wrong
   * with the proof is in `findings`.
   * @param {{fetch?: typeof fetch, now?: number}} [options]
   * @returns {Promise<import("./types.js").Answer & {rest: Uint8Array}>}
   */
  async finish(options = {}) {
    throw new Error(`not made yet: ${options}`);
  }

  /**
   * What is known of an exchange that the user stopped: the receipt is fetched all the same, and is about the bytes that
   * the service wrote.
   * @param {{fetch?: typeof fetch, now?: number}} [options] @returns {Promise<import("./types.js").Answer & {rest: Uint8Array}>}
   */
  async stopped(options = {}) {
    throw new Error(`not made yet: ${options}`);
  }
}

/**
 * Check a receipt against the bytes of its exchange, without any network.
 * @param {import("./types.js").Attested} attested
 * @param {import("./types.js").Kept} kept
 * @param {{now?: number, subject?: string}} [options]
 * @returns {Promise<import("./types.js").Answer>}
 */
export async function checkAnswer(attested, kept, options = {}) {
  throw new Error(`not made yet: ${attested} ${kept} ${options}`);
}
