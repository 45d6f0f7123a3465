"use strict";
(() => {
  const read = (id) => JSON.parse(document.getElementById(id)?.textContent ?? "null");
  const scene = read("scene"), tiles = read("tiles"), found = read("found"), labelled = read("labelled");
  const section = document.getElementById("map"), form = section.querySelector("form");
  const { factor, levels, styles, words } = scene, [wide, high] = scene.metres;
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;

  // Longitude is the column and latitude the row of the image; at zoom 0 the sharpest tiles are as they are.
  const crs = L.extend({}, L.CRS.Simple, {
    transformation: new L.Transformation(1 / factor, 0, 1 / factor, 0),
    distance: (a, b) => Math.hypot(wide * (b.lng - a.lng), high * (b.lat - a.lat)),
  });
  const bounds = L.latLngBounds([0, 0], [scene.height, scene.width]);
  const map = L.map("leaflet", {
    crs, minZoom: -7, maxZoom: Math.max(1, Math.ceil(Math.log2(factor)) + 2), zoomSnap: 0.25, zoomDelta: 0.75,
    maxBounds: bounds.pad(1), wheelPxPerZoomLevel: 90, zoomAnimation: !still, fadeAnimation: false,
    inertia: !still,
  });
  map.attributionControl.setPrefix("Leaflet");
  const Imagery = L.GridLayer.extend({
    createTile({ x, y, z }) {
      const tile = document.createElement("img"), content = tiles[`${-z}/${x}/${y}`];
      tile.alt = "";
      if (!content) return document.createElement("div");
      // The last tiles of a row and a column are as wide and high as the image is.
      tile.onload = () => {
        tile.style.width = `${tile.naturalWidth * tile.scale}px`;
        tile.style.height = `${tile.naturalHeight * tile.scale}px`;
      };
      tile.scale = this.getTileSize().x / 256;
      tile.src = `data:image/jpeg;base64,${content}`;
      return tile;
    },
  });
  if (levels) {
    new Imagery({ bounds, minZoom: -9, maxZoom: 9, minNativeZoom: 1 - levels, maxNativeZoom: 0 }).addTo(map);
  }
  if (wide) L.control.scale({ imperial: false, position: "bottomleft", maxWidth: 140 }).addTo(map);

  const Cased = L.Canvas.extend({
    _fillStroke(context, layer) {
      if (layer.options.casing) {
        context.save();
        context.setLineDash([]);
        context.globalAlpha = 0.6;
        context.lineWidth = layer.options.weight + 2;
        context.strokeStyle = "#000";
        context.stroke();
        context.restore();
      }
      L.Canvas.prototype._fillStroke.call(this, context, layer);
    },
  });
  const key = (part) => (part.c < 0 ? "cu" : `c${part.c}`);
  const told = (layer) => {
    const { id, p, a, o } = layer.feature.properties, name = styles[key(layer.feature.properties)].name;
    const text = document.createElement("span");
    const numbers = p === undefined ? "" : ` ${p.toFixed(2)}, ${Math.round(a)} m²`;
    text.textContent = `${p === undefined ? "Label" : "Building"} ${id}: ${name}${numbers}${o ? `, ${words[o]}` : ""}`;
    return text;
  };
  function outlines(collection, pane, options) {
    if (!collection) return null;
    map.createPane(pane);
    const renderer = new Cased({ pane, padding: 0.4, tolerance: 4 });
    const layer = L.geoJSON(collection, {
      pane, coordsToLatLng: ([x, y]) => L.latLng(y, x),
      style: ({ properties }) => options({ ...styles[key(properties)], ...properties, renderer, pane }),
    });
    layer.bindTooltip(told, { sticky: true }).bindPopup(told);
    return { pane: map.getPane(pane), layer, members: layer.getLayers(), total: collection.features.length };
  }
  const labels = outlines(labelled, "labels", ({ colour, renderer, pane }) => ({
    renderer, pane, color: "#fff", weight: 1.2, fillColor: colour, fillOpacity: 0.45,
  }));
  const buildings = outlines(found, "buildings", ({ colour, dashes, renderer, pane }) => ({
    renderer, pane, color: colour, weight: 2.4, dashArray: dashes === "none" ? null : dashes, lineCap: "round",
    fillColor: colour, fillOpacity: 0.08, casing: true,
  }));
  for (const one of [labels, buildings]) one?.layer.addTo(map);

  const checked = (name) => form.elements[name]?.checked ?? false;
  function kept({ properties: part }, least) {
    return checked(key(part)) && !(checked("mistakes") && part.o === "right") && !(part.p < least);
  }
  function filter() {
    const least = Number(form.elements.confidence.value);
    document.getElementById("least").textContent = least.toFixed(2);
    const counts = [buildings, labels].map((one) => {
      if (!one) return 0;
      one.layer.clearLayers();
      const shown = one.members.filter((member) => kept(member.feature, least));
      shown.forEach((member) => one.layer.addLayer(member));
      return shown.length;
    });
    const grouped = (number) => number.toLocaleString("en").replaceAll(",", "\u202f");
    const beside = labels ? `, ${grouped(counts[1])} of ${grouped(labels.total)} labels` : "";
    document.getElementById("count").textContent = `${grouped(counts[0])} of ${grouped(buildings.total)} buildings${beside}`;
  }
  function compare() {
    if (!labels) return;
    const mode = form.elements.show.value, bar = section.querySelector(".swipe"), size = map.getSize();
    labels.pane.style.display = mode === "found" ? "none" : "";
    buildings.pane.style.display = mode === "labels" ? "none" : "";
    bar.hidden = form.elements.swipe.parentElement.hidden = mode !== "compare";
    const at = (size.x * Number(form.elements.swipe.value)) / 100;
    bar.style.left = `${at}px`;
    const clip = (left, right) => {
      const a = map.containerPointToLayerPoint([left, 0]), b = map.containerPointToLayerPoint([right, size.y]);
      return `polygon(${a.x}px ${a.y}px, ${b.x}px ${a.y}px, ${b.x}px ${b.y}px, ${a.x}px ${b.y}px)`;
    };
    labels.pane.style.clipPath = mode === "compare" ? clip(0, at) : "";
    buildings.pane.style.clipPath = mode === "compare" ? clip(at, size.x) : "";
  }
  let asked = 0;
  form.addEventListener("input", () => {
    clearTimeout(asked);
    asked = setTimeout(() => { filter(); compare(); }, 16);
  });
  map.on("move zoomend resize", compare);

  const whole = () => map.fitBounds(bounds, { animate: false });
  document.getElementById("whole").addEventListener("click", whole);
  for (const button of document.querySelectorAll("[data-x]")) {
    button.addEventListener("click", () => {
      const { x, y, reach } = button.dataset, half = reach * 0.9;
      section.scrollIntoView({ behavior: still ? "auto" : "smooth" });
      map.fitBounds([[y - half, x - half], [+y + half, +x + half]], { animate: false });
    });
    button.hidden = false;
  }
  section.hidden = false;
  map.invalidateSize();
  whole();
  filter();
  compare();
  window.jengo = { map };
  addEventListener("beforeprint", () => {
    for (const part of document.querySelectorAll("details")) part.open = true;
  });
})();
