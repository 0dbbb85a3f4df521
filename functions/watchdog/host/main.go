package host

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"syscall"
)

// Main serves the function until SIGTERM or the end of ctx and answers with the
// exit status. A handler that is not nil is the function; otherwise the
// environment names it.
func Main(ctx context.Context, handler http.Handler) (status int) {
	c, err := read(os.Getenv, handler != nil)
	if err == nil {
		signals := make(chan os.Signal, 16)
		signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2)
		w := newWatchdog(c, os.Stderr)
		w.function = handler
		err = w.run(ctx, signals)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "watchdog: %v\n", err)
		return 1
	}
	return 0
}
