'use strict';
// Everything that comes from the data is set as text or as an attribute, never as HTML.

const SVG = 'http://www.w3.org/2000/svg';
const data = JSON.parse(document.getElementById('data').textContent);

for (const part of document.querySelectorAll('.needs-script')) part.hidden = false;
document.querySelectorAll('section.dataset').forEach((section, index) => {
  makeSortable(section.querySelector('table.ranking'));
  makeFilterable(section);
  explore(section, data[index], index);
  if (section.querySelector('.speed')) showSpeed(section, data[index]);
});

function element(name, attributes = {}, ...content) {
  const made = name.includes(':') ? document.createElementNS(SVG, name.slice(4)) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...content);
  return made;
}

// .8873 for 0.8873, as in the field's tables
function shown(value, digits = 4) {
  if (value === null || value === undefined) return '–';
  return value.toFixed(digits).replace(/^(-?)0\./, '$1.').replace('-', '−');
}

function seconds(value) {
  return `${Number(value.toPrecision(3))} s`;
}

/* ---------------------------------------------------------------- table */

function makeSortable(table) {
  const headers = [...table.tHead.rows[0].cells];
  headers.forEach((header, column) => {
    const button = header.querySelector('button');
    if (!button) return;
    button.addEventListener('click', () => {
      const opposite = { ascending: 'descending', descending: 'ascending' };
      const order = opposite[header.getAttribute('aria-sort')] || button.dataset.first;
      for (const other of headers) other.removeAttribute('aria-sort');
      header.setAttribute('aria-sort', order);
      const sign = order === 'ascending' ? 1 : -1;
      const rows = [...table.tBodies[0].rows];
      rows.sort((one, other) => compare(one.cells[column].dataset.sort, other.cells[column].dataset.sort, sign));
      table.tBodies[0].append(...rows);
    });
  });
}

function compare(one, other, sign) {
  if (one === '' || other === '') return (one === '') - (other === ''); // undefined values come last in both orders
  const [a, b] = [Number(one), Number(other)];
  if (!Number.isNaN(a) && !Number.isNaN(b)) return sign * (a - b);
  return sign * one.localeCompare(other, 'en', { numeric: true });
}

function makeFilterable(section) {
  const field = section.querySelector('.filter');
  const rows = [...section.querySelectorAll('table.ranking tbody tr')];
  field.addEventListener('input', () => {
    const wanted = field.value.trim().toLowerCase();
    for (const row of rows) row.hidden = !row.cells[1].textContent.toLowerCase().includes(wanted);
    const left = rows.filter((row) => !row.hidden).length;
    section.querySelector('.count').textContent = `${left} of ${rows.length} metrics`;
  });
}

/* ---------------------------------------------------------------- scores and images */

function explore(section, dataset, number) {
  const plot = section.querySelector('.scatter');
  const detail = section.querySelector('aside.detail');
  const mark = section.querySelector('.mark');
  const choices = section.querySelector('.metrics');
  let metric;

  dataset.metrics.forEach((candidate, index) => {
    const radio = element('input', { type: 'radio', name: `metric-${number}`, value: index });
    radio.addEventListener('change', () => choose(index));
    choices.append(element('label', {}, radio, miniature(dataset, candidate), candidate.name, element('br'), shown(candidate.srcc)));
  });
  section.querySelectorAll('table.ranking tbody tr').forEach((row) => {
    row.querySelector('a').addEventListener('click', () => {
      choose(dataset.metrics.findIndex((candidate) => candidate.name === row.dataset.metric));
    });
  });
  if (mark) mark.addEventListener('change', draw);

  function choose(index) {
    metric = dataset.metrics[index];
    choices.querySelectorAll('input')[index].checked = true;
    section.querySelector('.of-metric').textContent = ` of ${metric.name}`;
    showCards(section.querySelector('.too-high'), dataset, metric, metric.high);
    showCards(section.querySelector('.too-low'), dataset, metric, metric.low);
    delete plot.dataset.active;
    draw();
  }

  function draw() {
    const points = pairs(dataset, metric).map(({ image, index, score }) => ({
      key: index,
      x: image.mos,
      y: score,
      kind: !mark || !mark.value ? '' : image.generator === mark.value ? 'marked' : 'muted',
      text: [image.name, image.prompt, `MOS ${shown(image.mos, 2)}`, `score ${scoreOf(metric, index)}`, tiesOf(metric, index)].filter(Boolean).join(', '),
    }));
    drawPlot(plot, points, {
      title: `Images by MOS and ${metric.name} score`,
      x: { title: 'mean opinion score (MOS)' },
      y: { title: `${metric.name}${metric.lower_better ? ', lower is better: the axis is turned over' : ''}`, turned: metric.lower_better },
      first: metric.high[0] ?? metric.low[0],
      height: (width) => Math.max(280, Math.min(460, width * 0.65)),
      show: (point) => detail.replaceChildren(...picture(dataset.images[point.key], dataset, metric, point.key)),
    });
    if (!points.length) detail.replaceChildren('No image has both a score and a MOS.');
  }

  choose(0);
  onResize(plot, draw);
}

