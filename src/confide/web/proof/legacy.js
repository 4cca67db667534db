/**
 * The surface that came before `aci/1`: signed hashes of a request and a response, and what its quotes commit to.
 *
 * Source: the servers vllm-proxy (Dstack-TEE) and inference-proxy (nearai); EIP-191 and RFC 8032 for the signatures. The text
 * is `request:response` in hex, or `model:request:response`; it is signed as an Ethereum personal message (ECDSA on
 * secp256k1), or with Ed25519. The same as `confide/wire/legacy.py` and the signatures of `confide/verify/legacy.py`.
 */

import { CheckFailed, concat, fromHex, hex, same, utf8 } from "./bytes.js";
import { checkEd25519, hash } from "./crypto.js";
import { parse } from "./jcs.js";
import { keccak256 } from "./keccak.js";
import { POINT_SIZE, recover } from "./secp256k1.js";
import { isObject, oneOf, record, string } from "./shapes.js";
import { Ledger, NotChecked } from "./verdict.js";

/** @typedef {"ecdsa" | "ed25519"} Algorithm */
/** @typedef {{algorithm: Algorithm, address: Uint8Array}} Signer  `address`: 20 bytes of an Ethereum address, or a key */
/** @typedef {{request_hash: string, response_hash: string, model: string | null}} SignatureText  hashes in hex */

const MOST_BYTES = 1 << 20;
const MOST_SHOWN = 8;
const HALF = 32;
const SHA256 = /^[0-9a-f]{64}$/;
/** @type {Record<Algorithm, RegExp>} */
const ADDRESSES = { ecdsa: /^0x[0-9a-fA-F]{40}$/, ed25519: /^[0-9a-fA-F]{64}$/ };
/** @type {Record<Algorithm, RegExp>} */
const SIGNATURES = { ecdsa: /^0x[0-9a-fA-F]{130}$/, ed25519: /^[0-9a-fA-F]{128}$/ };

const answerShape = record(
  { text: string(), signature: string(), signing_address: string(), signing_algo: oneOf("ecdsa", "ed25519") },
  {},
  { closed: false },
);

// What is signed -------------------------------------------------------------------------------------------------------

/**
 * Read a signature text from the right, since a model's name may hold colons.
 * @param {string} text @returns {SignatureText} @throws {CheckFailed} it doesn't end with two SHA-256 in lower-case hex
 */
export function parseText(text) {
  const parts = text.split(":");
  const [request_hash = "", response_hash = ""] = parts.splice(-2);
  if (!SHA256.test(request_hash) || !SHA256.test(response_hash)) {
    throw new CheckFailed("the signed text doesn't end with two SHA-256 in lower-case hex");
  }
  const model = parts.length ? parts.join(":") : null;
  if (model === "") throw new CheckFailed("the signed text names an empty model");
  return { request_hash, response_hash, model };
}

/** What ECDSA signs: the hash of a personal message (EIP-191, version 0x45). @param {string} text */
export function messageHash(text) {
  const data = utf8(text);
  return keccak256(concat(utf8(`\x19Ethereum Signed Message:\n${data.length}`), data));
}

/** The 20 bytes of an address. @param {Uint8Array} key  the 64 bytes x and y of a key on secp256k1 */
export function ethereumAddress(key) {
  if (key.length !== POINT_SIZE)
    throw new CheckFailed("a secp256k1 public key is 64 bytes here: x and y without a prefix");
  return keccak256(key).slice(-20);
}

/** An address as people read it: capital letters say whether it was mistyped (EIP-55). @param {Uint8Array} address */
export function checksummed(address) {
  const marks = hex(keccak256(utf8(hex(address))));
  return `0x${[...hex(address)].map((digit, at) => (parseInt(marks[at], 16) >= 8 ? digit.toUpperCase() : digit)).join("")}`;
}

/**
 * The bytes of a signing address: 20 of an Ethereum address, in any case, or the 32 of an Ed25519 key.
 * @param {Algorithm} algorithm @param {string} text @throws {CheckFailed} it is neither
 */
export function parseAddress(algorithm, text) {
  if (!ADDRESSES[algorithm].test(text)) throw new CheckFailed(`no ${algorithm} signing address`);
  return fromHex(text, "an address");
}

/**
 * The bytes of a signature: r, s and v (27 or 28) of ECDSA, or 64 bytes of Ed25519.
 * @param {Algorithm} algorithm @param {string} text @throws {CheckFailed} it is neither
 */
export function parseSignature(algorithm, text) {
  if (!SIGNATURES[algorithm].test(text)) throw new CheckFailed(`no ${algorithm} signature`);
  const signature = fromHex(text, "a signature");
  if (algorithm === "ecdsa" && ![27, 28].includes(signature[64])) {
    throw new CheckFailed("the v of an ecdsa signature is 27 or 28");
  }
  return signature;
}

