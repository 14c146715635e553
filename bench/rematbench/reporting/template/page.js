"use strict";
// Names come from models and files: they go into the page by textContent, and into charts by plain().
const DATA = JSON.parse(document.getElementById("data").textContent);
const $ = (selector, within = document) => within.querySelector(selector);
const $$ = (selector, within = document) => [...within.querySelectorAll(selector)];
// Okabe and Ito's palette, told apart by colour-blind readers too; series also differ by symbol and dash.
const COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"];
const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "cross", "pentagon"];
const DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot"];
const KINDS = { kept: "#0072B2", recomputed: "#D55E00", transient: "#E69F00", gradients: "#009E73", optimizer: "#CC79A7", static: "#8a8f96" };
const PHASES = { forward: "#56B4E9", backward: "#E69F00", optimizer: "#CC79A7" };
const RECOMPUTED = "#D55E00";
const BYTES = [[2 ** 30, "GiB"], [2 ** 20, "MiB"], [2 ** 10, "KiB"], [1, "B"]];
const SECONDS = [[1, "s"], [1e-3, "ms"], [1e-6, "µs"]];
const FLOPS = [[1e12, "TFLOP"], [1e9, "GFLOP"], [1e6, "MFLOP"], [1e3, "kFLOP"], [1, "FLOP"]];
const SIZES = { "": 1, B: 1, kB: 1e3, KB: 1e3, MB: 1e6, GB: 1e9, TB: 1e12, KiB: 2 ** 10, MiB: 2 ** 20, GiB: 2 ** 30, TiB: 2 ** 40 };
const SHOWN = 6;
const QUIET = { responsive: true, displayModeBar: false };
const state = { cost: "time", budget: { share: 0.6 }, chosen: new Map() };

DATA.rows.forEach((row, id) => { row.id = id; });
DATA.models.forEach((model, at) => { model.rows = DATA.rows.filter((row) => row.model === at); model.node = $(`#model-${at}`); });

const sums = (steps) => { let sum = 0; return steps.map((step) => (sum += step)); };
const unit = (value, scale) => scale.find(([factor]) => Math.abs(value) >= factor) ?? scale.at(-1);
const show = (value, scale) => { const [factor, name] = unit(value, scale); return `${+(value / factor).toPrecision(3)} ${name}`; };
const dark = () => getComputedStyle(document.documentElement).colorScheme === "dark";
const colourOf = (at) => (dark() && at % COLOURS.length === 0 ? "#56B4E9" : COLOURS[at % COLOURS.length]);
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const plain = (text) => String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
const hover = (lines) => lines.map((line) => plain(line.length > 120 ? `${line.slice(0, 119)}…` : line)).join("<br>");
const scale = () => (state.cost === "time" ? SECONDS : FLOPS);
const cost = (row) => (state.cost === "time" ? row.time?.[0] : row.flops) ?? null;
const drawn = (row) => row.peak !== null && cost(row) !== null;

function element(tag, text = "", className = "") {
  const node = document.createElement(tag);
  node.textContent = text;
  node.className = className;
  return node;
}

// Memory I have

function parseBudget(text) {
  const found = /^(\d+(?:\.\d+)?)\s*(%|[A-Za-z]*)$/.exec(text.trim());
  if (!found || +found[1] <= 0) return null;
  if (found[2] === "%") return { share: found[1] / 100 };
  return found[2] in SIZES ? { total: found[1] * SIZES[found[2]] } : null;
}

function limit(series) {
  if (state.budget.total !== undefined) return state.budget.total - (series.static_bytes ?? 0);
  return series.plain_bytes === null ? null : state.budget.share * series.plain_bytes;
}

// What a step may take at most on the device; null where that is not known.
function capacity(series) {
  return series.capacity_bytes === null ? null : series.capacity_bytes - (series.static_bytes ?? 0);
}

function fitting(model, at) {
  const most = limit(model.series[at]);
  if (most === null) return [];
  const rows = model.rows.filter((row) => row.series === at && drawn(row) && row.peak <= most && row.same);
  return rows.sort((one, other) => cost(one) - cost(other) || one.peak - other.peak);
}

const answer = (model, at) => fitting(model, at)[0] ?? null;

