/**
 * What Intel says about a platform: TCB info, QE identity and revocation lists, and where the platform stands in them.
 *
 * Source: Intel PCS API version 4 (TCB info, enclave identity, CRLs; "Determining the TCB level"); Intel SGX PCK Certificate
 * and CRL Profile. Signatures are over the exact texts, never over what was read from them.
 */

import { CheckFailed, fromHex, hex, same, utf8 } from "./bytes.js";
import { parseLoosely } from "./jcs.js";
import { integer, listOf, matching, oneOf, record, string } from "./shapes.js";
import { TCB_STATUSES } from "./terms.js";
import { isSigned, isSignedBy, keyOf } from "./keys.js";
import { readChain } from "./pem.js";
import { basicConstraints, checkChain, day, nameOf, readCrl, serialOf } from "./x509.js";

/** @typedef {import("./tdx.js").Platform} Platform */
/** @typedef {import("./quote.js").Quote} Quote */
/** @typedef {import("./x509.js").Certificate} Certificate */
/** @typedef {import("./verdict.js").Root} Root */
/**
 * @typedef {{text: Record<string, string>, info: any, identity: any}} Candidate  for this platform, as it says; nothing is believed yet
 */
/**
 * @typedef {{candidate: Candidate, signers: Certificate[], revoked: {root: Set<string>, pck: Set<string>}, expires: number}} Genuine
 */
/** @typedef {{status: string, advisories: string[], date: number}} Level  `date` in Unix seconds */
/** @typedef {{status: string, advisories: string[], evaluationNumber: number, levels: [string, Level][]}} Standing */

const MOST_BYTES = 1 << 20;
const SGX = "1.2.840.113741.1.13.1";
const DAY = 86400;
const MEMBERS = [
  "pck_crl_issuer_chain",
  "root_ca_crl",
  "pck_crl",
  "tcb_info_issuer_chain",
  "tcb_info",
  "tcb_info_signature",
  "qe_identity_issuer_chain",
  "qe_identity",
  "qe_identity_signature",
];
const STATUSES = [...TCB_STATUSES, "Revoked"];

const open = { closed: false };
const moment = matching(/^\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)$/);
const hexOf = (/** @type {number} */ size) => matching(new RegExp(`^[0-9a-fA-F]{${2 * size}}$`));
const small = integer(0, 0xffff);
const signedPart = { id: string(), issueDate: moment, nextUpdate: moment, tcbEvaluationDataNumber: integer() };
const levelOf = (/** @type {import("./shapes.js").Shape} */ tcb) =>
  record({ tcb, tcbDate: moment, tcbStatus: oneOf(...STATUSES) }, { advisoryIDs: listOf(string()) }, open);
const components = listOf(record({ svn: integer(0, 255) }, {}, open));
const isvLevel = levelOf(record({ isvsvn: small }, {}, open));
const module = { mrsigner: hexOf(48), attributes: hexOf(8), attributesMask: hexOf(8) };
const infoHead = record({ ...signedPart, fmspc: string(), pceId: string() }, {}, open);
const identityHead = record(signedPart, {}, open);
const infoShape = record(
  {
    version: integer(3, 255),
    tcbType: integer(),
    tcbLevels: listOf(
      levelOf(record({ sgxtcbcomponents: components, pcesvn: small, tdxtcbcomponents: components }, {}, open)),
    ),
    tdxModule: record(module, {}, open),
  },
  { tdxModuleIdentities: listOf(record({ id: string(), ...module, tcbLevels: listOf(isvLevel) }, {}, open)) },
  open,
);
const identityShape = record(
  {
    version: oneOf(2, 3),
    miscselect: hexOf(4),
    miscselectMask: hexOf(4),
    attributes: hexOf(16),
    attributesMask: hexOf(16),
    mrsigner: hexOf(32),
    isvprodid: small,
    tcbLevels: listOf(isvLevel),
  },
  {},
  open,
);

/** Unix seconds of a date that has its shape. @param {string} text */
function at(text) {
  const value = Date.parse(text.replace(/[t ]/, "T").replace("z", "Z"));
  if (Number.isNaN(value)) throw new CheckFailed(`${text} is no date`);
  return value / 1000;
}

/** @param {string} text @param {import("./shapes.js").Shape} shape @param {string} what */
function read(text, shape, what) {
  try {
    const value = parseLoosely(utf8(text));
    shape(value, what);
    return value;
  } catch (wrong) {
    if (wrong instanceof CheckFailed) throw new CheckFailed(`${what} is not of the known shape`);
    throw wrong;
  }
}

// What is at hand ------------------------------------------------------------------------------------------------------

