/**
 * dstack guests: which application runs on which OS image, as the registers of a genuine TD prove it.
 *
 * Source: the public dstack repository, `cc-eventlog`, `dstack-types`, `dstack-mr` and `dstack-util`, 0.5 and 0.6. The guest's OS
 * measures its application into RTMR3 before it starts it, as events with a name and a payload, whose digests are computed
 * here and never believed. A register starts as 48 zeros, and each event extends it by SHA-384.
 */

import { CheckFailed, concat, fromHex, fromUtf8, hasLoneSurrogate, hex, same, utf8 } from "./bytes.js";
import { hash } from "./crypto.js";
import { canonical, parseLoosely, text as jsonText } from "./jcs.js";
import { keccak256 } from "./keccak.js";
import { extended, parseImage } from "./osimage.js";
import { demands } from "./policy.js";
import { integer, isObject, listOf, matching, nullable, oneOf, record, string } from "./shapes.js";
import { NotChecked } from "./verdict.js";

/** @typedef {import("./policy.js").Context} Context */
/** @typedef {import("./quote.js").Fields} Fields */
/**
 * @typedef {{imr: number, type: number, name: string, payload: Uint8Array, stated: Uint8Array | null, measured: Uint8Array}} Event
 */
/**
 * @typedef {object} System  What the OS measured before the application started.
 * @property {Record<string, Uint8Array>} payloads  of its events, by name
 * @property {{name: string, id: Uint8Array, text: string}} provider
 * @property {string[]} scripts  hashes, in hex
 * @property {string[]} names @property {string[]} application  the names of the application's own events
 */
/**
 * @typedef {object} Facts  What the log proves; hashes and ids in hex.
 * @property {string} compose_hash @property {string} app_id @property {string} instance_id
 * @property {string | null} os_image_hash @property {{name: string, id: string}} key_provider @property {boolean} os_measured
 * @property {string | null} app_compose  the description, only where its hash is the measured one
 */

const RUNTIME_EVENT = 0x08000001;
const MOST_LOG = 2 << 20;
const MOST_EVENTS = 4096;
const MOST_PAYLOAD = 256 * 1024;
const MOST_TEXT = 2 << 20;
const MOST_DOCUMENT = 64 * 1024;
const MOST_NAMES = 64;
/** What the OS measures last before the application starts; all later events are the application's. */
const READY = "system-ready";
const REQUIRED = ["app-id", "compose-hash", "instance-id", "key-provider"];
/** @type {Record<string, number[]>} */
const SIZES = { "app-id": [20], "compose-hash": [32], "instance-id": [0, 20], "os-image-hash": [32] };
const REPEATED = ["init-script-hash"];
/** Kinds of key providers, and their bytes in MRCONFIGID of version 2. @type {Record<string, number>} */
const KINDS = { none: 0, "local-sgx": 1, kms: 2, tpm: 3 };
const DOMAIN = utf8("dstack-mr-config-v3:\0");

const eventsShape = listOf(
  record(
    { imr: integer(), event_type: integer() },
    { event: string(), event_payload: string(), digest: nullable(string()), version: nullable(integer()) },
    { closed: false },
  ),
);
const hexText = matching(/^([0-9a-f]{2}){0,1024}$/);
const launchShape = record(
  { compose_hash: hexText, key_provider: oneOf("none", "local", "kms", "tpm") },
  {
    version: oneOf(3),
    app_id: nullable(hexText),
    instance_id: nullable(hexText),
    key_provider_id: nullable(hexText),
    gpu_policy_hash: nullable(hexText),
    init_script_hashes: nullable(listOf(hexText, 64)),
  },
);
const providerShape = record({ name: string(), id: string() }, {}, { closed: false });

/**
 * Check a dstack guest's log and what goes with it against a genuine TD's report: what the log proves, or null.
 * @param {import("./verdict.js").Ledger} ledger @param {Context} context @param {Fields | null} td
 * @param {{event_log?: any, app_compose?: string | null, vm_config?: any}} evidence
 * @returns {Promise<Facts | null>}
 */
