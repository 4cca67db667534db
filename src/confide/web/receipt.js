// The receipt of one answer: a badge that says whether it holds, and everything that is in it.

import { copyButton, count, download, h, icon, say } from "./dom.js";
import { stepList, worstOf } from "./findings.js";
import { bundle, checkAnswer, Sha256 } from "./proof/index.js";

const WORDS = {
  busy: "Checking the receipt",
  good: "Receipt matches",
  development: "Receipt matches, development root",
  bad: "Receipt failed",
  open: "Receipt not fully checked",
  stopped: "Stopped: the receipt is about all that the server wrote",
  unproven: "Receipt matches, the server is not proven",
  none: "No receipt",
};
const ICONS = {
  good: "check",
  development: "receipt",
  bad: "cross",
  open: "dash",
  stopped: "stop",
  unproven: "receipt",
  none: "dash",
  busy: "receipt",
};

/** The badge and the fold-out of one answer. */
export class ReceiptView {
  #trust;
  #talk;
  #proof = null;
  /** What came of it; null before it was looked at. */
  state = null;
  #badge = h("button", { type: "button", className: "badge", on: { click: () => this.#toggle() } });
  #details = h("section", { className: "receipt", hidden: true, "aria-label": "Receipt" });

  constructor(trust, talk) {
    this.#trust = trust;
    this.#talk = talk;
    this.#details.id = `receipt-${crypto.getRandomValues(new Uint32Array(1))[0]}`;
    this.#badge.setAttribute("aria-controls", this.#details.id);
    this.#show("busy", WORDS.busy);
  }

  get badge() {
    return this.#badge;
  }

  get details() {
    return this.#details;
  }

  /** The exchange as a bundle keeps it; null before its receipt was looked at. */
  get kept() {
    return this.#proof?.kept ?? null;
  }

  /** Fetch and check the receipt of an answer that is complete. */
  async settle() {
    this.#proof = await this.#talk.settle();
    this.state = this.#state();
    this.#show(this.state, this.#word(this.state));
    say(this.#badge.textContent);
    if (this.#proof) this.#details.replaceChildren(...(await this.#content()));
    else this.#details.replaceChildren(h("p", { className: "aside" }, this.#whyNone()));
    if (this.state === "bad") this.#toggle();
  }

  #state() {
    const proof = this.#proof;
    if (!proof) return "none";
    if (this.#endedEarly()) return "stopped";
    if (proof.problem || worstOf(proof.findings) === "fail") return "bad";
    if (proof.ok) return "good";
    if (!proof.consistent) return "open";
    return proof.development && this.#trust.isSound ? "development" : "unproven";
  }

  /** Who stops an answer hasn't all that the server wrote until then: these bytes prove nothing, and refute nothing. */
  #endedEarly() {
    const failed = this.#proof.findings.filter((one) => one.outcome === "fail");
    return this.#talk.stopped && !this.#proof.problem && failed.every((one) => one.step === "receipt.5");
  }

  #word(state) {
    const failed = this.#proof?.findings.find((one) => one.outcome === "fail");
    if (state !== "bad") return WORDS[state];
    return failed ? `${WORDS.bad}: ${failed.step} ${failed.title}` : WORDS.bad;
  }

  #whyNone() {
    if (this.#talk.receiptId)
      return "Nothing is established that could sign a receipt: the checks of this server did not pass.";
    return "The server names no receipt. It gives one for every request that it could read as a chat request.";
  }

