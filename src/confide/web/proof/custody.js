/**
 * Key custody: who released the private keys behind the keyset, by the signatures of dstack's KMS.
 *
 * Source: Attested Confidential Inference, `aci/1`, section 3.3; the public dstack repository, `kms` (`crypto.rs`) and
 * `guest-agent` (`GetKey`). The chain of a key is two recoverable signatures of secp256k1 over Keccak-256: the application's key
 * signs `<purpose>:<public key in hex>`, and the KMS's root key signs `dstack-kms-issued:` with the application's id and
 * compressed key after it. A recoverable signature fits *some* key for every message, so nothing is shown by one chain whose
 * root nobody expects. The same as `confide/verify/custody.py`, in its words.
 */

import { CheckFailed, concat, fromHex, hex, same, utf8 } from "./bytes.js";
import { isSigningRoot } from "./dstack.js";
import { keccak256 } from "./keccak.js";
import { POINT_SIZE, compressed, decode, recover } from "./secp256k1.js";
import { listOf, nullable, oneOf, record, string } from "./shapes.js";
import { NotChecked } from "./verdict.js";

/** @typedef {{app_id: string | null, key_provider: {name: string} | null}} Measured  of a guest's log */
/**
 * @typedef {object} Proof  One released key.
 * @property {string} purpose
 * @property {Uint8Array} key
 * @property {Uint8Array} signed  the public key that the signature is over, which for a server that shows `kms_public_key` is
 *     another key of the same secret, as that server says
 * @property {[Uint8Array, Uint8Array]} chain
 */
/** @typedef {{application: string, root: string}} Issuer  compressed public keys in hex */

const MOST_KEYS = 32;
const ISSUED = utf8("dstack-kms-issued:");
const ED25519_SIZE = 32;
const APP_ID_SIZE = 20;
/** @type {Record<string, number[]>} */
const KEY_SIZES = { ed25519: [ED25519_SIZE], secp256k1: [33, 64, 65] };

const hexText = string(2048);
const shortText = string(256);
const keyShape = record(
  {
    purpose: shortText,
    public_key: hexText,
    signature_chain: listOf(hexText, 2),
  },
  { path: shortText, algorithm: shortText, kms_public_key: nullable(hexText) },
  { closed: false },
);
const custodyShape = record(
  { provider: oneOf("dstack-kms"), keys: listOf(keyShape, MOST_KEYS) },
  {},
  { closed: false },
);

/**
 * Check the proofs of released keys against the measured application and the policy's roots.
 * @param {import("./verdict.js").Ledger} ledger @param {import("./policy.js").Context} context @param {any} custody
 * @param {Uint8Array[]} keysetKeys  the raw public keys of the keyset; points in any encoding
 * @param {Measured | null} dstack  what the guest's log proves
 */
export async function verifyCustody(ledger, context, custody, keysetKeys, dstack) {
  const { keys: wanted, dstack: accepted } = context.policy;
  const roots = accepted.key_providers.filter(isSigningRoot);
  const isNeeded = wanted.custody || roots.length > 0;
  await ledger.group("custody", async (checks) => {
    const keys = distinct(keysetKeys.map(plain));
    const proofs = await checks.need(
      1,
      () => read(custody, isNeeded),
      (found) => `${found.length} keys`,
    );
    const issuer = await checks.need(2, () => issuerOf(proofs, dstack, isNeeded), said);
    await checks.check(3, () => checkRoot(issuer, roots, dstack, isNeeded));
    await checks.check(4, () => checkSome(proofs, keys, isNeeded));
    await checks.check(5, () => checkAll(proofs, keys));
    const covered = coveredBy(proofs, keys);
    ledger.facts.custody = {
      application_key: issuer.application,
      root: issuer.root,
      released: covered.map(written),
      not_shown: keys.filter((key) => !covered.includes(key)).map(written),
    };
  });
}

/** @param {any} custody @param {boolean} isNeeded @returns {Proof[]} */
function read(custody, isNeeded) {
  if (custody === null) throw new NotChecked("the report shows no proof of who released its keys", isNeeded);
  try {
    custodyShape(custody, "the proofs");
    const short = custody.keys.find((/** @type {any} */ key) => key.signature_chain.length !== 2);
    if (short || !custody.keys.length) throw new CheckFailed("no keys, or no two signatures for each");
  } catch (wrong) {
    const why = wrong instanceof Error ? wrong.message : wrong;
    throw new CheckFailed(`found proofs in another form than dstack's KMS's: ${why}`);
  }
  return custody.keys.map(proofOf);
}

