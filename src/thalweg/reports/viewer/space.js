"use strict";
// A surface in space with a run on it: turned by hand, read where the pointer is.
//
// All surfaces of a page are drawn by one WebGL context, whose picture is copied to the canvas of
// each: browsers allow a page only a few contexts.
thalweg.space = (() => {
  const { apart, written, writtenMarks, colour, scale, extent, padded, refined } = thalweg.scales;
  const { html, fitting } = thalweg.flat;
  const FINE = 72; // rows and columns that make heights and contours look smooth
  const MOST_POINTS = 4000; // of a path that are drawn
  const NEAR = 14; // pixels within which a point of a path is meant
  const LEVELS = 14;

  const SURFACE_VERTEX = `#version 300 es
    in vec3 place; in vec3 normal; in float share;
    uniform mat4 view; uniform mat3 turn;
    out vec3 facing; out float level;
    void main() { gl_Position = view * vec4(place, 1.0); facing = turn * normal; level = share; }`;
  const SURFACE_FRAGMENT = `#version 300 es
    precision highp float;
    in vec3 facing; in float level;
    uniform sampler2D colours;
    uniform float levels;
    out vec4 paint;
    void main() {
      vec3 base = texture(colours, vec2(clamp(level, 0.0, 1.0), 0.5)).rgb;
      vec3 n = normalize(facing);
      float light = 0.66 + 0.34 * abs(dot(n, normalize(vec3(-0.45, 0.6, 0.66))));
      float apart = abs(fract(level * levels - 0.5) - 0.5);
      float line = 1.0 - smoothstep(0.0, 1.4 * fwidth(level * levels), apart);
      paint = vec4(mix(base * light, vec3(1.0), 0.34 * line), 1.0);
    }`;
  const PATH_VERTEX = `#version 300 es
    in vec3 place; in vec4 tint;
    out vec4 colour;
    void main() { gl_Position = vec4(place, 1.0); colour = tint; }`;
  const PATH_FRAGMENT = `#version 300 es
    precision highp float;
    in vec4 colour; out vec4 paint;
    void main() { paint = vec4(colour.rgb * colour.a, colour.a); }`;

  // The one context, or null where the browser has none.
  class Painter {
    static shared() {
      if (Painter.one === undefined) {
        try { Painter.one = new Painter(); } catch (error) { Painter.one = null; }
      }
      return Painter.one;
    }

    constructor() {
      this.canvas = document.createElement("canvas");
      const gl = this.canvas.getContext("webgl2",
        { alpha: true, antialias: true, premultipliedAlpha: true });
      if (!gl) throw new Error("no WebGL 2");
      this.gl = gl;
      this.canvas.addEventListener("webglcontextlost", () => { Painter.one = undefined; });
      this.surface = this.program(SURFACE_VERTEX, SURFACE_FRAGMENT);
      this.path = this.program(PATH_VERTEX, PATH_FRAGMENT);
      this.buffers = ["place", "normal", "share", "index", "path"].reduce(
        (all, name) => ({ ...all, [name]: gl.createBuffer() }), {});
      const steps = 256;
      const pixels = new Uint8Array(4 * steps);
      for (let k = 0; k < steps; k += 1) pixels.set([...colour(k / (steps - 1)), 255], 4 * k);
      gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
      gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, steps, 1, 0, gl.RGBA, gl.UNSIGNED_BYTE, pixels);
      for (const [name, value] of [[gl.TEXTURE_MIN_FILTER, gl.LINEAR],
        [gl.TEXTURE_MAG_FILTER, gl.LINEAR], [gl.TEXTURE_WRAP_S, gl.CLAMP_TO_EDGE],
        [gl.TEXTURE_WRAP_T, gl.CLAMP_TO_EDGE]]) gl.texParameteri(gl.TEXTURE_2D, name, value);
    }

    program(vertex, fragment) {
      const { gl } = this;
      const made = gl.createProgram();
      for (const [kind, text] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
        const shader = gl.createShader(kind);
        gl.shaderSource(shader, text);
        gl.compileShader(shader);
        gl.attachShader(made, shader);
      }
      gl.linkProgram(made);
      if (!gl.getProgramParameter(made, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(made));
      return made;
    }

    start(width, height) {
      const { gl } = this;
      if (this.canvas.width !== width || this.canvas.height !== height) {
        this.canvas.width = width;
        this.canvas.height = height;
      }
      gl.viewport(0, 0, width, height);
      gl.clearColor(0, 0, 0, 0);
      gl.enable(gl.DEPTH_TEST);
      gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    }

    fill(program, name, values, size, buffer) {
      const { gl } = this;
      const at = gl.getAttribLocation(program, name);
      gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
      gl.bufferData(gl.ARRAY_BUFFER, values, gl.DYNAMIC_DRAW);
      gl.enableVertexAttribArray(at);
      gl.vertexAttribPointer(at, size, gl.FLOAT, false, 0, 0);
    }

    drawSurface(mesh, view, turn) {
      const { gl, surface } = this;
      gl.useProgram(surface);
      gl.disable(gl.BLEND);
      gl.depthFunc(gl.LEQUAL);
      gl.enable(gl.POLYGON_OFFSET_FILL);
      gl.polygonOffset(1, 1);
      this.fill(surface, "place", mesh.places, 3, this.buffers.place);
      this.fill(surface, "normal", mesh.normals, 3, this.buffers.normal);
      this.fill(surface, "share", mesh.shares, 1, this.buffers.share);
      gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, this.buffers.index);
      gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, mesh.triangles, gl.DYNAMIC_DRAW);
      gl.uniformMatrix4fv(gl.getUniformLocation(surface, "view"), false, view);
      gl.uniformMatrix3fv(gl.getUniformLocation(surface, "turn"), false, turn);
      gl.uniform1f(gl.getUniformLocation(surface, "levels"), LEVELS);
      gl.drawElements(gl.TRIANGLES, mesh.triangles.length, gl.UNSIGNED_INT, 0);
      gl.disable(gl.POLYGON_OFFSET_FILL);
    }

    // Triangles of seven numbers a corner: place and colour; those behind the surface, or before.
    drawPath(corners, behind) {
      if (!corners.length) return;
      const { gl, path } = this;
      gl.useProgram(path);
      gl.enable(gl.BLEND);
      gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
      gl.depthFunc(behind ? gl.GREATER : gl.LEQUAL);
      gl.depthMask(false);
      const values = new Float32Array(corners);
      gl.bindBuffer(gl.ARRAY_BUFFER, this.buffers.path);
      gl.bufferData(gl.ARRAY_BUFFER, values, gl.DYNAMIC_DRAW);
      for (const [name, size, offset] of [["place", 3, 0], ["tint", 4, 12]]) {
        const at = gl.getAttribLocation(path, name);
        gl.enableVertexAttribArray(at);
        gl.vertexAttribPointer(at, size, gl.FLOAT, false, 28, offset);
      }
      gl.drawArrays(gl.TRIANGLES, 0, values.length / 7);
      gl.depthMask(true);
    }
  }

  // One listener for all panels, which lets go of those that left the page.
  const SHOWN = new Set();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    for (const panel of SHOWN) {
      if (panel.stage.isConnected) panel.later(); else SHOWN.delete(panel);
    }
  });

  function rgb(text) {
    const context = document.createElement("canvas").getContext("2d");
    context.fillStyle = text;
    context.fillRect(0, 0, 1, 1);
    return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3).map((part) => part / 255);
  }

  class SpacePanel {
    constructor(place, panel) {
      this.panel = panel;
      this.sheet = panel.sheet;
      this.log = this.sheet.log;
      place.classList.add("panel", "space");
      this.bar = html("div", { class: "bar" }, place);
      this.keys();
      this.stage = html("div", { class: "stage", role: "group", tabindex: "0",
        "aria-label": `Surface in space: ${this.sheet.label}. Arrow keys turn it, plus and minus `
          + "zoom, 0 resets, page up and page down read the run." }, place);
      this.canvas = html("canvas", { "aria-hidden": "true" }, this.stage);
      this.tip = html("div", { class: "tip", hidden: "" }, this.stage);
      this.live = html("p", { class: "unseen", "aria-live": "polite" }, place);
      html("p", { class: "hint" }, place, "Drag to turn; point at the run or the surface to read it.");
      this.reset();
      this.prepare();
      this.listen();
      new ResizeObserver(() => this.later()).observe(this.stage);
      SHOWN.add(this);
      this.paint();
    }

    keys() {
      for (const path of this.sheet.paths) {
        const key = html("span", { class: "key" }, this.bar);
        html("i", { class: `stroke path${Math.min(path.rank, 1)}` }, key);
        key.append(path.label);
      }
      const tool = (words, act) => {
        const button = html("button", { type: "button", class: "tool" }, this.bar, words);
        button.addEventListener("click", () => act(button));
        return button;
      };
      const heights = extent([this.sheet.z], false);
      if (heights && heights[0] > 0) {
        tool("log scale", (button) => {
          this.log = !this.log;
          button.setAttribute("aria-pressed", String(this.log));
          this.prepare();
          this.later();
        }).setAttribute("aria-pressed", String(this.log));
      }
      tool("from above", () => { this.eye = [89.9, -90]; this.later(); });
      tool("reset view", () => { this.reset(); this.later(); });
    }

    // Another surface in the place of this one, from where the reader looks.
    update(panel) {
      this.panel = panel;
      this.sheet = panel.sheet;
      this.tip.hidden = true;
      this.prepare();
      this.later();
    }

    reset() {
      this.eye = [...this.sheet.view];
      this.zoom = 1;
    }

    // Places in the box, their normals and triangles.
    prepare() {
      const { sheet, log } = this;
      const all = (name) => [sheet[name], ...sheet.paths.map((path) => path[name])];
      const fitted = (range) => (range ? (apart(...range) ? range : padded(range)) : [0, 1]);
      const [xLow, xHigh] = fitted(extent(all("x"), false));
      const [yLow, yHigh] = fitted(extent(all("y"), false));
      const heights = extent(all("z"), log) || [1, 10];
      const [zLow, zHigh] = apart(...heights) ? heights : padded(heights, log);
      this.scales = [scale({ low: xLow, high: xHigh }), scale({ low: yLow, high: yHigh }),
        scale({ low: zLow, high: zHigh, log })];
      const own = extent([sheet.z], log) || heights;
      const ends = apart(...own) ? own : padded(own, log);
      const level = scale({ low: ends[0], high: ends[1], log });
      this.vertices = this.meshOf(sheet, sheet.shape, level);
      const fine = this.refined(sheet);
      this.mesh = this.meshOf(fine, fine.shape, level);
      this.paths = sheet.paths.map((path) => {
        const every = Math.max(1, Math.ceil(path.x.length / MOST_POINTS));
        const kept = [];
        for (let k = 0; k < path.x.length; k += 1) {
          if (k % every === 0 || k === path.x.length - 1) kept.push(k);
        }
        return { path, kept, points: kept.map((k) => this.boxed([path.x[k], path.y[k], path.z[k]])) };
      }).sort((a, b) => b.path.rank - a.path.rank);
      this.cursor = null;
    }

    // The same surface with more rows and columns, heights between those of the corners.
    refined(sheet) {
      const times = sheet.shape.map((k) => Math.max(1, Math.ceil(FINE / (k - 1))));
      const bend = this.log ? [Math.log, Math.exp] : [];
      const [x, y, z] = [["x"], ["y"], ["z", ...bend]].map(([name, ...ways]) =>
        refined(sheet[name], sheet.shape, times, ...ways));
      return { shape: x.shape, x: x.values, y: y.values, z: z.values };
    }

    // Places, normals and triangles of a table of points.
    meshOf(table, [rows, columns], level) {
      const count = rows * columns;
      const places = new Float32Array(3 * count);
      const shares = new Float32Array(count);
      const seen = new Uint8Array(count);
      for (let k = 0; k < count; k += 1) {
        const place = this.boxed([table.x[k], table.y[k], table.z[k]]);
        seen[k] = place.every(Number.isFinite) ? 1 : 0;
        places.set(place.map((v) => (Number.isFinite(v) ? v : 0)), 3 * k);
        shares[k] = seen[k] ? level.at(table.z[k]) : 0;
      }
      const triangles = [];
      for (let i = 0; i + 1 < rows; i += 1) {
        for (let j = 0; j + 1 < columns; j += 1) {
          const a = i * columns + j;
          for (const three of [[a, a + 1, a + columns + 1], [a, a + columns + 1, a + columns]]) {
            if (three.every((k) => seen[k])) triangles.push(...three);
          }
        }
      }
      const normals = new Float32Array(3 * count);
      for (let t = 0; t < triangles.length; t += 3) {
        const [a, b, c] = [0, 1, 2].map((n) => triangles[t + n]);
        const side = (from, to) => [0, 1, 2].map((n) => places[3 * to + n] - places[3 * from + n]);
        const [u, v] = [side(a, b), side(a, c)];
        const normal = [u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2],
          u[0] * v[1] - u[1] * v[0]];
        for (const k of [a, b, c]) for (let n = 0; n < 3; n += 1) normals[3 * k + n] += normal[n];
      }
      return { places, normals, shares, seen, triangles: new Uint32Array(triangles) };
    }

    // Values to places in a box about the origin.
    boxed(values) {
      return values.map((value, n) => (this.scales[n].at(value) - 0.5) * this.sheet.box[n]);
    }

    listen() {
      const { stage } = this;
      let from = null;
      let turned = false;
      const fingers = new Map();
      // Turning begins anew wherever a finger comes or goes.
      const begin = () => {
        const [first] = fingers.values();
        from = first && fingers.size === 1 ? [...first, ...this.eye] : null;
      };
      const read = (event) => {
        const bounds = this.canvas.getBoundingClientRect();
        this.read(event.clientX - bounds.left, event.clientY - bounds.top);
      };
      stage.addEventListener("pointerdown", (event) => {
        if (event.button !== 0) return;
        fingers.set(event.pointerId, [event.clientX, event.clientY]);
        stage.setPointerCapture(event.pointerId);
        turned = false;
        begin();
        this.tip.hidden = true;
      });
      stage.addEventListener("pointermove", (event) => {
        if (from && Math.hypot(event.clientX - from[0], event.clientY - from[1]) > 4) turned = true;
        if (fingers.has(event.pointerId) && fingers.size === 2) {
          const spread = () => {
            const [a, b] = [...fingers.values()];
            return Math.hypot(a[0] - b[0], a[1] - b[1]) || 1;
          };
          const before = spread();
          fingers.set(event.pointerId, [event.clientX, event.clientY]);
          this.nearer(spread() / before);
        } else if (from) {
          fingers.set(event.pointerId, [event.clientX, event.clientY]);
          this.turn(from[2] + 0.4 * (event.clientY - from[1]), from[3] - 0.5 * (event.clientX - from[0]));
        } else if (!fingers.size) {
          read(event);
        }
      });
      const finished = (event) => {
        if (!fingers.delete(event.pointerId)) return;
        begin();
        if (!turned && event.type === "pointerup") read(event); // a tap
      };
      stage.addEventListener("pointerup", finished);
      stage.addEventListener("pointercancel", finished);
      stage.addEventListener("pointerleave", (event) => {
        if (event.pointerType !== "touch") this.tip.hidden = true;
      });
      stage.addEventListener("wheel", (event) => {
        if (document.activeElement !== stage && !event.ctrlKey) return; // pages scroll by the wheel
        event.preventDefault();
        this.nearer(Math.exp(-0.0015 * event.deltaY));
      }, { passive: false });
      stage.addEventListener("keydown", (event) => this.pressed(event));
    }

    pressed(event) {
      if (event.ctrlKey || event.metaKey || event.altKey) return; // the browser's own keys
      const turns = { ArrowLeft: [0, 5], ArrowRight: [0, -5], ArrowUp: [5, 0], ArrowDown: [-5, 0] };
      if (event.key in turns) {
        this.turn(this.eye[0] + turns[event.key][0], this.eye[1] + turns[event.key][1]);
      } else if (["+", "=", "-"].includes(event.key)) {
        this.nearer(event.key === "-" ? 1 / 1.15 : 1.15);
      } else if (event.key === "0") {
        this.reset();
        this.later();
      } else if (this.paths.length && ["PageDown", "PageUp"].includes(event.key)) {
        this.step(event.key === "PageDown" ? 1 : -1);
      } else if (event.key === "Escape") {
        this.tip.hidden = true;
      } else {
        return;
      }
      event.preventDefault();
    }

    turn(elevation, azimuth) {
      this.eye = [Math.min(Math.max(elevation, -89.9), 89.9), azimuth];
      this.later();
    }

    nearer(factor) {
      this.zoom = Math.min(Math.max(this.zoom * factor, 0.5), 8);
      this.later();
    }

    later() {
      if (this.waiting) return;
      this.waiting = true;
      requestAnimationFrame(() => { this.waiting = false; this.paint(); });
    }

    // Where a place of the box is on the canvas, and how near to the eye.
    seen([x, y, z]) {
      const { right, up, towards, unit, width, height } = this.camera;
      const on = (axis) => axis[0] * x + axis[1] * y + axis[2] * z;
      return [width / 2 + unit * on(right), height / 2 - unit * on(up), on(towards)];
    }

    aim(width, height) {
      const [elevation, azimuth] = this.eye.map((angle) => (angle * Math.PI) / 180);
      const [se, ce, sa, ca] = [Math.sin(elevation), Math.cos(elevation), Math.sin(azimuth),
        Math.cos(azimuth)];
      const right = [-sa, ca, 0];
      const up = [-se * ca, -se * sa, ce];
      const towards = [ce * ca, ce * sa, se];
      const [bx, by, bz] = this.sheet.box.map((edge) => edge / 2);
      const most = (axis) => Math.abs(axis[0]) * bx + Math.abs(axis[1]) * by + Math.abs(axis[2]) * bz;
      const unit = this.zoom * Math.min((width - 150) / (2 * most(right)), (height - 76) / (2 * most(up)));
      this.camera = { right, up, towards, unit, width, height };
    }

    paint() {
      const width = Math.round(this.stage.clientWidth);
      if (!width) return;
      const painter = Painter.shared();
      if (!painter) throw new Error("no WebGL 2");
      const height = Math.round(Math.min(Math.max(0.7 * width, 300), 600));
      const ratio = window.devicePixelRatio || 1;
      this.canvas.width = width * ratio;
      this.canvas.height = height * ratio;
      this.canvas.style.width = `${width}px`;
      this.canvas.style.height = `${height}px`;
      this.aim(width, height);
      const style = getComputedStyle(this.stage);
      const context = this.canvas.getContext("2d");
      context.scale(ratio, ratio);
      this.drawBox(context, style);
      this.drawSpace(painter, ratio, style);
      context.drawImage(painter.canvas, 0, 0, width, height);
      this.drawPlaces(context, style);
    }

    drawSpace(painter, ratio, style) {
      const { right, up, towards, unit, width, height } = this.camera;
      painter.start(Math.round(width * ratio), Math.round(height * ratio));
      const [sx, sy, sz] = [(2 * unit) / width, (2 * unit) / height, -0.4];
      const view = new Float32Array(16);
      for (let n = 0; n < 3; n += 1) {
        view[4 * n] = sx * right[n];
        view[4 * n + 1] = sy * up[n];
        view[4 * n + 2] = sz * towards[n];
      }
      view[15] = 1;
      const turn = new Float32Array(9);
      for (let n = 0; n < 3; n += 1) turn.set([right[n], up[n], towards[n]], 3 * n);
      painter.drawSurface(this.mesh, view, turn);
      const halo = [...rgb(style.getPropertyValue("--halo").trim() || "#fff")];
      for (const behind of [true, false]) {
        for (const { path, points } of this.paths) {
          const tint = rgb(style.getPropertyValue(path.rank ? "--path1" : "--path0").trim());
          const alpha = behind ? 0.4 : 1;
          const flat = points.map((point) => {
            const [px, py, near] = this.seen(point);
            return [px, py, near + 0.012];
          });
          if (!behind) painter.drawPath(this.ribbon(flat, path.rank ? 3.6 : 5, [...halo, 0.85], path.rank), false);
          painter.drawPath(this.ribbon(flat, path.rank ? 1.8 : 2.8, [...tint, alpha], path.rank), behind);
          if (path.dots) painter.drawPath(this.discs(flat, 3.6, [...tint, alpha]), behind);
        }
      }
    }

    corner(px, py, near, tint) {
      const { width, height } = this.camera;
      return [(2 * px) / width - 1, 1 - (2 * py) / height, -0.4 * near, ...tint];
    }

    // A line of some width, in pieces; that of rank 1 is dashed by leaving out pieces.
    ribbon(points, wide, tint, rank) {
      const corners = [];
      let run = 0;
      for (let k = 0; k + 1 < points.length; k += 1) {
        const [a, b] = [points[k], points[k + 1]];
        if (![...a, ...b].every(Number.isFinite)) continue;
        const long = Math.hypot(b[0] - a[0], b[1] - a[1]);
        const pieces = rank ? Math.max(1, Math.ceil(long / 5)) : 1;
        for (let n = 0; n < pieces; n += 1) {
          const dash = Math.floor((run + (long * (n + 0.5)) / pieces) / 7) % 2;
          if (rank && dash) continue;
          const at = (t) => a.map((v, i) => v + t * (b[i] - v));
          this.piece(corners, at(n / pieces), at((n + 1) / pieces), wide, tint);
        }
        run += long;
      }
      return corners;
    }

    piece(corners, a, b, wide, tint) {
      const long = Math.hypot(b[0] - a[0], b[1] - a[1]) || 1;
      const [ux, uy] = [(b[0] - a[0]) / long, (b[1] - a[1]) / long];
      const [ox, oy] = [(-uy * wide) / 2, (ux * wide) / 2];
      const e = wide / 4; // a little longer, so that corners close
      const four = [
        this.corner(a[0] - ux * e + ox, a[1] - uy * e + oy, a[2], tint),
        this.corner(a[0] - ux * e - ox, a[1] - uy * e - oy, a[2], tint),
        this.corner(b[0] + ux * e + ox, b[1] + uy * e + oy, b[2], tint),
        this.corner(b[0] + ux * e - ox, b[1] + uy * e - oy, b[2], tint)];
      for (const n of [0, 1, 2, 2, 1, 3]) corners.push(...four[n]);
    }

    discs(points, radius, tint) {
      const corners = [];
      for (const point of points) {
        if (!point.every(Number.isFinite)) continue;
        const rim = (n) => {
          const angle = (n * Math.PI) / 4;
          return this.corner(point[0] + radius * Math.cos(angle), point[1] + radius * Math.sin(angle),
            point[2], tint);
        };
        const middle = this.corner(point[0], point[1], point[2], tint);
        for (let n = 0; n < 8; n += 1) corners.push(...middle, ...rim(n), ...rim(n + 1));
      }
      return corners;
    }

    // The far walls and the floor of the box with their marks.
    drawBox(context, style) {
      const [bx, by, bz] = this.sheet.box.map((edge) => edge / 2);
      const { towards } = this.camera;
      const far = { x: towards[0] > 0 ? -bx : bx, y: towards[1] > 0 ? -by : by };
      const floor = towards[2] >= 0 ? -bz : bz;
      const line = (a, b) => {
        const [p, q] = [this.seen(a), this.seen(b)];
        context.moveTo(p[0], p[1]);
        context.lineTo(q[0], q[1]);
      };
      const marks = this.scales.map((each) => {
        const values = each.marks(5);
        const texts = writtenMarks(values);
        return values.map((value, k) => ({ text: texts[k], share: each.at(value) - 0.5 }));
      });
      context.lineWidth = 1;
      context.strokeStyle = style.getPropertyValue("--line");
      context.beginPath();
      for (const { share } of marks[0]) {
        line([2 * bx * share, -by, floor], [2 * bx * share, by, floor]);
        line([2 * bx * share, far.y, -bz], [2 * bx * share, far.y, bz]);
      }
      for (const { share } of marks[1]) {
        line([-bx, 2 * by * share, floor], [bx, 2 * by * share, floor]);
        line([far.x, 2 * by * share, -bz], [far.x, 2 * by * share, bz]);
      }
      for (const { share } of marks[2]) {
        line([far.x, -by, 2 * bz * share], [far.x, by, 2 * bz * share]);
        line([-bx, far.y, 2 * bz * share], [bx, far.y, 2 * bz * share]);
      }
      context.stroke();
      this.drawMarks(context, style, marks, far, floor);
    }

    drawMarks(context, style, marks, far, floor) {
      const [bx, by, bz] = this.sheet.box.map((edge) => edge / 2);
      const middle = this.seen([0, 0, floor]);
      context.fillStyle = style.getPropertyValue("--ink");
      context.font = "12px system-ui, sans-serif";
      context.textBaseline = "middle";
      const outwards = (at, from, by_) => {
        const long = Math.hypot(at[0] - from[0], at[1] - from[1]) || 1;
        return [at[0] + (by_ * (at[0] - from[0])) / long, at[1] + (by_ * (at[1] - from[1])) / long];
      };
      const along = (n, place, label) => {
        const ends = [place(-0.5), place(0.5)].map((p) => this.seen(p));
        const centre = [(ends[0][0] + ends[1][0]) / 2, (ends[0][1] + ends[1][1]) / 2];
        const long = Math.hypot(ends[1][0] - ends[0][0], ends[1][1] - ends[0][1]);
        if (long < 40) return; // seen from its end
        const most = Math.max(1, Math.floor(long / 44));
        const every = Math.ceil(marks[n].length / most);
        const shift = outwards(centre, middle, 1).map((v, k) => v - centre[k]);
        context.textAlign = Math.abs(shift[0]) < 0.35 ? "center" : shift[0] > 0 ? "left" : "right";
        let widest = 0;
        marks[n].forEach(({ text, share }, k) => {
          if (k % every) return;
          const at = this.seen(place(share));
          context.fillText(text, at[0] + 11 * shift[0], at[1] + 11 * shift[1]);
          widest = Math.max(widest, context.measureText(text).width);
        });
        const away = 26 + Math.abs(shift[0]) * widest;
        context.fillText(label, centre[0] + away * shift[0], centre[1] + away * shift[1]);
      };
      along(0, (share) => [2 * bx * share, -far.y, floor], this.panel.x.label);
      along(1, (share) => [-far.x, 2 * by * share, floor], this.panel.y.label);
      // The heights stand at the upright edge that is farthest to the left.
      const edges = [[far.x, -far.y], [-far.x, far.y]];
      const [ex, ey] = edges.sort((a, b) => this.seen([...a, 0])[0] - this.seen([...b, 0])[0])[0];
      const low = this.seen([ex, ey, -bz]);
      const high = this.seen([ex, ey, bz]);
      if (Math.abs(low[1] - high[1]) < 40) return;
      context.textAlign = "right";
      const every = Math.ceil(marks[2].length / Math.max(1, Math.floor(Math.abs(low[1] - high[1]) / 22)));
      marks[2].forEach(({ text, share }, k) => {
        if (k % every) return;
        const at = this.seen([ex, ey, 2 * bz * share]);
        context.fillText(text, at[0] - 8, at[1]);
      });
      const words = fitting(this.sheet.label, 0);
      context.save();
      context.translate(low[0] - 50, (low[1] + high[1]) / 2);
      context.rotate(-Math.PI / 2);
      context.textAlign = "center";
      context.fillText(words, 0, 0);
      context.restore();
    }

    drawPlaces(context, style) {
      context.font = "600 12.5px system-ui, sans-serif";
      context.textBaseline = "bottom";
      context.textAlign = "center";
      for (const [name, place] of this.sheet.places) {
        const [px, py] = this.seen(this.boxed(place));
        if (!Number.isFinite(px + py)) continue;
        context.beginPath();
        context.arc(px, py, 4.5, 0, 2 * Math.PI);
        context.fillStyle = "#fff";
        context.strokeStyle = "#1a1a1a";
        context.lineWidth = 1.6;
        context.fill();
        context.stroke();
        context.lineWidth = 4;
        context.lineJoin = "round";
        context.strokeStyle = style.getPropertyValue("--paper");
        context.fillStyle = style.getPropertyValue("--ink");
        context.strokeText(name, px, py - 8);
        context.fillText(name, px, py - 8);
      }
    }

    rowsOf(path, k) {
      return [[path.label, `point ${k + 1} of ${path.x.length}`],
        ...(path.columns || []).map(([name, values]) => [name, written(values[k])]),
        [this.panel.x.label, written(path.x[k])], [this.panel.y.label, written(path.y[k])],
        [this.sheet.label, written(path.z[k])]];
    }

    read(px, py) {
      if (!this.camera) return;
      let best = NEAR ** 2;
      let found = null;
      for (const { path, kept, points } of [...this.paths].reverse()) {
        points.forEach((point, k) => {
          const [ax, ay] = this.seen(point);
          const apart = (ax - px) ** 2 + (ay - py) ** 2;
          if (apart < best) {
            best = apart;
            found = { at: [ax, ay], rows: this.rowsOf(path, kept[k]) };
          }
        });
        if (found) break;
      }
      found = found || this.vertexAt(px, py);
      if (found) thalweg.tip(this.tip, this.stage, ...found.at, found.rows); else this.tip.hidden = true;
    }

    // The vertex under the pointer: of those close by, the one nearest to the eye.
    vertexAt(px, py) {
      const { sheet, vertices: mesh } = this;
      const reach = Math.max(10, (0.8 * this.camera.unit) / Math.max(...sheet.shape));
      let nearest = -Infinity;
      let found = null;
      for (let k = 0; k < mesh.seen.length; k += 1) {
        if (!mesh.seen[k]) continue;
        const [ax, ay, near] = this.seen(mesh.places.subarray(3 * k, 3 * k + 3));
        const apart = Math.hypot(ax - px, ay - py);
        if (apart < reach && near - apart / this.camera.unit > nearest) {
          nearest = near - apart / this.camera.unit;
          found = { at: [ax, ay], rows: [[this.panel.x.label, written(sheet.x[k])],
            [this.panel.y.label, written(sheet.y[k])], [sheet.label, written(sheet.z[k])]] };
        }
      }
      return found;
    }

    step(by) {
      const run = [...this.paths].reverse()[0];
      if (!run) return;
      const at = this.cursor === null ? (by > 0 ? 0 : run.kept.length - 1) : this.cursor + by;
      this.cursor = Math.min(Math.max(at, 0), run.kept.length - 1);
      const [px, py] = this.seen(run.points[this.cursor]);
      const rows = this.rowsOf(run.path, run.kept[this.cursor]);
      thalweg.tip(this.tip, this.stage, px, py, rows);
      this.live.textContent = rows.map(([name, value]) => `${name}: ${value}`).join(", ");
    }
  }

  return { SpacePanel, Painter };
})();
