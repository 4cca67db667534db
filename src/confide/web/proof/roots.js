/**
 * Trust anchors: Intel's root, which is pinned, and a development root that a person may name. Nothing that a report says can add one.
 */

import { CheckFailed, fromBase64 } from "./bytes.js";
import { INTEL_ROOT } from "./catalogue.js";
import { keyOf, readChain } from "./x509.js";

/** @typedef {import("./verdict.js").Root} Root */

/**
 * The roots for quotes: those of the policy's vendors, and the development roots in a PEM text.
 * @param {string[]} vendors @param {string} [pem] @returns {Root[]}
 */
export function rootsOf(vendors, pem) {
  const intel = {
    name: INTEL_ROOT.name,
    vendor: "intel",
    use: "tdx",
    development: false,
    der: fromBase64(INTEL_ROOT.der, "the root"),
  };
  return [...(vendors.includes("intel") ? [intel] : []), ...(pem ? development(pem) : [])];
}

/**
 * The P-256 root in the file that a development installation wrote. The other, on P-384, is for GPUs, which a page does not
 * check.
 * @param {string} pem @returns {Root[]}
 */
function development(pem) {
  const blocks = pem.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g) ?? [];
  const found = blocks.flatMap((block) => {
    try {
      const [one] = readChain(block, "the development root");
      keyOf(one, "the development root");
      return [{ name: "development root for quotes", vendor: "intel", use: "tdx", development: true, der: one.raw }];
    } catch (wrong) {
      if (wrong instanceof CheckFailed) return [];
      throw wrong;
    }
  });
  if (!found.length) throw new CheckFailed("the file of development roots holds no root for quotes");
  return found;
}
