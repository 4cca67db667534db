/**
 * Canonical JSON (RFC 8785): one byte string for one value, so that a digest or a signature covers the value.
 *
 * `parse` is our own, because `JSON.parse` drops one of two members of a name and rounds what it can't hold: two readers
 * must not understand a signed text differently (I-JSON, RFC 7493). What it returns can always be written by `canonical`.
 */

import { CheckFailed, fromUtf8, hasLoneSurrogate, utf8 } from "./bytes.js";

const MOST_DEPTH = 64;
const NUMBER = /-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?/y;
const PLAIN = /[^"\\\u0000-\u001f]*/y;
/** @type {Record<string, string>} */
const ESCAPES = { '"': '"', "\\": "\\", "/": "/", b: "\b", f: "\f", n: "\n", r: "\r", t: "\t" };
/** @type {[string, unknown][]} */
const WORDS = [
  ["true", true],
  ["false", false],
  ["null", null],
];

/**
 * The canonical text of a value.
 * @param {unknown} value @param {number} [depth] @returns {string}
 */
export function text(value, depth = 0) {
  if (typeof value === "string") return quoted(value);
  if (value instanceof Numeral) return text(value.value, depth);
  if (typeof value === "number") {
    if (!Number.isFinite(value)) throw new CheckFailed("a number isn't finite");
    return String(value); // ECMA-262, Number::toString, is what RFC 8785 asks for
  }
  if (value === null || typeof value === "boolean") return String(value);
  if (typeof value !== "object") throw new CheckFailed(`a ${typeof value} is no JSON value`);
  if (depth >= MOST_DEPTH) throw tooDeep(MOST_DEPTH);
  if (Array.isArray(value)) return `[${value.map((item) => text(item, depth + 1)).join(",")}]`;
  const members = Object.entries(value).sort(([one], [other]) => (one < other ? -1 : 1)); // by UTF-16 code units
  return `{${members.map(([name, member]) => `${quoted(name)}:${text(member, depth + 1)}`).join(",")}}`;
}

/** @param {unknown} value @returns {Uint8Array<ArrayBuffer>} */
export function canonical(value) {
  return utf8(text(value));
}

/** @param {string} value @returns {string} */
function quoted(value) {
  if (hasLoneSurrogate(value)) throw new CheckFailed("a string has a lone surrogate");
  return JSON.stringify(value); // escapes just what RFC 8785 does, once lone surrogates are refused
}

/** A number as it was written, for those that are no whole numbers: 1.0 is no integer, and is written "1". */
export class Numeral {
  /** @param {string} token */
  constructor(token) {
    this.token = token;
    this.value = Number(token);
    this.isInteger = !/[.eE]/.test(token);
  }
}

/**
 * The value of a JSON text that has one meaning only. A number with a fraction or an exponent is a {@link Numeral}.
 * @param {Uint8Array} data @returns {any}
 */
export function parse(data) {
  return parsed(data, { strict: true, exact: false });
}

/**
 * The value of a JSON text as most readers understand it: the last of several members of one name counts.
 * @param {Uint8Array} data @returns {any}
 */
export function parseLoosely(data) {
  return parsed(data, { strict: false, exact: false });
}

/**
 * The value of a JSON text, so that it can be written again with every member at its place and every number as it was:
 * objects are Maps, numbers are {@link Numeral}.
 * @param {Uint8Array} data @returns {any}
 */
export function parseExactly(data) {
  return parsed(data, { strict: false, exact: true });
}

/** @typedef {{strict: boolean, exact: boolean}} How */

/** @param {Uint8Array} data @param {How} how */
function parsed(data, how) {
  let decoded;
  try {
    decoded = fromUtf8(data);
  } catch {
    throw new CheckFailed("not UTF-8");
  }
  return new Parser(decoded, how).whole();
}

class Parser {
  #text;
  #how;
  #deepest;
  #at = 0;

  /** @param {string} text @param {How} how */
  constructor(text, how) {
    this.#text = text;
    this.#how = how;
    this.#deepest = how.strict ? MOST_DEPTH : 900;
  }

  whole() {
    this.#space();
    const value = this.#value(0);
    this.#space();
    if (this.#at < this.#text.length) throw this.#wrong("something follows the value");
    return value;
  }

  /** @param {number} depth @returns {unknown} */
  #value(depth) {
    const first = this.#text[this.#at];
    if (first === "{") return this.#object(depth);
    if (first === "[") return this.#array(depth);
    if (first === '"') return this.#string();
    for (const [word, value] of WORDS) {
      if (this.#text.startsWith(word, this.#at)) {
        this.#at += word.length;
        return value;
      }
    }
    return this.#number();
  }

  /** @param {number} depth */
  #object(depth) {
    if (depth >= this.#deepest) throw tooDeep(this.#deepest);
    /** @type {Map<string, unknown>} */
    const members = new Map();
    this.#each("}", () => {
      if (this.#text[this.#at] !== '"') throw this.#wrong("expected a member's name");
      const name = this.#string();
      if (this.#how.strict && members.has(name)) throw new CheckFailed("an object has two members of one name");
      this.#space();
      if (this.#text[this.#at] !== ":") throw this.#wrong("expected ':'");
      this.#at += 1;
      this.#space();
      members.set(name, this.#value(depth + 1));
    });
    return this.#how.exact ? members : Object.fromEntries(members); // which keeps even "__proto__" a member
  }

  /** @param {number} depth */
  #array(depth) {
    if (depth >= this.#deepest) throw tooDeep(this.#deepest);
    /** @type {unknown[]} */
    const items = [];
    this.#each("]", () => items.push(this.#value(depth + 1)));
    return items;
  }

  /**
   * Entries with commas between them, up to and with the closing bracket.
   * @param {string} end @param {() => void} entry
   */
  #each(end, entry) {
    this.#at += 1;
    this.#space();
    if (this.#text[this.#at] === end) {
      this.#at += 1;
      return;
    }
    for (;;) {
      this.#space();
      entry();
      this.#space();
      const next = this.#text[this.#at];
      if (next !== "," && next !== end) throw this.#wrong(`expected ',' or '${end}'`);
      this.#at += 1;
      if (next === end) return;
    }
  }

  #string() {
    this.#at += 1;
    let value = "";
    for (;;) {
      PLAIN.lastIndex = this.#at;
      value += /** @type {RegExpExecArray} */ (PLAIN.exec(this.#text))[0];
      this.#at = PLAIN.lastIndex;
      const next = this.#text[this.#at];
      if (next !== '"' && next !== "\\") throw this.#wrong("a string that doesn't end, or has a control character");
      this.#at += 1;
      if (next === '"') break;
      value += this.#escape();
    }
    if (hasLoneSurrogate(value)) throw new CheckFailed("a string has a lone surrogate");
    return value;
  }

  #escape() {
    const kind = this.#text[this.#at];
    if (kind === "u") {
      const digits = this.#text.slice(this.#at + 1, this.#at + 5);
      if (!/^[0-9a-fA-F]{4}$/.test(digits)) throw this.#wrong("a \\u without four hexadecimal digits");
      this.#at += 5;
      return String.fromCharCode(parseInt(digits, 16));
    }
    if (kind === undefined || !Object.hasOwn(ESCAPES, kind)) throw this.#wrong("an escape that JSON doesn't have");
    this.#at += 1;
    return ESCAPES[kind];
  }

  #number() {
    NUMBER.lastIndex = this.#at;
    const match = NUMBER.exec(this.#text);
    if (!match) throw this.#wrong("expected a value");
    this.#at = NUMBER.lastIndex;
    const numeral = new Numeral(match[0]);
    if (this.#how.exact) return numeral;
    if (this.#how.strict && !Number.isFinite(numeral.value)) throw new CheckFailed("a number isn't finite");
    if (numeral.isInteger && Number.isSafeInteger(numeral.value)) return numeral.value;
    if (this.#how.strict && numeral.isInteger) throw new CheckFailed("an integer is beyond 2^53 - 1");
    return numeral;
  }

  #space() {
    while (this.#at < this.#text.length && " \t\n\r".includes(this.#text[this.#at])) this.#at += 1;
  }

  /** @param {string} reason */
  #wrong(reason) {
    return new CheckFailed(`not JSON at character ${this.#at}: ${reason}`);
  }
}

/** @param {number} levels */
function tooDeep(levels) {
  return new CheckFailed(`values nest deeper than ${levels} levels`);
}
