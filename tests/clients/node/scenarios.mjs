// What the client scripts share: running scenarios, each reported as one JSON line, and what they ask.

import assert from 'node:assert/strict';
import { z } from 'zod';

export const BASE_URL = process.env.OPENAI_BASE_URL;
export const API_KEY = process.env.OPENAI_API_KEY;
export const MODEL = process.env.MODEL;

export const HELLO = [{ role: 'user', content: 'Say hello.' }];
export const ASK = [{ role: 'user', content: 'What is the weather in Paris?' }];
export const TOO_LONG = 'word '.repeat(9000);

// Schemas with an end: every complete answer under them is short.
export const Weather = z.object({
  city: z.string().max(20),
  unit: z.enum(['celsius', 'fahrenheit']),
});
export const Animal = z.object({
  name: z.string().max(12),
  legs: z.number().int().min(0).max(8),
  diet: z.enum(['meat', 'plants']),
  tame: z.boolean(),
});

/** Run every scenario, in order, and print what became of it. */
export async function run(scenarios) {
  for (const [scenario, check] of Object.entries(scenarios)) {
    let error = null;
    try {
      await check();
    } catch (problem) {
      error = String(problem?.stack ?? problem);
    }
    process.stdout.write(`${JSON.stringify({ scenario, error })}\n`);
  }
}

/** The error that a promise must end with. */
export async function errorOf(promise, kind) {
  try {
    await promise;
  } catch (error) {
    assert.ok(error instanceof kind, `${error?.name} in place of ${kind.name}: ${error?.message}`);
    return error;
  }
  throw new assert.AssertionError({ message: `no ${kind.name} was thrown` });
}