export async function verifyDstack(ledger, context, td, evidence) {
  const log = evidence.event_log ?? null;
  const compose = evidence.app_compose ?? null;
  const isWanted = demands(context.policy, "dstack");
  if (log === null && compose === null && !isWanted) return null; // a guest that shows no log is no dstack guest
  /** @type {Facts | null} */
  let facts = null;
  await ledger.group("dstack", async (checks) => {
    if (td === null) {
      checks.skip(1, "no TD's registers are proven", isWanted);
      return;
    }
    const { dstack: policy } = context.policy;
    const events = await checks.need(
      1,
      () => readLog(log, isWanted),
      (read) => `${read.length} events`,
    );
    await checks.need(2, () => checkReplay(events, td));
    const system = await checks.need(
      3,
      () => readSystem(events),
      (read) => `${read.names.length} system events`,
    );
    const { payloads, provider } = system;
    const isDescribed = await checks.check(4, () => checkCompose(compose, payloads));
    await checks.check(5, () => checkLaunch(td, system, evidence.vm_config));
    /** @type {import("./osimage.js").OsImage | null} */
    let image = null;
    await checks.check(6, async () => {
      image = await measuredImage(td, context, evidence.vm_config);
      const stated = payloads["os-image-hash"];
      const isSame = !stated || hex(stated) === image.imageHash;
      return isSame ? image.imageHash : `${image.imageHash} (the key provider names ${hex(stated)})`;
    });
    const found = /** @type {import("./osimage.js").OsImage | null} */ (image);
    const stated = payloads["os-image-hash"] ? hex(payloads["os-image-hash"]) : null;
    facts = {
      compose_hash: hex(payloads["compose-hash"]),
      app_id: hex(payloads["app-id"]),
      instance_id: hex(payloads["instance-id"]),
      os_image_hash: found?.imageHash ?? stated,
      key_provider: { name: provider.name, id: hex(provider.id) },
      os_measured: found !== null,
      app_compose: isDescribed ? compose : null,
    };
    const proven = facts;
    checks.skip(7, "nothing is repeated", false);
    await checks.check(8, () => checkOs(proven, context.policy, isWanted));
    await checks.check(9, () => checkListed(proven.compose_hash, policy.compose_hashes, "compose hash"));
    await checks.check(10, () => checkListed(proven.app_id, policy.app_ids, "app id"));
    await checks.check(11, () => checkProvider(provider, policy.key_providers));
    const { app_compose: _, ...shown } = proven;
    ledger.facts.dstack = {
      ...shown,
      os_image_event: stated,
      events: system.names.slice(0, MOST_NAMES),
      application_events: system.application.slice(0, MOST_NAMES),
    };
  });
  return facts;
}

// The log --------------------------------------------------------------------------------------------------------------

/**
 * Older servers nest the log as a list, others as a text.
 * @param {any} log @param {boolean} isWanted @returns {Promise<Event[]>}
 */
async function readLog(log, isWanted) {
  if (log === null || log === "") {
    throw new NotChecked("there is no event log, so this is no dstack guest that shows itself", isWanted);
  }
  const size = typeof log === "string" ? log.length : jsonText(log).length;
  if (size > MOST_LOG) throw new CheckFailed(`the event log is longer than ${MOST_LOG} characters`);
  const listed = typeof log === "string" ? parseLoosely(utf8(log)) : log;
  eventsShape(listed, "event log");
  const events = await Promise.all(listed.map(readEvent));
  if (events.length > MOST_EVENTS)
    throw new CheckFailed(`found ${events.length} events, expected ${MOST_EVENTS} at most`);
  if (events.some((event) => event.payload.length > MOST_PAYLOAD)) {
    throw new CheckFailed(`an event's payload is longer than ${MOST_PAYLOAD} bytes`);
  }
  return events;
}

/** @param {any} event @param {number} place @returns {Promise<Event>} */
async function readEvent(event, place) {
  const where = `event log, event ${place}`;
  const stated = event.digest ? fromHex(event.digest, `${where}: the digest`) : null;
  if (stated && stated.length !== 48)
    throw new CheckFailed(`${where}: the digest is ${stated.length} bytes long, not 48`);
  if (event.imr > 3) throw new CheckFailed(`${where}: there is no register ${event.imr}`);
  const { event_type: type, event: name = "" } = event;
  const payload = fromHex(event.event_payload ?? "", `${where}: the payload`);
  const measured = type === RUNTIME_EVENT ? await runtimeDigest(name, payload, event.version ?? 1) : stated;
  if (!measured) throw new CheckFailed(`event log: an event of type ${type} has no digest`);
  return { imr: event.imr, type, name, payload, stated, measured };
}

