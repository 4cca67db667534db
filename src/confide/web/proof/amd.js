/**
 * Whose key signed an SEV-SNP report: VCEK by ASK by ARK or VLEK by ASVK by ARK, up to an accepted root; and which processor
 * and TCB version it was issued for.
 *
 * Source: AMD publication 57230 (VCEK certificate and KDS interface), chains and X.509 extensions; AMD publication 56860 (SEV-SNP
 * firmware ABI), TCB_VERSION; RFC 5280, section 6.1, as far as it is used here. ASK and ASVK of the known products come with the
 * page; they are signed by the pinned roots, so they are a convenience and no trust anchors.
 */

import { CheckFailed, fromBase64, hex, same } from "./bytes.js";
import * as der from "./der.js";
import { itemsOf } from "./material.js";
import { AMD_ISSUERS } from "./pinned.js";
import { rootsFor } from "./roots.js";
import { NotChecked } from "./verdict.js";
import { isSigned, isSignedBy, pointOf } from "./keys.js";
import { basicConstraints, day, mayUse, namesIn, readCertificate, readCrl, serialOf } from "./x509.js";

/** @typedef {import("./x509.js").Certificate} Certificate */
/** @typedef {import("./policy.js").Context} Context */
/** @typedef {import("./verdict.js").Root} Root */
/** @typedef {"vcek" | "vlek"} KeyName */
/** @typedef {"Milan" | "Genoa" | "Turin"} Product */
/** @typedef {Record<string, number>} Tcb  the parts of a TCB version by name */
/**
 * @typedef {object} Chain  Good in every signature and date. `product` is the one whose keys these are.
 * @property {KeyName} key @property {Certificate} leaf @property {Certificate} issuer @property {Certificate} anchor
 * @property {Root} root @property {Product} product
 */

const MOST_CANDIDATES = 8;
const MOST_CERTIFICATE = 8 * 1024;
const MOST_CRL = 1 << 20;
/** AMD's service for keys, as people are told of it; nothing is asked of it here. */
const KDS = "https://kdsintf.amd.com";
const UNDERSTOOD = ["2.5.29.19", "2.5.29.15"];
const CERT_SIGN = 0x04;
const CRL_SIGN = 0x02;
const PREFIXES = { vcek: "SEV-", vlek: "SEV-VLEK-" };
const AMD = "1.3.6.1.4.1.3704.1";
const PRODUCT_NAME = `${AMD}.2`;
export const HWID = `${AMD}.4`;
const CSP_ID = `${AMD}.5`;
const SVNS = `${AMD}.3`;
/** @type {Record<string, number>} */
const ARCS = { bootloader: 1, tee: 2, snp: 3, microcode: 8, fmc: 9 };
const RESERVED_ARCS = [4, 5, 6, 7];
const OLDER = { bootloader: 0, tee: 1, snp: 6, microcode: 7 };
const NEWER = { fmc: 0, bootloader: 1, tee: 2, snp: 3, microcode: 7 };
/** Where in the eight bytes of a TCB version its parts lie. @type {Record<Product, Record<string, number>>} */
const LAYOUTS = { Milan: OLDER, Genoa: OLDER, Turin: NEWER };
/** How many bytes of CHIP_ID name the chip; the rest is zero. @type {Record<Product, number>} */
export const HWID_SIZES = { Milan: 64, Genoa: 64, Turin: 8 };
/** @type {Record<string, Product>} */
const LINES = { Milan: "Milan", Genoa: "Genoa", Bergamo: "Genoa", Siena: "Genoa", Turin: "Turin" };

// The chain ------------------------------------------------------------------------------------------------------------

/**
 * The chain of the key that signed, from the certificates at hand: of several, those whose key signed in their order; where
 * none signed, the first, so that the signature is what fails.
 * @param {Context} context @param {KeyName} key @param {Uint8Array} signature @param {Uint8Array} message
 * @returns {Promise<Chain>}
 */
export async function findChain(context, key, signature, message) {
  const leaves = leavesOf(context, key);
  const signers = [];
  for (const leaf of leaves) if (await leafSigned(leaf, signature, message)) signers.push(leaf);
  let first = null;
  for (const leaf of signers.length ? signers : leaves.slice(0, 1)) {
    try {
      return await chainOf(context, key, leaf);
    } catch (wrong) {
      if (!(wrong instanceof CheckFailed)) throw wrong;
      first ??= wrong;
    }
  }
  throw first ?? new NotChecked(missing(key));
}

