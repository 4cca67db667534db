/**
 * Evidence of NVIDIA GPUs and NVSwitches: who made each device, that it signed our nonce, and what it runs. Offline.
 *
 * Source: DMTF DSP0274 1.1 (SPDM); TCG DICE Attestation Architecture 1.1; NVIDIA nvtrust. The same steps as
 * `confide/verify/nvidia.py`. Without reference measurements the claim is that genuine devices signed this nonce. Whether a
 * certificate was revoked is not asked: NVIDIA answers that only over the network.
 */

import { CheckFailed, hex, same } from "./bytes.js";
import { checkLinks, checkShape, firmwareIds, nameDevice, readEvidence, wantedRims } from "./device.js";
import { checkMeasurements, findRim } from "./rim.js";
import { rootsFor } from "./roots.js";
import { FIELDS, SIGNATURE_SIZE } from "./spdm.js";
import { NotChecked } from "./verdict.js";
import { isSigned, pointOf } from "./keys.js";
import { checkChain } from "./x509.js";

/** @typedef {import("./device.js").Kind} Kind */
/** @typedef {import("./device.js").Evidence} Evidence */
/** @typedef {import("./device.js").Reading} Reading */
/** @typedef {import("./device.js").Wanted} Wanted */
/** @typedef {import("./policy.js").Context} Context */
/** @typedef {import("./verdict.js").Ledger} Ledger */
/** @typedef {import("./verdict.js").Root} Root */
/**
 * @typedef {object} Found  A genuine device, as facts have it, with its reading, and the digests of device key and attestation key.
 * @property {Kind} kind @property {Record<string, any>} fact @property {Reading} reading @property {[string, string]} keys
 */
/**
 * @typedef {object} Run  One call: manifests are checked once, however many devices share them.
 * @property {Ledger} ledger @property {Context} context @property {Uint8Array} nonce @property {Root[]} roots
 * @property {Map<string, import("./rim.js").Rim | null>} rims
 */

const MOST_DEVICES = 128;
const WEAKER =
  "a genuine NVIDIA device signed this nonce; whether its firmware and driver are NVIDIA's released ones, " +
  "and confidential-computing mode, was not compared";
const NVDEC0_OFF = "55";

/**
 * Judge the evidence of a machine's devices over a nonce of 32 bytes.
 * @param {Ledger} ledger @param {Context} context @param {Evidence[]} gpus @param {Evidence[]} switches
 * @param {Uint8Array} nonce @param {string | null} unavailable  why there is no evidence, where there is none
 */
export async function verifyGpus(ledger, context, gpus, switches, nonce, unavailable) {
  /** @type {Run} */
  const run = { ledger, context, nonce, roots: rootsFor(context.roots, "gpu"), rims: new Map() };
  const policy = context.policy.gpu;
  await ledger.group("gpus", async (checks) => {
    const said = `${gpus.length} GPUs and ${switches.length} switches`;
    await checks.need(
      1,
      () => checkPresent(run, gpus.length, switches.length, unavailable),
      () => said,
    );
    /** @type {(Found | null)[]} */
    const found = [];
    for (const [place, one] of gpus.entries()) found.push(await judge(run, one, "gpu", place));
    for (const [place, one] of switches.entries()) found.push(await judge(run, one, "switch", place));
    ledger.facts.gpu = found.flatMap((one) => one?.fact ?? []);
    const devices = await checks.need(
      2,
      () => checkDistinct(found),
      (several) => `${several.length} devices`,
    );
    await checks.check(3, () => checkCount(policy, gpus.length, switches.length));
    await checks.check(4, () => checkPolicy(policy, devices));
    await checks.check(5, () => checkInterconnect(policy, devices));
  });
}

// One device -----------------------------------------------------------------------------------------------------------

