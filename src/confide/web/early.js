// Before the first paint: the colours that a person chose here before. Without a choice, the system's hold.
{
  let chosen = null;
  try {
    chosen = localStorage.getItem("confide.theme");
  } catch {
    // Storage is off: the system's colours then.
  }
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
}
