/**
 * X.509 certificates of attestation keys and their revocation lists: on P-256 with SHA-256 (Intel), on P-384 with SHA-384
 * (NVIDIA), and RSASSA-PSS with 4096 bits and SHA-384 (AMD).
 *
 * Source: RFC 5280, as far as these chains use it: each certificate is issued by the next, all are valid at the given time,
 * issuers are CAs within their path length that may sign certificates, and the last is an accepted root or issued by one. No
 * name matching, no trust store, no network. RFC 4055, section 3.1 (RSASSA-PSS parameters). Reading is about layout only: what
 * makes a layout suspect is remembered, and refused by {@link checkReadable}.
 */

import { CheckFailed, base64, concat, fromBase64, fromUtf8, hex, same } from "./bytes.js";
import { subtle } from "./crypto.js";
import * as der from "./der.js";

/** @typedef {import("./verdict.js").Root} Root */
/** @typedef {{oid: string, critical: boolean, value: Uint8Array}} Extension */
/** @typedef {"ES256" | "ES384" | "PS384" | null} Algorithm  how something is signed; null in another way, or in two */
/**
 * @typedef {object} Certificate
 * @property {Uint8Array} raw @property {Uint8Array} tbs @property {Uint8Array} serial @property {Uint8Array} signature
 * @property {Algorithm} algorithm @property {number} version  from 0
 * @property {Uint8Array} issuer @property {Uint8Array} subject  names in DER
 * @property {string[]} commonNames  of the subject
 * @property {number} notBefore @property {number} notAfter  Unix seconds
 * @property {Uint8Array} spki @property {Map<string, Extension>} extensions
 * @property {string | null} twice  an extension that is there more than once
 */
/**
 * @typedef {object} Crl
 * @property {Algorithm} algorithm
 * @property {Uint8Array} issuer @property {number} thisUpdate @property {number | null} nextUpdate
 * @property {Set<string>} serials  of revoked certificates, as `serialOf` writes them
 * @property {boolean} hasCritical @property {Uint8Array} tbs @property {Uint8Array} signature
 */

const MOST_BYTES = 128 * 1024;
const MOST_CERTIFICATES = 10;
/** White space of ASCII, and no other. */
const SPACE = /[\t\n\v\f\r ]/g;
const EC_KEY = "1.2.840.10045.2.1";
const COMMON_NAME = "2.5.4.3";
const BASIC_CONSTRAINTS = "2.5.29.19";
const KEY_USAGE = "2.5.29.15";
const UNDERSTOOD = [BASIC_CONSTRAINTS, KEY_USAGE, "2.5.29.37"];
const KEY_CERT_SIGN = 0x04;
const VERSION_3 = 0xa0;
const EXTENSIONS = 0xa3;
const CRL_EXTENSIONS = 0xa0;
/** By the object identifier, or all of the identifier where its parameters matter: two ways to write AMD's, of which the
 * second names the default trailer field, as DER doesn't allow and AMD did. */
const PSS_SHA384 =
  "06092a864886f70d01010a30NNa00f300d06096086480165030402020500a11c301a06092a864886f70d010108300d06096086480165030402020500" +
  "a203020130";
/** @type {Record<string, Algorithm>} */
const ALGORITHMS = {
  "1.2.840.10045.4.3.2": "ES256",
  "1.2.840.10045.4.3.3": "ES384",
  [PSS_SHA384.replace("NN", "34")]: "PS384",
  [`${PSS_SHA384.replace("NN", "39")}a303020101`]: "PS384",
};
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
const MARK = "-----";

// Reading --------------------------------------------------------------------------------------------------------------

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
  const found = readable(() => blocks(data, text).map(certificate), what);
  if (!found.length) throw new CheckFailed(`${what} can't be read: no certificate`);
  return found;
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

/** Where a mark is found, reading on: what looked like its beginning is not read again. @param {string} text @param {number} from @param {string} mark */
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

/** @param {Uint8Array} raw @param {string} what @returns {Certificate} */
export function readCertificate(raw, what) {
  return readable(() => certificate(raw), what);
}

