// What a view needs of the page: it draws what the kernel sends, tells a screen reader what it says, and answers to the
// mouse and the keyboard.
//   data-choose  sends its value to the kernel when it is clicked
//   data-at      one of several tokens in a row; arrow keys move from one to the next
//   data-columns of a row: how many of its tokens stand side by side, so that arrow keys go up and down as well
//   data-says    what is written below the row while a token has the mouse or the focus
//   data-weights of a row: how strongly each token looks at each up to itself, [dest][src]; data-from: whose turn it is

function tell(row, at) {
  const tokens = [...row.children], weights = row.dataset.weights && JSON.parse(row.dataset.weights)[at];
  tokens.forEach((token, i) => token.classList.toggle("book-here", i === at));
  let words = tokens[at]?.dataset.says ?? "";
  if (weights) {
    tokens.forEach((token, i) => {
      const weight = weights[i] ?? 0;
      token.style.background = `rgba(0, 114, 178, ${weight})`;
      token.style.color = weight > 0.5 ? "white" : "black";
    });
    const order = weights.map((_, i) => i).sort((i, j) => weights[j] - weights[i]).slice(0, 3);
    const seen = order.map(i => `${tokens[i].textContent} (${i}) ${weights[i].toFixed(2)}`);
    words = `${tokens[at].textContent} (${at}) looks at: ${seen.join(", ")}`;
  }
  row.nextElementSibling.textContent = words;
}

const rest = row => tell(row, Number(row.dataset.from ?? -1));

function render({ model, el }) {
  const body = document.createElement("div");
  if (model.get("spoken")) body.setAttribute("aria-live", "polite");
  el.classList.add("book-view");
  el.dataset.lmSuppressShortcuts = "true"; // or JupyterLab takes the arrow keys
  el.append(body);

  const draw = () => {
    const focus = body.contains(document.activeElement) && { ...document.activeElement.dataset };
    body.innerHTML = model.get("html");
    body.querySelectorAll(".book-tokens").forEach(rest);
    const same = e => e.dataset.choose === focus.choose && e.dataset.at === focus.at;
    if (focus) [...body.querySelectorAll("[data-choose], [data-at]")].find(same)?.focus();
  };
  draw();
  model.on("change:html", draw);

  const choose = target => {
    model.set("chosen", target.dataset.choose);
    model.save_changes();
  };
  const look = event => {
    const token = event.target.closest("[data-at]");
    if (token) tell(token.parentElement, Number(token.dataset.at));
  };
  const leave = event => {
    const row = event.target.closest(".book-tokens");
    if (row && !row.contains(event.relatedTarget)) rest(row);
  };
  body.addEventListener("pointerover", look);
  body.addEventListener("focusin", look);
  body.addEventListener("pointerout", leave);
  body.addEventListener("focusout", leave);
  body.addEventListener("click", event => {
    const target = event.target.closest("[data-choose]");
    if (target) choose(target);
  });
  body.addEventListener("keydown", event => {
    const token = event.target.closest("[data-at]"), row = token && Number(token.parentElement.dataset.columns);
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -row, ArrowDown: row }[event.key];
    if (token && step) {
      token.parentElement.children[Number(token.dataset.at) + step]?.focus();
      event.preventDefault();
    } else if (["Enter", " "].includes(event.key) && event.target.dataset.choose && event.target.tagName !== "BUTTON") {
      choose(event.target);
      event.preventDefault();
    }
  });
}

export default { render };
