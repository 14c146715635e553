// The chosen rows of a model, a card each.
const cards = (() => {
  function legend(entries) {
    const node = dom.element("p");
    for (const entry of entries) {
      const key = dom.element("span", "", "key"), chip = dom.element("span", "", "chip");
      chip.style.background = entry.colour;
      key.append(chip, entry.text);
      node.append(key);
    }
    return node;
  }

  function card({ words }, row, onClose) {
    const node = dom.element("article", "", "card"), head = dom.element("header");
    const close = dom.element("button", "×", "close");
    close.type = "button";
    close.setAttribute("aria-label", text.fill(words.close, { title: row.title }));
    close.addEventListener("click", () => onClose(row.id));
    head.append(dom.element("h3", row.title), close);
    node.append(head, ...row.facts.map((fact) => dom.element("p", fact, "faint")));
    const add = (name, entries) => {
      node.append(dom.element("h4", words[name]), dom.element("div", "", name));
      if (entries) node.append(legend(entries));
    };
    if (row.timeline) add("timeline", timeline.legend(row.timeline, words));
    if (row.shares) add("shares", shares.legend(row.shares));
    if (row.strip) {
      add("strip");
      node.append(...row.strip.notes.map((note) => dom.element("p", note, "faint")));
    }
    if (!row.timeline && !row.strip) {
      node.append(dom.element("p", row.left_out ? words.left_out : words.not_recorded, "faint"));
    }
    return node;
  }

  function draw(page, model, place, onClose) {
    const rows = [...state.chosenOf(page, model)].map((id) => page.rows[id]);
    dom.findAll(".js-plotly-plot", place).forEach(Plotly.purge);
    place.replaceChildren(...rows.map((row) => card(page, row, onClose)));
    const peak = Math.max(...rows.map((row) => row.peak_bytes ?? 0));
    const bar = Math.max(peak, ...rows.map((row) => row.static_bytes ?? 0));
    const kept = Math.max(...model.rows.flatMap((row) => row.strip?.kept ?? []), 0);
    rows.forEach((row, at) => {
      const node = (name) => dom.find(`.${name}`, place.children[at]);
      if (row.timeline) timeline.draw(page, row.timeline, node("timeline"), peak);
      if (row.shares) shares.draw(page, row.shares, node("shares"), bar);
      if (row.strip) strip.draw(page, row.strip, model.series[row.series], node("strip"), kept);
    });
  }

  return { draw };
})();
