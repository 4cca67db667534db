/**
 * Who a server is: its keyset, the statement that the hardware quotes, and the report that carries both.
 *
 * Source: Attested Confidential Inference, `aci/1`, sections 3 and 4. A keyset's shape is fixed, so it is read strictly. The
 * report around it is not signed as a whole and may carry members of other surfaces, which are left unread.
 */

import { CheckFailed, concat } from "./bytes.js";
import { hash, sha256 } from "./crypto.js";
import { canonical, parse } from "./jcs.js";
import { anything, digest, hex32, listOf, name, nullable, object, record, seconds, version, words } from "./shapes.js";

/** @typedef {import("./types.js").Keyset} Keyset */
/** @typedef {import("./types.js").PublicKey} PublicKey */

export const ED25519 = "ed25519";
export const X25519_SUITE = "x25519-aes-256-gcm-hkdf-sha256";
export const SECP256K1_SUITE = "secp256k1-aes-256-gcm-hkdf-sha256";
/** @type {Record<string, RegExp>} */
const PUBLIC_KEYS = {
  [ED25519]: /^[0-9a-f]{64}$/,
  [X25519_SUITE]: /^[0-9a-f]{64}$/,
  [SECP256K1_SUITE]: /^04[0-9a-f]{128}$/,
};
const MANIFEST = /^confide-manifest:(sha256:[0-9a-f]{64})$/;

const publicKey = record({ key_id: name, algo: name, public_key: words });
const keysetShape = record(
  {
    subject: nullable(words),
    not_after: seconds,
    receipt_signing_keys: listOf(publicKey),
    e2ee_public_keys: listOf(publicKey),
  },
  { tls_public_keys: listOf(record({ spki_sha256: hex32 }, { domain: name })) },
);
const open = { closed: false };
const provenance = record(
  {},
  {
    repo_url: nullable(words),
    repo_commit: nullable(words),
    image_digest: nullable(words),
    image_provenance: anything,
  },
  open,
);
const reportShape = record(
  {
    api_version: version,
    workload_keyset_digest: digest,
    attestation: record(
      { tee_type: name, workload_keyset: object, report_data: hex32 },
      { source_provenance: provenance, evidence: object },
      open,
    ),
  },
  { service_capabilities: record({}, { supported_e2ee_versions: listOf(name), serving: name }, open) },
  open,
);

/**
 * A keyset from the JSON value of its document.
 * @param {any} value @returns {Keyset}
 */
export function keysetFrom(value) {
  keysetShape(value, "the keyset");
  const roles = [value.receipt_signing_keys, value.e2ee_public_keys];
  /** @type {PublicKey[]} */
  const keys = roles.flat();
  for (const key of keys) {
    if (!isPublicKey(key)) {
      throw new CheckFailed(`invalid keyset: the public key ${key.key_id} is no ${key.algo} key in lower-case hex`);
    }
  }
  /** @param {PublicKey[]} some @param {"key_id" | "public_key"} member */
  const areDistinct = (some, member) => new Set(some.map((key) => key[member])).size === some.length;
  if (!roles.every((role) => areDistinct(role, "key_id"))) {
    throw new CheckFailed("invalid keyset: two keys of one role have the same key_id");
  }
  if (!areDistinct(keys, "public_key")) {
    throw new CheckFailed("invalid keyset: one key is listed twice; each key has one role");
  }
  return value;
}

/**
 * Whether a key is written as those of its algorithm are; of one that isn't known here, it may be written in any way.
 * @param {PublicKey} key
 */
export function isPublicKey({ algo, public_key: text }) {
  return !Object.hasOwn(PUBLIC_KEYS, algo) || PUBLIC_KEYS[algo].test(text);
}

/** What the statement names. @param {Keyset} keyset @returns {Promise<string>} */
export function keysetDigest(keyset) {
  return sha256(canonical(keyset));
}

/**
 * The manifest's digest in a subject that names one, or null.
 * @param {string | null} subject @returns {string | null}
 */
export function subjectManifest(subject) {
  return subject?.match(MANIFEST)?.[1] ?? null;
}

/** The SPKI digests that a host may show. @param {Keyset} keyset @param {string} host @returns {string[]} */
export function tlsKeysFor(keyset, host) {
  /** @param {string} one */
  const plain = (one) => one.trim().replace(/\.+$/, "").toLowerCase();
  const listed = keyset.tls_public_keys ?? [];
  return listed
    .filter((key) => key.domain === undefined || plain(key.domain) === plain(host))
    .map((key) => key.spki_sha256);
}

/** @param {string} nonce */
export function checkNonce(nonce) {
  if (!/^[0-9a-f]{64}$/.test(nonce)) throw new CheckFailed("the nonce is not 64 lower-case hexadecimal characters");
}

/**
 * The 64 bytes that the CPU's quote holds: the statement's SHA-256, then zeros. A null nonce proves no freshness.
 * @param {string} digest @param {string | null} nonce @returns {Promise<Uint8Array>}
 */
export async function reportDataSlot(digest, nonce) {
  const statement = canonical({ keyset_digest: digest, nonce, purpose: "aci.report_data.v1" });
  return concat(await hash("SHA-256", statement), new Uint8Array(32));
}

/**
 * Read a report, and check that it names the keyset that it holds.
 * @param {Uint8Array} data @returns {Promise<{report: any, keyset: Keyset}>}
 */
export async function parseReport(data) {
  const report = parse(data);
  reportShape(report, "the report");
  const keyset = keysetFrom(report.attestation.workload_keyset);
  if ((await keysetDigest(keyset)) !== report.workload_keyset_digest) {
    throw new CheckFailed("invalid report: workload_keyset_digest is not the digest of workload_keyset");
  }
  return { report, keyset };
}
