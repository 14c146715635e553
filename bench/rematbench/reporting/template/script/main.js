// The page: it draws what comes into view, and draws again what the reader changes.
const main = (() => {
  const nodeOf = (model) => dom.find(`#model-${model.id}`);

  function draw(page, model) {
    const node = nodeOf(model);
    dom.find(".answer", node).replaceChildren(...model.series.map((series, at) => {
      return dom.element("div", budget.answer(page.budget, series, state.rowsOf(model, at), page.cost, page));
    }));
    if (!page.seen.has(model)) return;
    const onToggle = (id) => toggle(page, id);
    trade.draw(page, model, dom.find(".trade", node), onToggle);
    cards.draw(page, model, dom.find(".cards", node), onToggle);
  }

  function mark(page) {
    table.mark(dom.find("table"), new Set(page.models.flatMap((model) => [...state.chosenOf(page, model)])));
  }

  function drawAll(page) {
    page.models.forEach((model) => draw(page, model));
    mark(page);
  }

  function toggle(page, id) {
    draw(page, state.toggle(page, id));
    mark(page);
  }

  // One at a time, and after the browser has looked again: the cards of one push the next out of sight.
  function drawNext(page) {
    if (!page.waiting.size) return;
    requestAnimationFrame(() => requestAnimationFrame(() => {
      const model = page.models.find((one) => page.waiting.delete(one));
      if (!model) return;
      page.seen.add(model);
      draw(page, model);
      page.goal?.scrollIntoView();
      drawNext(page);
    }));
  }

  function watch(page) {
    const watcher = new IntersectionObserver((entries) => {
      for (const entry of entries) {
        const model = page.models.find((one) => nodeOf(one) === entry.target);
        if (entry.isIntersecting && !page.seen.has(model)) page.waiting.add(model);
        else page.waiting.delete(model);
      }
      drawNext(page);
    }, { rootMargin: "300px" });
    page.models.forEach((model) => watcher.observe(nodeOf(model)));
  }

  // Models that are drawn on the way push where a link leads to out of sight, until the reader scrolls on.
  function follow(page, hash) {
    page.goal = document.getElementById(hash.slice(1));
    for (const event of ["wheel", "touchmove", "keydown", "pointerdown"]) {
      addEventListener(event, () => { page.goal = null; }, { once: true, passive: true });
    }
  }

  // Take the budget as typed; one that cannot be read is marked and changes nothing.
  function setBudget(page, typed) {
    const asked = budget.parse(typed, page), box = dom.find("#budget");
    box.classList.toggle("wrong", !asked);
    box.setAttribute("aria-invalid", !asked);
    if (!asked) return;
    page.budget = asked;
    if (asked.kind === "share/step") dom.find("#slide").value = Math.round(100 * asked.amount);
    drawAll(page);
  }

  function setFilter(page, typed) {
    const shown = table.filter(dom.find("table"), typed);
    dom.find("#count").textContent = text.fill(page.words.count, { shown, all: page.rows.length });
  }

  function copy() {
    const box = dom.find("#markdown");
    box.hidden = false;
    box.value = table.markdown(dom.find("table"));
    box.select();
    // The clipboard is there under https only; a page opened from disk copies what is selected.
    navigator.clipboard?.writeText(box.value).catch(() => document.execCommand("copy"));
  }

  function listen(page) {
    const on = (selector, event, react) => {
      dom.findAll(selector).forEach((node) => node.addEventListener(event, (happened) => react(node, happened)));
    };
    on("#controls", "submit", (_, event) => event.preventDefault());
    on("#budget", "change", (box) => setBudget(page, box.value));
    on("#slide", "input", (slide) => {
      dom.find("#budget").value = `${slide.value}${slide.dataset.unit}`;
      setBudget(page, dom.find("#budget").value);
    });
    on("[name=cost]", "change", (choice) => {
      page.cost = choice.value;
      drawAll(page);
    });
    on("#theme", "click", () => {
      document.documentElement.dataset.theme = dom.isDark() ? "light" : "dark";
      drawAll(page);
    });
    on("nav a", "click", (link) => follow(page, link.hash));
    on("#filter", "input", (box) => setFilter(page, box.value));
    on("#copy", "click", copy);
    on("th button", "click", (button) => table.sortBy(dom.find("table"), button.closest("th")));
    on("tbody", "click", (_, event) => {
      const row = event.target.closest("tr");
      if (row && !getSelection().toString()) toggle(page, Number(row.dataset.row));
    });
    page.models.forEach((model) => on(`#model-${model.id} .show`, "click", () => {
      page.chosen.delete(model.id);
      draw(page, model);
      mark(page);
    }));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawAll(page));
    addEventListener("beforeprint", () => {
      page.models.forEach((model) => page.seen.add(model));
      drawAll(page);
    });
    addEventListener("afterprint", () => drawAll(page));
  }

  function start(data) {
    const page = state.create(data);
    dom.find(`[name=cost][value=${page.cost}]`).checked = true;
    listen(page);
    setBudget(page, dom.find("#budget").value);
    setFilter(page, "");
    follow(page, location.hash);
    watch(page);
    document.documentElement.dataset.ready = "yes";
  }

  return { start };
})();
