import { fontFamily } from './figure.js';
import { colours, darkRules } from './palette.js';

const variables = (scheme: 'light' | 'dark') =>
  Object.entries(colours)
    .map(([name, colour]) => `--${name}:${colour[scheme]}`)
    .join(';');

/** The report's style sheet: light and dark by the reader's scheme, and for print. */
export const style = `
:root{color-scheme:light dark;${variables('light')}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;text-size-adjust:100%}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.55 ${fontFamily}}
main{max-width:57rem;margin:0 auto;padding:3.5rem 1.5rem 5rem}
header{margin-bottom:2.5rem}
.model{margin:0 0 .6rem;color:var(--muted);font-size:.95rem}
.model strong{color:var(--ink);font-weight:600}
h1{margin:0 0 1rem;font-size:clamp(1.9rem,5vw,2.9rem);line-height:1.12;letter-spacing:-.022em;font-weight:750;text-wrap:balance}
h1 b{color:var(--accent);font-weight:inherit}
.lead{margin:0;max-width:44rem;font-size:1.1rem;color:var(--muted)}
.facts{display:grid;grid-template-columns:repeat(auto-fit,minmax(9.5rem,1fr));gap:1.5rem;margin:2.2rem 0 0;padding:1.3rem 0;border-block:1px solid var(--faint)}
.facts div{display:flex;flex-direction:column-reverse;justify-content:flex-end}
.facts dt{color:var(--muted);font-size:.85rem;line-height:1.35}
.facts dd{margin:0;font-size:1.75rem;line-height:1.25;font-weight:650;letter-spacing:-.015em;font-variant-numeric:tabular-nums}
section{margin-top:3.6rem}
h2{margin:0 0 .5rem;font-size:1.4rem;line-height:1.25;letter-spacing:-.012em;font-weight:680}
p,.findings{max-width:44rem}
p{margin:.5rem 0}
.findings{margin:.9rem 0 0;padding-left:1.1rem}
.findings li{margin:.25rem 0}
figure{margin:1.6rem 0 0}
figure svg{display:block;width:100%;height:auto;overflow:visible}
@media screen and (max-width:40rem){figure{overflow-x:auto}figure svg{min-width:38rem}}
figcaption{max-width:44rem;margin-top:.7rem;color:var(--muted);font-size:.9rem;line-height:1.45}
figcaption b{color:var(--ink);font-weight:600}
.table{overflow-x:auto;margin-top:1.2rem}
table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums;min-width:60%}
caption{padding-bottom:.5rem;color:var(--muted);font-size:.9rem;text-align:left}
th,td{padding:.36rem .9rem .36rem 0;text-align:right;border-bottom:1px solid var(--faint);white-space:nowrap}
th+th,td{padding-left:.9rem}
th:first-child{text-align:left}
thead th{color:var(--muted);font-weight:600;border-bottom:1.5px solid var(--muted);vertical-align:bottom}
tbody th{font-weight:500}
td .part{color:var(--muted)}
.best{font-weight:700}
details{margin-top:1.2rem}
summary{cursor:pointer;color:var(--accent);font-size:.9rem}
.settings th,.settings td{text-align:left;vertical-align:top}
.settings td:last-child{white-space:normal;overflow-wrap:anywhere}
.about dt{font-weight:600;margin-top:.5rem}
.about dd{margin:0;color:var(--muted);max-width:44rem}
@media screen and (prefers-color-scheme:dark){
:root{${variables('dark')}}
svg.figure{fill:${colours.ink.dark}}
${darkRules('.figure')}
}
@media print{
@page{size:A4;margin:14mm}
:root{color-scheme:light}
body{font-size:10pt}
main{max-width:none;padding:0}
h1{font-size:24pt}
section{margin-top:9mm}
figure,.facts,.table,tr{break-inside:avoid}
h2,h2+p,caption{break-after:avoid}
.table{overflow:visible}
table{font-size:8pt}
th,td{padding:.2rem .4rem .2rem 0}
th+th,td{padding-left:.4rem}
details:not(.long)>summary{display:none}
details:not(.long)::details-content{display:block;content-visibility:visible;height:auto}
svg.figure,rect,path{print-color-adjust:exact;-webkit-print-color-adjust:exact}
}
`;
