/**
 * AMD SEV-SNP reports: genuine, of a chip that is as secure as it says, and as the policy wants them. Offline.
 *
 * Source: AMD publication 56860 (SEV-SNP firmware ABI), ATTESTATION_REPORT, guest policy and TCB_VERSION; AMD publication 57230
 * (VCEK certificate and KDS interface). The same steps as `confide/verify/snp.py`.
 */

import {
  HWID,
  HWID_SIZES,
  below,
  certifiedProduct,
  certifiedTcb,
  checkRevocation,
  cspId,
  findChain,
  leafSigned,
  partsOf,
  readTcb,
} from "./amd.js";
import { CheckFailed, Reader, concat, hex, same } from "./bytes.js";
import { NotChecked } from "./verdict.js";

/** @typedef {import("./amd.js").Chain} Chain */
/** @typedef {import("./amd.js").KeyName} KeyName */
/** @typedef {import("./policy.js").Context} Context */
/** @typedef {Record<string, Uint8Array>} Fields */
/** @typedef {{fields: Fields, version: number, vmpl: number, policy: bigint, platform: bigint, keyInfo: number}} Report */

const SIGNED_SIZE = 0x2a0;
const NUMBER_SIZE = 48;
const SIGNATURE_ALGORITHM = 1;
/** @type {(KeyName | undefined)[]} */
const SIGNING_KEYS = ["vcek", "vlek"];
const KEY_INFO_BITS = 5;
const SMT = 1n << 16n;
const MUST_BE_ONE = 1n << 17n;
const MIGRATION_AGENT = 1n << 18n;
const DEBUG = 1n << 19n;
const POLICY_BITS = 26n;
const PLATFORM_SMT = 1n;
const MOST_VMPL = 3;
/** Bytes of the two mitigation vectors, which reports have from version 5 on. */
const MITIGATIONS = 16;
/**
 * CPUID family, first and last model, both with their extended parts.
 * @type {[number, number, number, import("./amd.js").Product][]}
 */
const MODELS = [
  [0x19, 0x00, 0x0f, "Milan"],
  [0x19, 0x10, 0x1f, "Genoa"],
  [0x19, 0xa0, 0xaf, "Genoa"],
  [0x1a, 0x00, 0x11, "Turin"],
];
/** Names and sizes in bytes of consecutive fields. @type {[string, number][]} */
const LAYOUT = [
  ["version", 4],
  ["guest_svn", 4],
  ["policy", 8],
  ["family_id", 16],
  ["image_id", 16],
  ["vmpl", 4],
  ["signature_algorithm", 4],
  ["current_tcb", 8],
  ["platform_info", 8],
  ["key_info", 4],
  ["reserved_1", 4],
  ["report_data", 64],
  ["measurement", 48],
  ["host_data", 32],
  ["id_key_digest", 48],
  ["author_key_digest", 48],
  ["report_id", 32],
  ["report_id_ma", 32],
  ["reported_tcb", 8],
  ["cpuid", 3],
  ["reserved_2", 21],
  ["chip_id", 64],
  ["committed_tcb", 8],
  ["current_version", 4],
  ["committed_version", 4],
  ["launch_tcb", 8],
  ["reserved_3", 168],
  ["signature_r", 72],
  ["signature_s", 72],
  ["reserved_4", 368],
];

/**
 * Check a report, with the certificates and lists at hand: its fields, or null where it is not proven genuine.
 * @param {import("./verdict.js").Ledger} ledger @param {Context} context @param {Uint8Array} raw
 * @returns {Promise<Fields | null>}
 */
