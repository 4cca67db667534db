/**
 * Trust anchors: the vendors' roots, which are pinned, and development roots that a person may name. Nothing that a report says
 * can add one.
 */

import { CheckFailed, fromBase64 } from "./bytes.js";
import { ROOTS } from "./pinned.js";
import { pointOf } from "./keys.js";
import { readChain } from "./pem.js";

/** @typedef {import("./verdict.js").Root} Root */

/**
 * The roots of the policy's vendors, and the development roots in a PEM text.
 * @param {string[]} vendors @param {string} [pem] @returns {Root[]}
 */
export function rootsOf(vendors, pem) {
  const pinned = ROOTS.filter(({ vendor }) => vendors.includes(vendor)).map((root) => ({
    ...root,
    development: false,
    der: fromBase64(root.der, "the root"),
  }));
  return [...pinned, ...(pem ? development(pem) : [])];
}

/** Those that a kind of evidence may end at. @param {Root[]} roots @param {string} use @returns {Root[]} */
export function rootsFor(roots, use) {
  return roots.filter((root) => root.use === use);
}

/**
 * The roots in the file that a development installation wrote: P-256 for quotes, P-384 for GPUs.
 * @param {string} pem @returns {Root[]}
 */
function development(pem) {
  const blocks = pem.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g) ?? [];
  if (!blocks.length) throw new CheckFailed("the file of development roots holds no PEM certificates");
  return blocks.map((block) => {
    const [one] = readChain(block, "the development root");
    const size = pointOf(one)?.length;
    const kinds = {
      64: { name: "development root for quotes", vendor: "intel", use: "tdx" },
      96: { name: "development root for GPUs", vendor: "nvidia", use: "gpu" },
    };
    if (size !== 64 && size !== 96) throw new CheckFailed("a development root has a P-256 or a P-384 key");
    return { ...kinds[size], development: true, der: one.raw };
  });
}
