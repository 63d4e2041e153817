// <cf-run>: one run, followed while it goes on.

import { address, call, get, itemPage, pictureAddress } from "./api.js";
import { element } from "./dom.js";
import { clock, count, counted, duration, energy, moment } from "./words.js";

const ACTS = {
  pause: { text: "Pause", when: ["running"] },
  resume: { text: "Resume", when: ["paused", "cancelled", "unfinished"] },
  cancel: { text: "Cancel", when: ["running", "paused", "unfinished"] },
};
const MOVING = ["running", "paused", "unfinished"];
/** A browser has six connections to a host: runs beyond these are looked at now and then. */
const FOLLOWED = 3;
/** Milliseconds until a run is followed again that the service could not let follow. */
const AGAIN = 5000;
let followed = 0;

class Run extends HTMLElement {
  #run;
  #events = null;
  #parts = {};
  #state = "";
  #seen = "";
  /** When the last act was answered: what was asked before that may be out of date. */
  #acted = 0;

  /** Shows a run's summary, then what became of its rows. */
  begin(summary) {
    this.#run = summary.run;
    this.#build();
    this.update(summary, performance.now());
  }

  /** Takes a later summary, `asked` for at that time: follows the run while it goes on, looks at it again when something changed. */
  update(summary, asked) {
    if (asked < this.#acted) return;
    const changed = this.#seen !== `${summary.state} ${summary.jobs_done}`;
    if (changed) this.#tell(summary);
    if (MOVING.includes(summary.state)) this.#follow();
    if (changed && !this.#events) this.#look();
  }

  disconnectedCallback() {
    this.#leave();
  }

  /** Follows no more until the next summary. */
  rest() {
    this.#leave();
  }

  async #look() {
    const asked = performance.now();
    try {
      const run = await get(`/runs/${encodeURIComponent(this.#run)}`);
      if (asked >= this.#acted) this.#tell(run);
    } catch (error) {
      this.#parts.notes.replaceChildren(element("p", { class: "bad", text: error.message }));
    }
  }

  #follow() {
    if (this.#events || followed >= FOLLOWED) return;
    const events = new EventSource(address(`/runs/${encodeURIComponent(this.#run)}/events`));
    events.addEventListener("progress", (event) => this.#tell(JSON.parse(event.data)));
    events.addEventListener("end", () => this.#leave());
    // A browser tries again by itself after a lost connection, not after an answer such as 503 or 401.
    events.addEventListener("error", () => {
      if (events.readyState !== EventSource.CLOSED) return;
      this.#leave();
      setTimeout(() => this.#again(), AGAIN);
    });
    this.#events = events;
    followed += 1;
  }

  async #again() {
    if (!this.isConnected || document.hidden || this.#events) return;
    await this.#look();
    if (MOVING.includes(this.#state)) this.#follow();
  }

  #leave() {
    if (!this.#events) return;
    this.#events.close();
    this.#events = null;
    followed -= 1;
  }

  #build() {
    const parts = this.#parts;
    parts.state = element("span", { class: "state", role: "status" });
    parts.about = element("p", { class: "soft" });
    parts.bar = element("progress", { "aria-label": `Progress of run ${this.#run}` });
    parts.counts = element("p", { "aria-live": "off" });
    parts.bill = element("p", { class: "soft" });
    parts.codes = element("p", { class: "soft" });
    parts.notes = element("div", {});
    parts.acts = element("div", { class: "acts" });
    parts.failures = element("ul", { class: "failures" });
    parts.failed = element("details", { hidden: true }, element("summary", { text: "Failed items" }), parts.failures);
    parts.failed.addEventListener("toggle", () => { if (parts.failed.open) this.#listFailures(); });
    const title = element("h2", { text: this.#run, id: `run-${this.#run}` });
    this.replaceChildren(element("article", { class: "run", "aria-labelledby": title.id },
      element("div", { class: "head" }, title, parts.state),
      parts.about, parts.bar, parts.counts, parts.bill, parts.codes, parts.notes, parts.acts, parts.failed));
  }

  #tell(run) {
    const parts = this.#parts;
    this.#state = run.state;
    this.#seen = `${run.state} ${run.jobs_done}`;
    if (parts.state.textContent !== run.state) {
      parts.state.textContent = run.state;
      parts.state.className = `state ${run.state}`;
    }
    const asks = run.question ? `asks “${run.question}”` : "captions";
    parts.about.textContent = `${asks} · ${run.source.join(", ")} · ${moment(run.created_at)}`;
    parts.bar.max = Math.max(run.jobs, 1);
    parts.bar.value = run.jobs_done;
    // A summary knows nothing of rows: what was seen of them stays.
    if (run.ok === undefined && parts.counts.textContent) return this.#offer(run, !parts.failed.hidden);
    parts.counts.textContent = this.#counts(run);
    parts.bill.textContent = run.bill ? this.#bill(run.bill) : "";
    const failed = Object.entries(run.failed ?? {});
    parts.codes.textContent = failed.map(([code, number]) => `${code} ${count(number)}`).join(", ");
    parts.failed.hidden = failed.length === 0;
    this.#note(run);
    this.#offer(run, failed.length > 0);
  }

  #counts(run) {
    const words = [`${count(run.jobs_done)} of ${counted(run.jobs, "job")}`, counted(run.items, "item")];
    if (run.ok !== undefined) {
      const failed = Object.values(run.failed).reduce((sum, number) => sum + number, 0);
      words.push(`${count(run.ok)} ok`, `${count(failed)} failed`);
      if (run.skipped) words.push(`${count(run.skipped)} skipped`);
      if (run.frames_seen) words.push(`${count(run.frames_kept)} of ${counted(run.frames_seen, "frame")} kept`);
      if (run.items_per_second) words.push(`${run.items_per_second.toFixed(1)} items/s`);
      if (run.eta_seconds) words.push(`about ${duration(run.eta_seconds)} to go`);
    }
    return words.join(" · ");
  }

  #bill(bill) {
    const words = [`${bill.device_seconds.toFixed(1)} device seconds`, `${bill.worker_hours.toFixed(3)} hours of ${counted(bill.workers, "worker")}`];
    if (bill.cost !== undefined) words.push(`cost ${bill.cost.toFixed(4)}`);
    if (bill.cost_per_1000_captions !== undefined) words.push(`${bill.cost_per_1000_captions.toFixed(4)} per 1,000 captions`);
    if (bill.energy !== undefined) {
      const { joules, joules_per_1000_captions: each, captions } = bill.energy;
      const of = captions === bill.captions ? "" : ` (of ${count(captions)})`;
      words.push(`${energy(joules)} of energy, ${energy(each)} per 1,000 captions${of}`);
    }
    return words.join(" · ");
  }

  #note(run) {
    const given = (run.given_up ?? []).map((job) => `job ${job.job} was given up: ${job.reason}`);
    const notes = [...(run.remarks ?? []), ...given.slice(0, 5)];
    this.#parts.notes.replaceChildren(...notes.map((text) => element("p", { class: "bad", text })));
  }

  /** Buttons for what can be done now; one that stays keeps the focus. */
  #offer(run, failed) {
    const wanted = Object.entries(ACTS).filter(([, act]) => act.when.includes(run.state)).map(([name, act]) => [name, act.text]);
    if (failed && !MOVING.includes(run.state)) wanted.push(["retry", "Retry failed"]);
    const names = wanted.map(([name]) => name).join();
    if (this.#parts.acts.dataset.offered === names) return;
    const acts = this.#parts.acts;
    const focused = acts.contains(document.activeElement);
    acts.dataset.offered = names;
    acts.replaceChildren(...wanted.map(([name, text]) => element("button", {
      type: "button", text, "aria-label": `${text} run ${this.#run}`, "data-act": name, on: { click: () => this.#act(name) },
    })));
    // Whoever pressed a button by the keyboard goes on from there.
    if (focused) (acts.querySelector("button") ?? this.#parts.failed.querySelector("summary")).focus();
  }

  async #act(name) {
    const buttons = [...this.#parts.acts.querySelectorAll("button")];
    for (const button of buttons) button.disabled = true;
    try {
      await call("POST", address(`/runs/${encodeURIComponent(this.#run)}/${name}`));
      this.#acted = performance.now();
      await this.#look();
      this.#follow();
      this.dispatchEvent(new CustomEvent("acted", { bubbles: true, detail: name }));
    } catch (error) {
      this.#parts.notes.replaceChildren(element("p", { class: "bad", role: "alert", text: error.message }));
    }
    for (const button of buttons) button.disabled = false;
  }

  async #listFailures() {
    try {
      const failures = await get(`/runs/${encodeURIComponent(this.#run)}/failures`, { limit: 100 });
      this.#parts.failures.replaceChildren(...failures.map(failure));
    } catch (error) {
      this.#parts.failures.replaceChildren(element("li", { class: "bad", text: error.message }));
    }
  }
}

function failure(failed) {
  const none = () => element("div", { class: "none", text: "no picture" });
  let picture = none();
  if (failed.has_bytes) {
    picture = element("img", { loading: "lazy", alt: "", src: pictureAddress(failed, "small") });
    picture.addEventListener("error", () => picture.replaceWith(none()), { once: true });
  }
  const at = failed.frame_ms === null ? "" : ` at ${clock(failed.frame_ms)}`;
  return element("li", {}, picture, element("div", {},
    element("p", {}, element("a", { href: itemPage(failed), text: failed.name + at })),
    element("p", { class: "bad", text: failed.code }),
    element("p", { class: "soft", text: failed.message })));
}

customElements.define("cf-run", Run);
