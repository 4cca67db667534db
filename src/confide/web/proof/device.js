/**
 * What the evidence of one NVIDIA device says about it: its family, its identity, its versions, its manifests' ids, and how the
 * GPUs of one machine are connected. Reading only: nothing here is genuine before `nvidia.js` has checked chain and signature.
 *
 * Source: TCG DICE Attestation Architecture 1.1 (extensions of alias certificates); NVIDIA nvtrust and attestation-sdk (opaque
 * fields, names of certificates, ids of RIMs, topology of protected PCIe).
 */

import { CheckFailed, Reader, hex } from "./bytes.js";
import { hash } from "./crypto.js";
import { FIELDS, parseMeasurements } from "./spdm.js";
import { NotChecked } from "./verdict.js";
import { keyAt, pointOf } from "./keys.js";
import { readPem } from "./pem.js";
import { checkReadable } from "./x509.js";

/** @typedef {import("./x509.js").Certificate} Certificate */
/** @typedef {"gpu" | "switch"} Kind */
/** @typedef {{arch: string, certificate: Uint8Array, evidence: Uint8Array}} Evidence  what one device gives */
/**
 * @typedef {object} Reading  Evidence of one device that is well-formed, with its certificates, the attestation key's first.
 * @property {Uint8Array} raw @property {import("./spdm.js").Measurements} exchange @property {Certificate[]} certificates
 * @property {string} driver  empty where there is none: switches have none
 * @property {string} vbios  as in 96.00.5E.00.01; empty where there is none
 */
/**
 * @typedef {object} Named  What the certificates say: chip (GH100) and its family, model, serial of the device, and that of its
 *     key; SHA-256 of the public keys that stand for the device and for its firmware.
 * @property {string} chip @property {string} family @property {string} model @property {string} deviceId
 * @property {string} ueid @property {[string, string]} keys
 */
/** @typedef {{id: string, version: string, products: string[], edition: string}} Wanted  the manifest that a device asks for */

const MOST_EVIDENCE = 64 * 1024;
const ALL_SIGNED = "01ff";
/** Architectures by the first letters of the chip, in the words of NVIDIA's tools. @type {Record<string, string>} */
const FAMILIES = { GH: "HOPPER", GB: "BLACKWELL", LS: "LS10" };
const CHIP = /^((GH|GB)[0-9]{2}[0-9X]|LS_?10)$/;
const CERTIFICATES = 4;
const PART = /^[A-Z0-9]{1,16}$/;
const DRIVER = /^[0-9]{1,4}(\.[0-9]{1,4}){1,3}$/;
const BIOS = /^[0-9A-F]{2}(\.[0-9A-F]{2}){4}$/;
const SWITCH_BOARD = "5612_0002_890";
const COMPOSITE_ID = "2.23.133.5.4.1";
const TCB_INFO = "2.23.133.5.4.1.1";
const DIGEST_SIZE = 48;
const PROTECTED = "aa";
/** @type {Record<string, string>} */
const MODES = { 0: "single GPU passthrough", 1: "multi GPU passthrough", 2: "protected PCIe" };
const PPCIE = "2";
const PDI_SIZE = 8;
const OFF = "00".repeat(PDI_SIZE);

// Evidence -------------------------------------------------------------------------------------------------------------

/** The parts of one device's evidence. @param {Evidence} evidence @returns {Reading} */
export function readEvidence({ evidence: raw, certificate }) {
  if (raw.length > MOST_EVIDENCE) throw new CheckFailed(`the exchange is longer than ${MOST_EVIDENCE} bytes`);
  const exchange = parseMeasurements(raw);
  if (exchange.requestParams !== ALL_SIGNED) {
    throw new CheckFailed("the request does not ask for all measurements and a signature");
  }
  const certificates = readPem(certificate, "the device's certificate chain");
  return { raw, exchange, certificates, driver: textOf(exchange, FIELDS.DRIVER_VERSION), vbios: vbiosOf(exchange) };
}

/**
 * A text field up to its first NUL, without what can't be printed; empty where there is none.
 * @param {import("./spdm.js").Measurements} exchange @param {number} field
 */
function textOf({ opaque }, field) {
  const value = opaque.get(field) ?? new Uint8Array();
  const end = value.indexOf(0);
  const bytes = value.subarray(0, Math.min(end < 0 ? 64 : end, 64));
  const shown = Array.from(bytes, (byte) => (byte > 0x7f ? "\ufffd" : String.fromCharCode(byte)));
  return shown
    .filter((one) => one >= " " && one !== "\x7f")
    .join("")
    .trim();
}

/** @param {import("./spdm.js").Measurements} exchange */
function vbiosOf(exchange) {
  const value = exchange.opaque.get(FIELDS.VBIOS_VERSION) ?? new Uint8Array();
  if (value.length !== 8) return textOf(exchange, FIELDS.VBIOS_VERSION).toUpperCase();
  const ordered = value.slice().reverse();
  return [...ordered.subarray(4), ordered[3]].map((byte) => hex(Uint8Array.of(byte)).toUpperCase()).join(".");
}

