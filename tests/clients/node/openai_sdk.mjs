// The openai package.

import assert from 'node:assert/strict';
import OpenAI from 'openai';
import { zodFunction, zodResponseFormat } from 'openai/helpers/zod';
import { Animal, ASK, errorOf, HELLO, MODEL, run, TOO_LONG, Weather } from './scenarios.mjs';

const client = new OpenAI({ maxRetries: 0 });
const completions = client.chat.completions;

const sure = { model: MODEL, temperature: 0, seed: 1, max_tokens: 300 };
const hello = { ...sure, messages: HELLO, max_tokens: 12 };
const animal = {
  ...sure,
  messages: [{ role: 'user', content: 'Describe a cat as JSON.' }],
  response_format: zodResponseFormat(Animal, 'animal'),
};

/** A tool for runTools that notes what it was called with. */
function weather(calls) {
  return zodFunction({
    name: 'get_weather',
    description: 'The weather in a city.',
    parameters: Weather,
    function: (given) => {
      calls.push(given);
      return { degrees: 21, sky: 'clear' };
    },
  });
}

/** Every call has its result after it, in order. */
function checkExchange(messages) {
  const called = messages.flatMap((message) => message.tool_calls ?? []).map((call) => call.id);
  const answered = messages.filter((message) => message.role === 'tool').map((message) => message.tool_call_id);
  assert.deepEqual(answered, called);
  assert.equal(new Set(called).size, called.length);
}