export async function verifySnp(ledger, context, raw) {
  const policy = context.policy.snp;
  /** @type {Fields | null} */
  let genuine = null;
  await ledger.group("snp", async (checks) => {
    const { report, key } = await checks.need(
      1,
      () => wellFormed(raw),
      (found) => `version ${found.report.version}, signed by a ${found.key.toUpperCase()}`,
    );
    const signature = signatureOf(report);
    const signed = raw.subarray(0, SIGNED_SIZE);
    const chain = await checks.need(
      2,
      () => findChain(context, key, signature, signed),
      (found) => found.root.name,
    );
    await checks.need(3, () => checkSignature(chain, signature, signed));
    ledger.trusted(chain.root);
    ledger.facts.snp = factsOf(report, chain);
    const bound = [
      await checks.check(4, () => checkProduct(report, chain)),
      await checks.check(5, () => checkChip(report, chain, policy)),
      await checks.check(6, () => checkTcb(report, chain)),
    ];
    await checks.check(7, () => checkRevocation(context, chain));
    await checks.check(8, () => checkGuestPolicy(report, policy));
    await checks.check(9, () => checkLevel(report, policy));
    await checks.check(10, () => checkMinimum(report, chain, policy));
    await checks.check(11, () => checkMeasurement(report, policy.measurements));
    if (bound.every(Boolean)) genuine = report.fields;
  });
  return genuine;
}

// Well-formed ----------------------------------------------------------------------------------------------------------

/** The report, and which key it says signed it. @param {Uint8Array} raw @returns {{report: Report, key: KeyName}} */
function wellFormed(raw) {
  const report = parse(raw);
  const algorithm = little(report.fields.signature_algorithm);
  if (algorithm !== BigInt(SIGNATURE_ALGORITHM)) {
    throw new CheckFailed(`found signature algorithm ${algorithm}, expected 1 (ECDSA P-384, SHA-384)`);
  }
  const { keyInfo } = report;
  const key = SIGNING_KEYS[(keyInfo >>> 2) & 7];
  if (!key || keyInfo >>> KEY_INFO_BITS) {
    throw new CheckFailed(`found key information 0x${keyInfo.toString(16)}, expected that a VCEK or a VLEK signed`);
  }
  for (const [name, value] of reserved(report)) {
    if (value.some((byte) => byte)) throw new CheckFailed(`the reserved bytes ${name} are not zero`);
  }
  return { report, key };
}

/** @param {Uint8Array} raw @returns {Report} */
function parse(raw) {
  const reader = new Reader(raw, "SEV-SNP report");
  const fields = Object.fromEntries(LAYOUT.map(([name, size]) => [name, reader.take(size, name)]));
  reader.end();
  const version = Number(little(fields.version));
  if (version < 2 || version > 5) throw reader.wrong(`version ${version}; 2 to 5 are known`);
  return {
    fields,
    version,
    vmpl: Number(little(fields.vmpl)),
    policy: little(fields.policy),
    platform: little(fields.platform_info),
    keyInfo: Number(little(fields.key_info)),
  };
}

/** @param {Uint8Array} data */
function little(data) {
  return data.reduceRight((value, byte) => (value << 8n) | BigInt(byte), 0n);
}

/** What has to be zero in a report of its version. @param {Report} report @returns {[string, Uint8Array][]} */
function reserved({ fields, version }) {
  return [
    ["after KEY_INFO", fields.reserved_1],
    ["after REPORTED_TCB", version >= 3 ? fields.reserved_2 : concat(fields.cpuid, fields.reserved_2)],
    ["after CURRENT_VERSION", fields.current_version.subarray(3)],
    ["after COMMITTED_VERSION", fields.committed_version.subarray(3)],
    ["before SIGNATURE", fields.reserved_3.subarray(version >= 5 ? MITIGATIONS : 0)],
    [
      "in SIGNATURE",
      concat(fields.signature_r.subarray(NUMBER_SIZE), fields.signature_s.subarray(NUMBER_SIZE), fields.reserved_4),
    ],
  ];
}

/** r and s, which the firmware writes little-endian, in 48 bytes each. @param {Report} report */
function signatureOf({ fields }) {
  return concat(...[fields.signature_r, fields.signature_s].map((one) => one.slice(0, NUMBER_SIZE).reverse()));
}

