// What the admin's theme leaves out for keyboards and screen readers: its icons are words in a font of their own, and part of what it lets one
// click is no button. Whatever enters the page later (rows, menus, lists of choices) is seen to as it comes.
"use strict";

(() => {
  // What the theme's own switches are called, where neither text nor title says it.
  const NAMES = {
    sidebarDesktopOpen: "Navigation",
    sidebarMobileOpen: "Navigation",
    filterOpen: "Close the filters",
    showActions: "Actions",
    openModal: "Close",
    showPassword: "Show the password",
    openTabsDropdown: "More tabs",
    openTheme: "Theme",
  };
  const NAMED = [
    ["#searchbar-submit, #command-submit", "Search"],
    ["#nav-sidebar a.bg-primary-600, #nav-sidebar a:has(> img)", "Overview"],
    [".delete label, .delete-template", "Remove"],
    [".select2-search__field", "Search"],
  ];
  const CLICKED = "[x-on\\:click]";
  const REAL = "a[href], button, input, select, textarea, summary";
  const ICON = ".material-symbols-outlined";

  const all = (root, selector) => [...(root.matches?.(selector) ? [root] : []), ...root.querySelectorAll(selector)];
  const set = (element, name, value) => element.hasAttribute(name) || element.setAttribute(name, value);
  const said = (element) => {
    const copy = element.cloneNode(true);
    copy.querySelectorAll(ICON).forEach((icon) => icon.remove());
    return copy.matches(ICON) ? "" : copy.textContent.trim();
  };
  const state = (element) => /(\w+) = (?:!\1|true)/.exec(element.getAttribute("x-on:click"))?.[1];

  function nameIcons(root) {
    for (const icon of all(root, `${ICON}:not([aria-hidden], [role], ${CLICKED})`)) {
      const { parentElement: parent, title } = icon;
      if (title) {
        icon.setAttribute("role", "img");
        icon.setAttribute("aria-label", title);
        continue;
      }
      icon.setAttribute("aria-hidden", "true");
      if (parent?.title && !parent.matches(REAL) && !said(parent)) {
        set(parent, "role", "img");
        set(parent, "aria-label", parent.title);
      }
    }
    all(root, ".help-tooltip[aria-label]").forEach((tip) => set(tip, "role", "img"));
  }

  function makeButtons(root) {
    for (const element of all(root, CLICKED)) {
      const variable = /\w+/.exec(element.getAttribute("x-on:click"))[0];
      if (!element.matches(REAL)) {
        set(element, "role", "button");
        set(element, "tabindex", "0");
      } else if (element.getAttribute("href") === "#") {
        set(element, "role", "button");
      }
      if (!said(element) && !element.title) set(element, "aria-label", named(element, variable));
    }
    for (const [selector, name] of NAMED) {
      for (const element of all(root, selector)) {
        set(element, "aria-label", name);
        if (!element.matches(REAL)) {
          set(element, "role", "button");
          set(element, "tabindex", "0");
        }
      }
    }
  }

  function named(element, variable) {
    if (variable !== "openRelatedWidgetWrapper") {
      return element.closest("#nav-sidebar") && variable === "sidebarMobileOpen" ? "Close the navigation" : (NAMES[variable] ?? variable);
    }
    const select = element.closest(".related-widget-wrapper")?.querySelector("select, input");
    return `${select ? labelOf(select) : ""}: add or change`.replace(/^: a/, "A");
  }

  function labelOf(control) {
    const label = control.labels?.[0] ?? document.querySelector(`label[for="${CSS.escape(control.id)}"]`);
    return control.getAttribute("aria-label") ?? label?.textContent.replace("*", "").trim() ?? "";
  }

  // The box that stands for a long select: called what the select's label says, then what is chosen.
  function nameChoices(root) {
    for (const box of all(root, ".select2-selection[role='combobox']:not([aria-label])")) {
      const select = box.closest(".select2")?.previousElementSibling;
      const chosen = box.querySelector(".select2-selection__rendered");
      if (!select?.matches("select") || !chosen) continue;
      chosen.removeAttribute("role");
      chosen.removeAttribute("aria-readonly");
      set(box, "id", `${select.id}-box`);
      box.setAttribute("aria-label", labelOf(select));
      box.setAttribute("aria-labelledby", `${box.id} ${chosen.id}`);
    }
  }

  function mend(root) {
    nameIcons(root);
    makeButtons(root);
    nameChoices(root);
  }

  // Says of each switch whether what it opens is open; what covers the page takes the focus and gives it back.
  function follow(element) {
    const variable = state(element);
    const data = variable && window.Alpine.$data(element);
    if (!data || !(variable in data)) return;
    let before = data[variable];
    window.Alpine.effect(() => {
      const open = Boolean(data[variable]);
      element.setAttribute("aria-expanded", String(open));
      if (open === before) return;
      before = open;
      if (variable === "filterOpen") move(open, element, "#changelist-filter-close");
      if (variable === "sidebarMobileOpen" && !element.closest("#nav-sidebar")) move(open, element, "#nav-sidebar [x-on\\:click^='sidebarMobileOpen']");
    });
  }

  const move = (open, opener, closer) =>
    requestAnimationFrame(() => requestAnimationFrame(() => (open ? document.querySelector(closer) : opener)?.focus()));

  document.addEventListener("DOMContentLoaded", () => {
    document.getElementById("main")?.setAttribute("role", "main");
    mend(document.body);
    new MutationObserver((changes) => {
      for (const node of changes.flatMap((change) => [...change.addedNodes])) {
        if (node.nodeType === Node.ELEMENT_NODE && node.isConnected) mend(node);
      }
    }).observe(document.body, { childList: true, subtree: true });
  });

  document.addEventListener("alpine:initialized", () => document.querySelectorAll(CLICKED).forEach(follow));

  document.addEventListener("keydown", (event) => {
    const { target, key } = event;
    if (key === "Escape" && window.Alpine.$data(document.body).sidebarMobileOpen) window.Alpine.$data(document.body).sidebarMobileOpen = false;
    if ((key !== "Enter" && key !== " ") || !target.matches?.("[role='button']") || (target.matches(REAL) && key === "Enter")) return;
    event.preventDefault();
    target.click();
  });
})();
