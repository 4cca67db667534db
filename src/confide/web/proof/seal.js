/** E2EE v2 of the ACI specification with X25519: the client's side. `Exchange` uses it; alone it is of use in tests. */

/** Something can't be sealed, or what came isn't what the service sealed for this request. */
export class SealError extends Error {
  /** @param {"CannotSeal" | "BadKey" | "Forged" | "Truncated"} kind @param {string} message */
  constructor(kind, message) {
    super(message);
    this.kind = kind;
  }
}

/** Seals one request. */
export class Sealer {
  /**
   * @param {import("./types.js").PublicKey} key  from the attested keyset
   * @param {string} path @param {Uint8Array} body
   * @param {{now?: number, random?: (size: number) => Uint8Array}} [options]
   * @returns {Promise<{headers: Record<string, string>, body: Uint8Array<ArrayBuffer>, restored: Uint8Array<ArrayBuffer>, opener: Opener}>}
   */
  static async seal(key, path, body, options = {}) {
    throw new Error(`not made yet: ${key} ${path} ${body} ${options}`);
  }
}

/** Opens one answer: a whole body, or a stream in pieces of any size. After a failure every call fails. */
export class Opener {
  /** The plaintext of a body that isn't streamed. @param {Uint8Array} body @returns {Promise<Uint8Array<ArrayBuffer>>} */
  async whole(body) {
    throw new Error(`not made yet: ${body}`);
  }

  /** The plaintext of the events that these bytes complete. @param {Uint8Array} data @returns {Promise<Uint8Array<ArrayBuffer>>} */
  async feed(data) {
    throw new Error(`not made yet: ${data}`);
  }

  /** Ask whether the answer is complete, when the connection has ended. */
  end() {}
}
