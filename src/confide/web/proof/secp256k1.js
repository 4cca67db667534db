/**
 * secp256k1, which Web Crypto doesn't have: points, the public key behind a recoverable ECDSA signature, and agreement.
 *
 * Source: SEC 2 (the curve), SEC 1, sections 2.3 (encodings of points), 3.3.1 (agreement) and 4.1.6 (recovery); for sums the
 * complete formulas of Renes, Costello and Batina (2015, algorithms 7 and 9), which hold for all points, the one at infinity too.
 *
 * BigInt is not constant time: how long an operation takes depends on its numbers, and nothing in JavaScript can change
 * that. With public numbers, as in signatures, that says nothing. With a secret, {@link publicPoint} and {@link agree} make
 * the same steps for each one (64 times four doublings and a sum, whatever the digits, and no end before the last), so that
 * what remains is the engine's own arithmetic and its caches. So they are for keys that are made in a page for one request
 * and forgotten after its answer: whoever would measure must do so in that time, on that machine, from one run of each key.
 * A key that lives longer, or that answers other people's requests, must not be used here.
 */

import { CheckFailed, concat, fromHex, hex } from "./bytes.js";

/** @typedef {{x: bigint, y: bigint, z: bigint}} Point  projective: (x / z, y / z), and z = 0 at infinity */

const FIELD = 2n ** 256n - 2n ** 32n - 977n;
const ORDER = 0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141n;
const B = 7n;
const THREE_B = 3n * B;
/** @type {Point} */
const INFINITY = { x: 0n, y: 1n, z: 0n };
/** @type {Point} */
const GENERATOR = {
  x: 0x79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798n,
  y: 0x483ada7726a3c4655da4fbfc0e1108a8fd17b448a68554199c47d08ffb10d4b8n,
  z: 1n,
};
const SIGNATURE_SIZE = 65;
const DIGEST_SIZE = 32;
/** Of a public key as it is given here: x and y, big-endian. */
export const POINT_SIZE = 64;
const ETHEREUM = 27;
/** Bits of a scalar that are looked up at once. */
const DIGIT = 4n;

// Keys and signatures --------------------------------------------------------------------------------------------------

/**
 * The key whose signature this is: the 64 bytes x and y.
 *
 * Every signature that is in range is some key's signature over any digest, so the caller must know the key that it expects.
 * The last byte of a signature says which of the candidates it is: 0 to 3, or 27 to 30 as Ethereum has it.
 * @param {Uint8Array} signature  65 bytes: r, s, and the recovery id @param {Uint8Array} digest  32 bytes
 * @param {{lowS?: boolean}} [options]  refuse an s above half the order, so that a signature has one spelling only
 * @returns {Uint8Array<ArrayBuffer>}
 * @throws {CheckFailed} r or s is out of range, the recovery id is none, or no point of the curve fits
 */
export function recover(signature, digest, { lowS = false } = {}) {
  if (signature.length !== SIGNATURE_SIZE || digest.length !== DIGEST_SIZE) {
    throw new CheckFailed(`a signature of ${signature.length} bytes over ${digest.length}; 65 over 32 are recoverable`);
  }
  const [r, s] = [numberOf(signature.subarray(0, 32)), numberOf(signature.subarray(32, 64))];
  const which = signature[64] >= ETHEREUM ? signature[64] - ETHEREUM : signature[64];
  if (!isScalar(r) || !isScalar(s)) throw new CheckFailed("a signature whose r or s is out of range");
  if (lowS && s > ORDER / 2n) throw new CheckFailed("a signature whose s is above half the order");
  if (which > 3) throw new CheckFailed(`a signature whose recovery id is ${signature[64]}`);
  const x = which > 1 ? r + ORDER : r;
  if (x >= FIELD) throw new CheckFailed("a signature whose r is no coordinate of the curve with this recovery id");
  const point = { x, y: lifted(x, which % 2), z: 1n };
  const inverse = power(r, ORDER - 2n, ORDER);
  const ofGenerator = ((ORDER - (numberOf(digest) % ORDER)) * inverse) % ORDER;
  const key = affine(
    sum([
      [ofGenerator, GENERATOR],
      [(s * inverse) % ORDER, point],
    ]),
  );
  if (key === null) throw new CheckFailed("a signature that no key can have made over this digest");
  return key;
}

/**
 * A public key in any encoding (33 bytes, 65, or 64 without a prefix) as the 64 bytes x and y.
 * @param {Uint8Array} data @returns {Uint8Array<ArrayBuffer>} @throws {CheckFailed} it is no point of the curve
 */
export function decode(data) {
  if (data.length === 33 && (data[0] === 2 || data[0] === 3)) {
    const x = numberOf(data.subarray(1));
    if (x >= FIELD) throw new CheckFailed("a public key whose x is out of range");
    return concat(data.subarray(1), bytesOf(lifted(x, data[0] % 2)));
  }
  const raw = data.length === 65 && data[0] === 4 ? data.subarray(1) : data;
  if (raw.length !== POINT_SIZE) {
    throw new CheckFailed(`a public key of ${data.length} bytes that is no point of secp256k1`);
  }
  const [x, y] = [numberOf(raw.subarray(0, 32)), numberOf(raw.subarray(32))];
  if (x >= FIELD || y >= FIELD || (y * y - x * x * x - B) % FIELD) {
    throw new CheckFailed("a public key that is not on the curve secp256k1");
  }
  return concat(raw);
}

/** The 33 bytes of a public key of 64, as {@link decode} gives them. @param {Uint8Array} point */
export function compressed(point) {
  return concat(Uint8Array.of(2 + (point[63] % 2)), point.subarray(0, 32));
}

