/**
 * Reports of `aci/1`: which workload serves, and which keys are its own.
 *
 * Source: Attested Confidential Inference, `aci/1`, sections 3, 4 and 9.1. One recomputation binds the keyset and the
 * verifier's nonce to the quote; everything else in the report counts only where a measurement or a signature backs it.
 */

import {
  SECP256K1_SUITE,
  X25519_SUITE,
  checkNonce,
  parseReport,
  reportDataSlot,
  subjectManifest,
  tlsKeysFor,
} from "./aci.js";
import { CheckFailed, fromBase64, fromHex, hex, same } from "./bytes.js";
import { sha256 } from "./crypto.js";
import { verifyCustody } from "./custody.js";
import { verifyDstack } from "./dstack.js";
import { canonical, parse } from "./jcs.js";
import { verifyGpus } from "./nvidia.js";
import { checkProvenance } from "./provenance.js";
import { isObject, listOf, nullable, object, oneOf, record, string } from "./shapes.js";
import { verifySnp } from "./snp.js";
import { verifyTdx } from "./tdx.js";
import { NotChecked, bounded, stands } from "./verdict.js";

/** @typedef {import("./policy.js").Context} Context */
/** @typedef {import("./types.js").Saved} Saved */
/** @typedef {import("./types.js").Established} Established */
/** @typedef {import("./verdict.js").Ledger} Ledger */
/** @typedef {import("./verdict.js").Checks} Checks */
/**
 * @typedef {object} Case  One report while it is verified, and what its CPU's evidence proves so far.
 * @property {Ledger} ledger @property {Context} context @property {Saved} saved
 * @property {any} report @property {import("./types.js").Keyset} keyset @property {any} evidence
 * @property {Uint8Array | null} slot  what genuine evidence commits to
 * @property {import("./quote.js").Fields | null} td
 * @property {import("./dstack.js").Facts | null} dstack
 * @property {any} manifest @property {boolean} isForged
 */

const MOST_BYTES = 8 << 20;
const MOST_QUOTE = 64 * 1024;
const SNP_SIZE = 1184;
const AMD_KEYS = ["vcek", "vlek", "ask", "ark"];
const DAY = 86400;
const MOST_SHOWN = 16;

const device = record(
  { arch: string(64), certificate: string(256 * 1024), evidence: string(256 * 1024) },
  {},
  { closed: false },
);
const gpuShape = record(
  { status: oneOf("available", "not available") },
  { reason: string(4096), devices: listOf(device, 32), switches: listOf(device, 32) },
  { closed: false },
);
/** @type {import("./shapes.js").Shape} */
const textOrList = (value, where) => {
  if (!Array.isArray(value)) string()(value, where);
};
/** @type {import("./shapes.js").Shape} */
const textOrObject = (value, where) => {
  if (!isObject(value)) string()(value, where);
};
/** The members of `evidence` that are known here; others are left unread, null reads as absent. */
const evidenceShape = record(
  { quote: string() },
  {
    quote_report_data: nullable(string()),
    source: nullable(string()),
    event_log: nullable(textOrList),
    vm_config: nullable(textOrObject),
    app_compose: nullable(string()),
    collateral: nullable(object),
    key_custody: nullable(object),
    gpu: nullable(gpuShape),
  },
  { closed: false },
);

/**
 * Check a report with everything inside it: the keyset and what goes with it, or null where the report establishes none.
 * @param {Ledger} ledger @param {Context} context @param {Saved} saved @returns {Promise<Established | null>}
 */
export async function verifyReport(ledger, context, saved) {
  /** @type {Established | null} */
  let established = null;
  await ledger.group("report", async (checks) => {
    const { report, keyset } = await checks.need(
      1,
      () => read(saved),
      (found) => found.report.workload_keyset_digest,
    );
    const { evidence } = report.attestation;
    /** @type {Case} */
    const one = {
      ledger,
      context,
      saved,
      report,
      keyset,
      evidence,
      slot: null,
      td: null,
      dstack: null,
      manifest: null,
      isForged: false,
    };
    ledger.facts.report = factsOf(one);
    await checks.check(2, () => checkCpu(one));
    one.dstack = await verifyDstack(ledger, context, one.td, evidence);
    await checkBinding(one, checks);
    await checks.check(5, () => checkExpiry(one));
    await checks.check(6, () =>
      checkProvenance(report.attestation.source_provenance ?? {}, one.dstack, context.policy),
    );
    await checks.check(7, () => checkCustody(one));
    await checks.check(8, () => checkSubject(one));
    await checks.check(9, () => checkGpus(one));
    await checks.check(10, () => checkChannel(one));
    await checks.check(11, () => checkAge(one));
    if (one.isForged) return;
    const { supported_e2ee_versions: versions = [], serving = "aggregator" } = report.service_capabilities ?? {};
    established = {
      keyset,
      keyset_digest: report.workload_keyset_digest,
      manifest: one.manifest,
      e2ee_versions: versions,
      serving: serving === "direct" ? "direct" : "aggregator",
    };
  });
  return established;
}

