/**
 * The suites of sealing, and one sealed field: a key agreed with a new key pair, HKDF-SHA256, and AES-256-GCM.
 *
 * A field is `hex(point || nonce (12) || ciphertext || tag (16))`. Source: E2EE v2 of the ACI specification, sections 3 and 4.
 */

import { SECP256K1_SUITE, X25519_SUITE } from "./aci.js";
import { CheckFailed, Named, concat, fromHex, fromUtf8, hex, utf8 } from "./bytes.js";
import { subtle } from "./crypto.js";
import { agree, isSecret, publicPoint } from "./secp256k1.js";

/** @typedef {Uint8Array<ArrayBuffer>} Bytes */
/** @typedef {(size: number) => Uint8Array} Randomness */
/** @typedef {{point: Uint8Array, agree: (point: Uint8Array) => Promise<Bytes>}} Pair  our half of an agreement */
/**
 * @typedef {object} Suite  A curve, and what the keys that are derived on it are for.
 * @property {string} algo @property {Bytes} info
 * @property {number} size  of a point in front of a ciphertext, in bytes
 * @property {(secret: Uint8Array) => boolean} takes  whether 32 bytes are a private key
 * @property {(secret: Uint8Array) => Promise<Pair>} pair
 */

export const NONCE_SIZE = 12;
export const TAG_SIZE = 16;
const X25519 = { name: "X25519" };
/** What stands before the 32 bytes of a private key (RFC 8410). */
const PKCS8 = fromHex("302e020100300506032b656e04220420", "a prefix");
const BASE_POINT = new Uint8Array(32).fill(9, 0, 1);

/** Something can't be sealed, or what came isn't what the service sealed for this request. */
export class SealError extends Named {
  /** @param {"CannotSeal" | "BadKey" | "Forged" | "Truncated"} kind @param {string} message */
  constructor(kind, message) {
    super(message);
    this.kind = kind;
  }
}

/** Curve25519 of Web Crypto, which refuses a point of low order. @param {string} algo @param {string} info @returns {Suite} */
export const x25519 = (algo, info) => ({
  algo,
  info: utf8(info),
  size: 32,
  takes: (secret) => secret.length === 32,
  async pair(secret) {
    const key = await subtle().importKey("pkcs8", concat(PKCS8, secret), X25519, false, ["deriveBits"]);
    const shared = async (/** @type {Uint8Array} */ point) => {
      const other = await subtle().importKey("raw", concat(point), X25519, false, []);
      return new Uint8Array(await subtle().deriveBits({ name: "X25519", public: other }, key, 256));
    };
    return { point: await shared(BASE_POINT), agree: shared };
  },
});

/**
 * secp256k1 of this folder, which is not constant time: for key pairs of one request.
 * @param {string} algo @param {string} info @returns {Suite}
 */
export const secp256k1 = (algo, info) => ({
  algo,
  info: utf8(info),
  size: 65,
  takes: isSecret,
  async pair(secret) {
    const kept = concat(secret);
    return { point: publicPoint(kept), agree: async (point) => agree(kept, point) };
  },
});

/**
 * The suites of `aci/1`, the better one first: Web Crypto knows it.
 * @type {Record<string, Suite>}
 */
export const SUITES = {
  [X25519_SUITE]: x25519(X25519_SUITE, "aci.e2ee.v2.x25519"),
  [SECP256K1_SUITE]: secp256k1(SECP256K1_SUITE, "aci.e2ee.v2.secp256k1"),
};

/** A new key pair. @param {Suite} suite @param {Randomness} random @returns {Promise<Pair>} */
export async function newPair(suite, random) {
  let secret = random(32);
  while (!suite.takes(secret)) secret = random(32); // one time in 2^128
  return suite.pair(secret);
}

/** The number of characters of a sealed empty field. @param {Suite} suite */
export const shortest = (suite) => 2 * (suite.size + NONCE_SIZE + TAG_SIZE);

/** @param {Suite} suite @param {Pair} pair @param {Uint8Array} point @param {KeyUsage} usage */
async function cipher(suite, pair, point, usage) {
  const shared = await subtle().importKey("raw", await pair.agree(point), "HKDF", false, ["deriveKey"]);
  const hkdf = { name: "HKDF", hash: "SHA-256", salt: new Uint8Array(), info: suite.info };
  return subtle().deriveKey(hkdf, shared, { name: "AES-GCM", length: 256 }, false, [usage]);
}

/**
 * One field, sealed by a new key pair.
 * @param {Suite} suite @param {Uint8Array} recipient  its point @param {string} text @param {Uint8Array} aad
 * @param {Randomness} random @returns {Promise<string>}
 */
export async function sealField(suite, recipient, text, aad, random) {
  const pair = await newPair(suite, random);
  const key = await cipher(suite, pair, recipient, "encrypt");
  const iv = concat(random(NONCE_SIZE));
  const sealed = await subtle().encrypt({ name: "AES-GCM", iv, additionalData: concat(aad) }, key, utf8(text));
  return hex(concat(pair.point, iv, new Uint8Array(sealed)));
}

/**
 * The plaintext of one field. Whatever is wrong, it is the same error.
 * @param {Suite} suite @param {Pair} pair @param {string} text @param {Uint8Array} aad @returns {Promise<string>}
 */
export async function openField(suite, pair, text, aad) {
  try {
    if (text.length < shortest(suite) || text.startsWith("0x")) throw new CheckFailed("too short");
    const blob = fromHex(text, "a field");
    const key = await cipher(suite, pair, blob.slice(0, suite.size), "decrypt");
    const iv = blob.slice(suite.size, suite.size + NONCE_SIZE);
    const sealed = blob.slice(suite.size + NONCE_SIZE);
    return fromUtf8(
      new Uint8Array(await subtle().decrypt({ name: "AES-GCM", iv, additionalData: concat(aad) }, key, sealed)),
    );
  } catch {
    throw new SealError("Forged", "a field can't be opened");
  }
}

// What a field can't be moved away from --------------------------------------------------------------------------------

/** @typedef {(string | number)[]} Path */
/** @typedef {{id: string, model: string}} Head  the members of an answer, or of one chunk, that its fields are bound to */
/**
 * @typedef {object} Binding  The associated data of a field; `model` is the request's.
 * @property {(model: string, path: Path) => Uint8Array} request
 * @property {(model: string, head: Head, path: Path) => Uint8Array} response
 */

/**
 * Of ACI: the members in the canonical form of RFC 8785, in that form's order.
 * @param {string} algo @param {string} nonce @param {number} timestamp @returns {Binding}
 */
export function binding(algo, nonce, timestamp) {
  /** @param {string} purpose @param {string} model @param {Path} path @param {string} middle */
  const bound = (purpose, model, path, middle) =>
    utf8(
      `{"algo":"${algo}","field":${JSON.stringify(path.join("."))}${middle},"model":${JSON.stringify(model)},` +
        `"nonce":"${nonce}","purpose":"aci.e2ee.${purpose}.v2","ts":${timestamp}}`,
    );
  return {
    request: (model, path) => bound("request", model, path, ""),
    response: (model, { id }, path) => bound("response", model, path, `,"id":${JSON.stringify(id)}`),
  };
}
