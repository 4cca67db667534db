/**
 * Intel TDX: whether a quote is a genuine TD's, on a platform and with software that a policy accepts. Offline.
 *
 * Source: Intel TDX DCAP Quoting Library API, appendix 3; Intel SGX PCK Certificate and CRL Profile, section 1.3.5; Intel TDX
 * Module ABI specification, "ATTRIBUTES". Steps 1 to 7 need nothing but the quote, 8 to 10 collateral.
 */

import { CheckFailed, concat, hex, same } from "./bytes.js";
import { candidates, checkStatus, genuine, stand } from "./collateral.js";
import { hash } from "./crypto.js";
import * as der from "./der.js";
import { parseQuote } from "./quote.js";
import { rootsFor } from "./roots.js";
import { isSigned, keyOf } from "./keys.js";
import { readChain } from "./pem.js";
import { checkChain, day } from "./x509.js";
import { NotChecked } from "./verdict.js";

/** @typedef {import("./quote.js").Quote} Quote */
/** @typedef {import("./policy.js").Context} Context */
/** @typedef {import("./x509.js").Certificate} Certificate */
/**
 * @typedef {object} Platform  What the PCK certificate says about a machine, in capital hexadecimal as Intel writes it.
 * @property {Certificate[]} chain  the PCK certificate, its CA, the root
 * @property {string} fmspc @property {string} pceId @property {string} ppid
 * @property {Uint8Array} cpuSvn  of the sixteen components @property {number} pceSvn
 * @property {Record<"dynamic_platform" | "cached_keys" | "smt", boolean | null>} flags  null where the certificate doesn't say
 */

const PCK_CHAIN = 5;
const QE_DEBUG = 0x02;
const SGX = "1.2.840.113741.1.13.1";
const REGISTERS = ["mr_td", "mr_seam", "mr_config_id", "rtmr0", "rtmr1", "rtmr2", "rtmr3"];
const FLAGS = { dynamic_platform: 1, cached_keys: 2, smt: 3 };
const DEBUG = 0n;
const SEPT_VE_DISABLE = 28n;
const PERFMON = 63n;
/** DEBUG, SEPT_VE_DISABLE, PKS, key locker and PERFMON; every other bit is reserved. */
const KNOWN = [DEBUG, SEPT_VE_DISABLE, 30n, 31n, PERFMON];

/**
 * Check a quote, with the collateral at hand: the TD's report, or null where it is not proven genuine.
 * @param {import("./verdict.js").Ledger} ledger @param {Context} context @param {Uint8Array} raw
 * @param {any[]} collateral  what is stapled to the report, as JSON
 * @returns {Promise<import("./quote.js").Fields | null>}
 */
export async function verifyTdx(ledger, context, raw, collateral) {
  /** @type {import("./quote.js").Fields | null} */
  let genuineReport = null;
  await ledger.group("tdx", async (checks) => {
    const { tdx: policy } = context.policy;
    const quote = await checks.need(
      1,
      () => parseQuote(raw),
      (found) => `version ${found.version}`,
    );
    const { platform, root } = await checks.need(
      2,
      () => walk(quote, context),
      (found) => `ends at ${found.root.name}`,
    );
    await checks.need(3, () => checkEnclave(quote, platform));
    await checks.need(4, () => checkSignature(quote));
    ledger.trusted(root);
    const facts = (ledger.facts.tdx = factsOf(quote, platform));
    await checks.check(5, () => checkAttributes(quote.report, policy));
    await checks.check(6, () => checkFlags(platform, policy));
    await checks.check(7, () => checkMeasurements(quote.report, policy));
    const { found, reason } = candidates(collateral, platform);
    const after = found.length ? null : reason;
    // proven genuine already where there is no collateral; where there is, only if it holds
    if (after !== null) {
      genuineReport = quote.report;
      [8, 9, 10].forEach((number) => checks.skip(number, after));
      return;
    }
    const good = await checks.need(
      8,
      () => genuine(found, platform, root, context),
      (some) => `stapled, in date until ${day(some[0].expires)}`,
    );
    if (faults(quote.report).length) {
      genuineReport = quote.report;
      [9, 10].forEach((number) => checks.skip(number, "needs step tdx.5"));
      return;
    }
    const standing = await checks.need(9, () => stand(quote, platform, good));
    Object.assign(facts, {
      status: standing.status,
      advisories: standing.advisories,
      evaluation_number: standing.evaluationNumber,
      collateral_source: "stapled",
      collateral_expires: good[0].expires,
    });
    genuineReport = quote.report;
    await checks.check(10, () => checkStatus(standing, policy, context.now));
  });
  return genuineReport;
}

