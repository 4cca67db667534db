/**
 * Runs the page's modules over cases that Python made, and gives what came of each as JSON. The same file in Node and in a
 * browser; `proof` is where the modules are.
 */

import { olderBinding, olderSuites, pairOf, unbound } from "./olderseal.mjs";
import { receive } from "./receiving.mjs";

/** @param {any[]} cases @param {string} proof @returns {Promise<any[]>} */
export async function outcomes(cases, proof) {
  const names = [
    "aci",
    "bytes",
    "custody",
    "dstack",
    "index",
    "jcs",
    "json",
    "legacy",
    "nvidia",
    "policy",
    "receipt",
    "report",
    "rim",
    "roots",
    "seal",
    "secp256k1",
    "session",
    "snp",
    "suites",
    "tdx",
    "verdict",
  ];
  const found = await Promise.all(names.map((name) => import(`${proof}/${name}.js`)));
  const modules = Object.fromEntries(names.map((name, at) => [name, found[at]]));
  const results = [];
  for (const one of cases) results.push({ name: one.name, ...(await outcome(one, modules)) });
  return results;
}

async function outcome(one, modules) {
  try {
    return await KINDS[one.kind](one, modules);
  } catch (error) {
    return { error: error.kind ?? error.name, message: String(error.message) };
  }
}

const bytesOf = (modules, text) => (text === null ? null : modules.bytes.fromBase64(text, "a case"));
const bytesIn = (modules, texts) =>
  Object.fromEntries(Object.entries(texts).map(([name, text]) => [name, bytesOf(modules, text)]));

function contextOf({ policy, pem, now }, { policy: policies, roots }) {
  const filled = policies.withDefaults(policy);
  return { policy: filled, roots: roots.rootsOf(filled.roots, pem), now };
}

/** Where roots and material are given as such. */
function atHand({ policy, roots, material, now }, modules) {
  const decoded = (some, member) => some.map((one) => ({ ...one, [member]: bytesOf(modules, one[member]) }));
  const filled = modules.policy.withDefaults(policy);
  return { policy: filled, roots: decoded(roots, "der"), material: decoded(material, "data"), now };
}

/** A suite of either protocol, and the binding of one request. */
function suiteOf({ algo, version, nonce, timestamp }, modules) {
  const { SUITES, binding } = modules.suites;
  if (Object.hasOwn(SUITES, algo)) return { suite: SUITES[algo], binding: binding(algo, nonce, timestamp) };
  const bound = version === "1" ? unbound : olderBinding(algo, nonce, timestamp, modules);
  return { suite: olderSuites(modules)[algo], binding: bound };
}

const hexIn = (modules, members) =>
  Object.fromEntries(Object.entries(members).map(([name, text]) => [name, modules.bytes.fromHex(text, name)]));

const told = (ledger) => ({ findings: ledger.findings, roots: ledger.anchors.map((root) => root.name) });

function establishedOf(modules, { keyset, keyset_digest, manifest, serving }) {
  return { keyset, keyset_digest, manifest, e2ee_versions: ["2"], serving };
}

