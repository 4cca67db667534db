/** Certificates in PEM texts (RFC 7468): strictly, and as lenient as others read them. */

import { CheckFailed, base64, fromBase64, fromUtf8 } from "./bytes.js";
import { readCertificate, readable } from "./x509.js";

/** @typedef {import("./x509.js").Certificate} Certificate */

const MOST_BYTES = 128 * 1024;
const MOST_CERTIFICATES = 10;
/** White space of ASCII, and no other. */
const SPACE = /[\t\n\v\f\r ]/g;
const MARK = "-----";

/**
 * The certificates in a PEM text that holds nothing else: whitespace, and NULs at its end, are all that is free.
 * @param {string} text @param {string} what @returns {Certificate[]}
 */
export function readChain(text, what) {
  if (text.length > MOST_BYTES) throw new CheckFailed(`${what} is longer than ${MOST_BYTES} bytes`);
  const [before, ...parts] = text.replace(/\0+$/, "").split("-----BEGIN CERTIFICATE-----");
  if (parts.length > MOST_CERTIFICATES) {
    throw new CheckFailed(`${what} has more than ${MOST_CERTIFICATES} certificates`);
  }
  if (!parts.length || before.replace(SPACE, "")) {
    throw new CheckFailed(`${what} has text that belongs to no certificate`);
  }
  return parts.map((part) => {
    const [written, after, ...more] = part.split("-----END CERTIFICATE-----");
    const dense = written.replace(SPACE, "");
    if (after?.replace(SPACE, "") !== "" || more.length) throw new CheckFailed(`${what} can't be read`);
    const raw = fromBase64(dense, what);
    if (base64(raw) !== dense) throw new CheckFailed(`${what} has text that belongs to no certificate`);
    return readCertificate(raw, what);
  });
}

/**
 * The certificates in a PEM text (RFC 7468); what stands between them is not looked at, nor is what follows the last whole one.
 * The same texts are taken as by the reader that Python's verifier uses.
 * @param {Uint8Array} data @param {string} what @returns {Certificate[]}
 */
export function readPem(data, what) {
  if (data.length > MOST_BYTES) throw new CheckFailed(`${what} is longer than ${MOST_BYTES} bytes`);
  const text = new TextDecoder("latin1").decode(data); // a character for each byte
  if (text.split("-----BEGIN CERTIFICATE-----").length > MOST_CERTIFICATES + 1) {
    throw new CheckFailed(`${what} has more than ${MOST_CERTIFICATES} certificates`);
  }
  const found = readable(() => blocks(data, text), what);
  if (!found.length) throw new CheckFailed(`${what} can't be read: no certificate`);
  return found.map((raw) => readCertificate(raw, what));
}

/** The certificates in a text, in DER. @param {Uint8Array} data @param {string} text  of these bytes @returns {Uint8Array[]} */
function blocks(data, text) {
  const found = [];
  for (let at = 0; ; ) {
    const begin = until(text, at, "-----BEGIN ");
    const label = begin && until(text, begin.after, MARK);
    const body = label && until(text, label.after, "-----END ");
    const end = body && until(text, body.after, MARK);
    if (!end) return found;
    at = end.after;
    const [name, written, last] = [
      [begin.after, label.before],
      [label.after, body.before],
      [body.after, end.before],
    ].map(([from, to]) => fromUtf8(data.subarray(from, to)));
    if (!name || name !== last) throw new CheckFailed("PEM: an end that is not that of the beginning");
    const dense = withoutHeaders(written.replace(/^[ \t\n\r]+/, "")).replace(/[\s\x85]/g, (one) =>
      one === "\ufeff" ? one : "",
    );
    const raw = fromBase64(dense, "PEM");
    if (base64(raw) !== dense) throw new CheckFailed("PEM: bits that belong to no byte");
    if (name === "CERTIFICATE" || name === "X509 CERTIFICATE") found.push(raw);
  }
}

/**
 * Where a mark is found, reading on: what looked like its beginning is not read again.
 * @param {string} text @param {number} from @param {string} mark
 */
function until(text, from, mark) {
  let found = 0;
  for (let at = from; at < text.length; at += 1) {
    found = text[at] === mark[found] ? found + 1 : 0;
    if (found === mark.length) return { before: at + 1 - found, after: at + 1 };
  }
  return null;
}

/** What follows the headers of a block, which end with an empty line. @param {string} body */
function withoutHeaders(body) {
  const gap = until(body, 0, "\n\n") ?? until(body, 0, "\r\n\r\n");
  if (!gap) return body;
  const headers = body.slice(0, gap.before).split("\n");
  if (gap.before && !headers.every((line) => line.includes(":"))) throw new CheckFailed("PEM: a header that is none");
  return body.slice(gap.after);
}