// Certificates ---------------------------------------------------------------------------------------------------------

/**
 * A device's chain has four certificates, or five with the root; all keys are of P-384, all digests SHA-384.
 * @param {Certificate[]} path
 */
export async function checkShape(path) {
  if (path.length < CERTIFICATES || path.length > CERTIFICATES + 1) {
    throw new CheckFailed(`found ${path.length} certificates, expected ${CERTIFICATES} and the root`);
  }
  for (const [place, one] of path.entries()) {
    checkReadable(one, `certificate ${place}`);
    const point = pointOf(one);
    if (point?.length !== 96 || one.algorithm !== "ES384") {
      throw new CheckFailed(`certificate ${place} is not of ECDSA P-384 with SHA-384`);
    }
    if (!(await keyAt(point))) throw new CheckFailed(`the key of certificate ${place} can't be read`);
  }
}

/**
 * Who the device is, from its certificates without the root: attestation key, device, provisioner, identity. The first three
 * name the chip. The fourth does not tell families apart: NVSwitches are below "GH100 Identity".
 * @param {Certificate[]} path @returns {Promise<Named>}
 */
export async function nameDevice(path) {
  if (path.length !== CERTIFICATES) {
    throw new CheckFailed(`found ${path.length} certificates below the root, expected ${CERTIFICATES}`);
  }
  const names = path.map(commonName);
  const [leaf, device] = path;
  const chip = chipOf(names[0]);
  if (chip === null || names.slice(1, 3).some((name) => chipOf(name) !== chip)) {
    throw new CheckFailed(`the certificates do not name one known chip: ${names.slice(0, 3).join(", ")}`);
  }
  const digest = async (/** @type {Certificate} */ one) => hex(await hash("SHA-256", one.spki));
  return {
    chip: chip.replaceAll("_", ""),
    family: FAMILIES[chip.slice(0, 2)],
    model: names[1],
    deviceId: numberOf(device.serial).toString(16).toUpperCase(),
    ueid: numberOf(leaf.serial).toString(),
    keys: [await digest(device), await digest(leaf)],
  };
}

/** @param {Uint8Array} integer  in two's complement */
function numberOf(integer) {
  return BigInt.asIntN(8 * integer.length, BigInt(`0x${hex(integer)}`));
}

/** @param {Certificate} one */
function commonName({ commonNames }) {
  if (commonNames.length !== 1) {
    throw new CheckFailed(`a certificate has ${commonNames.length} common names, expected one`);
  }
  return commonNames[0].slice(0, 128);
}

/** @param {string} name @returns {string | null} */
function chipOf(name) {
  const found = name.split(/\s+/).filter((word) => CHIP.test(word));
  return found.length === 1 ? found[0] : null;
}

/**
 * The firmware digests, in hex, in the DICE extension of an attestation key's certificate.
 * @param {Certificate} leaf @returns {string[]}
 */
export function firmwareIds(leaf) {
  for (const { oid, value } of leaf.extensions.values()) {
    if (oid === COMPOSITE_ID || oid === TCB_INFO) return idsIn(oid, value);
  }
  throw new CheckFailed("the attestation key's certificate names no firmware");
}

/** @param {string} oid @param {Uint8Array} value */
function idsIn(oid, value) {
  if (value.length === DIGEST_SIZE) return [hex(value)]; // nothing but the digest, as our development PKI writes it
  const body = inside(new Reader(value, "DICE extension"), 0x30);
  if (oid === COMPOSITE_ID) {
    inside(body, 0x02); // the version
    inside(body, 0x30); // the device's public key
    return [firmwareId(inside(body, 0x30))];
  }
  // DiceTcbInfo: tagged members, of which [6] holds the firmware ids
  while (body.left) {
    const { tag, content } = anyValue(body);
    if (tag !== 0xa6) continue;
    const found = [];
    while (content.left) found.push(firmwareId(inside(content, 0x30)));
    return found.filter((one) => /[^0]/.test(one)); // zeros stand for no firmware
  }
  throw new CheckFailed("the DICE extension names no firmware");
}

/** @param {Reader} reader */
function firmwareId(reader) {
  inside(reader, 0x06);
  const digest = inside(reader, 0x04);
  return hex(digest.take(digest.left, "the rest"));
}

/** @param {Reader} reader @param {number} wanted @returns {Reader} */
function inside(reader, wanted) {
  const { tag, content } = anyValue(reader);
  if (tag !== wanted) throw reader.wrong(`found the tag 0x${tag.toString(16)}, expected 0x${wanted.toString(16)}`);
  return content;
}

