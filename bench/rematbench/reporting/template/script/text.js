// Texts that depend on what the reader does: a sentence with its places filled, a number under the pointer.
const text = (() => {
  // One pass, so that a placement named "{room}" stays what it is.
  const fill = (sentence, places) => sentence.replace(/\{(\w+)\}/g, (_, name) => places[name]);

  const unitOf = (value, scale) => scale.find(({ factor }) => Math.abs(value) >= factor) ?? scale.at(-1);

  // As Python's units.py writes it: three digits, all of those before the point, no zeros at the end.
  function scaled(value, scale) {
    const { factor, unit } = unitOf(value, scale);
    const count = value / factor;
    const digits = Math.max(0, 2 - Math.floor(Math.log10(Math.abs(count) || 1)));
    const steps = count * 10 ** digits;
    // Python rounds a tie to the even digit, toFixed away from zero: 1.125 GiB is 1.12 GiB there. Only a multiple of
    // an eighth can be a tie, and its steps are exact.
    const isTie = Number.isInteger(8 * count) && Math.abs(steps % 1) === 0.5;
    return `${isTie ? (2 * Math.round(steps / 2)) / 10 ** digits : +count.toFixed(digits)} ${unit}`;
  }

  return { fill, unitOf, scaled };
})();
