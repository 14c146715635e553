// A placement over its model: blocks in their order, regions as brackets beneath, skips as arcs above.
const strip = (() => {
  const under = (depth) => -0.75 - 0.55 * depth;

  function bracket({ first, last, depth }) {
    const left = first - 0.42, right = last + 0.42, bottom = under(depth), top = bottom + 0.25;
    return {
      type: "path",
      path: `M ${left} ${top} L ${left} ${bottom} L ${right} ${bottom} L ${right} ${top}`,
      line: { color: chart.RECOMPUTED, width: 2.5 },
    };
  }

  function arc({ source, target, height }) {
    return {
      type: "path",
      path: `M ${source} 0.5 Q ${(source + target) / 2} ${2 * height - 0.5} ${target} 0.5`,
      line: { color: chart.SKIP, width: 2 },
    };
  }

  // topBytes: the most that a block of the model keeps under any placement, so that a colour means the same in all.
  function draw(page, { regions, kept }, { blocks, ...series }, node, topBytes) {
    const { words } = page, isFew = blocks.length <= 10, rise = series.skips.length ? 2.2 : 0;
    const deepest = Math.max(-1, ...regions.map((region) => region.depth));
    const longest = Math.max(...series.skips.map((skip) => skip.target - skip.source), 1);
    const skips = series.skips.map((skip) => {
      return { ...skip, height: 0.5 + (rise * (skip.target - skip.source)) / longest };
    });
    const isWide = 7 * blocks.join(" ").length < node.clientWidth;
    const places = blocks.map((_, at) => at);
    const shown = (at) => text.scaled(kept[at], page.scales.bytes);
    const keeps = (at) => (kept === null ? words.not_told_apart : text.fill(words.kept, { bytes: shown(at) }));
    Plotly.newPlot(node, [{
      type: "heatmap",
      z: [places.map((at) => kept?.[at] ?? null)],
      y: [0],
      x: places,
      xgap: 3,
      colorscale: "Cividis",
      reversescale: true,
      zmin: 0,
      zmax: Math.max(topBytes, 1),
      showscale: false,
      text: [places.map((at) => (isFew && kept ? shown(at).replace(" ", "<br>") : ""))],
      texttemplate: "%{text}",
      textfont: { size: 10 },
      hoverinfo: "text",
      hovertext: [blocks.map((block, at) => chart.hover([block, keeps(at)]))],
    }, {
      type: "scatter",
      mode: "markers",
      marker: { size: 14, color: "rgba(0,0,0,0)" },
      hoverinfo: "text",
      x: [
        ...regions.map(({ first, last }) => (first + last) / 2),
        ...skips.map(({ source, target }) => (source + target) / 2),
      ],
      y: [...regions.map(({ depth }) => under(depth)), ...skips.map(({ height }) => height)],
      hovertext: [...regions, ...skips].map((one) => chart.hover(one.hover)),
    }], chart.layout({
      height: 62 + 26 * (deepest + 1) + (skips.length ? 56 : 0) + 40,
      margin: { l: 4, r: 4, t: 4, b: 4 },
      shapes: [...regions.map(bracket), ...skips.map(arc)],
      xaxis: {
        ...chart.axis(""),
        showgrid: false,
        zeroline: false,
        range: [(skips.some((skip) => skip.source < 0) ? -1 : 0) - 0.6, blocks.length - 0.4],
        tickvals: isFew ? places : undefined,
        ticktext: isFew ? blocks.map((block) => chart.plain(isWide ? block : block.split(".").at(-1))) : undefined,
        nticks: isFew ? undefined : 12,
        tickangle: 0,
      },
      yaxis: { visible: false, fixedrange: true, range: [under(deepest) - 0.3, 0.6 + rise + (rise ? 0.2 : 0)] },
    }), chart.QUIET);
  }

  return { draw };
})();
