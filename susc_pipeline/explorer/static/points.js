// A layer of points drawn by WebGL 2 in one call, which pans, zooms and finds the point under the pointer.
"use strict";
explorer.points = (() => {
  const VERTEX = `#version 300 es
    in vec2 place; in vec4 color;
    uniform vec2 center; uniform vec2 scale; uniform float size;
    out vec4 shade;
    void main() {
      gl_Position = vec4((place - center) * scale, 0.0, 1.0);
      gl_PointSize = size * (color.a > 0.9 ? 1.6 : 1.0);
      shade = color;
    }`;
  const FRAGMENT = `#version 300 es
    precision mediump float;
    in vec4 shade; out vec4 result;
    void main() { result = vec4(shade.rgb, 1.0); }`;
  const FRAME = 30; // milliseconds that a frame may take while the map moves
  const LEAST = 5000; // points drawn even if they take longer
  const CELLS = 256; // of the grid for finding points, a side

  function program(gl) {
    const result = gl.createProgram();
    for (const [kind, text] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, text);
      gl.compileShader(shader);
      if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS)) throw new Error(gl.getShaderInfoLog(shader));
      gl.attachShader(result, shader);
    }
    gl.linkProgram(result);
    return result;
  }

  // Points by cell of a square grid, as starts and one array of numbers.
  function grid(places) {
    const count = places.length / 2, low = [Infinity, Infinity], high = [-Infinity, -Infinity];
    for (let i = 0; i < places.length; i++) { const k = i & 1; low[k] = Math.min(low[k], places[i]); high[k] = Math.max(high[k], places[i]); }
    const span = Math.max(high[0] - low[0], high[1] - low[1]) || 1;
    const cell = (x, y) => Math.min(CELLS - 1, Math.max(0, Math.floor(((y - low[1]) / span) * CELLS))) * CELLS + Math.min(CELLS - 1, Math.max(0, Math.floor(((x - low[0]) / span) * CELLS)));
    const starts = new Uint32Array(CELLS * CELLS + 1);
    for (let i = 0; i < count; i++) starts[cell(places[2 * i], places[2 * i + 1]) + 1]++;
    for (let i = 1; i < starts.length; i++) starts[i] += starts[i - 1];
    const next = starts.slice(), order = new Uint32Array(count);
    for (let i = 0; i < count; i++) order[next[cell(places[2 * i], places[2 * i + 1])]++] = i;
    return { low, span, cell, starts, order };
  }

  // The numbers from 0 in an order in which every beginning is a fair sample.
  function shuffled(count) {
    const order = Uint32Array.from({ length: count }, (_, i) => i);
    for (let i = count - 1, seed = 1; i > 0; i--) {
      seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
      const j = Math.floor((seed / 2 ** 32) * (i + 1)), kept = order[i];
      order[i] = order[j];
      order[j] = kept;
    }
    return order;
  }

  // The camera that shows all but the outermost 4 % on each side.
  function bulk(places, span) {
    const [x, y] = [0, 1].map((k) => places.filter((_, i) => (i & 1) === k).sort());
    const ends = [x, y].map((v) => [v[Math.floor(0.04 * (v.length - 1))], v[Math.ceil(0.96 * (v.length - 1))]]);
    const size = Math.max(ends[0][1] - ends[0][0], ends[1][1] - ends[1][0]) || span;
    return { x: (ends[0][0] + ends[0][1]) / 2, y: (ends[1][0] + ends[1][1]) / 2, zoom: (0.75 * span) / size };
  }

  function layer(canvas, places) {
    const gl = canvas.getContext("webgl2", { antialias: false, alpha: false, preserveDrawingBuffer: true });
    if (!gl) return null;
    const built = program(gl), index = grid(places), count = places.length / 2;
    gl.useProgram(built);
    const buffer = (name, data, width, type, normalized) => {
      const made = gl.createBuffer(), at = gl.getAttribLocation(built, name);
      gl.bindBuffer(gl.ARRAY_BUFFER, made);
      gl.bufferData(gl.ARRAY_BUFFER, data, gl.STATIC_DRAW);
      gl.enableVertexAttribArray(at);
      gl.vertexAttribPointer(at, width, type, normalized, 0, 0);
      return made;
    };
    const order = shuffled(count);
    buffer("place", Float32Array.from({ length: 2 * count }, (_, i) => places[2 * order[i >> 1] + (i & 1)]), 2, gl.FLOAT, false);
    const colorBuffer = buffer("color", new Uint8Array(4 * count), 4, gl.UNSIGNED_BYTE, true);
    const at = Object.fromEntries(["center", "scale", "size"].map((name) => [name, gl.getUniformLocation(built, name)]));
    const home = bulk(places, index.span);
    const camera = { ...home };
    let background = [1, 1, 1], pending = false, size = 2;
    // While the map moves, as many points are drawn as the machine manages in time: all on a GPU, fewer without one.
    let affordable = count, latest = 0, usual = FRAME, resting = 0;

    const scale = () => {
      const shorter = Math.min(canvas.width, canvas.height);
      const s = (1.9 * camera.zoom) / index.span;
      return [(s * shorter) / canvas.width, (s * shorter) / canvas.height];
    };
    function render(shown = count) {
      pending = false;
      gl.viewport(0, 0, canvas.width, canvas.height);
      gl.clearColor(background[0] / 255, background[1] / 255, background[2] / 255, 1);
      gl.clear(gl.COLOR_BUFFER_BIT);
      gl.uniform2f(at.center, camera.x, camera.y);
      gl.uniform2f(at.scale, ...scale());
      const density = canvas.width / (canvas.clientWidth || canvas.width);
      gl.uniform1f(at.size, density * Math.min(6, size * Math.sqrt(camera.zoom)));
      gl.drawArrays(gl.POINTS, 0, shown);
    }
    const draw = () => { if (!pending) { pending = true; requestAnimationFrame(() => render()); } };
    function move() {
      if (pending) return;
      pending = true;
      requestAnimationFrame((now) => {
        const taken = Math.min(now - latest, 200);
        latest = now;
        usual = 0.8 * usual + 0.2 * taken;
        affordable = usual > FRAME ? Math.max(LEAST, affordable * 0.9) : Math.min(count, affordable * 1.04);
        render(Math.round(Math.min(count, affordable)));
        clearTimeout(resting);
        resting = setTimeout(draw, 250);
      });
    }
    const toWorld = (px, py) => {
      const [sx, sy] = scale(), box = canvas.getBoundingClientRect();
      return [camera.x + ((2 * px) / box.width - 1) / sx, camera.y - ((2 * py) / box.height - 1) / sy];
    };
    const toScreen = (x, y) => {
      const [sx, sy] = scale(), box = canvas.getBoundingClientRect();
      return [(((x - camera.x) * sx + 1) / 2) * box.width, ((1 - (y - camera.y) * sy) / 2) * box.height];
    };
    return {
      count, camera, draw, move, render, affordable: () => affordable, toWorld, toScreen,
      resize() {
        const density = Math.min(devicePixelRatio || 1, 2);
        canvas.width = Math.round(canvas.clientWidth * density);
        canvas.height = Math.round(canvas.clientHeight * density);
        size = Math.max(1.2, Math.min(3, 900 / Math.sqrt(count)));
        draw();
      },
      paint(colors, paper) {
        gl.bindBuffer(gl.ARRAY_BUFFER, colorBuffer);
        const given = new Uint32Array(colors.buffer);
        gl.bufferData(gl.ARRAY_BUFFER, Uint32Array.from(order, (i) => given[i]), gl.DYNAMIC_DRAW);
        background = paper;
        draw();
      },
      home() { Object.assign(camera, home); draw(); },
      pan(dx, dy) {
        const [x0, y0] = toWorld(0, 0), [x1, y1] = toWorld(dx, dy);
        camera.x -= x1 - x0;
        camera.y -= y1 - y0;
        move();
      },
      zoom(factor, px, py) {
        const [x, y] = toWorld(px, py);
        camera.zoom = Math.min(400, Math.max(0.5, camera.zoom * factor));
        const [x1, y1] = toWorld(px, py);
        camera.x += x - x1;
        camera.y += y - y1;
        move();
      },
      // The point nearest to a place on the canvas, within so many pixels; -1 where there is none.
      nearest(px, py, within = 8) {
        const [x, y] = toWorld(px, py), [xe] = toWorld(px + within, py), reach = Math.abs(xe - x);
        let best = -1, least = reach * reach;
        const step = index.span / CELLS, span = Math.min(CELLS, Math.ceil(reach / step));
        for (let j = -span; j <= span; j++) for (let i = -span; i <= span; i++) {
          const cell = index.cell(x + i * step, y + j * step);
          for (let k = index.starts[cell]; k < index.starts[cell + 1]; k++) {
            const p = index.order[k], d = (places[2 * p] - x) ** 2 + (places[2 * p + 1] - y) ** 2;
            if (d < least) { least = d; best = p; }
          }
        }
        return best;
      },
      // The points within a polygon of places on the canvas (even-odd rule).
      inside(polygon) {
        const world = polygon.map(([px, py]) => toWorld(px, py)), found = [];
        const xs = world.map((p) => p[0]), ys = world.map((p) => p[1]);
        const box = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
        for (let p = 0; p < count; p++) {
          const x = places[2 * p], y = places[2 * p + 1];
          if (x < box[0] || x > box[1] || y < box[2] || y > box[3]) continue;
          let within = false;
          for (let i = 0, j = world.length - 1; i < world.length; j = i++) {
            const [ax, ay] = world[i], [bx, by] = world[j];
            if (ay > y !== by > y && x < ((bx - ax) * (y - ay)) / (by - ay) + ax) within = !within;
          }
          if (within) found.push(p);
        }
        return found;
      },
    };
  }
  return { layer };
})();
