// The conversation: whose turn it is, and what each request says.

import { byId, say } from "./dom.js";
import { Follower } from "./frames.js";
import { Talk } from "./talk.js";
import { AnswerTurn, ToolTurn, UserTurn } from "./turns.js";

/** Emits "change" when an answer begins and ends, "settled" when its receipt was checked, and "mistake" (with a sentence in
 * `detail`) where nothing could be sent. */
export class Chat extends EventTarget {
  turns = [];
  running = null;
  #trust;
  #options;
  #model;
  #log = byId("log");
  #follower = new Follower(this.#log);

  /** `model()` gives the id of the model that is chosen. */
  constructor(trust, options, model) {
    super();
    this.#trust = trust;
    this.#options = options;
    this.#model = model;
  }

  /** How many receipts were looked at, and how many of them failed. */
  get receipts() {
    const states = this.turns.map((turn) => turn.receipt?.state).filter((state) => state && state !== "none");
    return { checked: states.length, failed: states.filter((state) => state === "bad").length };
  }

  /** Say something, and have it answered. Whether that could be. */
  send(text, images) {
    if (!this.#maySend()) return false;
    this.#add(new UserTurn(text, images, { edit: (turn, changed) => this.#edit(turn, changed) }));
    this.#answer();
    return true;
  }

  /** Whether the server's checks and the person's settings allow a request now. */
  #maySend() {
    try {
      if (!this.#trust.maySend) throw new Error("Sending is blocked until the checks of this server have passed.");
      this.#options.members();
      return true;
    } catch (wrong) {
      this.dispatchEvent(new CustomEvent("mistake", { detail: wrong.message }));
      return false;
    }
  }

  /** Give up the answer that is coming. */
  stop() {
    this.running?.talk.stop();
  }

  /** Forget everything. */
  clear() {
    this.stop();
    this.#cutFrom(0);
    this.dispatchEvent(new Event("change"));
  }

  #edit(turn, text) {
    if (!this.#maySend()) return;
    this.stop();
    this.#cutFrom(this.turns.indexOf(turn));
    this.send(text, turn.images);
  }

  #regenerate(turn) {
    if (!this.#maySend()) return;
    this.stop();
    this.#cutFrom(this.turns.indexOf(turn));
    this.#answer();
  }

  #cutFrom(at) {
    for (const turn of this.turns.splice(Math.max(0, at))) turn.element.remove();
    byId("welcome").hidden = this.turns.length > 0;
  }

  #add(turn) {
    this.turns.push(turn);
    byId("welcome").hidden = true;
    this.#log.append(turn.element);
    this.#follower.lead();
  }

  async #answer() {
    const talk = new Talk(this.#trust, this.#request());
    const turn = new AnswerTurn(this.#trust, talk, {
      json: this.#options.wantsJson,
      acts: {
        regenerate: (one) => this.#regenerate(one),
        results: (results) => {
          if (!this.#maySend()) return false;
          this.#add(new ToolTurn(results));
          this.#answer();
          return true;
        },
        drawn: () => this.#follower.follow(),
      },
    });
    this.#add(turn);
    this.running = turn;
    this.dispatchEvent(new Event("change"));
    await talk.run(() => turn.grown());
    if (this.running === turn) this.running = null;
    this.dispatchEvent(new Event("change"));
    if (talk.stopped) say("Stopped");
    await turn.end();
    this.dispatchEvent(new Event("settled"));
  }

  #request() {
    const { system } = this.#options;
    const said = this.turns.flatMap((turn) => turn.messages());
    return {
      model: this.#model(),
      messages: system ? [{ role: "system", content: system }, ...said] : said,
      ...this.#options.members(),
      stream: true,
      stream_options: { include_usage: true },
    };
  }
}
