/**
 * Evidence of NVIDIA devices: the SPDM 1.1 measurement exchange. Well-formed only; the signature is over everything before it.
 *
 * Source: DMTF DSP0274 1.1, GET_MEASUREMENTS and MEASUREMENTS; NVIDIA's vendor fields in the opaque data as its public nvtrust
 * samples hold them. A device hands out the request and the signed response one after the other, without framing.
 */

import { Reader, hex } from "./bytes.js";

/**
 * @typedef {object} Measurements  A request for measurements and the device's signed answer.
 * @property {Uint8Array} nonce @property {string} requestParams  in hex
 * @property {Map<number, Uint8Array>} measurements  by index from 1
 * @property {Map<number, Uint8Array>} opaque  NVIDIA's fields by type
 * @property {Uint8Array} signature  r and s
 */

export const SIGNATURE_SIZE = 96;
/** Types of fields in the opaque data. */
export const FIELDS = {
  DRIVER_VERSION: 3,
  VBIOS_VERSION: 6,
  NVDEC0_STATUS: 11,
  CHIP_SKU: 15,
  PROJECT: 17,
  PROJECT_SKU: 18,
  FWID: 20,
  PROTECTED_PCIE: 21,
  /** Of a switch, its own identifier; of a GPU, those of the switches it is linked to. */
  DEVICE_PDI: 22,
  CHIP_INFO: 35,
  FEATURE_FLAG: 36,
};
const NONCE_SIZE = 32;
const REQUEST = "11e0";
const RESPONSE = "1160";
const DMTF = 1;

/** The exchange in these bytes. @param {Uint8Array} raw @returns {Measurements} */
export function parseMeasurements(raw) {
  const reader = new Reader(raw, "SPDM measurements");
  expect(reader, REQUEST, "an SPDM 1.1 GET_MEASUREMENTS request");
  const requestParams = hex(reader.take(2, "request parameters"));
  const nonce = reader.take(NONCE_SIZE, "nonce");
  reader.number(1, "slot");
  expect(reader, RESPONSE, "an SPDM 1.1 MEASUREMENTS response");
  reader.take(2, "response parameters");
  const count = reader.number(1, "number of blocks");
  const measurements = parseBlocks(reader.part(reader.number(3, "record length"), "record"), count);
  reader.take(NONCE_SIZE, "responder's nonce");
  const opaque = parseOpaque(reader.part(reader.number(2, "opaque length"), "opaque data"));
  const signature = reader.take(SIGNATURE_SIZE, "signature");
  reader.end();
  return { nonce, requestParams, measurements, opaque, signature };
}

/** @param {Reader} reader @param {string} magic @param {string} what */
function expect(reader, magic, what) {
  if (hex(reader.take(magic.length / 2, what)) !== magic) throw reader.wrong(`not ${what}`);
}

/** @param {Reader} reader @param {number} count @returns {Map<number, Uint8Array>} */
function parseBlocks(reader, count) {
  const blocks = new Map();
  for (let left = count; left; left -= 1) {
    const index = reader.number(1, "index");
    if (reader.number(1, "specification") !== DMTF) {
      throw reader.wrong(`measurement ${index} is not in DMTF's format`);
    }
    const block = reader.part(reader.number(2, "block size"), `measurement ${index}`);
    block.number(1, "type");
    const value = block.take(block.number(2, "value size"), "value");
    block.end();
    if (blocks.has(index)) throw reader.wrong(`two measurements have index ${index}`);
    blocks.set(index, value);
  }
  reader.end();
  return blocks;
}

/** @param {Reader} reader @returns {Map<number, Uint8Array>} */
function parseOpaque(reader) {
  const fields = new Map();
  let isTwice = false;
  while (reader.left) {
    const kind = reader.number(2, "type");
    isTwice ||= fields.has(kind);
    fields.set(kind, reader.take(reader.number(2, "size"), `field ${kind}`));
  }
  if (isTwice) throw reader.wrong("two fields have the same type");
  return fields;
}
