"use strict";
// Panels in the plane: curves with bands, maps with contours, bars, grids of counts.
thalweg.flat = (() => {
  const { apart, written, writtenMarks, colour, scale, extent, padded, refined } = thalweg.scales;
  const SVG = "http://www.w3.org/2000/svg";
  const DASHES = ["", "7 3", "2 3", "7 3 2 3", "12 4"];
  const COLOURS = 7;
  const DRAG = 6; // pixels that make a drag
  const LEVELS = 13;
  const MOST_CELLS = 12000; // of a map that are painted

  function element(name, attributes, parent, text) {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes || {})) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    if (parent) parent.append(made);
    return made;
  }

  function html(name, attributes, parent, text) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes || {})) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    if (parent) parent.append(made);
    return made;
  }

  const hue = (rank) => `var(--c${rank % COLOURS})`;

  // A label without what stands in brackets where there is no room for it.
  const fitting = (label, room) => (7 * label.length > room ? label.replace(/ \([^)]*\)$/, "") : label);

  // Where sorted values reach one, by halving; -1 where they are not sorted.
  function reached(values, value) {
    let low = 0;
    let high = values.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (values[middle] < value) low = middle + 1; else high = middle;
    }
    return low;
  }

  function ascending(values) {
    for (let k = 1; k < values.length; k += 1) if (!(values[k] >= values[k - 1])) return false;
    return true;
  }

  // The d of a path. Where far more points than pixels are, the first, least, largest and last of
  // each column of pixels are enough for the same picture.
  function drawn(x, y, xAt, yAt, from, to, columns) {
    const parts = [];
    let open = false;
    const add = (k) => {
      const px = xAt(x[k]);
      const py = yAt(y[k]);
      if (!Number.isFinite(px) || !Number.isFinite(py)) { open = false; return; }
      parts.push(`${open ? "L" : "M"}${px.toFixed(1)} ${py.toFixed(1)}`);
      open = true;
    };
    if (to - from <= 4 * columns) {
      for (let k = from; k < to; k += 1) add(k);
      return parts.join("");
    }
    const size = (to - from) / columns;
    for (let column = 0; column < columns; column += 1) {
      const first = from + Math.floor(column * size);
      const last = Math.max(first, from + Math.floor((column + 1) * size) - 1);
      let least = first;
      let most = first;
      let gap = false;
      for (let k = first; k <= last; k += 1) {
        if (!Number.isFinite(y[k])) { gap = true; continue; }
        if (!(y[least] <= y[k])) least = k;
        if (!(y[most] >= y[k])) most = k;
      }
      for (const k of [...new Set([first, Math.min(least, most), Math.max(least, most), last])]) {
        if (Number.isFinite(y[k])) add(k);
      }
      if (gap) open = false;
    }
    return parts.join("");
  }

  class FlatPanel {
    constructor(place, panel, options) {
      this.panel = panel;
      this.options = options || {};
      this.place = place;
      this.log = panel.y.log;
      this.hidden = new Set();
      this.zoom = null;
      this.cursor = null;
      this.sorted = panel.curves.every((curve) => ascending(curve.x));
      this.zooms = !panel.map && !panel.equal && !panel.bars.length && !panel.grid && this.sorted;
      place.classList.add("panel");
      if (panel.title) html("p", { class: "panel-title" }, place, panel.title);
      this.bar = html("div", { class: "bar" }, place);
      this.legend();
      this.tools();
      this.stage = html("div", { class: "stage" }, place);
      if (this.zooms || panel.map || panel.curves.length) {
        this.stage.tabIndex = 0;
        this.stage.setAttribute("role", "group");
        this.stage.setAttribute("aria-label", this.spoken());
      }
      this.canvas = panel.map ? html("canvas", { "aria-hidden": "true" }, this.stage) : null;
      this.svg = element("svg", { role: "presentation", focusable: "false" }, this.stage);
      this.tip = html("div", { class: "tip", hidden: "" }, this.stage);
      this.live = html("p", { class: "unseen", "aria-live": "polite" }, place);
      this.listen();
      this.width = 0;
      new ResizeObserver(() => this.resized()).observe(this.stage);
      this.resized();
    }

    spoken() {
      const axes = `${this.panel.y.label || "values"} against ${this.panel.x.label}`;
      if (this.panel.map) return `Map: ${this.panel.map.label}. Arrow keys read values.`;
      return `${axes}. Arrow keys read values, plus and minus zoom, 0 shows all.`;
    }

    // On the colours of a map the run is orange and the line dark, as in space.
    hueOf(rank, line) {
      return this.panel.map ? `var(${rank ? line : "--path0"})` : hue(rank);
    }

    legend() {
      const named = this.panel.curves.filter((curve) => curve.label);
      if (named.length < 1 || (named.length === 1 && !this.panel.map && !this.panel.curves[1])) {
        if (!this.panel.bands.length) return;
      }
      for (const { label, rank } of named) {
        const curveNow = () => this.panel.curves.find((curve) => curve.label === label);
        const shown = !this.hidden.has(curveNow());
        const button = html("button",
          { type: "button", class: "key", "aria-pressed": String(shown) });
        const sample = element("svg", { width: 22, height: 8, "aria-hidden": "true" }, button);
        element("line", { x1: 0, x2: 22, y1: 4, y2: 4, stroke: this.hueOf(rank, "--ink"),
          "stroke-width": 2.2, "stroke-dasharray": DASHES[rank % DASHES.length] }, sample);
        button.append(label);
        button.addEventListener("click", () => {
          const curve = curveNow();
          const off = !this.hidden.delete(curve);
          if (off) this.hidden.add(curve);
          button.setAttribute("aria-pressed", String(!off));
          this.draw();
        });
        this.bar.append(button);
      }
      for (const band of this.panel.bands) {
        if (!band.label) continue;
        const note = html("span", { class: "key" }, this.bar);
        const sample = element("svg", { width: 22, height: 10, "aria-hidden": "true" }, note);
        element("rect", { width: 22, height: 10, fill: hue(band.rank), opacity: 0.22 }, sample);
        note.append(band.label);
      }
    }

    tools() {
      const values = this.panel.curves.map((curve) => curve.y);
      const positive = extent(values, true);
      const all = extent(values, false);
      if (this.panel.curves.length && !this.panel.map && !this.panel.equal && positive
          && all[0] > 0 && !this.panel.y.linear_below) {
        const button = html("button", { type: "button", class: "tool",
          "aria-pressed": String(this.log) }, this.bar, "log scale");
        button.addEventListener("click", () => {
          this.log = !this.log;
          button.setAttribute("aria-pressed", String(this.log));
          this.draw();
        });
      }
      if (this.zooms) {
        this.all = html("button", { type: "button", class: "tool", hidden: "" }, this.bar,
          "show all");
        this.all.addEventListener("click", () => this.show(null));
      }
    }

    show(range) {
      if (range && !(range.every(Number.isFinite) && apart(...range))) return;
      this.zoom = range;
      if (this.all) this.all.hidden = range === null;
      this.draw();
      if (this.options.zoomed) this.options.zoomed(range);
    }

    resized() {
      const width = Math.round(this.stage.clientWidth);
      if (width > 0 && width !== this.width) {
        this.width = width;
        this.draw();
      }
    }

    // What is drawn may be replaced: an explorer learns more points.
    update(panel) {
      const hidden = new Set([...this.hidden].map((curve) => curve.label));
      const names = (each) => each.curves.map((curve) => curve.label).join("\n");
      const same = names(panel) === names(this.panel);
      this.panel = panel;
      this.sorted = panel.curves.every((curve) => ascending(curve.x));
      this.hidden = new Set(panel.curves.filter((curve) => hidden.has(curve.label)));
      const values = extent(panel.curves.map((curve) => curve.y), false);
      if (this.log && values && values[0] <= 0) this.log = false;
      if (!same) {
        this.bar.replaceChildren();
        this.legend();
        this.tools();
      }
      if (this.all) this.all.hidden = this.zoom === null;
      this.hush();
      this.draw();
    }

    limits() {
      const { panel } = this;
      const shown = panel.curves.filter((curve) => !this.hidden.has(curve));
      const xs = [...panel.curves.map((c) => c.x), ...panel.bands.map((b) => b.x)];
      const places = panel.markers.filter((m) => m.y !== null
        && (!this.zoom || (m.x >= this.zoom[0] && m.x <= this.zoom[1])));
      xs.push(panel.markers.map((m) => m.x));
      if (panel.map) xs.push(panel.map.x);
      let x = panel.map ? extent([panel.map.x, panel.markers.map((m) => m.x)])
        : extent(xs, panel.x.log);
      x = x || [0, 1];
      let [xLow, xHigh] = panel.x.limits || (panel.map ? x : padded(x, panel.x.log, 0.02));
      if (this.zoom) [xLow, xHigh] = this.zoom;
      const ys = [];
      const within = (xValues, values) => {
        if (!this.zoom) { ys.push(values); return; }
        const from = Math.max(0, reached(xValues, xLow) - 1);
        ys.push(values.subarray(from, reached(xValues, xHigh) + 2));
      };
      for (const curve of shown) within(curve.x, curve.y);
      for (const band of panel.bands) { within(band.x, band.low); within(band.x, band.high); }
      if (places.length) ys.push(places.map((m) => m.y));
      if (panel.map) ys.push(panel.map.y);
      const y = extent(ys, this.log) || [this.log ? 0.1 : 0, 1];
      const given = !this.zoom && panel.y.limits && !(this.log && panel.y.limits[0] <= 0)
        && this.log === panel.y.log;
      const [yLow, yHigh] = given ? panel.y.limits : panel.map ? y : padded(y, this.log);
      return [
        scale({ low: xLow, high: xHigh, log: panel.x.log, linearBelow: panel.x.linear_below }),
        scale({ low: yLow, high: yHigh, log: this.log && !panel.y.linear_below,
          linearBelow: panel.y.linear_below }),
      ];
    }

    draw() {
      if (!this.width) return;
      if (this.panel.bars.length) { this.drawBars(); return; }
      if (this.panel.grid) { this.drawGrid(); return; }
      const { panel, width } = this;
      const [x, y] = this.limits();
      const box = { left: 62, right: panel.map ? 84 : 14, top: 12, bottom: 44 };
      const inner = width - box.left - box.right;
      let height = Math.max(150, Math.min(0.56 * width, 420)) * Math.max(panel.height, 0.55);
      if (panel.map ? panel.map.equal : panel.equal) {
        height = inner * ((y.high - y.low) / (x.high - x.low)) + box.top + box.bottom;
        height = Math.min(Math.max(height, 130), 1.2 * width);
      }
      Object.assign(this, { x, y, box, inner, height, depth: height - box.top - box.bottom });
      this.xAt = (value) => box.left + inner * x.at(value);
      this.yAt = (value) => box.top + this.depth * (1 - y.at(value));
      const { svg } = this;
      svg.replaceChildren();
      svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
      svg.setAttribute("width", width);
      svg.setAttribute("height", height);
      if (panel.map) this.drawMap();
      this.drawAxes();
      const clip = `clip-${Math.random().toString(36).slice(2)}`;
      const path = element("clipPath", { id: clip }, svg);
      element("rect", { x: box.left, y: box.top - 2, width: inner, height: this.depth + 4 }, path);
      const body = element("g", { "clip-path": `url(#${clip})` }, svg);
      for (const band of panel.bands) this.drawBand(body, band);
      for (const marker of panel.markers.filter((m) => m.y === null)) this.drawLine(marker);
      for (const curve of [...panel.curves].sort((a, b) => b.rank - a.rank)) {
        if (!this.hidden.has(curve)) this.drawCurve(body, curve);
      }
      for (const marker of panel.markers.filter((m) => m.y !== null)) this.drawPlace(marker);
      this.cross = element("g", { class: "cross" }, svg);
      this.selection = element("rect", { class: "selection", visibility: "hidden" }, svg);
    }

    drawAxes() {
      const { svg, box, inner, depth, x, y, panel } = this;
      const floor = box.top + depth;
      const axes = element("g", { class: "axes" }, svg);
      const xMarks = x.marks(Math.max(2, Math.floor(inner / 80)));
      writtenMarks(xMarks).forEach((text, k) => {
        const at = this.xAt(xMarks[k]);
        if (!panel.map) element("line", { class: "grid", x1: at, x2: at, y1: box.top, y2: floor }, axes);
        element("text", { x: at, y: floor + 16, "text-anchor": "middle" }, axes, text);
      });
      const yMarks = y.marks(Math.max(2, Math.floor(depth / 48)));
      writtenMarks(yMarks).forEach((text, k) => {
        const at = this.yAt(yMarks[k]);
        if (!panel.map) {
          element("line", { class: "grid", x1: box.left, x2: box.left + inner, y1: at, y2: at }, axes);
        }
        element("text", { x: box.left - 8, y: at + 4, "text-anchor": "end" }, axes, text);
      });
      element("path", { class: "edge",
        d: `M${box.left} ${box.top}V${floor}H${box.left + inner}` }, axes);
      element("text", { class: "label", x: box.left + inner / 2, y: floor + 36,
        "text-anchor": "middle" }, axes, panel.x.label);
      const middle = box.top + depth / 2;
      element("text", { class: "label", x: 13, y: middle, "text-anchor": "middle",
        transform: `rotate(-90 13 ${middle})` }, axes, fitting(panel.y.label, depth));
    }

    span(xValues) {
      if (!this.zoom) return [0, xValues.length];
      return [Math.max(0, reached(xValues, this.x.low) - 1),
        Math.min(xValues.length, reached(xValues, this.x.high) + 1)];
    }

    drawCurve(body, curve) {
      const [from, to] = this.span(curve.x);
      const group = element("g", { class: `curve rank${Math.min(curve.rank, 3)}` }, body);
      if (curve.joined) {
        const d = this.sorted
          ? drawn(curve.x, curve.y, this.xAt, this.yAt, from, to, Math.ceil(this.inner))
          : drawn(curve.x, curve.y, this.xAt, this.yAt, 0, curve.x.length, 20000);
        if (this.panel.map) element("path", { d, class: "halo" }, group);
        element("path", { d, stroke: this.hueOf(curve.rank, "--path1"),
          "stroke-dasharray": DASHES[curve.rank % DASHES.length] }, group);
      }
      if ((curve.dots || !curve.joined || to - from < 40) && to - from <= 4000) {
        for (let k = from; k < to; k += 1) {
          const [px, py] = [this.xAt(curve.x[k]), this.yAt(curve.y[k])];
          if (Number.isFinite(px) && Number.isFinite(py)) {
            element("circle", { cx: px.toFixed(1), cy: py.toFixed(1), r: 2.6,
              fill: this.hueOf(curve.rank, "--path1") }, group);
          }
        }
      }
    }

    drawBand(body, band) {
      const [from, to] = this.span(band.x);
      const up = [];
      const down = [];
      const floor = this.box.top + this.depth;
      const every = Math.max(1, Math.ceil((to - from) / 4000));
      for (let k = from; k < to; k += every) {
        const [px, a, b] = [this.xAt(band.x[k]), this.yAt(band.low[k]), this.yAt(band.high[k])];
        if (Number.isFinite(px) && Number.isFinite(b)) {
          up.push(`${px.toFixed(1)} ${b.toFixed(1)}`);
          down.unshift(`${px.toFixed(1)} ${(Number.isFinite(a) ? a : floor).toFixed(1)}`);
        }
      }
      if (up.length > 1) {
        element("path", { d: `M${[...up, ...down].join("L")}Z`, fill: hue(band.rank),
          class: "band" }, body);
      }
    }

    drawLine(marker) {
      const at = this.xAt(marker.x);
      if (at < this.box.left - 1 || at > this.box.left + this.inner + 1) return;
      element("line", { class: "marker", x1: at, x2: at, y1: this.box.top,
        y2: this.box.top + this.depth }, this.svg);
      const late = at > this.box.left + this.inner - 60;
      element("text", { class: "place", x: at + (late ? -5 : 5), y: this.box.top + 10,
        "text-anchor": late ? "end" : "start" }, this.svg, marker.label);
    }

    drawPlace(marker) {
      const [px, py] = [this.xAt(marker.x), this.yAt(marker.y)];
      if (!this.inside(px, py)) return;
      element("circle", { class: "spot", cx: px, cy: py, r: 4 }, this.svg);
      const late = px > this.box.left + this.inner - 60;
      element("text", { class: "place", x: px + (late ? -7 : 7), y: py - 6,
        "text-anchor": late ? "end" : "start" }, this.svg, marker.label);
    }

    inside(px, py) {
      const { left, top } = this.box;
      return px >= left - 4 && px <= left + this.inner + 4 && py >= top - 4
        && py <= top + this.depth + 4;
    }

    drawMap() {
      const { map } = this.panel;
      const ratio = window.devicePixelRatio || 1;
      this.canvas.width = this.width * ratio;
      this.canvas.height = this.height * ratio;
      this.canvas.style.width = `${this.width}px`;
      this.canvas.style.height = `${this.height}px`;
      // Thousands of cells are painted faster by the processor than handed over one by one.
      const context = this.canvas.getContext("2d", { willReadFrequently: true });
      context.scale(ratio, ratio);
      const range = extent([map.values], map.log) || (map.log ? [0.1, 1] : [0, 1]);
      const ends = apart(...range) ? range : padded(range, map.log);
      const level = scale({ low: ends[0], high: ends[1], log: map.log });
      // Cells of a few pixels, between whose corners colours and contours are drawn.
      const times = this.pieces(map);
      const fine = (values, bend) => refined(values, map.shape, times, bend);
      const [px, py] = [fine(map.x, this.xAt).values, fine(map.y, this.yAt).values];
      const { values: shares, shape: [rows, columns] } = fine(map.values, level.at);
      context.lineWidth = 0.8;
      for (let i = 0; i + 1 < rows; i += 1) {
        for (let j = 0; j + 1 < columns; j += 1) {
          const a = i * columns + j;
          const corners = [a, a + 1, a + columns + 1, a + columns];
          const share = corners.reduce((sum, k) => sum + shares[k], 0) / 4;
          if (!Number.isFinite(share)) continue;
          const paint = `rgb(${colour(share).map(Math.round).join(",")})`;
          context.beginPath();
          corners.forEach((k, n) => context[n ? "lineTo" : "moveTo"](px[k], py[k]));
          context.closePath();
          context.fillStyle = paint;
          context.strokeStyle = paint; // no seams between cells
          context.fill();
          context.stroke();
        }
      }
      context.strokeStyle = "rgba(255,255,255,0.45)";
      this.contours(context, px, py, shares, rows, columns);
      this.colourBar(level, map.label);
    }

    // Into how many rows and columns of at most a few pixels the widest cell is to be cut.
    pieces(map) {
      const [rows, columns] = map.shape;
      let [high, wide] = [0, 0];
      for (let k = 0; k < map.x.length; k += 1) {
        const apart = (other) => Math.hypot(this.xAt(map.x[other]) - this.xAt(map.x[k]),
          this.yAt(map.y[other]) - this.yAt(map.y[k]));
        if (k >= columns) high = Math.max(high, apart(k - columns));
        if (k % columns) wide = Math.max(wide, apart(k - 1));
      }
      let size = 5;
      const times = () => [high, wide].map((cell) => Math.max(1, Math.ceil(cell / size)));
      while ((rows - 1) * times()[0] * (columns - 1) * times()[1] > MOST_CELLS && size < 500) {
        size *= 1.5;
      }
      return times();
    }

    // Lines of equal value through the triangles of the mesh.
    contours(context, px, py, shares, rows, columns) {
      const values = shares.map((share) => share * (LEVELS + 1));
      const cut = (a, b, c, target) => {
        const found = [];
        for (const [p, q] of [[a, b], [b, c], [c, a]]) {
          if ((values[p] < target) !== (values[q] < target)) {
            const t = (target - values[p]) / (values[q] - values[p]);
            found.push([px[p] + t * (px[q] - px[p]), py[p] + t * (py[q] - py[p])]);
          }
        }
        if (found.length === 2) {
          context.moveTo(...found[0]);
          context.lineTo(...found[1]);
        }
      };
      context.beginPath();
      for (let i = 0; i + 1 < rows; i += 1) {
        for (let j = 0; j + 1 < columns; j += 1) {
          const a = i * columns + j;
          const corners = [a, a + 1, a + columns + 1, a + columns];
          for (const [p, q, r] of [[0, 1, 2], [0, 2, 3]]) {
            const three = [corners[p], corners[q], corners[r]];
            const low = Math.min(...three.map((k) => values[k]));
            const high = Math.max(...three.map((k) => values[k]));
            if (!Number.isFinite(low + high)) continue;
            for (let n = Math.ceil(low); n <= high && n <= LEVELS; n += 1) {
              if (n > 0) cut(...three, n);
            }
          }
        }
      }
      context.stroke();
    }

    colourBar(level, label) {
      const left = this.width - 74;
      const group = element("g", { class: "axes" }, this.svg);
      const steps = 48;
      for (let k = 0; k < steps; k += 1) {
        element("rect", { x: left, width: 12, y: this.box.top + this.depth * (1 - (k + 1) / steps),
          height: this.depth / steps + 0.6,
          fill: `rgb(${colour((k + 0.5) / steps).map(Math.round).join(",")})` }, group);
      }
      const marks = level.marks(Math.max(2, Math.floor(this.depth / 48)));
      writtenMarks(marks).forEach((text, k) => {
        const at = this.box.top + this.depth * (1 - level.at(marks[k]));
        element("text", { x: left + 17, y: at + 4 }, group, text);
      });
      const middle = this.box.top + this.depth / 2;
      element("text", { class: "label", x: this.width - 8, y: middle, "text-anchor": "middle",
        transform: `rotate(-90 ${this.width - 8} ${middle})` }, group, fitting(label, this.depth));
    }

    drawBars() {
      const { panel, svg, width } = this;
      const row = 26;
      const longest = Math.max(...panel.bars.map((bar) => bar.label.length));
      const left = Math.min(Math.max(7.2 * longest + 14, 60), 0.52 * width);
      const right = 16;
      const height = row * panel.bars.length + 44;
      svg.replaceChildren();
      svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
      svg.setAttribute("width", width);
      svg.setAttribute("height", height);
      const found = panel.x.limits || extent([panel.bars.map((bar) => bar.length), [0]]) || [0, 1];
      const [low, high] = found[1] > found[0] ? found : [0, 1];
      const x = scale({ low, high, log: false });
      const xAt = (value) => left + (width - left - right) * x.at(value);
      const floor = row * panel.bars.length + 4;
      const axes = element("g", { class: "axes" }, svg);
      const marks = x.marks(5);
      writtenMarks(marks).forEach((text, k) => {
        element("line", { class: "grid", x1: xAt(marks[k]), x2: xAt(marks[k]), y1: 2, y2: floor },
          axes);
        element("text", { x: xAt(marks[k]), y: floor + 16, "text-anchor": "middle" }, axes, text);
      });
      element("text", { class: "label", x: left + (width - left - right) / 2, y: floor + 34,
        "text-anchor": "middle" }, axes, panel.x.label);
      panel.bars.forEach((bar, k) => {
        const y = row * k + 5;
        const known = Number.isFinite(bar.length);
        const end = known ? xAt(Math.min(Math.max(bar.length, low), high)) : xAt(high);
        element("text", { class: "name", x: left - 8, y: y + 14, "text-anchor": "end" }, svg,
          bar.label);
        element("rect", { class: `bar-${bar.look}`, x: xAt(Math.max(0, low)), y,
          width: Math.max(end - xAt(Math.max(0, low)), known && bar.length === 0 ? 1 : 2),
          height: 18, rx: 2 }, svg);
        const late = end > width - 120;
        element("text", { class: "note", x: late ? end - 6 : end + 6, y: y + 14,
          "text-anchor": late ? "end" : "start" }, svg, bar.note);
      });
    }

    drawGrid() {
      const { grid } = this.panel;
      this.svg.replaceChildren();
      this.svg.setAttribute("height", 0);
      if (this.table) return;
      const table = html("table", { class: "counts" }, html("div", { class: "wide" }, this.stage));
      this.table = table;
      const head = html("tr", {}, html("thead", {}, table));
      html("td", {}, head);
      for (const name of grid.columns) {
        html("span", {}, html("th", { scope: "col" }, head), name);
      }
      const body = html("tbody", {}, table);
      const most = grid.counts.reduce((a, b) => Math.max(a, b), 1);
      grid.rows.forEach((name, i) => {
        const row = html("tr", {}, body);
        html("th", { scope: "row" }, row, name);
        grid.columns.forEach((_, j) => {
          const count = grid.counts[i * grid.columns.length + j];
          const cell = html("td", { class: i === j ? "hit" : "miss" }, row, count ? String(count) : "");
          if (count) cell.style.setProperty("--share", String(0.15 + 0.6 * count / most));
        });
      });
    }

    // Reading and zooming.

    listen() {
      const { stage } = this;
      if (!(this.zooms || this.panel.map || this.panel.curves.length)) return;
      let from = null;
      const where = (event) => {
        const bounds = this.svg.getBoundingClientRect();
        return [event.clientX - bounds.left, event.clientY - bounds.top];
      };
      stage.addEventListener("pointerdown", (event) => {
        if (!this.zooms || event.button !== 0) return;
        from = where(event)[0];
      });
      stage.addEventListener("pointermove", (event) => {
        const [px, py] = where(event);
        if (from !== null && !event.buttons) from = null; // released somewhere else
        if (from !== null && Math.abs(px - from) > DRAG) {
          if (!stage.hasPointerCapture(event.pointerId)) stage.setPointerCapture(event.pointerId);
          const [a, b] = this.clipped(from, px);
          for (const [key, value] of Object.entries({ x: a, width: b - a, y: this.box.top,
            height: this.depth, visibility: "visible" })) this.selection.setAttribute(key, value);
          this.hush();
        } else {
          this.read(px, py);
        }
      });
      const finished = (event) => {
        if (from === null) return;
        const [a, b] = this.clipped(from, where(event)[0]);
        from = null;
        if (this.selection) this.selection.setAttribute("visibility", "hidden");
        if (event.type === "pointerup" && b - a > DRAG) {
          this.show([this.valueAt(a), this.valueAt(b)]);
        }
      };
      // A finger that taps reads, and what it read stays.
      stage.addEventListener("click", (event) => this.read(...where(event)));
      stage.addEventListener("pointerup", finished);
      stage.addEventListener("pointercancel", finished);
      stage.addEventListener("pointerleave", (event) => {
        if (event.pointerType !== "touch") this.hush();
      });
      stage.addEventListener("dblclick", () => { if (this.zooms) this.show(null); });
      stage.addEventListener("keydown", (event) => this.pressed(event));
      stage.addEventListener("blur", () => this.hush());
    }

    clipped(a, b) {
      const left = this.box.left;
      const right = left + this.inner;
      return [Math.max(left, Math.min(a, b)), Math.min(right, Math.max(a, b))];
    }

    valueAt(px) {
      return this.x.back((px - this.box.left) / this.inner);
    }

    pressed(event) {
      if (event.ctrlKey || event.metaKey || event.altKey) return; // the browser's own keys
      const steps = { ArrowRight: 1, ArrowLeft: -1 };
      if (event.key in steps && !this.panel.map) {
        this.step(steps[event.key]);
      } else if (this.panel.map && event.key.startsWith("Arrow")) {
        this.stepOnMap(event.key);
      } else if (this.zooms && (event.key === "+" || event.key === "=" || event.key === "-")) {
        this.nearer(event.key === "-" ? 2 : 0.5);
      } else if (this.zooms && event.key === "0") {
        this.show(null);
      } else if (event.key === "Escape") {
        this.hush();
      } else {
        return;
      }
      event.preventDefault();
    }

    main() {
      const shown = this.panel.curves.filter((curve) => !this.hidden.has(curve) && curve.x.length);
      return shown.sort((a, b) => a.rank - b.rank)[0];
    }

    step(by) {
      const curve = this.main();
      if (!curve) return;
      const [from, to] = this.sorted ? this.span(curve.x) : [0, curve.x.length];
      const known = Number.isInteger(this.cursor);
      const at = known ? this.cursor + by : by > 0 ? from : to - 1;
      this.cursor = Math.min(Math.max(at, from), to - 1);
      const px = this.xAt(curve.x[this.cursor]);
      this.read(px, this.yAt(curve.y[this.cursor]), true);
    }

    stepOnMap(key) {
      const [rows, columns] = this.panel.map.shape;
      let [i, j] = this.cursor || [rows >> 1, columns >> 1];
      if (key === "ArrowUp") i += 1;
      if (key === "ArrowDown") i -= 1;
      if (key === "ArrowRight") j += 1;
      if (key === "ArrowLeft") j -= 1;
      i = Math.min(Math.max(i, 0), rows - 1);
      j = Math.min(Math.max(j, 0), columns - 1);
      this.cursor = [i, j];
      const k = i * columns + j;
      this.tell(this.xAt(this.panel.map.x[k]), this.yAt(this.panel.map.y[k]), this.vertexRows(k), true);
    }

    nearer(factor) {
      const [low, high] = [0, 1];
      const curve = this.main();
      const there = curve && Number.isInteger(this.cursor) ? this.x.at(curve.x[this.cursor]) : 0.5;
      const at = there >= 0 && there <= 1 ? there : 0.5;
      const half = factor / 2;
      const a = this.x.back(Math.max(factor > 1 ? -0.5 : low, at - half));
      const b = this.x.back(Math.min(factor > 1 ? 1.5 : high, at + half));
      this.zoomIn(a, b);
    }

    zoomIn(a, b) {
      const kept = this.zoom;
      this.zoom = null;
      const [all] = this.limits();
      this.zoom = kept;
      const range = [Math.max(a, all.low), Math.min(b, all.high)];
      this.show(range[0] <= all.low && range[1] >= all.high ? null : range);
    }

    vertexRows(k) {
      const { map, x, y } = this.panel;
      return [[x.label, written(map.x[k])], [y.label, written(map.y[k])],
        [map.label, written(map.values[k])]];
    }

    // What is known nearest to a place.
    read(px, py, aloud) {
      if (!this.xAt) return;
      const outside = px < this.box.left - 4 || px > this.box.left + this.inner + 4
        || py < this.box.top - 4 || py > this.box.top + this.depth + 4;
      if (outside && !aloud) { this.hush(); return; }
      if (this.panel.map || !this.sorted) { this.readPlane(px, py, aloud); return; }
      const value = this.valueAt(px);
      const rows = [];
      let at = null;
      for (const curve of this.panel.curves) {
        const lone = this.panel.curves.length === 1;
        if (this.hidden.has(curve) || !(curve.label || lone) || !curve.x.length) continue;
        let k = Math.min(reached(curve.x, value), curve.x.length - 1);
        if (k > 0 && value - curve.x[k - 1] < curve.x[k] - value) k -= 1;
        if (at === null) {
          at = curve.x[k];
          rows.push([this.panel.x.label, written(at)]);
          if (!aloud) this.cursor = k;
        }
        rows.push([curve.label || this.panel.y.label, written(curve.y[k]), curve.rank]);
      }
      if (at === null) { this.hush(); return; }
      this.tell(this.xAt(at), py, rows, aloud);
    }

    readPlane(px, py, aloud) {
      const { map, curves, x, y } = this.panel;
      let best = 14 ** 2;
      let rows = null;
      let at = null;
      const near = (ax, ay, make) => {
        const apart = (ax - px) ** 2 + (ay - py) ** 2;
        if (apart < best) { best = apart; rows = make(); at = [ax, ay]; }
      };
      for (const curve of curves) {
        if (this.hidden.has(curve)) continue;
        for (let k = 0; k < curve.x.length; k += 1) {
          near(this.xAt(curve.x[k]), this.yAt(curve.y[k]), () => [
            [curve.label || "point", `${k + 1} of ${curve.x.length}`, curve.rank],
            ...(curve.columns || []).map(([name, values]) => [name, written(values[k])]),
            [x.label, written(curve.x[k])], [y.label, written(curve.y[k])]]);
        }
      }
      if (!rows && map) {
        best = Infinity;
        for (let k = 0; k < map.values.length; k += 1) {
          near(this.xAt(map.x[k]), this.yAt(map.y[k]), () => this.vertexRows(k));
        }
      }
      if (rows) this.tell(at[0], at[1], rows, aloud); else this.hush();
    }

    tell(px, py, rows, aloud) {
      this.cross.replaceChildren();
      if (!this.panel.map && this.sorted) {
        element("line", { x1: px, x2: px, y1: this.box.top, y2: this.box.top + this.depth },
          this.cross);
      } else {
        element("circle", { cx: px, cy: py, r: 6 }, this.cross);
      }
      thalweg.tip(this.tip, this.stage, px, py, rows);
      if (aloud) this.live.textContent = rows.map((row) => `${row[0]}: ${row[1]}`).join(", ");
    }

    hush() {
      this.tip.hidden = true;
      if (this.cross) this.cross.replaceChildren();
    }
  }

  // A small table beside a place.
  thalweg.tip = (tip, stage, px, py, rows) => {
    tip.replaceChildren();
    const table = html("table", {}, tip);
    for (const [name, value, rank] of rows) {
      const row = html("tr", {}, table);
      const head = html("th", { scope: "row" }, row, name);
      if (rank !== undefined) head.style.setProperty("--key", hue(rank));
      html("td", {}, row, value);
    }
    tip.hidden = false;
    const late = px > stage.clientWidth / 2;
    const low = py > stage.clientHeight / 2;
    tip.style.left = late ? "auto" : `${px + 14}px`;
    tip.style.right = late ? `${stage.clientWidth - px + 14}px` : "auto";
    tip.style.top = low ? "auto" : `${Math.max(py, 0) + 8}px`;
    tip.style.bottom = low ? `${stage.clientHeight - py + 8}px` : "auto";
  };

  return { FlatPanel, element, html, fitting, drawn, reached };
})();