function pairs(dataset, metric) {
  return dataset.images
    .map((image, index) => ({ image, index, score: metric.scores[index] }))
    .filter(({ image, score }) => image.mos !== null && score !== null);
}

function number4(value) {
  return String(Number(value.toPrecision(4))).replace('-', '−');
}

// 2.708 ± 0.38 where the metric states a deviation
function scoreOf(metric, index) {
  const std = metric.std?.[index] ?? null;
  return number4(metric.scores[index]) + (std === null ? '' : ` ± ${shown(std, 2)}`);
}

// images of the same prompt whose scores are too close to say which is better
function tiesOf(metric, index) {
  const count = metric.ties?.[index];
  return count ? `tied with ${count} other${count > 1 ? 's' : ''} of its prompt` : '';
}

function miniature(dataset, metric) {
  const known = pairs(dataset, metric);
  const [x, y] = [range(known.map(({ image }) => image.mos)), range(known.map(({ score }) => score))];
  const path = known.map(({ image, score }) => {
    const across = 4 + (92 * (image.mos - x.low)) / (x.high - x.low || 1);
    const up = (56 * (score - y.low)) / (y.high - y.low || 1);
    return `M${across.toFixed(1)} ${(metric.lower_better ? 4 + up : 60 - up).toFixed(1)}h0`;
  });
  const picture = element('svg:svg', { viewBox: '0 0 100 64', 'aria-hidden': 'true', preserveAspectRatio: 'none' });
  picture.append(element('svg:path', { d: path.join(''), class: known.length < 60 ? 'few' : '' }));
  return picture;
}

function frame(image) {
  if (image.picture) return element('img', { src: image.picture, alt: image.prompt ? `image of the prompt: ${image.prompt}` : image.name });
  return element('div', { class: 'missing' }, image.no_picture || 'not among the pictures in this page');
}

function picture(image, dataset, metric, index) {
  const facts = element('dl');
  const add = (name, value) => value && facts.append(element('dt', {}, name), element('dd', { dir: 'auto' }, value));
  const [byMos, byScore] = metric.ranks[index];
  add('MOS', shown(image.mos, 2) + (image.mos_std === null ? '' : ` ± ${shown(image.mos_std, 2)}`) + `, rank ${byMos} of ${metric.ranked}`);
  add('score', `${scoreOf(metric, index)}, rank ${byScore} of ${metric.ranked}`);
  add('tie', tiesOf(metric, index));
  add('generator', image.generator);
  add('style', image.style);
  add('image', image.name);
  return [frame(image), element('p', { class: 'prompt', dir: 'auto' }, image.prompt || 'no prompt'), facts];
}

function showCards(list, dataset, metric, indices) {
  const cards = indices.map((index) => {
    const image = dataset.images[index];
    const [byMos, byScore] = metric.ranks[index];
    return element('li', {}, frame(image),
      element('p', { class: 'prompt', dir: 'auto' }, image.prompt || image.name),
      element('span', { class: 'numbers' }, `rank ${byScore} by score, ${byMos} by MOS, of ${metric.ranked}; score ${scoreOf(metric, index)}`));
  });
  list.replaceChildren(...(cards.length ? cards : [element('li', { class: 'soft' }, 'none')]));
}

/* ---------------------------------------------------------------- speed */

function showSpeed(section, dataset) {
  const plot = section.querySelector('.speed');
  const detail = section.querySelector('.speed-detail');
  const known = dataset.metrics.filter((metric) => metric.seconds > 0 && metric.srcc !== null);
  const best = [...known].sort((one, other) => one.seconds - other.seconds || other.srcc - one.srcc);
  const front = best.filter((metric, index) => best.slice(0, index).every((faster) => faster.srcc < metric.srcc));
  const text = (metric) => `${metric.name}: ${seconds(metric.seconds)} an image, SRCC ${shown(metric.srcc)}`
    + (metric.srcc_low === null ? '' : ` (${shown(metric.srcc_low, 3)} to ${shown(metric.srcc_high, 3)})`);
  onResize(plot, () => drawPlot(plot, known.map((metric) => ({
    key: metric.name, x: metric.seconds, y: metric.srcc, low: metric.srcc_low, high: metric.srcc_high, label: metric.name, text: text(metric), kind: 'metric',
  })), {
    title: 'Metrics by time and SRCC',
    x: { title: 'seconds an image (logarithmic; left is faster)', logarithmic: true },
    y: { title: 'SRCC' },
    front: front.map((metric) => [metric.seconds, metric.srcc]),
    first: front.at(-1)?.name,
    height: (width) => Math.max(300, Math.min(440, width * 0.5)),
    show: (point) => { detail.textContent = point.text; },
  }));
}

