/**
 * Bytes and how they are written: hexadecimal, base64, UTF-8, and a reader of fixed layouts that never reads past its end.
 */

/** An error that is called by the name of its class. */
export class Named extends Error {
  get name() {
    return this.constructor.name;
  }
}

/** Bytes or text that is not what it claims to be, or a check whose answer is no; the text says what was found. */
export class CheckFailed extends Named {}

const HEX = Array.from({ length: 256 }, (_, byte) => byte.toString(16).padStart(2, "0"));

/** @param {Uint8Array} data @returns {string} */
export function hex(data) {
  let text = "";
  for (const byte of data) text += HEX[byte];
  return text;
}

/**
 * Hexadecimal digits of whole bytes, in either case, with or without `0x`.
 * @param {string} text @param {string} what @returns {Uint8Array<ArrayBuffer>}
 */
export function fromHex(text, what) {
  const digits = text.startsWith("0x") ? text.slice(2) : text;
  if (digits.length % 2 || !/^[0-9a-fA-F]*$/.test(digits)) throw new CheckFailed(`${what} is not hexadecimal`);
  return Uint8Array.from({ length: digits.length / 2 }, (_, at) => parseInt(digits.slice(2 * at, 2 * at + 2), 16));
}

/**
 * Base64 with its padding and nothing else; padding after whole bytes changes nothing.
 * @param {string} text @param {string} what @returns {Uint8Array<ArrayBuffer>}
 */
export function fromBase64(text, what) {
  const [, digits = "", padding = "="] = /^([A-Za-z0-9+/]*)(={0,2})$/.exec(text) ?? [];
  const missing = (4 - (digits.length % 4)) % 4;
  const isPadded = padding.length === missing || (missing === 0 && digits);
  if (missing === 3 || !isPadded) throw new CheckFailed(`${what} is no base64`);
  const binary = atob(digits);
  return Uint8Array.from({ length: binary.length }, (_, at) => binary.charCodeAt(at));
}

/** @param {Uint8Array} data @returns {string} */
export function base64(data) {
  let binary = "";
  for (let at = 0; at < data.length; at += 8192) binary += String.fromCharCode(...data.subarray(at, at + 8192));
  return btoa(binary);
}

/** @param {string} text @returns {Uint8Array<ArrayBuffer>} */
export function utf8(text) {
  return new TextEncoder().encode(text);
}

/** Text of UTF-8 bytes; a byte order mark is a character like others. @param {Uint8Array} data @returns {string} */
export function fromUtf8(data) {
  return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(data);
}

/** @param {...Uint8Array} parts @returns {Uint8Array<ArrayBuffer>} */
export function concat(...parts) {
  const whole = new Uint8Array(parts.reduce((size, part) => size + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

/** @param {Uint8Array} one @param {Uint8Array} other @returns {boolean} */
export function same(one, other) {
  return one.length === other.length && one.every((byte, at) => byte === other[at]);
}

/** Whether a string holds halves of characters, which UTF-8 can't hold. @param {string} text @returns {boolean} */
export function hasLoneSurrogate(text) {
  return /[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/.test(text);
}

/** A cursor over bytes. Numbers are little-endian. */
export class Reader {
  #data;
  #at = 0;

  /** @param {Uint8Array} data @param {string} what  names them in errors */
  constructor(data, what) {
    this.#data = data;
    this.what = what;
  }

  /** The next bytes. @param {number} size @param {string} field @returns {Uint8Array} */
  take(size, field) {
    if (size > this.left) throw this.wrong(`${field} needs ${size} bytes and ${this.left} are left`);
    this.#at += size;
    return this.#data.slice(this.#at - size, this.#at);
  }

  /** The next `size` bytes as an unsigned number. @param {number} size @param {string} field @returns {number} */
  number(size, field) {
    return this.take(size, field).reduceRight((value, byte) => value * 256 + byte, 0);
  }

  /** A reader of only the next bytes. @param {number} size @param {string} field @returns {Reader} */
  part(size, field) {
    return new Reader(this.take(size, field), `${this.what}, ${field}`);
  }

  get left() {
    return this.#data.length - this.#at;
  }

  /** Nothing may be left. */
  end() {
    if (this.left) throw this.wrong(`${this.left} bytes too many`);
  }

  /** What to throw about that which was just read. @param {string} reason @returns {CheckFailed} */
  wrong(reason) {
    return new CheckFailed(`${this.what}, offset ${this.#at}: ${reason}`);
  }
}
