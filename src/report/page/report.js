// Makes the drawings of a report answer: values under pointer and arrow keys, series on and off, the slider over mask
// snapshots, light and dark; and, where the page is served, keeps it up to date. All numbers come from the JSON in
// #report-data; text is only ever set as text, so names from a run cannot become markup.
"use strict";
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const WIDTH = 640;
  let figures = {};

  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
  const say = (text) => { document.getElementById("heard").textContent = text; };

  function node(name, attributes = {}, text = "") {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.textContent = text;
    return made;
  }

  function shape(name, attributes) {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  }

  // Numbers, by the rules of number.rs.
  function significant(value, digits) {
    if (value === 0) return "0";
    const exponent = Math.floor(Math.log10(Math.abs(value)));
    if (exponent < -4 || exponent >= 7) return String(Number(value.toPrecision(digits)).toExponential()).replace("+", "");
    return String(Number(value.toFixed(Math.max(0, digits - 1 - exponent))));
  }

  // From which size on, divided by what, called what.
  const UNITS = {
    bytes: [[2 ** 40, 2 ** 40, "TiB"], [2 ** 30, 2 ** 30, "GiB"], [2 ** 20, 2 ** 20, "MiB"], [2 ** 10, 2 ** 10, "KiB"], [0, 1, "B"]],
    seconds: [[7200, 3600, "h"], [120, 60, "min"], [1, 1, "s"], [1e-3, 1e-3, "ms"], [0, 1e-6, "µs"]],
    count: [[1e12, 1e12, "T"], [1e9, 1e9, "B"], [1e6, 1e6, "M"], [0, 1e3, "k"]],
  };

  function scaled(unit, value, digits) {
    const [, size, name] = UNITS[unit].find(([from]) => Math.abs(value) >= from);
    return `${significant(value / size, digits)} ${name}`;
  }

  function format(unit, value) {
    if (value === null || value === undefined || !Number.isFinite(value)) return "–";
    if (unit === "percent") return `${significant(100 * value, 3)} %`;
    if (unit === "bytes" || unit === "seconds") return scaled(unit, value, 3);
    if (unit === "count" && Math.abs(value) >= 1e5) return scaled(unit, value, 4);
    if (unit === "count" && Number.isInteger(value)) return value.toLocaleString("en-US");
    return significant(value, 4);
  }

  // Decimals that give the largest value of a chart four digits, so that its values line up; none where they need different
  // ones.
  function sharedDecimals(chart) {
    const largest = Math.max(0, ...chart.series.map((series) => Math.max(0, ...series.y.filter(Number.isFinite).map(Math.abs))));
    if (chart.y.unit !== "plain" || chart.y.log || largest < 0.01 || largest >= 1e5) return null;
    return clamp(3 - Math.floor(Math.log10(largest)), 0, 5);
  }

  function shown(chart, value) {
    if (chart.decimals === undefined) chart.decimals = sharedDecimals(chart);
    if (chart.decimals === null || !Number.isFinite(value)) return format(chart.y.unit, value);
    return value.toFixed(chart.decimals).replace(/^-(0\.?0*)$/, "$1");
  }

  // Series on and off.
  const isOn = (series) => !series.classList.contains("off");

  function applyLegend(figure) {
    const off = { name: new Set(), run: new Set() };
    for (const button of all(".legend button", figure)) {
      if (button.getAttribute("aria-pressed") === "false") off[button.dataset.switch].add(button.dataset.index);
    }
    for (const series of all(".series", figure)) {
      series.classList.toggle("off", off.name.has(series.dataset.name) || off.run.has(series.dataset.run));
    }
  }

  function setUpLegend(figure) {
    for (const button of all(".legend button", figure)) {
      button.disabled = false;
      button.addEventListener("click", () => {
        button.setAttribute("aria-pressed", String(button.getAttribute("aria-pressed") === "false"));
        applyLegend(figure);
      });
    }
  }

  // The box with values, beside the pointer.
  function showTip(plot, x, rows, heading) {
    const tip = plot.querySelector(".tip");
    tip.replaceChildren();
    if (heading) tip.append(node("strong", {}, heading));
    if (rows.length > 0) {
      const table = node("table");
      for (const { classes, glyph, name, value } of rows) {
        const row = table.insertRow();
        const sample = shape("svg", { viewBox: "0 0 24 10", "aria-hidden": "true" });
        const group = shape("g", { class: classes });
        group.append(shape("path", { class: "line", d: "M0 5h24" }));
        if (glyph) group.append(shape("path", { class: "glyph", d: glyph, transform: "translate(12 5)" }));
        sample.append(group);
        row.insertCell().append(sample);
        row.insertCell().textContent = name;
        row.insertCell().textContent = value;
      }
      tip.append(table);
    }
    tip.hidden = false;
    const width = plot.querySelector("svg").getBoundingClientRect().width;
    const at = (x / WIDTH) * width;
    const left = x < WIDTH / 2 ? at + 14 : at - tip.offsetWidth - 14;
    tip.style.left = `${clamp(left, plot.scrollLeft, Math.max(plot.scrollLeft, plot.scrollLeft + plot.clientWidth - tip.offsetWidth))}px`;
  }

  function hideTip(plot) {
    plot.querySelector(".tip").hidden = true;
    for (const made of all(".cursor, .spot", plot)) made.remove();
    for (const cell of all(".chosen", plot)) cell.classList.remove("chosen");
  }

  // Horizontal place of a pointer in units of the drawing.
  function pointerX(plot, event) {
    const box = plot.querySelector("svg").getBoundingClientRect();
    return ((event.clientX - box.left) / box.width) * WIDTH;
  }

  function part(axis, value) {
    const at = (v) => (axis.log ? Math.log(Math.max(v, Number.MIN_VALUE)) : v);
    return clamp((at(value) - at(axis.min)) / (at(axis.max) - at(axis.min)), 0, 1);
  }

  function nearest(column, x) {
    let low = 0;
    let high = column.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (column[middle] <= x) low = middle; else high = middle;
    }
    return Math.abs(column[low] - x) <= Math.abs(column[high] - x) ? low : high;
  }

  // Line charts: a cursor that jumps from point to point.
  function setUpLines(plot, chart) {
    const drawn = all(".series", plot);
    const { left, top, width, height } = chart.area;
    const places = () => {
      const visible = chart.series.filter((_, index) => isOn(drawn[index]));
      return [...new Set(visible.flatMap((series) => series.x))].sort((a, b) => a - b);
    };
    let current = null;

    function show(x) {
      hideTip(plot);
      current = x;
      const at = left + part(chart.x, x) * width;
      const layer = plot.querySelector("svg > g");
      layer.append(shape("path", { class: "cursor", d: `M${at} ${top}v${height}` }));
      const several = new Set(chart.series.map((series) => series.run)).size > 1;
      const rows = [];
      chart.series.forEach((series, index) => {
        if (!isOn(drawn[index])) return;
        const [first, last] = [series.x[0], series.x[series.x.length - 1]];
        if (x < first || x > last) return;
        const found = nearest(series.x, x);
        const y = top + (1 - part(chart.y, series.y[found])) * height;
        const classes = drawn[index].getAttribute("class");
        const spot = shape("circle", { class: "spot", cx: left + part(chart.x, series.x[found]) * width, cy: y, r: 4 });
        const group = shape("g", { class: classes.replace("series", "") });
        group.append(spot);
        layer.append(group);
        const span = series.low && series.low[found] < series.high[found]
          ? ` (${shown(chart, series.low[found])} to ${shown(chart, series.high[found])})` : "";
        rows.push({
          classes: classes.replace("series", ""),
          glyph: series.glyph,
          name: several && !series.name.startsWith(series.run) ? `${series.run} · ${series.name}` : series.name,
          // A line without a point here says where its value is from.
          value: shown(chart, series.y[found]) + span
            + (series.x[found] === x ? "" : ` at ${format("count", series.x[found])}`),
        });
      });
      const reach = (chart.x.max - chart.x.min) * 0.006;
      for (const mark of chart.marks.filter((mark) => Math.abs(mark.x - x) <= reach).slice(0, 4)) {
        rows.push({ classes: "c6", name: mark.text, value: "" });
      }
      const heading = `${chart.x.label} ${format("count", x)}`;
      showTip(plot, at, rows, heading);
      return `${heading}: ${rows.map((row) => `${row.name} ${row.value}`).join(", ")}`;
    }

    const close = () => { hideTip(plot); current = null; };
    const follow = (event) => {
      const known = places();
      if (known.length === 0) return;
      const x = chart.x.min + ((pointerX(plot, event) - left) / width) * (chart.x.max - chart.x.min);
      show(known[nearest(known, x)]);
    };
    plot.addEventListener("pointermove", follow);
    plot.addEventListener("pointerdown", follow);
    plot.addEventListener("pointerleave", close);
    plot.addEventListener("blur", close);
    plot.addEventListener("keydown", (event) => {
      const known = places();
      if (event.key === "Escape") return close();
      const now = current === null ? -1 : nearest(known, current);
      const next = {
        ArrowRight: now + 1, ArrowLeft: now < 0 ? known.length - 1 : now - 1, PageUp: now + 10, PageDown: now - 10,
        Home: 0, End: known.length - 1,
      }[event.key];
      if (next === undefined || known.length === 0) return;
      event.preventDefault();
      say(show(known[clamp(next, 0, known.length - 1)]));
    });
  }

  // Heat maps: cells by pointer and arrow keys; frames by the slider.
  function setUpMap(plot, map) {
    const cells = all(".cells .cell", plot);
    const bytes = Uint8Array.from(atob(map.cells), (character) => character.charCodeAt(0));
    const size = map.rows * map.columns;
    map.frame = map.steps.length - 1;
    map.gate = (cell) => bytes[map.frame * size + cell] / 255;
    map.show = (frame) => {
      map.frame = clamp(frame, 0, map.steps.length - 1);
      cells.forEach((cell, index) => {
        const shade = Math.floor((bytes[map.frame * size + index] * 10 + 127) / 255);
        cell.setAttribute("class", `cell g${shade}${map.kept[index] ? " kept" : ""}`);
      });
      hideTip(plot);
    };
    let current = -1;

    function choose(index) {
      hideTip(plot);
      current = index;
      cells[index].classList.add("chosen");
      const [row, column] = [Math.floor(index / map.columns), index % map.columns];
      const kept = map.kept.length === 0 ? "" : map.kept[index] ? ", kept by the cut" : ", removed by the cut";
      const text = `${map.row} ${row}, ${map.column} ${column}: gate ${map.gate(index).toFixed(2)}${kept}`;
      showTip(plot, Number(cells[index].getAttribute("x")), [], text);
      return text;
    }

    const follow = (event) => {
      const index = cells.indexOf(event.target);
      if (index >= 0 && index !== current) choose(index);
    };
    const close = () => { hideTip(plot); current = -1; };
    plot.addEventListener("pointermove", follow);
    plot.addEventListener("pointerdown", follow);
    plot.addEventListener("pointerleave", close);
    plot.addEventListener("blur", close);
    plot.addEventListener("keydown", (event) => {
      if (event.key === "Escape") return close();
      const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: map.columns, ArrowUp: -map.columns }[event.key];
      if (step === undefined) return;
      event.preventDefault();
      const next = current < 0 ? 0 : current + step;
      say(choose(next >= 0 && next < cells.length ? next : current));
    });
  }

  function setUpSlider(slider) {
    const input = slider.querySelector("input");
    const maps = slider.dataset.maps.split(" ").map((id) => figures[id]).filter(Boolean);
    const apply = () => {
      const frame = Number(input.value);
      for (const map of maps) map.show(frame);
      const [map] = maps;
      const text = `step ${format("count", map.steps[frame])}`;
      slider.querySelector("output").textContent = text;
      input.setAttribute("aria-valuetext", text);
      all("dd", slider).forEach((place, index) => { place.textContent = map.numbers[frame][index]?.[1] ?? "–"; });
    };
    input.disabled = false;
    input.addEventListener("input", apply);
    slider.apply = apply;
  }

  // Dots and bars: each carries its own text.
  function setUpRows(plot) {
    const marks = () => all("[data-tip]", plot).filter((mark) => isOn(mark.closest(".series")));
    let current = -1;
    const show = (mark) => {
      const x = Number(mark.dataset.x ?? mark.getAttribute("cx") ?? mark.getAttribute("x"));
      showTip(plot, x, [], mark.dataset.tip);
      return mark.dataset.tip;
    };
    const follow = (event) => { if (event.target.dataset?.tip) show(event.target); else hideTip(plot); };
    plot.addEventListener("pointermove", follow);
    plot.addEventListener("pointerdown", follow);
    plot.addEventListener("pointerleave", () => hideTip(plot));
    plot.addEventListener("blur", () => hideTip(plot));
    plot.addEventListener("keydown", (event) => {
      const known = marks();
      if (event.key === "Escape") return hideTip(plot);
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (step === undefined || known.length === 0) return;
      event.preventDefault();
      current = clamp(current + step, 0, known.length - 1);
      say(show(known[current]));
    });
  }

  function start() {
    figures = JSON.parse(document.getElementById("report-data").textContent).figures;
    for (const figure of all("figure[data-figure]")) {
      const data = figures[figure.dataset.figure];
      const plot = figure.querySelector(".plot");
      setUpLegend(figure);
      if (data.kind === "line") {
        setUpLines(plot, data);
        // On a narrow screen the newest side is the one to see first.
        plot.scrollLeft = plot.scrollWidth;
      }
      if (data.kind === "map") setUpMap(plot, data);
      if (data.kind === "rows") setUpRows(plot);
    }
    all(".slider").forEach(setUpSlider);
  }

  function setUpTheme() {
    const button = document.getElementById("theme");
    const themes = ["system", "light", "dark"];
    let now = 0;
    button.hidden = false;
    button.addEventListener("click", () => {
      now = (now + 1) % themes.length;
      if (now === 0) delete document.documentElement.dataset.theme;
      else document.documentElement.dataset.theme = themes[now];
      button.textContent = `Colours: ${themes[now]}`;
    });
  }

  // Served: what the reader has set stays, what the run has added appears.
  function remembered() {
    return {
      off: all('.legend button[aria-pressed="false"]').map((button) => button.id),
      open: all("details[open]").map((details) => details.id),
      sliders: all(".slider input").map((input) => [input.id, input.value === input.max ? null : input.value]),
      focus: document.activeElement?.id,
      scroll: all(".plot").map((plot) => [plot.id, plot.scrollLeft]),
    };
  }

  function restore(state) {
    const find = (id) => (id ? document.getElementById(id) : null);
    for (const id of state.off) find(id)?.setAttribute("aria-pressed", "false");
    all("figure[data-figure]").forEach(applyLegend);
    for (const id of state.open) { const details = find(id); if (details) details.open = true; }
    for (const [id, value] of state.sliders) {
      const input = find(id);
      if (input && value !== null) { input.value = value; input.closest(".slider").apply(); }
    }
    for (const [id, left] of state.scroll) { const plot = find(id); if (plot) plot.scrollLeft = left; }
    find(state.focus)?.focus({ preventScroll: true });
  }

  function follow() {
    const status = document.getElementById("live");
    let version = null;
    const look = async () => {
      try {
        const answer = await fetch("/", { cache: "no-store", headers: version ? { "If-None-Match": version } : {} });
        if (answer.status === 200) {
          const first = version === null;
          version = answer.headers.get("ETag");
          const page = new DOMParser().parseFromString(await answer.text(), "text/html");
          const changed = page.getElementById("report-data").textContent !== document.getElementById("report-data").textContent;
          if (changed || !first) {
            const state = remembered();
            for (const id of ["runs", "sections", "main", "report-data"]) document.getElementById(id).replaceWith(document.adoptNode(page.getElementById(id)));
            start();
            restore(state);
          }
          status.textContent = "Live: up to date";
        } else if (answer.status !== 304) {
          status.textContent = `Live: ${(await answer.text()).trim()}`;
        } else {
          status.textContent = "Live: up to date";
        }
      } catch {
        status.textContent = "Live: the server has stopped; this is the last it said";
      }
      setTimeout(look, 2000);
    };
    look();
  }

  start();
  setUpTheme();
  if (document.body.dataset.live) follow();
})();