function answerText(model, at) {
  const series = model.series[at], most = limit(series), best = answer(model, at);
  const name = model.series.length > 1 ? `${series.label}: ` : "";
  if (most === null) return `${name}there is no peak of none to take per cent of; give a size.`;
  const asked = state.budget.share === undefined ? `${show(state.budget.total, BYTES)} in all` : `${+(100 * state.budget.share).toFixed(1)} % of none's peak`;
  const room = `${asked} (${show(Math.max(most, 0), BYTES)} above the start of the step)`;
  if (!best) return name + nothingFits(model, at, room);
  const plainRow = model.rows.find((row) => row.series === at && row.plain);
  const ratio = state.cost === "time" && plainRow?.time && best.time ? `, ${times(best.time[0] / plainRow.time[0])} none's step time${interval(best, plainRow)}` : "";
  const price = state.cost === "time" ? `${show(cost(best), SECONDS)} a step${ratio}` : `${show(cost(best), FLOPS)} recomputed`;
  return `${name}Within ${room}, the cheapest placement is ${best.name}: it peaks at ${show(best.peak, BYTES)} for ${price}. ${sameness(best, fitting(model, at))}`;
}

const times = (ratio) => `${ratio.toFixed(2)}×`;

function interval(row, plainRow) {
  const [, low, high] = row.time.map((end) => (end === null ? null : end / plainRow.time[0]));
  if (row.plain || low === null || high === null) return "";
  return ` (95 % interval ${low.toFixed(2)} to ${high.toFixed(2)}${low < 1 && high > 1 ? ": not told from none's" : ""})`;
}

function sameness(row, rows) {
  if (row.plain) return "That is no checkpointing at all.";
  if (row.buffers === null) return "Whether training stays the same was not judged.";
  if (row.buffers === "equal") return "Training stays the same.";
  const equal = rows.find((other) => other.buffers === "equal");
  return `Its gradients are none's, but buffers end up different${equal ? `; the cheapest that leaves them equal is ${equal.name}, ${show(equal.peak, BYTES)} for ${show(cost(equal), scale())}` : ""}.`;
}

function nothingFits(model, at, room) {
  const rows = model.rows.filter((row) => row.series === at && row.peak !== null);
  if (!rows.length) return "nothing here has a peak.";
  if (!rows.some(drawn)) return state.cost === "time" ? "no placement was timed; choose recomputed FLOPs." : "no operations were counted; choose step time.";
  const lowest = least(rows);
  return `No placement measured fits ${room}; the least is ${lowest.name} with ${show(lowest.peak, BYTES)}.`;
}

const least = (rows) => rows.reduce((one, other) => (one === null || other.peak < one.peak ? other : one), null);

// The trade

function axes(title) {
  return { title: { text: title, standoff: 8 }, color: css("--faint"), gridcolor: css("--rule"), zerolinecolor: css("--rule"), automargin: true, fixedrange: true };
}

function layout(more) {
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: css("--ink"), size: 12, family: "system-ui, sans-serif" },
    margin: { l: 10, r: 16, t: 24, b: 10 }, showlegend: false, hovermode: "closest", dragmode: false,
    hoverlabel: { align: "left", bgcolor: css("--raised"), bordercolor: css("--rule"), font: { color: css("--ink") } }, ...more,
  };
}

function points(model, at, kept, units) {
  const rows = model.rows.filter((row) => row.series === at && drawn(row) && (row.plain || row.frontier[state.cost]) === kept);
  const colour = colourOf(at), chosen = chosenOf(model), best = answer(model, at);
  const ends = (side) => rows.map((row) => (row.time?.[side] == null ? 0 : Math.abs(row.time[side] - row.time[0]) / units.x));
  return {
    type: "scatter", name: plain(model.series[at].label), legendgroup: `${at}`, showlegend: kept && model.series.length > 1,
    mode: "markers+text", opacity: kept ? 1 : 0.45,
    x: rows.map((row) => cost(row) / units.x), y: rows.map((row) => row.peak / units.y), customdata: rows.map((row) => row.id),
    text: rows.map((row) => (kept || chosen.has(row.id) ? plain(row.name) : "")), textposition: "top right", textfont: { size: 11 }, cliponaxis: false,
    hoverinfo: "text", hovertext: rows.map((row) => hover(row.hover)),
    error_x: { visible: state.cost === "time", type: "data", array: ends(2), arrayminus: ends(1), thickness: 1, width: 3, color: colour },
    marker: {
      color: colour, symbol: rows.map((row) => (row.plain ? "star" : `${SYMBOLS[at % SYMBOLS.length]}${row.same ? "" : "-open"}`)),
      size: rows.map((row) => (row.plain ? 15 : row === best ? 13 : 10)),
      line: { width: rows.map((row) => (chosen.has(row.id) ? 3 : 0)), color: css("--ink") },
    },
  };
}

