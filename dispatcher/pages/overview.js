// The page that says how everything is.

import { get } from "./api.js";
import { byId, element, facts, say } from "./dom.js";
import { bytes, count, counted, moment } from "./words.js";

const PAUSE = 3000;

async function show() {
  try {
    const seen = await get("/overview");
    const { archive, index, kept, queue } = seen;
    facts(byId("archive"), [
      ["Place", archive.uri],
      ["Pictures and frames", count(archive.items)],
      ["Found by meaning", count(archive.pictures)],
      ["Size of the parts", bytes(archive.bytes)],
    ]);
    facts(byId("index"), [
      ["Fresh", index && freshness(index)],
      ["Segments", index && count(index.segments)],
      ["Last look", kept.looked_at && moment(kept.looked_at)],
      ["Damaged parts", index && index.damaged ? count(index.damaged) : null],
      ["Other models", index && Object.entries(index.foreign).map(([space, pictures]) => `${space} (${counted(pictures, "picture")})`).join(", ")],
      ["Trouble", kept.error],
    ]);
    facts(byId("queue"), [
      ["Broker", queue.broker],
      ["Connected", queue.connected ? "yes" : "no"],
      ["Jobs waiting", count(queue.waiting)],
      ["Questions waiting", count(queue.questions)],
      ["Workers connected", count(queue.consumers)],
      ["Given up", count(queue.dead)],
    ]);
    byId("workers").replaceChildren(...rows(seen.workers));
    const demo = seen.demo_model ? "The small demo model answers: it knows only coloured shapes." : "";
    // Not part of what is spoken: it changes every time.
    byId("at").textContent = `As of ${moment(seen.at)}`;
    say([...seen.remarks, demo].filter(Boolean).join(" "));
  } catch (error) {
    say(error.message, true);
  }
  setTimeout(show, PAUSE);
}

const freshness = (index) =>
  index.unindexed ? `${counted(index.unindexed, "part")} of ${count(index.parts)} to take in` : `all of ${counted(index.parts, "part")}`;

function rows(workers) {
  if (workers.length === 0) {
    return [element("tr", {}, element("td", { colSpan: 7, text: "None has settled a job since this service was started." }))];
  }
  return workers.map((worker) => {
    const cells = [worker.worker, moment(worker.last_seen), count(worker.jobs), count(worker.rows), count(worker.failed),
      `${Math.round(worker.busy * 100)} %`, worker.items_per_second.toFixed(1)];
    return element("tr", {}, ...cells.map((text) => element("td", { text })));
  });
}

show();
