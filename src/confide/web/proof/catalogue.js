/** Every step, with its number and words, and the pinned root. Written by `make docs` from `confide/verify`: change them there. */

/** @typedef {{id: string, title: string, proves: string}} Step */

/** @type {Record<string, {name: string, title: string, source: string, steps: Step[]}>} */
export const STEPS = {
  "report": {
    "name": "report",
    "title": "Attestation report",
    "source": "ACI aci/1, 9.1",
    "steps": [
      {
        "id": "report.1",
        "title": "well-formed",
        "proves": "It is a report of aci/1, and names the digest of the keyset inside."
      },
      {
        "id": "report.2",
        "title": "hardware",
        "proves": "The CPU's evidence is of the kind that the report says, genuine, and as the policy wants it."
      },
      {
        "id": "report.3",
        "title": "binding",
        "proves": "The genuine quote commits to exactly this keyset."
      },
      {
        "id": "report.4",
        "title": "freshness",
        "proves": "The quote was made after the verifier chose its nonce."
      },
      {
        "id": "report.5",
        "title": "expiry",
        "proves": "The keyset counts now, and not for longer than is plausible."
      },
      {
        "id": "report.6",
        "title": "provenance",
        "proves": "The code comes from where the policy demands, as far as an accepted measurement backs that."
      },
      {
        "id": "report.7",
        "title": "custody",
        "proves": "The keys of the keyset were released to this workload only."
      },
      {
        "id": "report.8",
        "title": "subject and manifest",
        "proves": "The workload's name, and the models that it serves, are those that the policy accepts."
      },
      {
        "id": "report.9",
        "title": "GPUs",
        "proves": "Genuine GPUs answered the same statement that the quote holds."
      },
      {
        "id": "report.10",
        "title": "channel",
        "proves": "The connection ends at a key of the keyset, or requests are encrypted to one."
      },
      {
        "id": "report.11",
        "title": "age",
        "proves": "Saved evidence is not older than the policy allows."
      }
    ]
  },
  "tdx": {
    "name": "tdx",
    "title": "Intel TDX quote",
    "source": "Intel TDX DCAP Quoting Library API, appendix 3; Intel PCS API version 4",
    "steps": [
      {
        "id": "tdx.1",
        "title": "format",
        "proves": "It is one quote of version 4 or 5 over a TD's report, with nothing after it but zeros."
      },
      {
        "id": "tdx.2",
        "title": "certificate chain",
        "proves": "An accepted root vouches for the machine's certificate (PCK), and all dates hold."
      },
      {
        "id": "tdx.3",
        "title": "quoting enclave",
        "proves": "That machine's quoting enclave, which can't be debugged, holds the attestation key."
      },
      {
        "id": "tdx.4",
        "title": "signature",
        "proves": "That key signed the TD's report; no bit of it was changed."
      },
      {
        "id": "tdx.5",
        "title": "TD attributes",
        "proves": "The TD can't be debugged or faulted by its host, and no service TD is bound to it."
      },
      {
        "id": "tdx.6",
        "title": "platform flags",
        "proves": "The machine's configuration, as its certificate states it, is one that the policy accepts."
      },
      {
        "id": "tdx.7",
        "title": "measurements",
        "proves": "The TD was started with software that the policy names."
      },
      {
        "id": "tdx.8",
        "title": "collateral",
        "proves": "Intel's words on this machine's model are at hand, signed under the same root, and in date."
      },
      {
        "id": "tdx.9",
        "title": "platform",
        "proves": "No part of the machine was revoked, and Intel knows its patches, TDX module and quoting enclave."
      },
      {
        "id": "tdx.10",
        "title": "TCB status",
        "proves": "The machine is patched as well as the policy demands."
      }
    ]
  },
  "snp": {
    "name": "snp",
    "title": "AMD SEV-SNP report",
    "source": "AMD publications 56860 (SEV-SNP firmware ABI) and 57230 (VCEK certificate and KDS interface)",
    "steps": [
      {
        "id": "snp.1",
        "title": "report is well-formed",
        "proves": "It is one report of a version that is known here, and says which key signed it."
      },
      {
        "id": "snp.2",
        "title": "key's chain ends at an accepted root",
        "proves": "AMD certified the key: VCEK by ASK by ARK, or VLEK by ASVK by ARK."
      },
      {
        "id": "snp.3",
        "title": "report is signed by that key",
        "proves": "The firmware of an AMD processor made the report, and nobody changed it."
      },
      {
        "id": "snp.4",
        "title": "one product in chain and report",
        "proves": "The keys are those of the processor line that the report is from."
      },
      {
        "id": "snp.5",
        "title": "key belongs to the chip",
        "proves": "The VCEK was issued for this very chip; or the policy accepts a provider's VLEK."
      },
      {
        "id": "snp.6",
        "title": "TCB version is the certified one",
        "proves": "The firmware can only have this key if it is at least as new as reported."
      },
      {
        "id": "snp.7",
        "title": "chain is not revoked",
        "proves": "AMD did not withdraw the issuer of the key."
      },
      {
        "id": "snp.8",
        "title": "guest policy is acceptable",
        "proves": "The host can't debug the guest; migration and SMT are as the policy wants."
      },
      {
        "id": "snp.9",
        "title": "guest itself asked",
        "proves": "The report was asked for from inside, at the privilege level that the policy wants."
      },
      {
        "id": "snp.10",
        "title": "firmware is new enough",
        "proves": "Every TCB version, at launch and now, reaches the least that the policy wants."
      },
      {
        "id": "snp.11",
        "title": "launch is an accepted one",
        "proves": "The guest started as one of the measurements in the policy."
      }
    ]
  },
  "dstack": {
    "name": "dstack",
    "title": "dstack guest",
    "source": "Dstack-TEE/dstack: cc-eventlog, dstack-types, dstack-mr, dstack-util",
    "steps": [
      {
        "id": "dstack.1",
        "title": "event log",
        "proves": "There is a log of what was measured, and it is well-formed."
      },
      {
        "id": "dstack.2",
        "title": "replay",
        "proves": "The log is the one behind RTMR0 to RTMR3; digests of dstack's own events are computed, never believed."
      },
      {
        "id": "dstack.3",
        "title": "system events",
        "proves": "What the OS measured before it handed over to the application is unambiguous and complete; what the application measured itself is left out."
      },
      {
        "id": "dstack.4",
        "title": "application description",
        "proves": "This text is the one whose hash was measured; every image and script is in it."
      },
      {
        "id": "dstack.5",
        "title": "launch configuration",
        "proves": "The host committed to the same application before the TD started (MRCONFIGID)."
      },
      {
        "id": "dstack.6",
        "title": "OS image measured",
        "proves": "MRTD, RTMR1 and RTMR2 are those of one OS image: firmware, kernel, command line, initial RAM disk. RTMR0 (virtual hardware, ACPI tables) is not compared."
      },
      {
        "id": "dstack.7",
        "title": "repeated values",
        "proves": "What the guest's agent says beside the evidence does not contradict it."
      },
      {
        "id": "dstack.8",
        "title": "OS image accepted",
        "proves": "The policy accepts this OS image."
      },
      {
        "id": "dstack.9",
        "title": "compose hash accepted",
        "proves": "The policy accepts this application description."
      },
      {
        "id": "dstack.10",
        "title": "app id accepted",
        "proves": "The policy accepts this application id."
      },
      {
        "id": "dstack.11",
        "title": "key provider accepted",
        "proves": "The policy accepts the provider that gave the guest its keys."
      }
    ]
  },
  "custody": {
    "name": "custody",
    "title": "Key custody",
    "source": "ACI aci/1, 3.3; Dstack-TEE/dstack: kms, guest-agent",
    "steps": [
      {
        "id": "custody.1",
        "title": "proofs",
        "proves": "The report shows signatures over released keys, in the form of dstack's KMS."
      },
      {
        "id": "custody.2",
        "title": "signatures",
        "proves": "All proofs are by one key of this application, which one root issued for the measured application id. Any guest that runs this application under the same KMS has the same keys."
      },
      {
        "id": "custody.3",
        "title": "root",
        "proves": "The root that issued the application's key is one that the policy accepts. dstack measures the key of the KMS's CA, which is another key, so this root must be known from elsewhere."
      },
      {
        "id": "custody.4",
        "title": "a key of the keyset",
        "proves": "At least one key of the keyset is itself a released one, and signed for as such."
      },
      {
        "id": "custody.5",
        "title": "every key of the keyset",
        "proves": "Each key of the keyset is a released one. A key of a kind that the KMS doesn't know (X25519) can't be: that it is made from a released secret is the word of the measured code."
      }
    ]
  },
  "gpu": {
    "name": "gpu",
    "title": "NVIDIA GPU or NVSwitch",
    "source": "DMTF DSP0274 1.1 (SPDM); TCG DICE Attestation Architecture 1.1; NVIDIA nvtrust",
    "steps": [
      {
        "id": "gpu.1",
        "title": "format",
        "proves": "The evidence is one request for all measurements with the device's signed answer, and a chain."
      },
      {
        "id": "gpu.2",
        "title": "certificate chain",
        "proves": "NVIDIA made the device, of the kind and family it is offered as. Revocation is not asked."
      },
      {
        "id": "gpu.3",
        "title": "signature",
        "proves": "The device's attestation key signed request and measurements."
      },
      {
        "id": "gpu.4",
        "title": "nonce",
        "proves": "It did so for this verification's nonce, so the evidence is not older."
      },
      {
        "id": "gpu.5",
        "title": "firmware identity",
        "proves": "The attestation key belongs to the firmware that the report names."
      },
      {
        "id": "gpu.6",
        "title": "reference measurements",
        "proves": "Firmware, driver and mode are those that NVIDIA released; the devices run nothing else."
      }
    ]
  },
  "gpus": {
    "name": "gpus",
    "title": "NVIDIA devices together",
    "source": "the policy; NVIDIA nvtrust, topology of protected PCIe",
    "steps": [
      {
        "id": "gpus.1",
        "title": "present",
        "proves": "There is evidence of GPUs, and NVIDIA's root is accepted for it."
      },
      {
        "id": "gpus.2",
        "title": "distinct",
        "proves": "Every device is genuine, and none is shown twice: device keys and attestation keys all differ."
      },
      {
        "id": "gpus.3",
        "title": "count",
        "proves": "As many GPUs and switches are there as the policy says."
      },
      {
        "id": "gpus.4",
        "title": "architecture and driver",
        "proves": "The policy accepts each GPU's architecture and driver version."
      },
      {
        "id": "gpus.5",
        "title": "interconnect",
        "proves": "All GPUs work in one mode; switches that they trust are genuine and shown here."
      }
    ]
  },
  "receipt": {
    "name": "receipt",
    "title": "Receipt",
    "source": "ACI aci/1, 9.3",
    "steps": [
      {
        "id": "receipt.1",
        "title": "well-formed",
        "proves": "It is a receipt of aci/1 and tells one exchange."
      },
      {
        "id": "receipt.2",
        "title": "signature",
        "proves": "A receipt key of the established keyset signed all of it."
      },
      {
        "id": "receipt.3",
        "title": "keyset",
        "proves": "It names the established keyset."
      },
      {
        "id": "receipt.4",
        "title": "request",
        "proves": "The service processed exactly the bytes that were sent."
      },
      {
        "id": "receipt.5",
        "title": "response",
        "proves": "The service wrote exactly the bytes that were received."
      },
      {
        "id": "receipt.6",
        "title": "rewrite",
        "proves": "Inference used the request as it was received, or the policy tolerates another."
      },
      {
        "id": "receipt.7",
        "title": "model",
        "proves": "It is for the model that was asked for, from the models that the quote binds."
      },
      {
        "id": "receipt.8",
        "title": "upstream",
        "proves": "Behind an aggregator, a verified upstream served it, in a session that was valid then."
      },
      {
        "id": "receipt.9",
        "title": "time",
        "proves": "It was served while the keyset counted, and not in the future."
      }
    ]
  },
  "session": {
    "name": "session",
    "title": "Attested session",
    "source": "ACI aci/1, 9.2",
    "steps": [
      {
        "id": "session.1",
        "title": "id",
        "proves": "The record is the one that its id names: SHA-256 over its canonical form."
      },
      {
        "id": "session.2",
        "title": "record and evidence",
        "proves": "It is a session of aci/1, and the evidence inside is the one that its digest names."
      },
      {
        "id": "session.3",
        "title": "period",
        "proves": "The upstream was verified before the answer, and the verification still counted then."
      },
      {
        "id": "session.4",
        "title": "channel and claims",
        "proves": "The aggregator names a channel that can be enforced, and claims what the policy demands."
      },
      {
        "id": "session.5",
        "title": "deep audit",
        "proves": "The evidence of the upstream itself is genuine and wanted, and not only said to be."
      }
    ]
  },
  "claims": {
    "name": "claims",
    "title": "Claims that the policy demands",
    "source": "ACI aci/1, 8.3",
    "steps": [
      {
        "id": "claims.1",
        "title": "tee_attested",
        "proves": "A genuine CPU TEE holds the identity that was established."
      },
      {
        "id": "claims.2",
        "title": "gpu_attested",
        "proves": "Genuine GPUs signed this verification's nonce. It does not bind them to the CPU."
      },
      {
        "id": "claims.3",
        "title": "tcb_up_to_date",
        "proves": "By the vendor's own word, the platform lacks no patch."
      },
      {
        "id": "claims.4",
        "title": "os_known_good",
        "proves": "The measured OS image is one that the policy accepts."
      },
      {
        "id": "claims.5",
        "title": "serving_software_known_good",
        "proves": "The measured software is what the policy accepts, on an OS that it accepts."
      },
      {
        "id": "claims.6",
        "title": "model_weights_provenance",
        "proves": "The keyset that the quote binds names a manifest of models that the policy accepts."
      }
    ]
  }
};

