/**
 * What vendors sign and a verifier needs beside the evidence: AMD's certificates and lists, NVIDIA's manifests.
 *
 * Signatures and dates make the carrier irrelevant: an item is stapled to a report, or given by whoever calls. A page asks no
 * vendor for any.
 */

/**
 * @typedef {object} Item  One signed artefact as it came. `key` says what it is for, in the words of its kind (a RIM id).
 * @property {"amd-certificate" | "amd-crl" | "nvidia-rim"} kind @property {string} key @property {Uint8Array} data
 */

const MOST_ITEMS = 128;
const MOST_BYTES = 4 << 20;

/**
 * The items of a kind that are not too long, for one key or all of them, in the order in which they are tried.
 * @param {import("./policy.js").Context} context @param {Item["kind"]} kind @param {string} [key] @returns {Item[]}
 */
export function itemsOf({ material = [] }, kind, key) {
  return material
    .slice(0, MOST_ITEMS)
    .filter((one) => one.kind === kind && (key ?? one.key) === one.key && one.data.length <= MOST_BYTES);
}
