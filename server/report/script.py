"""The page's script: what a reader can move. Everything can be read without it."""

SCRIPT = r"""
"use strict";
(() => {
  const root = document.documentElement;
  root.classList.add("script");
  const at = (id) => document.getElementById(id);

  // Light, dark, or what the system says. From a file there may be no storage to remember it in.
  const themes = ["system", "light", "dark"];
  const theme = at("theme");
  const keep = (name) => { try { localStorage.setItem("dermafed-theme", name); } catch (error) { /* not kept */ } };
  const kept = () => { try { return localStorage.getItem("dermafed-theme"); } catch (error) { return null; } };
  const setTheme = (name) => {
    if (name === "system") { delete root.dataset.theme; } else { root.dataset.theme = name; }
    theme.textContent = `Theme: ${name}`;
    theme.dataset.name = name;
  };
  setTheme(themes.includes(kept()) ? kept() : "system");
  theme.addEventListener("click", () => {
    const name = themes[(themes.indexOf(theme.dataset.name) + 1) % themes.length];
    setTheme(name);
    keep(name);
  });

  // Sortable tables. What is missing stays last in both directions.
  const compare = (one, other) => {
    const [a, b] = [Number(one), Number(other)];
    return Number.isNaN(a) || Number.isNaN(b) ? one.localeCompare(other) : a - b;
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    for (const button of table.querySelectorAll("button.sort")) {
      button.addEventListener("click", () => {
        const head = button.closest("th");
        const place = head.cellIndex;
        const down = head.getAttribute("aria-sort") === "ascending";
        for (const each of table.querySelectorAll("th[aria-sort]")) { each.removeAttribute("aria-sort"); }
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        for (const body of table.tBodies) {
          const key = (row) => row.cells[place] && row.cells[place].dataset.sort;
          const rows = [...body.rows].sort((one, other) => {
            const [a, b] = [key(one), key(other)];
            if (a === undefined || b === undefined) { return (a === undefined) - (b === undefined); }
            return down ? compare(b, a) : compare(a, b);
          });
          body.append(...rows);
        }
      });
    }
  }

  // Samples.
  const sheets = JSON.parse(at("sheets").textContent);
  const slider = at("round");
  if (slider) {
    const picture = at("sheet"), image = at("sheet-image"), chooser = at("class");
    const numRows = Number(picture.dataset.rows), shareOfLabels = 0.11;
    const show = () => {
      const sheet = sheets[slider.value];
      const labels = numRows ? shareOfLabels * sheet.width : 0;
      const row = chooser && chooser.value !== "" ? Number(chooser.value) : null;
      const height = sheet.height / (numRows || 1);
      image.setAttribute("href", sheet.href);
      image.setAttribute("width", sheet.width);
      image.setAttribute("height", sheet.height);
      for (const [place, text] of [...picture.querySelectorAll("text")].entries()) {
        text.setAttribute("x", -0.08 * labels);
        text.setAttribute("y", (place + 0.5) * height);
        text.setAttribute("font-size", 0.021 * sheet.width);
      }
      const top = row === null ? 0 : row * height;
      const shown = row === null ? sheet.height : height;
      picture.setAttribute("viewBox", [-labels, top, sheet.width + labels, shown].join(" "));
      const name = row === null ? "" : ` · ${chooser.selectedOptions[0].textContent}`;
      at("sheet-caption").textContent = sheet.caption + name;
      slider.setAttribute("aria-valuetext", `Round ${sheet.round}`);
      at("previous").disabled = Number(slider.value) === 0;
      at("next").disabled = Number(slider.value) === sheets.length - 1;
    };
    const step = (by) => { slider.value = Number(slider.value) + by; show(); };
    slider.addEventListener("input", show);
    at("previous").addEventListener("click", () => step(-1));
    at("next").addEventListener("click", () => step(1));
    if (chooser) { chooser.addEventListener("change", show); }
    // A browser may remember where the slider was.
    slider.value = sheets.length - 1;
    if (chooser) { chooser.value = ""; }
    show();
  }

  // On paper nothing can be opened.
  const closed = () => document.querySelectorAll("details:not([open])");
  let opened = [];
  window.addEventListener("beforeprint", () => {
    opened = [...closed()];
    for (const each of opened) { each.open = true; }
  });
  window.addEventListener("afterprint", () => { for (const each of opened) { each.open = false; } });
})();
"""
"""Inserted as it stands: it holds nothing from a run."""
