/**
 * The typed claims that a verification supports: derived from its findings, never from what a service says of itself.
 *
 * Source: Attested Confidential Inference, `aci/1`, section 8.3. Missing evidence is "unknown": neither a pass nor a refutation.
 * Behind a development root stands no hardware, so that under one everything is unknown.
 */

import { CheckFailed } from "./bytes.js";
import { STEPS } from "./catalogue.js";
import { NotChecked } from "./verdict.js";

/** @typedef {import("./verdict.js").Ledger} Ledger */
/** @typedef {import("./types.js").Outcome} Outcome */
/** @typedef {{status: "asserted" | "refuted" | "unknown", source?: string, reason: string}} Claim */

/**
 * The steps by which a CPU's evidence is genuine and its guest can't be debugged; the others are for policies.
 * @type {Record<string, number[]>}
 */
const GENUINE = { tdx: [1, 2, 3, 4, 5, 8, 9], snp: [1, 2, 3, 4, 5, 6, 7, 8] };
const BINDING = "report.3";
const DEVICE = ["gpu.1", "gpu.2", "gpu.3", "gpu.4", "gpus.1", "gpus.2"];
const DEVICE_REFUTED = ["gpu.1", "gpu.2", "gpu.3", "gpu.4", "gpu.5", "gpu.6", "gpus.2"];
const IMAGE = ["dstack.6", "dstack.8"];
const COMPOSE = "dstack.9";
const LAUNCH = ["tdx.7", "snp.11"];
/** @type {Outcome[]} */
const WORST_LAST = ["pass", "not checked", "fail"];
/** The roots that a claim rests on, by their use. */
const ON_GPU = ["gpu", "rim", "tdx", "snp"];
const ON_CPU = ["tdx", "snp"];
const ON_DEVELOPMENT = "it rests on a development root, which is no hardware";

/** What became of each step, worst first: one that failed for one of several subjects failed. */
class Made {
  /** @param {Ledger} ledger */
  constructor(ledger) {
    this.facts = ledger.facts;
    /** @type {Map<string, Outcome>} */
    this.outcomes = new Map();
    for (const { step, outcome } of ledger.findings) {
      const before = this.outcomes.get(step) ?? "pass";
      this.outcomes.set(step, WORST_LAST[Math.max(WORST_LAST.indexOf(before), WORST_LAST.indexOf(outcome))]);
    }
  }

  /** The first of these steps that failed. @param {string[]} steps */
  failed(steps) {
    return steps.find((step) => this.outcomes.get(step) === "fail");
  }

  /** The first of these steps that did not pass. @param {string[]} steps */
  unmade(steps) {
    return steps.find((step) => this.outcomes.get(step) !== "pass");
  }

  /** Which of these kinds of evidence were looked at. @param {string[]} groups */
  has(...groups) {
    return groups.filter((group) => this.outcomes.has(`${group}.1`));
  }
}

/** The claims as the findings in a ledger support them. @param {Ledger} ledger @returns {Record<string, Claim>} */
export function claimsOf(ledger) {
  const isDevelopment = (/** @type {string[]} */ uses) =>
    ledger.anchors.some((root) => root.development && uses.includes(root.use));
  const told = Object.entries(claims(new Made(ledger))).map(([name, claim]) => [
    name,
    claim.status !== "unknown" && isDevelopment(name === "gpu_attested" ? ON_GPU : ON_CPU)
      ? unknown(ON_DEVELOPMENT)
      : claim,
  ]);
  return Object.fromEntries(told);
}

/**
 * Check the claims that the policy demands, from the sources that it accepts. What rests on a development root counts here
 * as it would on hardware: the verdict is never "verified" over it.
 * @param {Ledger} ledger @param {import("./policy.js").Context} context
 */
export async function verifyClaims(ledger, context) {
  const found = claims(new Made(ledger));
  const told = claimsOf(ledger);
  await ledger.group("claims", async (checks) => {
    for (const [at, { title: name }] of STEPS.claims.steps.entries()) {
      const would =
        told[name].status === found[name].status ? "" : "rests on a development root; on hardware it would be ";
      await checks.check(at + 1, () => checkClaim(name, found[name], context.policy.claims[name], would));
    }
  });
}

/** @param {string} name @param {Claim} claim @param {string[] | undefined} sources @param {string} would */
function checkClaim(name, claim, sources, would) {
  const said = claim.source ? `${claim.status} (${claim.source})` : claim.status;
  if (!sources) throw new NotChecked("the policy does not demand it", false);
  if (claim.status === "unknown") throw new NotChecked(claim.reason || "nothing in the evidence says so");
  if (claim.status === "refuted" || !sources.includes(claim.source ?? "")) {
    throw new CheckFailed(`found ${name} ${said}, expected asserted (${sources.join(", ")}): ${claim.reason}`);
  }
  return `${would}${said}: ${claim.reason}`;
}