function frontierLine(model, at, units) {
  const rows = model.rows.filter((row) => row.series === at && drawn(row) && row.frontier[state.cost]).sort((one, other) => one.peak - other.peak);
  return {
    type: "scatter", mode: "lines", hoverinfo: "skip", showlegend: false, legendgroup: `${at}`,
    x: rows.map((row) => cost(row) / units.x), y: rows.map((row) => row.peak / units.y),
    line: { color: colourOf(at), width: 1.5, dash: DASHES[at % DASHES.length] },
  };
}

function outOfMemory(model, units, top) {
  const rows = model.rows.filter((row) => row.status === "out_of_memory");
  const widest = Math.max(...model.rows.map((row) => cost(row) ?? 0), units.x) / units.x;
  return {
    type: "scatter", mode: "markers+text", name: "out of memory", customdata: rows.map((row) => row.id),
    x: rows.map((_, place) => (widest * (place + 0.5)) / rows.length), y: rows.map(() => top), cliponaxis: false,
    text: rows.map((row) => plain(row.name)), textposition: "bottom center", hoverinfo: "text", hovertext: rows.map((row) => hover(row.hover)),
    marker: { symbol: "x", size: 11, color: KINDS.recomputed }, showlegend: false,
  };
}

function line(y, text, colour) {
  return {
    shape: { type: "line", xref: "paper", x0: 0, x1: 1, y0: y, y1: y, line: { color: colour, width: 1.5, dash: "dash" } },
    note: { xref: "paper", x: 1, xanchor: "right", y, yanchor: "bottom", showarrow: false, text: plain(text), font: { color: colour, size: 11 } },
  };
}

function drawTrade(model) {
  const node = $(".trade", model.node), shown = model.rows.filter(drawn);
  const failed = model.rows.some((row) => row.status === "out_of_memory");
  if (!shown.length && !failed) return void Plotly.purge(node), void node.replaceChildren(element("p", missing(model), "faint"));
  if (!node.data) node.replaceChildren();
  const highest = Math.max(...shown.map((row) => row.peak), 1), widest = Math.max(...shown.map(cost), scale().at(-1)[0]);
  const units = { x: unit(widest, scale())[0], y: unit(highest, BYTES)[0] };
  const rooms = new Set(model.series.map(capacity).filter((most) => most > 0 && most < 4 * highest));
  const top = Math.max(1.18 * highest, ...(failed ? rooms : [])) / units.y, xs = shown.map((row) => cost(row) / units.x);
  const limits = new Set(model.series.map(limit).filter((most) => most > 0 && most < 1.15 * highest));
  const lines = [...limits].map((most) => line(most / units.y, budgetLabel(model, most), css("--ink")));
  for (const most of rooms) if (most / units.y < top) lines.push(line(most / units.y, "all of the device's memory", css("--faint")));
  if (failed) lines.push(line(top, "ran out of memory", KINDS.recomputed));
  const traces = model.series.flatMap((_, at) => [frontierLine(model, at, units), points(model, at, false, units), points(model, at, true, units)]);
  const margin = (Math.max(...xs, 0) - Math.min(...xs, 0)) * 0.14 || 1;
  Plotly.react(node, failed ? [...traces, outOfMemory(model, units, top)] : traces, layout({
    xaxis: { ...axes(`${state.cost === "time" ? "step time" : "recomputed"} (${unit(widest, scale())[1]})`), range: [xs.length ? Math.max(Math.min(...xs) - margin, state.cost === "time" ? 0 : -margin) : 0, Math.max(...xs, 0) + 1.8 * margin] },
    yaxis: { ...axes(`peak above the step's start (${unit(highest, BYTES)[1]})`), range: [0, failed ? 1.1 * top : top] },
    shapes: lines.map((one) => one.shape), annotations: lines.map((one) => one.note),
    showlegend: model.series.length > 1, legend: { orientation: "h", y: -0.2, itemclick: "toggle" },
  }), QUIET);
  if (!node.wired) node.wired = node.on("plotly_click", (event) => toggle(event.points[0].customdata));
}

