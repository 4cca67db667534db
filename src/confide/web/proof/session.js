/**
 * Attested sessions of an aggregator: what it verified of an upstream, checked against the id that cites it.
 *
 * Source: Attested Confidential Inference, `aci/1`, sections 8 and 9.2.
 */

import { CheckFailed, fromBase64 } from "./bytes.js";
import { sha256 } from "./crypto.js";
import { canonical, parse } from "./jcs.js";
import { digest, hex32, listOf, name, nullable, object, record, seconds, string, version, words } from "./shapes.js";
import { CLAIMS, SOURCES } from "./terms.js";
import { NotChecked, bounded } from "./verdict.js";

/** @typedef {import("./policy.js").Context} Context */

const MOST_BYTES = 4 << 20;
const STATUSES = ["asserted", "refuted"];
const DATA_URI = /^data:[A-Za-z0-9!#$&^_.+/;="' -]+;base64,([A-Za-z0-9+/]*={0,2})$/;
/** @type {Record<string, import("./shapes.js").Shape>} */
const BINDINGS = {
  tls_spki_sha256: record({ type: words, origin: words, spki_sha256: hex32 }),
  e2ee_public_key_sha256: record(
    { type: words, provider: words, algorithm: name, public_key_sha256: hex32 },
    { key_id: name },
  ),
};
const claimShape = record({ status: name }, { source: name, reason: words });
const sessionShape = record(
  {
    api_version: version,
    upstream_name: name,
    endpoint: nullable(words),
    verifier_id: name,
    established_at: seconds,
    expires_at: seconds,
    channel_binding: listOf(object),
    claims: object,
    evidence: record({ digest, data: string() }),
  },
  { identity: object },
);

/**
 * Read a record, and check its evidence against its own digest.
 * @param {Uint8Array} document @returns {Promise<any>}
 */
export async function parseSession(document) {
  const session = parse(document);
  sessionShape(session, "the session");
  if (session.expires_at <= session.established_at) {
    throw new CheckFailed("invalid session: expires_at is not after established_at");
  }
  CLAIMS.filter((one) => Object.hasOwn(session.claims, one)).forEach((one) => checkClaim(session.claims[one], one));
  bindings(session);
  const match = DATA_URI.exec(session.evidence.data);
  if (!match) throw new CheckFailed("invalid session: evidence.data is no base64 data URI");
  if ((await sha256(fromBase64(match[1], "invalid session: evidence.data"))) !== session.evidence.digest) {
    throw new CheckFailed("invalid session: evidence.data does not hash to evidence.digest");
  }
  return session;
}

/** A claim has a source exactly when it says something. @param {any} claim @param {string} what */
function checkClaim(claim, what) {
  claimShape(claim, `the claim ${what}`);
  if (claim.status === "unknown" && (claim.source !== undefined || claim.reason !== undefined)) {
    throw new CheckFailed(`invalid session: the claim ${what} is unknown and has a source or a reason`);
  }
  if (STATUSES.includes(claim.status) && claim.source === undefined) {
    throw new CheckFailed(`invalid session: the claim ${what} has no source`);
  }
}

/**
 * What a session says of a claim; what isn't there, or says what isn't known here, is unknown.
 * @param {any} session @param {string} what
 */
export function claimOf(session, what) {
  const { status, source } = session.claims[what] ?? {};
  return STATUSES.includes(status) && SOURCES.includes(source) ? { status, source } : { status: "unknown" };
}

/** The channels that can be enforced; unknown kinds can't. @param {any} session @returns {any[]} */
export function bindings(session) {
  const known = session.channel_binding.filter((/** @type {any} */ one) => Object.hasOwn(BINDINGS, String(one.type)));
  known.forEach((/** @type {any} */ one) => BINDINGS[one.type](one, "channel_binding"));
  return known;
}

/**
 * Check the record that was fetched for an id; `at` is when the answer was served.
 * @param {import("./verdict.js").Ledger} ledger @param {Context} context @param {string} id @param {Uint8Array} document
 * @param {number} at  Unix seconds @param {string} subject
 */
export async function verifySession(ledger, context, id, document, at, subject) {
  await ledger.group(
    "session",
    async (checks) => {
      await checks.need(1, () => checkId(id, document));
      const session = await checks.need(
        2,
        () => parseSession(document),
        (read) => `the record of '${read.upstream_name}'`,
      );
      await checks.check(3, () => checkPeriod(session, at));
      await checks.check(4, () => checkClaims(session, context.policy.sessions));
      checks.skip(5, `the upstream's evidence (${session.evidence.digest}) was not verified again`, false);
      ledger.facts.sessions ??= {};
      ledger.facts.sessions[id] = {
        upstream_name: bounded(session.upstream_name),
        endpoint: session.endpoint === null ? null : bounded(session.endpoint),
        verifier_id: bounded(session.verifier_id),
        evidence: session.evidence.digest,
      };
    },
    subject,
  );
}

/** @param {string} id @param {Uint8Array} document */
async function checkId(id, document) {
  if (document.length > MOST_BYTES) {
    throw new CheckFailed(`the record has ${document.length} bytes; at most ${MOST_BYTES} are read`);
  }
  const found = (await sha256(canonical(parse(document)))).slice("sha256:".length);
  if (found !== id) throw new CheckFailed(`found the record ${found}, expected ${id}`);
}

/** @param {any} session @param {number} at */
function checkPeriod(session, at) {
  if (at < session.established_at || at >= session.expires_at) {
    const period = `${session.established_at} to ${session.expires_at}`;
    throw new CheckFailed(`found a session that counts from ${period}, expected one for ${at}`);
  }
  return `counts until ${session.expires_at}`;
}

/**
 * A claim that is refuted or from a source that doesn't count fails; one that nobody makes is missing.
 * @param {any} session @param {{required: boolean, claims: Record<string, string[]>}} policy
 */
function checkClaims(session, policy) {
  if (!bindings(session).length)
    throw new CheckFailed("found no channel binding of a known kind, expected at least one");
  const wrong = [];
  const unknown = [];
  for (const [what, sources] of Object.entries(policy.claims)) {
    const { status, source = "" } = claimOf(session, what);
    if (status === "unknown") unknown.push(what);
    else if (status !== "asserted" || !sources.includes(source)) {
      wrong.push(`found ${what} ${status} (${source}), expected asserted (${sources.join(", ")})`);
    }
  }
  if (wrong.length) throw new CheckFailed(wrong.join("; "));
  if (unknown.length) throw new NotChecked(`the session says nothing about ${unknown.join(", ")}`, policy.required);
  return Object.keys(policy.claims).join(", ") || "the policy demands no claim";
}