/** @param {Chain} chain @param {Uint8Array} signature @param {Uint8Array} signed */
async function checkSignature(chain, signature, signed) {
  if (!(await leafSigned(chain.leaf, signature, signed))) {
    throw new CheckFailed(`the report's signature is not of the key in the ${chain.key.toUpperCase()} certificate`);
  }
}

// Genuine --------------------------------------------------------------------------------------------------------------

/** @param {Report} report @param {Chain} chain */
function checkProduct(report, chain) {
  const certified = certifiedProduct(chain.leaf);
  const reported = reportedProduct(report);
  if (certified !== chain.product || (reported ?? chain.product) !== chain.product) {
    throw new CheckFailed(
      `found a certificate for ${certified} and a report of ${reported ?? "an unnamed processor"}, ` +
        `expected ${chain.product}, whose keys these are`,
    );
  }
  return chain.product;
}

/** The product line by the CPUID in a report; reports before version 3 have none. @param {Report} report */
function reportedProduct({ version, fields }) {
  if (version < 3) return null;
  const [family, model] = fields.cpuid;
  const found = MODELS.find(([known, first, last]) => family === known && first <= model && model <= last);
  if (!found) {
    const named = `family 0x${family.toString(16)}, model 0x${model.toString(16)}`;
    throw new CheckFailed(`found a processor of ${named}, which is not known here`);
  }
  return found[3];
}

/**
 * The chip of a VCEK, which must be shown: a host may mask it, and then nothing ties the key to one chip.
 * @param {Report} report @param {Chain} chain @param {any} policy
 */
function checkChip({ fields }, chain, policy) {
  if (chain.key === "vlek") {
    const provider = cspId(chain.leaf);
    if (!policy.vlek) {
      throw new CheckFailed(
        `found a VLEK of '${provider}'; the policy accepts only keys of one chip (snp.vlek = false)`,
      );
    }
    return `VLEK of '${provider}', which names no chip`;
  }
  const hwid = chain.leaf.extensions.get(HWID)?.value;
  const { chip_id: chip } = fields;
  const size = HWID_SIZES[chain.product];
  if (!hwid) throw new CheckFailed(`the VCEK certificate names no chip (${HWID})`);
  if (!chip.some((byte) => byte)) {
    throw new CheckFailed("the report's CHIP_ID is masked (zeros), so that nothing ties it to a chip");
  }
  if (!same(hwid, chip.subarray(0, size)) || chip.subarray(size).some((byte) => byte)) {
    throw new CheckFailed(`found chip ${hex(chip)}, expected ${hex(hwid)}, which the VCEK is for`);
  }
  return `chip ${hex(hwid)}`;
}

/**
 * The reported TCB is the certified one; reported and committed are not newer than current, nor is the version.
 * @param {Report} report @param {Chain} chain
 */
function checkTcb({ fields }, chain) {
  const tcbs = Object.fromEntries(tcbsOf(fields).map(([name, tcb]) => [name, partsOf(chain.product, tcb, name)]));
  const certified = certifiedTcb(chain.product, chain.leaf);
  const { REPORTED_TCB: reported, CURRENT_TCB: current } = tcbs;
  if (words(reported) !== words(certified)) {
    throw new CheckFailed(`found REPORTED_TCB ${words(reported)}, expected the certified ${words(certified)}`);
  }
  for (const name of ["REPORTED_TCB", "COMMITTED_TCB"]) {
    const newer = below(current, tcbs[name]);
    if (newer.length) throw new CheckFailed(`found a CURRENT_TCB that is older than ${name}: ${newer.join(", ")}`);
  }
  const version = (/** @type {Uint8Array} */ bytes) => little(bytes.subarray(0, 3));
  if (version(fields.committed_version) > version(fields.current_version)) {
    throw new CheckFailed("found a COMMITTED_VERSION that is newer than CURRENT_VERSION");
  }
  return words(certified);
}

/** @param {Fields} fields @returns {[string, Uint8Array][]} */
function tcbsOf(fields) {
  return ["reported", "committed", "current", "launch"].map((name) => [
    `${name.toUpperCase()}_TCB`,
    fields[`${name}_tcb`],
  ]);
}

