/** The file that `confide audit FILE` reads: everything that a verdict needs, with bytes in base64. */

import { base64 } from "./bytes.js";

/** @typedef {import("./types.js").Kept} Kept */

/**
 * Everything that an auditor needs to repeat the verification offline, with these exchanges.
 * @param {import("./types.js").Attested} attested @param {Kept[]} [exchanges]
 * @returns {string}  JSON
 */
export function bundle(attested, exchanges = []) {
  const { saved, baseUrl, captured_at } = attested;
  const { host, tls_spki_sha256, sealed_to } = saved.channel ?? {};
  return JSON.stringify({
    confide_bundle: 1,
    captured_at,
    report: base64(saved.document),
    url: baseUrl && `${baseUrl}/v1`,
    service: "aci",
    nonce: saved.nonce,
    channel: saved.channel ? { host, tls_spki_sha256, sealed_to } : null,
    manifest: saved.manifest ? base64(saved.manifest) : null,
    exchanges: exchanges.map(exchange),
  });
}

/** @param {Kept} kept */
function exchange({ id, sealed, model, request, response, receipt, sessions = {} }) {
  const bytes = (/** @type {Uint8Array | null} */ data) => (data === null ? null : base64(data));
  return {
    id,
    sealed,
    model,
    request: bytes(request),
    response: bytes(response),
    receipt: bytes(receipt),
    sessions: Object.fromEntries(Object.entries(sessions).map(([name, document]) => [name, base64(document)])),
  };
}
