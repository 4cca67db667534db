// One request to the model: sent, read, and checked against the receipt that the server signed about it.

import { Answer } from "./answer.js";
import { chatHeaders, document, pieces, post, refusal, ServerError } from "./api.js";
import { Stint } from "./frames.js";
import { checkAnswer } from "./proof/index.js";
import { EventReader, joined } from "./sse.js";

const CHAT = "/v1/chat/completions";

/** How an exchange went. `settled` is a promise of what its receipt is worth: a {@link Proof}, never rejected. */
export class Talk {
  answer = new Answer();
  /** Why there is no (complete) answer: a ServerError, or any other Error. */
  problem = null;
  stopped = false;
  sealed = false;
  /** How many bytes went out, and came in. */
  sent = 0;
  received = 0;
  status = null;
  receiptId = null;
  #trust;
  #body;
  #exchange = null;
  #keyset = null;
  #abort = new AbortController();

  /** `request` is the value whose JSON is sent. */
  constructor(trust, request) {
    this.#trust = trust;
    this.#body = new TextEncoder().encode(JSON.stringify(request));
  }

  /** Give up: the server is told by a closed connection. */
  stop() {
    this.stopped = true;
    this.#abort.abort();
  }

  /** Send it and read the whole answer; `grown` is called whenever there is more of it. Never rejects. */
  async run(grown) {
    try {
      const response = await this.#sent();
      await this.#read(response, grown);
      if (!this.answer.done) throw new Error("The answer broke off before its end.");
      this.problem = this.answer.error;
    } catch (wrong) {
      if (!this.stopped) this.problem = readable(wrong);
    }
  }

  /** Send it; once more where the server's keys have changed since they were checked, and the new ones are good. */
  async #sent() {
    try {
      return await this.#send();
    } catch (wrong) {
      const checked = this.#trust.attested?.established?.keyset_digest;
      if (this.stopped || !this.#keyset || !checked || this.#keyset === checked) throw wrong;
      await this.#trust.check();
      if (!this.#trust.maySend || this.#trust.attested?.established?.keyset_digest !== this.#keyset) throw wrong;
      return this.#send();
    }
  }

  async #send() {
    const headers = chatHeaders();
    this.#exchange = await this.#trust.open(CHAT, this.#body, headers);
    const { url, init } = this.#exchange ?? { url: CHAT, init: { headers, body: this.#body } };
    this.sealed = this.#exchange?.sealed ?? false;
    this.sent = init.body.length;
    const response = await post(url, init, this.#abort.signal);
    this.status = response.status;
    this.receiptId = response.headers.get("X-Receipt-Id");
    this.#keyset = response.headers.get("X-ACI-Keyset-Digest");
    this.#exchange?.answered(response);
    return response;
  }

  async #read(response, grown) {
    const reader = new EventReader();
    const stint = new Stint();
    const whole = response.ok ? null : [];
    for await (const piece of pieces(response)) {
      this.received += piece.length;
      const opened = this.#exchange ? await this.#exchange.feed(piece) : piece;
      if (whole) whole.push(piece);
      else if (this.#take(reader.feed(opened))) grown();
      if (stint.isLong) await stint.rest();
    }
    if (whole) throw refusal(response, joined(whole));
  }

  #take(events) {
    for (const event of events) this.answer.take(event);
    return events.length > 0;
  }

  /** What the receipt says, once the answer was read: an Answer of proof/, or null where nothing could sign one. */
  async settle() {
    if (!this.#exchange || !this.receiptId) return null;
    if (this.status >= 400) return this.#refused();
    return this.stopped ? this.#exchange.stopped() : this.#exchange.finish();
  }

  /** A refusal has a receipt as well, over its words, which are never sealed. */
  async #refused() {
    const path = `/v1/aci/receipts/${encodeURIComponent(this.receiptId)}`;
    const receipt = await document(path, { keyed: true }).catch(() => null);
    const { kept } = await this.#exchange.finish();
    return checkAnswer(this.#trust.attested, { ...kept, id: this.receiptId, model: null, receipt });
  }
}

function readable(wrong) {
  if (wrong instanceof ServerError || wrong.name === "ProofFailed") return wrong;
  if (wrong instanceof TypeError && /fetch|network|load/i.test(wrong.message))
    return new Error("The server can't be reached.");
  return wrong;
}