  #show(state, word) {
    this.#badge.dataset.state = state;
    this.#badge.setAttribute("aria-expanded", String(!this.#details.hidden));
    this.#badge.replaceChildren(icon(ICONS[state], 14), h("span", {}, word), icon("chevron", 12));
  }

  #toggle() {
    this.#details.hidden = !this.#details.hidden;
    this.#badge.setAttribute("aria-expanded", String(!this.#details.hidden));
    if (!this.#details.hidden) this.#intoView();
  }

  /** Scroll as far as the end of the receipt, but not past its beginning. */
  #intoView() {
    const log = this.#details.closest(".log");
    const { top, bottom } = log.getBoundingClientRect();
    const below = this.#details.getBoundingClientRect().bottom - bottom + 12;
    const above = this.#badge.getBoundingClientRect().top - top - 12;
    if (below > 0) log.scrollTop += Math.min(below, above);
  }

  // What is in it -----------------------------------------------------------------------------------------------------

  async #content() {
    const { receipt, kept, findings, problem } = this.#proof;
    const events = receipt?.event_log ?? [];
    return [
      this.#broken(findings, problem),
      h("dl", { className: "facts" }, facts(receipt, kept)),
      h(
        "div",
        { className: "pair" },
        await this.#side("Request", kept.request, hashOf(events, "request.received")),
        await this.#side("Response", kept.response, hashOf(events, "response.returned")),
      ),
      h("h4", {}, "What the server signed"),
      h("ol", { className: "events" }, events.map(eventRow)),
      h("h4", {}, "What this page checked"),
      stepList(findings),
      h("div", { className: "actions" }, this.#actions(kept)),
      h("div", { className: "trial", role: "status" }),
    ].filter(Boolean);
  }

  #broken(findings, problem) {
    const failed = findings.find((one) => one.outcome === "fail");
    if (this.state !== "bad") return null;
    return h(
      "p",
      { className: "broken" },
      icon("alert", 16),
      h("span", {}, problem ?? `${failed.step} ${failed.title}: ${failed.detail}`),
    );
  }

  /** One direction: the bytes that this page holds, their hash, and the one in the receipt. */
  async #side(name, bytes, signed) {
    const own = bytes ? await digestOf(bytes) : null;
    const same = own !== null && own === signed;
    const wire = name === "Request" ? this.#talk.sent : this.#talk.received;
    const sealed = this.#talk.sealed && name === "Request";
    return h(
      "figure",
      { className: "side", data: { look: own === null ? "open" : same ? "pass" : "fail" } },
      h(
        "figcaption",
        {},
        h("b", {}, name),
        ` ${count(wire)} bytes ${sealed ? "sealed" : name === "Request" ? "sent" : "received"}`,
      ),
      sealed &&
        bytes &&
        h(
          "p",
          { className: "aside" },
          `The receipt is about the ${count(bytes.length)} bytes that opening them restores.`,
        ),
      digestLine("this page", own),
      digestLine("receipt", signed),
    );
  }

  #actions(kept) {
    const actions = [
      h(
        "button",
        { type: "button", className: "plain", on: { click: () => this.#download(kept) } },
        icon("down", 15),
        "Bundle for confide audit",
      ),
    ];
    if (kept.response?.length && kept.receipt && worstOf(this.#proof.findings) !== "fail") {
      actions.push(
        h(
          "button",
          { type: "button", className: "plain", on: { click: () => this.#try(kept) } },
          icon("edit", 15),
          "Change one byte, check again",
        ),
      );
    }
    return actions;
  }

  #download(kept) {
    download(bundle(this.#trust.attested, [kept]), `${kept.id || "answer"}.bundle.json`);
  }

  /** Show that the check bites: the same receipt over an answer with one other bit. */
  async #try(kept) {
    const response = kept.response.slice();
    const at = crypto.getRandomValues(new Uint32Array(1))[0] % response.length;
    response[at] ^= 1;
    const { findings } = await checkAnswer(this.#trust.attested, { ...kept, response });
    const failed = findings.filter((one) => one.outcome === "fail");
    this.#details
      .querySelector(".trial")
      .replaceChildren(
        h("p", {}, `With one bit changed in byte ${count(at)} of ${count(response.length)}:`),
        stepList(failed.length ? failed : findings),
      );
  }
}

function facts(receipt, kept) {
  const rows = [["receipt", receipt?.receipt_id ?? kept.id]];
  if (receipt) {
    rows.push(["signed by", `${receipt.key_id} (Ed25519)`]);
    rows.push([
      "served at",
      receipt.served_at ? `${new Date(receipt.served_at * 1000).toLocaleTimeString()}, the server says` : "-",
    ]);
    rows.push(["keyset", receipt.workload_keyset_digest]);
  }
  return rows.map(([name, value]) => [h("dt", {}, name), h("dd", {}, h("code", {}, String(value ?? "-")))]);
}

function hashOf(events, type) {
  return events.find((one) => one.type === type)?.body_hash ?? null;
}

function digestLine(label, digest) {
  const bare = digest?.replace("sha256:", "");
  return h(
    "p",
    { className: "digest" },
    h("span", {}, label),
    h("code", { title: digest ?? "" }, bare ? `${bare.slice(0, 16)}…${bare.slice(-8)}` : "not at hand"),
    digest && copyButton(() => digest, `Copy the SHA-256, ${label}`),
  );
}

function eventRow(event) {
  const { type, ...rest } = event;
  return h(
    "li",
    {},
    h("code", { className: "type" }, type),
    Object.entries(rest).map(([name, value]) =>
      h(
        "span",
        { className: "member" },
        `${name} `,
        h("code", {}, typeof value === "string" ? value : JSON.stringify(value)),
      ),
    ),
  );
}

/** By the browser, or where it gives this page no cryptography, by hand. */
async function digestOf(bytes) {
  if (!crypto.subtle) return new Sha256().update(bytes).digest();
  const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return `sha256:${[...hash].map((byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}
