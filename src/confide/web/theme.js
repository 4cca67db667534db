// Dark and light: the system's, until a person chooses.

import { byId, icon } from "./dom.js";

const STORED = "confide.theme";
const system = matchMedia("(prefers-color-scheme: dark)");

/** Wire the button. `early.js` has set what was chosen before. */
export function startTheme() {
  const button = byId("theme");
  const root = document.documentElement;
  const isDark = () => (root.dataset.theme ?? (system.matches ? "dark" : "light")) === "dark";
  const show = () => {
    button.replaceChildren(icon(isDark() ? "sun" : "moon"));
    button.title = isDark() ? "Light" : "Dark";
    button.setAttribute("aria-label", isDark() ? "Switch to light" : "Switch to dark");
  };
  button.addEventListener("click", () => {
    const chosen = isDark() ? "light" : "dark";
    root.dataset.theme = chosen;
    remember(chosen === (system.matches ? "dark" : "light") ? null : chosen);
    show();
  });
  system.addEventListener("change", show);
  show();
}

function remember(chosen) {
  try {
    if (chosen) localStorage.setItem(STORED, chosen);
    else localStorage.removeItem(STORED);
  } catch {
    // Storage is off: the choice lives as long as the page.
  }
}
