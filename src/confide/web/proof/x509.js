/**
 * X.509 certificates of attestation keys and their revocation lists: on P-256 with SHA-256 (Intel), on P-384 with SHA-384
 * (NVIDIA), and RSASSA-PSS with 4096 bits and SHA-384 (AMD).
 *
 * Source: RFC 5280, as far as these chains use it: each certificate is issued by the next, all are valid at the given time,
 * issuers are CAs within their path length that may sign certificates, and the last is an accepted root or issued by one. No
 * name matching, no trust store, no network. RFC 4055, section 3.1 (RSASSA-PSS parameters). Reading is about layout only: what
 * makes a layout suspect is remembered, and refused by {@link checkReadable}.
 */

import { CheckFailed, hex, same } from "./bytes.js";
import * as der from "./der.js";
import { isSignedBy, keyParts } from "./keys.js";

/** @typedef {import("./verdict.js").Root} Root */
/** @typedef {{oid: string, critical: boolean, value: Uint8Array}} Extension */
/** @typedef {import("./keys.js").Algorithm} Algorithm */
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

const COMMON_NAME = "2.5.4.3";
const BASIC_CONSTRAINTS = "2.5.29.19";
const KEY_USAGE = "2.5.29.15";
const UNDERSTOOD = [BASIC_CONSTRAINTS, KEY_USAGE, "2.5.29.37"];
const KEY_CERT_SIGN = 0x04;
const VERSION_3 = 0xa0;
const EXTENSIONS = 0xa3;
const CRL_EXTENSIONS = 0xa0;
/**
 * AMD's way to sign, which is written in two ways: the second names the default trailer field, as DER doesn't allow and AMD did.
 */
const PSS_SHA384 =
  "06092a864886f70d01010a30NNa00f300d06096086480165030402020500a11c301a06092a864886f70d010108300d06096086480165030402020500" +
  "a203020130";
/** By the object identifier, or by all of the identifier where its parameters matter. @type {Record<string, Algorithm>} */
const ALGORITHMS = {
  "1.2.840.10045.4.3.2": "ES256",
  "1.2.840.10045.4.3.3": "ES384",
  [PSS_SHA384.replace("NN", "34")]: "PS384",
  [`${PSS_SHA384.replace("NN", "39")}a303020101`]: "PS384",
};

// Reading --------------------------------------------------------------------------------------------------------------

/** @param {Uint8Array} raw @param {string} what @returns {Certificate} */
export function readCertificate(raw, what) {
  return readable(() => certificate(raw), what);
}

/** Whatever is thrown while something is read means that it can't be. @template T @param {() => T} read @param {string} what @returns {T} */
export function readable(read, what) {
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
  keyParts(spki.raw);
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

/** A day, as people read it. @param {number} seconds */
export function day(seconds) {
  return new Date(seconds * 1000).toISOString().slice(0, 10);
}
