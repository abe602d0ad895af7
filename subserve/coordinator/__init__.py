"""The main interpreter's side: binds, accepts, hands out connections, watches over the workers."""