/** @param {Saved} saved */
async function read(saved) {
  if (saved.document.length > MOST_BYTES) {
    throw new CheckFailed(`the report has ${saved.document.length} bytes; at most ${MOST_BYTES} are read`);
  }
  const found = await parseReport(saved.document);
  evidenceShape(found.report.attestation.evidence, "the evidence");
  return found;
}

// The CPU --------------------------------------------------------------------------------------------------------------

/** Evidence is verified as what its bytes are; `tee_type` must say the same. @param {Case} one */
async function checkCpu(one) {
  const { ledger, evidence } = one;
  const said = one.report.attestation.tee_type;
  const quote = quoteBytes(evidence.quote);
  const kind = formatOf(quote) ?? said;
  const before = ledger.findings.length;
  const collateral = evidence.collateral ?? {};
  const isAmds = AMD_KEYS.some((name) => Object.hasOwn(collateral, name));
  const material = [...(isAmds ? amdCertificates(collateral) : []), ...(one.context.material ?? [])];
  const context = { ...one.context, material };
  if (kind === "tdx") {
    one.td = await verifyTdx(ledger, context, quote, evidence.collateral && !isAmds ? [evidence.collateral] : []);
    one.slot = one.td?.report_data ?? null;
  } else if (kind === "sev_snp") {
    const guest = await verifySnp(ledger, context, quote);
    one.slot = guest?.report_data ?? null;
  } else {
    throw new CheckFailed(`found evidence of the type '${kind}', expected tdx or sev_snp`);
  }
  const findings = ledger.findings.slice(before);
  one.isForged = one.slot === null && findings.some((finding) => finding.outcome === "fail");
  if (kind !== said) throw new CheckFailed(`found evidence of ${kind}, expected '${said}', as tee_type says`);
  stands(findings, "the CPU's evidence");
  return kind;
}

/** @param {string} text */
function quoteBytes(text) {
  if (!text || text.length > 2 * MOST_QUOTE || text.startsWith("0x")) {
    throw new CheckFailed(`evidence.quote is not 1 to ${MOST_QUOTE} bytes in hex`);
  }
  return fromHex(text, "evidence.quote");
}

/**
 * What a quote is by its own bytes, in the words of `tee_type`; null where it is neither.
 * @param {Uint8Array} quote
 */
function formatOf(quote) {
  if (quote.length === SNP_SIZE && !quote.subarray(1, 4).some((byte) => byte)) return "sev_snp";
  return hex(quote.subarray(4, 8)) === "81000000" ? "tdx" : null;
}

/** AMD's certificates, where these are what is stapled. @param {any} collateral @returns {import("./material.js").Item[]} */
function amdCertificates(collateral) {
  return AMD_KEYS.filter((key) => typeof collateral[key] === "string").map((key) => ({
    kind: "amd-certificate",
    key,
    data: fromBase64(collateral[key], "a certificate in the evidence"),
  }));
}

/**
 * A quote over the statement without a nonce binds the keyset as well, and is not fresh.
 * @param {Case} one @param {Checks} checks
 */
async function checkBinding(one, checks) {
  const { slot, saved } = one;
  if (slot === null) {
    checks.skip(3, "needs step report.2: nothing says what genuine evidence commits to");
    checks.skip(4, "needs step report.3");
    return;
  }
  const { workload_keyset_digest: digest } = one.report;
  const isUnchallenged = same(slot, await reportDataSlot(digest, null));
  const isBound = await checks.check(3, async () => {
    const expected = await reportDataSlot(digest, isUnchallenged ? null : saved.nonce);
    if (!same(slot, expected)) {
      throw new CheckFailed(`the quote commits to ${hex(slot)}, expected ${hex(expected)} of the keyset and our nonce`);
    }
    const short = hex(slot.subarray(0, 32));
    const shown = one.report.attestation.report_data;
    if (shown !== short) throw new CheckFailed(`report_data is ${shown}, and the quote holds ${hex(slot)}`);
    const repeated = one.evidence.quote_report_data ?? null;
    if (repeated !== null && repeated !== hex(slot) && repeated !== short) {
      throw new CheckFailed(`quote_report_data is ${repeated}, and the quote holds ${hex(slot)}`);
    }
    return short;
  });
  if (!isBound) {
    one.isForged = true;
    checks.skip(4, "needs step report.3");
    return;
  }
  await checks.check(4, () => {
    if (saved.nonce === null) throw new NotChecked("the verifier sent no nonce, so that this report may be old");
    checkNonce(saved.nonce);
    if (isUnchallenged) throw new CheckFailed(`the quote was made without a nonce, expected ${saved.nonce}`);
  });
}

