"""The look that tables, figures and reports share. Colours are Okabe and Ito's, told apart by every kind of eye."""

from __future__ import annotations

from typing import Final

INK: Final = "#1d2126"
MUTED: Final = "#6b727b"
LINE: Final = "#d9dce0"
FIGURE_FORMATS: Final = ("svg", "pdf", "png")
PAPER: Final = "#ffffff"
BLUE: Final = "#0072b2"
VERMILLION: Final = "#d55e00"

# Everything is inside .ablation, so that a fragment can be pasted into any page.
CSS: Final = f"""
.ablation {{
  --ink: {INK}; --muted: {MUTED}; --line: {LINE}; --paper: {PAPER}; --soft: #f5f6f7; --high: {BLUE}; --low: {VERMILLION};
  color-scheme: light dark; color: var(--ink); background: var(--paper);
  font: 15px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; padding: .25rem 1rem 1rem;
}}
@media (prefers-color-scheme: dark) {{
  .ablation {{ --ink: #e4e7eb; --muted: #98a1ab; --line: #343a41; --paper: #15181c; --soft: #1d2126; --high: #56b4e9;
    --low: #f0883e; }}
}}
.ablation h2 {{ font-size: 1.15rem; font-weight: 650; line-height: 1.3; margin: 0 0 .35rem; text-wrap: balance; }}
.ablation .answer {{ margin: 0 0 1.1rem; max-width: 46rem; }}
.ablation .scroll {{ overflow-x: auto; }}
.ablation table {{ border-collapse: collapse; color: inherit; font: inherit; font-size: .86rem;
  font-variant-numeric: tabular-nums; }}
.ablation th, .ablation td {{ padding: .38rem .5rem; text-align: right; white-space: nowrap; }}
.ablation th:first-child, .ablation td:first-child {{ padding-left: .25rem; }}
.ablation thead th {{ color: var(--muted); font-weight: 500; font-size: .8rem; line-height: 1.25; vertical-align: bottom;
  border-bottom: 1px solid var(--ink); }}
.ablation .left {{ text-align: left; }}
.ablation tbody th {{ font-weight: 600; }}
.ablation tbody tr + tr > * {{ border-top: 1px solid var(--line); }}
.ablation tr[data-role="baseline"] > * {{ background: var(--soft); }}
.ablation tr[data-role="random init"] > * {{ border-top: 1px solid var(--muted); color: var(--muted); }}
.ablation tbody tr:last-child > * {{ border-bottom: 1px solid var(--ink); }}
.ablation .missing {{ color: var(--muted); }}
.ablation .partial {{ color: var(--low); font-weight: 600; }}
.ablation strong {{ font-weight: 700; }}
.ablation .word {{ color: var(--muted); }}
.ablation .higher {{ color: var(--high); }} .ablation .lower {{ color: var(--low); }}
.ablation .interval {{ display: inline-block; vertical-align: -3px; margin-left: .6rem; }}
.ablation .interval line {{ stroke: var(--line); }} .ablation .interval .bar {{ stroke: currentColor; stroke-width: 2; }}
.ablation .interval circle {{ fill: currentColor; }}
.ablation .claim {{ margin: 1.1rem 0 0; max-width: 46rem; font-weight: 600; }}
.ablation .claim + .notes {{ margin-top: .25rem; }}
.ablation caption, .ablation figcaption {{ color: var(--muted); font-size: .82rem; text-align: left; padding: .35rem 0; }}
.ablation .notes {{ margin: .9rem 0 0; padding: 0; list-style: none; color: var(--muted); font-size: .82rem;
  max-width: 58rem; }}
.ablation .notes li {{ margin: .15rem 0; overflow-wrap: anywhere; }}
@media print {{ .ablation {{ font-size: 10pt; }} .ablation .scroll {{ overflow: visible; }} }}
"""

# A whole page around the table; what is in .ablation stays as it is.
PAGE_CSS: Final = """
body { margin: 0; background: #fff; }
@media (prefers-color-scheme: dark) { body { background: #15181c; } }
main.ablation { --muted: #656c75; --low: #b84f00; }
@media (prefers-color-scheme: dark) { main.ablation { --muted: #98a1ab; --low: #f0883e; } }
main.ablation { max-width: 75rem; margin: 0 auto; padding: 2.5rem 1.5rem 4rem; }
.ablation header { margin-bottom: 2rem; }
.ablation .label { color: var(--muted); font-size: .85rem; margin: 0; overflow-wrap: anywhere; }
.ablation h1 { font-size: 1.7rem; line-height: 1.2; letter-spacing: -.01em; margin: .3rem 0 .8rem; text-wrap: balance; }
.ablation header .answer { font-size: 1.08rem; line-height: 1.55; max-width: 50rem; margin: 0;
  border-left: 3px solid var(--high); padding-left: .9rem; }
.ablation section { margin-top: 2.6rem; }
.ablation section > h2 { font-size: .95rem; border-bottom: 1px solid var(--line);
  padding-bottom: .35rem; margin-bottom: 1rem; }
.ablation .figures { display: flex; flex-wrap: wrap; gap: 2.2rem 2rem; align-items: flex-start; }
.ablation figure { margin: 0; flex: 0 1 auto; min-width: 0; max-width: 100%; }
.ablation figure { overflow-x: auto; }
.ablation figure svg { display: block; }
.ablation .plain td, .ablation .plain th { text-align: left; }
.ablation .plain td.wrap { white-space: normal; overflow-wrap: anywhere; }
.ablation dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: .35rem 1.4rem; margin: 0;
  font-size: .88rem; }
.ablation dt { color: var(--muted); } .ablation dd { margin: 0; overflow-wrap: anywhere; }
.ablation code, .ablation pre { font: .85em/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
.ablation pre { background: var(--soft); padding: .7rem .9rem; border-radius: 6px; overflow-x: auto; margin: 0 0 1rem; }
.ablation a { color: var(--high); }
@media (max-width: 40rem) { main.ablation { padding: 1.2rem .9rem 3rem; } .ablation h1 { font-size: 1.35rem; } }
"""