/**
 * The digest of one of dstack's own events, in the older (1) or the newer form (2).
 * @param {string} name @param {Uint8Array} payload @param {number} version
 */
function runtimeDigest(name, payload, version) {
  if (version === 1) {
    const colon = utf8(":");
    return hash("SHA-384", concat(Uint8Array.of(1, 0, 0, 8), colon, utf8(name), colon, payload));
  }
  if (version === 2) return hash("SHA-384", canonical({ name, payload: hex(payload), type: RUNTIME_EVENT }));
  throw new CheckFailed(`event log: version ${version} of an event; 1 and 2 are known`);
}

/** @param {Event[]} events @param {Fields} td */
async function checkReplay(events, td) {
  const place = events.findIndex(
    ({ type, stated, measured }) => type === RUNTIME_EVENT && stated && !same(stated, measured),
  );
  if (place >= 0) {
    throw new CheckFailed(`event ${place} ('${events[place].name}') has another digest than its name and payload give`);
  }
  for (const imr of [0, 1, 2, 3]) {
    const replayed = await extended(events.filter((event) => event.imr === imr).map((event) => event.measured));
    const quoted = td[`rtmr${imr}`];
    if (!same(replayed, quoted)) {
      throw new CheckFailed(`rtmr${imr}: the log gives ${hex(replayed)}, expected ${hex(quoted)} as in the quote`);
    }
  }
}

/** What the OS measured, from a log that was found to replay. @param {Event[]} events @returns {System} */
function readSystem(events) {
  const strange = events.findIndex((event) => (event.type === RUNTIME_EVENT) !== (event.imr === 3));
  if (strange >= 0) {
    throw new CheckFailed(
      `event ${strange} has type ${events[strange].type} in RTMR${events[strange].imr}, which no guest does`,
    );
  }
  const own = events.filter((event) => event.type === RUNTIME_EVENT);
  const ready = own.filter((event) => event.name === READY).length;
  if (ready !== 1) throw new CheckFailed(`found ${ready} events '${READY}', expected one`);
  const end = own.findIndex((event) => event.name === READY);
  const system = own.slice(0, end);
  const payloads = payloadsOf(system);
  return {
    payloads,
    provider: providerOf(payloads["key-provider"]),
    scripts: system.filter((event) => event.name === "init-script-hash").map((event) => hex(event.payload)),
    names: system.map((event) => event.name),
    application: own.slice(end + 1).map((event) => event.name),
  };
}

/** The payload of each event, by names that are there once and can be read in one way. @param {Event[]} system */
function payloadsOf(system) {
  const names = system.map((event) => event.name);
  const twice = names.find((name, at) => names.indexOf(name) !== at && !REPEATED.includes(name));
  if (twice !== undefined) throw new CheckFailed(`found '${twice}' several times before '${READY}', expected it once`);
  // The older digest is over "name:payload", so a colon in a name could be moved to begin the payload elsewhere.
  const colon = names.find((name) => name.includes(":"));
  if (colon !== undefined) {
    throw new CheckFailed(`found '${colon}' before '${READY}'; the OS measures nothing by a name with a colon`);
  }
  const missing = REQUIRED.filter((name) => !names.includes(name));
  if (missing.length) throw new CheckFailed(`found no ${missing.join(", ")} before '${READY}'`);
  const payloads = Object.fromEntries(system.map((event) => [event.name, event.payload]));
  for (const [name, sizes] of Object.entries(SIZES)) {
    if (Object.hasOwn(payloads, name) && !sizes.includes(payloads[name].length)) {
      throw new CheckFailed(`found ${payloads[name].length} bytes in '${name}', expected ${sizes[sizes.length - 1]}`);
    }
  }
  return payloads;
}

/** @param {Uint8Array} payload */
function providerOf(payload) {
  try {
    const value = parseLoosely(payload);
    providerShape(value, "the key provider");
    return { name: value.name, id: fromHex(value.id, "the key provider's id"), text: fromUtf8(payload) };
  } catch (wrong) {
    throw new CheckFailed(`the event 'key-provider' can't be read: ${wrong instanceof Error ? wrong.message : wrong}`);
  }
}