/**
 * The collateral for this platform, and why the others are not.
 * @param {any[]} items  as JSON @param {Platform} platform @returns {{found: Candidate[], reason: string}}
 */
export function candidates(items, platform) {
  const found = [];
  const reasons = [`no collateral for FMSPC ${platform.fmspc} is at hand`];
  for (const item of items) {
    try {
      found.push(candidate(item, platform));
    } catch (wrong) {
      if (!(wrong instanceof CheckFailed)) throw wrong;
      reasons.push(`stapled: ${wrong.message}`);
    }
  }
  return { found, reason: reasons.join("; ") };
}

/** @param {any} text @param {Platform} platform @returns {Candidate} */
function candidate(text, platform) {
  record(Object.fromEntries(MEMBERS.map((name) => [name, string(MOST_BYTES)])), {}, open)(text, "TDX collateral");
  const info = read(text.tcb_info, infoHead, "TCB info");
  const found = [info.id, info.fmspc.toUpperCase(), info.pceId.toUpperCase()].join(" ");
  const expected = ["TDX", platform.fmspc, platform.pceId].join(" ");
  if (found !== expected) throw new CheckFailed(`TCB info is for ${found.slice(0, 80)}, and this is ${expected}`);
  return { text, info, identity: read(text.qe_identity, identityHead, "QE identity") };
}

// Whether it is genuine ------------------------------------------------------------------------------------------------

/**
 * The collateral that is signed under the same root and in date.
 * @param {Candidate[]} found @param {Platform} platform @param {Root} root @param {import("./policy.js").Context} context
 * @returns {Promise<Genuine[]>}
 */
export async function genuine(found, platform, root, context) {
  const good = [];
  const wrong = [];
  for (const one of found) {
    try {
      good.push(await genuineOne(one, platform, root, context.now));
    } catch (failed) {
      if (!(failed instanceof CheckFailed)) throw failed;
      wrong.push(`stapled: ${failed.message}`);
    }
  }
  if (!good.length) throw new CheckFailed(wrong.join("; "));
  return good;
}

/**
 * @param {Candidate} one @param {Platform} platform @param {Root} root @param {number} now
 * @returns {Promise<Genuine>}
 */
async function genuineOne(one, platform, root, now) {
  const { text, info, identity } = one;
  const infoSigner = await signer(text.tcb_info_issuer_chain, root, now, "the issuer chain of TCB info");
  const identitySigner = await signer(text.qe_identity_issuer_chain, root, now, "the issuer chain of QE identity");
  const what = "the issuer chain of the PCK CRL";
  const { whole } = await checkChain(readChain(text.pck_crl_issuer_chain, what), [root], now, what);
  if (!same(whole[0].raw, platform.chain[1].raw)) {
    throw new CheckFailed(`${what} starts with another CA than the PCK certificate's`);
  }
  await checkSigned(infoSigner, text.tcb_info, text.tcb_info_signature, "TCB info");
  await checkSigned(identitySigner, text.qe_identity, text.qe_identity_signature, "QE identity");
  const rootCrl = await crl(text.root_ca_crl, platform.chain[2], now, "the CRL of the root");
  const pckCrl = await crl(text.pck_crl, platform.chain[1], now, "the PCK CRL");
  if (identity.id !== "TD_QE")
    throw new CheckFailed(`found an identity of ${identity.id.slice(0, 40)}, expected TD_QE`);
  const ends = [rootCrl.expires, pckCrl.expires];
  for (const [signed, name] of [
    [info, "TCB info"],
    [identity, "QE identity"],
  ]) {
    ends.push(at(signed.nextUpdate));
    checkDates(at(signed.issueDate), at(signed.nextUpdate), now, name);
  }
  return {
    candidate: one,
    signers: [infoSigner, identitySigner],
    revoked: { root: rootCrl.serials, pck: pckCrl.serials },
    expires: Math.min(...ends),
  };
}

/**
 * Intel's TCB signing certificate: directly under the root, no CA, no platform. Without this a platform could judge itself,
 * since its own certificate ends at the same root.
 * @param {string} text @param {Root} root @param {number} now @param {string} what
 */
async function signer(text, root, now, what) {
  const { whole } = await checkChain(readChain(text, what), [root], now, what);
  const [first] = whole;
  const isOther = first.extensions.has(SGX) || basicConstraints(first).isCa || !nameOf(first).includes("TCB Signing");
  if (whole.length !== 2 || isOther) {
    throw new CheckFailed(`${what} is not that of a TCB signing certificate right under the root`);
  }
  return first;
}

