// The ai package with @ai-sdk/openai-compatible.

import assert from 'node:assert/strict';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { APICallError, generateObject, generateText, Output, stepCountIs, streamObject, streamText, tool } from 'ai';
import { Animal, API_KEY, BASE_URL, errorOf, MODEL, run, TOO_LONG, Weather } from './scenarios.mjs';

globalThis.AI_SDK_LOG_WARNINGS = false;

const provider = createOpenAICompatible({
  name: 'confide',
  baseURL: BASE_URL,
  apiKey: API_KEY,
  includeUsage: true,
  supportsStructuredOutputs: true,
});
const sure = { model: provider(MODEL), temperature: 0, seed: 1, maxOutputTokens: 300, maxRetries: 0 };
const hello = { ...sure, prompt: 'Say hello.', maxOutputTokens: 12 };
const animal = { ...sure, prompt: 'Describe a cat as JSON.', schema: Animal };

/** The weather tool, noting what it was called with. */
function weather(calls) {
  return {
    get_weather: tool({
      description: 'The weather in a city.',
      inputSchema: Weather,
      execute: async (given) => {
        calls.push(given);
        return { degrees: 21, sky: 'clear' };
      },
    }),
  };
}

await run({
  async generate_text() {
    const result = await generateText(hello);
    assert.ok(result.text);
    assert.ok(['stop', 'length'].includes(result.finishReason), result.finishReason);
    assert.ok(result.usage.inputTokens > 0);
    assert.ok(result.usage.outputTokens > 0);
    assert.equal(result.response.modelId, MODEL);
  },

  async stream_text() {
    const result = streamText(hello);
    let text = '';
    for await (const delta of result.textStream) text += delta;
    assert.equal(text, (await generateText(hello)).text);
    assert.ok(['stop', 'length'].includes(await result.finishReason));
    assert.ok((await result.usage).outputTokens > 0);
  },

  async generate_text_with_tools() {
    const calls = [];
    const prompt = 'What is the weather in Paris?';
    const result = await generateText({ ...sure, prompt, tools: weather(calls), toolChoice: 'required' });
    assert.equal(result.finishReason, 'tool-calls');
    assert.ok(result.toolCalls.length > 0);
    assert.equal(result.toolResults.length, result.toolCalls.length);
    assert.deepEqual(calls, result.toolCalls.map((call) => call.input));
    for (const call of result.toolCalls) {
      assert.equal(call.toolName, 'get_weather');
      assert.ok(!call.invalid);
    }
  },

  async tool_steps() {
    const calls = [];
    const result = await generateText({
      ...sure,
      prompt: 'What is the weather in Paris?',
      tools: weather(calls),
      stopWhen: stepCountIs(2),
      prepareStep: ({ stepNumber }) => ({ toolChoice: stepNumber === 0 ? 'required' : 'none' }),
      maxOutputTokens: 100,
    });
    assert.equal(result.steps.length, 2);
    assert.ok(calls.length > 0);
    assert.ok(result.text);
  },

  async stream_text_with_tools() {
    const calls = [];
    const choice = { type: 'tool', toolName: 'get_weather' };
    const result = streamText({ ...sure, prompt: 'Weather?', tools: weather(calls), toolChoice: choice });
    const kinds = new Set();
    for await (const part of result.fullStream) kinds.add(part.type);
    for (const kind of ['tool-input-start', 'tool-input-delta', 'tool-input-end', 'tool-call', 'tool-result', 'finish']) {
      assert.ok(kinds.has(kind), `${kind} is missing of ${[...kinds]}`);
    }
    assert.ok(!kinds.has('error') && !kinds.has('tool-error'));
    assert.equal(calls.length, 1);
    assert.deepEqual((await result.toolCalls)[0].input, calls[0]);
  },

  async generate_object() {
    const result = await generateObject(animal);
    assert.deepEqual(result.object, Animal.parse(result.object));
    assert.equal(result.finishReason, 'stop');
    assert.ok((await generateObject({ ...animal, temperature: 1 })).object);
  },

  async stream_object() {
    const result = streamObject(animal);
    let last;
    for await (const partial of result.partialObjectStream) last = partial;
    const whole = await result.object;
    assert.deepEqual(whole, Animal.parse(whole));
    assert.deepEqual(last, whole);
  },

  async output_object() {
    const { schema, ...members } = animal;
    const result = await generateText({ ...members, output: Output.object({ schema }) });
    assert.deepEqual(result.output, Animal.parse(result.output));
  },

  async errors() {
    const unknown = await errorOf(generateText({ ...hello, model: provider('acme/none') }), APICallError);
    assert.equal(unknown.statusCode, 404);
    assert.match(unknown.message, /acme\/none/);
    assert.equal(unknown.data.error.code, 'model_not_found');
    assert.equal(unknown.isRetryable, false);
    const long = await errorOf(generateText({ ...hello, prompt: TOO_LONG }), APICallError);
    assert.match(long.message, /maximum context length/);
    const stranger = createOpenAICompatible({ name: 'stranger', baseURL: BASE_URL, apiKey: 'sk-wrong-key-of-nobody' });
    const key = await errorOf(generateText({ ...hello, model: stranger(MODEL) }), APICallError);
    assert.equal(key.statusCode, 401);
    assert.ok(key.message.length > 10);
  },

  async error_while_streaming() {
    const seen = [];
    const result = streamText({ ...hello, prompt: TOO_LONG, onError: ({ error }) => seen.push(error) });
    const kinds = [];
    for await (const part of result.fullStream) kinds.push(part.type);
    assert.ok(kinds.includes('error'), kinds.join());
    assert.match(seen[0].message, /maximum context length/);
  },
});