function budgetLabel(model, most) {
  const whose = model.series.filter((series) => limit(series) === most);
  const what = state.budget.share === undefined ? `${show(state.budget.total, BYTES)} in all` : `${+(100 * state.budget.share).toFixed(1)} % of none`;
  return whose.length < model.series.length ? `${what}, ${whose.map((series) => series.label).join(", ")}` : what;
}

function missing(model) {
  if (!model.rows.some((row) => row.peak !== null)) return "No placement of this model has a peak: there is nothing to draw. The table says why.";
  return state.cost === "time" ? "Nothing was timed here: choose recomputed FLOPs above." : "No operations were counted here: choose step time above.";
}

// What is chosen

function chosenOf(model) {
  const own = state.chosen.get(model);
  if (own) return own;
  const first = [model.rows.find((row) => row.plain && row.peak !== null), answer(model, 0) ?? least(model.rows.filter((row) => !row.plain && row.same && row.peak !== null))];
  return new Set(first.filter(Boolean).map((row) => row.id));
}

function toggle(id) {
  const model = DATA.models[DATA.rows[id].model], chosen = new Set(chosenOf(model));
  if (!chosen.delete(id)) chosen.add(id);
  state.chosen.set(model, new Set([...chosen].slice(-SHOWN)));
  draw(model);
  markRows();
}

function markRows() {
  const chosen = new Set(DATA.models.flatMap((model) => [...chosenOf(model)]));
  for (const node of $$("tbody tr")) {
    node.classList.toggle("chosen", chosen.has(+node.dataset.row));
    $(".pick", node).setAttribute("aria-pressed", chosen.has(+node.dataset.row));
  }
}

// The cards: a step over time, what held its peak, and the placement over the blocks

function drawCards(model) {
  const place = $(".cards", model.node), rows = [...chosenOf(model)].map((id) => DATA.rows[id]);
  $$(".js-plotly-plot", place).forEach(Plotly.purge);
  place.replaceChildren(...rows.map((row) => card(model, row)));
  const ends = {
    bytes: Math.max(...rows.map((row) => row.peak ?? 0)),
    held: Math.max(...model.rows.flatMap((row) => row.held ?? [0])), total: Math.max(...rows.map((row) => Math.max(row.peak ?? 0, row.static ?? 0))),
  };
  rows.forEach((row, at) => {
    const node = place.children[at];
    if (row.timeline) drawTimeline($(".timeline", node), row, ends);
    if (row.shares?.length) drawShares($(".shares", node), row, ends);
    if (row.regions) drawStrip($(".strip", node), row, model.series[row.series], ends);
  });
}

function card(model, row) {
  const node = element("article", "", "card"), head = element("header"), close = element("button", "×", "close");
  close.type = "button";
  close.setAttribute("aria-label", `put ${row.name} away`);
  close.addEventListener("click", () => toggle(row.id));
  head.append(element("h3", model.series.length > 1 ? `${row.name} · ${model.series[row.series].label}` : row.name), close);
  node.append(head, ...row.hover.slice(2).map((text) => element("p", text, "faint")));
  if (row.timeline) node.append(element("h4", "The step over time"), element("div", "", "timeline"), legend([...row.timeline.phases.map(([phase]) => [PHASES[phase], phase]), ...(row.timeline.recomputed.length ? [[RECOMPUTED, "recomputing"]] : [])]));
  if (row.shares?.length) node.append(element("h4", "What is held at the peak"), element("div", "", "shares"), legend(kindTotals(row)));
  if (row.regions) node.append(element("h4", "Blocks in their order, darker for more kept after forward; recomputed regions beneath, skips above"), element("div", "", "strip"));
  if (!row.timeline && !row.regions) node.append(element("p", "The step over time and the blocks were not recorded for this row.", "faint"));
  return node;
}

