/** A small strict reader of DER (X.690), for X.509 certificates and revocation lists: one way to write each value. */

import { CheckFailed } from "./bytes.js";

export const INTEGER = 0x02;
export const BIT_STRING = 0x03;
export const OCTET_STRING = 0x04;
export const OID = 0x06;
export const SEQUENCE = 0x30;
export const SET = 0x31;
export const IA5_STRING = 0x16;
const BOOLEAN = 0x01;
const UTF8_STRING = 0x0c;
const UNIVERSAL_STRING = 0x1c;
const BMP_STRING = 0x1e;
const PRINTABLE_STRING = 0x13;
const UTC_TIME = 0x17;
const GENERALIZED_TIME = 0x18;

/**
 * One value: its tag, its contents, and all of its bytes.
 * @typedef {{tag: number, value: Uint8Array, raw: Uint8Array}} Item
 */

/** A cursor over the values in some bytes. */
export class Der {
  #data;
  #at = 0;

  /** @param {Uint8Array} data */
  constructor(data) {
    this.#data = data;
  }

  /** Whether nothing is left. */
  get done() {
    return this.#at === this.#data.length;
  }

  /** The tag of the next value, -1 at the end. */
  get tag() {
    return this.done ? -1 : this.#data[this.#at];
  }

  /** The next value; of this tag, if one is given. @param {number} [tag] @returns {Item} */
  next(tag) {
    const start = this.#at;
    const found = this.#byte();
    if ((found & 0x1f) === 0x1f) throw new CheckFailed("DER: a tag of several bytes");
    if (tag !== undefined && found !== tag) throw new CheckFailed(`DER: found tag ${found}, expected ${tag}`);
    const size = this.#length();
    if (size > this.#data.length - this.#at) throw new CheckFailed("DER: a value is longer than what holds it");
    const value = this.#data.subarray(this.#at, this.#at + size);
    this.#at += size;
    return { tag: found, value, raw: this.#data.subarray(start, this.#at) };
  }

  /** The values inside the next one. @param {number} [tag] @returns {Der} */
  inside(tag = SEQUENCE) {
    return new Der(this.next(tag).value);
  }

  /** The next value if it has this tag, else null. @param {number} tag @returns {Item | null} */
  maybe(tag) {
    return this.tag === tag ? this.next(tag) : null;
  }

  /** Nothing may be left. */
  end() {
    if (!this.done) throw new CheckFailed("DER: bytes after the last value");
  }

  #byte() {
    if (this.done) throw new CheckFailed("DER: the bytes end within a value");
    return this.#data[this.#at++];
  }

  /** Short where it can be, never indefinite, and less than 2^24. */
  #length() {
    const first = this.#byte();
    if (first < 0x80) return first;
    let size = 0;
    if (first === 0x80 || first > 0x83) throw new CheckFailed("DER: a length that is indefinite or too long");
    for (let count = first & 0x7f; count; count -= 1) size = size * 256 + this.#byte();
    if (size < 0x80 || size < 2 ** (8 * ((first & 0x7f) - 1)))
      throw new CheckFailed("DER: a length with leading zeros");
    return size;
  }
}

/** One value that is all of these bytes. @param {Uint8Array} data @param {number} [tag] @returns {Item} */
export function only(data, tag) {
  const reader = new Der(data);
  const item = reader.next(tag);
  reader.end();
  return item;
}

/** An object identifier with dots. @param {Item} item @returns {string} */
export function oid(item) {
  const arcs = [];
  let arc = 0;
  let open = false;
  for (const byte of item.value) {
    if (!open && byte === 0x80) throw new CheckFailed("DER: an object identifier with leading zeros");
    arc = arc * 128 + (byte & 0x7f);
    open = byte >= 0x80;
    if (open) continue;
    arcs.push(arc);
    arc = 0;
  }
  if (open || !arcs.length) throw new CheckFailed("DER: an object identifier that doesn't end");
  const top = Math.min(2, Math.floor(arcs[0] / 40));
  return [top, arcs[0] - 40 * top, ...arcs.slice(1)].join(".");
}

/** The bytes of an integer that is not negative, without a leading zero. @param {Item} item @returns {Uint8Array} */
export function unsigned(item) {
  const { value } = item;
  if (!value.length || value[0] >= 0x80 || (value.length > 1 && value[0] === 0 && value[1] < 0x80)) {
    throw new CheckFailed("DER: an integer that is negative or has leading zeros");
  }
  return value[0] === 0 ? value.subarray(1) : value;
}

/** The bytes of an integer, in two's complement and as short as can be. @param {Item} item @returns {Uint8Array} */
export function integer({ value }) {
  const isPadded = value.length > 1 && [0, 0xff].includes(value[0]) && value[0] >> 7 === value[1] >> 7;
  if (!value.length || isPadded) throw new CheckFailed("DER: an integer with leading zeros");
  return value;
}

/** A small number. @param {Item} item @returns {number} */
export function number(item) {
  const digits = unsigned(item);
  if (digits.length > 6) throw new CheckFailed("DER: a number that is too large");
  return digits.reduce((value, byte) => value * 256 + byte, 0);
}

/** The bytes of a bit string, null where it is not whole bytes. @param {Item} item @returns {Uint8Array | null} */
export function wholeBytes({ value }) {
  const [unused] = value;
  const last = value[value.length - 1];
  if (!value.length || unused > 7 || (unused && (value.length === 1 || last & ((1 << unused) - 1)))) {
    throw new CheckFailed("DER: a malformed bit string");
  }
  return unused ? null : value.subarray(1);
}

/** A text of ASCII or UTF-8; of other kinds, a character for each byte. @param {Item} item @returns {string} */
export function text({ tag, value }) {
  if (tag === UTF8_STRING) return new TextDecoder().decode(value);
  // of two or four bytes for a character: nobody's certificates have these, and so they are only told apart from garbage
  if (tag === UNIVERSAL_STRING || (tag === BMP_STRING && value.length % 2))
    throw new CheckFailed("DER: a malformed text");
  const said = Array.from(value, (byte) => String.fromCharCode(byte)).join("");
  if (tag === PRINTABLE_STRING && !/^[A-Za-z0-9 '()+,\-./:=?]*$/.test(said)) {
    throw new CheckFailed("DER: a text with characters that it can't have");
  }
  return said;
}

/** Whether the next value is a BOOLEAN that is true. DER leaves out what is false by default. @param {Der} reader */
export function flag(reader) {
  const item = reader.maybe(BOOLEAN);
  if (item && (item.value.length !== 1 || item.value[0] !== 0xff)) {
    throw new CheckFailed("DER: a truth value in another form");
  }
  return item !== null;
}

/** A time in Unix seconds (RFC 5280, section 4.1.2.5). @param {Item} item @returns {number} */
export function time(item) {
  const text = String.fromCharCode(...item.value);
  const match = /^(\d{2}|\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)Z$/.exec(text);
  const digits = item.tag === UTC_TIME ? 2 : item.tag === GENERALIZED_TIME ? 4 : 0;
  if (!match || match[1].length !== digits) throw new CheckFailed("DER: a time in another form");
  const [, year, ...rest] = match;
  const full = digits === 4 ? year : `${Number(year) < 50 ? "20" : "19"}${year}`;
  const [month, day, hours, minutes, seconds] = rest;
  const iso = `${full}-${month}-${day}T${hours}:${minutes}:${seconds}.000Z`;
  const at = Date.parse(iso);
  if (Number.isNaN(at) || new Date(at).toISOString() !== iso) throw new CheckFailed("DER: a time that there is not");
  return at / 1000;
}
