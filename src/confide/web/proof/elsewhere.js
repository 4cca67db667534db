/**
 * What a page does not check: AMD's reports and NVIDIA's devices. Their steps are listed all the same, as not checked and
 * with the reason, so that nobody takes silence for a pass.
 */

import { CheckFailed } from "./bytes.js";
import { STEPS } from "./catalogue.js";
import { NotChecked } from "./verdict.js";

/** @typedef {import("./verdict.js").Ledger} Ledger */

const MOST_DEVICES = 128;
const NO_SNP = "this page doesn't verify SEV-SNP reports; `confide verify` does";
export const NO_GPU = "this page doesn't verify NVIDIA's evidence; `confide verify` does";

/** @param {Ledger} ledger */
export async function verifySnp(ledger) {
  await ledger.group("snp", (checks) => STEPS.snp.steps.forEach((_, at) => checks.skip(at + 1, NO_SNP)));
}

/**
 * @param {Ledger} ledger @param {import("./types.js").Policy} policy @param {number} gpus @param {number} switches
 * @param {string} unavailable  why there is no evidence, where there is none
 */
export async function verifyGpus(ledger, policy, gpus, switches, unavailable) {
  const needed = policy.gpu.required || Boolean(policy.gpu.count) || Boolean(policy.gpu.switches);
  await ledger.group("gpus", async (checks) => {
    await checks.need(
      1,
      () => {
        if (!gpus) throw new NotChecked(`there is no evidence of a GPU: ${unavailable}`, needed);
        if (gpus + switches > MOST_DEVICES) {
          throw new CheckFailed(`found ${gpus + switches} devices; more than ${MOST_DEVICES} are not looked at`);
        }
        if (!policy.roots.includes("nvidia")) throw new NotChecked("the policy accepts no root for GPUs", needed);
      },
      () => `${gpus} GPUs and ${switches} switches`,
    );
    const places = [
      ...Array.from({ length: gpus }, (_, at) => `gpu ${at}`),
      ...Array.from({ length: switches }, (_, at) => `switch ${at}`),
    ];
    for (const place of places) {
      const skipAll = (/** @type {import("./verdict.js").Checks} */ device) =>
        STEPS.gpu.steps.forEach((_, at) => device.skip(at + 1, NO_GPU, needed));
      await ledger.group("gpu", skipAll, place);
    }
    [2, 3, 4, 5].forEach((number) => checks.skip(number, NO_GPU, needed));
  });
}
