"use strict";
// The explorer's page: chooses a section, asks for points where the reader looks, draws them.
(() => {
  const { mount } = thalweg.page;
  const POINTS = 33; // of a line at first
  const TABLE = 17; // rows and columns of a plane at first
  const FINEST = { line: 1025, plane: 129 };
  const POLL = 400; // milliseconds

  const find = (id) => document.getElementById(id);
  const NARROWEST = 1e-9;
  // `turn` counts what the reader asked for: an answer to an earlier turn comes too late.
  const state = { section: null, kind: null, view: null, home: null, grid: null, known: new Map(),
    life: null, told: null, panels: null, finer: 1, turn: 0, failure: null, splits: [] };

  // The token stays in this tab, and out of the address that is shown and remembered.
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given) {
    sessionStorage.setItem("token", given);
    history.replaceState(null, "", "/");
  }
  const token = sessionStorage.getItem("token") ?? "";

  async function ask(path, content) {
    const headers = { Authorization: `Bearer ${token}` };
    const options = content === undefined ? { headers } : {
      method: "POST",
      headers: { ...headers, "Content-Type": "application/json" },
      body: JSON.stringify(content),
    };
    const answer = await fetch(path, options);
    const told = await answer.json();
    if (!answer.ok) throw new Error(told.error);
    return told;
  }

  function say(error) {
    find("message").textContent = error ? error.message : "";
  }

  function fill(select, names, chosen) {
    select.replaceChildren(...names.map((name) => new Option(name, name, false, name === chosen)));
  }

  async function open() {
    const run = await ask("/api/run");
    state.metrics = run.metrics;
    state.splits = run.splits;
    find("run").textContent =
      `${run.run ?? "run"}: ${run.parameters.toLocaleString("en")} parameters, ${run.dtype} on `
      + `${run.device}; the cost J is that on ${run.splits[0]}.`;
    const steps = run.snapshots.map((each) => each.anchor);
    const solutions = run.solutions.map((each) => each.anchor);
    const last = steps.at(-1);
    const vectors = run.eigenvectors.map((k) => `eigenvector ${k} at ${last}`);
    const targets = [...steps, ...solutions, ...vectors];
    fill(find("anchor-0"), [...steps, ...solutions], steps[0]);
    fill(find("anchor-1"), targets, solutions[0] ?? last);
    fill(find("anchor-2"), targets, steps[steps.length >> 1]);
    chooseKind();
  }

  function chooseKind() {
    find("third").hidden = find("kind").value === "line";
  }

  async function show(event) {
    event.preventDefault();
    const kind = find("kind").value;
    const anchors = [0, 1, 2].slice(0, kind === "line" ? 2 : 3).map((i) => find(`anchor-${i}`).value);
    state.turn += 1;
    const { turn } = state;
    try {
      say(null);
      const defined = await ask("/api/sections", { kind, anchors });
      if (turn !== state.turn) return;
      const along = anchors[1].startsWith("eigenvector");
      const home = along ? { x: 0, y: 0, half: 1 } : { x: 0.5, y: 0.5, half: 1 };
      Object.assign(state, { section: defined.section, kind, known: new Map(), told: null,
        panels: null, finer: 1, grid: null, failure: null, home, view: { ...home } });
      find("picture").replaceChildren();
      find("view").hidden = false;
      document.querySelectorAll("#view .up").forEach((each) => { each.hidden = kind === "line"; });
      find("hint").textContent = kind === "line"
        ? "Drag over the curve to look closer: more points are evaluated there."
        : "Points appear as they are evaluated; the coarse picture comes first.";
      await refine();
    } catch (error) {
      say(error);
    }
  }

  async function refine() {
    if (!state.section) return;
    state.turn += 1;
    const { turn, section, view: { x, y, half } } = state;
    const range = (middle) => ({ from: middle - half, to: middle + half });
    const points = (base) => Math.min((base - 1) * state.finer + 1, FINEST[state.kind]);
    const content = state.kind === "line"
      ? { ...range(x), points: points(POINTS) }
      : { x: range(x), y: range(y), columns: points(TABLE), rows: points(TABLE) };
    try {
      const told = await ask(`/api/sections/${section}/refine`, content);
      if (turn !== state.turn) return;
      state.grid = told.grid;
      state.failure = null;
      say(null);
      await look();
    } catch (error) {
      say(error);
    }
  }

  const key = (x, y) => `${x},${y}`;

  async function look() {
    if (!state.section) return;
    const after = state.known.size;
    const { section, known } = state;
    const told = await ask(`/api/sections/${section}?after=${after}`);
    // The reader went on, or another answer was faster.
    if (known !== state.known || after !== known.size) return;
    if (state.life !== told.life) {
      state.life = told.life;
      if (after) {
        state.known.clear();
        await look();
        return;
      }
    }
    const columns = { ...told.loss };
    for (const [metric, splits] of Object.entries(told.metrics ?? {})) {
      for (const [split, values] of Object.entries(splits)) columns[`${metric}: ${split}`] = values;
    }
    const xs = told.alpha ?? told.x ?? [];
    xs.forEach((x, i) => {
      const y = told.y ? told.y[i] : 0;
      const values = Object.fromEntries(
        Object.entries(columns).map(([name, each]) => [name, Number(each[i])]));
      state.known.set(key(x, y), { x, y, values });
    });
    state.told = { ...told, splits: state.splits };
    if (told.message && told.message !== state.failure) {
      state.failure = told.message;
      say(new Error(told.message));
    }
    draw();
  }

  function axis(label, limits = null) {
    return { label, log: false, limits, linear_below: null };
  }

  function empty(changes) {
    return { x: axis(""), y: axis("cost J"), curves: [], bands: [], bars: [], grid: null,
      markers: [], map: null, sheet: null, title: "", height: 1, equal: false, listed: false,
      ...changes };
  }

  function linePanels() {
    const points = [...state.known.values()].sort((a, b) => a.x - b.x);
    const x = Float64Array.from(points, (point) => point.x);
    const names = (state.told.labels ?? []).map(String);
    const markers = names.map((label, i) => ({ label, x: state.told.places?.[i]?.[0] ?? i, y: null }));
    const curves = (wanted) => wanted.map((name, rank) => ({
      x, y: Float64Array.from(points, (point) => point.values[name]),
      label: name.replace(/^.*: /, ""), rank, dots: false, joined: true }));
    const panels = [empty({ x: axis(`α (0 = ${names[0] ?? "start"}, 1 = ${names[1] ?? "end"})`),
      curves: curves(state.told.splits), markers })];
    for (const metric of state.metrics ?? []) {
      const wanted = state.told.splits.map((split) => `${metric}: ${split}`)
        .filter((name) => points.length && name in points[0].values);
      if (wanted.length) {
        panels.push(empty({ x: axis("α"), y: axis(metric), curves: curves(wanted), height: 0.55 }));
      }
    }
    return panels;
  }

  // What maps coordinates to lengths: R' with R R' the inner products of the two directions.
  function lengths() {
    const [[a, b], [, c]] = state.told.gram ?? [[1, 0], [0, 1]];
    const first = Math.sqrt(a);
    const lean = b / first;
    const across = Math.sqrt(Math.max(c - lean ** 2, 0));
    return (x, y) => [first * x + lean * y, across * y];
  }

  function planePanels() {
    const ticks = ({ from, to, points }) =>
      Array.from({ length: points }, (_, k) => from + ((to - from) * k) / (points - 1));
    if (!state.grid || !state.grid.x) return [];
    const [xs, ys] = [ticks(state.grid.x), ticks(state.grid.y)];
    const at = lengths();
    const split = state.told.splits[0];
    const table = { x: [], y: [], values: [] };
    for (const y of ys) {
      for (const x of xs) {
        const point = state.known.get(key(x, y));
        const [u, v] = at(x, y);
        table.x.push(u);
        table.y.push(v);
        table.values.push(point ? point.values[split] : NaN);
      }
    }
    const [x, y, values] = [table.x, table.y, table.values].map((each) => Float64Array.from(each));
    const shape = [ys.length, xs.length];
    const inside = (place) => place && place[0] >= xs[0] && place[0] <= xs.at(-1)
      && place[1] >= ys[0] && place[1] <= ys.at(-1);
    const markers = (state.told.labels ?? []).map((label, i) => [label, state.told.places?.[i]])
      .filter(([, place]) => inside(place))
      .map(([label, place]) => ({ label: String(label), x: at(...place)[0], y: at(...place)[1] }));
    const span = (each) => Math.max(...each) - Math.min(...each);
    const longest = Math.max(span(x), span(y)) || 1;
    const box = [Math.max(span(x) / longest, 0.62), Math.max(span(y) / longest, 0.62), 0.62];
    const axes = { x: axis("distance along"), y: axis("distance across") };
    const panels = [empty({ ...axes, markers,
      map: { x, y, values, shape, label: "cost J", log: false, equal: true } })];
    const places = (state.told.labels ?? []).map((label, i) => [label, state.told.places?.[i]])
      .filter(([, place]) => inside(place) && state.known.has(key(...place)))
      .map(([label, place]) => [String(label),
        [...at(...place), state.known.get(key(...place)).values[split]]]);
    if (values.some(Number.isFinite)) {
      panels.push(empty({ x: axis("along"), y: axis("across"), sheet: { x, y, z: values, shape,
        label: "cost J", log: false, paths: [], places, box, view: [38, -58] } }));
    }
    return panels;
  }

  function draw() {
    const seen = [...state.known.values()].filter((point) =>
      Math.abs(point.x - state.view.x) <= state.view.half * 1.001
      && (state.kind === "line" || Math.abs(point.y - state.view.y) <= state.view.half * 1.001));
    const odd = seen.filter((point) => !Number.isFinite(point.values[state.told.splits[0]])).length;
    find("range").textContent = `${seen.length} points in view, ${state.known.size} in all`
      + (odd ? `; the cost is not finite at ${odd} of them` : "");
    const panels = state.kind === "line" ? linePanels() : planePanels();
    if (!panels.length || !state.known.size) return;
    if (state.panels && state.panels.length === panels.length) {
      state.panels.forEach((panel, n) => {
        if (state.kind === "line") {
          panel.zoom = [state.view.x - state.view.half, state.view.x + state.view.half];
        }
        panel.update(panels[n]);
      });
      return;
    }
    const place = document.createElement("div");
    find("picture").replaceChildren(place);
    state.panels = mount(place, { rows: panels.map((panel) => [panel]) }, { zoomed });
    if (state.kind === "line") draw();
  }

  function zoomed(range) {
    const { home } = state;
    const [low, high] = range ?? [home.x - home.half, home.x + home.half];
    if (!(high - low > NARROWEST)) return;
    state.view = { ...state.view, x: (low + high) / 2, half: (high - low) / 2 };
    refine();
  }

  // Told only where it is new: a reader by ear hears every change.
  function status(text) {
    if (find("progress").textContent !== text) find("progress").textContent = text;
  }

  async function poll() {
    try {
      const told = await ask("/api/progress");
      const running = told.running ? (told.running.doing || "evaluating") : "";
      status(told.waiting
        ? `${told.waiting} points wait${running ? `; ${running}` : ""}.`
        : running ? `${running}.` : "All that was asked for is there.");
      const own = told.sections.find((each) => each.section === state.section);
      const bar = find("bar");
      const total = own ? own.count + own.waiting : 1;
      bar.value = own ? own.count / Math.max(total, 1) : 1;
      const news = own && (own.count !== state.known.size || told.life !== state.life);
      if (news || (own?.state === "failed" && !state.failure)) await look();
    } catch (error) {
      status(`No answer (${error.message}). What was evaluated is kept.`);
    }
    setTimeout(poll, POLL);
  }

  find("kind").addEventListener("change", chooseKind);
  find("section").addEventListener("submit", show);
  find("view").addEventListener("click", (event) => {
    const { factor, x, y, finer } = event.target.dataset;
    if (!state.view || !(factor || x || y || finer)) return;
    if (factor) state.view.half = Math.max(state.view.half * Number(factor), NARROWEST);
    if (x) state.view.x += Number(x) * 2 * state.view.half;
    if (y) state.view.y += Number(y) * 2 * state.view.half;
    if (finer) state.finer *= Number(finer);
    refine();
  });
  open().then(poll, say);
})();
