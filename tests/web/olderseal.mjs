/**
 * The older encryption, for its vectors: what it tells HKDF, how Ed25519 keys agree, and what its fields are bound to. A page
 * doesn't speak it, since services of `aci/1` know a better one; curves, fields and answers are those of the page's modules.
 *
 * Source: Dstack-TEE/vllm-proxy (`docs/e2ee_protocol.md`); RFC 7748, section 4.1, and RFC 8032, sections 5.1.3 and 5.1.5, for
 * Ed25519 keys that are used to agree.
 */

const P = 2n ** 255n - 19n;
const mod = (number) => ((number % P) + P) % P;

function power(base, exponent) {
  let made = 1n;
  for (let square = mod(base), rest = exponent; rest; rest >>= 1n) {
    if (rest & 1n) made = mod(made * square);
    square = mod(square * square);
  }
  return made;
}

const D = -121665n * power(121666n, P - 2n);

/** The suites, by their names in `X-Signing-Algo`. */
export const olderSuites = ({ suites }) => ({
  ecdsa: suites.secp256k1("ecdsa", "ecdsa_encryption"),
  ed25519: suites.x25519("ed25519", "ed25519_encryption"),
});

/** The pair of a key that may sign as well: for Ed25519 of its seed; X25519 itself clears and sets the bits that it must. */
export async function pairOf(suite, secret) {
  if (suite.algo !== "ed25519") return suite.pair(secret);
  return suite.pair(new Uint8Array(await crypto.subtle.digest("SHA-512", secret)).subarray(0, 32));
}

/** The X25519 public key that belongs to an Ed25519 one, which must be a point in its one proper form. */
export function agreementPoint(key, { bytes }) {
  const y = BigInt(`0x${bytes.hex(key.slice().reverse())}`) % 2n ** 255n;
  const square = (y * y - 1n) * power(D * y * y + 1n, P - 2n);
  if (y >= P || y === 1n || power(square, (P - 1n) / 2n) > 1n) throw new Error("no Ed25519 public key");
  const u = mod((1n + y) * power(1n - y, P - 2n));
  return bytes.fromHex(u.toString(16).padStart(64, "0"), "a point").reverse();
}

/** Version 1: a field may stand anywhere. */
export const unbound = { request: () => new Uint8Array(), response: () => new Uint8Array() };

/** Version 2: text with `|` between its members, so that none of them may contain one. */
export function olderBinding(algo, nonce, timestamp, { bytes }) {
  const bound = (way, middle) => bytes.utf8(`v2|${way}|algo=${algo}|${middle}|n=${nonce}|ts=${timestamp}`);
  return {
    request: (model, path) => bound("req", `model=${model}|m=${path[1]}|c=${path.length > 3 ? path[3] : "-"}`),
    response(_, { id, model }, path) {
      const isChoice = path[0] === "choices" && path.length > 2;
      const rest = isChoice ? path.slice(2) : path;
      const field = ["message", "delta"].includes(rest[0]) && rest.length > 1 ? rest.slice(1) : rest;
      return bound("resp", `model=${model}|id=${id}|choice=${isChoice ? path[1] : "-"}|field=${field.join(".")}`);
    },
  };
}
