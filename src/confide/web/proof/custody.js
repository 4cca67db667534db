/**
 * Key custody: who released the private keys behind the keyset, by the signatures of dstack's KMS.
 *
 * The signatures are recoverable ones on secp256k1, which Web Crypto doesn't have, so that proofs are not checked in a page;
 * it says so, as required where the policy demands them.
 */

import { isSigningRoot } from "./dstack.js";
import { NotChecked } from "./verdict.js";

/**
 * @param {import("./verdict.js").Ledger} ledger @param {import("./policy.js").Context} context @param {any} custody
 * @param {import("./types.js").Keyset} keyset @param {import("./dstack.js").Facts | null} dstack
 */
export async function verifyCustody(ledger, context, custody, keyset, dstack) {
  const {
    keys,
    dstack: { key_providers: providers },
  } = context.policy;
  const isNeeded = keys.custody || providers.some(isSigningRoot);
  await ledger.group("custody", (checks) =>
    checks.need(1, () => {
      if (custody === null) throw new NotChecked("the report shows no proof of who released its keys", isNeeded);
      throw new NotChecked("this page doesn't check signatures on secp256k1; `confide verify` does", isNeeded);
    }),
  );
}
