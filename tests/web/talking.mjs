/**
 * What a page does with a service: verify it, ask it, check its answers, keep a bundle. The same in Node and in a browser.
 */

/**
 * @param {{url: string, key: string, model: string, pem?: string, policy?: any, seal?: boolean, stream?: boolean, size?: number}} given
 *     size: of the pieces that the answer is read in; as they come, if none is given
 * @param {string} proof  where the modules are
 */
export async function talk(given, proof) {
  const { attest, Exchange, bundle, firstUsePolicy } = await import(`${proof}/index.js`);
  const { url, key, model, pem, size = Infinity, seal = true, stream = true } = given;
  let attested = await attest(url, { developmentRoot: pem, policy: given.policy ?? null, seal });
  if (given.policy === undefined) {
    attested = await attest(url, { developmentRoot: pem, policy: firstUsePolicy(attested), seal });
  }
  const told = { verdict: attested.verdict, sealed: attested.sealKey !== null, suite: attested.sealKey?.algo };
  if (attested.established === null) return told;
  const body = JSON.stringify({
    model,
    stream,
    temperature: 0.5,
    top_p: 1e-7,
    messages: [{ role: "user", content: "Hello, wörld! 😀" }],
  });
  const exchange = await Exchange.open(attested, "/v1/chat/completions", body, {
    headers: { Authorization: `Bearer ${key}` },
  });
  const shown = [];
  let problem = null;
  try {
    const response = await fetch(exchange.url, exchange.init);
    if (!exchange.answered(response)) return { ...told, refused: await response.json() };
    for (const reader = response.body.getReader(); ; ) {
      const { done, value } = await reader.read();
      if (done) break;
      for (let at = 0; at < value.length; at += size)
        shown.push(...(await exchange.feed(value.subarray(at, at + size))));
    }
  } catch (wrong) {
    problem = String(wrong);
  }
  const answer = await exchange.finish({ wait: async () => {} });
  shown.push(...answer.rest);
  const { ok, consistent, development, findings, receipt } = answer;
  return {
    ...told,
    text: new TextDecoder().decode(Uint8Array.from(shown)),
    answer: { ok, consistent, development, findings, receipt, problem: answer.problem },
    problem,
    bundle: bundle(attested, [answer.kept]),
  };
}
