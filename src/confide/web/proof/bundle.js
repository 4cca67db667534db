/** The file that `confide audit FILE` reads. */

/**
 * Everything that an auditor needs to repeat the verification offline, with these exchanges.
 * @param {import("./types.js").Attested} attested @param {import("./types.js").Kept[]} [exchanges]
 * @returns {string}  JSON
 */
export function bundle(attested, exchanges = []) {
  throw new Error(`not made yet: ${attested} ${exchanges}`);
}
