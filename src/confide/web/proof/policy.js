/**
 * What is accepted: the members of a policy file of `confide verify`, as JSON.
 *
 * Members that are not known are refused, and so is a policy that says too little, as in Python. What a page can't check and
 * a policy demands is "not checked" and required, so that a policy never becomes weaker here.
 */

import { CheckFailed, Named } from "./bytes.js";
import { canonical, text } from "./jcs.js";
import { ROOTS } from "./pinned.js";
import { Sha256 } from "./sha256.js";
import { CLAIMS, SOURCES, TCB_STATUSES } from "./terms.js";
import {
  boolean,
  digest,
  hex32,
  integer,
  isObject,
  listOf,
  matching,
  name,
  nullable,
  object,
  oneOf,
  record,
  string,
  words,
} from "./shapes.js";

/** @typedef {import("./types.js").Policy} Policy */
/** @typedef {import("./shapes.js").Shape} Shape */
/** @typedef {import("./verdict.js").Root} Root */
/**
 * @typedef {object} Context
 * @property {Policy} policy  with every member @property {Root[]} roots @property {number} now  in Unix seconds
 * @property {import("./material.js").Item[]} [material]  what is at hand beside the report
 */

/** A policy that can't be used. */
export class PolicyError extends Named {}

const hex48 = matching(/^[0-9a-f]{96}$/);
const days = integer(0, 36500);
const svn = integer(0, 255);
const count = nullable(integer(0, 1024));
const VENDORS = ["intel", "amd", "nvidia"];
/** The bit of a guest policy of SEV-SNP. */
const MIGRATION_AGENT = 18n;
const NO_TCB = { fmc: 0, bootloader: 0, tee: 0, snp: 0, microcode: 0 };
const REGISTERS = ["mr_td", "mr_seam", "mr_config_id", "rtmr0", "rtmr1", "rtmr2", "rtmr3"];
const registers = Object.fromEntries(REGISTERS.map((one) => [one, nullable(hex48)]));

/** @type {Shape} */
const claims = (value, where) => {
  object(value, where);
  record({}, Object.fromEntries(CLAIMS.map((one) => [one, listOf(oneOf(...SOURCES))])))(value, where);
};

/**
 * A part of a policy: for each member its default, and its shape.
 * @type {Record<string, Record<string, [any, Shape]>>}
 */
const PARTS = {
  tdx: {
    statuses: [["UpToDate"], listOf(oneOf(...TCB_STATUSES))],
    advisories: [[], listOf(name)],
    grace_days: [0, days],
    minimum_evaluation_number: [0, integer()],
    dynamic_platform: [true, boolean],
    cached_keys: [true, boolean],
    smt: [true, boolean],
    perfmon: [false, boolean],
    measurements: [[], listOf(record({}, { ...registers, note: words }))],
  },
  snp: {
    vlek: [false, boolean],
    smt: [true, boolean],
    migration_agent: [false, boolean],
    most_privileged_only: [true, boolean],
    minimum_tcb: [NO_TCB, record({}, Object.fromEntries(Object.keys(NO_TCB).map((one) => [one, svn])))],
    measurements: [
      [],
      listOf(
        record({ measurement: hex48 }, { host_data: nullable(hex32), id_key_digest: nullable(hex48), note: words }),
      ),
    ],
  },
  dstack: {
    compose_hashes: [[], listOf(hex32)],
    os_images: [[], listOf(hex32)],
    app_ids: [[], listOf(matching(/^[0-9a-f]{40}$/))],
    key_providers: [[], listOf(matching(/^([0-9a-f]{2}){1,256}$/))],
  },
  gpu: {
    required: [false, boolean],
    count: [null, count],
    switches: [null, count],
    architectures: [[], listOf(name)],
    drivers: [[], listOf(name)],
    measurements: [false, boolean],
    nras: [false, boolean],
  },
  models: { manifests: [[], listOf(digest)] },
  provenance: {
    repositories: [[], listOf(words)],
    commits: [[], listOf(words)],
    images: [[], listOf(digest)],
  },
  keys: { custody: [false, boolean], longest_days: [400, days], subjects: [[], listOf(words)] },
  channel: { require: ["either", oneOf("either", "tls", "sealed", "both")] },
  receipts: { rewritten: [false, boolean] },
  sessions: { required: [true, boolean], claims: [{ tee_attested: ["hardware_proven", "verifier_derived"] }, claims] },
  age: { report_days: [null, nullable(days)] },
};
/** @type {Record<string, [any, Shape]>} */
const MEMBERS = {
  version: [1, oneOf(1)],
  name: ["policy", name],
  trust: ["reviewed", oneOf("reviewed", "first use")],
  roots: [[], listOf(oneOf(...VENDORS))],
  unsafe_any_workload: [false, boolean],
  claims: [{}, claims],
};