// The keyset -----------------------------------------------------------------------------------------------------------

/** @param {Case} one */
function checkExpiry({ context: { now, policy }, keyset: { not_after: end } }) {
  if (now >= end) throw new CheckFailed(`the keyset counted until ${end}, and the time is ${now}`);
  const longest = policy.keys.longest_days;
  if (end - now > longest * DAY) {
    throw new CheckFailed(`the keyset counts until ${end}, which is more than ${longest} days away`);
  }
  return `counts for ${Math.floor((end - now) / DAY)} more days`;
}

/** @param {Case} one */
async function checkCustody(one) {
  const before = one.ledger.findings.length;
  const { receipt_signing_keys: signing, e2ee_public_keys: sealing } = one.keyset;
  const keys = [...signing, ...sealing].map((key) => raw(key.public_key)).filter((key) => key.length);
  await verifyCustody(one.ledger, one.context, one.evidence.key_custody ?? null, keys, one.dstack);
  stands(one.ledger.findings.slice(before), "the custody of the keys", one.context.policy.keys.custody);
}

/**
 * A public key's bytes; a key of a kind that isn't known here may be written otherwise, and is none. Spaces between bytes
 * are read over, as Python does.
 * @param {string} text
 */
function raw(text) {
  const isHex = /^[ \t\n\v\f\r]*(?:[0-9a-fA-F]{2}[ \t\n\v\f\r]*)*$/.test(text);
  return isHex ? fromHex(text.replace(/\s/g, ""), "a key") : new Uint8Array();
}

/** @param {Case} one */
async function checkSubject(one) {
  const { policy } = one.context;
  const { subject } = one.keyset;
  const { subjects } = policy.keys;
  if (subjects.length && !subjects.includes(subject)) {
    throw new CheckFailed(`found the subject '${subject}', expected one of ${subjects.join(", ")}`);
  }
  const digest = subjectManifest(subject);
  if (one.saved.manifest) {
    const manifest = parse(one.saved.manifest);
    const found = await sha256(canonical(manifest));
    if (found !== digest)
      throw new CheckFailed(`the manifest at hand is ${found}, and the keyset names ${digest ?? "none"}`);
    manifestShape(manifest, "the manifest");
    one.manifest = manifest;
  }
  const wanted = policy.models.manifests;
  one.ledger.facts.report.manifest_accepted = wanted.length && digest !== null ? wanted.includes(digest) : null;
  if (wanted.length && digest === null) throw new NotChecked("the keyset names no manifest of models");
  if (wanted.length && !wanted.includes(digest)) {
    throw new CheckFailed(`found the manifest ${digest}, expected one of ${wanted.join(", ")}`);
  }
  if (!wanted.length && !subjects.length && digest === null) {
    throw new NotChecked("the policy accepts any subject, and this one names no manifest", false);
  }
  return `the subject is ${subject}`;
}

/** What is used of a manifest. Its digest decides the rest: the attested keyset names it. */
const manifestShape = record(
  {
    manifest_version: oneOf("confide-manifest/1", "confide-manifest/2"),
    models: listOf(record({ id: string() }, { aliases: listOf(string()) }, { closed: false })),
  },
  {},
  { closed: false },
);

// The rest -------------------------------------------------------------------------------------------------------------