/** @template T @param {() => T} read @param {string} what @returns {T} */
function readable(read, what) {
  try {
    return read();
  } catch (wrong) {
    throw new CheckFailed(`${what} can't be read: ${wrong instanceof Error ? wrong.message : wrong}`);
  }
}

/** @param {Uint8Array} raw @returns {Certificate} */
function certificate(raw) {
  const { tbs, algorithm, signature } = signed(raw);
  const fields = new der.Der(tbs.value);
  const said = fields.maybe(VERSION_3);
  const version = said ? der.number(der.only(said.value, der.INTEGER)) : 0;
  if (version > 2 || (said && !version)) throw new CheckFailed("a version that there is not");
  const serial = der.integer(fields.next(der.INTEGER));
  const inner = algorithmOf(fields.next(der.SEQUENCE));
  const issuer = fields.next(der.SEQUENCE);
  namesIn(issuer.raw);
  const validity = fields.inside();
  const [notBefore, notAfter] = [der.time(validity.next()), der.time(validity.next())];
  validity.end();
  const subject = fields.next(der.SEQUENCE);
  const spki = fields.next(der.SEQUENCE);
  keyParts(spki.value);
  const wrapped = fields.maybe(EXTENSIONS);
  fields.end();
  return {
    raw,
    tbs: tbs.raw,
    serial,
    signature,
    algorithm: same(inner.raw, algorithm.raw) ? algorithm.name : null,
    version,
    issuer: issuer.raw,
    subject: subject.raw,
    commonNames: namesIn(subject.raw),
    notBefore,
    notAfter,
    spki: spki.raw,
    ...extensions(wrapped && der.only(wrapped.value, der.SEQUENCE)),
  };
}

/** A revocation list. @param {Uint8Array} raw @param {string} what @returns {Crl} */
export function readCrl(raw, what) {
  return readable(() => crl(raw), what);
}

/** @param {Uint8Array} raw @returns {Crl} */
function crl(raw) {
  const { tbs, algorithm, signature } = signed(raw);
  const fields = new der.Der(tbs.value);
  if (der.number(fields.next(der.INTEGER)) !== 1) throw new CheckFailed("no revocation list of version 2");
  if (!same(fields.next(der.SEQUENCE).raw, algorithm.raw)) throw new CheckFailed("two different signature algorithms");
  const issuer = fields.next(der.SEQUENCE);
  const thisUpdate = der.time(fields.next());
  const nextUpdate = [0x17, 0x18].includes(fields.tag) ? der.time(fields.next()) : null;
  const serials = new Set();
  const list = fields.maybe(der.SEQUENCE);
  for (const entries = new der.Der(list?.value ?? new Uint8Array()); !entries.done; ) {
    const entry = entries.inside();
    serials.add(serialOf(der.integer(entry.next(der.INTEGER))));
    der.time(entry.next());
    entry.maybe(der.SEQUENCE);
    entry.end();
  }
  const wrapped = fields.maybe(CRL_EXTENSIONS);
  fields.end();
  const found = extensions(wrapped && der.only(wrapped.value, der.SEQUENCE));
  if (found.twice !== null) throw new CheckFailed(`two extensions ${found.twice}`);
  const hasCritical = [...found.extensions.values()].some((one) => one.critical);
  const { name } = algorithm;
  return {
    algorithm: name,
    issuer: issuer.raw,
    thisUpdate,
    nextUpdate,
    serials,
    hasCritical,
    tbs: tbs.raw,
    signature,
  };
}

/** What certificates and lists have in common: a signature over the first part. @param {Uint8Array} raw */
function signed(raw) {
  const whole = new der.Der(der.only(raw, der.SEQUENCE).value);
  const tbs = whole.next(der.SEQUENCE);
  const algorithm = algorithmOf(whole.next(der.SEQUENCE));
  // a signature that is not whole bytes would be one signature in several spellings: it is as if there were none
  const signature = der.wholeBytes(whole.next(der.BIT_STRING)) ?? new Uint8Array();
  whole.end();
  return { tbs, algorithm, signature };
}