// What was deployed ----------------------------------------------------------------------------------------------------

/** @param {string | null} compose @param {Record<string, Uint8Array>} payloads */
async function checkCompose(compose, payloads) {
  if (compose === null) {
    throw new NotChecked("the application description is not at hand; its measured hash is known all the same", false);
  }
  const found = hex(await hash("SHA-256", bytesOf(compose, "the application description")));
  const expected = hex(payloads["compose-hash"]);
  if (found !== expected) {
    throw new CheckFailed(`found a description with the hash ${found}, expected ${expected} as measured`);
  }
  return found;
}

/**
 * What the host committed to before the TD started.
 * @param {Fields} td @param {System} system @param {any} vmConfig
 */
async function checkLaunch(td, system, vmConfig) {
  const found = td.mr_config_id;
  if (!found.some((byte) => byte)) throw new NotChecked("MRCONFIGID is zero: only RTMR3 binds the application", false);
  const expected = concat(found.slice(0, 1), await committed(found[0], system, vmConfig), new Uint8Array(15));
  if (!same(found, expected)) {
    throw new CheckFailed(`found MRCONFIGID ${hex(found)}, expected ${hex(expected)} for what was measured`);
  }
  return `version ${found[0]}`;
}

/** The 32 bytes of the commitment. @param {number} version @param {System} system @param {any} vmConfig */
async function committed(version, { payloads, provider, scripts }, vmConfig) {
  if (version === 1) return payloads["compose-hash"];
  if (version === 2) {
    if (!Object.hasOwn(KINDS, provider.name)) throw new CheckFailed(`a key provider '${provider.name}' is not known`);
    const kind = Uint8Array.of(KINDS[provider.name]);
    return keccak256(concat(payloads["compose-hash"], payloads["app-id"], kind, provider.id));
  }
  if (version !== 3) throw new CheckFailed(`found MRCONFIGID of version ${version}, expected 1, 2 or 3`);
  const text = configOf(vmConfig).mr_config;
  if (typeof text !== "string") {
    throw new NotChecked(
      "MRCONFIGID names a document that is not at hand; RTMR3 binds the application all the same",
      false,
    );
  }
  const data = bytesOf(text, "mr_config");
  if (data.length > MOST_DOCUMENT)
    throw new CheckFailed(`mr_config: ${data.length} bytes; at most ${MOST_DOCUMENT} are read`);
  const document = parseLoosely(data);
  launchShape(document, "mr_config");
  const policy = payloads["gpu-policy-hash"];
  if (document.key_provider === "local") document.key_provider = "local-sgx"; // what events call it
  compare(document, {
    compose_hash: hex(payloads["compose-hash"]),
    key_provider: provider.name,
    app_id: hex(payloads["app-id"]),
    instance_id: hex(payloads["instance-id"]),
    key_provider_id: hex(provider.id),
    gpu_policy_hash: policy ? hex(policy) : "",
    init_script_hashes: scripts.join(),
  });
  return hash("SHA-256", concat(DOMAIN, data));
}

/**
 * The members of the launch document must be what the guest measured.
 * @param {any} document @param {Record<string, string>} measured
 */
function compare(document, measured) {
  for (const [name, expected] of Object.entries(measured)) {
    const found = document[name] ?? null;
    if (found !== null && String(found) !== expected) {
      throw new CheckFailed(`found ${name} = '${found}' in mr_config, expected '${expected}' as measured`);
    }
  }
}

/** @param {any} vmConfig */
function configOf(vmConfig) {
  return vmConfig === undefined || vmConfig === null || vmConfig === "" ? {} : jsonObject(vmConfig, "vm_config");
}

/**
 * A JSON object that came as such, or as a text.
 * @param {any} value @param {string} what @returns {Record<string, any>}
 */
function jsonObject(value, what) {
  if (isObject(value)) return value;
  if (typeof value !== "string" || value.length > MOST_TEXT) {
    throw new CheckFailed(`${what} is no JSON object in a text of up to ${MOST_TEXT} characters`);
  }
  const read = parseLoosely(utf8(value));
  if (!isObject(read)) throw new CheckFailed(`${what} is no JSON object`);
  return read;
}