/** @param {Record<string, [any, Shape]>} part */
const shapeOf = (part) => record({}, Object.fromEntries(Object.entries(part).map(([one, [, shape]]) => [one, shape])));
const policyShape = record(
  {},
  Object.fromEntries([
    ...Object.entries(MEMBERS).map(([one, [, shape]]) => [one, shape]),
    ...Object.entries(PARTS).map(([one, part]) => [one, shapeOf(part)]),
  ]),
);

/**
 * A policy from JSON, if it says enough to be one; members that are left out have their defaults.
 * @param {any} value @returns {Policy} @throws {PolicyError}
 */
export function policyFrom(value) {
  const policy = withDefaults(value);
  check(policy);
  return policy;
}

/** The same, whether it says enough or not. @param {any} value @returns {Policy} @throws {PolicyError} */
export function withDefaults(value) {
  try {
    policyShape(value, "the policy");
  } catch (wrong) {
    if (wrong instanceof CheckFailed) throw new PolicyError(wrong.message);
    throw wrong;
  }
  /** @param {Record<string, [any, Shape]>} members @param {any} given */
  const filled = (members, given) =>
    Object.fromEntries(
      Object.entries(members).map(([one, [standard]]) => [one, given?.[one] ?? structuredClone(standard)]),
    );
  const parts = Object.entries(PARTS).map(([one, part]) => [one, filled(part, value[one])]);
  const policy = { ...filled(MEMBERS, value), ...Object.fromEntries(parts) };
  policy.snp.minimum_tcb = { ...NO_TCB, ...policy.snp.minimum_tcb };
  return policy;
}

/** @param {Policy} policy */
function check(policy) {
  const { tdx, snp, dstack, models, provenance, gpu } = policy;
  const named = [
    tdx.measurements,
    snp.measurements,
    dstack.compose_hashes,
    dstack.os_images,
    models.manifests,
    provenance.images,
  ];
  if (!policy.roots.length) {
    throw new PolicyError('the policy accepts no root: name the vendors, as in roots = ["intel", "nvidia"]');
  }
  if (!policy.unsafe_any_workload && !named.some((list) => list.length)) {
    throw new PolicyError(
      "the policy does not say which workload it accepts: give measurements, compose hashes, OS images, manifests or " +
        "image digests (`confide policy init URL` writes down what a service shows now)",
    );
  }
  const says = (/** @type {any} */ entry) => REGISTERS.some((one) => (entry[one] ?? null) !== null);
  if (!tdx.measurements.every(says)) {
    throw new PolicyError("tdx.measurements: an entry names no register, and so would accept every TD");
  }
  if (gpu.required && !policy.roots.includes("nvidia")) {
    throw new PolicyError('gpu.required needs "nvidia" among the roots');
  }
  if (gpu.required && gpu.count === 0) throw new PolicyError("gpu.required and gpu.count = 0 contradict each other");
  const sources = [...Object.values(policy.claims), ...Object.values(policy.sessions.claims)];
  if (!sources.every((/** @type {any[]} */ some) => some.length)) {
    throw new PolicyError("a required claim accepts no source, so that nothing could satisfy it");
  }
}

/**
 * Whether a part of a policy demands anything, that is, differs from its defaults.
 * @param {Policy} policy @param {string} part
 */
export function demands(policy, part) {
  return !isStandard(policy[part], PARTS[part]);
}

/** @param {any} members @param {Record<string, [any, Shape]>} standards */
function isStandard(members, standards) {
  return Object.entries(standards).every(([one, [standard]]) => text(members[one]) === text(standard));
}

/**
 * What a verdict names: SHA-256 over the canonical JSON of every member, defaults left out.
 * @param {Policy} policy
 */
export function policyDigest(policy) {
  /** @param {any} value @param {Record<string, [any, Shape]>} standards */
  const changed = (value, standards) =>
    Object.entries(standards)
      .filter(([one]) => !isStandard(value, { [one]: standards[one] }))
      .map(([one]) => [one, told(value[one])]);
  const parts = Object.entries(PARTS).map(([one, part]) => [one, Object.fromEntries(changed(policy[one], part))]);
  const own = [...changed(policy, MEMBERS), ...parts.filter(([, members]) => Object.keys(members).length)];
  return new Sha256().update(canonical(Object.fromEntries(own))).digest();
}

