/** One verification of a service: a nonce, its report, a verdict. */

import { SECP256K1_SUITE, X25519_SUITE, parseReport } from "./aci.js";
import { CheckFailed, Named, hex } from "./bytes.js";
import { claimsOf, verifyClaims } from "./claims.js";
import { random, support } from "./crypto.js";
import { PolicyError, acceptingAnything, policyDigest, policyFrom } from "./policy.js";
import { verifyReport } from "./report.js";
import { rootsOf } from "./roots.js";
import { Ledger, NotChecked, judge } from "./verdict.js";

/** @typedef {import("./types.js").Attested} Attested */
/** @typedef {import("./types.js").Policy} Policy */
/** @typedef {import("./types.js").PublicKey} PublicKey */
/** @typedef {import("./policy.js").Context} Context */
/** @typedef {import("./material.js").Item} Item */

const E2EE_VERSION = "2";

/** The service can't be reached, or gives no report. `status` is 0 where nothing came. */
export class Unreachable extends Named {
  /** @param {string} message @param {number} status */
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

/**
 * Fetch a report for a nonce made here, and verify it.
 * @param {string} baseUrl  the origin, with or without /v1
 * @param {{fetch?: typeof fetch, now?: number, policy?: Policy | null, developmentRoot?: string, seal?: boolean, material?: Item[]}} [options]
 *     `now` in Unix seconds; `policy` as JSON; `developmentRoot` a PEM text, as `--insecure-dev-root` reads it; `seal`: false
 *     for requests in clear; `material`: AMD's lists and NVIDIA's manifests, where some are at hand
 * @returns {Promise<Attested>}
 * @throws {Unreachable} there is nothing to judge
 * @throws {PolicyError} the policy, or the development root, can't be used
 */
export async function attest(baseUrl, options = {}) {
  const { fetch: get = fetch, now = Math.floor(Date.now() / 1000), seal = true, ...rest } = options;
  const { origin, hostname } = new URL(baseUrl);
  const nonce = hex(random(32));
  const document = await fetched(get, `${origin}/v1/aci/attestation?nonce=${nonce}`, "the report");
  const manifest = await fetched(get, `${origin}/v1/aci/manifest`, "the manifest").catch(() => null);
  const sealKey = seal ? await offeredKey(document) : null;
  const host = hostname.replace(/^\[|\]$/g, "");
  const channel = { host, tls_spki_sha256: null, sealed_to: sealKey?.public_key ?? null, is_page: true };
  const attested = await verifySaved({ document, nonce, channel, manifest }, { ...rest, now, baseUrl: origin });
  return { ...attested, sealKey };
}

/**
 * Verify a report that was saved, without any network.
 * @param {import("./types.js").Saved} saved
 * @param {{now: number, policy?: Policy | null, developmentRoot?: string, baseUrl?: string, material?: Item[]}} options
 * @returns {Promise<Attested>} @throws {PolicyError} the policy, or the development root, can't be used
 */
export async function verifySaved(saved, { now, policy = null, developmentRoot, baseUrl = "", material = [] }) {
  const given = policy === null ? null : policyFrom(policy);
  const context = { ...contextOf(given, now, developmentRoot), material };
  const ledger = new Ledger();
  const established = await verifyReport(ledger, context, saved);
  await verifyClaims(ledger, context);
  const verdict = judge(ledger, {
    subject: saved.channel?.host ?? "the report",
    at: now,
    policy: given,
    digest: given === null ? "" : policyDigest(given),
    claims: claimsOf(ledger),
  });
  const report = await shown(saved.document);
  return {
    baseUrl,
    saved,
    report,
    verdict,
    established,
    sealKey: null,
    context,
    captured_at: saved.captured_at ?? now,
  };
}

/** A report as JSON, whatever became of it; null where it is none. @param {Uint8Array} document */
async function shown(document) {
  try {
    return (await parseReport(document)).report;
  } catch (wrong) {
    if (wrong instanceof CheckFailed || wrong instanceof NotChecked) return null;
    throw wrong;
  }
}

/** @param {Policy | null} policy @param {number} now @param {string} [developmentRoot] @returns {Context} */
function contextOf(policy, now, developmentRoot) {
  const judgedBy = policy ?? acceptingAnything();
  try {
    return { policy: judgedBy, roots: rootsOf(judgedBy.roots, developmentRoot), now };
  } catch (wrong) {
    if (wrong instanceof CheckFailed) throw new PolicyError(wrong.message);
    throw wrong;
  }
}

/**
 * The key that a report offers for encryption: one for X25519, which Web Crypto computes in constant time, where both the
 * service and the browser have it, else one on secp256k1. It is read before the report is verified, since the verdict is also
 * about it: report.10 says whether it is an attested one.
 * @param {Uint8Array} document @returns {Promise<PublicKey | null>}
 */
async function offeredKey(document) {
  const report = await shown(document);
  if (!report?.service_capabilities?.supported_e2ee_versions?.includes(E2EE_VERSION)) return null;
  /** @type {import("./types.js").Keyset} */
  const { e2ee_public_keys: keys } = report.attestation.workload_keyset;
  const suites = (await support()).x25519 ? [X25519_SUITE, SECP256K1_SUITE] : [SECP256K1_SUITE];
  return suites.map((algo) => keys.find((key) => key.algo === algo)).find((key) => key !== undefined) ?? null;
}

/** @param {typeof fetch} get @param {string} url @param {string} what @returns {Promise<Uint8Array>} */
async function fetched(get, url, what) {
  let response;
  try {
    response = await get(url, { cache: "no-store", redirect: "error" });
  } catch (failed) {
    throw new Unreachable(`${what} can't be had: ${failed instanceof Error ? failed.message : failed}`, 0);
  }
  if (!response.ok)
    throw new Unreachable(`${what} can't be had: the service answered ${response.status}`, response.status);
  return new Uint8Array(await response.arrayBuffer());
}
