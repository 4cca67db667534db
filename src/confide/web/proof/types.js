/**
 * The shapes that the modules give and take. Members have the names of Python's verdict, policy and bundle, so that one
 * reader understands both.
 *
 * @typedef {"pass" | "fail" | "not checked"} Outcome
 *
 * @typedef {object} Finding  What became of one step.
 * @property {string} step  its id, as in STEPS: "tdx.3"
 * @property {string} title  a few words; "FAIL" and the like are in OUTCOME_WORDS
 * @property {Outcome} outcome
 * @property {string} detail  one line, no control characters; may be empty
 * @property {string} subject  which of several; may be empty
 * @property {boolean} required  whether the verdict may not be good without it ("not needed" where false)
 *
 * @typedef {object} Verdict  As `confide verify --json` has it, with `ok`, `development`, `sentence` and `advice`.
 * @property {"verified" | "failed" | "consistent, development root" | "not enough evidence" | "no policy"} verdict
 * @property {0 | 1 | 2 | 3 | 5} exit_code  of `confide verify` for the same
 * @property {boolean} ok  only where `exit_code` is 0; never over a development root
 * @property {boolean} development  something rests on a development root: say so loudly
 * @property {boolean} hardware  a vendor's pinned root stands behind the evidence, and nothing failed
 * @property {string} sentence  what it means, in one sentence
 * @property {string[]} advice  what to do next
 * @property {string} subject
 * @property {number} at  the time that dates were compared with, in Unix seconds
 * @property {string} policy  the policy's digest ("" where none was given)
 * @property {"reviewed" | "first use" | null} policy_trust  how the policy came to be
 * @property {string[]} roots  names of the roots that were reached
 * @property {Finding[]} findings  in order
 * @property {Record<string, {status: "asserted" | "refuted" | "unknown", source?: string, reason?: string}>} claims
 * @property {Record<string, any>} facts  "report" (keyset_digest, subject, manifest, not_after, ...), "tdx" (registers,
 *     fmspc, status, ...), "snp" (measurement, product, ...), "dstack" (compose_hash, app_id, events, ...), "gpu" (a list:
 *     arch, model, driver, measured, ...), "sessions"
 *
 * @typedef {object} PublicKey
 * @property {string} key_id
 * @property {string} algo
 * @property {string} public_key  in hex
 *
 * @typedef {object} Keyset
 * @property {string | null} subject
 * @property {number} not_after
 * @property {PublicKey[]} receipt_signing_keys
 * @property {PublicKey[]} e2ee_public_keys
 * @property {{spki_sha256: string, domain?: string}[]} [tls_public_keys]
 *
 * @typedef {object} Established  Whose signatures count, if the verdict is good (or known to be of a development root).
 * @property {Keyset} keyset
 * @property {string} keyset_digest  "sha256:..."
 * @property {any | null} manifest  the manifest of models as JSON, null where it was not at hand
 * @property {string[]} e2ee_versions
 * @property {"direct" | "aggregator"} serving
 *
 * @typedef {object} Channel  How the service is talked to, as far as a page can know.
 * @property {string} host
 * @property {string | null} tls_spki_sha256  always null in a page: a browser shows no page the key of its connection
 * @property {string | null} sealed_to  the public key in hex that requests are sealed to, null where they are not
 * @property {boolean} [is_page]  whether it is a page that looked, so that the TLS key is unknown and not missing
 *
 * @typedef {object} Saved  A report as it came, and what went with it.
 * @property {Uint8Array} document
 * @property {string | null} nonce
 * @property {Channel | null} [channel]
 * @property {Uint8Array | null} [manifest]
 * @property {number | null} [captured_at]  when it was fetched (Unix seconds), where that is not now
 *
 * @typedef {object} Attested  One verification of a service.
 * @property {string} baseUrl  the origin
 * @property {Saved} saved
 * @property {any} report  the report as JSON; null where it is none
 * @property {Verdict} verdict
 * @property {Established | null} established  null where the report establishes nothing
 * @property {PublicKey | null} sealKey  what requests are sealed to; null where the service or the browser can't
 * @property {import("./policy.js").Context} context  the policy with every member, and the roots
 * @property {number} captured_at  Unix seconds
 *
 * @typedef {object} Kept  One exchange, as a bundle keeps it.
 * @property {string} id  the receipt's
 * @property {boolean} sealed
 * @property {string | null} model
 * @property {Uint8Array | null} request  the bytes that the receipt hashes: as sent, or as sealing restores them
 * @property {Uint8Array | null} response  the bytes as they came off the wire
 * @property {Uint8Array | null} receipt
 * @property {Record<string, Uint8Array>} [sessions]
 *
 * @typedef {object} Answer  What became of one answer.
 * @property {boolean} ok  every required step passed, and the service's own verdict is ok
 * @property {boolean} consistent  every required step passed: what a development service can reach
 * @property {boolean} development
 * @property {string | null} problem  what else is wrong, where there is something: the stream was cut off, for instance
 * @property {Finding[]} findings  "receipt.1" to "receipt.9", and "session.*" behind an aggregator
 * @property {any} receipt  the receipt as JSON (`event_log`, `served_at`, `key_id`, ...); null where there is none
 * @property {Kept} kept  for `bundle`
 *
 * @typedef {Record<string, any>} Policy  The members of a policy file of `confide verify`, as JSON: {roots: ["intel"],
 *     tdx: {measurements: [...]}, ...}. Members that are not known are refused.
 */
export {};