/** Entries of lists without the members that say nothing. @param {any} value @returns {any} */
function told(value) {
  if (Array.isArray(value)) return value.map(told);
  if (!isObject(value)) return value;
  const saysNothing = (/** @type {string} */ one, /** @type {any} */ member) =>
    member === null || member === 0 || (one === "note" && member === "");
  return Object.fromEntries(Object.entries(value).filter(([one, member]) => !saysNothing(one, member)));
}

/**
 * Every workload on genuine hardware: what is shown where no policy was given, and never relied on.
 * @returns {Policy}
 */
export function acceptingAnything() {
  return policyFrom({
    name: "anything",
    roots: VENDORS,
    unsafe_any_workload: true,
    tdx: { statuses: TCB_STATUSES, grace_days: 36500, perfmon: true },
    snp: { vlek: true, migration_agent: true, most_privileged_only: false },
    keys: { longest_days: 36500 },
    receipts: { rewritten: true },
    sessions: { required: false, claims: {} },
  });
}

/** What may fail and be accepted all the same: how well the machine is patched. */
const OF_POLICY = ["tdx.10", "report.2"];

/**
 * A policy that accepts what a verification without one found, and nothing else; `trust` is "first use". Kept in the
 * browser, it notices a service whose workload changed. Known weaknesses of the machine are accepted too, by name.
 * @param {import("./types.js").Attested} attested @returns {Policy} @throws {PolicyError} nothing found names a workload
 */
export function firstUsePolicy(attested) {
  const { facts, findings, subject, roots } = attested.verdict;
  const failed = findings.filter((one) => one.outcome === "fail").map((one) => one.step);
  if (failed.some((step) => !OF_POLICY.includes(step)) || (failed.length && !failed.includes("tdx.10"))) {
    throw new PolicyError("the verification failed, so that nothing of it can be accepted");
  }
  const { tdx, snp, dstack, report, gpu = [] } = facts;
  const vendors = vendorsOf(roots);
  /** @param {string[]} names @param {Record<string, string>} from */
  const shown = (names, from = tdx) =>
    Object.fromEntries(names.filter((one) => /[^0]/.test(from[one])).map((one) => [one, from[one]]));
  const perGuest = ["mr_td", "rtmr0", "rtmr1", "rtmr2"];
  const statuses = tdx?.status && tdx.status !== "UpToDate" ? ["UpToDate", tdx.status] : ["UpToDate"];
  return policyFrom({
    name: subject.slice(0, 128) || "policy",
    trust: "first use",
    roots: vendors,
    ...(tdx && {
      tdx: {
        statuses,
        advisories: tdx.advisories ?? [],
        ...(statuses.some((one) => one.startsWith("OutOfDate")) && { grace_days: 36500 }),
        perfmon: (parseInt(tdx.td_attributes.slice(14), 16) & 0x80) !== 0,
        measurements: [shown(dstack ? perGuest : [...perGuest, "mr_config_id", "rtmr3"])],
      },
    }),
    ...(snp && {
      snp: {
        vlek: snp.key === "vlek",
        most_privileged_only: !snp.vmpl,
        migration_agent: ((BigInt(snp.policy) >> MIGRATION_AGENT) & 1n) === 1n,
        measurements: [shown(["measurement", "host_data", "id_key_digest"], snp)],
      },
    }),
    ...(dstack && {
      dstack: {
        compose_hashes: [dstack.compose_hash],
        os_images: dstack.os_measured ? [dstack.os_image_hash] : [],
        app_ids: [dstack.app_id],
        key_providers: dstack.key_provider.id ? [dstack.key_provider.id] : [],
      },
    }),
    ...(report?.manifest && { models: { manifests: [report.manifest] } }),
    ...(gpu.length && vendors.includes("nvidia") && { gpu: gpusOf(gpu) }),
  });
}

/** @param {Record<string, any>[]} devices */
function gpusOf(devices) {
  const count = devices.filter((one) => one.kind === "gpu").length;
  return {
    required: true,
    count,
    switches: devices.length - count,
    architectures: [...new Set(devices.map((one) => one.arch))],
    measurements: devices.every((one) => one.measured),
  };
}

/** Whose roots these are. @param {string[]} names */
function vendorsOf(names) {
  const vendor = (/** @type {string} */ name) =>
    ROOTS.find((root) => root.name === name)?.vendor ?? (name.endsWith("GPUs") ? "nvidia" : "intel");
  const found = names.map(vendor);
  return VENDORS.filter((one) => found.includes(one));
}