/** @param {Certificate} by @param {string} text @param {string} signature @param {string} what */
async function checkSigned(by, text, signature, what) {
  if (
    !(await isSigned(keyOf(by, `the signer of ${what}`), fromHex(signature, `the signature of ${what}`), utf8(text)))
  ) {
    throw new CheckFailed(`${what} is not signed by its issuer`);
  }
}

/** @param {string} text @param {Certificate} issuer @param {number} now @param {string} what */
async function crl(text, issuer, now, what) {
  const list = readCrl(fromHex(text, what), what);
  if (!same(list.issuer, issuer.subject) || !(await isSignedBy(issuer, list))) {
    throw new CheckFailed(`${what} is not signed by its issuer`);
  }
  if (list.hasCritical) throw new CheckFailed(`${what} covers only a part of what was revoked`);
  if (list.nextUpdate === null) throw new CheckFailed(`${what} does not say when it ends`);
  checkDates(list.thisUpdate, list.nextUpdate, now, what);
  return { serials: list.serials, expires: list.nextUpdate };
}

/** @param {number} first @param {number} last @param {number} now @param {string} what */
function checkDates(first, last, now, what) {
  if (now < first || now >= last) {
    throw new CheckFailed(`${what} counts from ${day(first)} to ${day(last)}, and the time is ${day(now)}`);
  }
}

// Where the platform stands --------------------------------------------------------------------------------------------

/**
 * Where a platform stands by this collateral, which may not have revoked it.
 * @param {Quote} quote @param {Platform} platform @param {Genuine[]} good @returns {Standing}
 */
export function stand(quote, platform, [newest]) {
  const { info, identity } = newest.candidate;
  checkRevocation(newest, platform);
  infoShape(info, "TCB info");
  identityShape(identity, "QE identity");
  const enclave = enclaveLevel(quote, identity);
  const machine = platformLevel(quote, platform, info);
  const module = moduleLevel(quote, info);
  const own = module ? merged(machine, module) : machine;
  const { status, advisories } = merged(own, enclave);
  if (status === "Revoked") throw new CheckFailed("Intel has revoked the TCB level of this machine");
  return {
    status,
    advisories,
    evaluationNumber: Math.min(info.tcbEvaluationDataNumber, identity.tcbEvaluationDataNumber),
    levels: [
      ["platform or its TDX module", own],
      ["quoting enclave", enclave],
    ],
  };
}

/** @param {Genuine} one @param {Platform} platform */
function checkRevocation(one, platform) {
  const [leaf, ca, root] = platform.chain;
  for (const certificate of [ca, root, ...one.signers]) {
    if (one.revoked.root.has(serialOf(certificate.serial))) {
      throw new CheckFailed(`'${nameOf(certificate)}' was revoked by the root`);
    }
  }
  if (one.revoked.pck.has(serialOf(leaf.serial))) throw new CheckFailed("the PCK certificate was revoked by its CA");
}

/** @param {any} level @returns {Level} */
function levelFrom(level) {
  return { status: level.tcbStatus, advisories: level.advisoryIDs ?? [], date: at(level.tcbDate) };
}

/** The worse status, all advisories, the older date. @param {Level} one @param {Level} other @returns {Level} */
function merged(one, other) {
  const worst = Math.max(STATUSES.indexOf(one.status), STATUSES.indexOf(other.status));
  const advisories = [...new Set([...one.advisories, ...other.advisories])];
  return { status: STATUSES[worst], advisories, date: Math.min(one.date, other.date) };
}

/**
 * The first level, from the highest down, that the machine reaches in every component.
 * @param {Quote} quote @param {Platform} platform @param {any} info @returns {Level}
 */
function platformLevel(quote, platform, info) {
  /** @param {any} level @returns {{sgx: number[], pce: number, tdx: number[], level: any}} */
  const flat = (level) => ({
    sgx: level.tcb.sgxtcbcomponents.map((/** @type {any} */ one) => one.svn),
    pce: level.tcb.pcesvn,
    tdx: level.tcb.tdxtcbcomponents.map((/** @type {any} */ one) => one.svn),
    level,
  });
  const sorted = info.tcbLevels.map(flat).sort((/** @type {any} */ one, /** @type {any} */ other) => {
    return descending(one.sgx, other.sgx) || other.pce - one.pce || descending(one.tdx, other.tdx);
  });
  const svn = quote.report.tee_tcb_svn;
  for (const { sgx, pce, tdx, level } of sorted) {
    if (sgx.length !== platform.cpuSvn.length || tdx.length !== svn.length) {
      throw new CheckFailed("a level of TCB info has another number of components than the machine");
    }
    if (platform.pceSvn >= pce && reaches(platform.cpuSvn, sgx) && reaches(svn, tdx)) return levelFrom(level);
  }
  throw new CheckFailed("this machine is below every TCB level that Intel lists");
}

