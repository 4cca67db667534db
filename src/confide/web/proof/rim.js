/**
 * NVIDIA's reference integrity manifests (RIMs): whether they are NVIDIA's, and whether a device measured what they say.
 *
 * Source: ISO/IEC 19770-2:2015 (SWID tag); TCG Reference Integrity Manifest Information Model 1.01; W3C XML Signature 1.1, of which
 * only the one profile is read that NVIDIA signs with. The same steps as `confide/verify/rim.py`. The values come from the very
 * tree whose canonical form is digested, so that no second document can hide in one file (signature wrapping). A manifest is
 * material: whoever brings it, NVIDIA's signature makes it count. Revocation of its signer is not asked.
 */

import { CheckFailed, fromBase64, fromHex, fromUtf8, hex, same, utf8 } from "./bytes.js";
import { hash } from "./crypto.js";
import { itemsOf } from "./material.js";
import { rootsFor } from "./roots.js";
import { Ledger, NotChecked } from "./verdict.js";
import { isSigned, pointOf } from "./keys.js";
import { checkChain, checkReadable, day, readCertificate } from "./x509.js";
import { attribute, canonicalXml, childrenOf, descendants, leadingText, parseXml } from "./xml.js";

/** @typedef {import("./policy.js").Context} Context */
/** @typedef {import("./device.js").Wanted} Wanted */
/** @typedef {import("./x509.js").Certificate} Certificate */
/** @typedef {import("./xml.js").Element} Element */
/** @typedef {{index: number, values: Uint8Array[]}} Reference  an index from 0, and the values of which one must be there */
/**
 * @typedef {object} Rim  One manifest. `references` are the active ones; `version` is that of the driver or VBIOS it describes.
 * @property {string} version @property {string} product @property {string} edition @property {Reference[]} references
 * @property {Uint8Array} covered  the canonical document without its signature @property {Uint8Array} digest  claimed for it
 * @property {Uint8Array} signed  what names that digest @property {Uint8Array} signature  r and s
 * @property {Uint8Array[]} certificates  in DER, the signer's first
 */

const MOST_BYTES = 1 << 20;
const MOST_CANDIDATES = 4;
const MOST_RESOURCES = 256;
const MOST_ALTERNATIVES = 128;
const MOST_CERTIFICATES = 8;
const MOST_TEXT = 128;
const DIGEST_SIZE = 48;
const SIGNATURE_SIZE = 96;
const NVDEC0_INDEX = 35;
const SWID = "{http://standards.iso.org/iso/19770/-2/2015/schema.xsd}";
const DSIG = "{http://www.w3.org/2000/09/xmldsig#}";
const HASH = "{http://www.w3.org/2001/04/xmlenc#sha384}Hash";
const C14N = { Algorithm: "http://www.w3.org/2006/12/xml-c14n11" };
const ENVELOPED = { Algorithm: "http://www.w3.org/2000/09/xmldsig#enveloped-signature" };
const ECDSA = { Algorithm: "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384" };
const SHA384 = { Algorithm: "http://www.w3.org/2001/04/xmldsig-more#sha384" };
/** White space between digits of base64. */
const SPACE = /[\t\n\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]/g;

// Whether it is NVIDIA's -----------------------------------------------------------------------------------------------

/**
 * The first manifest at hand for this id that passes; null where none does. The ledger gets the findings about the one that
 * passed, or about the first; none where none is at hand.
 * @param {Ledger} ledger @param {Context} context @param {Wanted} wanted @returns {Promise<Rim | null>}
 */
export async function findRim(ledger, context, wanted) {
  /** @type {Ledger | null} */
  let first = null;
  for (const { data } of itemsOf(context, "nvidia-rim", wanted.id).slice(0, MOST_CANDIDATES)) {
    const own = new Ledger();
    const rim = await verifyRim(own, context, data, wanted);
    if (rim !== null) {
      adopt(ledger, own);
      return rim;
    }
    first ??= own;
  }
  if (first !== null) adopt(ledger, first);
  return null;
}

/** @param {Ledger} ledger @param {Ledger} own */
function adopt(ledger, own) {
  ledger.findings.push(...own.findings);
  own.anchors.forEach((anchor) => ledger.trusted(anchor));
}

