/**
 * SHA-256 (FIPS 180-4) of bytes that arrive in pieces. Web Crypto hashes only what is there as a whole, and an answer that
 * streams shall not be kept only for its hash. For everything else `digest` of Web Crypto is used.
 */

import { hex } from "./bytes.js";

const PRIMES = primes(64);
const START = PRIMES.slice(0, 8).map((prime) => fraction(prime, 2n));
const ROUND = PRIMES.map((prime) => fraction(prime, 3n));

/** @param {number} count @returns {number[]} */
function primes(count) {
  /** @type {number[]} */
  const found = [];
  for (let candidate = 2; found.length < count; candidate += 1) {
    if (found.every((prime) => candidate % prime)) found.push(candidate);
  }
  return found;
}

/**
 * The first 32 bits of the fractional part of a prime's root, from which the standard derives its constants; in whole
 * numbers, since the precision of Math.cbrt is each engine's own affair.
 * @param {number} prime @param {bigint} degree @returns {number}
 */
function fraction(prime, degree) {
  const power = BigInt(prime) << (32n * degree);
  let root = 0n;
  for (let bit = 1n << 40n; bit; bit >>= 1n) {
    if ((root + bit) ** degree <= power) root += bit;
  }
  return Number(BigInt.asIntN(32, root));
}

export class Sha256 {
  #state = Int32Array.from(START);
  #block = new Uint8Array(64);
  #schedule = new Int32Array(64);
  #size = 0;
  #ended = false;

  /** Take some bytes. @param {Uint8Array} data @returns {this} */
  update(data) {
    if (this.#ended) throw new Error("this hash was read already");
    let at = 0;
    while (at < data.length) {
      const filled = this.#size % 64;
      const taken = data.subarray(at, at + 64 - filled);
      this.#block.set(taken, filled);
      this.#size += taken.length;
      at += taken.length;
      if (this.#size % 64 === 0) this.#compress();
    }
    return this;
  }

  /** `sha256:` and hex, as digest fields have it. No bytes can be added afterwards. @returns {string} */
  digest() {
    const bits = this.#size * 8;
    this.update(new Uint8Array(1).fill(0x80));
    this.update(new Uint8Array((120 - (this.#size % 64)) % 64));
    const length = new DataView(new ArrayBuffer(8));
    length.setUint32(0, Math.floor(bits / 2 ** 32));
    length.setUint32(4, bits % 2 ** 32);
    this.update(new Uint8Array(length.buffer));
    this.#ended = true;
    const out = new DataView(new ArrayBuffer(32));
    this.#state.forEach((word, at) => out.setInt32(4 * at, word));
    return `sha256:${hex(new Uint8Array(out.buffer))}`;
  }

  #compress() {
    const w = this.#schedule;
    const view = new DataView(this.#block.buffer);
    for (let t = 0; t < 16; t += 1) w[t] = view.getInt32(4 * t);
    for (let t = 16; t < 64; t += 1) {
      const s0 = turn(w[t - 15], 7) ^ turn(w[t - 15], 18) ^ (w[t - 15] >>> 3);
      const s1 = turn(w[t - 2], 17) ^ turn(w[t - 2], 19) ^ (w[t - 2] >>> 10);
      w[t] = w[t - 16] + s0 + w[t - 7] + s1;
    }
    let [a, b, c, d, e, f, g, h] = this.#state;
    for (let t = 0; t < 64; t += 1) {
      const one = (h + (turn(e, 6) ^ turn(e, 11) ^ turn(e, 25)) + ((e & f) ^ (~e & g)) + ROUND[t] + w[t]) | 0;
      const two = ((turn(a, 2) ^ turn(a, 13) ^ turn(a, 22)) + ((a & b) ^ (a & c) ^ (b & c))) | 0;
      h = g;
      g = f;
      f = e;
      e = (d + one) | 0;
      d = c;
      c = b;
      b = a;
      a = (one + two) | 0;
    }
    [a, b, c, d, e, f, g, h].forEach((word, at) => (this.#state[at] += word));
  }
}

/** @param {number} word @param {number} bits */
function turn(word, bits) {
  return (word >>> bits) | (word << (32 - bits));
}