/** @param {der.Item} item @returns {{name: Algorithm, raw: Uint8Array}} */
function algorithmOf(item) {
  const parts = new der.Der(item.value);
  const name = der.oid(parts.next(der.OID));
  if (!parts.done) parts.next();
  parts.end();
  return { name: ALGORITHMS[name] ?? ALGORITHMS[hex(item.value)] ?? null, raw: item.raw };
}

/**
 * Extensions, and one of them that is there twice, which must not be (RFC 5280, section 4.2).
 * @param {der.Item | null} item @returns {{extensions: Map<string, Extension>, twice: string | null}}
 */
function extensions(item) {
  const found = new Map();
  let twice = null;
  for (const list = new der.Der(item?.value ?? new Uint8Array()); !list.done; ) {
    const one = list.inside();
    const oid = der.oid(one.next(der.OID));
    const critical = der.flag(one);
    const { value } = one.next(der.OCTET_STRING);
    one.end();
    if (found.has(oid)) twice = oid;
    found.set(oid, { oid, critical, value });
  }
  return { extensions: found, twice };
}

/** The common names in a name. @param {Uint8Array} name  in DER @returns {string[]} */
export function namesIn(name) {
  const found = [];
  for (const sets = new der.Der(der.only(name, der.SEQUENCE).value); !sets.done; ) {
    for (const set = sets.inside(der.SET); !set.done; ) {
      const pair = set.inside();
      const oid = der.oid(pair.next(der.OID));
      const text = der.text(pair.next());
      pair.end();
      if (oid === COMMON_NAME) found.push(text);
    }
  }
  return found;
}

/** A key on a curve names it, or describes it (RFC 5480, section 2.1.1). @param {der.Der} parts */
function checkCurve(parts) {
  if (der.oid(parts.next(der.OID)) !== EC_KEY) return;
  const curve = parts.next();
  if (curve.tag === der.OID) der.oid(curve);
  else if (![0x05, der.SEQUENCE].includes(curve.tag)) throw new CheckFailed("a curve that is none");
}

/** The identifier of a public key, and the key's own bytes. @param {Uint8Array} spki  inside of its sequence */
function keyParts(spki) {
  const parts = new der.Der(spki);
  const algorithm = parts.next(der.SEQUENCE);
  algorithmOf(algorithm);
  checkCurve(new der.Der(algorithm.value));
  const key = der.wholeBytes(parts.next(der.BIT_STRING));
  parts.end();
  return { algorithm: algorithm.value, key };
}

/** The first common name of a certificate; empty where it has none. @param {Certificate} one */
export function nameOf(one) {
  return one.commonNames[0] ?? "";
}

/** How serial numbers are compared. @param {Uint8Array} serial */
export function serialOf(serial) {
  return serial.join(".");
}

// Checking -------------------------------------------------------------------------------------------------------------

/**
 * Walk from the leaf (first) to a root, which may be left out at the end: the whole path with the root, and the root.
 * @param {Certificate[]} path @param {Root[]} roots @param {number} now @param {string} what
 * @returns {Promise<{whole: Certificate[], root: Root}>}
 */
export async function checkChain(path, roots, now, what) {
  const last = path[path.length - 1];
  const { root, anchor } = await rootOf(last, roots, what);
  const whole = same(last.raw, anchor.raw) ? path : [...path, anchor];
  for (const [place, one] of whole.entries()) {
    const where = `${what}, certificate ${place}`;
    checkReadable(one, where);
    if (now < one.notBefore || now > one.notAfter) {
      throw new CheckFailed(
        `${where} is valid from ${day(one.notBefore)} to ${day(one.notAfter)}, and the time is ${day(now)}`,
      );
    }
    const strange = [...one.extensions.values()].find(({ oid, critical }) => critical && !UNDERSTOOD.includes(oid));
    if (strange) throw new CheckFailed(`${where} has a critical extension that is not known here (${strange.oid})`);
    if (place === 0) continue;
    checkIssuer(one, place - 1, where);
    if (!(await isIssued(whole[place - 1], one))) {
      throw new CheckFailed(`${what}, certificate ${place - 1} is not signed by the next one`);
    }
  }
  return { whole, root };
}

