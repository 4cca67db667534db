/**
 * Public keys of certificates, and the signatures that they verify: ECDSA on P-256 with SHA-256 and on P-384 with SHA-384, and
 * RSASSA-PSS with 4096 bits and SHA-384.
 *
 * Source: RFC 5480 and RFC 3279 (SubjectPublicKeyInfo), RFC 4055, section 3.1.
 */

import { CheckFailed, concat, hex } from "./bytes.js";
import { subtle } from "./crypto.js";
import * as der from "./der.js";

/** @typedef {import("./x509.js").Certificate} Certificate */
/** @typedef {"ES256" | "ES384" | "PS384" | null} Algorithm  how something is signed; null in another way, or in two */

const EC_KEY = "1.2.840.10045.2.1";
const NULL = 0x05;
/**
 * The curves by the size of a point's two coordinates: their name, hash and algorithm, and the SubjectPublicKeyInfo of a key up
 * to the coordinates.
 * @type {Record<number, {namedCurve: string, hash: string, algorithm: Algorithm, prefix: string}>}
 */
const CURVES = {
  64: {
    namedCurve: "P-256",
    hash: "SHA-256",
    algorithm: "ES256",
    prefix: "3059301306072a8648ce3d020106082a8648ce3d03010703420004",
  },
  96: {
    namedCurve: "P-384",
    hash: "SHA-384",
    algorithm: "ES384",
    prefix: "3076301006072a8648ce3d020106052b8104002203620004",
  },
};
/** The identifier of an RSA key. */
const RSA = "06092a864886f70d0101010500";
const RSA_SIZE = 512;

/**
 * Whether the key of a certificate signed a certificate or a list, in the way that this says.
 * @param {Certificate} issuer @param {{tbs: Uint8Array, signature: Uint8Array, algorithm: Algorithm}} one
 */
export async function isSignedBy(issuer, { tbs, signature, algorithm }) {
  if (algorithm === null || !signature.length) return false;
  if (algorithm === "PS384") return isRsaSigned(issuer, signature, tbs);
  const point = pointOf(issuer);
  if (point === null || CURVES[point.length].algorithm !== algorithm) return false;
  return isSigned(point, rawSignature(signature, point.length / 2), tbs);
}

/**
 * The coordinates of a certificate's P-256 key.
 * @param {Certificate} one @param {string} what @returns {Uint8Array}
 */
export function keyOf(one, what) {
  const point = pointOf(one);
  if (point?.length !== 64) throw new CheckFailed(`${what} has no P-256 key`);
  return point;
}

/**
 * The coordinates of a certificate's key, 64 bytes of P-256 or 96 of P-384; null where it is of another kind.
 * @param {Certificate} one @returns {Uint8Array | null}
 */
export function pointOf({ spki }) {
  for (const [size, { prefix }] of Object.entries(CURVES)) {
    const start = prefix.length / 2;
    if (spki.length === start + Number(size) && hex(spki.subarray(0, start)) === prefix) return spki.subarray(start);
  }
  return null;
}

/** r and s in `size` bytes each, empty where they can't be. @param {Uint8Array} signature  in DER @param {number} size */
function rawSignature(signature, size) {
  const pair = new der.Der(der.only(signature, der.SEQUENCE).value);
  const numbers = [der.unsigned(pair.next(der.INTEGER)), der.unsigned(pair.next(der.INTEGER))];
  pair.end();
  if (numbers.some((one) => one.length > size)) return new Uint8Array();
  return concat(...numbers.flatMap((one) => [new Uint8Array(size - one.length), one]));
}

/**
 * Whether these bytes, r and s, are the ECDSA signature of the key with these coordinates: on P-256 with SHA-256 where the
 * point has 64 bytes, on P-384 with SHA-384 where it has 96.
 * @param {Uint8Array} point  x and y @param {Uint8Array} signature @param {Uint8Array} message
 */
export async function isSigned(point, signature, message) {
  if (signature.length !== point.length) return false;
  const { hash } = CURVES[point.length];
  const key = await keyAt(point);
  return key !== null && subtle().verify({ name: "ECDSA", hash }, key, concat(signature), concat(message));
}

/** The key with these coordinates; null where no point of the curve has them. @param {Uint8Array} point */
export function keyAt(point) {
  const { namedCurve } = CURVES[point.length];
  return imported("raw", concat(Uint8Array.of(4), point), { name: "ECDSA", namedCurve });
}

/**
 * Whether an RSA key with 4096 bits made this signature with RSASSA-PSS, SHA-384 and a salt of 48 bytes.
 * @param {Certificate} issuer @param {Uint8Array} signature @param {Uint8Array} message
 */
async function isRsaSigned({ spki }, signature, message) {
  const { algorithm, key: own } = keyParts(spki);
  if (own === null || hex(algorithm) !== RSA) return false;
  const numbers = new der.Der(der.only(own, der.SEQUENCE).value);
  const modulus = der.unsigned(numbers.next(der.INTEGER));
  if (modulus.length !== RSA_SIZE || modulus[0] < 0x80) return false;
  const key = await imported("spki", concat(spki), { name: "RSA-PSS", hash: "SHA-384" });
  return key !== null && subtle().verify({ name: "RSA-PSS", saltLength: 48 }, key, concat(signature), concat(message));
}

/**
 * A key for {@link SubtleCrypto.verify}; null where the bytes are none, a point that is not on its curve for instance.
 * @param {"raw" | "spki"} format @param {Uint8Array<ArrayBuffer>} data @param {any} algorithm
 */
async function imported(format, data, algorithm) {
  try {
    return await subtle().importKey(format, data, algorithm, false, ["verify"]);
  } catch (wrong) {
    if (wrong instanceof DOMException && wrong.name === "DataError") return null;
    throw wrong;
  }
}

/**
 * The identifier of a public key, and the key's own bytes; null where these are no whole bytes.
 * @param {Uint8Array} spki  SubjectPublicKeyInfo
 */
export function keyParts(spki) {
  const parts = new der.Der(der.only(spki, der.SEQUENCE).value);
  const algorithm = parts.next(der.SEQUENCE);
  checkIdentifier(new der.Der(algorithm.value));
  const key = der.wholeBytes(parts.next(der.BIT_STRING));
  parts.end();
  return { algorithm: algorithm.value, key };
}

/** A name, and parameters; a key on a curve names it or describes it (RFC 5480, section 2.1.1). @param {der.Der} parts */
function checkIdentifier(parts) {
  const name = der.oid(parts.next(der.OID));
  const parameters = parts.done ? null : parts.next();
  parts.end();
  if (name !== EC_KEY) return;
  if (parameters?.tag === der.OID) der.oid(parameters);
  else if (![NULL, der.SEQUENCE].includes(parameters?.tag ?? -1)) throw new CheckFailed("DER: a curve that is none");
}
