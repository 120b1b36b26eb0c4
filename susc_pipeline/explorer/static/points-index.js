// Points by cell of a square grid: which is nearest to a place, which lie in a polygon, and where most of them are.
"use strict";
explorer.pointIndex = (() => {
  const CELLS = 256; // of the grid, a side
  const SAMPLED = 20000; // points by which the bulk is found

  function extent(places) {
    let x0 = Infinity, y0 = Infinity, x1 = -Infinity, y1 = -Infinity;
    for (let i = 0; i < places.length; i += 2) {
      const x = places[i], y = places[i + 1];
      if (x < x0) x0 = x;
      if (x > x1) x1 = x;
      if (y < y0) y0 = y;
      if (y > y1) y1 = y;
    }
    return { low: [x0, y0], span: Math.max(x1 - x0, y1 - y0) || 1 };
  }

  // Points by cell, as starts and one array of numbers.
  function grid(places) {
    const count = places.length / 2, { low: [x0, y0], span } = extent(places), step = CELLS / span;
    const along = (distance) => Math.min(CELLS - 1, Math.max(0, Math.floor(distance * step)));
    const cell = (x, y) => along(y - y0) * CELLS + along(x - x0);
    const cells = new Uint16Array(count), starts = new Uint32Array(CELLS * CELLS + 1);
    for (let i = 0; i < count; i++) starts[(cells[i] = cell(places[2 * i], places[2 * i + 1])) + 1]++;
    for (let i = 1; i < starts.length; i++) starts[i] += starts[i - 1];
    const next = starts.slice(), order = new Uint32Array(count);
    for (let i = 0; i < count; i++) order[next[cells[i]]++] = i;
    return { span, cell, starts, order };
  }

  // The numbers from 0 in an order in which every beginning is a fair sample.
  function shuffled(count) {
    const order = new Uint32Array(count);
    for (let i = 0; i < count; i++) order[i] = i;
    for (let i = count - 1, seed = 1; i > 0; i--) {
      seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
      const j = Math.floor((seed / 2 ** 32) * (i + 1)), kept = order[i];
      order[i] = order[j];
      order[j] = kept;
    }
    return order;
  }

  // The camera that shows all but the outermost 4 % of a fair sample on each side.
  function bulk(places, order, span) {
    const ends = [0, 1].map((k) => {
      const v = Float32Array.from(order.subarray(0, SAMPLED), (p) => places[2 * p + k]).sort();
      return [v[Math.floor(0.04 * (v.length - 1))], v[Math.ceil(0.96 * (v.length - 1))]];
    });
    const size = Math.max(ends[0][1] - ends[0][0], ends[1][1] - ends[1][0]) || span;
    return { x: (ends[0][0] + ends[0][1]) / 2, y: (ends[1][0] + ends[1][1]) / 2, zoom: (0.75 * span) / size };
  }

  // Even-odd rule.
  function holds(polygon, x, y) {
    let within = false;
    for (let i = 0, j = polygon.length - 1; i < polygon.length; j = i++) {
      const [ax, ay] = polygon[i], [bx, by] = polygon[j];
      if (ay > y !== by > y && x < ((bx - ax) * (y - ay)) / (by - ay) + ax) within = !within;
    }
    return within;
  }

  return (places) => {
    const found = grid(places), order = shuffled(places.length / 2), step = found.span / CELLS;
    // The point nearest to a place, within reach of it; -1 where there is none.
    function nearest(x, y, reach) {
      let best = -1, least = reach * reach;
      const span = Math.min(CELLS, Math.ceil(reach / step));
      for (let j = -span; j <= span; j++) for (let i = -span; i <= span; i++) {
        const cell = found.cell(x + i * step, y + j * step);
        for (let k = found.starts[cell]; k < found.starts[cell + 1]; k++) {
          const p = found.order[k], d = (places[2 * p] - x) ** 2 + (places[2 * p + 1] - y) ** 2;
          if (d < least) { least = d; best = p; }
        }
      }
      return best;
    }
    function inside(polygon) {
      const xs = polygon.map((p) => p[0]), ys = polygon.map((p) => p[1]), chosen = [];
      const [x0, x1, y0, y1] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
      for (let p = 0; p < places.length / 2; p++) {
        const x = places[2 * p], y = places[2 * p + 1];
        if (x >= x0 && x <= x1 && y >= y0 && y <= y1 && holds(polygon, x, y)) chosen.push(p);
      }
      return chosen;
    }
    return { span: found.span, order, home: bulk(places, order, found.span), nearest, inside };
  };
})();
