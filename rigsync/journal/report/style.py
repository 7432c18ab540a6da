"""How a page looks: on a screen, on a small one, at night, and on paper in black and white."""

STYLE = """
:root{--paper:#fff;--ink:#1b1f24;--soft:#59636e;--faint:#d1d9e0;--wash:#f4f6f8;--dark:#2b5c8a;--on-dark:#fff;
--bad:#a3101c;--good:#0a6b2d;color-scheme:light dark}
@media (prefers-color-scheme:dark){:root{--paper:#14181d;--ink:#e8ecf0;--soft:#a3adb8;--faint:#3a434d;--wash:#1d232a;
--dark:#7db3e6;--on-dark:#0b1016;--bad:#ff8d8d;--good:#6fd08c}}
@media print{:root{--paper:#fff;--ink:#000;--soft:#333;--faint:#bbb;--wash:#fff;--dark:#444;--on-dark:#fff;
--bad:#000;--good:#000;color-scheme:light}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,
"Helvetica Neue",Arial,sans-serif;font-variant-numeric:tabular-nums;overflow-wrap:anywhere}
main,header,footer{max-width:1120px;margin:0 auto;padding:0 20px}
header{padding-top:28px}
h1{font-size:1.5rem;line-height:1.25;margin:0 0 .2em}
h2{font-size:1.12rem;margin:2.4em 0 .7em;padding-bottom:.25em;border-bottom:1px solid var(--faint)}
h3{font-size:.95rem;margin:0 0 2px}
h3 small{font-weight:400;color:var(--soft);margin-left:.7em}
p{margin:.5em 0}
.kind{margin:0;color:var(--soft);font-size:.85rem}
.verdict{margin:18px 0 0;padding:12px 16px;border:2px solid var(--good);border-left-width:10px}
.verdict.bad{border-color:var(--bad);border-style:double;border-width:4px 4px 4px 12px}
.verdict p{font-size:1.25rem;font-weight:650;line-height:1.3;margin:0}
.verdict ul{margin:.5em 0 0;padding-left:1.2em}
.remarks{margin:.8em 0 0;padding-left:1.2em;color:var(--soft)}
dl{display:grid;grid-template-columns:max-content 1fr;gap:2px 18px;margin:1.2em 0 0}
dt{color:var(--soft)}
dd{margin:0;min-width:0}
.table{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:.86rem}
.caption{color:var(--soft);font-size:.86rem;margin:1em 0 0}
.unseen{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
th,td{text-align:left;vertical-align:top;padding:4px 14px 4px 0;border-bottom:1px solid var(--faint);
overflow-wrap:break-word}
td{min-width:6em}
td.num,td.time{min-width:0}
tbody th{white-space:nowrap}
thead th{white-space:nowrap;color:var(--soft);font-weight:600;border-bottom:1px solid var(--soft)}
tbody th{font-weight:600}
.num{text-align:right;white-space:nowrap}
.time{white-space:nowrap}
.path{display:inline-block;min-width:15em;overflow-wrap:anywhere;font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;font-size:.95em}
.long{display:inline-block;min-width:18em;overflow-wrap:anywhere}
.fail{font-weight:600;color:var(--bad)}
.note,.left-out{color:var(--soft);font-size:.86rem}
.lead{font-weight:600}
.legend{display:flex;flex-wrap:wrap;gap:2px 16px;font-size:.8rem;color:var(--soft);margin:0 0 10px}
.legend span{display:inline-flex;align-items:center;gap:4px}
.rig{margin:6px 0 0;break-inside:avoid}
svg.defs{position:absolute}
svg.draw{display:block;overflow:visible}
svg.starts{margin:10px 0 6px}
svg text{fill:var(--ink);font:12px system-ui,-apple-system,"Segoe UI",Roboto,Arial,sans-serif}
svg .tick{fill:var(--soft);font-size:11px}
svg .row{font-weight:600;paint-order:stroke;stroke:var(--paper);stroke-width:4px;stroke-linejoin:round}
svg .number{font-weight:700;fill:var(--bad)}
.axis{stroke:var(--soft);stroke-width:1}
.grid{stroke:var(--faint);stroke-width:1}
.zero{stroke:var(--ink);stroke-width:1.5;stroke-dasharray:4 3}
.gap{fill:var(--wash)}
pattern .ground{fill:var(--paper)}
#p-ready path{fill:var(--soft)}
#p-stopped path,#p-silent path{stroke:var(--ink);stroke-width:1;fill:none}
#p-silent path{stroke:var(--bad);stroke-width:1.4}
.s-CONNECTED,.s-INITIALIZED,.s-RUNNING,.s-STOPPED,.s-other,.s-silent{stroke:var(--ink);stroke-width:1}
.s-CONNECTED,.s-other{fill:var(--paper)}
.s-INITIALIZED{fill:url(#p-ready)}
.s-RUNNING{fill:var(--dark)}
.s-STOPPED{fill:url(#p-stopped)}
.s-silent{fill:url(#p-silent);stroke:var(--bad);stroke-width:1.5}
.s-handler{fill:var(--ink)}
svg .name{font-size:11.5px;paint-order:stroke;stroke:var(--paper);stroke-width:4px;stroke-linejoin:round}
svg .n-RUNNING{fill:var(--on-dark);stroke:none;font-weight:600}
.solid{fill:var(--ink)}
.open{fill:var(--paper);stroke:var(--ink);stroke-width:1.4}
.bad:is(path){fill:var(--bad)}
.bound{fill:var(--faint);stroke:var(--soft);stroke-width:.5}
.point{fill:var(--ink);stroke:var(--ink);stroke-width:1.5}
.guess{fill:var(--paper)}
.links{display:grid;grid-template-columns:1fr;gap:4px}
.link{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(19rem,100%),1fr));gap:4px 22px;break-inside:avoid}
.link h3{grid-column:1/-1;margin-top:10px}
figure{margin:0;min-width:0}
figcaption{font-size:.8rem;color:var(--soft)}
.band{fill:var(--faint);stroke:none}
.value{fill:none;stroke:var(--ink);stroke-width:1.3;vector-effect:non-scaling-stroke}
pre{background:var(--wash);border:1px solid var(--faint);padding:10px 12px;white-space:pre-wrap;overflow-wrap:anywhere;
font:12px/1.45 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;margin:.4em 0 1em}
footer{margin-top:40px;padding-bottom:40px;color:var(--soft);font-size:.82rem}
@media (max-width:620px){body{font-size:14px}main,header,footer{padding:0 12px}header{padding-top:16px}
dl{grid-template-columns:1fr;gap:0}dd{margin-bottom:.4em}.verdict p{font-size:1.08rem}h1{font-size:1.2rem}}
@media print{@page{margin:14mm}body{font-size:10pt}main,header,footer{max-width:none;padding:0}h2{break-after:avoid}
.table{overflow:visible}.path,.long{min-width:0}.link{grid-template-columns:repeat(3,1fr)}
tr{break-inside:avoid}thead{display:table-header-group}
pre{border-color:#bbb;font-size:8pt}
*{-webkit-print-color-adjust:exact;print-color-adjust:exact}}
""".strip()