function legend(entries) {
  const node = element("p");
  for (const [colour, text] of entries) {
    const key = element("span", "", "key"), chip = element("span", "", "chip");
    chip.style.background = colour;
    key.append(chip, text);
    node.append(key);
  }
  return node;
}

function kindTotals(row) {
  const totals = new Map();
  for (const [kind, , , bytes] of row.shares) totals.set(kind, (totals.get(kind) ?? 0) + bytes);
  const entries = [...totals].map(([kind, bytes]) => [KINDS[kind], `${kind} ${show(bytes, BYTES)}`]);
  return row.static ? [...entries, [KINDS.static, `there before ${show(row.static, BYTES)}`]] : entries;
}

function drawTimeline(node, row, ends) {
  const { phases, recomputed } = row.timeline, us = sums(row.timeline.us), bytes = sums(row.timeline.bytes), end = us.at(-1), time = unit(end / 1e6, SECONDS), size = unit(ends.bytes, BYTES);
  const x = (value) => value / 1e6 / time[0], peak = bytes.indexOf(Math.max(...bytes));
  const band = (start, end, colour, opacity, y0 = 0) => ({ type: "rect", layer: "below", yref: "paper", y0, y1: 1, x0: x(start), x1: x(end), fillcolor: colour, opacity, line: { width: 0 } });
  const during = (at) => recomputed.filter(([, start, end]) => start <= at && at <= end).map(([block]) => `recomputing ${block}`);
  Plotly.newPlot(node, [{
    type: "scatter", mode: "lines", x: us.map(x), y: bytes.map((value) => value / size[0]), fill: "tozeroy", fillcolor: `${COLOURS[0]}33`,
    line: { shape: "hv", width: 1.5, color: css("--mark") }, hoverinfo: "text",
    hovertext: us.map((at, place) => hover([`${show(bytes[place], BYTES)} at ${show(at / 1e6, SECONDS)}`, ...during(at)])),
  }, {
    type: "scatter", mode: "markers+text", x: [x(us[peak])], y: [bytes[peak] / size[0]], marker: { color: css("--ink"), size: 8, symbol: "diamond" },
    text: [`peak ${show(bytes[peak], BYTES)}`], textposition: us[peak] > end / 2 ? "top left" : "top right", hoverinfo: "text", hovertext: [`peak: ${bytes[peak].toLocaleString("en")} bytes`], cliponaxis: false,
  }], layout({
    height: 210, margin: { l: 10, r: 10, t: 8, b: 10 },
    xaxis: { ...axes(`${time[1]}, slowed by the meter`), range: [0, x(end)] }, yaxis: { ...axes(size[1]), range: [0, (1.18 * ends.bytes) / size[0]], nticks: 5 },
    shapes: [...phases.map(([phase, start, end]) => band(start, end, PHASES[phase], 0.16)), ...recomputed.map(([, start, end]) => band(start, end, RECOMPUTED, 0.8, 0.92))],
  }), QUIET);
}

function drawShares(node, row, ends) {
  const size = unit(ends.total, BYTES), shares = [...row.shares].sort((one, other) => Object.keys(KINDS).indexOf(one[0]) - Object.keys(KINDS).indexOf(other[0]));
  let sum = 0;
  const bars = shares.map(([kind, words, block, bytes]) => { sum += bytes; return { kind, bytes, base: sum - bytes, text: [`${show(bytes, BYTES)}: ${words}`, block], y: "at the peak" }; });
  if (row.static) bars.push({ kind: "static", bytes: row.static, base: 0, text: [`${show(row.static, BYTES)}: parameters, buffers, batch, optimizer state`, "there before the step, on top of the peak"], y: "before" });
  Plotly.newPlot(node, [{
    type: "bar", orientation: "h", x: bars.map((bar) => bar.bytes / size[0]), base: bars.map((bar) => bar.base / size[0]), y: bars.map((bar) => bar.y),
    marker: { color: bars.map((bar) => KINDS[bar.kind]), line: { color: css("--paper"), width: 1 } }, hoverinfo: "text", hovertext: bars.map((bar) => hover(bar.text)), textposition: "none",
  }], layout({ height: 110, margin: { l: 10, r: 10, t: 4, b: 10 }, barmode: "overlay", bargap: 0.25, xaxis: { ...axes(size[1]), range: [0, (1.02 * ends.total) / size[0]] }, yaxis: { ...axes(""), autorange: "reversed" } }), QUIET);
}

