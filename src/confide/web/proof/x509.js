/**
 * X.509 certificates of attestation keys and their revocation lists, on P-256 with SHA-256, which is all that Intel's are.
 *
 * Source: RFC 5280, as far as these chains use it: each certificate is issued by the next, all are valid at the given time,
 * issuers are CAs within their path length that may sign certificates, and the last is an accepted root or issued by one. No
 * name matching, no trust store, no network.
 */

import { CheckFailed, base64, concat, fromBase64, same } from "./bytes.js";
import { subtle } from "./crypto.js";
import * as der from "./der.js";

/** @typedef {import("./verdict.js").Root} Root */
/** @typedef {{oid: string, critical: boolean, value: Uint8Array}} Extension */
/**
 * @typedef {object} Certificate
 * @property {Uint8Array} raw @property {Uint8Array} tbs @property {Uint8Array} serial @property {Uint8Array} signature
 * @property {Uint8Array} issuer @property {Uint8Array} subject  names in DER
 * @property {string} commonName @property {number} notBefore @property {number} notAfter  Unix seconds
 * @property {Uint8Array} spki @property {Map<string, Extension>} extensions
 */
/**
 * @typedef {object} Crl
 * @property {Uint8Array} issuer @property {number} thisUpdate @property {number | null} nextUpdate
 * @property {Set<string>} serials  of revoked certificates, as `serialOf` writes them
 * @property {boolean} hasCritical @property {Uint8Array} tbs @property {Uint8Array} signature
 */

const MOST_BYTES = 128 * 1024;
const MOST_CERTIFICATES = 10;
/** White space of ASCII, and no other. */
const SPACE = /[\t\n\v\f\r ]/g;
const ECDSA_SHA256 = "1.2.840.10045.4.3.2";
const COMMON_NAME = "2.5.4.3";
const BASIC_CONSTRAINTS = "2.5.29.19";
const KEY_USAGE = "2.5.29.15";
const UNDERSTOOD = [BASIC_CONSTRAINTS, KEY_USAGE, "2.5.29.37"];
const KEY_CERT_SIGN = 0x04;
const VERSION_3 = 0xa0;
const EXTENSIONS = 0xa3;
const CRL_EXTENSIONS = 0xa0;
const P256 = { name: "ECDSA", namedCurve: "P-256" };
const P256_SHA256 = { name: "ECDSA", hash: "SHA-256" };
/** The SubjectPublicKeyInfo of a P-256 key, up to the point's coordinates. */
const P256_PREFIX = Uint8Array.of(
  ...[0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01],
  ...[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00, 0x04],
);

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
  const version = fields.maybe(VERSION_3);
  if (!version || der.number(der.only(version.value, der.INTEGER)) !== 2)
    throw new CheckFailed("no certificate of version 3");
  const serial = der.unsigned(fields.next(der.INTEGER));
  if (!same(fields.next(der.SEQUENCE).raw, algorithm)) throw new CheckFailed("two different signature algorithms");
  const issuer = fields.next(der.SEQUENCE);
  const validity = fields.inside();
  const [notBefore, notAfter] = [der.time(validity.next()), der.time(validity.next())];
  validity.end();
  const subject = fields.next(der.SEQUENCE);
  const spki = fields.next(der.SEQUENCE);
  const wrapped = fields.maybe(EXTENSIONS);
  fields.end();
  return {
    raw,
    tbs: tbs.raw,
    serial,
    signature,
    issuer: issuer.raw,
    subject: subject.raw,
    commonName: commonName(subject),
    notBefore,
    notAfter,
    spki: spki.raw,
    extensions: wrapped ? extensions(der.only(wrapped.value, der.SEQUENCE)) : new Map(),
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
  if (!same(fields.next(der.SEQUENCE).raw, algorithm)) throw new CheckFailed("two different signature algorithms");
  const issuer = fields.next(der.SEQUENCE);
  const thisUpdate = der.time(fields.next());
  const nextUpdate = [0x17, 0x18].includes(fields.tag) ? der.time(fields.next()) : null;
  const serials = new Set();
  const list = fields.maybe(der.SEQUENCE);
  for (const entries = new der.Der(list?.value ?? new Uint8Array()); !entries.done; ) {
    const entry = entries.inside();
    serials.add(serialOf(der.unsigned(entry.next(der.INTEGER))));
    der.time(entry.next());
    entry.maybe(der.SEQUENCE);
    entry.end();
  }
  const wrapped = fields.maybe(CRL_EXTENSIONS);
  fields.end();
  const found = wrapped ? [...extensions(der.only(wrapped.value, der.SEQUENCE)).values()] : [];
  const hasCritical = found.some((one) => one.critical);
  return { issuer: issuer.raw, thisUpdate, nextUpdate, serials, hasCritical, tbs: tbs.raw, signature };
}

