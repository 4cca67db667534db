// Drawing once a frame at most, and more seldom where drawing takes long, so that a page never lags behind its stream.

const waiting = new Set();
const SHARE = 3; // drawing takes at most one part in four of the time

let asked = false;
let notBefore = 0;

/** Call `draw` with the next frame, once, however often it was asked for. */
export function nextFrame(draw) {
  waiting.add(draw);
  if (asked) return;
  asked = true;
  const wait = notBefore - performance.now();
  if (wait > 8) setTimeout(() => requestAnimationFrame(run), wait);
  else requestAnimationFrame(run);
}

/** It was drawn otherwise. */
export function noFrame(draw) {
  waiting.delete(draw);
}

function run() {
  const begun = performance.now();
  const drawn = [...waiting];
  waiting.clear();
  asked = false;
  for (const draw of drawn) draw();
  const spent = performance.now() - begun;
  notBefore = spent > 4 ? performance.now() + SHARE * spent : 0;
}

/** A pause for everything else that the page has to do: input, frames. Without it, a stream that is always ready for more
 * would be one long task. */
export function breath() {
  return globalThis.scheduler?.yield ? scheduler.yield() : new Promise((resolve) => setTimeout(resolve));
}

/** Says whether it is time for a {@link breath}. */
export class Stint {
  #begun = performance.now();

  get isLong() {
    return performance.now() - this.#begun > 6;
  }

  /** Breathe, and begin anew. */
  async rest() {
    await breath();
    this.#begun = performance.now();
  }
}

/** Keeps a scrolled element at its end while it grows, until somebody scrolls up. */
export class Follower {
  #element;
  #last = 0;
  #follows = true;
  #go = () => this.follow();

  constructor(element) {
    this.#element = element;
    element.addEventListener("scroll", () => this.#scrolled(), { passive: true });
  }

  /** Go to the end with the next frame, wherever the reader was. What was just added is laid out then, not before the
   * click that added it is over. */
  lead() {
    this.#follows = true;
    nextFrame(this.#go);
  }

  /** Go to the end, if that is where the reader was. */
  follow() {
    if (!this.#follows) return;
    this.#element.scrollTop = this.#element.scrollHeight;
    this.#last = this.#element.scrollTop;
  }

  #scrolled() {
    const { scrollTop, scrollHeight, clientHeight } = this.#element;
    if (scrollTop < this.#last - 2) this.#follows = false;
    if (scrollHeight - scrollTop - clientHeight < 24) this.#follows = true;
    this.#last = scrollTop;
  }
}