function drawStrip(node, row, series, ends) {
  const { blocks, skips } = series, count = blocks.length, deepest = Math.max(-1, ...row.regions.map(([, , , depth]) => depth));
  const kept = blocks.map((_, at) => row.held?.[at] ?? null), rise = skips.length ? 2.2 : 0, few = count <= 10;
  const under = (depth) => -0.75 - 0.55 * depth;
  const wide = 7 * blocks.join(" ").length < node.clientWidth, short = (block) => plain(wide ? block : block.split(".").at(-1));
  const bracket = ([, first, last, depth]) => ({ type: "path", path: `M ${first - 0.42} ${under(depth) + 0.25} L ${first - 0.42} ${under(depth)} L ${last + 0.42} ${under(depth)} L ${last + 0.42} ${under(depth) + 0.25}`, line: { color: RECOMPUTED, width: 2.5 } });
  const height = ([source, target]) => 0.5 + (rise * (target - source)) / Math.max(...skips.map((skip) => skip[1] - skip[0]), 1);
  const arc = (skip) => ({ type: "path", path: `M ${skip[0]} 0.5 Q ${(skip[0] + skip[1]) / 2} ${2 * height(skip) - 0.5} ${skip[1]} 0.5`, line: { color: KINDS.optimizer, width: 2 } });
  Plotly.newPlot(node, [{
    type: "heatmap", z: [kept], y: [0], x: blocks.map((_, at) => at), xgap: 3, colorscale: "Cividis", reversescale: true, zmin: 0, zmax: Math.max(ends.held, 1), showscale: false,
    text: [kept.map((bytes) => (few && bytes !== null ? show(bytes, BYTES).replace(" ", "<br>") : ""))], texttemplate: "%{text}", textfont: { size: 10 },
    hoverinfo: "text", hovertext: [blocks.map((block, at) => hover([block, kept[at] === null ? "not told apart" : `keeps ${show(kept[at], BYTES)}`]))],
  }, {
    type: "scatter", mode: "markers", marker: { size: 14, color: "rgba(0,0,0,0)" }, hoverinfo: "text",
    x: [...row.regions.map(([, first, last]) => (first + last) / 2), ...skips.map(([source, target]) => (source + target) / 2)],
    y: [...row.regions.map(([, , , depth]) => under(depth)), ...skips.map(height)],
    hovertext: [...row.regions.map(([text]) => hover([`region ${text}`])), ...skips.map(([source, target, bytes, shape]) => hover([`skip ${blocks[source] ?? "the batch"} → ${blocks[target]}`, `${show(bytes, BYTES)}, ${shape.join("×")}`]))],
  }], layout({
    height: 62 + 26 * (deepest + 1) + (skips.length ? 56 : 0) + 40, margin: { l: 4, r: 4, t: 4, b: 4 }, shapes: [...row.regions.map(bracket), ...skips.map(arc)],
    xaxis: { ...axes(""), showgrid: false, zeroline: false, range: [(skips.some(([source]) => source < 0) ? -1 : 0) - 0.6, count - 0.4], tickvals: few ? blocks.map((_, at) => at) : undefined, ticktext: few ? blocks.map(short) : undefined, nticks: few ? undefined : 12, tickangle: 0 },
    yaxis: { visible: false, fixedrange: true, range: [under(deepest) - 0.3, 0.6 + rise + (rise ? 0.2 : 0)] },
  }), QUIET);
}

// The page

const near = new Set(), waiting = new Set();
const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    const model = DATA.models.find((one) => one.node === entry.target);
    if (entry.isIntersecting && !near.has(model)) waiting.add(model);
    else waiting.delete(model);
  }
  drawNext();
}, { rootMargin: "300px" });

