/* Accuracy against cost for every file in the table below the chart: what edgelab.plots.pareto draws, to be asked. */
"use strict";

(() => {
  const COSTS = {
    bytes: { name: "file size", unit: "kB", divisor: 1e3 },
    gzip_bytes: { name: "file size, gzipped", unit: "kB", divisor: 1e3 },
    macs: { name: "MACs", unit: "million", divisor: 1e6 },
    energy_uj: { name: "estimated energy", unit: "\u00b5J", divisor: 1 },
    ram_bytes: { name: "RAM", unit: "kB", divisor: 1e3 },
    latency_ms: { name: "latency", unit: "ms", divisor: 1 },
  };
  const SHAPES = ["circle", "square", "triangle", "diamond", "down", "hexagon"];
  const LOGARITHMIC = 4; // largest over smallest cost from which the axis is logarithmic
  const NEAR = 0.03; // of accuracy, below the best, for a closer look
  const MARGIN = { top: 14, right: 18, bottom: 46, left: 50 };
  const app = document.getElementById("edgelab-chart");
  const table = document.getElementById("edgelab-chart-table");
  const { rows, families } = JSON.parse(document.getElementById("edgelab-chart-data").textContent);
  const unique = (values) => [...new Set(values)];
  const models = unique(rows.map((row) => row.model)).sort();
  const frameworks = unique(rows.map((row) => row.framework)).sort();
  const places = unique(rows.map((row) => row.latency_on).filter(Boolean));
  const state = { cost: "bytes", place: places[0], hidden: new Set(), isNear: false, chosen: null };

  function node(name, attributes = {}, ...children) {
    const isDrawn = ["svg", "g", "line", "path", "text", "circle"].includes(name);
    const made = isDrawn ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  const number = (value) => value.toLocaleString("en", { maximumSignificantDigits: 3 });
  const percent = (share) => (100 * share).toFixed(2);
  const spent = (row) => row[state.cost] / COSTS[state.cost].divisor;
  const named = (row) => `${row.model}, ${row.technique}, ${row.framework}`;

  /* What is drawn: not filtered away, measured for this cost, and latency on one machine with one runtime only. */
  function visible() {
    const isMeasured = (row) => row[state.cost] !== null && (state.cost !== "latency_ms" || row.latency_on === state.place);
    const shown = rows.map((_, index) => index).filter((index) => !isFiltered(rows[index]) && isMeasured(rows[index]));
    const best = Math.max(...shown.map((index) => rows[index].accuracy));
    return state.isNear ? shown.filter((index) => rows[index].accuracy >= best - NEAR) : shown;
  }

  const isFiltered = (row) => state.hidden.has(row.family) || state.hidden.has(row.framework) || state.hidden.has(row.model);

  /* As edgelab.pareto.dominated: index -> the file that dominates it, of several the cheapest of the most accurate. */
  function dominated(shown) {
    const found = new Map();
    const ordered = [...shown].sort((a, b) => spent(rows[a]) - spent(rows[b]) || rows[b].accuracy - rows[a].accuracy);
    let best = null;
    for (const index of ordered) {
      const row = rows[index];
      if (best === null || row.accuracy > rows[best].accuracy) best = index;
      else if (spent(row) !== spent(rows[best]) || row.accuracy !== rows[best].accuracy) found.set(index, best);
    }
    return found;
  }

  /* Axes. */

  /* `before` is the share of the axis left free before the least value. */
  function scale(values, from, to, before = 0.07) {
    const [least, most] = [Math.min(...values), Math.max(...values)];
    const isLogarithmic = least > 0 && most / least >= LOGARITHMIC;
    const bend = isLogarithmic ? Math.log : (value) => value;
    const extent = bend(most) - bend(least) || 0.5 * Math.abs(bend(most)) || 1;
    const [low, high] = [bend(least) - before * extent, bend(most) + 0.07 * extent];
    const place = (value) => from + ((bend(value) - low) / (high - low)) * (to - from);
    const ends = isLogarithmic ? [Math.exp(low), Math.exp(high)] : [low, high];
    const isNarrow = Math.abs(to - from) < 420;
    return { place, isLogarithmic, ticks: isLogarithmic ? decades(...ends, isNarrow) : steps(...ends, isNarrow) };
  }

  function decades(low, high, isNarrow) {
    const share = high / low;
    const within = share < 12 ? [1, 2, 3, 5, 7] : share < (isNarrow ? 50 : 400) ? [1, 2, 5] : share < 1000 ? [1, 3] : [1];
    const found = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) {
      for (const factor of within) found.push(factor * 10 ** power);
    }
    return found.filter((value) => value >= low && value <= high);
  }

  function steps(low, high, isNarrow) {
    const raw = (high - low) / (isNarrow ? 4 : 6);
    const power = 10 ** Math.floor(Math.log10(raw));
    const step = power * [1, 2, 5, 10].find((factor) => factor * power >= raw);
    const found = [];
    for (let k = Math.ceil(low / step); k * step <= high; k++) found.push(Number((k * step).toPrecision(8)));
    return found;
  }

  /* Marks: shape and colour say the model, filled or open the framework; a dominated one is grey, small and crossed out. */

  const PATHS = {
    circle: (r) => `M${-r},0 a${r},${r} 0 1,0 ${2 * r},0 a${r},${r} 0 1,0 ${-2 * r},0 Z`,
    square: (r) => `M${-r},${-r} H${r} V${r} H${-r} Z`,
    triangle: (r) => `M0,${-1.2 * r} L${1.15 * r},${0.9 * r} H${-1.15 * r} Z`,
    diamond: (r) => `M0,${-1.3 * r} L${1.3 * r},0 L0,${1.3 * r} L${-1.3 * r},0 Z`,
    down: (r) => `M0,${1.2 * r} L${1.15 * r},${-0.9 * r} H${-1.15 * r} Z`,
    hexagon: (r) => `M${-r},0 L${-r / 2},${-r} H${r / 2} L${r},0 L${r / 2},${r} H${-r / 2} Z`,
  };

  function mark(row, isBeaten) {
    const kind = models.indexOf(row.model);
    const colour = isBeaten ? "var(--faint)" : `var(--data-${(kind % 6) + 1})`;
    const radius = row.framework === "TensorFlow" ? 4.5 : 6.5;
    const fill = row.framework === "TensorFlow" ? colour : "none";
    const d = PATHS[SHAPES[kind % SHAPES.length]](isBeaten ? radius - 1 : radius);
    const parts = [node("path", { d, stroke: colour, fill, "stroke-width": 2 })];
    if (isBeaten) parts.push(node("path", { d: "M-7,-7 L7,7 M-7,7 L7,-7", stroke: colour, "stroke-width": 1.2, fill: "none" }));
    return parts;
  }

  function drawAxes(svg, x, y, width, height) {
    const [left, right, bottom] = [MARGIN.left, width - MARGIN.right, height - MARGIN.bottom];
    for (const value of y.ticks) {
      const at = y.place(value);
      svg.append(node("line", { class: "grid", x1: left, x2: right, y1: at, y2: at }));
      svg.append(node("text", { x: left - 8, y: at + 4, "text-anchor": "end" }, number(value)));
    }
    for (const value of x.ticks) {
      const at = x.place(value);
      svg.append(node("line", { class: "grid", x1: at, x2: at, y1: MARGIN.top, y2: bottom }));
      svg.append(node("text", { x: at, y: bottom + 18, "text-anchor": "middle" }, number(value)));
    }
    const { name, unit } = COSTS[state.cost];
    const title = `${name}, ${unit}${x.isLogarithmic ? " (logarithmic)" : ""}`;
    svg.append(node("text", { x: (left + right) / 2, y: height - 8, "text-anchor": "middle" }, title));
    const turned = `rotate(-90) translate(${-(MARGIN.top + bottom) / 2}, 13)`;
    svg.append(node("text", { transform: turned, "text-anchor": "middle" }, "test accuracy, %"));
  }

  function drawPoint(index, x, y, beaten) {
    const row = rows[index];
    const at = [x.place(spent(row)), y.place(100 * row.accuracy)];
    const winner = beaten.get(index);
    const isBeaten = winner !== undefined;
    const kind = models.indexOf(row.model);
    const says = `${index + 1}: ${named(row)}: ${percent(row.accuracy)} % at ${number(spent(row))} ${COSTS[state.cost].unit}`;
    const label = `${says}, ${isBeaten ? `dominated by ${winner + 1}` : "on the front"}`;
    const point = node("g", { class: "point", role: "img", tabindex: -1, "aria-label": label, "data-row": index });
    point.setAttribute("transform", `translate(${at})`);
    const [low, high] = [row.accuracy_low, row.accuracy_high].map((share) => y.place(100 * share) - at[1]);
    const colour = isBeaten ? "var(--pst-color-border)" : `var(--data-${(kind % 6) + 1})`;
    point.append(node("path", { class: "interval", d: `M0,${low} V${high} M-3,${low} H3 M-3,${high} H3`, stroke: colour }));
    point.append(node("circle", { r: 12, fill: "transparent" }), ...mark(row, isBeaten), node("circle", { class: "ring", r: 11 }));
    point.addEventListener("pointerenter", () => choose(index, false));
    point.addEventListener("focus", () => choose(index, false));
    point.addEventListener("click", () => choose(index, true));
    return { point, at };
  }

  function drawFront(svg, front, x, y) {
    const places = front.map((index) => [x.place(spent(rows[index])), y.place(100 * rows[index].accuracy)]);
    const path = places.map(([left, top], k) => (k ? `H${left} V${top}` : `M${left},${top}`)).join(" ");
    svg.append(node("path", { class: "front", d: path }));
    return places;
  }

  /* Numbers of the front's files above and left of them, where no file can be; near ones share a label. */
  function drawNumbers(svg, front, places) {
    const labels = [];
    front.forEach((index, k) => {
      const before = labels.at(-1);
      const isNear = before && Math.abs(places[k][0] - before.at[0]) < 24 && Math.abs(places[k][1] - before.at[1]) < 14;
      if (isNear) before.names.push(index + 1);
      else labels.push({ names: [index + 1], at: places[k] });
    });
    for (const { names, at } of labels) {
      const left = Math.max(at[0] - 9, MARGIN.left + 8);
      svg.append(node("text", { class: "halo", x: left, y: at[1] - 9, "text-anchor": "end" }, names.join(", ")));
    }
  }

  const plot = node("div", { class: "edgelab-plot" });
  const tip = node("div", { class: "edgelab-tip", role: "tooltip" });
  const said = node("p", { class: "edgelab-note", role: "status" });
  tip.hidden = true;
  let points = new Map();
  let order = [];

  function draw() {
    const shown = visible();
    const beaten = dominated(shown);
    const front = shown.filter((index) => !beaten.has(index)).sort((a, b) => spent(rows[a]) - spent(rows[b]));
    const width = Math.max(plot.clientWidth, 280);
    const height = Math.min(460, Math.max(340, 0.68 * width));
    const svg = node("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "group", "aria-label": finding(shown, front) });
    points = new Map();
    if (shown.length) {
      const x = scale(shown.map((index) => spent(rows[index])), MARGIN.left, width - MARGIN.right, width < 500 ? 0.22 : 0.12);
      const shares = shown.flatMap((index) => [100 * rows[index].accuracy_low, 100 * rows[index].accuracy_high]);
      const y = scale(shares, height - MARGIN.bottom, MARGIN.top);
      drawAxes(svg, x, y, width, height);
      const places = drawFront(svg, front, x, y);
      for (const index of [...beaten.keys(), ...front]) {
        const drawn = drawPoint(index, x, y, beaten);
        svg.append(drawn.point);
        points.set(index, drawn);
      }
      drawNumbers(svg, front, places);
    }
    order = [...shown].sort((a, b) => spent(rows[a]) - spent(rows[b]) || rows[a].accuracy - rows[b].accuracy);
    points.get(order[0])?.point.setAttribute("tabindex", 0);
    plot.replaceChildren(svg, tip);
    choose(null);
    said.textContent = finding(shown, front);
    markTable(shown, beaten);
  }

  function finding(shown, front) {
    if (!shown.length) return "Nothing to draw: tick more boxes.";
    const { name, unit } = COSTS[state.cost];
    const on = state.cost === "latency_ms" ? ` on ${state.place}` : "";
    const left = rows.filter((row) => !isFiltered(row)).length - shown.length;
    const why = `not measured${state.cost === "latency_ms" ? " there" : ""}${state.isNear ? " or less accurate" : ""}`;
    const missing = left ? ` ${left} more ${left > 1 ? "are" : "is"} ${why}.` : "";
    const list = front.map((index) => {
      const row = rows[index];
      return `${index + 1} ${named(row)} (${percent(row.accuracy)} % at ${number(spent(row))} ${unit})`;
    });
    return `By ${name}${on}, ${front.length} of ${shown.length} files are on the front: ${list.join("; ")}.${missing}`;
  }

  function markTable(shown, beaten) {
    for (const line of table.tBodies[0].rows) {
      const index = Number(line.dataset.row);
      line.hidden = isFiltered(rows[index]);
      const isDrawn = shown.includes(index);
      line.cells[line.cells.length - 1].textContent = beaten.has(index) ? beaten.get(index) + 1 : isDrawn ? "" : "\u2013";
    }
    document.getElementById("edgelab-chart-cost").textContent = COSTS[state.cost].name;
  }

  /* Choosing a point with mouse, finger or keyboard. */

  function choose(index, isKept) {
    for (const [own, { point }] of points) point.classList.toggle("chosen", own === index);
    for (const line of table.tBodies[0].rows) line.classList.toggle("chosen", Number(line.dataset.row) === index);
    state.chosen = index;
    tip.hidden = index === null;
    if (index === null) return;
    if (isKept) points.get(index).point.focus();
    for (const [own, { point }] of points) point.setAttribute("tabindex", own === index ? 0 : -1);
    fillTip(rows[index], index);
    placeTip(points.get(index).at);
  }

  function fillTip(row, index) {
    const lines = [`accuracy ${percent(row.accuracy)} % (${percent(row.accuracy_low)} to ${percent(row.accuracy_high)})`];
    for (const [column, { name, unit, divisor }] of Object.entries(COSTS)) {
      const on = column === "latency_ms" ? ` on ${row.latency_on}` : "";
      if (row[column] !== null) lines.push(`${name} ${number(row[column] / divisor)} ${unit}${on}`);
    }
    const label = points.get(index).point.getAttribute("aria-label").split(", ").at(-1);
    lines.push(label, `chapter ${row.chapter.replace("_", ": ").replaceAll("_", " ")}`);
    tip.replaceChildren(node("strong", {}, `${index + 1}  ${named(row)}`));
    for (const line of lines) tip.append(node("div", {}, line));
  }

  function placeTip([left, top]) {
    const width = plot.clientWidth;
    const isRight = left > width / 2;
    const wanted = isRight ? left - tip.offsetWidth - 16 : left + 16;
    tip.style.left = `${Math.max(0, Math.min(wanted, width - tip.offsetWidth))}px`;
    tip.style.top = `${top > plot.clientHeight / 2 ? Math.max(0, top - tip.offsetHeight - 12) : top + 14}px`;
  }

  function onKey(event) {
    const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
    if (event.key === "Escape") return choose(null);
    if (!step || !order.length) return;
    event.preventDefault();
    const at = order.indexOf(state.chosen);
    const next = at < 0 ? 0 : (at + step + order.length) % order.length;
    choose(order[next], true);
  }

  /* Controls. */

  function selection(label, options, chosen, change) {
    const select = node("select", {});
    for (const [value, text] of options) select.append(node("option", { value }, text));
    select.value = chosen;
    select.addEventListener("change", () => change(select.value));
    return node("label", {}, node("span", { class: "title" }, label), select);
  }

  function boxes(title, names) {
    const group = node("fieldset", {}, node("legend", {}, title));
    for (const name of names) {
      const box = node("input", { type: "checkbox", value: name });
      box.checked = true;
      box.addEventListener("change", () => {
        state.hidden[box.checked ? "delete" : "add"](name);
        draw();
      });
      group.append(node("label", {}, box, name));
    }
    return group;
  }

  function legend() {
    const list = node("ul", { class: "edgelab-legend" });
    const entry = (parts, text) => {
      const svg = node("svg", { viewBox: "-9 -9 18 18", "aria-hidden": "true" }, ...parts);
      list.append(node("li", {}, svg, text));
    };
    for (const model of models) entry(mark({ model, framework: "TensorFlow" }, false), model);
    for (const framework of frameworks) {
      const look = { d: PATHS.circle(6), stroke: "currentColor", fill: framework === "TensorFlow" ? "currentColor" : "none" };
      entry([node("path", { ...look, "stroke-width": 2 })], `${framework === "TensorFlow" ? "filled" : "open"}: ${framework}`);
    }
    entry(mark({ model: models[0], framework: "TensorFlow" }, true), "grey, crossed: dominated");
    return list;
  }

  function closer() {
    const box = node("input", { type: "checkbox" });
    box.addEventListener("change", () => {
      state.isNear = box.checked;
      draw();
    });
    const text = `only files within ${100 * NEAR} points of the most accurate`;
    return node("fieldset", {}, node("legend", {}, "a closer look"), node("label", {}, box, text));
  }

  const costs = Object.keys(COSTS).filter((column) => rows.some((row) => row[column] !== null));
  const where = selection("measured on", places.map((place) => [place, place]), state.place, (place) => {
    state.place = place;
    draw();
  });
  const cost = selection("accuracy against", costs.map((column) => [column, COSTS[column].name]), state.cost, (column) => {
    state.cost = column;
    where.hidden = column !== "latency_ms";
    draw();
  });
  where.hidden = true;
  const controls = node("div", { class: "edgelab-controls" }, cost, where);
  controls.append(boxes("technique", families), boxes("framework", frameworks), boxes("network", models), closer());
  const hint = "Point at a file, tap it, or use the arrow keys: Tab goes to the chart, Escape closes the note.";
  app.replaceChildren(controls, legend(), plot, said, node("p", { class: "edgelab-note" }, hint));
  plot.addEventListener("keydown", onKey);
  plot.addEventListener("pointerleave", () => plot.contains(document.activeElement) || choose(null));
  let drawn = 0;
  new ResizeObserver(() => {
    if (plot.clientWidth !== drawn) draw();
    drawn = plot.clientWidth;
  }).observe(plot);
})();
