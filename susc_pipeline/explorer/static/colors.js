// Colour scales made in OKLab (Ottosson 2020), where equal steps of lightness look equal. Blue against orange: told apart
// by all common kinds of colour blindness, and lightness alone carries the size.
"use strict";
explorer.colors = (() => {
  const dark = () => document.documentElement.dataset.theme === "dark";

  function oklch(lightness, chroma, hue) {
    const a = chroma * Math.cos((hue * Math.PI) / 180), b = chroma * Math.sin((hue * Math.PI) / 180);
    const l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3;
    const m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3;
    const s = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3;
    const linear = [
      4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
      -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
      -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s,
    ];
    return linear.map((v) => {
      const c = Math.min(Math.max(v, 0), 1);
      return Math.round(255 * (c <= 0.0031308 ? 12.92 * c : 1.055 * c ** (1 / 2.4) - 0.055));
    });
  }
  const text = ([r, g, b]) => `rgb(${r}, ${g}, ${b})`;

  const NEGATIVE = 250, POSITIVE = 55; // hues: blue, orange
  // From the page's own lightness at 0 to strong at 1; t in -1 ... 1.
  function divergingChannels(t) {
    const size = Math.min(Math.abs(t), 1);
    const [from, to] = dark() ? [0.27, 0.76] : [0.985, 0.5];
    return oklch(from + (to - from) * size, 0.12 * size, t < 0 ? NEGATIVE : POSITIVE);
  }
  function sequentialChannels(t) {
    const size = Math.min(Math.max(t, 0), 1);
    const [from, to] = dark() ? [0.27, 0.85] : [0.985, 0.42];
    return oklch(from + (to - from) * size, 0.13 * size, 285 - 60 * size);
  }
  const ink = ([r, g, b]) => {
    const linear = [r, g, b].map((v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] > 0.179 ? "#000000" : "#ffffff";
  };
  const HUES = [250, 55, 150, 330, 95, 200, 20, 290];
  // Clusters outnumber any set of colours that can be told apart: neighbours in number differ, and the number is shown.
  const categoryChannels = (index) => {
    const lightness = (dark() ? 0.7 : 0.58) + (Math.floor(index / HUES.length) % 3) * 0.07;
    return oklch(lightness, 0.13, HUES[index % HUES.length]);
  };
  // Told apart with each kind of colour blindness, and from both papers and greys: found by search (tests/test_landmarks.py
  // measures it). The map gives neighbours different ones.
  const PALETTE = ["#2e79f5", "#f3b01d", "#f17074", "#79679a", "#a35e16", "#a693c9"];
  const tintChannels = (index) => oklch(dark() ? 0.38 : 0.9, dark() ? 0.08 : 0.065, HUES[index % HUES.length]);
  const token = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  return {
    palette: PALETTE, oklch, divergingChannels, sequentialChannels, categoryChannels, tintChannels, ink, token, text,
    diverging: (t) => text(divergingChannels(t)),
    sequential: (t) => text(sequentialChannels(t)),
    category: (index) => text(categoryChannels(index)),
    tint: (index) => text(tintChannels(index)),
  };
})();
