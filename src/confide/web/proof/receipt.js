/**
 * Receipts: what an attested service signed about one request, checked against the bytes that were sent and received.
 *
 * Source: Attested Confidential Inference, `aci/1`, sections 7 and 9.3. A receipt is read strictly, since everything in it is
 * signed; events of other implementations are kept as they are.
 */

import { ED25519, subjectManifest } from "./aci.js";
import { CheckFailed, fromHex } from "./bytes.js";
import { checkEd25519 } from "./crypto.js";
import { canonical, parse } from "./jcs.js";
import { verifySession } from "./session.js";
import {
  boolean,
  digest,
  hex32,
  listOf,
  matching,
  name,
  nullable,
  object,
  oneOf,
  record,
  seconds,
  version,
  words,
} from "./shapes.js";
import { NotChecked, stands } from "./verdict.js";

/** @typedef {import("./types.js").Established} Established */
/** @typedef {import("./verdict.js").Ledger} Ledger */
/** @typedef {import("./policy.js").Context} Context */

const MOST_BYTES = 256 * 1024;
const MOST_SESSIONS = 8;
/** Seconds by which the service's clock may be ahead. */
const CLOCK_SKEW = 300;

const hashed = record({ type: words, body_hash: digest });
const upstream = record(
  { type: words, result: oneOf("verified", "failed"), required: boolean, model_id: words },
  { session_id: hex32, reason: words, upstream_name: words },
);
/** @type {Record<string, import("./shapes.js").Shape>} */
const EVENTS = {
  "request.received": hashed,
  "request.forwarded": hashed,
  "response.returned": hashed,
  "upstream.verified": upstream,
  "response.aborted": record({ type: words, reason: oneOf("client_closed", "engine_failed", "shutdown") }),
  "model.manifest": record({ type: words, digest }),
};
const receiptShape = record({
  api_version: version,
  receipt_id: name,
  chat_id: nullable(name),
  model: nullable(words),
  workload_keyset_digest: digest,
  endpoint: name,
  method: name,
  served_at: seconds,
  event_log: listOf(object),
  key_id: name,
  signature: matching(/^[0-9a-f]{128}$/),
});

/** Events of a type. @param {any} receipt @param {string} type @returns {any[]} */
export function eventsOf(receipt, type) {
  return receipt.event_log.filter((/** @type {any} */ event) => event.type === type);
}

/** The ids of the sessions that a receipt cites. @param {any} receipt @returns {string[]} */
export function cited(receipt) {
  const ids = eventsOf(receipt, "upstream.verified").map((event) => event.session_id);
  return [...new Set(ids.filter((id) => id !== undefined))];
}

/**
 * Read a receipt in any JSON encoding. What the caller still owes: its signature, the keyset, and both hashes.
 * @param {Uint8Array} data @returns {any}
 */
export function parseReceipt(data) {
  if (data.length > MOST_BYTES) {
    throw new CheckFailed(`the receipt has ${data.length} bytes; at most ${MOST_BYTES} are read`);
  }
  const receipt = parse(data);
  receiptShape(receipt, "the receipt");
  receipt.event_log.forEach(checkEvent);
  if (receipt.event_log[0]?.type !== "request.received") {
    throw new CheckFailed("invalid receipt: the first event must be request.received");
  }
  for (const [type, least] of /** @type {[string, number][]} */ ([
    ["request.received", 1],
    ["request.forwarded", 0],
    ["response.returned", 1],
  ])) {
    const count = eventsOf(receipt, type).length;
    if (count < least || count > 1) throw new CheckFailed(`invalid receipt: ${count} events are ${type}`);
  }
  return receipt;
}

/** @param {any} event */
function checkEvent(event) {
  if (typeof event.type !== "string") throw new CheckFailed("invalid receipt: an event has no type");
  if (Object.hasOwn(EVENTS, event.type)) EVENTS[event.type](event, `event ${event.type}`);
  if (event.type !== "upstream.verified") return;
  const hasSession = event.session_id !== undefined;
  if (hasSession === (event.reason !== undefined) || hasSession !== (event.result === "verified")) {
    throw new CheckFailed(
      "invalid receipt: a verified upstream has a session_id, one that failed a reason, neither both",
    );
  }
}