/** @param {any} key @returns {Proof} */
function proofOf({ purpose, public_key, signature_chain, algorithm = "", kms_public_key: other = null }) {
  const key = fromHex(public_key, `the public key for '${purpose}'`);
  const sizes = Object.hasOwn(KEY_SIZES, algorithm) ? KEY_SIZES[algorithm] : [];
  if (algorithm && !sizes.includes(key.length)) {
    throw new CheckFailed(`a key of ${key.length} bytes for '${algorithm}'`);
  }
  const [first, second] = signature_chain.map((/** @type {string} */ one) => fromHex(one, "a signature"));
  const own = key.length === ED25519_SIZE ? key : decode(key);
  const signed = other === null ? own : decode(fromHex(other, "kms_public_key"));
  return { purpose, key: own, signed, chain: [first, second] };
}

/** A key of the keyset in one encoding: the 64 bytes x and y where it is a point, else as it is. @param {Uint8Array} key */
function plain(key) {
  try {
    return decode(key);
  } catch (wrong) {
    if (wrong instanceof CheckFailed) return key;
    throw wrong;
  }
}

/** @param {Uint8Array[]} keys */
const distinct = (keys) => keys.filter((key, at) => keys.findIndex((other) => same(other, key)) === at);

/** The one issuer behind all proofs. @param {Proof[]} proofs @param {Measured | null} dstack @param {boolean} isNeeded */
function issuerOf(proofs, dstack, isNeeded) {
  const id = dstack?.app_id ?? null;
  if (id === null) throw new NotChecked("no application id was measured that keys could be released to", isNeeded);
  const appId = fromHex(id, "the application id");
  if (appId.length !== APP_ID_SIZE) {
    throw new CheckFailed(`found an application id of ${appId.length} bytes, expected ${APP_ID_SIZE}`);
  }
  /** @type {Map<string, Issuer>} */
  const issuers = new Map();
  const applications = proofs.map(applicationOf);
  for (const [at, application] of applications.entries()) {
    const root = recovered(proofs[at].chain[1], concat(ISSUED, appId, application));
    const issuer = { application: hex(application), root: hex(root) };
    issuers.set(said(issuer), issuer);
  }
  if (issuers.size !== 1) {
    throw new CheckFailed(`found signatures of ${issuers.size} issuers, expected one: some are over something else`);
  }
  return [...issuers.values()][0];
}

/** The key that signed for the released one. @param {Proof} proof */
const applicationOf = ({ purpose, signed, chain }) => recovered(chain[0], utf8(`${purpose}:${written(signed)}`));

/** @param {Uint8Array} signature @param {Uint8Array} message */
const recovered = (signature, message) => compressed(recover(signature, keccak256(message)));

/** A public key as the guest's agent writes it: a point compressed. @param {Uint8Array} key */
const written = (key) => hex(key.length === POINT_SIZE ? compressed(key) : key);

/** @param {Issuer} issuer */
const said = ({ application, root }) => `application key ${application}, root ${root}`;

/** @param {Issuer} issuer @param {string[]} roots @param {Measured | null} dstack @param {boolean} isNeeded */
function checkRoot({ root }, roots, dstack, isNeeded) {
  const provider = dstack?.key_provider?.name;
  if (provider !== "kms") {
    const found = provider === undefined ? "None" : `'${provider}'`;
    throw new CheckFailed(`the guest measured that its keys are of ${found}, expected 'kms'`);
  }
  if (!roots.length) {
    const reason =
      `the policy names no root of a KMS's signatures; the chain ends at ${root}, ` +
      "which belongs in dstack.key_providers where it is known to be the KMS's";
    throw new NotChecked(reason, isNeeded);
  }
  if (!roots.includes(root)) throw new CheckFailed(`found the root ${root}, expected one of ${roots.join(", ")}`);
  return root;
}

/** @param {Proof[]} proofs @param {Uint8Array[]} keys @param {boolean} isNeeded */
function checkSome(proofs, keys, isNeeded) {
  const covered = coveredBy(proofs, keys);
  if (covered.length) return `released and signed for: ${covered.map(written).join(", ")}`;
  if (proofs.some((proof) => keys.some((key) => same(key, proof.key)))) {
    throw new NotChecked(
      "the signatures are over other keys, of which the workload only says that they have the same secrets",
      isNeeded,
    );
  }
  throw new CheckFailed(`found proofs of ${proofs.length} keys, and none of them is in the keyset`);
}

/** @param {Proof[]} proofs @param {Uint8Array[]} keys */
function checkAll(proofs, keys) {
  const covered = coveredBy(proofs, keys);
  const rest = keys.filter((key) => !covered.includes(key)).map(written);
  if (rest.length) {
    const reason = `not shown to be released, on the word of the measured code: ${rest.join(", ")}`;
    throw new NotChecked(reason, false);
  }
  return `all ${keys.length}`;
}

/** The keys that a signature is over. @param {Proof[]} proofs @param {Uint8Array[]} keys */
function coveredBy(proofs, keys) {
  const own = proofs.filter((proof) => same(proof.key, proof.signed));
  return keys.filter((key) => own.some((proof) => same(proof.key, key)));
}