/** @param {number[]} one @param {number[]} other */
function descending(one, other) {
  const place = one.findIndex((svn, at) => svn !== other[at]);
  return place < 0 ? other.length - one.length : (other[place] ?? -1) - one[place];
}

/** @param {Uint8Array} own @param {number[]} needed */
function reaches(own, needed) {
  return needed.every((svn, at) => own[at] >= svn);
}

/**
 * Whether bytes are the expected ones where the mask has bits.
 * @param {Uint8Array} found @param {string} expected @param {string} mask
 */
function matches(found, expected, mask) {
  const [wanted, bits] = [fromHex(expected, "a value"), fromHex(mask, "a mask")];
  return found.every((byte, at) => (byte & bits[at]) === (wanted[at] & bits[at]));
}

/**
 * The TDX module is Intel's, and its own level where it has one: the second byte of TEE_TCB_SVN is its version, the first
 * its security version.
 * @param {Quote} quote @param {any} info @returns {Level | null}
 */
function moduleLevel(quote, info) {
  const { tee_tcb_svn: svn, mr_signer_seam: signedBy, seam_attributes: attributes } = quote.report;
  const identities = info.tdxModuleIdentities ?? [];
  const id = `TDX_${hex(svn.subarray(1, 2))}`.toUpperCase();
  const isNamed = svn[1] > 0 && identities.length > 0;
  const expected = isNamed ? identities.find((/** @type {any} */ one) => one.id.toUpperCase() === id) : info.tdxModule;
  if (!expected) throw new CheckFailed(`Intel knows no TDX module ${id}`);
  const mask = fromHex(expected.attributesMask, "a mask");
  if (hex(signedBy) !== expected.mrsigner.toLowerCase()) throw new CheckFailed("the TDX module is of another signer");
  if (
    !matches(attributes, expected.attributes, expected.attributesMask) ||
    attributes.some((byte, at) => byte & ~mask[at])
  ) {
    throw new CheckFailed("the TDX module has other attributes than Intel's");
  }
  if (!isNamed) return null;
  const level = expected.tcbLevels.find((/** @type {any} */ one) => svn[0] >= one.tcb.isvsvn);
  if (!level) throw new CheckFailed("the TDX module is below every level that Intel lists");
  return levelFrom(level);
}

/** The quoting enclave is Intel's, and its level. @param {Quote} quote @param {any} identity @returns {Level} */
function enclaveLevel(quote, identity) {
  const { enclave } = quote;
  const number = (/** @type {Uint8Array} */ bytes) => bytes[0] + 256 * bytes[1];
  const isIntels =
    hex(enclave.mr_signer) === identity.mrsigner.toLowerCase() &&
    number(enclave.isv_prod_id) === identity.isvprodid &&
    matches(enclave.misc_select, identity.miscselect, identity.miscselectMask) &&
    matches(enclave.attributes, identity.attributes, identity.attributesMask);
  if (!isIntels) throw new CheckFailed("the quoting enclave is not the one that Intel describes");
  const svn = number(enclave.isv_svn);
  const level = identity.tcbLevels.find((/** @type {any} */ one) => svn >= one.tcb.isvsvn);
  if (!level) throw new CheckFailed("the quoting enclave is below every level that Intel lists");
  return levelFrom(level);
}

/**
 * The TCB as Intel judges it, against what the policy accepts.
 * @param {Standing} standing @param {any} policy @param {number} now
 */
export function checkStatus(standing, policy, now) {
  const { status, advisories, evaluationNumber, levels } = standing;
  const wrong = [];
  if (!policy.statuses.includes(status)) {
    wrong.push(`found status ${status}, expected ${policy.statuses.join(" or ") || "none at all"}`);
  }
  const strange = advisories.filter((one) => !policy.advisories.includes(one));
  if (strange.length) wrong.push(`advisories that are not tolerated: ${strange.join(", ")}`);
  for (const [what, level] of levels) {
    if (level.status.startsWith("OutOfDate") && level.date + policy.grace_days * DAY < now) {
      wrong.push(
        `the ${what} is ${level.status} with patches of ${day(level.date)}, and the grace is ${policy.grace_days} days`,
      );
    }
  }
  if (evaluationNumber < policy.minimum_evaluation_number) {
    wrong.push(`found TCB evaluation number ${evaluationNumber}, expected ${policy.minimum_evaluation_number} or more`);
  }
  if (wrong.length) throw new CheckFailed(wrong.join("; "));
  return `${status}, evaluation number ${evaluationNumber}${advisories.length ? `, tolerated: ${advisories.join(", ")}` : ""}`;
}