/** @param {Case} one */
async function checkGpus(one) {
  const { status, reason = "", devices = [], switches = [] } = one.evidence.gpu ?? { status: "not available" };
  if (devices.length > 0 !== (status === "available")) {
    throw new CheckFailed(`the report shows ${devices.length} GPUs and says that they are ${status}`);
  }
  const read = (/** @type {any[]} */ some) =>
    some.map(({ arch, certificate, evidence }) => ({
      arch,
      certificate: fromBase64(certificate, "a certificate of a GPU"),
      evidence: fromBase64(evidence, "the evidence of a GPU"),
    }));
  const { ledger, context, report, saved } = one;
  const before = ledger.findings.length;
  const nonce = (await reportDataSlot(report.workload_keyset_digest, saved.nonce)).subarray(0, 32);
  const unavailable = devices.length ? null : reason || "the report has no evidence of GPUs";
  await verifyGpus(ledger, context, read(devices), read(switches), nonce, unavailable);
  const policy = context.policy.gpu;
  stands(ledger.findings.slice(before), "the GPUs", policy.required);
  if (policy.nras) throw new NotChecked("no token of NVIDIA's attestation service is at hand");
  return `${devices.length} GPUs`;
}

/**
 * The channel ends where the evidence says, as far as the policy demands it. A key that requests are encrypted to must be
 * attested in any case: otherwise somebody else reads them. No page is shown the TLS key of its connection.
 * @param {Case} one
 */
function checkChannel({ saved, keyset, context }) {
  const { channel } = saved;
  if (!channel) throw new NotChecked("nobody recorded which channel was used");
  const { require } = context.policy.channel;
  const held = tlsKeysFor(keyset, channel.host);
  const { tls_spki_sha256: tls, sealed_to: sealedTo } = channel;
  const hasTls = tls !== null && held.includes(tls);
  const hasSeal = sealedTo !== null;
  const suites = [X25519_SUITE, SECP256K1_SUITE];
  if (hasSeal && !keyset.e2ee_public_keys.some((key) => suites.includes(key.algo) && key.public_key === sealedTo)) {
    throw new CheckFailed(`requests are encrypted to ${sealedTo}, which is no attested key`);
  }
  if (hasSeal && require === "sealed") return "requests are sealed to an attested key";
  if (!hasSeal && ["sealed", "both"].includes(require)) {
    throw new NotChecked("requests are not encrypted end to end, and the policy demands it");
  }
  if (!hasTls && (["tls", "both"].includes(require) || !hasSeal)) {
    if (!held.length) {
      throw new NotChecked("the evidence binds no TLS key, and requests are not encrypted to the attested key");
    }
    if (tls === null && channel.is_page) {
      throw new NotChecked(
        "this browser can't: it shows no page the TLS key of its connection, and nothing is sealed enough for the policy",
      );
    }
    const seen = tls === null ? "no TLS" : `the TLS key ${tls}`;
    throw new CheckFailed(`found ${seen}, expected ${held.slice(0, 8).join(" or ")}`);
  }
  const reasons = [hasTls && "TLS ends at an attested key", hasSeal && "requests are sealed to an attested key"];
  return reasons.filter(Boolean).join(" and ");
}

/** @param {Case} one */
function checkAge({ saved: { captured_at: captured = null }, context: { now, policy } }) {
  if (captured === null) return "fetched for this verification";
  const age = now - captured;
  const days = policy.age.report_days;
  if (age < 0) throw new CheckFailed(`saved at ${captured}, which is ${-age} seconds from now`);
  if (days === null) throw new NotChecked("the policy sets no limit", false);
  if (age > days * DAY) {
    throw new CheckFailed(`found evidence that is ${Math.floor(age / DAY)} days old, expected at most ${days}`);
  }
  return `${Math.floor(age / DAY)} days old`;
}

/** @param {Case} one @returns {Record<string, any>} */
function factsOf({ report, keyset, evidence }) {
  const said = report.attestation.source_provenance ?? {};
  const shown = (/** @type {any} */ text) => ((text ?? null) === null ? null : bounded(text));
  const keys = (/** @type {import("./types.js").PublicKey[]} */ some) =>
    some.slice(0, MOST_SHOWN).map((key) => bounded(key.public_key));
  return {
    keyset_digest: report.workload_keyset_digest,
    subject: shown(keyset.subject),
    manifest: subjectManifest(keyset.subject),
    not_after: keyset.not_after,
    receipt_keys: keys(keyset.receipt_signing_keys),
    e2ee_keys: keys(keyset.e2ee_public_keys),
    tls_keys: (keyset.tls_public_keys ?? []).slice(0, MOST_SHOWN).map((key) => key.spki_sha256),
    serving: bounded(report.service_capabilities?.serving ?? "aggregator"),
    tee_type: bounded(report.attestation.tee_type),
    source: shown(evidence.source),
    provenance: Object.fromEntries(
      ["repo_url", "repo_commit", "image_digest"].map((name) => [name, shown(said[name])]),
    ),
  };
}