/** @param {Run} run @param {Evidence} evidence @param {Kind} kind @param {number} place @returns {Promise<Found | null>} */
async function judge(run, evidence, kind, place) {
  /** @type {Found | null} */
  let found = null;
  const make = async (/** @type {import("./verdict.js").Checks} */ checks) => {
    const reading = await checks.need(1, () => readEvidence(evidence));
    const { root, named } = await checks.need(
      2,
      () => checkPath(run, reading, kind, evidence.arch),
      (both) => both.named.model,
    );
    await checks.need(3, () => checkSignature(reading));
    run.ledger.trusted(root);
    await checks.need(4, () => checkNonce(reading, run.nonce));
    await checkFirmware(checks, reading);
    const wanted = wantedRims(reading, named.chip);
    const measured = await checks.check(6, () => measure(run, reading, kind, wanted));
    const fact = {
      kind,
      arch: named.family,
      model: named.model,
      device_id: named.deviceId,
      driver: reading.driver,
      vbios: reading.vbios,
      root: root.name,
      ueid: named.ueid,
      rims: wanted.map((one) => one.id),
      measured,
    };
    found = { kind, fact, reading, keys: named.keys };
  };
  await run.ledger.group("gpu", make, `${kind} ${place}`);
  return found;
}

/** @param {Run} run @param {Reading} reading @param {Kind} kind @param {string} claimed */
async function checkPath({ roots, context }, { certificates: path }, kind, claimed) {
  await checkShape(path);
  const { root } = await checkChain(path, roots, context.now, "the device's certificate chain");
  const isWhole = same(path[path.length - 1].raw, root.der);
  const named = await nameDevice(isWhole ? path.slice(0, -1) : path);
  const isSwitch = named.family === "LS10";
  if (isSwitch !== (kind === "switch")) {
    throw new CheckFailed(`found a ${isSwitch ? "switch" : "GPU"} (${named.model}), expected a ${kind}`);
  }
  if (claimed && claimed.toUpperCase().replaceAll("_", "") !== named.family) {
    throw new CheckFailed(`found the architecture ${named.family} in the certificates, and ${claimed} is claimed`);
  }
  return { root, named };
}

/** @param {Reading} reading */
async function checkSignature({ raw, exchange, certificates: [leaf] }) {
  const point = pointOf(leaf); // step 2 saw to it that it is of P-384
  if (point === null || !(await isSigned(point, exchange.signature, raw.subarray(0, -SIGNATURE_SIZE)))) {
    throw new CheckFailed("the measurements are not signed by the key of the first certificate");
  }
}

/** @param {Reading} reading @param {Uint8Array} nonce */
function checkNonce({ exchange }, nonce) {
  if (!same(exchange.nonce, nonce)) {
    throw new CheckFailed(`found the nonce ${hex(exchange.nonce)}, expected ${hex(nonce)}`);
  }
}

/** @param {import("./verdict.js").Checks} checks @param {Reading} reading */
async function checkFirmware(checks, { exchange, certificates: [leaf] }) {
  const value = exchange.opaque.get(FIELDS.FWID);
  if (!value) {
    checks.skip(5, "this version's report does not repeat the firmware's digest", false);
    return;
  }
  await checks.need(5, () => {
    const [reported, certified] = [hex(value), firmwareIds(leaf)];
    if (!certified.includes(reported)) {
      throw new CheckFailed(`found ${reported} in the report, expected ${certified.join(", ")} of the certificate`);
    }
  });
}

/**
 * Compare with every manifest at hand. It counts as measured only where none is missing.
 * @param {Run} run @param {Reading} reading @param {Kind} kind @param {Wanted[]} wanted
 */
async function measure(run, { exchange }, kind, wanted) {
  /** @type {(import("./rim.js").Rim | null)[]} */
  const found = [];
  for (const one of wanted) found.push(await rimFor(run, one));
  const rims = found.flatMap((rim) => rim ?? []);
  const isOff = hex(exchange.opaque.get(FIELDS.NVDEC0_STATUS) ?? new Uint8Array()) === NVDEC0_OFF;
  const count = rims.length ? checkMeasurements(exchange.measurements, rims, isOff) : 0;
  const missing = wanted.filter((_, at) => found[at] === null).map((one) => one.id);
  if (missing.length || wanted.length !== (kind === "switch" ? 1 : 2)) {
    const which = missing.join(", ") || "what the device should be compared with";
    const compared = count ? `${count} measurements agree, but ` : "";
    const isRequired = run.context.policy.gpu.measurements;
    throw new NotChecked(`${compared}no usable manifest for ${which}: ${WEAKER}`, isRequired);
  }
  return `${count} of ${count} measurements are NVIDIA's (${wanted.map((one) => one.id).join(", ")})`;
}

