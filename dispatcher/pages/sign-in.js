// Asks for the token when the service wants one, and exchanges it for a session.

import { element } from "./dom.js";

let asking = null;

/** Resolves once one is signed in; everyone who waits shares one dialog. */
export function signIn() {
  asking ??= ask().finally(() => { asking = null; });
  return asking;
}

function ask() {
  return new Promise((done) => {
    const token = element("input", { type: "password", id: "token", required: true, autocomplete: "current-password" });
    const wrong = element("p", { class: "bad", role: "alert" });
    const form = element("form", { method: "dialog" },
      element("h2", { text: "Sign in", id: "sign-in-title" }),
      element("label", { htmlFor: "token", text: "The token of this service" }), token, wrong,
      element("button", { type: "submit", class: "primary", text: "Sign in" }));
    const dialog = element("dialog", { "aria-labelledby": "sign-in-title" }, form);
    let signedIn = false;
    dialog.addEventListener("cancel", (event) => event.preventDefault());
    // A browser closes a dialog at the second Escape whatever the page says: everything waits for it.
    dialog.addEventListener("close", () => { if (!signedIn) dialog.showModal(); });
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      const headers = { "content-type": "application/json" };
      const body = JSON.stringify({ token: token.value });
      const answer = await fetch("/api/v1/session", { method: "POST", headers, body }).catch(() => null);
      if (answer?.ok) {
        signedIn = true;
        dialog.close();
        dialog.remove();
        done();
        return;
      }
      const problem = await answer?.json().catch(() => null);
      wrong.textContent = problem?.detail ?? "The service cannot be reached.";
      token.select();
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}
