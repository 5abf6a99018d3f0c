// Keys, and the little else that needs a script. Without it, every page works by its forms and links.
"use strict";
(() => {
  const root = document.documentElement;
  root.classList.add("script");

  const stored = (name) => { try { return localStorage.getItem(name); } catch { return null; } };
  const store = (name, value) => { try { localStorage.setItem(name, value); } catch { /* private mode */ } };

  // Keys may be turned off: who dictates to the computer would set them off by talking.
  const keys = document.getElementById("keys");
  const keysOn = () => stored("review-keys") !== "off";
  const showKeys = () => root.classList.toggle("with-keys", keysOn());
  showKeys();
  if (keys) {
    keys.checked = keysOn();
    keys.addEventListener("change", () => { store("review-keys", keys.checked ? "on" : "off"); showKeys(); });
  }

  const isText = (element) => element.matches("textarea, input[type=text]");
  const act = (elements) => {
    const first = elements[0];
    if (first.matches("details")) {
      const open = elements.some((element) => !element.open);
      elements.forEach((element) => { element.open = open; });
    } else if (isText(first)) {
      first.focus();
    } else if (first.matches("input")) {
      first.focus();
      first.click();
    } else {
      first.click();
    }
  };

  document.addEventListener("keydown", (event) => {
    if (event.isComposing || event.altKey || event.metaKey) return;
    const at = document.activeElement || document.body;
    if (event.key === "Escape" && isText(at)) { at.blur(); return; }
    if (event.ctrlKey) {
      if (event.key !== "Enter") return;
    } else if (!keysOn() || isText(at)) {
      return;
    }
    if (event.repeat) return;
    // On a button, a link or a fold, Enter does what it does there.
    if (event.key === "Enter" && !event.ctrlKey && at.matches("a, button, summary")) return;
    const wanted = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const found = [...document.querySelectorAll("[data-key]")].filter((element) => element.dataset.key === wanted);
    if (!found.length) return;
    event.preventDefault();
    act(found);
  });

  // A second click sends nothing; the server would take it for the same act anyway.
  document.addEventListener("submit", (event) => {
    if (event.target.dataset.sent) event.preventDefault();
    event.target.dataset.sent = "yes";
    sending = true;
  });
  window.addEventListener("pageshow", (event) => {
    sending = false;
    if (event.persisted) document.querySelectorAll("form").forEach((form) => { delete form.dataset.sent; });
  });

  // What was written and not saved is not lost by a slip.
  let sending = false;
  const guarded = document.querySelector("[data-guard]");
  if (guarded) {
    const before = guarded.value;
    window.addEventListener("beforeunload", (event) => {
      if (!sending && guarded.value !== before) event.preventDefault();
    });
  }

  const live = document.getElementById("live");
  if (live) {
    live.checked = stored("review-live") !== "off";
    live.addEventListener("change", () => store("review-live", live.checked ? "on" : "off"));
    setInterval(() => { if (live.checked && document.visibilityState === "visible") location.reload(); }, 15000);
  }
})();
