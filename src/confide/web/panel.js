// The proof: what the page checked about its server, what runs there, and what no page can check.

import { byId, copyButton, count, download, h, icon, iconButton } from "./dom.js";
import { groupedSteps, mark, worstOf } from "./findings.js";
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
      if (event.key === "Escape" && this.isOpen) this.toggle();
    });
    trust.addEventListener("change", () => this.#show());
    chat.addEventListener("settled", () => this.#show());
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
    if (state === "busy" && this.#root.childElementCount) {
      this.#root.setAttribute("aria-busy", "true");
      return;
    }
    this.#root.setAttribute("aria-busy", String(state === "busy"));
    const open = this.#openFolds();
    this.#root.replaceChildren(this.#head(), this.#hero(), ...(attested ? this.#parts(attested) : []), this.#limits(attested), this.#foot(attested));
    for (const key of open) this.#root.querySelector(`details[data-key="${key}"]`)?.setAttribute("open", "");
  }

  #openFolds() {
    return [...this.#root.querySelectorAll("details[open][data-key]")].map((fold) => fold.dataset.key);
  }

  #head() {
    return h(
      "header",
      { className: "panel-head" },
      h("h2", {}, "Proof"),
      h("div", { className: "tools" }, iconButton("again", "Check again", () => this.#trust.check()), iconButton("cross", "Close", () => this.toggle(), { className: "tool closes" })),
    );
  }

  #hero() {
    const { state, word, attested, problem } = this.#trust;
    const sentence = attested?.verdict.sentence.replace(/^FAILED: d/, "D") ?? problem ?? "Asking for a report over a nonce that was made here.";
    return h(
      "section",
      { className: "hero", data: { state }, "aria-label": "Verdict" },
      h("span", { className: "seal" }, icon(SIGNS[state], 26)),
      h("div", {}, h("p", { className: "verdict" }, word), h("p", {}, sentence), attested && failures(attested.verdict.findings), attested && advice(attested.verdict)),
    );
  }

  #parts(attested) {
    return [
      h("section", { "aria-label": "Chain" }, chain(attested, this.#trust, this.#chat.receipts)),
      section("What runs", models(attested)),
      section("Where", place(attested)),
      section("Steps", h("div", { className: "groups" }, groupedSteps(attested.verdict.findings)), "As confide verify numbers them"),
      section("Claims", claims(attested.verdict.claims), "What the evidence supports"),
    ];
  }

  /** What a page in a browser can't do, said plainly. */
  #limits(attested) {
    const sealed = attested?.saved.channel?.sealed_to;
    const points = [
      ["This page itself.", " It came from the server that it checks, and a server that lies can send a page that lies. Ask from elsewhere:", commandLine()],
      ["The TLS key of this connection.", sealed ? " Browsers show it to no page. Requests are sealed to an attested key instead." : " Browsers show it to no page, and requests are not sealed."],
      ["Who wrote the software, and whether it is good.", " The chain says that these bytes run there; what they should be is for you to compare, in a policy of confide verify."],
    ];
    const gpu = attested?.report?.attestation.evidence.gpu;
    if (gpu?.status === "available") points.push(["GPUs.", ` The evidence of ${gpu.devices?.length ?? 0} is there, and this page does not read it. confide verify does.`]);
    else if (attested) points.push(["GPUs.", ` There is no evidence of any${gpu?.reason ? `: ${gpu.reason}` : ""}.`]);
    if (this.#support && !this.#support.ed25519) points.push(["Receipts.", " This browser has no Ed25519: take a newer one."]);
    if (this.#support && !this.#support.x25519) points.push(["Sealing.", " This browser has no X25519: take a newer one."]);
    return section("What a page can't check", h("ul", { className: "limits" }, points.map(([head, ...rest]) => h("li", {}, h("b", {}, head), rest))));
  }

  #foot(attested) {
    const digest = document.documentElement.dataset.page;
    return h(
      "footer",
      { className: "panel-foot" },
      attested && h("button", { type: "button", className: "plain", on: { click: () => this.#download() } }, icon("down", 15), "Bundle for confide audit"),
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
    const title = pinned ? "This browser fails the check where something else runs" : "At the next visit, fail the check where something else runs";
    return h("button", { type: "button", className: "plain", title, on: { click } }, icon("lock", 15), pinned ? "Forget this workload" : "Remember this workload");
  }
}

function failures(findings) {
  const failed = findings.filter((one) => one.outcome === "fail").slice(0, 3);
  return failed.map(({ step, title, detail }) => h("p", { className: "why" }, h("code", {}, step), ` ${title}: ${brief(detail)}`));
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
  return h("span", { className: "command" }, h("code", {}, command), copyButton(() => command, "Copy the command"));
}

/** The first and the last of a digest. */
export function short(digest) {
  const bare = String(digest ?? "").replace(/^sha256:/, "");
  return bare.length > 24 ? `${bare.slice(0, 10)}…${bare.slice(-6)}` : bare || "none";
}

// The chain -----------------------------------------------------------------------------------------------------------

function chain({ verdict, established, saved, sealKey }, trust, receipts) {
  const { facts, findings, roots } = verdict;
  const keyset = established?.keyset;
  const links = [
    link("Root", roots.join(", ") || "none was reached", lookOfSteps(findings, /^(tdx|snp)\.[1-5]$/), trust.state === "development" ? "made on this machine: no vendor stands behind it" : ""),
    link("Quote", `${String(facts.report?.tee_type ?? "?").replace("_", "-").toUpperCase()}, from ${facts.report?.source ?? "the machine"}`, lookOfSteps(findings, /^(report\.2|tdx\.|snp\.)/), "signed by the platform over its measurements and 64 bytes of ours"),
    link("Nonce", short(saved.nonce), lookOfSteps(findings, /^report\.4$/), `made in this page at ${new Date(trust.since).toLocaleTimeString()}`),
    link("Keyset", short(facts.report?.keyset_digest), lookOfSteps(findings, /^report\.[35]$/), keyset ? `counts until ${new Date(keyset.not_after * 1000).toLocaleString()}` : ""),
    link("Models", short(facts.report?.manifest), lookOfSteps(findings, /^report\.8$/), "the manifest that the keyset names"),
    link("Sealing key", trust.seals ? short(sealKey?.public_key) : "not in use", trust.seals ? lookOfSteps(findings, /^report\.10$/) : "spare", trust.seals ? "messages are encrypted to it" : ""),
    link("Receipts", short(keyset?.receipt_signing_keys?.[0]?.public_key), receipts.failed ? "fail" : lookOfSteps(findings, /^report\.3$/), receiptsSaid(receipts)),
  ];
  return h("ol", { className: "chain" }, links);
}

function receiptsSaid({ checked, failed }) {
  if (!checked) return "an Ed25519 key of the keyset signs one for each answer";
  const answers = checked === 1 ? "1 answer" : `${checked} answers`;
  return failed ? `of ${answers}, ${failed} failed` : `${answers} checked`;
}

function link(name, value, look, aside) {
  return h("li", { data: { look } }, mark(look), h("div", {}, h("b", {}, name), h("code", {}, value), aside && h("small", {}, aside)));
}

function lookOfSteps(findings, pattern) {
  return worstOf(findings.filter(({ step }) => pattern.test(step)));
}

// What runs, and where ------------------------------------------------------------------------------------------------

function models({ established, verdict }) {
  const found = established?.manifest?.models ?? [];
  if (!established) return h("p", { className: "aside" }, "Nothing is established.");
  if (!found.length) return h("p", { className: "aside" }, verdict.facts.report?.manifest ? "The manifest could not be had." : "The keyset names no manifest of models.");
  return h("div", {}, found.map(model));
}

function model(entry) {
  const { engine } = entry;
  const rows = [
    ["engine", engine ? `${engine.name} ${engine.version ?? ""}` : null],
    ["architecture", entry.architecture],
    ["context", entry.context_length && `${count(entry.context_length)} tokens`],
    ["weights", tensors(entry.quantisation)],
    ["source", entry.source],
    ["licence", entry.licence],
    ["tokenizer", entry.tokenizer],
    ["chat template", entry.chat_template],
  ];
  return h(
    "details",
    { className: "fold", open: true, data: { key: `model-${entry.id}` } },
    h("summary", {}, icon("chevron", 14), h("b", {}, entry.id)),
    factList(rows),
    entry.files?.map((file) => h("div", { className: "file" }, h("p", {}, h("code", {}, file.name), h("small", {}, `${file.role}, ${count(file.size)} bytes`)), digest(file.sha256))),
    engine && Object.keys(engine.arguments ?? {}).length > 0 && h("details", { className: "inner" }, h("summary", {}, icon("chevron", 12), "Arguments of the engine"), factList(Object.entries(engine.arguments))),
  );
}

function tensors(quantisation) {
  const kinds = Object.entries(quantisation?.tensors ?? {});
  return kinds.length ? kinds.map(([kind, number]) => `${number} × ${kind}`).join(", ") : null;
}

function place({ verdict, established }) {
  const { report = {}, tdx, dstack } = verdict.facts;
  const rows = [
    ["evidence", String(report.tee_type ?? "-").replace("_", "-").toUpperCase()],
    ["source", report.source],
    ["roots", verdict.roots.join(", ") || "none"],
    ["hardware", verdict.hardware ? "yes, by a vendor's root" : "no"],
    ["serving", established?.serving],
    ...Object.entries(report.provenance ?? {}),
  ];
  const quoted = Array.isArray(tdx) ? tdx[0] : tdx;
  return h("div", {}, factList(rows), fold("Measurements of the quote", quoted), fold("Deployment (dstack)", Array.isArray(dstack) ? dstack[0] : dstack));
}

function fold(title, facts) {
  if (!facts) return null;
  return h("details", { className: "fold", data: { key: title } }, h("summary", {}, icon("chevron", 14), h("b", {}, title)), factList(Object.entries(facts)));
}

function factList(rows) {
  const known = rows.filter(([, value]) => value !== null && value !== undefined && value !== "");
  return h("dl", { className: "facts" }, known.map(([name, value]) => [h("dt", {}, name.replaceAll("_", " ")), h("dd", {}, factValue(value))]));
}

function factValue(value) {
  if (typeof value === "string" && /^(sha256:)?[0-9a-f]{64,}$/.test(value)) return digest(value);
  if (Array.isArray(value) && value.length > 4) return `${value.length} entries`;
  return h("code", {}, typeof value === "string" ? value : JSON.stringify(value));
}

function digest(value) {
  return h("span", { className: "long" }, h("code", { title: value }, short(value)), copyButton(() => value, "Copy the digest"));
}

function claims(found) {
  const rows = Object.entries(found ?? {});
  if (!rows.length) return h("p", { className: "aside" }, "None.");
  return h("dl", { className: "claims" }, rows.map(([name, { status, source, reason }]) => [
    h("dt", {}, h("code", {}, name)),
    h("dd", { data: { status } }, h("b", {}, status), source && ` (${source})`, reason && h("small", {}, reason)),
  ]));
}
