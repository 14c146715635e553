// What the reader has set and chosen: one object, which every other module is given.
const state = (() => {
  const SHOWN = 6;

  // data: what figures.py wrote, by which a row is found at its id and a model at its own.
  function create(data) {
    const models = data.models.map((model, id) => {
      return { ...model, id, rows: data.rows.filter((row) => row.model === id) };
    });
    const cost = data.rows.some((row) => row.cost.time !== null) ? "time" : "flops";
    const drawing = { seen: new Set(), waiting: new Set(), goal: null };
    return { ...data, models, cost, budget: null, chosen: new Map(), ...drawing };
  }

  const rowsOf = (model, at) => model.rows.filter((row) => row.series === at);

  // The row that answers the budget in a series, if one does.
  function best(page, model, at) {
    const most = budget.limit(page.budget, model.series[at]);
    return budget.fitting(rowsOf(model, at), most, page.cost)[0] ?? null;
  }

  // The ids of a model's chosen rows; until the reader chooses, the plain step and the answer or the least peak.
  function chosenOf(page, model) {
    if (page.chosen.has(model.id)) return page.chosen.get(model.id);
    const plain = model.rows.find((row) => row.plain && row.peak_bytes !== null);
    const others = model.rows.filter((row) => !row.plain && row.same_gradients && row.peak_bytes !== null);
    const least = others.reduce((one, other) => (one && one.peak_bytes <= other.peak_bytes ? one : other), null);
    return new Set([plain, best(page, model, 0) ?? least].filter(Boolean).map((row) => row.id));
  }

  // Choose a row or put it away; of too many the first chosen goes. Returns its model.
  function toggle(page, id) {
    const model = page.models[page.rows[id].model];
    const chosen = new Set(chosenOf(page, model));
    if (!chosen.delete(id)) chosen.add(id);
    page.chosen.set(model.id, new Set([...chosen].slice(-SHOWN)));
    return model;
  }

  return { create, rowsOf, best, chosenOf, toggle };
})();