/**
 * The 64 bytes in the CPU's quote: who signs, padded, then the nonce. With the digest of a TLS key, the first half is the
 * SHA-256 of both, which binds the connection too.
 * @param {Uint8Array} address @param {Uint8Array} nonce  32 bytes @param {Uint8Array | null} [tls]  SHA-256 of an SPKI
 * @returns {Promise<Uint8Array>}
 */
export async function reportData(address, nonce, tls = null) {
  if (tls !== null) return concat(await hash("SHA-256", concat(address, tls)), nonce);
  return concat(address, new Uint8Array(HALF - address.length), nonce);
}

// Signatures -----------------------------------------------------------------------------------------------------------

/**
 * Check the answer of `GET /v1/signature/{id}` for one exchange.
 *
 * What the caller still owes: that a genuine quote holds each signer's address, which no page verifies.
 * @param {import("./verdict.js").Ledger} ledger @param {Signer[]} signers  whose signature it must be @param {Uint8Array} answer
 * @param {{requestDigest: string | null, responseDigest: string | null, model?: string | null, subject?: string}} about
 *     digests as `sha256:` and hex, of the body that was sent and of the one that came off the wire
 */
export async function verifySignature(ledger, signers, answer, about) {
  const { requestDigest, responseDigest, model = null, subject = "" } = about;
  return ledger.group(
    "signature",
    async (checks) => {
      const made = await checks.need(1, () => readAnswer(answer));
      const text = await checks.need(2, () => parseText(made.text));
      await checks.check(3, () => checkSigner(made, signers));
      await checks.check(4, () => checkHash("request", text.request_hash, requestDigest));
      await checks.check(5, () => checkHash("response", text.response_hash, responseDigest));
      await checks.check(6, () => checkModel(text, model));
    },
    subject,
  );
}

/**
 * The same for who has no verdict to add it to.
 * @param {Signer[]} signers @param {Uint8Array} answer @param {Parameters<typeof verifySignature>[3]} about
 * @returns {Promise<{good: boolean, findings: import("./types.js").Finding[]}>}  `good` where every step that counts passed
 */
export async function checkSignature(signers, answer, about) {
  const ledger = new Ledger();
  const checks = await verifySignature(ledger, signers, answer, about);
  return { good: !checks.failed, findings: ledger.findings };
}

/** @param {Uint8Array} answer @returns {{text: string, signature: string, signing_address: string, signing_algo: Algorithm}} */
function readAnswer(answer) {
  if (answer.length > MOST_BYTES) {
    throw new CheckFailed(`the answer has ${answer.length} bytes; at most ${MOST_BYTES} are read`);
  }
  const value = parse(answer);
  if (isObject(value) && typeof value.error_code === "string") {
    throw new NotChecked(`the service has no signature for this exchange: ${value.error_code}`);
  }
  answerShape(value, "the answer");
  return value;
}

/**
 * The signature says who signed; that must be whom the answer names, and whom a quote holds.
 * @param {ReturnType<typeof readAnswer>} answer @param {Signer[]} signers
 */
async function checkSigner({ text, signature: written, signing_address, signing_algo: algorithm }, signers) {
  const address = parseAddress(algorithm, signing_address);
  const signature = parseSignature(algorithm, written);
  if (algorithm === "ecdsa") {
    const found = ethereumAddress(recover(signature, messageHash(text), { lowS: true }));
    if (!same(found, address)) {
      throw new CheckFailed(`found a signature of ${hex(found)}, expected one of ${hex(address)}`);
    }
  } else if (!(await checkEd25519(address, signature, utf8(text)))) {
    throw new CheckFailed(`the signature is not that of ${hex(address)} over this text`);
  }
  if (!signers.length) throw new NotChecked("no signing address was established");
  if (!signers.some((one) => one.algorithm === algorithm && same(one.address, address))) {
    const listed = signers.slice(0, MOST_SHOWN).map((one) => `${one.algorithm} ${hex(one.address)}`);
    throw new CheckFailed(`signed by ${algorithm} ${hex(address)}, expected ${listed.join(", ")}`);
  }
  return `signed by ${algorithm} ${hex(address)}`;
}

/** @param {string} what @param {string} signed @param {string | null} own */
function checkHash(what, signed, own) {
  if (own === null) throw new NotChecked(`the bytes of the ${what} are not at hand`);
  if (`sha256:${signed}` !== own) {
    throw new CheckFailed(`the signature is for a ${what} with sha256:${signed}, and the one at hand has ${own}`);
  }
}

/** @param {SignatureText} text @param {string | null} asked */
function checkModel({ model }, asked) {
  if (model === null) throw new NotChecked("the signed text names no model", false);
  if (asked === null) throw new NotChecked(`it is for '${model}', and which one was asked for is not known`, false);
  if (model !== asked) throw new CheckFailed(`found a signature for the model '${model}', expected '${asked}'`);
  return model;
}