/** @param {Quote} quote @param {Platform} platform @returns {Record<string, any>} */
function factsOf(quote, platform) {
  const shown = [...REGISTERS, "td_attributes", "report_data"].map((name) => [name, hex(quote.report[name])]);
  return {
    version: quote.version,
    ...Object.fromEntries(shown),
    fmspc: platform.fmspc,
    ppid: platform.ppid.toLowerCase(),
  };
}

// The machine ----------------------------------------------------------------------------------------------------------

/**
 * The platform of a quote, and the accepted root that vouches for it.
 * @param {Quote} quote @param {Context} context
 */
async function walk(quote, context) {
  if (quote.certificationType !== PCK_CHAIN) {
    throw new CheckFailed(
      `found certification data of type ${quote.certificationType}, expected ${PCK_CHAIN} (PCK certificate chain)`,
    );
  }
  const path = readChain(String.fromCharCode(...quote.certification), "the PCK chain");
  const { whole, root } = await checkChain(path, rootsFor(context.roots, "tdx"), context.now, "the PCK chain");
  if (whole.length !== 3) {
    throw new CheckFailed(`found ${whole.length} certificates in the PCK chain, expected PCK, CA and root`);
  }
  return { platform: platformOf(whole), root };
}

/** @param {Certificate[]} chain @returns {Platform} */
function platformOf(chain) {
  const extension = chain[0].extensions.get(SGX);
  if (!extension) {
    throw new CheckFailed("the first certificate has no readable SGX extension, and so is no PCK certificate");
  }
  const own = pairs(der.only(extension.value, der.SEQUENCE).value);
  /** @param {Map<string, der.Item>} from @param {string} arc @param {number} tag */
  const need = (from, arc, tag) => {
    const found = from.get(`${SGX}.${arc}`);
    if (found?.tag !== tag)
      throw new CheckFailed(`the SGX extension of the first certificate has no readable member ${arc}`);
    return found;
  };
  const bytes = (/** @type {string} */ arc) => hex(need(own, arc, der.OCTET_STRING).value).toUpperCase();
  const tcb = pairs(need(own, "2", der.SEQUENCE).value);
  const configuration = own.get(`${SGX}.7`);
  const flags = configuration ? pairs(configuration.value) : new Map();
  const stated = Object.entries(FLAGS).map(([name, arc]) => {
    const item = flags.get(`${SGX}.7.${arc}`);
    return [name, item ? item.value.some((/** @type {number} */ byte) => byte) : null];
  });
  return {
    chain,
    fmspc: bytes("4"),
    pceId: bytes("3"),
    ppid: bytes("1"),
    cpuSvn: need(tcb, "2.18", der.OCTET_STRING).value,
    pceSvn: der.number(need(tcb, "2.17", der.INTEGER)),
    flags: Object.fromEntries(stated),
  };
}

/**
 * Pairs of an object identifier and a value, by the former.
 * @param {Uint8Array} data @returns {Map<string, der.Item>}
 */
function pairs(data) {
  const found = new Map();
  for (const list = new der.Der(data); !list.done; ) {
    const pair = list.inside();
    const name = der.oid(pair.next(der.OID));
    if (found.has(name)) throw new CheckFailed(`the SGX extension has ${name} twice`);
    found.set(name, pair.next());
    pair.end();
  }
  return found;
}

/**
 * The platform vouches for the quoting enclave, and its report for the attestation key.
 * @param {Quote} quote @param {Platform} platform
 */
