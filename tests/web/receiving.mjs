/**
 * The other end of sealing, for vectors of requests: what a service refuses, and what it restores. Keys, points, fields and
 * bindings are those of the page's modules; the headers are read here, since a page only writes them.
 *
 * Source: E2EE v2 of the ACI specification, sections 3 to 9, and the older protocol of Dstack-TEE/vllm-proxy.
 */

import { agreementPoint, olderBinding, olderSuites, pairOf, unbound } from "./olderseal.mjs";

const NEW = ["x-e2ee-version", "x-client-pub-key", "x-model-pub-key", "x-e2ee-nonce", "x-e2ee-timestamp"];
const OLD = ["x-signing-algo", "x-client-pub-key", "x-model-pub-key"];
const FOREIGN = ["x-encryption-version", "x-encrypt-all-fields"];
const MEMBERS = { "/v1/chat/completions": "messages", "/v1/completions": "prompt", "/v1/embeddings": "input" };
const PARTS = { text: ["text"], image_url: ["image_url", "url"], input_audio: ["input_audio", "data"] };
const SECONDS = 300;

class Refused extends Error {
  constructor(kind) {
    super(kind);
    this.kind = `e2ee_${kind}`;
  }
}

/** What is made, or a refusal of one kind whatever was thrown. */
async function orRefused(kind, make) {
  try {
    return await make();
  } catch (wrong) {
    throw wrong instanceof Refused ? wrong : new Refused(kind);
  }
}

/**
 * The body that a request is restored to, as text.
 * @param {{path: string, now: number, headers: Record<string, string>, body: string}} request
 * @param {{algo: string, secret: string, identity: string}[]} keys  of the service, in hex
 */
export async function receive({ path, now, headers, body }, keys, modules) {
  const found = Object.fromEntries(Object.entries(headers).map(([name, value]) => [name.toLowerCase(), value]));
  if (!Object.hasOwn(MEMBERS, path)) throw new Refused("unsupported_endpoint");
  if (FOREIGN.some((name) => name in found)) throw new Refused("invalid_version");
  const accept = "x-signing-algo" in found ? acceptOld : acceptNew;
  const terms = await accept(found, path, now, keys, modules);
  const pair = await pairOf(terms.suite, modules.bytes.fromHex(terms.key.secret, "a key"));
  return orRefused("decryption_failed", async () => {
    const payload = modules.json.readObject(modules.bytes.utf8(body));
    const model = payload.get("model");
    if (typeof model !== "string" || (terms.noPipe && model.includes("|"))) throw new Refused("invalid_payload_model");
    const open = (at, text) => modules.suites.openField(terms.suite, pair, text, terms.binding.request(model, at));
    if (!(await opened(MEMBERS[path], payload, terms.parts, open, modules))) throw new Refused("decryption_failed");
    return modules.json.write(payload);
  });
}

// Headers --------------------------------------------------------------------------------------------------------------

async function acceptNew(found, path, now, keys, modules) {
  const { SUITES, binding } = modules.suites;
  if ((found["x-e2ee-version"] ?? "2") !== "2") throw new Refused("invalid_version");
  if (NEW.some((name) => !(name in found))) throw new Refused("header_missing");
  const nonce = found["x-e2ee-nonce"];
  if (!/^[0-9a-fA-F]{64}$/.test(nonce)) throw new Refused("invalid_nonce");
  const timestamp = readTime(found["x-e2ee-timestamp"], now);
  const ours = keys.filter(({ algo }) => Object.hasOwn(SUITES, algo));
  const key = ours.find(({ algo, identity }) => {
    try {
      return modules.bytes.hex(readKey(SUITES[algo], found["x-model-pub-key"], modules)) === identity;
    } catch {
      return false;
    }
  });
  if (!key) throw new Refused("model_key_mismatch");
  const suite = SUITES[key.algo];
  await orRefused("invalid_public_key", () => checkClient(suite, (raw) => raw, found["x-client-pub-key"], modules));
  return { suite, key, binding: binding(key.algo, nonce, timestamp), parts: PARTS };
}