/** What certificates and lists have in common: a signature over the first part. @param {Uint8Array} raw */
function signed(raw) {
  const whole = new der.Der(der.only(raw, der.SEQUENCE).value);
  const tbs = whole.next(der.SEQUENCE);
  const algorithm = whole.next(der.SEQUENCE);
  const signature = der.bits(whole.next(der.BIT_STRING));
  whole.end();
  if (der.oid(new der.Der(algorithm.value).next(der.OID)) !== ECDSA_SHA256) {
    throw new CheckFailed("its signature is not ECDSA with SHA-256");
  }
  return { tbs, algorithm: algorithm.raw, signature };
}

/**
 * Extensions, none of which is there twice (RFC 5280, section 4.2).
 * @param {der.Item} item @returns {Map<string, Extension>}
 */
function extensions(item) {
  const found = new Map();
  for (const list = new der.Der(item.value); !list.done; ) {
    const one = list.inside();
    const oid = der.oid(one.next(der.OID));
    const critical = der.flag(one);
    const { value } = one.next(der.OCTET_STRING);
    one.end();
    if (found.has(oid)) throw new CheckFailed(`two extensions ${oid}`);
    found.set(oid, { oid, critical, value });
  }
  return found;
}

/** @param {der.Item} subject */
function commonName(subject) {
  for (const sets = new der.Der(subject.value); !sets.done; ) {
    for (const set = sets.inside(der.SET); !set.done; ) {
      const pair = set.inside();
      const isName = der.oid(pair.next(der.OID)) === COMMON_NAME;
      const { value } = pair.next();
      if (isName) return new TextDecoder().decode(value);
    }
  }
  return "";
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
  const usage = one.extensions.get(KEY_USAGE);
  if (usage && !(der.only(usage.value, der.BIT_STRING).value[1] & KEY_CERT_SIGN)) {
    throw new CheckFailed(`${where} may not sign certificates`);
  }
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
  return same(one.issuer, issuer.subject) && isSignedBy(issuer, one.signature, one.tbs);
}

/**
 * Whether the key of a certificate signed something, with a signature in DER.
 * @param {Certificate} issuer @param {Uint8Array} signature @param {Uint8Array} message
 */
export async function isSignedBy(issuer, signature, message) {
  return isSigned(keyOf(issuer, "an issuer"), rawSignature(signature), message);
}

/**
 * The coordinates of a certificate's P-256 key.
 * @param {Certificate} one @param {string} what @returns {Uint8Array}
 */
export function keyOf(one, what) {
  const start = P256_PREFIX.length;
  if (one.spki.length !== start + 64 || !same(one.spki.subarray(0, start), P256_PREFIX)) {
    throw new CheckFailed(`${what} has no P-256 key`);
  }
  return one.spki.subarray(start);
}

/** r and s in 32 bytes each, empty where they can't be. @param {Uint8Array} signature  in DER */
function rawSignature(signature) {
  const pair = new der.Der(der.only(signature, der.SEQUENCE).value);
  const numbers = [der.unsigned(pair.next(der.INTEGER)), der.unsigned(pair.next(der.INTEGER))];
  pair.end();
  if (numbers.some((one) => one.length > 32)) return new Uint8Array();
  return concat(...numbers.flatMap((one) => [new Uint8Array(32 - one.length), one]));
}

/**
 * Whether these 64 bytes, r and s, are the ECDSA signature with SHA-256 of the key with these coordinates.
 * @param {Uint8Array} point  x and y @param {Uint8Array} signature @param {Uint8Array} message
 */
export async function isSigned(point, signature, message) {
  if (signature.length !== 64) return false;
  const key = await subtle().importKey("raw", concat(Uint8Array.of(4), point), P256, false, ["verify"]);
  return subtle().verify(P256_SHA256, key, concat(signature), concat(message));
}

/** A day, as people read it. @param {number} seconds */
export function day(seconds) {
  return new Date(seconds * 1000).toISOString().slice(0, 10);
}
