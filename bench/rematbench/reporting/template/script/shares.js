// What held the peak, kind by kind and block by block, and beneath it what was there before the step.
const shares = (() => {
  const legend = (found) => found.legend.map((one) => ({ colour: chart.KINDS[one.kind], text: one.text }));

  // topBytes: the longest bar of the cards that stand side by side, so that they have one scale.
  function draw(page, { bars }, node, topBytes) {
    const { factor, unit } = text.unitOf(topBytes, page.scales.bytes);
    Plotly.newPlot(node, [{
      type: "bar",
      orientation: "h",
      x: bars.map((bar) => bar.bytes / factor),
      base: bars.map((bar) => bar.start / factor),
      y: bars.map((bar) => bar.y),
      marker: { color: bars.map((bar) => chart.KINDS[bar.kind]), line: { color: dom.style("--paper"), width: 1 } },
      hoverinfo: "text",
      hovertext: bars.map((bar) => chart.hover(bar.hover)),
      textposition: "none",
    }], chart.layout({
      height: 110,
      margin: { l: 10, r: 10, t: 4, b: 10 },
      barmode: "overlay",
      bargap: 0.25,
      xaxis: { ...chart.axis(unit), range: [0, (1.02 * topBytes) / factor] },
      yaxis: { ...chart.axis(""), autorange: "reversed" },
    }), chart.QUIET);
  }

  return { legend, draw };
})();