/**
 * Check a receipt under the keyset that a report established.
 * @param {Ledger} ledger @param {Context} context @param {Established} established @param {Uint8Array} document
 * @param {{requestDigest: string | null, responseDigest: string | null, model?: string | null,
 *     sessions?: Record<string, Uint8Array>, subject?: string}} about
 * @returns {Promise<{receipt: any, good: boolean}>}  `good` where every step that the policy needs passed
 */
export async function verifyReceipt(ledger, context, established, document, about) {
  const { requestDigest, responseDigest, model = null, sessions = {}, subject = "" } = about;
  /** @type {any} */
  let receipt = null;
  const checks = await ledger.group(
    "receipt",
    async (made) => {
      receipt = await made.need(
        1,
        () => parseReceipt(document),
        (read) => `the receipt ${read.receipt_id}`,
      );
      await made.check(2, () => checkSignature(receipt, established.keyset));
      await made.check(3, () => checkKeyset(receipt, established));
      await made.check(4, () =>
        checkDigest("request", eventsOf(receipt, "request.received")[0].body_hash, requestDigest),
      );
      await made.check(5, () => checkResponse(receipt, responseDigest));
      await made.check(6, () => checkRewrite(receipt, context));
      await made.check(7, () => checkModel(receipt, established, model, context));
      await made.check(8, () => checkUpstream(ledger, context, receipt, established, sessions, subject));
      await made.check(9, () => checkTime(receipt, established, context));
    },
    subject,
  );
  return { receipt, good: receipt !== null && !checks.failed };
}

/**
 * The key decides the algorithm; one that isn't known is refused.
 * @param {any} receipt @param {Established["keyset"]} keyset
 */
async function checkSignature(receipt, keyset) {
  const { key_id, signature, ...unsigned } = receipt;
  const key = keyset.receipt_signing_keys.find((one) => one.key_id === key_id && one.algo === ED25519);
  if (!key) throw new CheckFailed(`no ${ED25519} receipt key has the id ${key_id}`);
  const signed = canonical({ ...unsigned, key_id });
  if (!(await checkEd25519(fromHex(key.public_key, "a receipt key"), fromHex(signature, "the signature"), signed))) {
    throw new CheckFailed(`the signature is not that of the key ${key_id} over this receipt`);
  }
  return `signed by ${key_id}`;
}

/** @param {any} receipt @param {Established} established */
function checkKeyset(receipt, established) {
  if (receipt.workload_keyset_digest !== established.keyset_digest) {
    throw new CheckFailed(`found ${receipt.workload_keyset_digest}, expected ${established.keyset_digest}`);
  }
}

/** @param {string} what @param {string} signed @param {string | null} own */
function checkDigest(what, signed, own) {
  if (own === null) throw new NotChecked(`the bytes of the ${what} are not at hand`);
  if (signed !== own)
    throw new CheckFailed(`the receipt is for a ${what} with ${signed}, and the one at hand has ${own}`);
}

/** @param {any} receipt @param {string | null} own */
function checkResponse(receipt, own) {
  checkDigest("response", eventsOf(receipt, "response.returned")[0].body_hash, own);
  const [aborted] = eventsOf(receipt, "response.aborted");
  return aborted ? `the answer ended early (${aborted.reason}); these are the bytes until then` : "";
}

/** @param {any} receipt @param {Context} context */
function checkRewrite(receipt, context) {
  const [forwarded] = eventsOf(receipt, "request.forwarded");
  const [received] = eventsOf(receipt, "request.received");
  if (!forwarded) return "the receipt tells of no forwarding";
  if (forwarded.body_hash === received.body_hash) return "forwarded as it was received";
  if (!context.policy.receipts.rewritten) {
    throw new CheckFailed(`found ${forwarded.body_hash} forwarded, expected ${received.body_hash} as received`);
  }
  return "it was rewritten, which the policy tolerates";
}

