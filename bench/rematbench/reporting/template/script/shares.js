// What held the peak, kind by kind and block by block, and beneath it what was there before the step.
const shares = (() => {
  const legend = (found) => found.legend.map((one) => ({ colour: chart.KINDS[one.kind], text: one.text }));

  // topBytes: the longest bar of the cards that stand side by side, so that they have one scale.
  function draw(page, { parts, static_bytes }, node, topBytes) {
    const { words, scales } = page;
    const says = (kind, bytes) => text.fill(words.share[kind], { bytes: text.scaled(bytes, scales.bytes) });
    let end = 0;
    const bars = parts.map(({ kind, bytes, block }) => {
      end += bytes;
      return { kind, bytes, start: end - bytes, y: words.at_the_peak, hover: [says(kind, bytes), block] };
    });
    if (static_bytes) {
      const hover = [says("static", static_bytes), words.before_the_step];
      bars.push({ kind: "static", bytes: static_bytes, start: 0, y: words.before, hover });
    }
    const { factor, unit } = text.unitOf(topBytes, scales.bytes);
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