/** One DER value of a short tag and a length below 64 KiB (X.690, 8.1). @param {Reader} reader */
function anyValue(reader) {
  const tag = reader.number(1, "tag");
  let length = reader.number(1, "length");
  if (length > 0x82) throw reader.wrong("a length is too long");
  if (length & 0x80) {
    length = reader.take(length & 0x7f, "length").reduce((value, byte) => value * 256 + byte, 0);
  }
  return { tag, content: reader.part(length, "value") };
}

// Manifests ------------------------------------------------------------------------------------------------------------

/**
 * The manifests of this device: driver and VBIOS of a GPU, the BIOS of a switch; without those it does not name.
 * @param {Reading} reading @param {string} chip @returns {Wanted[]}
 */
export function wantedRims({ exchange, driver, vbios }, chip) {
  const bios = vbios.replaceAll(".", "");
  if (FAMILIES[chip.slice(0, 2)] === "LS10") {
    return wanted([[`NV_SWITCH_BIOS_${SWITCH_BOARD}_${bios}`, vbios, BIOS]], [chip], "SWITCH");
  }
  const info = textOf(exchange, FIELDS.CHIP_INFO).toUpperCase();
  const driverChip = PART.test(info) ? info : chip;
  const isHopper = chip.startsWith("GH");
  const board = [FIELDS.PROJECT, FIELDS.PROJECT_SKU, FIELDS.CHIP_SKU].map((one) => textOf(exchange, one).toUpperCase());
  /** @type {[string, string, RegExp][]} */
  const ids = [[`NV_GPU_${isHopper ? `DRIVER_${chip}` : `CC_DRIVER_${driverChip}`}_${driver}`, driver, DRIVER]];
  if (board.every((part) => PART.test(part))) ids.push([`NV_GPU_VBIOS_${board.join("_")}_${bios}`, vbios, BIOS]);
  return wanted(ids, [...new Set([chip, driverChip])], "GPU");
}

/** @param {[string, string, RegExp][]} ids @param {string[]} products @param {string} edition @returns {Wanted[]} */
function wanted(ids, products, edition) {
  return ids
    .filter(([, version, shape]) => shape.test(version))
    .map(([id, version]) => ({ id, version, products, edition }));
}

// How they are connected -----------------------------------------------------------------------------------------------

/**
 * The one mode that all GPUs work in. In protected PCIe mode GPUs trust the NVSwitches between them, so each switch that a GPU
 * names must itself be shown and genuine.
 * @param {Reading[]} gpus @param {Reading[]} switches @param {boolean} isRequired  by the policy
 */
export function checkLinks(gpus, switches, isRequired) {
  const modes = [...new Set(gpus.map(modeOf))];
  if (modes.length !== 1) {
    const names = modes.map((mode) => MODES[mode ?? ""] ?? "not known").sort();
    throw new CheckFailed(`found GPUs in different modes (${names.join(", ")}), expected one`);
  }
  const [mode] = modes;
  if (mode === null || !Object.hasOwn(MODES, mode)) {
    throw new NotChecked("the GPUs do not say in a known way how they are connected", isRequired);
  }
  if (mode !== PPCIE) return MODES[mode];
  checkSwitches(gpus, switches, isRequired);
  return `${MODES[mode]} over ${switches.length} switches`;
}

/** @param {Reading[]} gpus @param {Reading[]} switches @param {boolean} isRequired */
function checkSwitches(gpus, switches, isRequired) {
  if (!switches.length) {
    const reason =
      "in protected PCIe mode the GPUs trust the NVSwitches between them, and no evidence of these is shown";
    throw new NotChecked(reason, isRequired);
  }
  const own = switches.map(({ exchange }) => hex(exchange.opaque.get(FIELDS.DEVICE_PDI) ?? new Uint8Array()));
  const shown = [...new Set(own)].sort();
  for (const gpu of gpus) {
    const named = linkedTo(gpu);
    if (named.length !== shown.length || named.some((one, at) => one !== shown[at])) {
      const said = [named, shown].map((some) => some.join(", ") || "none");
      throw new CheckFailed(`found links to the switches ${said[0]}, expected ${said[1]}`);
    }
  }
}

/** A decimal number in text; null where a GPU doesn't say. @param {Reading} gpu */
function modeOf({ exchange: { opaque } }) {
  const isProtected = hex(opaque.get(FIELDS.PROTECTED_PCIE) ?? new Uint8Array()) === PROTECTED;
  if (isProtected) return PPCIE;
  const flag = opaque.get(FIELDS.FEATURE_FLAG);
  return flag ? BigInt(`0x0${hex(flag.slice().reverse())}`).toString() : null;
}

/** The switches that a GPU names, as these write themselves: GPUs write them in reverse. @param {Reading} gpu */
function linkedTo({ exchange: { opaque } }) {
  const value = opaque.get(FIELDS.DEVICE_PDI) ?? new Uint8Array();
  const parts = new Set();
  for (let at = 0; at < value.length; at += PDI_SIZE) parts.add(hex(value.slice(at, at + PDI_SIZE).reverse()));
  parts.delete(OFF); // a link that is off
  return [...parts].sort();
}