/**
 * The manifest in these bytes, if it is NVIDIA's and the wanted one; the ledger says why not.
 * @param {Ledger} ledger @param {Context} context @param {Uint8Array} data @param {Wanted} wanted @returns {Promise<Rim | null>}
 */
export async function verifyRim(ledger, context, data, wanted) {
  /** @type {Rim | null} */
  let good = null;
  const make = async (/** @type {import("./verdict.js").Checks} */ checks) => {
    const rim = await checks.need(1, () => parseRim(data));
    await checks.need(2, () => checkDigest(rim));
    const path = await checks.need(3, () => checkSignature(rim));
    const { root, whole } = await checks.need(
      4,
      () => checkPath(path, context),
      (found) => `up to ${found.root.name}`,
    );
    await checks.need(5, () => checkDates(whole, context));
    ledger.trusted(root);
    const found = `${rim.edition} ${rim.product} ${rim.version}`;
    await checks.need(
      6,
      () => checkWanted(rim, wanted, found),
      () => found,
    );
    good = rim;
  };
  await ledger.group("rim", make, wanted.id);
  return good;
}

/** @param {Rim} rim */
async function checkDigest({ covered, digest }) {
  const found = hex(await hash("SHA-384", covered));
  if (found !== hex(digest)) {
    throw new CheckFailed(`found the digest ${found}, expected ${hex(digest)}: the values were changed`);
  }
}

/** @param {Rim} rim */
async function checkSignature({ certificates, signature, signed }) {
  const path = certificates.map((one) => readCertificate(one, "the RIM's certificate"));
  for (const one of path) checkReadable(one, "a certificate of the RIM");
  const point = pointOf(path[0]);
  if (point?.length !== SIGNATURE_SIZE) throw new CheckFailed("the RIM signer's key is not of P-384");
  if (!(await isSigned(point, signature, signed))) {
    throw new CheckFailed("the signature is not by the RIM's first certificate");
  }
  return path;
}

/**
 * The chain at the time, or, so that age is told apart from forgery, at a time when all of it was valid.
 * @param {Certificate[]} path @param {Context} context
 */
function checkPath(path, { now, roots }) {
  const { first, last } = validity(path);
  const time = Math.min(Math.max(now, first), last);
  return checkChain(path, rootsFor(roots, "rim"), time, "the RIM's certificate chain");
}

/** @param {Certificate[]} whole  with the root @param {Context} context */
function checkDates(whole, { now, policy }) {
  const { first, last } = validity(whole);
  if (now < first || now > last) {
    throw new NotChecked(
      `signed by certificates valid from ${day(first)} to ${day(last)}, and the time is ${day(now)}: ` +
        "NVIDIA no longer, or not yet, stands behind these values",
      policy.gpu.measurements,
    );
  }
}

/** When all certificates are valid. @param {Certificate[]} path */
function validity(path) {
  return {
    first: Math.max(...path.map((one) => one.notBefore)),
    last: Math.min(...path.map((one) => one.notAfter)),
  };
}

/** @param {Rim} rim @param {Wanted} wanted @param {string} found */
function checkWanted({ edition, product, version }, wanted, found) {
  const fits = edition === wanted.edition && wanted.products.includes(product);
  if (!fits || version.toLowerCase() !== wanted.version.toLowerCase()) {
    throw new CheckFailed(
      `found ${found}, expected ${wanted.edition} ${wanted.products.join(" or ")} ${wanted.version}`,
    );
  }
}

/**
 * Compare what a device measured (by index from 1) with every active reference (from 0); how many there were. Measurement 35
 * means nothing while NVDEC0 is off. Source: NVIDIA nvtrust, the rules of its local verifier.
 * @param {Map<number, Uint8Array>} runtime @param {Rim[]} rims @param {boolean} isNvdec0Off @returns {number}
 */
