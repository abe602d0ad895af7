-- Requests with the head that a browser sends; path, query and cookie are new each time, so that a
-- server that remembers heads gains nothing by it.
local here = debug.getinfo(1, "S").source:match("^@(.*)/[^/]*$")
dofile(here .. "/report.lua")

local count = 0
local middle, tail

function init(arguments)
   tail = "; theme=dark; consent=yes.2026-05-04; _ga=GA1.1.1482034871.1777000000\r\n" ..
      "Upgrade-Insecure-Requests: 1\r\n" ..
      "Sec-Fetch-Dest: document\r\n" ..
      "Sec-Fetch-Mode: navigate\r\n" ..
      "Sec-Fetch-Site: same-origin\r\n" ..
      "Sec-Fetch-User: ?1\r\n" ..
      "Priority: u=0, i\r\n\r\n"
   middle = " HTTP/1.1\r\nHost: " .. wrk.host .. ":" .. wrk.port .. "\r\n" ..
      "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:151.0) Gecko/20100101 Firefox/151.0\r\n" ..
      "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8\r\n" ..
      "Accept-Language: en-GB,en;q=0.7,de;q=0.3\r\n" ..
      "Accept-Encoding: gzip, deflate, br, zstd\r\n" ..
      "Connection: keep-alive\r\n" ..
      "Referer: https://shop.example/catalogue?sort=price\r\n" ..
      "Cookie: session="
end

function request()
   count = count + 1
   return string.format(
      "GET /catalogue/%d/item-%d?page=%d&sort=price%s%08x%08x%s",
      count % 97, count, count % 13, middle, count * 2654435761 % 4294967296, count, tail)
end
