// What every page can do: the theme's button, copying, closing toasts and menus, opening dialogs, and one submission for each click.

const root = document.documentElement;

function setTheme() {
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  try { localStorage.setItem("theme", root.dataset.theme); } catch { /* a browser that keeps nothing */ }
}

async function copy(button) {
  const source = button.dataset.copy ? document.getElementById(button.dataset.copy) : button.previousElementSibling;
  const text = (source.value ?? source.textContent).trim();
  let done = true;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const range = document.createRange();
    range.selectNodeContents(source);
    getSelection().removeAllRanges();
    getSelection().addRange(range);
    done = document.execCommand("copy");
  }
  const label = button.querySelector("[data-label]") ?? button;
  label.dataset.before ??= label.textContent;
  label.textContent = done ? "Copied" : "Press Ctrl+C";
  setTimeout(() => { label.textContent = label.dataset.before; }, 2000);
}

document.addEventListener("click", (event) => {
  const target = event.target instanceof Element ? event.target : null;
  if (!target) return;
  for (const menu of document.querySelectorAll("details.menu[open]")) if (!menu.contains(target)) menu.open = false;
  const button = target.closest("button, a");
  if (!button) return;
  if (button.matches("[data-theme-toggle]")) setTheme();
  if (button.matches("[data-copy]")) copy(button);
  if (button.matches("[data-dismiss]")) button.closest(".toast, .notice")?.remove();
  if (button.matches("[data-print]")) print();
  if (button.dataset.opens) {
    const dialog = document.getElementById(button.dataset.opens);
    if (dialog) { event.preventDefault(); dialog.showModal(); }
  }
  if (button.matches("[data-closes]")) { event.preventDefault(); button.closest("dialog")?.close(); }
});

// What is wider than its frame can be moved with the keys as well: a table with no link in it could not be reached otherwise.
function reachable() {
  for (const frame of document.querySelectorAll(".table-wrap, .statement, pre")) {
    if (frame.scrollWidth > frame.clientWidth) frame.tabIndex = 0; else frame.removeAttribute("tabindex");
  }
}
reachable();
addEventListener("resize", reachable);
document.addEventListener("htmx:afterSettle", reachable);

document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  for (const menu of document.querySelectorAll("details.menu[open]")) { menu.open = false; menu.querySelector("summary").focus(); }
});

// A second click while the first is under way does nothing; the server makes sure of it as well.
document.addEventListener("submit", (event) => {
  const form = event.target;
  if (event.defaultPrevented || form.method !== "post") return;
  if (form.dataset.sent) { event.preventDefault(); return; }
  form.dataset.sent = "yes";
});
addEventListener("pageshow", () => {
  for (const form of document.querySelectorAll("form[data-sent]")) delete form.dataset.sent;
});
document.addEventListener("htmx:afterRequest", (event) => { delete event.target.dataset?.sent; });

// A moment on a page of no account stands in UTC; here it becomes the reader's own.
for (const time of document.querySelectorAll("time[data-zoned]")) {
  time.title = time.textContent;
  time.textContent = new Intl.DateTimeFormat("sv-SE", { dateStyle: "short", timeStyle: "short" }).format(new Date(time.dateTime))
    + " " + new Intl.DateTimeFormat("en", { timeZoneName: "short" }).formatToParts(new Date(time.dateTime)).find((part) => part.type === "timeZoneName").value;
}

// A part that comes after its page and could not be had: what stands in its place says so.
function missing(event) {
  const place = event.target.closest?.("[data-awaited]");
  if (!place) return;
  place.setAttribute("aria-busy", "false");
  place.querySelector("[data-waiting]").hidden = true;
  place.querySelector("[data-failed]").hidden = false;
}
for (const problem of ["htmx:responseError", "htmx:sendError", "htmx:timeout"]) document.addEventListener(problem, missing);

// A choice that stands for the whole form: filters, the time zone. It may clear fields that say the same in another way.
document.addEventListener("change", (event) => {
  if (!event.target.matches?.("[data-submits]")) return;
  const form = event.target.form;
  for (const name of (event.target.dataset.clears ?? "").split(" ")) if (name) form.elements[name].value = "";
  form.requestSubmit();
});
