"use strict";

const MOST_NAMED = 8; // of more runs, only the one at the pointer is named
const CHART = { width: 560, height: 230, left: 60, right: 12, top: 10, bottom: 28 };

/** Learning curves: training loss, validation loss and selection metric, and one of any others that the reader selects. */
function showCharts(container, runs) {
  const quantities = [...new Set(runs.flatMap((run) => Object.keys(run.curves)))].sort();
  if (!quantities.length) {
    container.append(el("p", { class: "note" }, "No learning curves: no CSV log in the run folder."));
    return;
  }
  const { metric } = runs.find((run) => run.metric in run.curves) ?? runs[0];
  const preferred = ["train/loss", `${metric.split("/")[0]}/loss`, metric];
  const fixed = preferred.filter((name) => quantities.includes(name));
  container.append(...fixed.map((name) => el("figure", {}, el("figcaption", {}, name), chart(name, runs))));
  if (fixed.length === quantities.length) return;

  const chosen = el("div", {});
  const [select, label] = choice("quantity", quantities.map((name) => [name, name]), () => draw());
  const draw = () => chosen.replaceChildren(chart(select.value, runs));
  select.value = quantities.includes("lr") ? "lr" : quantities[0];
  draw();
  container.append(el("figure", {}, el("figcaption", {}, label), chosen));
}

/** One quantity of every run over the training steps, with the values at the pointer below. */
function chart(quantity, runs) {
  const curves = runs.map((run) => run.curves[quantity] ?? [[], []]);
  const steps = curves.flatMap((curve) => curve[0]);
  const values = curves.flatMap((curve) => curve[1]);
  const lastStep = steps.reduce((most, step) => Math.max(most, step), 1);
  const ticks = niceTicks(Math.min(...values), Math.max(...values));
  const [low, high] = [ticks[0], ticks[ticks.length - 1]];
  const size = Math.max(-low, high);
  const isShort = size >= 0.01 && size < 1e5; // others would not fit beside the axis
  const tickText = (tick) => (isShort || !tick ? String(tick) : tick.toExponential().replace("e+", "e"));
  const innerWidth = CHART.width - CHART.left - CHART.right;
  const innerHeight = CHART.height - CHART.top - CHART.bottom;
  const x = (step) => CHART.left + (innerWidth * step) / lastStep;
  const y = (value) => CHART.top + innerHeight * (1 - (value - low) / (high - low));

  const summaries = runs.map((run, index) => summarize(run.name, curves[index][1]));
  const isNamed = runs.length <= MOST_NAMED;
  const many = `${runs.length} runs`;
  const drawing = svg("svg", {
    viewBox: `0 0 ${CHART.width} ${CHART.height}`,
    role: "img",
    "aria-label": `${quantity} over ${lastStep} training steps. ${isNamed ? summaries.join("; ") : many}`,
  });
  for (const tick of ticks) {
    drawing.append(
      svg("line", { class: "grid", x1: CHART.left, x2: CHART.width - CHART.right, y1: y(tick), y2: y(tick) }),
      svg("text", { x: CHART.left - 6, y: y(tick) + 4, "text-anchor": "end" }, tickText(tick)),
    );
  }
  for (const tick of niceTicks(0, lastStep).filter((step) => step <= lastStep)) {
    const attributes = { x: x(tick), y: CHART.height - 8, "text-anchor": "middle" };
    drawing.append(svg("text", attributes, tick.toLocaleString("en")));
  }
  runs.forEach((run, index) => {
    const [xs, ys] = curves[index];
    const points = xs.map((step, i) => `${x(step).toFixed(1)},${y(ys[i]).toFixed(1)}`);
    const color = `run-${run.colour ?? index}`;
    drawing.append(svg("polyline", { class: `curve ${color}${isNamed ? "" : " thin"}`, points: points.join(" ") }));
    const best = xs.indexOf(run.selected_step);
    if (best >= 0) drawing.append(svg("circle", { class: color, cx: x(xs[best]), cy: y(ys[best]), r: 5 }));
  });
  const lines = [...drawing.querySelectorAll("polyline")];

  const readout = el("p", { class: "readout" });
  const setReadout = (texts) => {
    const spans = texts.map((text, index) => el("span", { class: `run-${runs[index].colour ?? index}` }, text));
    readout.replaceChildren(...(isNamed ? spans : [`${many}; point at a curve to see its name`]));
  };
  const valueAt = (run, index, near) => {
    const [xs, ys] = curves[index];
    return near < 0 ? summaries[index] : `${run.name}: ${ys[near]} at step ${xs[near].toLocaleString("en")}`;
  };
  setReadout(summaries);
  drawing.addEventListener("pointermove", (event) => {
    const box = drawing.getBoundingClientRect();
    const step = ((((event.clientX - box.left) / box.width) * CHART.width - CHART.left) / innerWidth) * lastStep;
    const nears = curves.map((curve) => nearest(curve[0], step));
    if (isNamed) {
      setReadout(runs.map((run, index) => valueAt(run, index, nears[index])));
      return;
    }
    const height = ((event.clientY - box.top) / box.height) * CHART.height;
    const distance = (index) => (nears[index] < 0 ? Infinity : Math.abs(y(curves[index][1][nears[index]]) - height));
    const index = runs.reduce((best, _, other) => (distance(other) < distance(best) ? other : best), 0);
    lines.forEach((line, other) => line.classList.toggle("chosen", other === index));
    readout.replaceChildren(el("span", { class: `run-${runs[index].colour}` }, valueAt(runs[index], index, nears[index])));
  });
  drawing.addEventListener("pointerleave", () => {
    lines.forEach((line) => line.classList.remove("chosen"));
    setReadout(summaries);
  });
  return el("div", {}, drawing, readout);
}

function summarize(name, values) {
  if (!values.length) return `${name}: not logged`;
  return `${name}: ${values[0]} → ${values[values.length - 1]}`;
}

/** Index of the number closest to a value; -1 for an empty list. */
function nearest(numbers, value) {
  let best = -1;
  numbers.forEach((number, index) => {
    if (best < 0 || Math.abs(number - value) < Math.abs(numbers[best] - value)) best = index;
  });
  return best;
}

/** Three to seven round numbers whose range includes low and high. */
function niceTicks(low, high) {
  const range = high - low || Math.abs(high) || 1;
  const power = 10 ** Math.floor(Math.log10(range / 4));
  const unit = [1, 2, 5, 10].map((factor) => factor * power).find((size) => range / size <= 5);
  const [first, last] = [Math.floor(low / unit), Math.max(Math.ceil(high / unit), Math.floor(low / unit) + 1)];
  return Array.from({ length: last - first + 1 }, (_, i) => Number(((first + i) * unit).toPrecision(12)));
}
