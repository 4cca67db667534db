/**
 * Server-sent events out of bytes that arrive in pieces of any size.
 *
 * Source: WHATWG HTML, section 9.2. Lines end with LF or CRLF; a bare CR, which no engine sends, is part of its line.
 */

import { CheckFailed, concat, fromUtf8, utf8 } from "./bytes.js";

/**
 * @typedef {{raw: Uint8Array, data: Uint8Array | null, isDone: boolean, others: string[]}} Event  `isDone`: OpenAI's end of a stream
 */

const LONGEST = 64 * 1024 * 1024;
const LF = 10;
const CR = 13;
const KNOWN = ["event", "id", "retry"];

/** The lines of one event. @param {Uint8Array} raw @returns {Event} */
function readEvent(raw) {
  const data = [];
  const others = [];
  for (const line of fromUtf8(raw).replaceAll("\r\n", "\n").split("\n")) {
    const [name] = line.split(":", 1);
    const value = line.slice(name.length + 1);
    if (name === "data") data.push(value.startsWith(" ") ? value.slice(1) : value);
    else if (line.startsWith(":") || KNOWN.includes(name)) others.push(line);
    else if (line) throw new CheckFailed("a line that events don't have");
  }
  const text = data.length ? data.join("\n") : null;
  return { raw, data: text === null ? null : utf8(text), isDone: text?.trim() === "[DONE]", others };
}

/** An event with other data, which has no line breaks. @param {Event} event @param {Uint8Array} data */
export function withData(event, data) {
  return concat(utf8(event.others.map((line) => `${line}\n`).join("")), utf8("data: "), data, utf8("\n\n"));
}

/** Bytes in, whole events out. */
export class EventReader {
  #buffer = new Uint8Array(4096);
  #size = 0;
  /** Where the line that isn't complete begins. */
  #line = 0;

  /** Whether an event has begun and not ended. */
  get pending() {
    return this.#size > 0;
  }

  /** Take some bytes, and give the events that they complete. @param {Uint8Array} data @returns {Event[]} */
  feed(data) {
    const from = this.#size;
    this.#append(data);
    const found = this.#whole(from);
    if (this.#size > LONGEST) throw new CheckFailed("an event without an end");
    return found.map(readEvent);
  }

  /** @param {Uint8Array} data */
  #append(data) {
    const needed = this.#size + data.length;
    if (needed > this.#buffer.length) {
      const larger = new Uint8Array(2 * needed);
      larger.set(this.#buffer.subarray(0, this.#size));
      this.#buffer = larger;
    }
    this.#buffer.set(data, this.#size);
    this.#size = needed;
  }

  /** @param {number} from  up to here no line end is left to be found */
  #whole(from) {
    const found = [];
    let begin = 0;
    for (let at = from; at < this.#size; at += 1) {
      if (this.#buffer[at] !== LF) continue;
      const length = at - this.#line;
      this.#line = at + 1;
      if (length > 1 || (length === 1 && this.#buffer[at - 1] !== CR)) continue;
      found.push(this.#buffer.slice(begin, at + 1));
      begin = at + 1;
    }
    this.#buffer.copyWithin(0, begin, this.#size);
    this.#size -= begin;
    this.#line -= begin;
    return found;
  }
}
