"use strict";
// A page: its figures come to life in the place of their posters, which stay for print.
thalweg.page = (() => {
  const { FlatPanel, html } = thalweg.flat;
  const { SpacePanel } = thalweg.space;

  // Arrays travel as base64 of float64 numbers in the order of little-endian machines.
  function numbers(text) {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    return new Float64Array(bytes.buffer);
  }

  function revived(value) {
    if (Array.isArray(value)) return value.map(revived);
    if (value && typeof value === "object") {
      if (typeof value.$float64 === "string") return numbers(value.$float64);
      if (typeof value.$float === "string") return Number(value.$float);
      return Object.fromEntries(Object.entries(value).map(([key, each]) => [key, revived(each)]));
    }
    return value;
  }

  function panelOf(place, panel, options) {
    return panel.sheet ? new SpacePanel(place, panel) : new FlatPanel(place, panel, options);
  }

  // Draw a figure into an element; returns its panels.
  function mount(place, figure, options) {
    const panels = [];
    for (const row of figure.rows) {
      const line = html("div", { class: "row" }, place);
      for (const panel of row) panels.push(panelOf(html("div", {}, line), panel, options));
    }
    return panels;
  }

  function quoted(text) {
    // A leading = + - @ would be a formula to a spreadsheet.
    const plain = /^[=+\-@\t]/.test(text) && Number.isNaN(Number(text)) ? `'${text}` : text;
    return /[",\r\n]/.test(plain) ? `"${plain.replace(/"/g, '""')}"` : plain;
  }

  // All numbers of a figure as a table: one row for each point, with the name of what it is of.
  function table(figure) {
    const lines = ["panel,what,x,y,value"];
    const add = (...cells) => lines.push(cells.map((cell) => quoted(String(cell))).join(","));
    figure.rows.flat().forEach((panel, n) => {
      const name = panel.title || panel.y.label || String(n + 1);
      for (const curve of panel.curves) {
        for (let k = 0; k < curve.x.length; k += 1) add(name, curve.label, curve.x[k], curve.y[k], "");
      }
      for (const band of panel.bands) {
        for (let k = 0; k < band.x.length; k += 1) {
          add(name, `${band.label}, low`, band.x[k], band.low[k], "");
          add(name, `${band.label}, high`, band.x[k], band.high[k], "");
        }
      }
      for (const bar of panel.bars) add(name, bar.label, "", "", bar.length);
      if (panel.map) {
        panel.map.values.forEach((value, k) =>
          add(name, panel.map.label, panel.map.x[k], panel.map.y[k], value));
      }
      if (panel.sheet) {
        panel.sheet.z.forEach((value, k) =>
          add(name, panel.sheet.label, panel.sheet.x[k], panel.sheet.y[k], value));
        for (const path of panel.sheet.paths) {
          path.z.forEach((value, k) => add(name, path.label, path.x[k], path.y[k], value));
        }
      }
      if (panel.grid) {
        panel.grid.counts.forEach((count, k) => add(name, panel.grid.rows[
          Math.floor(k / panel.grid.columns.length)], panel.grid.columns[k % panel.grid.columns.length],
        "", count));
      }
    });
    return `${lines.join("\r\n")}\r\n`;
  }

  function save(name, kind, text) {
    const address = URL.createObjectURL(new Blob([text], { type: kind }));
    const link = html("a", { href: address, download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(address), 1000);
  }

  function enliven(figure) {
    const data = document.getElementById(figure.dataset.figure);
    if (!data || figure.classList.contains("alive")) return;
    const live = figure.querySelector(".live");
    try {
      const told = revived(JSON.parse(data.textContent));
      mount(live, told);
      figure.classList.add("alive");
      const poster = figure.querySelector(".poster");
      if (poster) html("p", { class: "unseen" }, live, poster.alt);
      if (!figure.querySelector(".save")) return;
      const button = html("button", { type: "button", class: "tool" },
        figure.querySelector("figcaption .save"), "data (CSV)");
      button.addEventListener("click", () => save(`${figure.id}.csv`, "text/csv", table(told)));
    } catch (error) {
      live.replaceChildren(); // the poster stays
      figure.dataset.error = String(error);
    }
  }

  // Figures that are on the screen come first; the others when they are about to be seen.
  function begin() {
    const figures = [...document.querySelectorAll("figure[data-figure]")];
    const seen = new IntersectionObserver((entries) => {
      for (const entry of entries) {
        if (!entry.isIntersecting) continue;
        seen.unobserve(entry.target);
        requestAnimationFrame(() => enliven(entry.target));
      }
    }, { rootMargin: "600px" });
    figures.forEach((figure) => seen.observe(figure));
    // On paper copies have no posters.
    addEventListener("beforeprint", () => document.querySelectorAll("figure.copy").forEach(enliven));
  }

  return { begin, mount, revived, table };
})();