/**
 * Whether the P-384 key of a certificate made this ECDSA signature with SHA-384.
 * @param {Certificate} leaf @param {Uint8Array} signature  r and s @param {Uint8Array} message
 */
export async function leafSigned(leaf, signature, message) {
  const point = pointOf(leaf);
  return point?.length === 96 && isSigned(point, signature, message);
}

/** @param {KeyName} key */
function missing(key) {
  if (key === "vlek") {
    return "no VLEK certificate is at hand; only the cloud provider that loaded the key has it (host's table)";
  }
  return `no VCEK certificate is at hand; AMD's KDS (${KDS}) has it: allow the network, or staple it to the report`;
}

/**
 * A certificate that is signed as AMD signs.
 * @param {Uint8Array} raw @param {string} what @returns {Certificate}
 */
function read(raw, what) {
  if (raw.length > MOST_CERTIFICATE) throw new CheckFailed(`${what} is longer than ${MOST_CERTIFICATE} bytes`);
  const one = readCertificate(raw, what);
  if (one.version !== 2 || !one.extensions.size) throw new CheckFailed(`${what} is no certificate of X.509 version 3`);
  checkAlgorithm(one, what);
  if (one.twice !== null) throw new CheckFailed(`${what} has the extension ${one.twice} twice`);
  const strange = [...one.extensions.values()].find(({ oid, critical }) => critical && !UNDERSTOOD.includes(oid));
  if (strange) throw new CheckFailed(`${what} has a critical extension that is not known here (${strange.oid})`);
  return one;
}

/** @param {Pick<Certificate, "algorithm" | "signature">} one @param {string} what */
function checkAlgorithm({ algorithm, signature }, what) {
  if (algorithm !== "PS384") {
    throw new CheckFailed(`${what} is not signed with RSASSA-PSS, SHA-384 and a salt of 48 bytes`);
  }
  if (!signature.length) throw new CheckFailed(`${what} can't be read: a string of bits that are no bytes`);
}

/** The common name of a subject, empty if it has none. @param {Certificate} one */
function nameOf({ commonNames }) {
  return commonNames[commonNames.length - 1] ?? "";
}

/**
 * The certificates at hand for such a key. One that can't be read counts only if there is no other.
 * @param {Context} context @param {KeyName} key
 */
function leavesOf(context, key) {
  const found = [];
  let first = null;
  for (const { data } of itemsOf(context, "amd-certificate", key).slice(0, MOST_CANDIDATES)) {
    try {
      found.push(read(data, `the ${key.toUpperCase()} certificate`));
    } catch (wrong) {
      if (!(wrong instanceof CheckFailed)) throw wrong;
      first ??= wrong;
    }
  }
  const unnamed = readable(itemsOf(context, "amd-certificate", ""));
  found.push(...unnamed.filter((one) => nameOf(one) === subjectOf(key)));
  if (!found.length && first) throw first;
  return found;
}

/** @param {{data: Uint8Array}[]} items @returns {Certificate[]} */
function readable(items) {
  return items.slice(0, MOST_CANDIDATES).flatMap(({ data }) => {
    try {
      return [read(data, "a certificate")];
    } catch (wrong) {
      if (wrong instanceof CheckFailed) return [];
      throw wrong;
    }
  });
}

/** @param {KeyName} key */
const subjectOf = (key) => `SEV-${key.toUpperCase()}`;

/** @param {Context} context @param {KeyName} key @param {Certificate} leaf @returns {Promise<Chain>} */
async function chainOf(context, key, leaf) {
  const what = key.toUpperCase();
  if (nameOf(leaf) !== subjectOf(key)) {
    throw new CheckFailed(`found a certificate for '${nameOf(leaf)}', expected '${subjectOf(key)}'`);
  }
  if (pointOf(leaf)?.length !== 96) throw new CheckFailed(`the key of the ${what} certificate is not on P-384`);
  const { issuer, anchor, root } = await issuerOf(context, leaf);
  if (!(await isSignedBy(issuer, leaf))) {
    throw new CheckFailed(`the ${what} certificate is not signed by ${nameOf(issuer)}`);
  }
  for (const [below, one] of [issuer, anchor].entries()) {
    if (!isCa(one, below)) throw new CheckFailed(`the certificate of ${nameOf(one)} may not issue certificates`);
  }
  for (const one of [leaf, issuer, anchor]) checkDates(one, context.now);
  return { key, leaf, issuer, anchor, root, product: issuedProduct(key, issuer, anchor) };
}

