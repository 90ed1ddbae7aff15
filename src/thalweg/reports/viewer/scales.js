"use strict";
// Numbers on axes: where marks stand, how values are written, how colours follow from values.
const thalweg = {};

thalweg.scales = (() => {
  const MINUS = "\u2212";
  const NARROW = 1e-11; // share of a value: what is closer together is one value to an axis
  const MOST_MARKS = 60;

  // Whether two ends are far enough apart to be ends of an axis.
  function apart(low, high) {
    return high - low > NARROW * Math.max(Math.abs(low), Math.abs(high));
  }

  // Steps of 1, 2, 2.5 and 5 times a power of ten, as people count.
  function linearMarks(low, high, most) {
    const span = high - low;
    if (!apart(low, high)) return [low];
    const rough = span / Math.max(1, most);
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 2.5, 5, 10].map((k) => k * power).find((k) => k >= rough * (1 - 1e-9));
    const first = Math.ceil(low / step - 1e-9);
    const count = Math.min(Math.floor(high / step + 1e-9) - first + 1, MOST_MARKS);
    return Array.from({ length: Math.max(count, 0) }, (_, n) => {
      const k = first + n;
      return k === 0 ? 0 : Number((k * step).toPrecision(14));
    });
  }

  // Powers of ten; within two decades also 2 and 5 times them.
  function logMarks(low, high, most) {
    const first = Math.ceil(Math.log10(low) - 1e-9);
    const last = Math.floor(Math.log10(high) + 1e-9);
    const decades = [];
    const every = Math.max(1, Math.ceil((last - first + 1) / Math.max(1, most)));
    for (let k = first; k <= last; k += every) decades.push(10 ** k);
    if (last - first >= 2) return decades;
    const some = [];
    for (let k = first - 1; k <= last; k += 1) {
      for (const factor of [1, 2, 5]) {
        const mark = Number((factor * 10 ** k).toPrecision(3));
        if (mark >= low * (1 - 1e-9) && mark <= high * (1 + 1e-9)) some.push(mark);
      }
    }
    return some.length >= 2 ? some : linearMarks(low, high, most);
  }

  function written(value, digits = 4) {
    if (Number.isNaN(value)) return "not a number";
    if (value === Infinity) return "\u221e";
    if (value === -Infinity) return `${MINUS}\u221e`;
    if (value === 0) return "0";
    const size = Math.abs(value);
    let text;
    if (size >= 1e6 || size < 1e-3) {
      const [mantissa, power] = value.toExponential(digits - 1).split("e");
      text = `${Number(mantissa)}e${Number(power)}`;
    } else {
      text = String(Number(value.toPrecision(digits)));
    }
    return text.replace(/-/g, MINUS);
  }

  // All marks of an axis with as many digits as tell them apart.
  function writtenMarks(marks) {
    for (let digits = 1; digits < 14; digits += 1) {
      const texts = marks.map((mark) => written(mark, digits));
      const exact = marks.every((mark) =>
        Math.abs(Number(mark.toPrecision(digits)) - mark) <= 1e-9 * Math.abs(mark));
      if (exact && new Set(texts).size === marks.length) return texts;
    }
    return marks.map((mark) => written(mark, 14));
  }

  // The map viridis (van der Walt & Smith, public domain), which every kind of colour vision and
  // a grey print keep in order.
  const VIRIDIS = [
    [68, 1, 84], [72, 26, 108], [71, 47, 125], [65, 68, 135], [57, 86, 140], [49, 104, 142],
    [42, 120, 142], [35, 136, 142], [31, 152, 139], [34, 168, 132], [53, 183, 121],
    [84, 197, 104], [122, 209, 81], [165, 219, 54], [210, 226, 27], [253, 231, 37],
  ];

  function colour(share) {
    const at = Math.min(Math.max(share, 0), 1) * (VIRIDIS.length - 1);
    const low = Math.min(Math.floor(at), VIRIDIS.length - 2);
    const rest = at - low;
    return VIRIDIS[low].map((part, k) => part + rest * (VIRIDIS[low + 1][k] - part));
  }

  // Position of a value on a scale of length 1, NaN where it has none.
  function scale({ low, high, log, linearBelow }) {
    const bent = linearBelow
      ? (v) => Math.sign(v) * Math.log10(1 + Math.abs(v) / linearBelow)
      : log ? (v) => (v > 0 ? Math.log10(v) : NaN) : (v) => v;
    const a = bent(low);
    const b = bent(high);
    const at = (value) => (bent(value) - a) / (b - a);
    const back = (share) => {
      const v = a + share * (b - a);
      if (linearBelow) return Math.sign(v) * linearBelow * (10 ** Math.abs(v) - 1);
      return log ? 10 ** v : v;
    };
    const marks = (most) => {
      if (linearBelow) return symmetricMarks(low, high, linearBelow, most);
      return log ? logMarks(low, high, most) : linearMarks(low, high, most);
    };
    return { low, high, log, linearBelow, at, back, marks };
  }

  function symmetricMarks(low, high, threshold, most) {
    const side = (limit, sign) => (limit <= threshold ? [] :
      logMarks(threshold, limit, Math.max(2, Math.floor(most / 2)))
        .filter((mark) => Number.isInteger(Math.round(1e6 * Math.log10(mark)) / 1e6))
        .map((mark) => sign * mark));
    return [...side(-low, -1).reverse(), 0, ...side(high, 1)];
  }

  // Least and largest finite value, of those above zero where `positive`.
  function extent(arrays, positive) {
    let low = Infinity;
    let high = -Infinity;
    for (const values of arrays) {
      for (const value of values) {
        if (Number.isFinite(value) && !(positive && value <= 0)) {
          if (value < low) low = value;
          if (value > high) high = value;
        }
      }
    }
    return low <= high ? [low, high] : null;
  }

  // A little air on both sides; equal ends are parted.
  function padded([low, high], log, share = 0.04) {
    if (log) {
      const factor = apart(low, high) ? (high / low) ** share : 2;
      return [low / factor, high * factor];
    }
    const pad = apart(low, high) ? share * (high - low) : 0.5 * (Math.abs(low) || 1);
    return [low - pad, high + pad];
  }

  // A table of values with m and n times as many rows and columns, between those that are there;
  // `bend` is what is linear between them.
  function refined(values, [rows, columns], [m, n], bend = (v) => v, back = (v) => v) {
    const [height, width] = [(rows - 1) * m + 1, (columns - 1) * n + 1];
    const bent = Float64Array.from(values, bend);
    const found = new Float64Array(height * width);
    for (let i = 0; i < height; i += 1) {
      const r = Math.min(Math.floor(i / m), rows - 2);
      const v = i / m - r;
      for (let j = 0; j < width; j += 1) {
        const c = Math.min(Math.floor(j / n), columns - 2);
        const u = j / n - c;
        const a = r * columns + c;
        let sum = 0; // corners without weight are left out, for they may be gaps
        if (v < 1 && u < 1) sum += (1 - v) * (1 - u) * bent[a];
        if (v < 1 && u > 0) sum += (1 - v) * u * bent[a + 1];
        if (v > 0 && u < 1) sum += v * (1 - u) * bent[a + columns];
        if (v > 0 && u > 0) sum += v * u * bent[a + columns + 1];
        found[i * width + j] = back(sum);
      }
    }
    return { values: found, shape: [height, width] };
  }

  return { apart, linearMarks, logMarks, written, writtenMarks, colour, scale, extent, padded, refined };
})();