/** The bytes of a text that is not too long. @param {string} text @param {string} what */
function bytesOf(text, what) {
  if (text.length > MOST_TEXT) throw new CheckFailed(`${what} is longer than ${MOST_TEXT} characters`);
  if (hasLoneSurrogate(text)) throw new CheckFailed(`${what} is no text that UTF-8 can hold`);
  return utf8(text);
}

// The OS image ---------------------------------------------------------------------------------------------------------

/** The image whose registers these are. @param {Fields} td @param {Context} context @param {any} vmConfig */
async function measuredImage(td, context, vmConfig) {
  const config = configOf(vmConfig);
  const { policy } = context;
  if ((config.tdx_measurement ?? null) === null) {
    const boot = ["mr_td", "rtmr0", "rtmr1", "rtmr2"];
    const isPinned = policy.tdx.measurements.some((/** @type {any} */ one) =>
      boot.every((name) => one[name] === hex(td[name])),
    );
    const more = isPinned ? "; the policy pins MRTD and RTMR0 to RTMR2 instead" : "";
    const reason = `there is no measurement document of the OS image (dstack before 0.6 has none)${more}`;
    throw new NotChecked(reason, policy.dstack.os_images.length > 0 && !isPinned);
  }
  const image = await parseImage(jsonObject(config.tdx_measurement, "tdx_measurement"));
  const stated = config.os_image_hash ?? "";
  if (stated !== "" && stated !== image.imageHash) {
    throw new CheckFailed(`found os_image_hash = '${stated}' in vm_config, expected ${image.imageHash}`);
  }
  if (!image.mrTd.includes(hex(td.mr_td))) {
    throw new CheckFailed(`found MRTD ${hex(td.mr_td)}, expected ${image.mrTd.join(" or ")}`);
  }
  for (const name of /** @type {("rtmr1" | "rtmr2")[]} */ (["rtmr1", "rtmr2"])) {
    if (hex(td[name]) !== image[name]) {
      throw new CheckFailed(`found ${name.toUpperCase()} ${hex(td[name])}, expected ${image[name]} for the OS image`);
    }
  }
  return image;
}

// What the policy accepts ----------------------------------------------------------------------------------------------

/**
 * An unknown OS may measure whatever it likes, so nothing in the log can be demanded without naming the OS too.
 * @param {Facts} facts @param {import("./types.js").Policy} policy @param {boolean} isWanted
 */
function checkOs(facts, policy, isWanted) {
  if (!policy.dstack.os_images.length) {
    const required = isWanted && !policy.tdx.measurements.length;
    const more = required ? ", nor registers of the TD: without them the log is the word of an unknown OS" : "";
    throw new NotChecked(`the policy names no OS image${more}`, required);
  }
  return checkListed(facts.os_image_hash, policy.dstack.os_images, "OS image");
}

/** @param {string | null} found @param {string[]} accepted @param {string} what */
function checkListed(found, accepted, what) {
  if (!accepted.length) throw new NotChecked(`the policy names no ${what}`, false);
  if (found === null) throw new NotChecked(`no ${what} was measured`);
  if (!accepted.includes(found))
    throw new CheckFailed(`found the ${what} ${found}, expected one of ${accepted.join(", ")}`);
  return found;
}

/** @param {System["provider"]} provider @param {string[]} accepted */
function checkProvider(provider, accepted) {
  if (!accepted.length) throw new NotChecked("the policy names no key provider", false);
  const found = hex(provider.id);
  if (accepted.includes(found)) return provider.name;
  if (provider.name === "kms" && accepted.every(isSigningRoot)) {
    throw new NotChecked(
      "the policy names roots of the KMS's signatures, and the measured key is that of its CA",
      false,
    );
  }
  throw new CheckFailed(`found the key provider ${provider.name} ${found}, expected one of ${accepted.join(", ")}`);
}

/**
 * Whether a key in `dstack.key_providers` is a compressed point, the form of a KMS's signing root.
 * @param {string} key
 */
export function isSigningRoot(key) {
  return /^0[23][0-9a-f]{64}$/.test(key);
}