/**
 * The issuer of a leaf, and the accepted root that signed it.
 * @param {Context} context @param {Certificate} leaf
 */
async function issuerOf(context, leaf) {
  const given = ["ask", ""].flatMap((name) => itemsOf(context, "amd-certificate", name));
  const pinned = Object.entries(AMD_ISSUERS).map(([file, text]) => read(fromBase64(text, file), file));
  const issuers = [...pinned, ...readable(given)].filter((one) => same(one.subject, leaf.issuer));
  const roots = rootsFor(context.roots, "snp");
  const anchors = roots.map((root) => ({ root, anchor: read(root.der, root.name) }));
  for (const issuer of issuers) {
    for (const { root, anchor } of anchors) {
      if (same(issuer.issuer, anchor.subject) && (await isSignedBy(anchor, issuer))) return { issuer, anchor, root };
    }
  }
  const accepted = roots.map((root) => root.name).join(", ") || "none";
  throw new CheckFailed(
    `the certificate's issuer '${issuerName(leaf)}' is not signed by an accepted root (accepted: ${accepted})`,
  );
}

/** @param {Certificate} leaf */
function issuerName({ issuer }) {
  const found = namesIn(issuer);
  return found[found.length - 1] ?? "";
}

/**
 * Whether a certificate may issue others, with `below` CAs between it and the leaf, by both extensions.
 * @param {Certificate} one @param {number} below
 */
function isCa(one, below) {
  const { isCa: ca, pathLength } = basicConstraints(one);
  return ca && below <= (pathLength ?? below) && mayUse(one, CERT_SIGN);
}

/** @param {Certificate} one @param {number} now */
function checkDates(one, now) {
  if (now < one.notBefore || now > one.notAfter) {
    throw new CheckFailed(
      `the certificate of ${nameOf(one)} is valid from ${day(one.notBefore)} to ${day(one.notAfter)}, and the time is ${day(now)}`,
    );
  }
}

/**
 * The product line whose ASK (for a VCEK) or ASVK (for a VLEK) this issuer is, by both names.
 * @param {KeyName} key @param {Certificate} issuer @param {Certificate} anchor
 */
function issuedProduct(key, issuer, anchor) {
  const [name, above] = [nameOf(issuer), nameOf(anchor)];
  const line = name.slice(PREFIXES[key].length);
  if (!name.startsWith(PREFIXES[key]) || above !== `ARK-${line}`) {
    throw new CheckFailed(`found the issuers '${name}' and '${above}', which don't make a ${key} chain`);
  }
  return productOf(line);
}

/**
 * That a current list of the root doesn't name the chain's certificates. An outdated list says nothing good, but what it
 * revokes stays revoked. Without one it is not checked, and not required: AMD replaces keys by TCB versions.
 * @param {Context} context @param {Chain} chain
 */
export async function checkRevocation(context, chain) {
  let isCurrent = false;
  let outdated = "";
  for (const { data } of itemsOf(context, "amd-crl").slice(0, MOST_CANDIDATES)) {
    const crl = readList(data, "the revocation list");
    if (!same(crl.issuer, chain.anchor.subject)) continue;
    if (!mayUse(chain.anchor, CRL_SIGN) || !(await isSignedBy(chain.anchor, crl))) {
      throw new CheckFailed(`the revocation list is not signed by ${chain.root.name}`);
    }
    /** @type {[string, Certificate][]} */
    const all = [
      ["ARK", chain.anchor],
      ["issuer", chain.issuer],
      [chain.key.toUpperCase(), chain.leaf],
    ];
    for (const [name, { serial }] of all) {
      if (crl.serials.has(serialOf(serial))) {
        const said = BigInt.asIntN(8 * serial.length, BigInt(`0x${hex(serial)}`));
        throw new CheckFailed(`the ${name} certificate (serial number ${said}) was revoked by ${chain.root.name}`);
      }
    }
    if (crl.thisUpdate <= context.now && context.now <= crl.nextUpdate) isCurrent = true;
    else outdated = `the one at hand is for ${day(crl.thisUpdate)} to ${day(crl.nextUpdate)}`;
  }
  if (!isCurrent) {
    const where = `${KDS}/${chain.key}/v1/${chain.product}/crl`;
    const why = outdated || "none is at hand";
    throw new NotChecked(`whether AMD revoked the chain needs a current list from ${where}; ${why}`, false);
  }
  return `not revoked by ${chain.root.name}`;
}

