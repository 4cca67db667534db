/** Keccak-256 as Ethereum and dstack use it (the padding before FIPS 202), which Web Crypto doesn't have. */

const RATE = 136;
const LANE = (1n << 64n) - 1n;

/** The rotations and the order of lanes that the rounds' "rho" and "pi" steps follow. */
const TURNS = turns();
/** The constants of "iota", from its linear feedback register. */
const ROUNDS = constants();

function turns() {
  const found = [];
  for (let count = 0, x = 1, y = 0; count < 24; count += 1) {
    found.push({ from: x + 5 * y, by: BigInt((((count + 1) * (count + 2)) / 2) % 64) });
    [x, y] = [y, (2 * x + 3 * y) % 5];
  }
  return found;
}

function constants() {
  const found = [];
  let register = 1;
  for (let round = 0; round < 24; round += 1) {
    let constant = 0n;
    for (let bit = 0; bit < 7; bit += 1) {
      if (register & 1) constant |= 1n << BigInt(2 ** bit - 1);
      register = register & 0x80 ? (register << 1) ^ 0x171 : register << 1;
    }
    found.push(constant);
  }
  return found;
}

/** @param {Uint8Array} data @returns {Uint8Array} */
export function keccak256(data) {
  const size = RATE * (Math.floor(data.length / RATE) + 1);
  const padded = new Uint8Array(size);
  padded.set(data);
  padded[data.length] = 1;
  padded[size - 1] |= 0x80;
  const view = new DataView(padded.buffer);
  let state = new Array(25).fill(0n);
  for (let block = 0; block < size; block += RATE) {
    for (let lane = 0; lane < RATE / 8; lane += 1) state[lane] ^= view.getBigUint64(block + 8 * lane, true);
    state = ROUNDS.reduce(permuted, state);
  }
  const out = new DataView(new ArrayBuffer(32));
  for (let lane = 0; lane < 4; lane += 1) out.setBigUint64(8 * lane, state[lane], true);
  return new Uint8Array(out.buffer);
}

/** @param {bigint[]} state @param {bigint} constant @returns {bigint[]} */
function permuted(state, constant) {
  const columns = [0, 1, 2, 3, 4].map((x) => state[x] ^ state[x + 5] ^ state[x + 10] ^ state[x + 15] ^ state[x + 20]);
  const mixed = state.map((lane, at) => lane ^ columns[(at + 4) % 5] ^ turned(columns[(at + 1) % 5], 1n));
  const moved = mixed.slice();
  for (const { from, by } of TURNS) {
    const [x, y] = [from % 5, Math.floor(from / 5)];
    moved[y + 5 * ((2 * x + 3 * y) % 5)] = turned(mixed[from], by);
  }
  const next = moved.map((lane, at) => {
    const row = at - (at % 5);
    return lane ^ (~moved[row + ((at + 1) % 5)] & LANE & moved[row + ((at + 2) % 5)]);
  });
  next[0] ^= constant;
  return next;
}

/** @param {bigint} lane @param {bigint} by */
function turned(lane, by) {
  return ((lane << by) | (lane >> (64n - by))) & LANE;
}
