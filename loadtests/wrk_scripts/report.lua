-- Prints what wrk has counted as one line of JSON, exactly, where its own report is rounded.
function done(summary, latency, requests)
   local errors = summary.errors
   io.write(string.format(
      '\nloadtests {"requests": %d, "seconds": %.6f, "bytes": %d, "p50_us": %.1f, "p90_us": %.1f, ' ..
      '"p99_us": %.1f, "max_us": %.1f, "connect": %d, "read": %d, "write": %d, "timeout": %d, ' ..
      '"status": %d}\n',
      summary.requests, summary.duration / 1e6, summary.bytes, latency:percentile(50),
      latency:percentile(90), latency:percentile(99), latency.max, errors.connect, errors.read,
      errors.write, errors.timeout, errors.status))
end
