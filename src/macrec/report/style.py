"""The page's style sheet: one type scale, one colour per modality, light, dark and print."""

from macrec.report.markup import Raw

# Blue and orange are distinguishable under every common colour vision deficiency. Every text
# colour has a contrast of at least 4.5 to its background.
CSS = Raw("""
:root{color-scheme:light dark;--paper:#fdfcfa;--raised:#f5f3ee;--ink:#1d1c1a;--soft:#66625b;
--rule:#dedad2;--grid:#ebe8e1;--text:#1f5fa8;--image:#b4520a;--fused:#1d1c1a;--baseline:#77726a;
--o0:#1d1c1a;--o1:#0f766e;--o2:#8e3b8a;--o3:#77726a;--good:#0f6b4f;--goodbg:#e3f1ea}
@media (prefers-color-scheme:dark){:root{--paper:#171614;--raised:#211f1c;--ink:#ece9e2;
--soft:#a8a298;--rule:#3a3732;--grid:#2a2825;--text:#7db4ee;--image:#eda35f;--fused:#ece9e2;
--baseline:#989288;--o0:#ece9e2;--o1:#5cc4b2;--o2:#d49ad1;--o3:#989288;--good:#7fd1ae;
--goodbg:#1b3a2e}}
*{box-sizing:border-box}
html{background:var(--paper);-webkit-text-size-adjust:100%}
body{margin:0;background:var(--paper);color:var(--ink);
font:15px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;
font-variant-numeric:tabular-nums lining-nums}
main{max-width:1240px;margin:0 auto;padding:56px 32px 72px}
h1,h2,.figure{font-family:"Iowan Old Style","Palatino Linotype",Palatino,"URW Palladio L",
"P052",Georgia,"Times New Roman",serif;font-weight:500}
h1{font-size:38px;line-height:1.15;margin:0;letter-spacing:-.01em;overflow-wrap:anywhere}
h2{font-size:22px;line-height:1.25;margin:0}
h3{font-size:15px;font-weight:600;line-height:1.35;margin:40px 0 12px}
.scroll+.charts,.notes+.charts,.quiet+.charts{margin-top:26px}
h3:first-child{margin-top:4px}
p{margin:0 0 10px;max-width:68ch}
main>header{margin-bottom:36px}
.subtitle,.quiet,caption,figcaption small{color:var(--soft)}
.subtitle{font-size:17px;margin:10px 0 0;overflow-wrap:anywhere}
.quiet{font-size:13.5px;line-height:1.5}
.tiles{display:grid;grid-template-columns:repeat(4,minmax(0,1fr));gap:28px 36px;margin:0 0 8px;
padding:22px 0 24px;border-top:1.5px solid var(--ink);
border-bottom:1px solid var(--rule)}
.tile h2{font:600 13px/1.4 system-ui,-apple-system,"Segoe UI",Roboto,Arial,sans-serif;
color:var(--soft);margin:0 0 8px}
.figure{font-size:44px;line-height:1.1;margin:0 0 10px}
.figure.pair{font-size:24px;line-height:1.35;margin:0;white-space:nowrap}
.figure.pair+.quiet{margin-top:10px}
.figure small{font:500 13px system-ui,-apple-system,"Segoe UI",Roboto,Arial,sans-serif;
display:inline-block;min-width:48px}
.tile p.quiet{margin:0}
.notes{margin:22px 0 0;padding:0 0 0 18px;color:var(--soft)}
.notes li{max-width:80ch;overflow-wrap:anywhere}
section.part{display:grid;grid-template-columns:150px minmax(0,1fr);gap:8px 34px;
padding:36px 0 40px;border-top:1px solid var(--rule)}
.tiles+section.part,.notes+section.part{margin-top:28px}
.tiles+section.part{border-top:0;margin-top:0}
section.part>header p{font-size:13.5px;line-height:1.5;color:var(--soft);margin:8px 0 0}
section.part>div{min-width:0}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,285px),1fr));
gap:30px 30px}
.charts.wide{grid-template-columns:repeat(auto-fill,minmax(min(100%,380px),1fr))}
figure{margin:0;min-width:0;break-inside:avoid}
figcaption{font-size:13.5px;font-weight:500;line-height:1.4;margin:0 0 8px;overflow-wrap:anywhere}
figcaption small{display:block;font-size:13px;font-weight:400}
svg{display:block;width:100%;height:auto;overflow:visible}
svg text{font:11px system-ui,-apple-system,"Segoe UI",Roboto,Arial,sans-serif;fill:var(--soft)}
svg .name,svg .value{font-size:12px;fill:var(--ink)}
svg .strong{font-weight:700}
svg .label{font-size:11px;font-weight:600;fill:var(--c)}
.grid{stroke:var(--grid)}.base{stroke:var(--rule)}
.mark{stroke:var(--soft);stroke-dasharray:2 3}svg .mark-name{fill:var(--ink)}
.even{stroke:var(--ink);stroke-dasharray:3 3;opacity:.75}
.line{fill:none;stroke:var(--c);stroke-width:1.75;stroke-linejoin:round;stroke-linecap:round}
.dot{fill:var(--c)}.range{stroke:var(--c);stroke-width:2}
.fill{fill:var(--c,var(--soft))}.fill.bar{--c:var(--baseline)}.usage{opacity:.72}
.s-text{--c:var(--text)}.s-image{--c:var(--image)}.s-fused{--c:var(--fused)}
.s-baseline{--c:var(--baseline)}.s-other{--c:var(--ink)}
.s-other-0{--c:var(--o0)}.s-other-1{--c:var(--o1)}.s-other-2{--c:var(--o2)}.s-other-3{--c:var(--o3)}
.tint{color:var(--c)}
.scroll{overflow-x:auto;margin:0 0 4px}
.scroll:focus-visible{outline:2px solid var(--text);outline-offset:3px}
table{border-collapse:collapse;width:100%;font-size:13px;line-height:1.4}
table.narrow{width:auto;min-width:min(100%,560px)}
caption{text-align:left;font-size:13.5px;padding:0 0 8px}
th,td{padding:7px 0 7px 12px;text-align:right;vertical-align:top;white-space:nowrap;
border-bottom:1px solid var(--grid)}
th:first-child,td:first-child{padding-left:0}
thead th{font-weight:500;color:var(--soft);vertical-align:bottom;
border-bottom:1px solid var(--rule)}
thead td{border:0;padding:0}
thead th[colspan]{text-align:left;padding:0 0 0 26px;border:0;color:var(--ink);font-weight:600}
thead th.right[colspan]{text-align:right}
tbody th[colspan]{padding-top:16px;color:var(--soft)}
tbody tr:last-child>*{border-bottom-color:var(--rule)}
tbody th{font-weight:400;text-align:left}
.results tbody th{position:sticky;left:0;background:var(--paper);padding-right:8px}
.results .group{padding-left:24px}
.results td small{display:block;font-size:10.5px;font-weight:400;color:var(--soft)}
tr.fused>*{background:var(--raised)}.results tr.fused th{background:var(--raised);font-weight:600}
tr.fused th:first-child{box-shadow:-8px 0 0 var(--raised)}
tr.fused td:last-child{box-shadow:8px 0 0 var(--raised)}
td.best{font-weight:700}
.swatch{display:inline-block;width:8px;height:8px;border-radius:50%;background:var(--c);
margin-right:9px}
th.left,td.left{text-align:left}
td.curve{width:130px;padding:3px 0 1px 14px}td.curve svg{width:118px}
td.wrap{white-space:normal;overflow-wrap:anywhere;text-align:left}
code{font:12.5px ui-monospace,SFMono-Regular,Menlo,Consolas,"Liberation Mono",monospace;
overflow-wrap:anywhere}
.pairs+p,.scroll+p{margin-top:12px}
dl.facts{display:grid;grid-template-columns:repeat(auto-fill,minmax(150px,1fr));gap:22px 28px;
margin:0}
dl.facts dt{font-size:13.5px;color:var(--soft)}
dl.facts dd{margin:0;font-size:20px;line-height:1.35;overflow-wrap:anywhere}
dl.facts dd small{display:block;font-size:12.5px;color:var(--soft)}
.pairs{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,430px),1fr));
gap:28px 44px}
.example{padding:20px 0 24px;border-top:1px solid var(--grid);break-inside:avoid}
.example:first-of-type{border-top:0;padding-top:0}
.example h3{margin:0 0 12px;overflow-wrap:anywhere}
.example h3 span{font-size:13px;font-weight:400;color:var(--soft);margin-left:4px}
.example h3 .hit{font-size:11.5px;font-weight:600;color:var(--good);padding:1px 8px}
.example h4{font-size:13px;font-weight:500;color:var(--soft);margin:14px 0 8px}
ol.items{list-style:none;display:grid;grid-template-columns:repeat(auto-fill,minmax(86px,1fr));
gap:14px 11px;margin:0;padding:0}
ol.items li{font-size:12px;line-height:1.35;min-width:0}
ol.items.plain{grid-template-columns:repeat(auto-fill,minmax(150px,1fr))}
.thumb{display:flex;align-items:center;justify-content:center;height:96px;margin:0 0 6px;
border-radius:3px;background:var(--raised);color:var(--soft);font-size:11px;text-align:center;
overflow:hidden}
.thumb img{max-width:100%;max-height:96px;display:block}
.name{overflow-wrap:anywhere}
bdi.name{display:-webkit-box;-webkit-box-orient:vertical;-webkit-line-clamp:3;overflow:hidden}
.by{display:block;margin:3px 0 0;font-size:11.5px;color:var(--soft)}
.by b{font-weight:600;color:var(--c)}
.hit{display:inline-block;padding:0 6px;border-radius:9px;background:var(--goodbg);
color:var(--good);font-weight:600;font-size:11.5px}
li.next{border-left:1px solid var(--rule);padding-left:11px}
li.is-hit .thumb{outline:2px solid var(--good);outline-offset:1px}
.charts+details{margin-top:28px}
details{border-top:1px solid var(--grid);padding:2px 0}
details:last-of-type{border-bottom:1px solid var(--grid)}
summary{cursor:pointer;padding:9px 0;font-weight:600}
summary small{font-weight:400;color:var(--soft);font-size:13.5px;margin-left:8px}
details>div{padding:4px 0 18px}
@media (max-width:1040px){.tiles{grid-template-columns:1fr 1fr}}
@media (max-width:980px){main{padding:36px 24px 48px}
.results th,.results td{padding-left:8px}.results .group{padding-left:18px}
section.part{grid-template-columns:minmax(0,1fr);gap:20px;padding:30px 0 34px}
section.part>header p{max-width:60ch}}
@media (max-width:520px){main{padding:28px 16px 40px}h1{font-size:30px}.tiles{
grid-template-columns:minmax(0,1fr)}.figure{font-size:36px}
th,td{padding-left:10px}
dl.facts{grid-template-columns:repeat(auto-fill,minmax(118px,1fr))}}
@media print{:root{--paper:#fff;--raised:#f4f4f2;--ink:#111;--soft:#555;--rule:#ccc;--grid:#e6e6e6;
--text:#1f5fa8;--image:#b4520a;--fused:#111;--baseline:#666;--o0:#111;--o1:#0f766e;--o2:#8e3b8a;
--o3:#666;--good:#0f6b4f;--goodbg:#e3f1ea}
body{font-size:10pt;print-color-adjust:exact;-webkit-print-color-adjust:exact}
main{max-width:none;padding:0}section.part{grid-template-columns:minmax(0,1fr);padding:18pt 0}
h2,h3{break-after:avoid}.scroll{overflow:visible}.results{font-size:7.5pt}
.results td small{font-size:6pt}.results th,.results td{padding-left:6px}
.results tbody th{position:static}tr{break-inside:avoid}}
""")
