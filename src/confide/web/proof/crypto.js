/** What of Web Crypto is used, and what to say where a browser has not all of it. */

import { hex } from "./bytes.js";
import { NotChecked } from "./verdict.js";

/** @typedef {Uint8Array<ArrayBuffer>} Bytes */

/**
 * Web Crypto. Browsers give it to pages of https and of this machine only.
 * @returns {SubtleCrypto}
 */
export function subtle() {
  const found = globalThis.crypto?.subtle;
  if (!found) throw new NotChecked("this browser gives this page no cryptography: open it over https");
  return found;
}

/** @param {"SHA-256" | "SHA-384"} algorithm @param {Uint8Array} data @returns {Promise<Bytes>} */
export async function hash(algorithm, data) {
  return new Uint8Array(await subtle().digest(algorithm, /** @type {Bytes} */ (data)));
}

/** `sha256:` and hex, as digest fields have it. @param {Uint8Array} data @returns {Promise<string>} */
export async function sha256(data) {
  return `sha256:${hex(await hash("SHA-256", data))}`;
}

/** @param {number} size @returns {Bytes} */
export function random(size) {
  return crypto.getRandomValues(new Uint8Array(size));
}

/**
 * Which algorithms are there that not every browser has: Ed25519 for receipts, X25519 for sealing (secp256k1 is our own).
 * @returns {Promise<{ed25519: boolean, x25519: boolean}>}
 */
export async function support() {
  const [ed25519, x25519] = await Promise.all([can("Ed25519", ["verify"]), can("X25519", [])]);
  return { ed25519, x25519 };
}

/**
 * Whether a signature of Ed25519 is that of a key over these bytes.
 * @param {Uint8Array} key  32 bytes @param {Uint8Array} signature  64 bytes @param {Uint8Array} signed @returns {Promise<boolean>}
 * @throws {NotChecked} the browser doesn't know Ed25519
 */
export async function checkEd25519(key, signature, signed) {
  if (!(await support()).ed25519) throw new NotChecked("this browser can't check Ed25519 signatures; a newer one can");
  const imported = await subtle().importKey("raw", /** @type {Bytes} */ (key), ED25519, false, ["verify"]);
  return subtle().verify(ED25519, imported, /** @type {Bytes} */ (signature), /** @type {Bytes} */ (signed));
}

const ED25519 = { name: "Ed25519" };

/** @param {string} name @param {KeyUsage[]} usages */
async function can(name, usages) {
  try {
    const basePoint = new Uint8Array(32).fill(9, 0, 1);
    await subtle().importKey("raw", basePoint, { name }, false, usages);
    return true;
  } catch {
    return false;
  }
}