export function checkMeasurements(runtime, rims, isNvdec0Off) {
  const references = rims.flatMap((rim) => rim.references);
  if (new Set(references.map(({ index }) => index)).size !== references.length) {
    throw new CheckFailed("the manifests of driver and VBIOS both describe one measurement");
  }
  const compared = references.filter(({ index }) => !(index === NVDEC0_INDEX && isNvdec0Off));
  if (!compared.length) throw new CheckFailed("the manifests have no active reference");
  const agrees = (/** @type {Reference} */ { index, values }) => {
    const found = runtime.get(index + 1);
    return found !== undefined && values.some((value) => same(value, found));
  };
  const wrong = compared.filter((one) => !agrees(one)).map(({ index }) => index);
  if (wrong.length) {
    const places = wrong.sort((one, other) => one - other).join(", ");
    throw new CheckFailed(`${wrong.length} of ${compared.length} measurements differ from NVIDIA's (index ${places})`);
  }
  return compared.length;
}

// What is written in it ------------------------------------------------------------------------------------------------

/** The manifest in these bytes. @param {Uint8Array} data @returns {Rim} */
function parseRim(data) {
  try {
    return read(data);
  } catch (wrong) {
    if (wrong instanceof CheckFailed) throw new CheckFailed(`RIM: ${wrong.message}`);
    throw wrong;
  }
}

/** @param {Uint8Array} data @returns {Rim} */
function read(data) {
  if (data.length > MOST_BYTES) throw new CheckFailed(`longer than ${MOST_BYTES} bytes`);
  const root = parseXml(text(data));
  if (root.name !== `${SWID}SoftwareIdentity`) throw new CheckFailed("not a SWID tag");
  const signature = findSignature(root);
  const [info, value, keyInfo] = exactly(signature, {}, "SignedInfo", "SignatureValue", "KeyInfo");
  const signed = utf8(canonicalXml(info)); // while it is in its place: namespaces of the root belong to it
  const bare = { ...root, children: root.children.filter((one) => one !== signature) };
  const meta = only(root, "Meta");
  text128(root, "name");
  return {
    version: text128(meta, "colloquialVersion"),
    product: text128(meta, "product"),
    edition: text128(meta, "edition"),
    references: references(only(root, "Payload")),
    covered: utf8(canonicalXml(bare)),
    digest: digestIn(info),
    signed,
    signature: bytesIn(value, SIGNATURE_SIZE),
    certificates: certificatesIn(keyInfo),
  };
}

/** @param {Uint8Array} data */
function text(data) {
  try {
    return fromUtf8(data);
  } catch {
    throw new CheckFailed("not UTF-8");
  }
}

/** @param {Element} root */
function findSignature(root) {
  const found = [...descendants(root)].filter((one) => one.name === `${DSIG}Signature`);
  if (found.length !== 1 || !root.children.includes(found[0])) {
    throw new CheckFailed(`found ${found.length} signatures, expected one directly below the root`);
  }
  if (childrenOf(root)[0] === found[0]) throw new CheckFailed("nothing is before the signature");
  return found[0];
}

/** The digest that is signed, where everything about it is as expected. @param {Element} info */
function digestIn(info) {
  const [canonicalization, method, reference] = exactly(
    info,
    {},
    "CanonicalizationMethod",
    "SignatureMethod",
    "Reference",
  );
  exactly(canonicalization, C14N);
  exactly(method, ECDSA);
  const [transforms, digestMethod, value] = exactly(
    reference,
    { URI: "" },
    "Transforms",
    "DigestMethod",
    "DigestValue",
  );
  const [enveloped, canonical] = exactly(transforms, {}, "Transform", "Transform");
  exactly(enveloped, ENVELOPED);
  exactly(canonical, C14N);
  exactly(digestMethod, SHA384);
  return bytesIn(value, DIGEST_SIZE);
}

/** @param {Element} keyInfo */
function certificatesIn(keyInfo) {
  const [data] = exactly(keyInfo, {}, "X509Data");
  const count = childrenOf(data).length;
  if (count < 1 || count > MOST_CERTIFICATES) {
    throw new CheckFailed(`it has ${count} certificates, expected 1 to ${MOST_CERTIFICATES}`);
  }
  const found = exactly(data, {}, ...Array(count).fill("X509Certificate")).map((one) => bytesIn(one));
  if (new Set(found.map(hex)).size !== count) throw new CheckFailed("it has a certificate twice");
  return found;
}

