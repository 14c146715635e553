// What the charts have in common: colours, axes, and names made harmless for plotly, which reads markup in texts.
const chart = (() => {
  // Okabe and Ito's palette, told apart by colour-blind readers too; series also differ by symbol and dash.
  const COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"];
  const KINDS = {
    kept: "#0072B2",
    recomputed: "#D55E00",
    transient: "#E69F00",
    gradients: "#009E73",
    optimizer: "#CC79A7",
    static: "#8a8f96",
  };
  const PHASES = { forward: "#56B4E9", backward: "#E69F00", optimizer: "#CC79A7" };
  const RECOMPUTED = "#D55E00";
  const SKIP = "#CC79A7";
  const QUIET = { responsive: true, displayModeBar: false };

  function colourOf(at) {
    const colour = COLOURS[at % COLOURS.length];
    return dom.isDark() && colour === "#0072B2" ? "#56B4E9" : colour;
  }

  const plain = (name) => String(name).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
  const short = (line) => (line.length > 120 ? `${line.slice(0, 119)}…` : line);
  const hover = (lines) => lines.map((line) => plain(short(line))).join("<br>");

  function axis(title) {
    return {
      title: { text: title, standoff: 8 },
      color: dom.style("--faint"),
      gridcolor: dom.style("--rule"),
      zerolinecolor: dom.style("--rule"),
      automargin: true,
      fixedrange: true,
    };
  }

  function layout(more) {
    const ink = dom.style("--ink");
    return {
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: ink, size: 12, family: "system-ui, sans-serif" },
      margin: { l: 10, r: 16, t: 24, b: 10 },
      showlegend: false,
      hovermode: "closest",
      dragmode: false,
      hoverlabel: {
        align: "left",
        bgcolor: dom.style("--raised"),
        bordercolor: dom.style("--rule"),
        font: { color: ink },
      },
      ...more,
    };
  }

  return { KINDS, PHASES, RECOMPUTED, SKIP, QUIET, colourOf, plain, hover, axis, layout };
})();