async function checkEnclave(quote, platform) {
  const key = keyOf(platform.chain[0], "the PCK certificate");
  if (!(await isSigned(key, quote.enclaveSignature, quote.enclaveRaw))) {
    throw new CheckFailed("the report of the quoting enclave is not signed by the PCK key");
  }
  if (quote.authData.length !== 32) {
    throw new CheckFailed(`found ${quote.authData.length} bytes of QE authentication data, expected 32`);
  }
  const bound = concat(await hash("SHA-256", concat(quote.attestationKey, quote.authData)), new Uint8Array(32));
  if (!same(quote.enclave.report_data, bound)) {
    throw new CheckFailed("the report of the quoting enclave is about another attestation key");
  }
  if (quote.enclave.attributes[0] & QE_DEBUG) {
    throw new CheckFailed("the quoting enclave runs in debug mode, so its keys are not its own");
  }
}

/** @param {Quote} quote */
async function checkSignature(quote) {
  if (!(await isSigned(quote.attestationKey, quote.signature, quote.signed))) {
    throw new CheckFailed("header and TD report are not signed by the attestation key");
  }
}

// Whether it is wanted -------------------------------------------------------------------------------------------------

/** @param {Uint8Array} attributes  little-endian */
function bitsOf(attributes) {
  const value = attributes.reduceRight((sum, byte) => (sum << 8n) | BigInt(byte), 0n);
  return (/** @type {bigint} */ bit) => ((value >> bit) & 1n) === 1n;
}

/** What is never acceptable in how a TD runs. @param {import("./quote.js").Fields} report @returns {string[]} */
function faults(report) {
  const isSet = bitsOf(report.td_attributes);
  const reserved = Array.from({ length: 64 }, (_, bit) => BigInt(bit)).filter(
    (bit) => isSet(bit) && !KNOWN.includes(bit),
  );
  const wrong = [];
  if (isSet(DEBUG)) wrong.push("DEBUG is set, so that the host reads and changes the TD's memory");
  if (reserved.length) wrong.push(`reserved bits are set (${reserved.join(", ")})`);
  if (!isSet(SEPT_VE_DISABLE)) wrong.push("SEPT_VE_DISABLE is not set, so that the host can inject faults");
  if (report.mr_service_td?.some((byte) => byte)) {
    wrong.push("a service TD is bound to it, which can read or move it");
  }
  return wrong;
}

/** @param {import("./quote.js").Fields} report @param {any} policy */
function checkAttributes(report, policy) {
  const wrong = faults(report);
  if (bitsOf(report.td_attributes)(PERFMON) && !policy.perfmon) {
    wrong.push("PERFMON is set, so that the TD counts events that leak, and the policy does not allow it");
  }
  if (wrong.length) throw new CheckFailed(wrong.join("; "));
  return `attributes ${hex(report.td_attributes)}`;
}

/** @param {Platform} platform @param {any} policy */
function checkFlags(platform, policy) {
  const flags = Object.entries(platform.flags);
  const wrong = flags.filter(([name, value]) => value !== false && !policy[name]);
  if (wrong.length) {
    const said = wrong.map(
      ([name, value]) => `${name} is ${value ? "on" : "not stated"}, and the policy demands that it is off`,
    );
    throw new CheckFailed(said.join("; "));
  }
  return flags.map(([name, value]) => `${name} ${value === null ? "?" : value ? "on" : "off"}`).join(", ");
}

/**
 * Some entry of the policy is this TD, in every register that it names.
 * @param {import("./quote.js").Fields} report @param {any} policy
 */
function checkMeasurements(report, policy) {
  if (!policy.measurements.length) throw new NotChecked("the policy names no TD (tdx.measurements)", false);
  const differing = policy.measurements.map((/** @type {any} */ entry) =>
    REGISTERS.filter((name) => (entry[name] ?? null) !== null && entry[name] !== hex(report[name])).map(
      (name) => `${name} found ${hex(report[name])}, expected ${entry[name]}`,
    ),
  );
  const least = Math.min(...differing.map((/** @type {string[]} */ one) => one.length));
  const place = differing.findIndex((/** @type {string[]} */ one) => one.length === least);
  const note = policy.measurements[place].note;
  const label = `entry ${place + 1} of ${differing.length}${note ? ` (${note.slice(0, 80)})` : ""}`;
  if (least) {
    throw new CheckFailed(`no entry of tdx.measurements matches; closest is ${label}: ${differing[place].join("; ")}`);
  }
  return label;
}