/** @param {import("./amd.js").Tcb} tcb */
function words(tcb) {
  return Object.entries(tcb)
    .map(([name, version]) => `${name}=${version}`)
    .join(" ");
}

// Wanted ---------------------------------------------------------------------------------------------------------------

/**
 * All complaints at once. Debugging is never acceptable; bits that are not known here are not either, because the firmware
 * refuses guests whose reserved bits are set, and a new bit may allow something.
 * @param {Report} report @param {any} policy
 */
function checkGuestPolicy({ policy: found, platform }, policy) {
  const hasSmt = Boolean(found & SMT || platform & PLATFORM_SMT);
  const wrong = Object.entries({
    "the host may debug the guest (DEBUG)": Boolean(found & DEBUG),
    "a migration agent may move the guest (MIGRATE_MA)": Boolean(found & MIGRATION_AGENT) && !policy.migration_agent,
    "sibling threads may share its cores (SMT)": hasSmt && !policy.smt,
    "reserved bit 17 is not set": !(found & MUST_BE_ONE),
    "bits are set that are not known here": Boolean(found >> POLICY_BITS),
  }).filter(([, isSo]) => isSo);
  const said = `0x${found.toString(16)}`;
  if (wrong.length) throw new CheckFailed(`found guest policy ${said}: ${wrong.map(([one]) => one).join("; ")}`);
  return said;
}

/**
 * A report that the host asked for shows VMPL 0xFFFFFFFF, and no guest chose its REPORT_DATA.
 * @param {Report} report @param {any} policy
 */
function checkLevel({ vmpl }, policy) {
  if (vmpl > MOST_VMPL) {
    throw new CheckFailed(`found VMPL 0x${vmpl.toString(16)}, expected 0 to 3: the guest did not ask for this report`);
  }
  if (vmpl && policy.most_privileged_only) {
    throw new CheckFailed(`found VMPL ${vmpl}, expected 0 (snp.most_privileged_only)`);
  }
  return `VMPL ${vmpl}`;
}

/**
 * Reported, and committed, to which a host may go back at any time, and at launch, which made the measurement.
 * @param {Report} report @param {Chain} chain @param {any} policy
 */
function checkMinimum({ fields }, chain, policy) {
  const least = policy.minimum_tcb;
  const complaints = tcbsOf(fields).flatMap(([name, tcb]) =>
    below(readTcb(chain.product, tcb), least).map((complaint) => `${name} ${complaint}`),
  );
  if (complaints.length) throw new CheckFailed(`found ${complaints.join(", ")} (snp.minimum_tcb)`);
  return `at least ${words(least)}`;
}

/** @param {Report} report @param {any[]} accepted */
function checkMeasurement({ fields }, accepted) {
  if (!accepted.length) {
    throw new NotChecked("the policy names no SEV-SNP measurement (snp.measurements)", false);
  }
  const found = Object.entries({
    measurement: hex(fields.measurement),
    host_data: hex(fields.host_data),
    id_key_digest: hex(fields.id_key_digest),
  });
  const entry = accepted.find((one) => found.every(([name, value]) => (one[name] ?? value) === value));
  if (entry) return entry.note || `measurement ${entry.measurement}`;
  const shown = found.map(([name, value]) => `${name} ${value}`).join(", ");
  throw new CheckFailed(`found ${shown}; none of ${accepted.length} accepted launches has all of these`);
}

/** What is worth showing or pinning, in hex. @param {Report} report @param {Chain} chain @returns {Record<string, any>} */
function factsOf({ fields, policy, vmpl }, chain) {
  const names = ["measurement", "host_data", "id_key_digest", "report_data", "chip_id"];
  return {
    ...Object.fromEntries(names.map((name) => [name, hex(fields[name])])),
    product: chain.product,
    key: chain.key,
    policy: `0x${policy.toString(16)}`,
    vmpl,
    reported_tcb: readTcb(chain.product, fields.reported_tcb),
  };
}
