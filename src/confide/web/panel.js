// The proof: what the page checked about its server, what runs there, and what no page can check.

import { chain } from "./chain.js";
import { byId, copyButton, download, h, icon, iconButton, short } from "./dom.js";
import { claims, models, place } from "./facts.js";
import { groupedSteps } from "./findings.js";
import { bundle, support } from "./proof/index.js";

const SIGNS = { good: "check", bad: "cross", development: "alert", open: "dash", busy: "again" };

/** The panel beside the conversation; on small screens, over it. */
export class ProofPanel {
  #root = byId("proof");
  #chip = byId("chip");
  #trust;
  #chat;
  #support = null;

  constructor(trust, chat) {
    this.#trust = trust;
    this.#chat = chat;
    this.#chip.addEventListener("click", () => this.toggle());
    this.#root.addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      event.stopPropagation(); // elsewhere it stops an answer
      this.toggle();
    });
    trust.addEventListener("change", () => this.#show());
    chat.addEventListener("settled", () => this.#showReceipts());
    chat.addEventListener("change", () => this.#showReceipts());
    support().then((found) => {
      this.#support = found;
      this.#show();
    });
    this.#show();
  }

  /** Whether it is shown: beside the conversation where there is room, until somebody closes it. */
  get isOpen() {
    return getComputedStyle(this.#root).visibility === "visible";
  }

  toggle() {
    const open = !this.isOpen;
    document.body.dataset.panel = open ? "open" : "closed";
    this.#chip.setAttribute("aria-expanded", String(open));
    if (open) this.#root.focus();
    else this.#chip.focus();
  }

  /** Open it, at its beginning. */
  show() {
    if (!this.isOpen) this.toggle();
    this.#root.scrollTop = 0;
    this.#root.focus();
  }

  #show() {
    const { state, word, attested } = this.#trust;
    document.body.dataset.verdict = state;
    this.#chip.dataset.state = state;
    this.#chip.querySelector(".word").textContent = word;
    this.#chip.setAttribute("aria-expanded", String(this.isOpen));
    const busy = state === "busy";
    this.#root.setAttribute("aria-busy", String(busy));
    this.#root.classList.toggle("busy", busy); // a style that asks for [aria-busy] would restyle whole answers at their end
    if (busy && this.#root.childElementCount) return;
    this.#redrawn(() =>
      this.#root.replaceChildren(
        this.#head(),
        this.#hero(),
        ...(attested ? this.#parts(attested) : []),
        this.#limits(attested),
        this.#foot(attested),
      ),
    );
  }

  /** Draw anew, and leave folds and the focus where they were. */
  #redrawn(draw) {
    const folds = () => [...this.#root.querySelectorAll("details[data-key]")];
    const open = new Map(folds().map((fold) => [fold.dataset.key, fold.open]));
    const focused = this.#root.contains(document.activeElement)
      ? document.activeElement.getAttribute("aria-label")
      : null;
    draw();
    for (const fold of folds()) fold.open = open.get(fold.dataset.key) ?? fold.open;
    if (focused) this.#root.querySelector(`[aria-label="${CSS.escape(focused)}"]`)?.focus();
  }

  /** Only what receipts change. */
  #showReceipts() {
    const { attested } = this.#trust;
    const shown = this.#root.querySelector(".chain");
    if (attested && shown) shown.replaceWith(chain(attested, this.#trust, this.#chat.receipts));
  }

  #head() {
    return h(
      "header",
      { className: "panel-head" },
      h("h2", {}, "Proof"),
      h(
        "div",
        { className: "tools" },
        iconButton("again", "Check again", () => this.#trust.check()),
        iconButton("cross", "Close", () => this.toggle(), { className: "tool closes" }),
      ),
    );
  }

  #hero() {
    const { state, word, attested, problem } = this.#trust;
    const sentence =
      attested?.verdict.sentence.replace(/^FAILED: d/, "D") ??
      problem ??
      "Asking for a report over a nonce that was made here.";
    return h(
      "section",
      { className: "hero", data: { state }, "aria-label": "Verdict" },
      h("span", { className: "seal" }, icon(SIGNS[state], 26)),
      h(
        "div",
        {},
        h("p", { className: "verdict" }, word),
        h("p", {}, sentence),
        attested && failures(attested.verdict.findings),
        attested && advice(attested.verdict),
      ),
    );
  }

  #parts(attested) {
    return [
      h("section", { "aria-label": "Chain" }, chain(attested, this.#trust, this.#chat.receipts)),
      section("What runs", models(attested)),
      section("Where", place(attested)),
      section(
        "Steps",
        h("div", { className: "groups" }, groupedSteps(attested.verdict.findings)),
        "As confide verify numbers them",
      ),
      section("Claims", claims(attested.verdict.claims), "What the evidence supports"),
    ];
  }

  /** What a page in a browser can't do, said plainly. */
  #limits(attested) {
    const sealed = attested?.saved.channel?.sealed_to;
    const points = [
      [
        "This page itself.",
        " It came from the server that it checks, and a server that lies can send a page that lies. Ask from elsewhere:",
        commandLine(),
      ],
      [
        "The TLS key of this connection.",
        sealed
          ? " Browsers show it to no page. Requests are sealed to an attested key instead."
          : " Browsers show it to no page, and requests are not sealed.",
      ],
      [
        "Who wrote the software, and whether it is good.",
        " The chain says that these bytes run there; what they should be is for you to compare, in a policy of confide verify.",
      ],
    ];
    const gpu = attested?.report?.attestation.evidence.gpu;
    const devices = attested?.verdict.facts.gpu ?? [];
    if (devices.some((device) => !device.measured))
      points.push([
        "What runs on the GPUs.",
        " That they are genuine and answered is checked. Whether firmware and driver are NVIDIA's needs reference values " +
          "that this page asks nobody for. confide verify does.",
      ]);
    else if (attested && gpu?.status !== "available")
      points.push(["GPUs.", ` There is no evidence of any${gpu?.reason ? `: ${gpu.reason}` : ""}.`]);
    if (this.#support && !this.#support.ed25519)
      points.push(["Receipts.", " This browser has no Ed25519: take a newer one."]);
    if (this.#support && !this.#support.x25519)
      points.push([
        "Sealing.",
        " This browser has no X25519, so secp256k1 is taken, where the server has it: take a newer browser.",
      ]);
    return section(
      "What a page can't check",
      h(
        "ul",
        { className: "limits" },
        points.map(([head, ...rest]) => h("li", {}, h("b", {}, head), rest)),
      ),
    );
  }

  #foot(attested) {
    const digest = document.documentElement.dataset.page;
    return h(
      "footer",
      { className: "panel-foot" },
      attested &&
        h(
          "button",
          { type: "button", className: "plain", on: { click: () => this.#download() } },
          icon("down", 15),
          "Bundle for confide audit",
        ),
      (this.#trust.isPinned || this.#trust.isSound) && this.#pin(),
      h("p", { className: "aside" }, "This page: ", h("code", { title: digest }, short(digest))),
    );
  }

  #download() {
    const kept = this.#chat.turns.map((turn) => turn.receipt?.kept).filter(Boolean);
    download(bundle(this.#trust.attested, kept), "proof.bundle.json");
  }

  #pin() {
    const pinned = this.#trust.isPinned;
    const click = () => (pinned ? this.#trust.unpin() : this.#trust.pin());
    const title = pinned
      ? "This browser fails the check where something else runs"
      : "At the next visit, fail the check where something else runs";
    return h(
      "button",
      { type: "button", className: "plain", title, on: { click } },
      icon("lock", 15),
      pinned ? "Forget this workload" : "Remember this workload",
    );
  }
}

function failures(findings) {
  const failed = findings.filter((one) => one.outcome === "fail").slice(0, 3);
  return failed.map(({ step, title, detail }) =>
    h("p", { className: "why" }, h("code", {}, step), ` ${title}: ${brief(detail)}`),
  );
}

/** A text with its long numbers cut short. */
function brief(text) {
  return text.replace(/[0-9a-f]{40,}/g, (digits) => short(digits));
}

/** What to do next; what is said of commands' options is for the command line. */
function advice({ advice: lines, development }) {
  const meant = lines.filter((line) => !line.includes("--") && !(development && line.includes("first use")));
  return meant.map((line) => h("p", { className: "next" }, line));
}

function section(title, content, aside) {
  return h("section", { className: "part" }, h("h3", {}, title, aside && h("small", {}, aside)), content);
}

function commandLine() {
  const command = `confide verify ${location.origin}`;
  return h(
    "span",
    { className: "command" },
    h("code", {}, command),
    copyButton(() => command, "Copy the command"),
  );
}
