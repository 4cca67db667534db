/**
 * Intel TDX quotes, versions 4 and 5: bytes to values. Well-formed only; nothing here is believed.
 *
 * Source: Intel TDX DCAP Quoting Library API, appendix 3. ECDSA P-256 quotes of TDs are read; anything else is refused by
 * name. Zeros after the signature are padding of the machine that made the quote.
 */

import { CheckFailed, Reader, hex } from "./bytes.js";

/** @typedef {[string, number][]} Layout  names and sizes in bytes of consecutive fields */
/** @typedef {Record<string, Uint8Array>} Fields */
/**
 * @typedef {object} Quote
 * @property {number} version
 * @property {Fields} report  what the TDX module says about the TD
 * @property {Uint8Array} signed  the bytes that the attestation key signs: header and body
 * @property {Uint8Array} signature @property {Uint8Array} attestationKey
 * @property {Fields} enclave  the report of the quoting enclave
 * @property {Uint8Array} enclaveRaw  its 384 bytes, which the PCK key signs
 * @property {Uint8Array} enclaveSignature @property {Uint8Array} authData
 * @property {number} certificationType @property {Uint8Array} certification
 */

export const MOST_BYTES = 64 * 1024;
const INTEL_QE = "939a7233f79c4ca9940a0db3957f0607";
const TEE_TDX = 0x81;
const ECDSA_P256 = 2;
const CERTIFIED_BY_QE = 6;
const PLATFORM_1_0 = 2;
const PLATFORM_1_5 = 3;

/** @type {Layout} */
const TD_1_0 = [
  ["tee_tcb_svn", 16],
  ["mr_seam", 48],
  ["mr_signer_seam", 48],
  ["seam_attributes", 8],
  ["td_attributes", 8],
  ["xfam", 8],
  ["mr_td", 48],
  ["mr_config_id", 48],
  ["mr_owner", 48],
  ["mr_owner_config", 48],
  ["rtmr0", 48],
  ["rtmr1", 48],
  ["rtmr2", 48],
  ["rtmr3", 48],
  ["report_data", 64],
];
/** @type {Layout} */
const TD_1_5 = [...TD_1_0, ["tee_tcb_svn_2", 16], ["mr_service_td", 48]];
/** @type {Layout} */
const ENCLAVE = [
  ["cpu_svn", 16],
  ["misc_select", 4],
  ["reserved_1", 28],
  ["attributes", 16],
  ["mr_enclave", 32],
  ["reserved_2", 32],
  ["mr_signer", 32],
  ["reserved_3", 96],
  ["isv_prod_id", 2],
  ["isv_svn", 2],
  ["reserved_4", 60],
  ["report_data", 64],
];

/** @param {Reader} reader @param {Layout} layout @returns {Fields} */
function fields(reader, layout) {
  return Object.fromEntries(layout.map(([name, size]) => [name, reader.take(size, name)]));
}

/** The quote in these bytes. @param {Uint8Array} raw @returns {Quote} */
export function parseQuote(raw) {
  if (raw.length > MOST_BYTES)
    throw new CheckFailed(`found ${raw.length} bytes, expected a quote of at most ${MOST_BYTES}`);
  if (raw[0] === 3 && raw[1] === 0) {
    throw new CheckFailed("found a quote of version 3, which is of an SGX enclave; expected a TD's");
  }
  const reader = new Reader(raw, "TDX quote");
  const version = parseHeader(reader);
  const report = parseBody(reader, version);
  const signed = raw.slice(0, raw.length - reader.left);
  const signature = parseSignature(reader.part(reader.number(4, "signature length"), "signature"));
  if (reader.take(reader.left, "the rest").some((byte) => byte)) {
    throw reader.wrong("bytes after the signature that are not zero");
  }
  return { version, report, signed, ...signature };
}

/** @param {Reader} reader @returns {number} */
function parseHeader(reader) {
  const version = reader.number(2, "version");
  const keyType = reader.number(2, "attestation_key_type");
  const teeType = reader.number(4, "tee_type");
  reader.take(4, "qe_svn and pce_svn");
  const vendor = hex(reader.take(16, "qe_vendor_id"));
  reader.take(20, "user_data");
  if (version !== 4 && version !== 5) throw reader.wrong(`version ${version}; 4 and 5 are known`);
  if (teeType !== TEE_TDX) throw reader.wrong(`TEE type ${teeType}; TDX is ${TEE_TDX}`);
  if (keyType !== ECDSA_P256) throw reader.wrong(`attestation key type ${keyType}; ECDSA P-256 is ${ECDSA_P256}`);
  if (vendor !== INTEL_QE) throw new CheckFailed(`found a quoting enclave of vendor ${vendor}, expected Intel's`);
  return version;
}

/** @param {Reader} reader @param {number} version @returns {Fields} */
function parseBody(reader, version) {
  if (version === 4) return fields(reader, TD_1_0);
  const kind = reader.number(2, "body type");
  if (kind !== PLATFORM_1_0 && kind !== PLATFORM_1_5) {
    throw reader.wrong(`body type ${kind}; ${PLATFORM_1_0} (TD 1.0) and ${PLATFORM_1_5} (TD 1.5) are known`);
  }
  const body = reader.part(reader.number(4, "body size"), "body");
  const report = fields(body, kind === PLATFORM_1_0 ? TD_1_0 : TD_1_5);
  body.end();
  return report;
}

/** @param {Reader} reader */
function parseSignature(reader) {
  const signature = reader.take(64, "signature");
  const attestationKey = reader.take(64, "attestation key");
  const kind = reader.number(2, "certification type");
  if (kind !== CERTIFIED_BY_QE) {
    throw reader.wrong(`certification type ${kind}; a quoting enclave's report is ${CERTIFIED_BY_QE}`);
  }
  const inner = reader.part(reader.number(4, "certification size"), "certification");
  reader.end();
  const enclaveRaw = inner.take(384, "QE report");
  const enclave = fields(new Reader(enclaveRaw, "QE report"), ENCLAVE);
  const enclaveSignature = inner.take(64, "signature of the QE report");
  const authData = inner.take(inner.number(2, "size of the QE authentication data"), "QE authentication data");
  const certificationType = inner.number(2, "inner certification type");
  const certification = inner.take(inner.number(4, "inner certification size"), "inner certification");
  inner.end();
  return {
    signature,
    attestationKey,
    enclave,
    enclaveRaw,
    enclaveSignature,
    authData,
    certificationType,
    certification,
  };
}
