/** One verification of a service: a nonce, its report, a verdict. */

/**
 * Fetch a report for a nonce made here, and verify it.
 * @param {string} baseUrl  the origin, with or without /v1
 * @param {{fetch?: typeof fetch, now?: number, policy?: import("./types.js").Policy | null, developmentRoot?: string,
 *     seal?: boolean}} [options]  `now` in Unix seconds; `developmentRoot` a PEM text, as `--insecure-dev-root` reads it;
 *     `seal`: false for requests in clear
 * @returns {Promise<import("./types.js").Attested>}  rejects only where the service can't be reached or refuses
 */
export async function attest(baseUrl, options = {}) {
  throw new Error(`not made yet: ${baseUrl} ${options}`);
}

/**
 * Verify a report that was saved, without any network.
 * @param {import("./types.js").Saved} saved
 * @param {{now: number, policy?: import("./types.js").Policy | null, developmentRoot?: string, baseUrl?: string}} options
 * @returns {Promise<import("./types.js").Attested>}
 */
export async function verifySaved(saved, options) {
  throw new Error(`not made yet: ${saved} ${options}`);
}