/** @param {any} receipt @param {Established} established @param {string | null} model @param {Context} context */
function checkModel(receipt, established, model, context) {
  if (model !== null && receipt.model !== model) {
    throw new CheckFailed(`found a receipt for the model ${receipt.model}, expected ${model}`);
  }
  const bound = subjectManifest(established.keyset.subject);
  const named = eventsOf(receipt, "model.manifest").map((event) => event.digest);
  const other = named.find((one) => one !== bound);
  if (other !== undefined) {
    throw new CheckFailed(`found the manifest ${other}, expected ${bound ?? "none, as the keyset names none"}`);
  }
  if (bound !== null && !named.length) {
    throw new NotChecked(`names no manifest, and the keyset ${bound}`, context.policy.models.manifests.length > 0);
  }
  return saidOfModel(receipt.model, established.manifest, bound);
}

/** @param {string | null} model @param {any} manifest @param {string | null} bound */
function saidOfModel(model, manifest, bound) {
  const what = model === null ? "no model" : `model '${model}'`;
  if (bound === null) return `${what}; no manifest says what that is`;
  if (!manifest) return `${what}, of the manifest ${bound}`;
  const listed = manifest.models.some((/** @type {any} */ entry) =>
    [entry.id, ...(entry.aliases ?? [])].includes(model),
  );
  return `${what}, ${listed ? "which" : "NOT one that"} the manifest lists`;
}

/**
 * @param {Ledger} ledger @param {Context} context @param {any} receipt @param {Established} established
 * @param {Record<string, Uint8Array>} sessions @param {string} subject
 */
async function checkUpstream(ledger, context, receipt, established, sessions, subject) {
  const events = eventsOf(receipt, "upstream.verified");
  if (established.serving === "direct") {
    if (events.length)
      throw new CheckFailed("found an upstream in the receipt of a service that says it serves directly");
    throw new NotChecked("a direct service has no upstream", false);
  }
  const { required } = context.policy.sessions;
  if (!events.length) throw new NotChecked("an aggregator's receipt that tells of no upstream", required);
  checkOutcome(receipt, events[events.length - 1], required);
  const ids = cited(receipt).sort();
  if (ids.length > MOST_SESSIONS) {
    throw new CheckFailed(`the receipt cites ${ids.length} sessions; at most ${MOST_SESSIONS} are read`);
  }
  for (const id of ids) {
    if (!Object.hasOwn(sessions, id)) throw new NotChecked(`the session ${id} is not at hand`, required);
    const before = ledger.findings.length;
    const where = `${subject} session ${id.slice(0, 16)}`.trim();
    await verifySession(ledger, context, id, sessions[id], receipt.served_at, where);
    stands(ledger.findings.slice(before), `the session ${id.slice(0, 16)}`, required);
  }
  return `served in the session ${ids.join(", ")}`;
}

/**
 * The last attempt is the one that served. A refusal says that it failed, and that nothing was forwarded.
 * @param {any} receipt @param {any} last @param {boolean} required
 */
function checkOutcome(receipt, last, required) {
  if (last.result === "failed") {
    if (!eventsOf(receipt, "request.forwarded").length) {
      throw new NotChecked(`refused and not forwarded: ${last.reason}`, false);
    }
    if (!required) throw new NotChecked(`served unverified, which the policy tolerates: ${last.reason}`, false);
    throw new CheckFailed(`served by an upstream that was not verified: ${last.reason}`);
  }
  if (required && !last.required) {
    throw new CheckFailed("verification of the upstream was not required for this request, and the policy requires it");
  }
}

/** @param {any} receipt @param {Established} established @param {Context} context */
function checkTime(receipt, established, context) {
  const served = receipt.served_at;
  if (served > context.now + CLOCK_SKEW) {
    throw new CheckFailed(`served at ${served}, which is ${served - context.now} seconds from now`);
  }
  if (served >= established.keyset.not_after) {
    throw new CheckFailed(`served at ${served}, and the keyset counted until ${established.keyset.not_after}`);
  }
  return `served at ${served}, as the service says`;
}