/** @param {Uint8Array} data @param {string} what */
function readList(data, what) {
  if (data.length > MOST_CRL) throw new CheckFailed(`${what} is longer than ${MOST_CRL} bytes`);
  const { nextUpdate, ...list } = readCrl(data, what);
  checkAlgorithm(list, what);
  if (nextUpdate === null) throw new CheckFailed(`${what} can't be read: it does not say when the next one comes`);
  if (list.hasCritical) throw new CheckFailed(`${what} has a critical extension that is not known here`);
  return { ...list, nextUpdate };
}

// What a key was issued for --------------------------------------------------------------------------------------------

/** The product line of a name such as `Milan-B0`. @param {string} name @returns {Product} */
function productOf(name) {
  const line = name.split("-")[0];
  if (!Object.hasOwn(LINES, line)) {
    throw new CheckFailed(`found the processor '${name}', expected one of ${Object.keys(LINES).join(", ")}`);
  }
  return LINES[line];
}

/** The product line that the certificate of a VCEK or VLEK names. @param {Certificate} one */
export function certifiedProduct(one) {
  return productOf(textIn(one, PRODUCT_NAME, "product name"));
}

/** The cloud provider that a VLEK was issued to. @param {Certificate} one */
export function cspId(one) {
  return textIn(one, CSP_ID, "provider");
}

/** @param {Certificate} one @param {string} oid @param {string} what */
function textIn(one, oid, what) {
  return der.text(der.only(extensionOf(one, oid, what), der.IA5_STRING));
}

/** @param {Certificate} one @param {string} oid @param {string} what */
function extensionOf({ extensions }, oid, what) {
  const found = extensions.get(oid);
  if (!found) throw new CheckFailed(`the certificate has no ${what} (${oid})`);
  return found.value;
}

/**
 * The TCB version that the certificate of a VCEK or VLEK is for.
 * @param {Product} product @param {Certificate} one @returns {Tcb}
 */
export function certifiedTcb(product, one) {
  for (const oid of RESERVED_ARCS.map((arc) => `${SVNS}.${arc}`)) {
    if (one.extensions.has(oid) && svn(one, oid)) {
      throw new CheckFailed(`the certificate's reserved version ${oid} is not zero`);
    }
  }
  return Object.fromEntries(Object.keys(LAYOUTS[product]).map((name) => [name, svn(one, `${SVNS}.${ARCS[name]}`)]));
}

/** @param {Certificate} one @param {string} oid */
function svn(one, oid) {
  const value = der.number(der.only(extensionOf(one, oid, "security version"), der.INTEGER));
  if (value > 255) throw new CheckFailed(`the certificate's security version ${oid} is ${value}, expected 0 to 255`);
  return value;
}

/**
 * The parts of a TCB version, whose reserved bytes must be zero.
 * @param {Product} product @param {Uint8Array} tcb @param {string} what @returns {Tcb}
 */
export function partsOf(product, tcb, what) {
  const places = Object.values(LAYOUTS[product]);
  if (tcb.some((byte, place) => byte && !places.includes(place))) {
    throw new CheckFailed(`${what} is ${hex(tcb)}, where reserved bytes are not zero`);
  }
  return readTcb(product, tcb);
}

/**
 * The parts of a TCB version, without a look at its reserved bytes.
 * @param {Product} product @param {Uint8Array} tcb @returns {Tcb}
 */
export function readTcb(product, tcb) {
  return Object.fromEntries(Object.entries(LAYOUTS[product]).map(([name, place]) => [name, tcb[place]]));
}

/**
 * The parts that are below the least wanted, in words. A part that this processor doesn't have counts as 0.
 * @param {Tcb} tcb @param {Tcb} least
 */
export function below(tcb, least) {
  return Object.entries(least)
    .filter(([name, wanted]) => (tcb[name] ?? 0) < wanted)
    .map(([name, wanted]) => `${name} ${tcb[name] ?? 0} < ${wanted}`);
}