export const KINDS = {
  async jcs({ data }, { bytes, jcs }) {
    return { ok: { canonical: jcs.text(jcs.parse(bytes.fromBase64(data, "a case"))) } };
  },

  async keyset({ data }, modules) {
    const keyset = modules.aci.keysetFrom(modules.jcs.parse(bytesOf(modules, data)));
    return { ok: { digest: await modules.aci.keysetDigest(keyset) } };
  },

  async parsed_report({ data, nonces }, modules) {
    const { report } = await modules.aci.parseReport(bytesOf(modules, data));
    const { workload_keyset_digest: digest, service_capabilities: said, attestation } = report;
    for (const nonce of nonces) {
      const slot = modules.bytes.hex((await modules.aci.reportDataSlot(digest, nonce)).subarray(0, 32));
      if (slot === attestation.report_data)
        return { ok: { digest, serving: said?.serving ?? "aggregator", nonce, report_data: slot } };
    }
    throw new Error("bound to no nonce");
  },

  async statement({ digest, nonce }, modules) {
    const canonical = modules.jcs.text({ purpose: "aci.report_data.v1", nonce, keyset_digest: digest });
    return { ok: { slot: modules.bytes.hex(await modules.aci.reportDataSlot(digest, nonce)), canonical } };
  },

  async parsed_session({ data }, modules) {
    const session = await modules.session.parseSession(bytesOf(modules, data));
    const sum = new modules.index.Sha256().update(modules.jcs.canonical(session)).digest();
    const { claimOf, bindings } = modules.session;
    const tee = claimOf(session, "tee_attested").status;
    return { ok: { id: sum.slice("sha256:".length), tee_attested: tee, bindings: bindings(session).length } };
  },

  async signed_receipt({ data, keyset }, modules) {
    const ledger = new modules.verdict.Ledger();
    const established = {
      keyset: modules.jcs.parse(bytesOf(modules, keyset)),
      keyset_digest: "",
      manifest: null,
      serving: "direct",
    };
    const context = { policy: modules.policy.withDefaults({}), roots: [], now: 0 };
    const about = { requestDigest: null, responseDigest: null };
    const { receipt } = await modules.receipt.verifyReceipt(
      ledger,
      context,
      established,
      bytesOf(modules, data),
      about,
    );
    const failed = ledger.findings.find(
      ({ step, outcome }) => ["receipt.1", "receipt.2"].includes(step) && outcome !== "pass",
    );
    if (failed) return { error: failed.step, message: failed.detail };
    const { signature, ...unsigned } = receipt;
    const hashOf = (type) => receipt.event_log.find((event) => event.type === type).body_hash;
    return {
      ok: {
        signed_sha256: new modules.index.Sha256()
          .update(modules.jcs.canonical(unsigned))
          .digest()
          .slice("sha256:".length),
        request_hash: hashOf("request.received"),
        response_hash: hashOf("response.returned"),
        events: receipt.event_log.length,
      },
    };
  },

  async report(one, modules) {
    const ledger = new modules.verdict.Ledger();
    const saved = {
      ...one.saved,
      document: bytesOf(modules, one.saved.document),
      manifest: bytesOf(modules, one.saved.manifest),
    };
    const established = await modules.report.verifyReport(ledger, contextOf(one, modules), saved);
    return { ...told(ledger), facts: ledger.facts, established: established !== null };
  },

  async saved(one, modules) {
    const saved = {
      ...one.saved,
      document: bytesOf(modules, one.saved.document),
      manifest: bytesOf(modules, one.saved.manifest),
    };
    const material = (one.material ?? []).map((item) => ({ ...item, data: bytesOf(modules, item.data) }));
    const options = { now: one.now, policy: one.policy, developmentRoot: one.pem ?? undefined, material };
    const { verdict } = await modules.index.verifySaved(saved, options);
    return verdict;
  },

  async first_use(one, modules) {
    const { verifySaved, firstUsePolicy } = modules.index;
    const saved = {
      ...one.saved,
      document: bytesOf(modules, one.saved.document),
      manifest: bytesOf(modules, one.saved.manifest),
    };
    const options = { now: one.now, developmentRoot: one.pem };
    const policy = firstUsePolicy(await verifySaved(saved, options));
    return { ok: { policy, verdict: (await verifySaved(saved, { ...options, policy })).verdict } };
  },

  async first_use_of({ verdict }, modules) {
    return { ok: modules.index.firstUsePolicy({ verdict }) };
  },

  async quote(one, modules) {
    const ledger = new modules.verdict.Ledger();
    const report = await modules.tdx.verifyTdx(
      ledger,
      contextOf(one, modules),
      bytesOf(modules, one.raw),
      one.collateral,
    );
    return { ...told(ledger), facts: ledger.facts, proven: report !== null };
  },

  async snp(one, modules) {
    const ledger = new modules.verdict.Ledger();
    const report = await modules.snp.verifySnp(ledger, atHand(one, modules), bytesOf(modules, one.raw));
    return { ...told(ledger), facts: ledger.facts, proven: report !== null };
  },

  async gpus(one, modules) {
    const ledger = new modules.verdict.Ledger();
    const [gpus, switches] = [one.gpus, one.switches].map((some) =>
      some.map(({ arch, certificate, evidence }) => ({ arch, ...bytesIn(modules, { certificate, evidence }) })),
    );
    const nonce = modules.bytes.fromHex(one.nonce, "a nonce");
    await modules.nvidia.verifyGpus(ledger, atHand(one, modules), gpus, switches, nonce, one.unavailable);
    return { ...told(ledger), facts: ledger.facts };
  },

  async rim(one, modules) {
    const ledger = new modules.verdict.Ledger();
    const rim = await modules.rim.verifyRim(ledger, atHand(one, modules), bytesOf(modules, one.data), one.wanted);
    return { ...told(ledger), proven: rim !== null };
  },

  async dstack(one, modules) {
    const ledger = new modules.verdict.Ledger();
    const td = Object.fromEntries(
      Object.entries(one.td).map(([name, text]) => [name, modules.bytes.fromHex(text, name)]),
    );
    await modules.dstack.verifyDstack(ledger, contextOf(one, modules), td, one.evidence);
    return { ...told(ledger), facts: ledger.facts };
  },

  async receipt(one, modules) {
    const ledger = new modules.verdict.Ledger();
    const established = establishedOf(modules, one.established);
    const { good } = await modules.receipt.verifyReceipt(
      ledger,
      contextOf(one, modules),
      established,
      bytesOf(modules, one.document),
      {
        requestDigest: one.asked,
        responseDigest: one.answered,
        model: one.model,
        sessions: bytesIn(modules, one.sessions),
        subject: one.subject,
      },
    );
    return { ...told(ledger), good };
  },

  async session(one, modules) {
    const ledger = new modules.verdict.Ledger();
    await modules.session.verifySession(
      ledger,
      contextOf(one, modules),
      one.id,
      bytesOf(modules, one.document),
      one.at,
      "",
    );
    return told(ledger);
  },

  async custody(one, modules) {
    const ledger = new modules.verdict.Ledger();
    const keys = one.keys.map((key) => modules.bytes.fromHex(key, "a key"));
    await modules.custody.verifyCustody(ledger, contextOf(one, modules), one.shown, keys, one.measured);
    return { ...told(ledger), facts: ledger.facts };
  },

  async signature(one, modules) {
    const signers = one.signers.map(({ algorithm, address }) => ({
      algorithm,
      address: modules.bytes.fromHex(address, "an address"),
    }));
    const checked = await modules.index.checkSignature(signers, bytesOf(modules, one.document), {
      requestDigest: one.asked,
      responseDigest: one.answered,
      model: one.model,
      subject: one.subject,
    });
    return { ...checked, roots: [] };
  },

  async signature_text({ data }, modules) {
    return { ok: modules.legacy.parseText(modules.bytes.fromUtf8(bytesOf(modules, data))) };
  },

  async older_key({ secret }, { bytes, legacy, secp256k1 }) {
    const key = secp256k1.publicPoint(bytes.fromHex(secret, "a secret")).subarray(1);
    return { ok: { key: bytes.hex(key), address: legacy.checksummed(legacy.ethereumAddress(key)) } };
  },

  async older_report_data({ algorithm, address, nonce, tls }, { bytes, legacy }) {
    const tlsKey = tls === null ? null : bytes.fromHex(tls, "a TLS key");
    const who = legacy.parseAddress(algorithm, address);
    return { ok: bytes.hex(await legacy.reportData(who, bytes.fromHex(nonce, "a nonce"), tlsKey)) };
  },

  async curve({ data }, modules) {
    const { call, low_s: lowS, ...members } = JSON.parse(modules.bytes.fromUtf8(bytesOf(modules, data)));
    const { signature, digest, point, secret } = hexIn(modules, members);
    const { recover, decode, compressed, agree, publicPoint } = modules.secp256k1;
    const { hex } = modules.bytes;
    const make = {
      recover: () => ({ key: hex(recover(signature, digest, { lowS })) }),
      decode: () => ({ point: hex(decode(point)), compressed: hex(compressed(decode(point))) }),
      agree: () => ({ shared: hex(agree(secret, point)), own: hex(publicPoint(secret)) }),
    };
    return { ok: make[call]() };
  },

  async answer(one, modules) {
    const terms = { ...suiteOf(one, modules), model: "demo" };
    const pair = await pairOf(terms.suite, modules.bytes.fromHex(one.secret, "a secret"));
    const opener = modules.seal.Sealer.openerOf(one.path, terms, pair);
    const wire = modules.bytes.utf8(one.wire);
    if (!one.stream) return { ok: modules.bytes.fromUtf8(await opener.whole(wire)) };
    const opened = [];
    const size = one.size || wire.length || 1;
    for (let at = 0; at < wire.length; at += size) opened.push(await opener.feed(wire.subarray(at, at + size)));
    opener.end();
    return { ok: modules.bytes.fromUtf8(modules.bytes.concat(...opened)) };
  },

  async field(one, modules) {
    const { fromHex, hex, utf8 } = modules.bytes;
    const { sealField, openField } = modules.suites;
    const { suite } = suiteOf(one, modules);
    const drawn = [fromHex(one.ephemeral, ""), fromHex(one.nonce, "")];
    const service = await pairOf(suite, fromHex(one.private, ""));
    const aad = utf8(one.aad ?? "");
    const sealed = await sealField(suite, service.point, one.plaintext, aad, () => drawn.shift());
    const shared = await service.agree(fromHex(one.ciphertext, "").subarray(0, suite.size));
    return {
      ok: {
        sealed,
        opened: await openField(suite, service, one.ciphertext, aad),
        shared: hex(shared),
        point: hex(service.point),
      },
    };
  },

  async bound(one, modules) {
    const { suite, binding } = suiteOf(one, modules);
    const pair = await suite.pair(modules.bytes.fromHex(one.private, "a secret"));
    const paths = [one.request_field, one.response_field].map((path) => path.split("."));
    const head = { id: one.response_id, model: "another model" };
    const texts = [binding.request(one.model, paths[0]), binding.response(one.model, head, paths[1])];
    return { ok: { point: modules.bytes.hex(pair.point), aads: texts.map(modules.bytes.fromUtf8) } };
  },

  async request({ request, keys }, modules) {
    return { ok: await receive(request, keys, modules) };
  },

  async sealed(one, modules) {
    const key = { key_id: "k", algo: one.algo, public_key: one.key };
    const { headers, body, restored } = await modules.index.Sealer.seal(key, one.path, bytesOf(modules, one.body), {
      now: one.now,
    });
    return { ok: { headers, body: modules.bytes.fromUtf8(body), restored: modules.bytes.fromUtf8(restored) } };
  },

  async sha256({ data, size }, modules) {
    const sum = new modules.index.Sha256();
    const bytes = bytesOf(modules, data);
    for (let at = 0; at < bytes.length; at += size) sum.update(bytes.subarray(at, at + size));
    return { ok: sum.digest() };
  },

  async policy({ policy }, modules) {
    const filled = modules.policy.policyFrom(policy);
    return { ok: await modules.policy.policyDigest(filled) };
  },
};
