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

  // The two buffers of a layer: places, in the index's order, and colours, which are filled when it is painted.
  function buffers(gl, places, order) {
    const built = program(gl), count = order.length;
    gl.useProgram(built);
    const buffer = (name, data, width, type, normalized) => {
      const made = gl.createBuffer(), at = gl.getAttribLocation(built, name);
      gl.bindBuffer(gl.ARRAY_BUFFER, made);
      gl.bufferData(gl.ARRAY_BUFFER, data, gl.STATIC_DRAW);
      gl.enableVertexAttribArray(at);
      gl.vertexAttribPointer(at, width, type, normalized, 0, 0);
      return made;
    };
    const ordered = new Float32Array(2 * count);
    for (let i = 0; i < count; i++) { ordered[2 * i] = places[2 * order[i]]; ordered[2 * i + 1] = places[2 * order[i] + 1]; }
    buffer("place", ordered, 2, gl.FLOAT, false);
    const color = buffer("color", new Uint8Array(4 * count), 4, gl.UNSIGNED_BYTE, true);
    return { color, at: Object.fromEntries(["center", "scale", "size"].map((name) => [name, gl.getUniformLocation(built, name)])) };
  }

  // What is drawn: the points with their colours, once it has been painted.
  function picture(gl, canvas, places, { order, span }, camera) {
    const { color, at } = buffers(gl, places, order), colors = new Uint32Array(order.length);
    let background = null, size = 2;
    const scale = () => {
      const shorter = Math.min(canvas.width, canvas.height), s = (1.9 * camera.zoom) / span;
      return [(s * shorter) / canvas.width, (s * shorter) / canvas.height];
    };
    function render(shown = order.length) {
      if (!background) return;
      gl.viewport(0, 0, canvas.width, canvas.height);
      gl.clearColor(background[0] / 255, background[1] / 255, background[2] / 255, 1);
      gl.clear(gl.COLOR_BUFFER_BIT);
      gl.uniform2f(at.center, camera.x, camera.y);
      gl.uniform2f(at.scale, ...scale());
      const density = canvas.width / (canvas.clientWidth || canvas.width);
      gl.uniform1f(at.size, density * Math.min(6, size * Math.sqrt(camera.zoom)));
      gl.drawArrays(gl.POINTS, 0, shown);
    }
    // Colours of the points, four bytes each in one number.
    function paint(given, paper) {
      for (let i = 0; i < order.length; i++) colors[i] = given[order[i]];
      gl.bindBuffer(gl.ARRAY_BUFFER, color);
      gl.bufferData(gl.ARRAY_BUFFER, colors, gl.DYNAMIC_DRAW);
      background = paper;
    }
    // Whether the canvas has changed its size.
    function fit() {
      const density = Math.min(devicePixelRatio || 1, 2), wanted = [Math.round(canvas.clientWidth * density), Math.round(canvas.clientHeight * density)];
      if (canvas.width === wanted[0] && canvas.height === wanted[1]) return false;
      [canvas.width, canvas.height] = wanted;
      size = Math.max(1.2, Math.min(3, 900 / Math.sqrt(order.length)));
      return true;
    }
    return { render, paint, fit, scale };
  }

  // Draws at the next frame. While the map moves, as many points are drawn as the machine manages in time: all on a GPU,
  // fewer without one; all of them when it has come to rest.
  function pacer(render, count, moved) {
    let pending = false, affordable = count, latest = 0, usual = FRAME, resting = 0;
    const draw = () => {
      if (pending) return;
      pending = true;
      requestAnimationFrame(() => { pending = false; render(); moved(true); });
    };
    function move() {
      if (pending) return;
      pending = true;
      requestAnimationFrame((now) => {
        pending = false;
        const taken = Math.min(now - latest, 200);
        latest = now;
        usual = 0.8 * usual + 0.2 * taken;
        affordable = usual > FRAME ? Math.max(LEAST, affordable * 0.9) : Math.min(count, affordable * 1.04);
        render(Math.round(Math.min(count, affordable)));
        moved(false);
        clearTimeout(resting);
        resting = setTimeout(draw, 250);
      });
    }
    return { draw, move, affordable: () => affordable };
  }

  // `moved(atRest)` is called after each drawing; `start` is a camera to begin with.
  function layer(canvas, places, { moved = () => {}, start = null } = {}) {
    const gl = canvas.getContext("webgl2", { antialias: false, alpha: false, preserveDrawingBuffer: true });
    if (!gl) return null;
    const index = explorer.pointIndex(places), camera = { ...index.home, ...start };
    const { render, paint, fit, scale } = picture(gl, canvas, places, index, camera), { draw, move, affordable } = pacer(render, index.order.length, moved);
    const toWorld = (px, py) => {
      const [sx, sy] = scale(), box = canvas.getBoundingClientRect();
      return [camera.x + ((2 * px) / box.width - 1) / sx, camera.y - ((2 * py) / box.height - 1) / sy];
    };
    const toScreen = (x, y) => {
      const [sx, sy] = scale();
      return [(((x - camera.x) * sx + 1) / 2) * canvas.clientWidth, ((1 - (y - camera.y) * sy) / 2) * canvas.clientHeight];
    };
    const shift = ([x0, y0], [x1, y1]) => { camera.x += x0 - x1; camera.y += y0 - y1; move(); };
    return {
      count: index.order.length, camera, draw, move, render, affordable, toWorld, toScreen,
      resize() { if (fit()) draw(); },
      paint(colors, paper) { paint(colors, paper); draw(); },
      isHome: () => Object.entries(index.home).every(([name, value]) => camera[name] === value),
      home() { Object.assign(camera, index.home); draw(); },
      pan(dx, dy) { shift(toWorld(0, 0), toWorld(dx, dy)); },
      zoom(factor, px, py) {
        const place = toWorld(px, py);
        camera.zoom = Math.min(400, Math.max(0.5, camera.zoom * factor));
        shift(place, toWorld(px, py));
      },
      // The point nearest to a place on the canvas, within so many pixels; -1 where there is none.
      nearest(px, py, within = 8) {
        const [x, y] = toWorld(px, py);
        return index.nearest(x, y, Math.abs(toWorld(px + within, py)[0] - x));
      },
      // The points within a polygon of places on the canvas.
      inside: (polygon) => index.inside(polygon.map(([px, py]) => toWorld(px, py))),
    };
  }
  return { layer };
})();
