() => {
  const walker = document.createTreeWalker(document.querySelector("main"), NodeFilter.SHOW_TEXT);
  const found = [];
  while (walker.nextNode()) found.push(walker.currentNode);
  const shown = found.filter((node) => node.parentNode.localName !== "style");
  return shown.map((node) => node.textContent.trim()).filter(Boolean).join(" | ");
}
