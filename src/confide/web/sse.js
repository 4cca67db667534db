// Server-sent events out of bytes (WHATWG HTML, 9.2). Lines end at CR, LF or CRLF and nowhere else: not at U+2028, which
// may stand in a JSON text. Pieces may be cut anywhere, inside a character too: only whole lines are decoded.

const CR = 13;
const LF = 10;
const MOST_LINE = 16 * 1024 * 1024;

/** Takes bytes, gives the `data` of the events that they complete. */
export class EventReader {
  #decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  #rest = [];
  #restBytes = 0;
  #afterCr = false;
  #first = true;
  #data = [];

  /** The events that these bytes complete, as texts. Throws a TypeError on bytes that are no UTF-8. */
  feed(bytes) {
    const events = [];
    let from = 0;
    for (let at = 0; at < bytes.length; at++) {
      const byte = bytes[at];
      if (byte !== LF && byte !== CR) {
        this.#afterCr = false;
        continue;
      }
      if (byte === LF && this.#afterCr) {
        this.#afterCr = false;
        from = at + 1; // the second half of CRLF
        continue;
      }
      this.#afterCr = byte === CR;
      const event = this.#line(this.#taken(bytes.subarray(from, at)));
      if (event !== null) events.push(event);
      from = at + 1;
    }
    this.#keep(bytes.subarray(from));
    return events;
  }

  /** Whether something was begun that no blank line has ended. */
  get pending() {
    return this.#restBytes > 0 || this.#data.length > 0;
  }

  #keep(bytes) {
    if (!bytes.length) return;
    this.#restBytes += bytes.length;
    if (this.#restBytes > MOST_LINE) throw new RangeError("A line of the stream is too long.");
    this.#rest.push(bytes.slice());
  }

  #taken(end) {
    if (!this.#restBytes) return end;
    const line = joined([...this.#rest, end]);
    this.#rest = [];
    this.#restBytes = 0;
    return line;
  }

  #line(bytes) {
    let text = this.#decoder.decode(bytes);
    if (this.#first && text.startsWith("\ufeff")) text = text.slice(1);
    this.#first = false;
    if (text === "") {
      const event = this.#data.length ? this.#data.join("\n") : null;
      this.#data = [];
      return event;
    }
    const colon = text.indexOf(":");
    const name = colon < 0 ? text : text.slice(0, colon);
    const value = colon < 0 ? "" : text.slice(colon + 1);
    if (name === "data") this.#data.push(value.startsWith(" ") ? value.slice(1) : value);
    return null;
  }
}

/** Pieces of bytes as one. */
export function joined(pieces) {
  const whole = new Uint8Array(pieces.reduce((sum, piece) => sum + piece.length, 0));
  let at = 0;
  for (const piece of pieces) {
    whole.set(piece, at);
    at += piece.length;
  }
  return whole;
}
