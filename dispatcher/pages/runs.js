// The page of all runs.

import { address, call, get } from "./api.js";
import { byId, element, say } from "./dom.js";
import { counted } from "./words.js";
import "./run-card.js";

const PAGE = 10;
/** Which frames of films are looked at, by the form's choice; without one the service chooses. */
const SAMPLINGS = {
  scenes: { by: "scenes", cut: 0.3, min_change: 0.04 },
  keyframes: { by: "keyframes", min_change: 0.04 },
};
const only = new URLSearchParams(location.search).get("run");
const cards = byId("runs");
let shown = 0;

/** Shows the newest runs that are not shown yet, and older ones when `older` is wanted. */
async function load(older) {
  const asked = performance.now();
  try {
    if (only) {
      const run = await get(`/runs/${encodeURIComponent(only)}`);
      add([run], true, asked);
      return say("");
    }
    const { runs, total } = await get("/runs", older ? { offset: shown, limit: PAGE } : { limit: PAGE });
    add(runs, older, asked);
    shown = cards.childElementCount;
    byId("pages").hidden = shown >= total;
    say(total === 0 ? "There is no run yet." : counted(total, "run"));
  } catch (error) {
    say(error.message, true);
  }
}

function add(runs, atEnd, asked) {
  const known = new Map([...cards.children].map((card) => [card.dataset.run, card]));
  for (const run of runs) known.get(run.run)?.update(run, asked);
  const fresh = runs.filter((run) => !known.has(run.run)).map((run) => {
    const card = element("cf-run", { "data-run": run.run });
    card.begin(run);
    return card;
  });
  if (atEnd) cards.append(...fresh);
  else cards.prepend(...fresh);
}

byId("submit").addEventListener("submit", async (event) => {
  event.preventDefault();
  const form = event.target;
  const button = form.querySelector("button");
  const text = (name) => form.elements.namedItem(name).value.trim();
  const sources = text("sources").split("\n").map((line) => line.trim()).filter(Boolean);
  button.disabled = true;
  say("Planning…");
  try {
    const json = {
      sources,
      question: text("question") || undefined,
      sampling: SAMPLINGS[text("frames")],
      job_size: Number(text("job_size")) || undefined,
      pictures_only: form.elements.namedItem("pictures_only").checked,
      retry_failed: form.elements.namedItem("retry_failed").checked,
    };
    const submitted = await call("POST", address("/submissions"), { json });
    await load(false);
    say(told(submitted));
  } catch (error) {
    say(error.message, true);
  }
  button.disabled = false;
});

function told(submitted) {
  if (submitted.phase === "planning" || submitted.phase === "beginning") return "Planning goes on; the run appears here when it is known.";
  if (submitted.jobs === 0) return `Nothing to do: ${counted(submitted.already_done, "item")} done before, ${submitted.already_failed} failed before.`;
  return `Submitted: ${counted(submitted.jobs, "job")}.`;
}

byId("more").addEventListener("click", () => load(true));
cards.addEventListener("acted", (event) => { if (event.detail === "retry") load(false); });
document.addEventListener("visibilitychange", () => {
  // A page in the background gives its connections back: tabs of one browser share them.
  if (document.hidden) for (const card of cards.children) card.rest();
  else load(false);
});
setInterval(() => { if (!document.hidden) load(false); }, 5000);
load(false);