/** @param {Made} made @returns {Record<string, Claim>} */
function claims(made) {
  const tee = teeAttested(made);
  /** What a TEE's evidence says is worth nothing where it is no TEE's. @param {(made: Made) => Claim} claim */
  const onTee = (claim) => (tee.status === "asserted" ? claim(made) : unknown("the TEE is not attested"));
  return {
    tee_attested: tee,
    gpu_attested: gpuAttested(made),
    tcb_up_to_date: onTee(tcbUpToDate),
    os_known_good: onTee(osKnownGood),
    serving_software_known_good: onTee(softwareKnownGood),
    model_weights_provenance: onTee(modelWeights),
  };
}

/** @param {Made} made @returns {Claim} */
function teeAttested(made) {
  const kinds = made.has(...Object.keys(GENUINE));
  const steps = kinds.flatMap((kind) => GENUINE[kind].map((number) => `${kind}.${number}`));
  if (made.outcomes.has(BINDING)) steps.push(BINDING);
  const failed = made.failed(steps);
  if (failed) return refuted("hardware_proven", `step ${failed} failed`);
  if (!kinds.length) return unknown("no evidence of a CPU was verified");
  if (!made.has("report").length) return unknown("nothing binds an identity to the evidence");
  const unmade = made.unmade(steps);
  if (unmade) return unknown(`step ${unmade} could not be made`);
  return asserted("hardware_proven", `genuine ${kinds.join(" and ")} evidence commits to the identity`);
}

/** @param {Made} made @returns {Claim} */
function gpuAttested(made) {
  const failed = made.failed(DEVICE_REFUTED);
  if (failed) return refuted("hardware_proven", `step ${failed} failed`);
  const unmade = made.unmade(DEVICE);
  if (unmade) return unknown(`step ${unmade} could not be made`);
  return asserted(
    "hardware_proven",
    made.unmade(["gpu.6"])
      ? "genuine GPUs signed the nonce; their measurements were not compared"
      : "genuine GPUs, with NVIDIA's reference measurements, signed the nonce",
  );
}

/** @param {Made} made @returns {Claim} */
function tcbUpToDate(made) {
  const status = made.facts.tdx?.status;
  if (!status) {
    return unknown(made.has("snp").length ? "AMD names no current version" : "no collateral says how new it is");
  }
  if (status !== "UpToDate") return refuted("hardware_proven", `Intel's status is ${status}`);
  return asserted("hardware_proven", "Intel's status is UpToDate");
}

/** @param {Made} made @returns {Claim} */
function osKnownGood(made) {
  const failed = made.failed(IMAGE);
  if (failed) return refuted("verifier_derived", `step ${failed} failed`);
  const unmade = made.unmade(IMAGE);
  if (unmade) return unknown(`step ${unmade} could not be made`);
  return asserted("verifier_derived", "the policy accepts the measured OS image");
}

/**
 * A compose hash is the word of the OS that measured it, so it counts only on an OS that is accepted itself.
 * @param {Made} made @returns {Claim}
 */
function softwareKnownGood(made) {
  const kinds = made.has(...Object.keys(GENUINE));
  const launch = LAUNCH.filter((step) => kinds.includes(step.split(".")[0]));
  const failed = made.failed([COMPOSE, ...launch]);
  if (failed) return refuted("verifier_derived", `step ${failed} failed`);
  const isLaunched = !made.unmade(launch);
  if (made.outcomes.get("dstack.1") !== "pass") {
    if (isLaunched) return asserted("verifier_derived", "the policy accepts the measured guest");
    return unknown("the policy names no measurement of it");
  }
  if (made.unmade([COMPOSE])) return unknown(`step ${COMPOSE} could not be made`);
  if (isLaunched || !made.unmade(IMAGE)) {
    return asserted("verifier_derived", "the policy accepts the measured deployment and what it runs on");
  }
  return unknown("the policy accepts the deployment, and nothing shows that its OS measured honestly");
}

/** @param {Made} made @returns {Claim} */
function modelWeights(made) {
  const { manifest_accepted: accepted = null, manifest } = made.facts.report ?? {};
  if (accepted === false) {
    return refuted("verifier_derived", "the policy does not accept the manifest that the keyset names");
  }
  if (accepted === null || made.unmade(["report.3", "report.8"]))
    return unknown("no manifest of models was bound and accepted");
  return asserted("verifier_derived", `the quote binds the accepted manifest ${manifest}`);
}

/** @param {string} source @param {string} reason @returns {Claim} */
const asserted = (source, reason) => ({ status: "asserted", source, reason });
/** @param {string} source @param {string} reason @returns {Claim} */
const refuted = (source, reason) => ({ status: "refuted", source, reason });
/** @param {string} reason @returns {Claim} */
const unknown = (reason) => ({ status: "unknown", reason });
