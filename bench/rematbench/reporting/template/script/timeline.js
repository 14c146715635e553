// One step over time: the bytes above its start, its phases, and when blocks were recomputed.
const timeline = (() => {
  // What figures.py wrote as differences.
  function sums(steps) {
    let sum = 0;
    return steps.map((step) => (sum += step));
  }

  function legend({ phases, recomputed }, words) {
    const entries = phases.map(({ name }) => ({ colour: chart.PHASES[name], text: name }));
    return recomputed.length ? [...entries, { colour: chart.RECOMPUTED, text: words.recomputing }] : entries;
  }

  // The lines under the pointer at a moment.
  function moment(at, bytes, recomputed, { words, scales }) {
    const places = { bytes: text.scaled(bytes, scales.bytes), time: text.scaled(at / 1e6, scales.seconds) };
    const during = recomputed.filter(({ start, end }) => start <= at && at <= end);
    return [text.fill(words.moment, places), ...during.map((one) => one.text)];
  }

  // topBytes: the greatest peak of the cards that stand side by side, so that they have one scale.
  function draw(page, { axis, peak, phases, recomputed, ...steps }, node, topBytes) {
    const us = sums(steps.us), bytes = sums(steps.bytes), end = us.at(-1);
    const unit = text.unitOf(topBytes, page.scales.bytes);
    const x = (value) => value / axis.factor_us, y = (value) => value / unit.factor;
    const band = ({ start, end }, colour, opacity, bottom) => ({
      type: "rect",
      layer: "below",
      yref: "paper",
      x0: x(start),
      x1: x(end),
      y0: bottom,
      y1: 1,
      fillcolor: colour,
      opacity,
      line: { width: 0 },
    });
    Plotly.newPlot(node, [{
      type: "scatter",
      mode: "lines",
      x: us.map(x),
      y: bytes.map(y),
      fill: "tozeroy",
      fillcolor: "#0072B233",
      line: { shape: "hv", width: 1.5, color: dom.style("--mark") },
      hoverinfo: "text",
      hovertext: us.map((at, place) => chart.hover(moment(at, bytes[place], recomputed, page))),
    }, {
      type: "scatter",
      mode: "markers+text",
      x: [x(us[peak.at])],
      y: [y(bytes[peak.at])],
      marker: { color: dom.style("--ink"), size: 8, symbol: "diamond" },
      text: [peak.text],
      textposition: us[peak.at] > end / 2 ? "top left" : "top right",
      hoverinfo: "text",
      hovertext: [chart.hover(peak.hover)],
      cliponaxis: false,
    }], chart.layout({
      height: 210,
      margin: { l: 10, r: 10, t: 8, b: 10 },
      xaxis: { ...chart.axis(axis.title), range: [0, x(end)] },
      yaxis: { ...chart.axis(unit.unit), range: [0, 1.18 * y(topBytes)], nticks: 5 },
      shapes: [
        ...phases.map((phase) => band(phase, chart.PHASES[phase.name], 0.16, 0)),
        ...recomputed.map((one) => band(one, chart.RECOMPUTED, 0.8, 0.92)),
      ],
    }), chart.QUIET);
  }

  return { sums, legend, moment, draw };
})();