/**
 * A certificate of version 3, none of whose extensions is there twice, signed with whole bytes.
 * @param {Certificate} one @param {string} where
 */
export function checkReadable(one, where) {
  if (one.version !== 2) throw new CheckFailed(`${where} is no certificate of X.509 version 3`);
  if (one.twice !== null) throw new CheckFailed(`${where} can't be read: two extensions ${one.twice}`);
  if (!one.signature.length) throw new CheckFailed(`${where} has a signature that is not whole bytes`);
}

/** @param {Certificate} last @param {Root[]} roots @param {string} what */
async function rootOf(last, roots, what) {
  const anchors = roots.map((root) => ({ root, anchor: readCertificate(root.der, root.name) }));
  const itself = anchors.find(({ anchor }) => same(anchor.raw, last.raw));
  if (itself) return itself;
  for (const one of anchors) {
    if (await isIssued(last, one.anchor)) return one;
  }
  const names = roots.map((root) => root.name).join(", ") || "none";
  throw new CheckFailed(`${what} ends at no accepted root (accepted: ${names})`);
}

/**
 * A CA, with `below` CAs between it and the leaf at most as its path length says.
 * @param {Certificate} one @param {number} below @param {string} where
 */
function checkIssuer(one, below, where) {
  const constraints = basicConstraints(one);
  if (!constraints.isCa) throw new CheckFailed(`${where} is no CA`);
  if (constraints.pathLength !== null && constraints.pathLength < below) {
    throw new CheckFailed(`${where} allows ${constraints.pathLength} CAs below it, and ${below} are there`);
  }
  if (one.extensions.has(KEY_USAGE) && !mayUse(one, KEY_CERT_SIGN)) {
    throw new CheckFailed(`${where} may not sign certificates`);
  }
}

/**
 * Whether the key usage of a certificate has this bit of its first byte; one without key usage says nothing.
 * @param {Certificate} one @param {number} bit
 */
export function mayUse(one, bit) {
  const usage = one.extensions.get(KEY_USAGE);
  return usage !== undefined && (der.only(usage.value, der.BIT_STRING).value[1] & bit) !== 0;
}

/** @param {Certificate} one @returns {{isCa: boolean, pathLength: number | null}} */
export function basicConstraints(one) {
  const extension = one.extensions.get(BASIC_CONSTRAINTS);
  if (!extension) return { isCa: false, pathLength: null };
  const fields = new der.Der(der.only(extension.value, der.SEQUENCE).value);
  const isCa = der.flag(fields);
  const length = fields.maybe(der.INTEGER);
  fields.end();
  return { isCa, pathLength: length && der.number(length) };
}

/** @param {Certificate} one @param {Certificate} issuer */
async function isIssued(one, issuer) {
  return same(one.issuer, issuer.subject) && isSignedBy(issuer, one);
}

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
  const { namedCurve, hash } = CURVES[point.length];
  const key = await imported("raw", concat(Uint8Array.of(4), point), { name: "ECDSA", namedCurve });
  return key !== null && subtle().verify({ name: "ECDSA", hash }, key, concat(signature), concat(message));
}

/**
 * Whether an RSA key with 4096 bits made this signature with RSASSA-PSS, SHA-384 and a salt of 48 bytes.
 * @param {Certificate} issuer @param {Uint8Array} signature @param {Uint8Array} message
 */
async function isRsaSigned({ spki }, signature, message) {
  const { algorithm, key: own } = keyParts(der.only(spki, der.SEQUENCE).value);
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

/** A day, as people read it. @param {number} seconds */
export function day(seconds) {
  return new Date(seconds * 1000).toISOString().slice(0, 10);
}
