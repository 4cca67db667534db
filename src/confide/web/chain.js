// The chain of trust: from the root of a vendor, or of this machine, to the key that signs receipts.

import { h, short } from "./dom.js";
import { teeName } from "./facts.js";
import { mark, worstOf } from "./findings.js";

/** One link for each thing that vouches for the next. */
export function chain({ verdict, established, saved, sealKey }, trust, receipts) {
  const { facts, findings, roots } = verdict;
  const keyset = established?.keyset;
  const links = [
    link(
      "Root",
      roots.join(", ") || "none was reached",
      lookOfSteps(findings, /^(tdx\.[23]|snp\.[1-5])$/),
      trust.state === "development" ? "made on this machine: no vendor stands behind it" : "",
    ),
    link(
      "Quote",
      `${teeName(facts.report)}, from ${facts.report?.source ?? "the machine"}`,
      lookOfSteps(findings, /^(report\.2|tdx\.|snp\.)/),
      "signed by the platform over its measurements and 64 bytes of ours",
    ),
    link(
      "Nonce",
      short(saved.nonce),
      lookOfSteps(findings, /^report\.4$/),
      `made in this page at ${new Date(trust.since).toLocaleTimeString()}`,
    ),
    link(
      "Keyset",
      short(facts.report?.keyset_digest),
      lookOfSteps(findings, /^report\.[35]$/),
      keyset ? `counts until ${new Date(keyset.not_after * 1000).toLocaleString()}` : "",
    ),
    link(
      "Models",
      short(facts.report?.manifest),
      lookOfSteps(findings, /^report\.8$/),
      "the manifest that the keyset names",
    ),
    link(
      "Sealing key",
      trust.seals ? short(sealKey?.public_key) : "not in use",
      trust.seals ? lookOfSteps(findings, /^report\.10$/) : "spare",
      trust.seals ? "messages are encrypted to it" : "",
    ),
    link(
      "Receipts",
      short(keyset?.receipt_signing_keys?.[0]?.public_key),
      receipts.failed ? "fail" : lookOfSteps(findings, /^report\.3$/),
      receiptsSaid(receipts),
    ),
  ];
  return h("ol", { className: "chain" }, links);
}

function receiptsSaid({ checked, failed }) {
  if (!checked) return "an Ed25519 key of the keyset signs one for each answer";
  const answers = checked === 1 ? "1 answer" : `${checked} answers`;
  return failed ? `of ${answers}, ${failed} failed` : `${answers} checked`;
}

function link(name, value, look, aside) {
  return h(
    "li",
    { data: { look } },
    mark(look),
    h("div", {}, h("b", {}, name), h("code", {}, value), aside && h("small", {}, aside)),
  );
}

function lookOfSteps(findings, pattern) {
  return worstOf(findings.filter(({ step }) => pattern.test(step)));
}
