(() => {
  "use strict";
  const data = JSON.parse(document.getElementById("data").textContent);
  const PAGE = 20; // cards in the page at a time, however many samples there are
  const BESIDE = 2; // samples of a prompt that stand side by side; the rest is folded away
  const WORDS = 700; // longer answers are shown without marks: comparing takes the product of both lengths
  const TEXT = 0, TOKENS = 1, FINISHED = 2, SCORES = 3;
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
  const hide = (id, hidden) => { at(id).closest("label").hidden = hidden; };

  const names = data.measures.map((measure) => measure[0]);
  const rows = data.rows.map(([plan, prompt, answers]) => ({ plan, prompt, answers }));
  const judged = data.measures.map((measure, index) => index).filter((index) => data.measures[index][2] !== null);
  const alone = data.names.length < 2;

  data.names.forEach((name, index) => { option(at("first"), index, name); option(at("second"), index, name); });
  data.plans.forEach((plan, index) => option(at("plan"), index, plan));
  judged.forEach((index) => option(at("by"), index, names[index]));
  if (judged.includes(names.indexOf(data.primary))) at("by").value = names.indexOf(data.primary);
  const [first, second] = data.pairs[0] || [0, 0];
  at("first").value = first;
  at("second").value = second;
  hide("plan", data.plans.length < 2);
  ["first", "second", "diff"].forEach((id) => hide(id, alone));
  const orders = [...at("order").options];
  const drop = (values) => orders.filter((node) => values.includes(node.value)).forEach((node) => node.remove());
  if (alone || judged.length === 0) drop(["win", "loss"]);
  if (alone || judged.length < 2) drop(["disagree"]);
  at("controls").hidden = false;

  const state = () => ({
    a: Number(at("first").value),
    b: Number(at("second").value),
    by: Number(at("by").value),
    plan: Number(at("plan").value),
    order: at("order").value,
    text: at("search").value.trim().toLowerCase(),
    cut: at("cut").checked,
  });

  const mean = (answers, measure) => {
    let sum = 0, count = 0;
    for (const answer of answers) {
      const score = answer[SCORES][measure];
      if (score !== null) { sum += score; count += 1; }
    }
    return count ? sum / count : NaN;
  };
  // How much better b is than a, in the direction of the measure
  const gain = (row, chosen, measure) => {
    const sign = data.measures[measure][2] ? 1 : -1;
    return sign * (mean(row.answers[chosen.b], measure) - mean(row.answers[chosen.a], measure));
  };
  // How far the measures contradict each other: the smaller of the largest gain and the largest loss, each in
  // root mean squares of the measure's gains.
  const disagreement = (kept, chosen) => {
    const scale = judged.map((measure) => {
      const gains = kept.map((row) => gain(row, chosen, measure)).filter((value) => !Number.isNaN(value));
      return Math.sqrt(gains.reduce((sum, value) => sum + value * value, 0) / Math.max(gains.length, 1));
    });
    return (row) => {
      let up = 0, down = 0;
      judged.forEach((measure, index) => {
        const value = scale[index] > 0 ? gain(row, chosen, measure) / scale[index] : 0;
        if (value > up) up = value;
        if (-value > down) down = -value;
      });
      return Math.min(up, down);
    };
  };
  const shuffled = (kept) => {
    let seed = 1; // fixed: the page looks the same each time it is opened
    return kept.map((row) => {
      seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
      return [seed, row];
    }).sort((left, right) => left[0] - right[0]).map((pair) => pair[1]);
  };
  const haystack = (row) => {
    if (row.text === undefined) {
      const [shown, whole, reference] = data.prompts[row.prompt];
      row.text = [whole || shown, reference || "", ...row.answers.flat().map((answer) => answer[TEXT])].join("\n").toLowerCase();
    }
    return row.text;
  };
  const arrange = (chosen) => {
    const kept = rows.filter((row) => row.plan === chosen.plan
      && (!chosen.cut || [chosen.a, chosen.b].some((name) => row.answers[name].some((answer) => !answer[FINISHED])))
      && (!chosen.text || haystack(row).includes(chosen.text)));
    if (chosen.order === "data") return kept;
    if (chosen.order === "random") return shuffled(kept);
    const value = chosen.order === "disagree" ? disagreement(kept, chosen)
      : (row) => (chosen.order === "win" ? 1 : -1) * gain(row, chosen, chosen.by);
    return kept.map((row) => [value(row), row]).filter((pair) => pair[0] > 1e-9)
      .sort((left, right) => right[0] - left[0]).map((pair) => pair[1]);
  };

  // Longest common subsequence of two lists of words; returns for each word whether the other text has it too.
  const common = (left, right) => {
    const width = right.length + 1;
    const table = new Uint16Array((left.length + 1) * width);
    for (let i = left.length - 1; i >= 0; i -= 1) {
      for (let j = right.length - 1; j >= 0; j -= 1) {
        table[i * width + j] = left[i] === right[j] ? table[(i + 1) * width + j + 1] + 1
          : Math.max(table[(i + 1) * width + j], table[i * width + j + 1]);
      }
    }
    const shared = [left.map(() => false), right.map(() => false)];
    for (let i = 0, j = 0; i < left.length && j < right.length;) {
      if (left[i] === right[j]) { shared[0][i] = shared[1][j] = true; i += 1; j += 1; }
      else if (table[(i + 1) * width + j] >= table[i * width + j + 1]) i += 1;
      else j += 1;
    }
    return shared;
  };
  const words = (text) => text.match(/\s*\S+/g) || [];
  const marked = (parts, shared, tag, rest) => {
    const node = make("p");
    for (let i = 0; i < parts.length;) {
      let end = i;
      while (end < parts.length && shared[end] === shared[i]) end += 1;
      const text = parts.slice(i, end).join("");
      const space = text.match(/^\s*/)[0];
      node.append(space);
      node.append(shared[i] ? document.createTextNode(text.slice(space.length)) : make(tag, "", text.slice(space.length)));
      i = end;
    }
    node.append(rest);
    return node;
  };
  const texts = (left, right) => {
    const parts = [words(left), words(right)];
    if (!at("diff").checked || parts.some((list) => list.length > WORDS)) return [make("p", "", left), make("p", "", right)];
    const shared = common(...parts.map((list) => list.map((word) => word.trim())));
    const rest = (text) => text.match(/\s*$/)[0];
    return [marked(parts[0], shared[0], "del", left.trim() ? rest(left) : ""), marked(parts[1], shared[1], "ins", right.trim() ? rest(right) : "")];
  };

  const write = (score) => (score === null ? "–" : score.toFixed(Math.abs(score) >= 100 || Number.isInteger(score) ? 0 : 2));
  const scoreLine = (scores, wanted) => {
    const line = make("div", "scores");
    wanted.forEach((name) => line.append(make("span", "", `${name} ${write(scores[names.indexOf(name)])}`)));
    return line;
  };
  const box = (name, kind, body, answer, wanted) => {
    const node = make("div", `answer ${kind}`);
    node.append(make("b", "", name));
    if (answer && !answer[FINISHED]) node.append(make("small", "cut", " cut at the length limit"));
    if (body) node.append(body);
    if (answer) node.append(scoreLine(answer[SCORES], wanted));
    return node;
  };
  const named = (index, sample, count) => (count > 1 ? `${data.names[index]} (${sample + 1})` : data.names[index]);
  const beside = (row, chosen) => {
    const node = make("div", "beside");
    const { a, b } = chosen;
    if (a === b) {
      row.answers[a].slice(0, BESIDE).forEach((answer, sample) => node.append(
        box(named(a, sample, row.answers[a].length), `c${a % 8}`, make("p", "", answer[TEXT]), answer, data.key)));
      return node;
    }
    const count = Math.min(BESIDE, Math.max(row.answers[a].length, row.answers[b].length));
    for (let sample = 0; sample < count; sample += 1) {
      const pair = [row.answers[a][sample], row.answers[b][sample]];
      const bodies = pair.every(Boolean) ? texts(pair[0][TEXT], pair[1][TEXT]) : pair.map((answer) => answer && make("p", "", answer[TEXT]));
      [a, b].forEach((index, side) => {
        if (pair[side]) node.append(box(named(index, sample, row.answers[index].length), `c${index % 8}`, bodies[side], pair[side], data.key));
      });
    }
    return node;
  };
  const verdict = (row, chosen) => {
    if (chosen.a === chosen.b || judged.length === 0) return "";
    const value = gain(row, chosen, chosen.by);
    if (Number.isNaN(value)) return "";
    const much = Math.abs(value) < 1e-9 ? "no difference" : value > 0 ? `better by ${value.toFixed(3)}` : `worse by ${(-value).toFixed(3)}`;
    return ` · ${data.names[chosen.b]} on ${names[chosen.by]}: ${much}`;
  };
  const card = (row, chosen) => {
    const [shown, whole, reference] = data.prompts[row.prompt];
    const node = make("article", "card");
    const heading = make("h3", "", `Prompt ${row.prompt + 1}${verdict(row, chosen)}`);
    const left = make("div", "asked");
    const code = make("pre", "", shown);
    code.tabIndex = 0; // scrolls by keyboard
    left.append(code);
    if (reference) left.append(box("human reference", "", make("p", "", reference)));
    const more = make("details");
    more.append(make("summary", "", "All answers, all scores, the whole prompt"));
    more.addEventListener("toggle", () => {
      if (!more.open || more.childElementCount > 1) return;
      row.answers.forEach((answers, index) => answers.forEach((answer, sample) => more.append(
        box(named(index, sample, answers.length), `c${index % 8}`, make("p", "", answer[TEXT]), answer, names))));
      if (whole) { const pre = make("pre", "", whole); pre.tabIndex = 0; more.append(pre); }
    });
    node.append(heading, left, beside(row, chosen), more);
    return node;
  };

  let kept = [], start = 0, chosen = state();
  const draw = () => {
    at("cards").replaceChildren(...kept.slice(start, start + PAGE).map((row) => card(row, chosen)));
    const end = Math.min(start + PAGE, kept.length);
    at("count").textContent = kept.length ? `${start + 1} to ${end} of ${kept.length.toLocaleString("en")} prompts` : "No prompt fits.";
    at("pages").hidden = kept.length <= PAGE;
    at("previous").disabled = start === 0;
    at("next").disabled = end >= kept.length;
  };
  const refresh = () => {
    chosen = state();
    const ranked = chosen.order === "win" || chosen.order === "loss";
    hide("by", !ranked || judged.length < 2);
    kept = arrange(chosen);
    start = 0;
    draw();
  };
  const turn = (step) => {
    start += step * PAGE;
    draw();
    at("samples").scrollIntoView();
    at("cards").focus({ preventScroll: true });
  };
  let waiting = 0;
  at("controls").addEventListener("submit", (event) => event.preventDefault());
  at("controls").addEventListener("change", (event) => { if (event.target.id !== "search") refresh(); });
  at("search").addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(refresh, 150); });
  at("previous").addEventListener("click", () => turn(-1));
  at("next").addEventListener("click", () => turn(1));
  refresh();
})();
