// Package host serves a function inside its container: it listens on port 8080
// and hands each request to the function. It is small and uses the standard
// library only, because every function image holds it: as the watchdog program,
// which runs the function's process (fprocess), or compiled into a function
// that is written in Go.
//
// Modes (environment variable mode):
//
//   - classic (the default) and serializing: one process per request, body on
//     stdin, answer on stdout. Up to 1 MiB of output is held back, so that a
//     process that fails still answers with 500; what is longer is streamed.
//   - streaming: the same, but output is passed on as it comes.
//   - http: one long-lived process that serves HTTP on upstream_url. Port 8080
//     is opened only when that process accepts connections, so that an open
//     port always means ready. When it dies the watchdog exits with 1.
//   - static: files below static_path.
//   - inproc: the handler given to Main, whatever the variable says.
//
// A line for each call (all modes but classic and serializing) is written some
// milliseconds behind the answer, in order with everything else that the watchdog
// says, but not with what a Go function writes to its standard error itself.
//
// Metrics are on :8081/metrics. On SIGTERM requests in flight are finished,
// then it exits: the platform has drained the replica before.
package host
