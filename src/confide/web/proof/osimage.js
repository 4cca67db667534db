/**
 * dstack's measurement document: what an OS image of dstack 0.6 or later puts into a TD's registers when it boots.
 *
 * Source: the public dstack repository, `dstack-types` (`TdxOsImageMeasurement`, version 3) and `dstack-mr`. The document is
 * CBOR (RFC 8949) of maps, texts, byte strings and small numbers; only those are read.
 */

import { CheckFailed, Reader, concat, fromBase64, fromHex, fromUtf8, hex, utf8 } from "./bytes.js";
import { hash } from "./crypto.js";
import { isObject } from "./shapes.js";

/** @typedef {{imageHash: string, mrTd: string[], rtmr1: string, rtmr2: string}} OsImage  all in hex */

const FILE = "measurement.tdx.cbor";
const VERSION = 3;
const MOST_BYTES = 64 * 1024;
const MOST_DEPTH = 4;
const MOST_MEMBERS = 32;
const UNSIGNED = 0;
const BYTES = 2;
const TEXT = 3;
const MAP = 5;
/** What the firmware measures into RTMR1 after the kernel. */
const KERNEL_EVENTS = [
  utf8("Calling EFI Application from Boot Option"),
  new Uint8Array(4),
  utf8("Exit Boot Services Invocation"),
  utf8("Exit Boot Services Returned with Success"),
];

/** The register after these digests. @param {Uint8Array[]} digests @returns {Promise<Uint8Array>} */
export async function extended(digests) {
  /** @type {Uint8Array} */
  let register = new Uint8Array(48);
  for (const digest of digests) register = await hash("SHA-384", concat(register, digest));
  return register;
}

/**
 * The image behind `{"checksum_file", "measurement"}`, both in base64.
 * @param {any} document @returns {Promise<OsImage>}
 */
export async function parseImage(document) {
  const checksums = part(document, "checksum_file");
  const measurement = part(document, "measurement");
  if (listed(checksums) !== hex(await hash("SHA-256", measurement))) {
    throw new CheckFailed(`OS image: the checksum file lists another ${FILE}`);
  }
  const reader = new Reader(measurement, "OS image, the measurement");
  const value = item(reader, 0);
  reader.end();
  if (!(value instanceof Map) || value.get("version") !== VERSION) {
    throw new CheckFailed(`OS image: the measurement is not of version ${VERSION}`);
  }
  const image = member(value, "image");
  const mrTd = member(member(value, "tdvf"), "mrtd");
  const events = await Promise.all(KERNEL_EVENTS.map((event) => hash("SHA-384", event)));
  return {
    imageHash: hex(await hash("SHA-256", checksums)),
    mrTd: [hex(digest(mrTd, "single_pass")), hex(digest(mrTd, "two_pass"))],
    rtmr1: hex(await extended([digest(image, "kernel_authenticode"), ...events])),
    rtmr2: hex(await extended([digest(image, "cmdline_sha384"), digest(image, "initrd_sha384")])),
  };
}

/** @param {any} document @param {string} name */
function part(document, name) {
  const text = isObject(document) ? document[name] : undefined;
  if (typeof text !== "string" || text.length > 2 * MOST_BYTES) {
    throw new CheckFailed(`OS image: ${name} is not a text of up to ${2 * MOST_BYTES} characters`);
  }
  return fromBase64(text, `OS image: ${name}`);
}

/**
 * The digest that the lines `<SHA-256 in hex>  <file>` give for the measurement, which must be one.
 * @param {Uint8Array} checksums
 */
function listed(checksums) {
  const lines = fromUtf8(checksums)
    .split(/\r\n|[\n\r]/)
    .map((line) => line.trim().split(/\s+/));
  const found = lines.filter((line) => line.length === 2 && line[1] === FILE);
  if (found.length !== 1) throw new CheckFailed(`OS image: the checksum file doesn't list ${FILE} once`);
  return hex(fromHex(found[0][0], "OS image: a checksum"));
}

/** @param {Map<string, any>} value @param {string} name @returns {Map<string, any>} */
function member(value, name) {
  const inner = value.get(name);
  if (!(inner instanceof Map)) throw new CheckFailed(`OS image: the measurement has no map '${name}'`);
  return inner;
}

/** @param {Map<string, any>} value @param {string} name @returns {Uint8Array} */
function digest(value, name) {
  const found = value.get(name);
  if (!(found instanceof Uint8Array) || found.length !== 48)
    throw new CheckFailed(`OS image: '${name}' is not 48 bytes`);
  return found;
}

/**
 * One data item: its major type in the upper three bits, then its number or length.
 * @param {Reader} reader @param {number} depth @returns {any}
 */
function item(reader, depth) {
  const [first] = reader.take(1, "an item");
  const kind = first >> 5;
  let size = first & 31;
  if (size > 27) throw reader.wrong("an item of indefinite length");
  if (size >= 24) size = reader.take(1 << (size - 24), "a length").reduce((value, byte) => value * 256 + byte, 0);
  if (kind === UNSIGNED) return size;
  if (kind === BYTES) return reader.take(size, "a byte string");
  if (kind === TEXT) return fromUtf8(reader.take(size, "a text"));
  if (kind !== MAP || size > MOST_MEMBERS || depth >= MOST_DEPTH) {
    throw reader.wrong(`an item of type ${kind}; flat maps, texts, bytes and unsigned numbers are read`);
  }
  const members = new Map();
  for (let count = 0; count < size; count += 1) {
    const name = item(reader, depth + 1);
    if (typeof name !== "string" || members.has(name))
      throw reader.wrong("a map with a key twice, or one that is no text");
    members.set(name, item(reader, depth + 1));
  }
  return members;
}