async function acceptOld(found, path, now, keys, modules) {
  const suites = olderSuites(modules);
  if (path !== "/v1/chat/completions") throw new Refused("unsupported_endpoint");
  if (OLD.some((name) => !(name in found))) throw new Refused("header_missing");
  const algo = found["x-signing-algo"].trim().toLowerCase();
  if (!Object.hasOwn(suites, algo)) throw new Refused("invalid_signing_algo");
  const version = versionOf(found);
  const suite = suites[algo];
  const key = keys.find((one) => one.algo === algo);
  const named = await orRefused("invalid_public_key", () => readKey(suite, found["x-model-pub-key"], modules));
  if (modules.bytes.hex(named) !== key.identity) throw new Refused("model_key_mismatch");
  const pointOf = algo === "ed25519" ? (raw) => agreementPoint(raw, modules) : (raw) => raw;
  await orRefused("invalid_public_key", () => checkClient(suite, pointOf, found["x-client-pub-key"], modules));
  const parts = { text: PARTS.text };
  if (version === "1") return { suite, key, binding: unbound, parts };
  const nonce = found["x-e2ee-nonce"];
  if (!/^[!-{}~]{16,256}$/.test(nonce)) throw new Refused("invalid_nonce");
  const timestamp = readTime(found["x-e2ee-timestamp"], now);
  return { suite, key, binding: olderBinding(algo, nonce, timestamp, modules), parts, noPipe: true };
}

function versionOf(found) {
  const asked = found["x-e2ee-version"];
  const bound = ["x-e2ee-nonce", "x-e2ee-timestamp"].filter((name) => name in found);
  if (![undefined, "1", "2"].includes(asked)) throw new Refused("invalid_version");
  if (bound.length === 1 || (asked === "2" && !bound.length)) throw new Refused("header_missing");
  return bound.length ? "2" : "1";
}

function readTime(text, now) {
  if (!/^[0-9]{1,15}$/.test(text) || Math.abs(now - Number(text)) > SECONDS) throw new Refused("invalid_timestamp");
  return Number(text);
}

/** A key in a header; a point may lack the 04 in front. */
function readKey(suite, text, { bytes }) {
  const raw = bytes.fromHex(text, "a key");
  if (raw.length === suite.size) return raw;
  if (suite.size !== 65 || raw.length !== 64) throw new Refused("invalid_public_key");
  return bytes.concat(Uint8Array.of(4), raw);
}

/** Whether a key can be agreed with the client's: with any of ours. */
async function checkClient(suite, pointOf, text, modules) {
  const pair = await suite.pair(new Uint8Array(32).fill(1));
  await pair.agree(pointOf(readKey(suite, text, modules)));
}

// Bodies ---------------------------------------------------------------------------------------------------------------

/** Open every field in place, and say how many there were. */
async function opened(member, body, parts, open, modules) {
  const value = body.get(member);
  let count = 0;
  if (member === "messages") {
    for (const [index, message] of (Array.isArray(value) ? value : []).entries()) {
      if (message instanceof Map)
        count += await openContent(message, ["messages", index, "content"], parts, open, modules);
    }
    return count;
  }
  if (typeof value === "string") {
    body.set(member, await open([member], value));
    return 1;
  }
  for (const [place, entry] of (Array.isArray(value) ? value : []).entries()) {
    if (typeof entry !== "string") continue;
    value[place] = await open([member, place], entry);
    count += 1;
  }
  return count;
}

async function openContent(message, path, parts, open, { json }) {
  const content = message.get("content");
  if (typeof content === "string") {
    const text = await open(path, content);
    message.set("content", json.arrayIn(text) ?? text);
    return 1;
  }
  let count = 0;
  for (const [place, part] of (Array.isArray(content) ? content : []).entries()) {
    const kind = part instanceof Map ? part.get("type") : undefined;
    if (typeof kind !== "string" || !Object.hasOwn(parts, kind)) continue;
    const names = parts[kind];
    const holder = names.length > 1 ? part.get(names[0]) : part;
    const last = names[names.length - 1];
    if (!(holder instanceof Map) || typeof holder.get(last) !== "string") throw new Refused("decryption_failed");
    holder.set(last, await open([...path, place, ...names], holder.get(last)));
    count += 1;
  }
  return count;
}