/** @param {Run} run @param {Wanted} wanted */
async function rimFor({ ledger, context, rims }, wanted) {
  const known = rims.get(wanted.id);
  if (known !== undefined) return known;
  const found = await findRim(ledger, context, wanted);
  rims.set(wanted.id, found);
  return found;
}

// All of them ----------------------------------------------------------------------------------------------------------

/** @param {Run} run @param {number} gpus @param {number} switches @param {string | null} unavailable */
function checkPresent({ context, roots }, gpus, switches, unavailable) {
  const policy = context.policy.gpu;
  const isNeeded = policy.required || Boolean(policy.count) || Boolean(policy.switches);
  if (!gpus) {
    throw new NotChecked(`there is no evidence of a GPU${unavailable ? `: ${unavailable}` : ""}`, isNeeded);
  }
  if (gpus + switches > MOST_DEVICES) {
    throw new CheckFailed(`found ${gpus + switches} devices; more than ${MOST_DEVICES} are not looked at`);
  }
  if (!roots.length) throw new NotChecked("the policy accepts no root for GPUs", isNeeded);
}

/** @param {(Found | null)[]} found @returns {Found[]} */
function checkDistinct(found) {
  const genuine = found.flatMap((one) => one ?? []);
  if (genuine.length !== found.length) {
    throw new NotChecked(`${found.length - genuine.length} of ${found.length} devices are not proven genuine`);
  }
  for (const [which, name] of ["device", "attestation"].entries()) {
    const count = new Set(genuine.map((one) => one.keys[which])).size;
    if (count !== genuine.length) {
      throw new CheckFailed(`found ${count} ${name} keys, expected ${genuine.length}: a device is shown twice`);
    }
  }
  return genuine;
}

/** @param {any} policy @param {number} gpus @param {number} switches */
function checkCount(policy, gpus, switches) {
  if (policy.count === null && policy.switches === null) {
    throw new NotChecked("the policy does not say how many there should be", false);
  }
  const said = (/** @type {number} */ some, /** @type {number} */ others) => `${some} GPUs and ${others} switches`;
  const [found, expected] = [said(gpus, switches), said(policy.count ?? gpus, policy.switches ?? switches)];
  if (found !== expected) throw new CheckFailed(`found ${found}, expected ${expected}`);
  return found;
}

/** @param {any} policy @param {Found[]} found */
function checkPolicy(policy, found) {
  if (!policy.architectures.length && !policy.drivers.length) {
    throw new NotChecked("the policy names no architecture and no driver", false);
  }
  const facts = found.filter((one) => one.kind === "gpu").map((one) => one.fact);
  const distinct = (/** @type {string[]} */ values) => [...new Set(values)].sort();
  /** @type {[string, string[], string[]][]} */
  const all = [
    ["architecture", policy.architectures, distinct(facts.map((one) => one.arch))],
    ["driver", policy.drivers, distinct(facts.map((one) => one.driver))],
  ];
  const wrong = all.flatMap(([what, accepted, values]) =>
    values
      .filter((value) => accepted.length && !accepted.includes(value))
      .map((value) => `found the ${what} ${value || "none"}, expected ${accepted.join(" or ")}`),
  );
  if (wrong.length) throw new CheckFailed(wrong.join("; "));
  return distinct(facts.map((one) => `${one.arch} with driver ${one.driver}`)).join(", ");
}

/** @param {any} policy @param {Found[]} found */
function checkInterconnect(policy, found) {
  const readings = (/** @type {Kind} */ kind) => found.filter((one) => one.kind === kind).map((one) => one.reading);
  return checkLinks(readings("gpu"), readings("switch"), Boolean(policy.switches));
}