await run({
  async create() {
    const answer = await completions.create(hello);
    assert.equal(answer.object, 'chat.completion');
    assert.equal(answer.model, MODEL);
    assert.equal(answer.choices.length, 1);
    assert.equal(answer.choices[0].message.role, 'assistant');
    assert.ok(answer.choices[0].message.content);
    assert.ok(['stop', 'length'].includes(answer.choices[0].finish_reason));
    assert.equal(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens);
    assert.ok(answer._request_id);
  },

  async stream() {
    const stream = await completions.create({ ...hello, stream: true, stream_options: { include_usage: true } });
    let text = '';
    let last;
    for await (const chunk of stream) {
      text += chunk.choices[0]?.delta?.content ?? '';
      last = chunk;
    }
    assert.deepEqual(last.choices, []);
    const answer = await completions.create(hello);
    assert.equal(text, answer.choices[0].message.content);
    assert.equal(last.usage.completion_tokens, answer.usage.completion_tokens);
    assert.equal(last.usage.prompt_tokens, answer.usage.prompt_tokens);
  },

  async stream_left_early() {
    const stream = await completions.create({ ...hello, max_tokens: 2000, stream: true });
    for await (const chunk of stream) {
      if (chunk.choices[0].delta.content) break;
    }
    assert.ok((await completions.create({ ...hello, max_tokens: 1 })).id);
  },

  async stream_helper() {
    const seen = new Set();
    let text = '';
    const stream = completions
      .stream({ ...hello, stream_options: { include_usage: true } })
      .on('connect', () => seen.add('connect'))
      .on('chunk', () => seen.add('chunk'))
      .on('content', (delta, snapshot) => {
        seen.add('content');
        text += delta;
        assert.equal(snapshot, text);
      })
      .on('message', () => seen.add('message'))
      .on('finalContent', () => seen.add('finalContent'))
      .on('end', () => seen.add('end'));
    const final = await stream.finalChatCompletion();
    assert.deepEqual(
      [...seen].sort(),
      ['chunk', 'connect', 'content', 'end', 'finalContent', 'message'],
    );
    assert.equal(final.choices[0].message.content, text);
    assert.equal(final.choices[0].message.role, 'assistant');
    assert.ok(final.usage.completion_tokens > 0);
    assert.equal(await stream.finalContent(), text);
  },

  async stream_helper_with_choices() {
    const final = await completions.stream({ ...hello, n: 2, temperature: 1 }).finalChatCompletion();
    assert.deepEqual(final.choices.map((choice) => choice.index), [0, 1]);
    assert.ok(final.choices.every((choice) => choice.message.role === 'assistant'));
  },

  async stream_helper_with_tools() {
    const stream = completions.stream({
      ...sure,
      messages: ASK,
      tools: [zodFunction({ name: 'get_weather', parameters: Weather })],
      tool_choice: 'required',
    });
    const done = [];
    stream.on('tool_calls.function.arguments.done', (event) => done.push(event));
    const final = await stream.finalChatCompletion();
    const calls = final.choices[0].message.tool_calls;
    assert.ok(calls.length > 0);
    assert.equal(final.choices[0].finish_reason, 'tool_calls');
    assert.equal(done.length, calls.length);
    for (const call of calls) {
      assert.equal(call.type, 'function');
      assert.equal(call.function.name, 'get_weather');
      assert.deepEqual(call.function.parsed_arguments, Weather.parse(JSON.parse(call.function.arguments)));
    }
  },

  async parse() {
    const answer = await completions.parse({ ...animal, temperature: 1 });
    assert.equal(answer.choices[0].finish_reason, 'stop');
    const { parsed, content } = answer.choices[0].message;
    assert.deepEqual(parsed, Animal.parse(JSON.parse(content)));
  },

  async parse_stream_helper() {
    const final = await completions.stream(animal).finalChatCompletion();
    assert.deepEqual(final.choices[0].message.parsed, Animal.parse(JSON.parse(final.choices[0].message.content)));
  },

  async parse_cut_short() {
    await errorOf(completions.parse({ ...animal, max_tokens: 2 }), OpenAI.LengthFinishReasonError ?? OpenAI.OpenAIError);
  },

  async run_tools() {
    const calls = [];
    const members = { ...sure, messages: ASK, tools: [weather(calls)], tool_choice: 'required' };
    const runner = completions.runTools(members, { maxChatCompletions: 2 });
    await runner.done();
    assert.equal(runner.allChatCompletions().length, 2);
    assert.ok(calls.length >= 2);
    checkExchange(runner.messages);
  },

  async run_tools_to_the_answer() {
    const calls = [];
    const tools = [weather(calls)];
    const first = completions.runTools({
      ...sure,
      messages: ASK,
      tools,
      tool_choice: { type: 'function', function: { name: 'get_weather' } },
    });
    await first.done();
    assert.equal(calls.length, 1);
    checkExchange(first.messages);
    const second = completions.runTools({ ...sure, messages: first.messages, tools, tool_choice: 'none', max_tokens: 30 });
    assert.ok(await second.finalContent());
  },

  async run_tools_streamed() {
    const calls = [];
    const runner = completions.runTools(
      { ...sure, messages: ASK, tools: [weather(calls)], tool_choice: 'required', stream: true },
      { maxChatCompletions: 2 },
    );
    await runner.done();
    assert.ok(calls.length >= 2);
    checkExchange(runner.messages);
  },

  async errors() {
    const stranger = new OpenAI({ apiKey: 'sk-wrong-key-of-nobody', maxRetries: 0 });
    const key = await errorOf(stranger.chat.completions.create(hello), OpenAI.AuthenticationError);
    assert.equal(key.code, 'invalid_api_key');
    assert.ok(key.requestID);
    const model = await errorOf(completions.create({ ...hello, model: 'acme/none' }), OpenAI.NotFoundError);
    assert.equal(model.code, 'model_not_found');
    const range = await errorOf(completions.create({ ...hello, temperature: 9 }), OpenAI.BadRequestError);
    assert.equal(range.param, 'temperature');
    assert.equal(range.type, 'invalid_request_error');
    for (const stream of [false, true]) {
      const long = { ...hello, messages: [{ role: 'user', content: TOO_LONG }], stream };
      const error = await errorOf(completions.create(long), OpenAI.BadRequestError);
      assert.equal(error.code, 'context_length_exceeded');
    }
  },

  async models() {
    const ids = [];
    for await (const model of client.models.list()) ids.push(model.id);
    assert.deepEqual(ids, [MODEL]);
    assert.equal((await client.models.retrieve(MODEL)).id, MODEL);
    await errorOf(client.models.retrieve('acme/none'), OpenAI.NotFoundError);
  },
});
