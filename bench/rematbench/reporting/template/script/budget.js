// The memory a reader has: read from what they type, held against the rows, answered in a sentence.
const budget = (() => {
  // The grammar of `plan:`. A budget's kind is "share" or "size", with "/step" where it is of the step alone.
  function parse(typed, { sizes, scales }) {
    const found = /^(\d+)(?:\.(\d+))?\s*(%|[A-Za-z]*)\s*(\/step)?$/.exec(typed.trim());
    if (!found) return null;
    const [, whole, fraction = "", unit, step = ""] = found;
    if (unit === "%") {
      const percent = Number(`${whole}.${fraction}`);
      return percent > 0 ? { kind: `share${step}`, amount: percent / 100, text: `${percent} %` } : null;
    }
    if (!Object.hasOwn(sizes, unit)) return null;
    // In whole numbers, as Python's Decimal: floats make 1.1 kB a byte less on some sizes.
    const bytes = Number((BigInt(whole + fraction) * BigInt(sizes[unit])) / 10n ** BigInt(fraction.length));
    return bytes > 0 ? { kind: `size${step}`, amount: bytes, text: text.scaled(bytes, scales.bytes) } : null;
  }

  // Bytes above the start of the step that a series may take; null for a share of a plain step without a peak.
  function limit({ kind, amount }, series) {
    const before = kind.endsWith("/step") ? 0 : series.static_bytes ?? 0;
    if (kind.startsWith("size")) return amount - before;
    return series.plain_bytes === null ? null : Math.trunc(amount * (before + series.plain_bytes)) - before;
  }

  // What a step may take at most on the device; null where that is not known.
  function capacity(series) {
    return series.capacity_bytes === null ? null : series.capacity_bytes - (series.static_bytes ?? 0);
  }

  const isDrawn = (row, cost) => row.peak_bytes !== null && row.cost[cost] !== null;

  // The rows of a series that fit and leave the gradients alone, the cheapest first.
  function fitting(rows, most, cost) {
    if (most === null) return [];
    return rows
      .filter((row) => isDrawn(row, cost) && row.peak_bytes <= most && row.same_gradients)
      .sort((one, other) => one.cost[cost] - other.cost[cost] || one.peak_bytes - other.peak_bytes);
  }

  function training(best, fits, cost, words) {
    if (best.plain || !best.judged || best.same_buffers) return best.training;
    const other = fits.find((row) => row.same_buffers);
    return other ? text.fill(words.buffers_differ, { other: other.brief[cost] }) : best.training;
  }

  function answer(asked, series, rows, cost, { words, scales }) {
    const most = limit(asked, series);
    if (most === null) return series.prefix + words.no_plain;
    const bytes = text.scaled(Math.max(most, 0), scales.bytes);
    const room = text.fill(words.room[asked.kind], { amount: asked.text, room: bytes });
    const fits = fitting(rows, most, cost);
    if (fits.length) {
      const places = { room, choice: fits[0].choice[cost], training: training(fits[0], fits, cost, words) };
      return series.prefix + text.fill(words.answer, places);
    }
    return series.prefix + (series.unanswerable[cost] ?? text.fill(words.nothing_fits, { room, least: series.least }));
  }

  return { parse, limit, capacity, isDrawn, fitting, answer };
})();
