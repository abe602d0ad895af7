-- Posts a body of so many bytes, or the content of a file: `-- size N` or `-- json FILE`.
local here = debug.getinfo(1, "S").source:match("^@(.*)/[^/]*$")
dofile(here .. "/report.lua")

function init(arguments)
   wrk.method = "POST"
   if arguments[1] == "size" then
      wrk.headers["Content-Type"] = "application/octet-stream"
      wrk.body = string.rep("0123456789abcdef", arguments[2] / 16)
   else
      wrk.headers["Content-Type"] = "application/json"
      local file = assert(io.open(arguments[2], "rb"))
      wrk.body = file:read("*a")
      file:close()
   end
end
