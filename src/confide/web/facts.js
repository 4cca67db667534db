// What runs, and where: the manifest of models, the measurements of the quote, and the claims that they support.

import { copyButton, count, h, icon, short } from "./dom.js";

/** The models of the manifest: files, digests, engine and arguments. */
export function models({ established, verdict }) {
  const found = established?.manifest?.models ?? [];
  if (!established) return h("p", { className: "aside" }, "Nothing is established.");
  if (!found.length)
    return h(
      "p",
      { className: "aside" },
      verdict.facts.report?.manifest ? "The manifest could not be had." : "The keyset names no manifest of models.",
    );
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
    entry.files?.map((file) =>
      h(
        "div",
        { className: "file" },
        h("p", {}, h("code", {}, file.name), h("small", {}, `${file.role}, ${count(file.size)} bytes`)),
        digest(file.sha256),
      ),
    ),
    engine &&
      Object.keys(engine.arguments ?? {}).length > 0 &&
      h(
        "details",
        { className: "inner" },
        h("summary", {}, icon("chevron", 12), "Arguments of the engine"),
        factList(Object.entries(engine.arguments)),
      ),
  );
}

function tensors(quantisation) {
  const kinds = Object.entries(quantisation?.tensors ?? {});
  return kinds.length ? kinds.map(([kind, number]) => `${number} × ${kind}`).join(", ") : null;
}

/** Where it runs, as the evidence says. */
export function place({ verdict, established }) {
  const { report = {}, tdx, snp, dstack, gpu = [] } = verdict.facts;
  const rows = [
    ["evidence", teeName(report)],
    ["source", report.source],
    ["roots", verdict.roots.join(", ") || "none"],
    ["hardware", verdict.hardware ? "yes, by a vendor's root" : "no"],
    ["serving", established?.serving],
    ...Object.entries(report.provenance ?? {}),
  ];
  const quoted = Array.isArray(tdx) ? tdx[0] : (tdx ?? snp);
  return h(
    "div",
    {},
    factList(rows),
    fold("Measurements of the quote", quoted),
    fold("Deployment (dstack)", Array.isArray(dstack) ? dstack[0] : dstack),
    gpu.map((device, at) => fold(`Device ${at}: ${device.model}`, device)),
  );
}

function fold(title, facts) {
  if (!facts) return null;
  return h(
    "details",
    { className: "fold", data: { key: title } },
    h("summary", {}, icon("chevron", 14), h("b", {}, title)),
    factList(Object.entries(facts)),
  );
}

function factList(rows) {
  const known = rows.filter(([, value]) => value !== null && value !== undefined && value !== "");
  return h(
    "dl",
    { className: "facts" },
    known.map(([name, value]) => [h("dt", {}, name.replaceAll("_", " ")), h("dd", {}, factValue(value))]),
  );
}

function factValue(value) {
  if (typeof value === "string" && /^(sha256:)?[0-9a-f]{64,}$/.test(value)) return digest(value);
  if (Array.isArray(value) && value.length > 4) return `${value.length} entries`;
  return h("code", {}, typeof value === "string" ? value : JSON.stringify(value));
}

function digest(value) {
  return h(
    "span",
    { className: "long" },
    h("code", { title: value }, short(value)),
    copyButton(() => value, "Copy the digest"),
  );
}

/** The typed claims of ACI 8.3. */
export function claims(found) {
  const rows = Object.entries(found ?? {});
  if (!rows.length) return h("p", { className: "aside" }, "None.");
  return h(
    "dl",
    { className: "claims" },
    rows.map(([name, { status, source, reason }]) => [
      h("dt", {}, h("code", {}, name)),
      h("dd", { data: { status } }, h("b", {}, status), source && ` (${source})`, reason && h("small", {}, reason)),
    ]),
  );
}

/** The kind of TEE that a report says it comes from: TDX, SEV-SNP. */
export function teeName(report) {
  return String(report?.tee_type ?? "?")
    .replace("_", "-")
    .toUpperCase();
}