/* ---------------------------------------------------------------- plots */

function range(values) {
  return values.reduce(({ low, high }, value) => ({ low: Math.min(low, value), high: Math.max(high, value) }), { low: Infinity, high: -Infinity });
}

function onResize(box, draw) {
  let width = box.clientWidth;
  new ResizeObserver(() => {
    if (box.clientWidth === width) return;
    width = box.clientWidth;
    draw();
  }).observe(box);
  draw();
}

// Maps values to 0..1, with a margin, and gives the places of the ticks.
function scale({ low, high }, logarithmic) {
  const [from, to] = logarithmic ? [Math.log10(low), Math.log10(high)] : [low, high];
  const margin = (to - from || Math.abs(to) || 1) * 0.06;
  const [start, end] = [from - margin, to + margin];
  const at = (value) => ((logarithmic ? Math.log10(value) : value) - start) / (end - start);
  const ticks = [];
  if (logarithmic) {
    const steps = end - start > 3 ? [1] : [1, 2, 5];
    for (let power = Math.floor(start); power <= end; power++) ticks.push(...steps.map((step) => step * 10 ** power));
  } else {
    const rough = (end - start) / 8;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].find((candidate) => candidate * power >= rough) * power;
    for (let tick = Math.ceil(start / step); tick * step <= end; tick++) ticks.push(tick * step);
  }
  return { at, ticks: ticks.filter((tick) => at(tick) >= 0 && at(tick) <= 1) };
}

