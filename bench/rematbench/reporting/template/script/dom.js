// Elements of the page. What comes from models and files goes into them as text, never as markup.
const dom = (() => {
  const find = (selector, within = document) => within.querySelector(selector);
  const findAll = (selector, within = document) => [...within.querySelectorAll(selector)];

  function element(tag, text = "", className = "") {
    const node = document.createElement(tag);
    node.textContent = text;
    node.className = className;
    return node;
  }

  const isDark = () => getComputedStyle(document.documentElement).colorScheme === "dark";
  const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  return { find, findAll, element, isDark, style };
})();