/** What quotes end at, in DER. */
export const INTEL_ROOT = {
  "name": "Intel SGX Root CA",
  "der": "MIICjzCCAjSgAwIBAgIUImUM1lqdNInzg7SVUr9QGzknBqwwCgYIKoZIzj0EAwIwaDEaMBgGA1UEAwwRSW50ZWwgU0dYIFJvb3QgQ0ExGjAYBgNVBAoMEUludGVsIENvcnBvcmF0aW9uMRQwEgYDVQQHDAtTYW50YSBDbGFyYTELMAkGA1UECAwCQ0ExCzAJBgNVBAYTAlVTMB4XDTE4MDUyMTEwNDUxMFoXDTQ5MTIzMTIzNTk1OVowaDEaMBgGA1UEAwwRSW50ZWwgU0dYIFJvb3QgQ0ExGjAYBgNVBAoMEUludGVsIENvcnBvcmF0aW9uMRQwEgYDVQQHDAtTYW50YSBDbGFyYTELMAkGA1UECAwCQ0ExCzAJBgNVBAYTAlVTMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEC6nEwMDIYZOj/iPWsCzaEKi71OiOSLRFhWGjbnBVJfVnkY4u3IjkDYYL0MxO4mqsyYjlBalTVYxFP2sJBK5zlKOBuzCBuDAfBgNVHSMEGDAWgBQiZQzWWp00ifODtJVSv1AbOScGrDBSBgNVHR8ESzBJMEegRaBDhkFodHRwczovL2NlcnRpZmljYXRlcy50cnVzdGVkc2VydmljZXMuaW50ZWwuY29tL0ludGVsU0dYUm9vdENBLmRlcjAdBgNVHQ4EFgQUImUM1lqdNInzg7SVUr9QGzknBqwwDgYDVR0PAQH/BAQDAgEGMBIGA1UdEwEB/wQIMAYBAf8CAQEwCgYIKoZIzj0EAwIDSQAwRgIhAOW/5QkR+S9CiSDcNoowLuPRLsWGf/Yi7GSX94BgwTwgAiEA4J0lrHoMs+Xo5o/sX6O9QWxHRAvZUGOdRQ7cvqRXaqI="
};

/** The step of an id, such as "tdx.3". @param {string} id @returns {Step | undefined} */
export function stepOf(id) {
  return STEPS[id.split(".")[0]]?.steps.find((step) => step.id === id);
}
