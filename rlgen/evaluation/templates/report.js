(() => {
  "use strict";
  const data = JSON.parse(document.getElementById("data").textContent);
  const PAGE = 60;
  const at = (id) => document.getElementById(id);
  const make = (tag, kind, text) => {
    const node = document.createElement(tag);
    if (kind) node.className = kind;
    if (text !== undefined) node.textContent = text; // never innerHTML: models write this text
    return node;
  };
  const option = (select, value, text) => {
    const node = make("option", "", text);
    node.value = value;
    select.append(node);
  };
  data.pairs.forEach(([a, b], index) => option(at("pair"), index, `${b} over ${a}`));
  data.plans.forEach((plan) => option(at("plan"), plan, plan));
  at("plan").parentElement.hidden = data.plans.length < 2;
  if (data.primary === null || data.pairs.length === 0) {
    at("filter").querySelectorAll("[value=win],[value=loss]").forEach((node) => node.remove());
  }

  const position = data.measures.indexOf(data.primary);
  const mean = (answers) => {
    const scores = answers.map((answer) => answer[2][position]).filter((score) => score !== null && score !== undefined);
    return scores.length ? scores.reduce((sum, score) => sum + score, 0) / scores.length : NaN;
  };
  const gain = (row) => {
    const [a, b] = data.pairs[at("pair").value];
    return mean(row.answers[b]) - mean(row.answers[a]);
  };
  const shuffled = (rows) => {
    let state = 1; // a fixed seed: the page looks the same each time it is opened
    const keyed = rows.map((row) => {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      return [state, row];
    });
    return keyed.sort((left, right) => left[0] - right[0]).map((pair) => pair[1]);
  };
  const arrange = () => {
    const rows = data.rows.filter((row) => row.plan === at("plan").value);
    const filter = at("filter").value;
    if (filter === "all") return rows;
    if (filter === "random") return shuffled(rows);
    const sign = filter === "win" ? 1 : -1;
    return rows.map((row) => [sign * gain(row), row]).filter((pair) => pair[0] > 1e-9)
      .sort((left, right) => right[0] - left[0]).map((pair) => pair[1]);
  };

  const write = (score) => (score === null ? "–" : score.toFixed(Math.abs(score) >= 100 || Number.isInteger(score) ? 0 : 2));
  const scoreLine = (scores, names) => {
    const line = make("div", "scores");
    names.forEach((name) => line.append(make("span", "", `${name} ${write(scores[data.measures.indexOf(name)])}`)));
    return line;
  };
  const answerBox = (name, kind, text, finished) => {
    const box = make("div", `answer ${kind}`);
    box.append(make("b", "", name));
    if (finished === false) box.append(make("small", "cut", " cut at the length limit"));
    box.append(make("p", "", text));
    return box;
  };
  const card = (row) => {
    const node = make("article", "card");
    const left = make("div");
    const code = make("pre", "", row.prompt);
    code.tabIndex = 0;
    left.append(code);
    const right = make("div");
    if (row.reference) right.append(answerBox("human reference", "", row.reference));
    const all = make("details");
    all.append(make("summary", "", "All scores and the whole prompt"));
    data.names.forEach((name, index) => {
      row.answers[name].forEach((answer, sample) => {
        const title = row.answers[name].length > 1 ? `${name} (${sample + 1})` : name;
        const box = answerBox(title, `c${index % 8}`, answer[0], answer[1]);
        box.append(scoreLine(answer[2], data.key));
        right.append(box);
        const line = scoreLine(answer[2], data.measures);
        line.prepend(make("b", "", `${title} `));
        const holder = make("div", `answer c${index % 8}`);
        holder.append(line);
        all.append(holder);
      });
    });
    if (row.full) all.append(make("pre", "", row.full));
    node.append(left, right, all);
    return node;
  };

  let rows = [];
  let shown = 0;
  const more = () => {
    at("cards").append(...rows.slice(shown, shown + PAGE).map(card));
    shown = Math.min(shown + PAGE, rows.length);
    at("count").textContent = rows.length ? `${shown} of ${rows.length} prompts` : "No prompt fits.";
    at("more").hidden = shown >= rows.length;
    at("more").textContent = `Show ${Math.min(PAGE, rows.length - shown)} more`;
  };
  const refresh = () => {
    rows = arrange();
    shown = 0;
    at("pair").parentElement.hidden = !["win", "loss"].includes(at("filter").value);
    at("cards").replaceChildren();
    more();
  };
  ["filter", "pair", "plan"].forEach((id) => at(id).addEventListener("change", refresh));
  at("more").addEventListener("click", more);
  refresh();
})();