// Agreement ------------------------------------------------------------------------------------------------------------

/** Whether 32 bytes are a private key: from 1 to the order less 1. @param {Uint8Array} secret */
export function isSecret(secret) {
  return secret.length === 32 && isScalar(numberOf(secret));
}

/**
 * The 65 bytes of the public key of a private one: 4, x and y.
 * @param {Uint8Array} secret  32 bytes @returns {Uint8Array<ArrayBuffer>} @throws {CheckFailed} it is no private key
 */
export function publicPoint(secret) {
  return concat(Uint8Array.of(4), multiplied(secret, GENERATOR));
}

/**
 * The 32 shared bytes: the x of the shared point. The order is prime, so that no point has a low one.
 * @param {Uint8Array} secret  32 bytes @param {Uint8Array} point  65 bytes, uncompressed @returns {Uint8Array<ArrayBuffer>}
 * @throws {CheckFailed} the one is no private key, or the other no uncompressed point of the curve
 */
export function agree(secret, point) {
  if (point.length !== 65) throw new CheckFailed("a point that is not an uncompressed one");
  const raw = decode(point);
  return multiplied(secret, { x: numberOf(raw.subarray(0, 32)), y: numberOf(raw.subarray(32)), z: 1n }).slice(0, 32);
}

/** @param {Uint8Array} secret @param {Point} point @returns {Uint8Array<ArrayBuffer>} */
function multiplied(secret, point) {
  const key = isSecret(secret) ? affine(sum([[numberOf(secret), point]])) : null;
  if (key === null) throw new CheckFailed("no private key of secp256k1");
  return key;
}

// Arithmetic -----------------------------------------------------------------------------------------------------------

/**
 * The sum of multiples of points, digit by digit for all of them: the same steps for all scalars below 2^256.
 * @param {[bigint, Point][]} terms @returns {Point}
 */
function sum(terms) {
  const tables = terms.map(([scalar, point]) => ({ scalar, multiples: multiplesOf(point) }));
  const mask = (1n << DIGIT) - 1n;
  let total = INFINITY;
  for (let shift = 256n - DIGIT; shift >= 0n; shift -= DIGIT) {
    for (let bit = 0n; bit < DIGIT; bit += 1n) total = doubled(total);
    for (const { scalar, multiples } of tables) total = added(total, multiples[Number((scalar >> shift) & mask)]);
  }
  return total;
}

/** What a digit may choose from: 0 to 15 times a point. @param {Point} point */
function multiplesOf(point) {
  const found = [INFINITY];
  while (found.length < 1 << Number(DIGIT)) found.push(added(found[found.length - 1], point));
  return found;
}

/** @param {Point} one @param {Point} other @returns {Point} */
function added(one, other) {
  const xx = (one.x * other.x) % FIELD;
  const yy = (one.y * other.y) % FIELD;
  const zz = (THREE_B * one.z * other.z) % FIELD;
  const xy = (one.x * other.y + other.x * one.y) % FIELD;
  const yz = (one.y * other.z + other.y * one.z) % FIELD;
  const xz = (THREE_B * (one.x * other.z + other.x * one.z)) % FIELD;
  const [less, more, three] = [yy - zz, yy + zz, 3n * xx];
  return {
    x: (xy * less - yz * xz) % FIELD,
    y: (less * more + xz * three) % FIELD,
    z: (yz * more + three * xy) % FIELD,
  };
}

/** @param {Point} point @returns {Point} */
function doubled({ x, y, z }) {
  const yy = (y * y) % FIELD;
  const zz = (THREE_B * z * z) % FIELD;
  const less = yy - 3n * zz;
  return {
    x: (2n * less * ((x * y) % FIELD)) % FIELD,
    y: (8n * yy * zz + less * (yy + zz)) % FIELD,
    z: (8n * yy * ((y * z) % FIELD)) % FIELD,
  };
}

/** The 64 bytes x and y of a point; null at infinity. @param {Point} point @returns {Uint8Array<ArrayBuffer> | null} */
function affine({ x, y, z }) {
  if (z === 0n) return null;
  const inverse = power(z, FIELD - 2n, FIELD);
  return concat(bytesOf(x * inverse), bytesOf(y * inverse));
}

/** The y of the point with this x and this parity. @param {bigint} x @param {number} odd @returns {bigint} */
function lifted(x, odd) {
  const square = (x * x * x + B) % FIELD;
  const y = power(square, (FIELD + 1n) / 4n, FIELD);
  if ((y * y) % FIELD !== square) throw new CheckFailed("a number that is the x of no point of secp256k1");
  return Number(y & 1n) === odd ? y : FIELD - y;
}

/**
 * A power modulo an odd prime; the exponent is no secret.
 * @param {bigint} base @param {bigint} exponent @param {bigint} modulus @returns {bigint}
 */
function power(base, exponent, modulus) {
  let made = 1n;
  for (let square = base % modulus, rest = exponent; rest; rest >>= 1n) {
    if (rest & 1n) made = (made * square) % modulus;
    square = (square * square) % modulus;
  }
  return made;
}

/** @param {bigint} number */
const isScalar = (number) => number > 0n && number < ORDER;

/** @param {Uint8Array} data @returns {bigint} */
const numberOf = (data) => BigInt(`0x${hex(data)}`);

/** 32 bytes of a number modulo the field's prime. @param {bigint} number @returns {Uint8Array<ArrayBuffer>} */
function bytesOf(number) {
  const least = ((number % FIELD) + FIELD) % FIELD;
  return fromHex(least.toString(16).padStart(64, "0"), "a number");
}