// One at a time, and after the browser has looked again: the cards of one push the next out of sight.
function drawNext() {
  if (waiting.size) requestAnimationFrame(() => requestAnimationFrame(() => {
    const model = DATA.models.find((one) => waiting.delete(one));
    if (!model) return;
    near.add(model);
    draw(model);
    drawNext();
  }));
}

function draw(model) {
  $(".answer", model.node).replaceChildren(...model.series.map((_, at) => element("div", answerText(model, at))));
  if (!near.has(model)) return;
  drawTrade(model);
  drawCards(model);
}

const drawAll = () => { DATA.models.forEach(draw); markRows(); };

function setBudget(text) {
  const budget = parseBudget(text);
  $("#budget").classList.toggle("wrong", !budget);
  $("#budget").setAttribute("aria-invalid", !budget);
  if (!budget) return;
  state.budget = budget;
  if (budget.share) $("#slide").value = Math.round(100 * budget.share);
  drawAll();
}

function sortBy(heading) {
  const at = [...heading.parentNode.children].indexOf(heading), down = heading.getAttribute("aria-sort") === "ascending";
  $$("th").forEach((other) => other.removeAttribute("aria-sort"));
  heading.setAttribute("aria-sort", down ? "descending" : "ascending");
  const number = heading.classList.contains("number"), body = $("tbody");
  const key = (row) => row.children[at].dataset.key;
  const compare = (one, other) => (number ? one - other : one.localeCompare(other)) * (down ? -1 : 1);
  body.append(...[...body.children].sort((one, other) => (key(one) === undefined) - (key(other) === undefined) || (key(one) === undefined ? 0 : compare(key(one), key(other)))));
}

function filter(text) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  for (const row of $$("tbody tr")) row.hidden = !words.every((word) => row.textContent.toLowerCase().includes(word));
  $("#count").textContent = `${$$("tbody tr:not([hidden])").length} of ${DATA.rows.length} rows`;
}

function markdown() {
  const shown = (row) => [...row.children].filter((cell) => getComputedStyle(cell).display !== "none");
  const cell = (node) => node.textContent.trim().replace(/\s+/g, " ").replace(/[\\|`*_<>[\]]/g, (sign) => (sign === "<" ? "&lt;" : sign === ">" ? "&gt;" : `\\${sign}`));
  const head = shown($("thead tr")), one = (cells) => `| ${cells.join(" | ")} |\n`;
  const rule = head.map((node) => (node.classList.contains("number") ? "---:" : "---"));
  return [head.map(cell), rule, ...$$("tbody tr:not([hidden])").map((row) => shown(row).map(cell))].map(one).join("");
}

function copy() {
  const box = $("#markdown");
  box.hidden = false;
  box.value = markdown();
  box.select();
  navigator.clipboard?.writeText(box.value).catch(() => document.execCommand("copy"));
}

function switchTheme() {
  document.documentElement.dataset.theme = dark() ? "light" : "dark";
  drawAll();
}

$("#controls").addEventListener("submit", (event) => event.preventDefault());
$("#budget").addEventListener("change", (event) => setBudget(event.target.value));
$("#slide").addEventListener("input", (event) => { $("#budget").value = `${event.target.value} %`; setBudget($("#budget").value); });
$$("[name=cost]").forEach((node) => node.addEventListener("change", () => { state.cost = node.value; drawAll(); }));
$("#theme").addEventListener("click", switchTheme);
$("#filter").addEventListener("input", (event) => filter(event.target.value));
$("#copy").addEventListener("click", copy);
$$("th").forEach((heading) => $("button", heading).addEventListener("click", () => sortBy(heading)));
$("tbody").addEventListener("click", (event) => { const row = event.target.closest("tr"); if (row && !getSelection().toString()) toggle(+row.dataset.row); });
DATA.models.forEach((model) => $(".show", model.node).addEventListener("click", () => { state.chosen.delete(model); draw(model); markRows(); }));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
addEventListener("beforeprint", () => { DATA.models.forEach((model) => near.add(model)); drawAll(); });
addEventListener("afterprint", drawAll);

if (!DATA.rows.some((row) => row.time)) { state.cost = "flops"; $("[name=cost][value=flops]").checked = true; }
drawAll();
filter("");
DATA.models.forEach((model) => watcher.observe(model.node));
document.documentElement.dataset.ready = "yes";
