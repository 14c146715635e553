// The trade: each row a point at its cost and its peak, the frontier of each series, and the lines of memory.
const trade = (() => {
  const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "cross", "pentagon"];
  const LABELS = 40;
  const DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot"];

  const rowsDrawn = (page, rows) => rows.filter((row) => budget.isDrawn(row, page.cost));
  const xOf = (page, axes) => (row) => row.cost[page.cost] / axes.x.factor;
  const yOf = (axes) => (row) => row.peak_bytes / axes.y.factor;

  // lines: at which heights a label above its point would be struck through.
  function points(page, model, at, isKept, lines, top) {
    const axes = model.axes[page.cost], y = yOf(axes);
    const rows = rowsDrawn(page, state.rowsOf(model, at))
      .filter((row) => (row.plain || row.frontier[page.cost]) === isKept);
    const colour = chart.colourOf(at), chosen = state.chosenOf(page, model), best = state.best(page, model, at);
    const isStruck = (row) => lines.some((line) => line.y > y(row) && line.y - y(row) < 0.07 * top);
    // Of more than these the names would lie on each other: the plain step's and the chosen ones' stay.
    const isLabelled = (row) => row.plain || chosen.has(row.id) || (isKept && rows.length <= LABELS);
    const ends = (side) => rows.map((row) => {
      const end = row.spread_s?.[side] ?? null;
      return end === null ? 0 : Math.abs(end - row.cost.time) / axes.x.factor;
    });
    return {
      type: "scatter",
      name: chart.plain(model.series[at].label),
      legendgroup: `${at}`,
      showlegend: isKept && model.series.length > 1,
      mode: "markers+text",
      opacity: isKept ? 1 : 0.45,
      x: rows.map(xOf(page, axes)),
      y: rows.map(y),
      customdata: rows.map((row) => row.id),
      text: rows.map((row) => (isLabelled(row) ? chart.plain(row.name) : "")),
      // Lower left of a point of the frontier there is neither the frontier's line nor another point.
      textposition: rows.map((row) => (isStruck(row) ? "bottom left" : "top right")),
      textfont: { size: 11 },
      cliponaxis: false,
      hoverinfo: "text",
      hovertext: rows.map((row) => chart.hover([...row.hover, ...row.facts])),
      error_x: {
        visible: page.cost === "time",
        type: "data",
        array: ends("high"),
        arrayminus: ends("low"),
        thickness: 1,
        width: 3,
        color: colour,
      },
      marker: {
        color: colour,
        symbol: rows.map((row) => {
          return row.plain ? "star" : `${SYMBOLS[at % SYMBOLS.length]}${row.same_gradients ? "" : "-open"}`;
        }),
        size: rows.map((row) => (row.plain ? 15 : row === best ? 13 : 10)),
        line: { width: rows.map((row) => (chosen.has(row.id) ? 3 : 0)), color: dom.style("--ink") },
      },
    };
  }

  function frontier(page, model, at) {
    const axes = model.axes[page.cost];
    const rows = rowsDrawn(page, state.rowsOf(model, at))
      .filter((row) => row.frontier[page.cost])
      .sort((one, other) => one.peak_bytes - other.peak_bytes);
    return {
      type: "scatter",
      mode: "lines",
      hoverinfo: "skip",
      showlegend: false,
      legendgroup: `${at}`,
      x: rows.map(xOf(page, axes)),
      y: rows.map(yOf(axes)),
      line: { color: chart.colourOf(at), width: 1.5, dash: DASHES[at % DASHES.length] },
    };
  }

  // Crosses side by side at the top, as what ran out of memory has neither cost nor peak.
  function failures(page, model, rows, top) {
    const axes = model.axes[page.cost];
    const widest = Math.max(...model.rows.map((row) => row.cost[page.cost] ?? 0), axes.x.factor) / axes.x.factor;
    return {
      type: "scatter",
      mode: "markers+text",
      customdata: rows.map((row) => row.id),
      x: rows.map((_, place) => (widest * (place + 0.5)) / rows.length),
      y: rows.map(() => top),
      cliponaxis: false,
      text: rows.map((row) => chart.plain(row.name)),
      textposition: "bottom center",
      hoverinfo: "text",
      hovertext: rows.map((row) => chart.hover([...row.hover, ...row.facts])),
      marker: { symbol: "x", size: 11, color: chart.KINDS.recomputed },
      showlegend: false,
    };
  }

  // What stands at the line of a limit: the budget, and whose limit it is where not that of all series.
  function budgetLabel(page, model, most) {
    const whose = model.series.filter((series) => budget.limit(page.budget, series) === most);
    const line = text.fill(page.words.line[page.budget.kind], { amount: page.budget.text });
    if (whose.length === model.series.length) return line;
    return text.fill(page.words.line_of, { line, labels: whose.map((series) => series.label).join(", ") });
  }

  // The lines of memory, by height in the axis' unit, and the height at which the chart ends.
  function memoryLines(page, model, highest, hasFailures) {
    const factor = model.axes[page.cost].y.factor;
    const between = (bytes, end) => new Set(bytes.filter((most) => most > 0 && most < end));
    const capacities = between(model.series.map(budget.capacity), 4 * highest);
    const limits = between(model.series.map((series) => budget.limit(page.budget, series)), 1.15 * highest);
    const top = Math.max(1.18 * highest, ...(hasFailures ? capacities : [])) / factor;
    const lines = [...limits].map((most) => {
      return { y: most / factor, label: budgetLabel(page, model, most), colour: dom.style("--ink") };
    });
    for (const most of capacities) {
      const y = most / factor;
      if (y < top) lines.push({ y, label: page.words.capacity, colour: dom.style("--faint") });
    }
    if (hasFailures) lines.push({ y: top, label: page.words.out_of_memory, colour: chart.KINDS.recomputed });
    return { lines, top };
  }

  const shape = ({ y, colour }) => {
    const line = { color: colour, width: 1.5, dash: "dash" };
    return { type: "line", xref: "paper", x0: 0, x1: 1, y0: y, y1: y, line };
  };

  const note = ({ y, label, colour }) => {
    const place = { xref: "paper", x: 1, xanchor: "right", y, yanchor: "bottom", showarrow: false };
    return { ...place, text: chart.plain(label), font: { color: colour, size: 11 } };
  };

  function draw(page, model, node, onClick) {
    const shown = rowsDrawn(page, model.rows), failed = model.rows.filter((row) => row.out_of_memory);
    if (!shown.length && !failed.length) {
      Plotly.purge(node);
      node.replaceChildren(dom.element("p", model.missing[page.cost], "faint"));
      return;
    }
    const isNew = !node.data; // plotly keeps what it drew there; purging takes its listeners along
    if (isNew) node.replaceChildren();
    const axes = model.axes[page.cost], xs = shown.map(xOf(page, axes));
    const highest = Math.max(...shown.map((row) => row.peak_bytes), 1);
    const { lines, top } = memoryLines(page, model, highest, failed.length > 0);
    const traces = model.series.flatMap((_, at) => [
      frontier(page, model, at),
      points(page, model, at, false, lines, top),
      points(page, model, at, true, lines, top),
    ]);
    if (failed.length) traces.push(failures(page, model, failed, top));
    const margin = (Math.max(...xs, 0) - Math.min(...xs, 0)) * 0.14 || 1;
    const left = Math.max(Math.min(...xs) - margin, page.cost === "time" ? 0 : -margin);
    Plotly.react(node, traces, chart.layout({
      xaxis: { ...chart.axis(axes.x.title), range: [xs.length ? left : 0, Math.max(...xs, 0) + 1.8 * margin] },
      yaxis: { ...chart.axis(axes.y.title), range: [0, failed.length ? 1.1 * top : top] },
      shapes: lines.map(shape),
      annotations: lines.map(note),
      showlegend: model.series.length > 1,
      legend: { orientation: "h", y: -0.2, itemclick: "toggle" },
    }), chart.QUIET);
    if (isNew) node.on("plotly_click", (event) => onClick(event.points[0].customdata));
  }

  return { draw };
})();