/** @param {Element} payload @returns {Reference[]} */
function references(payload) {
  const resources = childrenOf(payload);
  if (resources.length > MOST_RESOURCES) throw new CheckFailed(`more than ${MOST_RESOURCES} resources`);
  const seen = new Set();
  return resources.flatMap((resource) => {
    const index = numberIn(resource, "index");
    const isMeasurement = resource.name === `${SWID}Resource` && attribute(resource, "type") === "Measurement";
    if (!isMeasurement || childrenOf(resource).length) throw new CheckFailed(`resource ${index} is no measurement`);
    if (seen.has(index)) throw new CheckFailed(`two measurements have index ${index}`);
    seen.add(index);
    return reference(resource, index);
  });
}

/** An active reference, or none. @param {Element} resource @param {number} index @returns {Reference[]} */
function reference(resource, index) {
  const count = numberIn(resource, "alternatives");
  const announced = Array.from({ length: Math.min(count, MOST_ALTERNATIVES) }, (_, at) =>
    attribute(resource, HASH + at),
  );
  const there = resource.attributes.filter(({ name }) => name.startsWith(HASH)).length;
  if (count < 1 || count > MOST_ALTERNATIVES || there !== count || announced.includes(undefined)) {
    throw new CheckFailed(`measurement ${index} does not have the alternatives that it announces`);
  }
  const values = announced.map((value) => {
    if (!/^[0-9a-fA-F]{96}$/.test(value ?? "")) {
      throw new CheckFailed(`a value of measurement ${index} is not ${DIGEST_SIZE} bytes in hexadecimal`);
    }
    return fromHex(value ?? "", "a value");
  });
  const active = text128(resource, "active");
  if (!["True", "False"].includes(active)) throw new CheckFailed(`measurement ${index} is neither active nor not`);
  return active === "True" ? [{ index, values }] : [];
}

/** @param {Element} root @param {string} name */
function only(root, name) {
  const found = childrenOf(root).filter((one) => one.name === SWID + name);
  if (found.length !== 1) throw new CheckFailed(`found ${found.length} elements ${name}, expected one`);
  return found[0];
}

/**
 * The children of an element of the signature that has these attributes and children, and no others.
 * @param {Element} element @param {Record<string, string>} attributes @param {...string} children @returns {Element[]}
 */
function exactly(element, attributes, ...children) {
  const found = element.attributes;
  const isWanted = found.every(({ name, value }) => attributes[name] === value);
  if (!isWanted || found.length !== Object.keys(attributes).length) {
    const said = (/** @type {[string, string][]} */ pairs) => pairs.map((one) => one.join("=")).join(" ") || "nothing";
    const shown = said(found.map(({ name, value }) => [name, value]));
    throw new CheckFailed(`${localName(element)}: found ${shown}, expected ${said(Object.entries(attributes))}`);
  }
  const inside = childrenOf(element);
  if (inside.map((one) => one.name).join(" ") !== children.map((one) => DSIG + one).join(" ")) {
    throw new CheckFailed(`${localName(element)}: expected ${children.join(", ") || "nothing"} in it`);
  }
  return inside;
}

/** @param {Element} element */
function localName({ qname }) {
  return qname.slice(qname.indexOf(":") + 1);
}

/** @param {Element} element @param {string} name */
function text128(element, name) {
  const value = attribute(element, name);
  if (!value || [...value].length > MOST_TEXT)
    throw new CheckFailed(`${localName(element)} has no ${name}, or a long one`);
  return value;
}

/** @param {Element} element @param {string} name */
function numberIn(element, name) {
  const value = text128(element, name);
  if (!/^[0-9]{1,3}$/.test(value)) throw new CheckFailed(`${name} is no small number`);
  return parseInt(value, 10);
}

/** @param {Element} element @param {number} [size] */
function bytesIn(element, size) {
  exactly(element, {});
  const what = localName(element);
  const data = fromBase64(leadingText(element).replace(SPACE, ""), what);
  if (size !== undefined && data.length !== size) {
    throw new CheckFailed(`${what} is ${data.length} bytes long, expected ${size}`);
  }
  return data;
}
