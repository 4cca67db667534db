/** What is accepted: the members of a policy file of `confide verify`, as JSON. */

/** A policy that can't be used. */
export class PolicyError extends Error {}

/**
 * A policy from JSON, if it says enough to be one.
 * @param {any} value @returns {import("./types.js").Policy} @throws {PolicyError}
 */
export function policyFrom(value) {
  return value;
}

/**
 * A policy that accepts what a verification without one found, and nothing else; `trust` is "first use". Kept in the
 * browser it notices a service whose workload changed.
 * @param {import("./types.js").Attested} attested @returns {import("./types.js").Policy}
 */
export function firstUsePolicy(attested) {
  throw new PolicyError(`not made yet: ${attested}`);
}