// A plot of points that are pointed at, or focused one at a time: the arrow keys go from one to the next.
function drawPlot(box, points, { title, x, y, height: heightFor, front, first, show }) {
  const hadFocus = box.contains(document.activeElement);
  const width = box.clientWidth;
  if (!width) return;
  const height = heightFor(width);
  const edge = { left: 52, right: 14, top: 26, bottom: 44 };
  const svg = element('svg:svg', { viewBox: `0 0 ${width} ${height}`, width, height });
  box.replaceChildren(svg);
  if (!points.length) {
    svg.append(element('svg:text', { x: 10, y: 30 }, 'nothing to show'));
    return;
  }

  const across = scale(range(points.map((point) => point.x)), x.logarithmic);
  const up = scale(range(points.flatMap((point) => [point.y, point.low ?? point.y, point.high ?? point.y])));
  const left = (value) => edge.left + across.at(value) * (width - edge.left - edge.right);
  const top = (value) => {
    const part = y.turned ? up.at(value) : 1 - up.at(value);
    return edge.top + part * (height - edge.top - edge.bottom);
  };
  const axes = element('svg:g', { 'aria-hidden': 'true' });
  for (const tick of across.ticks) {
    axes.append(element('svg:line', { class: 'grid', x1: left(tick), x2: left(tick), y1: edge.top, y2: height - edge.bottom }));
    axes.append(element('svg:text', { x: left(tick), y: height - edge.bottom + 17, 'text-anchor': 'middle' }, number4(tick)));
  }
  for (const tick of up.ticks) {
    axes.append(element('svg:line', { class: 'grid', x1: edge.left, x2: width - edge.right, y1: top(tick), y2: top(tick) }));
    axes.append(element('svg:text', { x: edge.left - 7, y: top(tick) + 4, 'text-anchor': 'end' }, number4(tick)));
  }
  axes.append(element('svg:line', { class: 'axis', x1: edge.left, x2: width - edge.right, y1: height - edge.bottom, y2: height - edge.bottom }));
  axes.append(element('svg:text', { class: 'title', x: width - edge.right, y: height - 8, 'text-anchor': 'end' }, x.title));
  axes.append(element('svg:text', { class: 'title', x: 4, y: 15 }, y.title));
  if (front) axes.append(element('svg:path', { class: 'front', d: `M${front.map(([a, b]) => `${left(a)} ${top(b)}`).join('L')}` }));
  for (const point of points) {
    if (point.low === undefined || point.low === null) continue;
    axes.append(element('svg:line', { class: 'error', x1: left(point.x), x2: left(point.x), y1: top(point.low), y2: top(point.high) }));
  }
  svg.append(axes);

  const group = element('svg:g', { role: 'listbox', 'aria-label': `${title}. The arrow keys go from dot to dot.` });
  const ring = element('svg:circle', { class: 'ring', r: 9, 'aria-hidden': 'true' });
  const radius = points.length > 1500 ? 2.5 : points.length > 300 ? 3.5 : 5;
  let active;
  // the marked ones are drawn last, on top of the others
  const drawn = [...points].sort((one, other) => (one.kind === 'marked') - (other.kind === 'marked'));
  for (const point of drawn) {
    point.circle = element('svg:circle', {
      class: `point ${point.kind}`, cx: left(point.x), cy: top(point.y), r: radius,
      role: 'option', tabindex: -1, 'aria-label': point.text, 'aria-selected': 'false',
    });
    point.circle.addEventListener('focus', () => point !== active && activate(point, false));
    group.append(point.circle);
  }
  svg.append(group, ring);
  if (points[0].label !== undefined) svg.append(labels(points, left, top, width));

  const byX = [...points].sort((one, other) => one.x - other.x || one.y - other.y);
  const byY = [...points].sort((one, other) => (one.y - other.y) * (y.turned ? -1 : 1) || one.x - other.x);
  const activate = (point, focus) => {
    if (active) {
      active.circle.setAttribute('tabindex', -1);
      active.circle.setAttribute('aria-selected', 'false');
    }
    active = point;
    box.dataset.active = point.key;
    point.circle.setAttribute('tabindex', 0);
    point.circle.setAttribute('aria-selected', 'true');
    ring.setAttribute('cx', left(point.x));
    ring.setAttribute('cy', top(point.y));
    show(point);
    if (focus) point.circle.focus({ preventScroll: true });
  };

  const nearest = (event) => {
    const corner = svg.getBoundingClientRect();
    const [px, py] = [event.clientX - corner.left, event.clientY - corner.top];
    let found, least = 30 ** 2;
    for (const point of points) {
      const distance = (left(point.x) - px) ** 2 + (top(point.y) - py) ** 2;
      if (distance < least) [found, least] = [point, distance];
    }
    return found;
  };
  svg.addEventListener('pointermove', (event) => {
    const point = nearest(event);
    if (point && point !== active) activate(point, svg.contains(document.activeElement));
  });
  svg.addEventListener('mousedown', (event) => event.preventDefault()); // keeps the browser from focusing another dot
  svg.addEventListener('click', (event) => {
    const point = nearest(event);
    if (point) activate(point, true);
  });
  group.addEventListener('keydown', (event) => {
    const moves = { ArrowRight: [byX, 1], ArrowLeft: [byX, -1], ArrowUp: [byY, 1], ArrowDown: [byY, -1] };
    let next;
    if (event.key in moves) {
      const [order, step] = moves[event.key];
      next = order[order.indexOf(active) + step];
    } else if (event.key === 'Home') next = byX[0];
    else if (event.key === 'End') next = byX.at(-1);
    else return;
    event.preventDefault();
    if (next) activate(next, true);
  });
  const wanted = box.dataset.active ?? String(first);
  activate(points.find((point) => String(point.key) === wanted) ?? byX.at(-1), hadFocus);
}

// Names beside the dots, where there is room; the others are read by pointing.
function labels(points, left, top, width) {
  const group = element('svg:g', { 'aria-hidden': 'true' });
  const taken = points.map((point) => ({ x: left(point.x) - 6, y: top(point.y) - 6, w: 12, h: 12 }));
  const free = (box) => box.x >= 52 && box.x + box.w <= width && taken.every((other) =>
    box.x + box.w <= other.x || other.x + other.w <= box.x || box.y + box.h <= other.y || other.y + other.h <= box.y);
  for (const point of [...points].sort((one, other) => other.y - one.y)) {
    const [px, py, w] = [left(point.x), top(point.y), point.label.length * 6.7];
    const places = [[px + 12, py - 7], [px - 12 - w, py - 7], [px - w / 2, py - 24], [px - w / 2, py + 10], [px + 8, py - 20], [px + 8, py + 6], [px - 8 - w, py - 20], [px - 8 - w, py + 6]];
    const place = places.map(([x, y]) => ({ x, y, w, h: 14 })).find(free);
    if (!place) continue;
    taken.push(place);
    group.append(element('svg:text', { class: 'label', x: place.x, y: place.y + 11 }, point.label));
  }
  return group;
}
