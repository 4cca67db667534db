/** Every step with its words: written by `make docs` from `confide/verify`. */

/** @typedef {{id: string, title: string, proves: string}} Step */

/**
 * Name, title, source, and of each step the title and what it proves.
 * @type {[string, string, string, [string, string][]][]}
 */
const GROUPS = [
  ["report", "Attestation report", "ACI aci/1, 9.1", [
    ["well-formed", "It is a report of aci/1, and names the digest of the keyset inside."],
    ["hardware", "The CPU's evidence is of the kind that the report says, genuine, and as the policy wants it."],
    ["binding", "The genuine quote commits to exactly this keyset."],
    ["freshness", "The quote was made after the verifier chose its nonce."],
    ["expiry", "The keyset counts now, and not for longer than is plausible."],
    ["provenance", "The code comes from where the policy demands, as far as an accepted measurement backs that."],
    ["custody", "The keys of the keyset were released to this workload only."],
    ["subject and manifest", "The workload's name, and the models that it serves, are those that the policy accepts."],
    ["GPUs", "Genuine GPUs answered the same statement that the quote holds."],
    ["channel", "The connection ends at a key of the keyset, or requests are encrypted to one."],
    ["age", "Saved evidence is not older than the policy allows."],
  ]],
  ["tdx", "Intel TDX quote", "Intel TDX DCAP Quoting Library API, appendix 3; Intel PCS API version 4", [
    ["format", "It is one quote of version 4 or 5 over a TD's report, with nothing after it but zeros."],
    ["certificate chain", "An accepted root vouches for the machine's certificate (PCK), and all dates hold."],
    ["quoting enclave", "That machine's quoting enclave, which can't be debugged, holds the attestation key."],
    ["signature", "That key signed the TD's report; no bit of it was changed."],
    ["TD attributes", "The TD can't be debugged or faulted by its host, and no service TD is bound to it."],
    ["platform flags", "The machine's configuration, as its certificate states it, is one that the policy accepts."],
    ["measurements", "The TD was started with software that the policy names."],
    ["collateral", "Intel's words on this machine's model are at hand, signed under the same root, and in date."],
    ["platform", "No part of the machine was revoked, and Intel knows its patches, TDX module and quoting enclave."],
    ["TCB status", "The machine is patched as well as the policy demands."],
  ]],
  ["snp", "AMD SEV-SNP report", "AMD publications 56860 (SEV-SNP firmware ABI) and 57230 (VCEK certificate and KDS interface)", [
    ["report is well-formed", "It is one report of a version that is known here, and says which key signed it."],
    ["key's chain ends at an accepted root", "AMD certified the key: VCEK by ASK by ARK, or VLEK by ASVK by ARK."],
    ["report is signed by that key", "The firmware of an AMD processor made the report, and nobody changed it."],
    ["one product in chain and report", "The keys are those of the processor line that the report is from."],
    ["key belongs to the chip", "The VCEK was issued for this very chip; or the policy accepts a provider's VLEK."],
    ["TCB version is the certified one", "The firmware can only have this key if it is at least as new as reported."],
    ["chain is not revoked", "AMD did not withdraw the issuer of the key."],
    ["guest policy is acceptable", "The host can't debug the guest; migration and SMT are as the policy wants."],
    ["guest itself asked", "The report was asked for from inside, at the privilege level that the policy wants."],
    ["firmware is new enough", "Every TCB version, at launch and now, reaches the least that the policy wants."],
    ["launch is an accepted one", "The guest started as one of the measurements in the policy."],
  ]],
  ["dstack", "dstack guest", "Dstack-TEE/dstack: cc-eventlog, dstack-types, dstack-mr, dstack-util", [
    ["event log", "There is a log of what was measured, and it is well-formed."],
    ["replay", "The log is the one behind RTMR0 to RTMR3; digests of dstack's own events are computed, never believed."],
    ["system events", "What the OS measured before it handed over to the application is unambiguous and complete; what the application measured itself is left out."],
    ["application description", "This text is the one whose hash was measured; every image and script is in it."],
    ["launch configuration", "The host committed to the same application before the TD started (MRCONFIGID)."],
    ["OS image measured", "MRTD, RTMR1 and RTMR2 are those of one OS image: firmware, kernel, command line, initial RAM disk. RTMR0 (virtual hardware, ACPI tables) is not compared."],
    ["repeated values", "What the guest's agent says beside the evidence does not contradict it."],
    ["OS image accepted", "The policy accepts this OS image."],
    ["compose hash accepted", "The policy accepts this application description."],
    ["app id accepted", "The policy accepts this application id."],
    ["key provider accepted", "The policy accepts the provider that gave the guest its keys."],
  ]],
  ["custody", "Key custody", "ACI aci/1, 3.3; Dstack-TEE/dstack: kms, guest-agent", [
    ["proofs", "The report shows signatures over released keys, in the form of dstack's KMS."],
    ["signatures", "All proofs are by one key of this application, which one root issued for the measured application id. Any guest that runs this application under the same KMS has the same keys."],
    ["root", "The root that issued the application's key is one that the policy accepts. dstack measures the key of the KMS's CA, which is another key, so this root must be known from elsewhere."],
    ["a key of the keyset", "At least one key of the keyset is itself a released one, and signed for as such."],
    ["every key of the keyset", "Each key of the keyset is a released one. A key of a kind that the KMS doesn't know (X25519) can't be: that it is made from a released secret is the word of the measured code."],
  ]],
  ["gpu", "NVIDIA GPU or NVSwitch", "DMTF DSP0274 1.1 (SPDM); TCG DICE Attestation Architecture 1.1; NVIDIA nvtrust", [
    ["format", "The evidence is one request for all measurements with the device's signed answer, and a chain."],
    ["certificate chain", "NVIDIA made the device, of the kind and family it is offered as. Revocation is not asked."],
    ["signature", "The device's attestation key signed request and measurements."],
    ["nonce", "It did so for this verification's nonce, so the evidence is not older."],
    ["firmware identity", "The attestation key belongs to the firmware that the report names."],
    ["reference measurements", "Firmware, driver and mode are those that NVIDIA released; the devices run nothing else."],
  ]],
  ["gpus", "NVIDIA devices together", "the policy; NVIDIA nvtrust, topology of protected PCIe", [
    ["present", "There is evidence of GPUs, and NVIDIA's root is accepted for it."],
    ["distinct", "Every device is genuine, and none is shown twice: device keys and attestation keys all differ."],
    ["count", "As many GPUs and switches are there as the policy says."],
    ["architecture and driver", "The policy accepts each GPU's architecture and driver version."],
    ["interconnect", "All GPUs work in one mode; switches that they trust are genuine and shown here."],
  ]],
  ["rim", "Reference measurements of NVIDIA", "TCG Reference Integrity Manifest Information Model 1.01; W3C XML Signature 1.1; NVIDIA RIM service", [
    ["format", "The manifest is a SWID tag with one signature over the whole document and nothing beside it."],
    ["digest", "The values are the ones whose digest is signed."],
    ["signature", "The signer's key signed that digest."],
    ["certificate chain", "NVIDIA certified the signer for reference values. Revocation is not asked."],
    ["dates", "The signer's certificates are valid at the time of verification."],
    ["version", "The manifest describes this chip with this version of the driver or VBIOS."],
  ]],
  ["receipt", "Receipt", "ACI aci/1, 9.3", [
    ["well-formed", "It is a receipt of aci/1 and tells one exchange."],
    ["signature", "A receipt key of the established keyset signed all of it."],
    ["keyset", "It names the established keyset."],
    ["request", "The service processed exactly the bytes that were sent."],
    ["response", "The service wrote exactly the bytes that were received."],
    ["rewrite", "Inference used the request as it was received, or the policy tolerates another."],
    ["model", "It is for the model that was asked for, from the models that the quote binds."],
    ["upstream", "Behind an aggregator, a verified upstream served it, in a session that was valid then."],
    ["time", "It was served while the keyset counted, and not in the future."],
  ]],
  ["session", "Attested session", "ACI aci/1, 9.2", [
    ["id", "The record is the one that its id names: SHA-256 over its canonical form."],
    ["record and evidence", "It is a session of aci/1, and the evidence inside is the one that its digest names."],
    ["period", "The upstream was verified before the answer, and the verification still counted then."],
    ["channel and claims", "The aggregator names a channel that can be enforced, and claims what the policy demands."],
    ["deep audit", "The evidence of the upstream itself is genuine and wanted, and not only said to be."],
  ]],
  ["signature", "Signature of the older surface", "Dstack-TEE/vllm-proxy, GET /v1/signature/{id}; EIP-191; RFC 8032", [
    ["well-formed", "It is an answer with a text, a signature, an address and an algorithm."],
    ["text", "The text ends with two SHA-256, of a request and of a response."],
    ["signer", "An address that a genuine quote holds signed exactly this text."],
    ["request", "The service processed exactly the bytes that were sent."],
    ["response", "The service wrote exactly the bytes that were received."],
    ["model", "The service says that the model is the one that was asked for. Nothing measures that."],
  ]],
  ["claims", "Claims that the policy demands", "ACI aci/1, 8.3", [
    ["tee_attested", "A genuine CPU TEE holds the identity that was established."],
    ["gpu_attested", "Genuine GPUs signed this verification's nonce. It does not bind them to the CPU."],
    ["tcb_up_to_date", "By the vendor's own word, the platform lacks no patch."],
    ["os_known_good", "The measured OS image is one that the policy accepts."],
    ["serving_software_known_good", "The measured software is what the policy accepts, on an OS that it accepts."],
    ["model_weights_provenance", "The keyset that the quote binds names a manifest of models that the policy accepts."],
  ]],
];

/**
 * The steps of each kind of evidence, numbered from 1.
 * @type {Record<string, {name: string, title: string, source: string, steps: Step[]}>}
 */
export const STEPS = Object.fromEntries(
  GROUPS.map(([name, title, source, steps]) => {
    const numbered = steps.map(([asked, proves], at) => ({ id: `${name}.${at + 1}`, title: asked, proves }));
    return [name, { name, title, source, steps: numbered }];
  }),
);

/** The step of an id, such as "tdx.3". @param {string} id @returns {Step | undefined} */
export function stepOf(id) {
  return STEPS[id.split(".")[0]]?.steps.find((step) => step.id === id);
}
