/** Words that policies, sessions and vendors have in common. */

import { STEPS } from "./catalogue.js";

/** Intel's judgements of a TCB level, from the best to the worst that a policy may accept. */
export const TCB_STATUSES = [
  "UpToDate",
  "SWHardeningNeeded",
  "ConfigurationNeeded",
  "ConfigurationAndSWHardeningNeeded",
  "OutOfDate",
  "OutOfDateConfigurationNeeded",
];

/** The typed claims of ACI 8.3. */
export const CLAIMS = STEPS.claims.steps.map((step) => step.title);

/** Whose word a claim is. */
export const SOURCES = ["hardware_proven", "verifier_derived", "provider_asserted", "operator_asserted"];
