// What this page knows about its server: one attestation after the other, what follows from it, and what a person
// decided in spite of it.

import { document as fetched } from "./api.js";
import { attest, Exchange, firstUsePolicy, PolicyError, verifySaved } from "./proof/index.js";

const ROOTS = "/page/development-roots.pem";
const PINNED = "confide.policy";

/** How a verdict is called here, by its exit code, and in which colour. */
const STATES = {
  0: { state: "good", word: "Verified, first use" },
  1: { state: "bad", word: "Failed" },
  2: { state: "open", word: "Not enough evidence" },
  3: { state: "development", word: "Development root" },
  5: { state: "open", word: "Not enough evidence" },
};

/** Emits "change" whenever something about it did. */
export class Trust extends EventTarget {
  attested = null;
  problem = null;
  state = "busy";
  word = "Checking";
  /** When this page asked, in milliseconds. */
  since = 0;
  wantsSealing = true;
  /** A person said that messages may go to a service whose checks did not pass; it counts for what was shown then. */
  overridden = false;
  #accepted = null;
  #roots = null;
  #policy = null;
  #running = null;

  /** Ask for a report over a fresh nonce, and verify it. Ends in a state, never in an exception. */
  check() {
    this.#running ??= this.#check().finally(() => (this.#running = null));
    return this.#running;
  }

  async #check() {
    this.#become({ state: "busy", word: "Checking" });
    this.since = Date.now();
    try {
      this.attested = await this.#attested();
      this.problem = null;
      const { exit_code: code } = this.attested.verdict;
      this.#become(code === 0 && this.isPinned ? { state: "good", word: "Verified" } : STATES[code]);
    } catch (wrong) {
      this.attested = null;
      this.problem = wrong.message;
      this.#become({ state: "bad", word: "No attestation" });
    }
  }

  /** A report under the policy of this browser; without one, under what the report itself shows: first use. */
  async #attested() {
    this.#roots ??= new TextDecoder().decode(await fetched(ROOTS));
    const developmentRoot = this.#roots || undefined;
    this.#policy = pinned();
    const attested = await attest(location.origin, { developmentRoot, policy: this.#policy, seal: this.wantsSealing });
    if (this.#policy || attested.verdict.exit_code === 1) return attested;
    this.#policy = onFirstUse(attested);
    if (!this.#policy) return attested;
    const { saved, baseUrl, captured_at: now } = attested;
    const again = await verifySaved(saved, { now, developmentRoot, baseUrl, policy: this.#policy });
    return { ...again, sealKey: attested.sealKey };
  }

  #become({ state, word }) {
    this.state = state;
    this.word = word;
    if (state !== "busy" && state !== this.#accepted) this.overridden = false;
    this.dispatchEvent(new Event("change"));
  }

  // What follows ------------------------------------------------------------------------------------------------------

  /** Whether messages may be sent: the checks passed, if only to a development root, or a person insists. */
  get maySend() {
    return this.isSound || (this.overridden && this.state !== "busy");
  }

  /** Whether nothing failed and nothing that is needed is missing. */
  get isSound() {
    return this.state === "good" || this.state === "development";
  }

  /** Whether messages are sealed. */
  get seals() {
    return this.wantsSealing && this.isSound && this.attested?.sealKey != null;
  }

  /** Whether the service and this browser could seal. */
  get canSeal() {
    return this.isSound && (this.attested?.sealKey != null || !this.wantsSealing);
  }

  /** Send anyway, for as long as nothing else is wrong. */
  override() {
    this.overridden = true;
    this.#accepted = this.state;
    this.dispatchEvent(new Event("change"));
  }

  /** Seal from now on, or don't: what the report was checked for changes with it. */
  async seal(wanted) {
    this.wantsSealing = wanted;
    await this.#running; // a check that has begun is of what was wanted before
    await this.check();
  }

  /** A request that can be checked; null where nothing is established that could sign its receipt. */
  async open(path, body, headers) {
    return this.attested?.established ? Exchange.open(this.attested, path, body, { headers }) : null;
  }

  // The policy of this browser ----------------------------------------------------------------------------------------

  /** Whether this browser remembers what runs here. */
  get isPinned() {
    return pinned() !== null;
  }

  /** Remember what runs here: a later visit fails where it is something else. */
  pin() {
    try {
      localStorage.setItem(PINNED, JSON.stringify(this.#policy));
    } catch {
      return; // storage is off: nothing is remembered, and the button goes on saying so
    }
    this.dispatchEvent(new Event("change"));
  }

  /** Forget it, and look anew. */
  unpin() {
    localStorage.removeItem(PINNED);
    return this.check();
  }
}

/** A policy that accepts what a report showed; null where it shows nothing that a policy could name. */
function onFirstUse(attested) {
  try {
    return firstUsePolicy(attested);
  } catch (wrong) {
    if (wrong instanceof PolicyError) return null;
    throw wrong;
  }
}

function pinned() {
  try {
    return JSON.parse(localStorage.getItem(PINNED));
  } catch {
    return null; // storage is off
  }
}
