/** How long a run takes: batches of runs that the browser's coarse clock can tell apart, each divided by its runs. */

const BATCHES = 15;
const BATCH_MS = 10;
const WARM_UP = 3;
const MAX_MS = 2000;

/**
 * @param {() => Promise<unknown>} run
 * @param {() => boolean} wanted asked before each batch; false ends the measurement
 * @return {Promise<{median: number, low: number, high: number, batches: number, runs: number} | null>} milliseconds of
 *     a run, with quartiles; null where it was ended
 */
export async function measure(run, wanted) {
  let first = Infinity;
  for (let k = 0; k < WARM_UP; k++) first = Math.min(first, await timed(run, 1));
  const runs = Math.max(1, Math.ceil(BATCH_MS / Math.max(first, 0.01)));
  const times = [];
  for (const start = performance.now(); times.length < BATCHES && (times.length < 5 || performance.now() - start < MAX_MS); ) {
    if (!wanted()) return null;
    times.push((await timed(run, runs)) / runs);
    await new Promise((resolve) => setTimeout(resolve)); // the page stays alive
  }
  times.sort((a, b) => a - b);
  const at = (share) => times[Math.round(share * (times.length - 1))];
  return { median: at(0.5), low: at(0.25), high: at(0.75), batches: times.length, runs };
}

async function timed(run, count) {
  const start = performance.now();
  for (let k = 0; k < count; k++) await run();
  return performance.now() - start;
}
