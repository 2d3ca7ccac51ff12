// What scrolls sideways can be reached by the Tab key, and then scrolled by the arrow keys.
function reach() {
  for (const e of document.querySelectorAll("pre, .text_html, .table-wrapper")) {
    if (e.scrollWidth > e.clientWidth) e.tabIndex = 0; else e.removeAttribute("tabindex");
  }
}
for (const when of ["load", "resize"]) addEventListener(when, reach);
document.fonts.ready.then(reach);
